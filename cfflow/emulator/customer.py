"""The customer at the bank's page: finds an attempt by its token and decides it once.

The token in a page's URL is the attempt's secret, and the page needs no other credentials. A
decision is a movement like any other: it is written to the ledger and can send a webhook.
"""

from __future__ import annotations

from cfflow.emulator import otp
from cfflow.emulator.movements import Movements
from cfflow.emulator.records import Attempt, BankOptions, Failure, OtpPage

OTP_EXHAUSTED = Failure(
    "TRANSACTION_DECLINED", "auth_declined", "customer", "too many wrong one-time passwords"
)
# Methods whose bank asks for an OTP on its own page, where there is no native OTP.
WITH_OTP = frozenset({"card", "emi"})


def takes_otp(page: OtpPage, now_s: float) -> bool:
    """Return whether this page still accepts a one-time password."""
    return now_s < page.expires_at_s and not otp.exhausted(page)


class Customer:
    """The customers of one bank's attempts.

    The caller first runs what is due, and tests `is_open` before each decision, so that a
    second press of a button cannot decide an attempt again.
    """

    def __init__(self, movements: Movements, options: BankOptions) -> None:
        self._movements = movements
        self._options = options
        self._by_token: dict[str, Attempt] = {}
        self._otp_pages: dict[int, OtpPage] = {}

    def clear(self) -> None:
        """Remove every attempt, so that its token opens no page."""
        self._by_token.clear()
        self._otp_pages.clear()

    def receive(self, attempt: Attempt) -> None:
        """Add a new attempt, so that its token opens its page."""
        self._by_token[attempt.page_token] = attempt

    def find(self, token: str) -> Attempt | None:
        """Return the attempt with this token, or None."""
        return self._by_token.get(token)

    def is_open(self, attempt: Attempt) -> bool:
        """Return whether the customer can decide: it is undecided, and no OTP was accepted."""
        page = self._existing_page(attempt)
        return attempt.open and not (page is not None and page.accepted)

    def otp_page(self, attempt: Attempt, now_s: float) -> OtpPage | None:
        """Return the OTP page of this attempt, or None if its bank asks for no OTP.

        With native OTP it is the page that the merchant's calls use too. Any other card gets
        a page when it is first opened, because only then does a bank send an OTP.
        """
        page = self._existing_page(attempt)
        if page is None and attempt.method.name in WITH_OTP:
            page = OtpPage(expires_at_s=now_s + otp.PAGE_S, last_sent_at_s=now_s)
            self._otp_pages[attempt.cf_payment_id] = page
        return page

    def _existing_page(self, attempt: Attempt) -> OtpPage | None:
        return attempt.otp_page or self._otp_pages.get(attempt.cf_payment_id)

    def pay(self, attempt: Attempt, now_s: float) -> None:
        """Approve the attempt, where its bank asks for no OTP."""
        self._movements.force(attempt, "SUCCESS", None, now_s)

    def decline(self, attempt: Attempt, now_s: float) -> None:
        """Let the bank decline the attempt: FAILED."""
        self._movements.force(attempt, "FAILED", None, now_s)

    def leave(self, attempt: Attempt, now_s: float) -> None:
        """Abandon the attempt: USER_DROPPED."""
        self._movements.force(attempt, "USER_DROPPED", None, now_s)

    def repeats(self, page: OtpPage, code: str, seen: int | None) -> bool:
        """Return whether a wrong OTP comes from a second click of the same button.

        seen: the count of wrong OTPs that the page showed when it was filled in, or None. A
        second click sends an old count, and must not use up another submission.
        """
        return seen is not None and seen != page.rejections and code != self._options.otp

    def submit_otp(self, attempt: Attempt, page: OtpPage, code: object, now_s: float) -> bool:
        """Return whether the OTP is right. The third wrong one fails the attempt.

        Raises `Refused` (400) if the page has expired or there is no code; neither counts as
        a submission.
        """
        accepted = otp.submit(page, code, self._options.otp, now_s)
        if accepted:
            self._movements.settle(attempt, now_s)
        elif otp.exhausted(page):
            self._movements.fail(attempt, OTP_EXHAUSTED, now_s)
        return accepted
