"""The customer at the bank's page: finds the attempt by its token, and decides it once.

A page knows its attempt by nothing but the token, which is the attempt's own secret. What a
customer decides is a movement like any other: it reaches the ledger and whoever listens.
"""

from __future__ import annotations

from cfflow.emulator import otp
from cfflow.emulator.movements import Movements
from cfflow.emulator.records import Attempt, BankOptions, Failure, OtpPage

OTP_EXHAUSTED = Failure(
    "TRANSACTION_DECLINED", "auth_declined", "customer", "too many wrong one-time passwords"
)
# Methods whose bank asks for a one-time password on its own page, when the merchant's had none.
WITH_OTP = frozenset({"card", "emi"})


def takes_otp(page: OtpPage, now_s: float) -> bool:
    """Whether this page still takes a one-time password."""
    return now_s < page.expires_at_s and not otp.exhausted(page)


class Customer:
    """Whoever sits before the pages of one bank's attempts.

    The caller has let happen what was due, and looks at `is_open` before a decision: an
    attempt that is decided stays so, however often somebody presses a button.
    """

    def __init__(self, movements: Movements, options: BankOptions) -> None:
        self._movements = movements
        self._options = options
        self._by_token: dict[str, Attempt] = {}
        self._otp_pages: dict[int, OtpPage] = {}

    def clear(self) -> None:
        """Forget every attempt: its token opens no page any more."""
        self._by_token.clear()
        self._otp_pages.clear()

    def receive(self, attempt: Attempt) -> None:
        """A new attempt: from now on its token opens its page."""
        self._by_token[attempt.page_token] = attempt

    def find(self, token: str) -> Attempt | None:
        """The attempt that this token opens, if any."""
        return self._by_token.get(token)

    def is_open(self, attempt: Attempt) -> bool:
        """Whether the customer has yet to decide: nobody did, and no OTP was accepted."""
        page = self._existing_page(attempt)
        return attempt.open and not (page is not None and page.accepted)

    def otp_page(self, attempt: Attempt, now_s: float) -> OtpPage | None:
        """The page that takes this attempt's OTP; None where a bank asks for none.

        With native OTP it is the one that the merchant's calls count on too. Any other card
        gets one when its page is first opened: only then does a bank send an OTP.
        """
        page = self._existing_page(attempt)
        if page is None and attempt.method.name in WITH_OTP:
            page = OtpPage(expires_at_s=now_s + otp.PAGE_S, last_sent_at_s=now_s)
            self._otp_pages[attempt.cf_payment_id] = page
        return page

    def _existing_page(self, attempt: Attempt) -> OtpPage | None:
        return attempt.otp_page or self._otp_pages.get(attempt.cf_payment_id)

    def pay(self, attempt: Attempt, now_s: float) -> None:
        """Approve it, where no OTP is asked for."""
        self._movements.force(attempt, "SUCCESS", None, now_s)

    def decline(self, attempt: Attempt, now_s: float) -> None:
        """Let the bank refuse it: FAILED."""
        self._movements.force(attempt, "FAILED", None, now_s)

    def leave(self, attempt: Attempt, now_s: float) -> None:
        """Walk away from it: USER_DROPPED."""
        self._movements.force(attempt, "USER_DROPPED", None, now_s)

    def repeats(self, page: OtpPage, code: str, seen: int | None) -> bool:
        """Whether a wrong OTP is the same press of a button again.

        seen: how many wrong ones the page showed when it was filled in (None: it did not
        say). A second click brings a count that has passed, and must not use up a try.
        """
        return seen is not None and seen != page.rejections and code != self._options.otp

    def submit_otp(self, attempt: Attempt, page: OtpPage, code: object, now_s: float) -> bool:
        """Whether the OTP is right: then the money moves; the third wrong one fails the attempt.

        Raises `Refused` (400) when the page has expired or no code was sent; neither counts.
        """
        accepted = otp.submit(page, code, self._options.otp, now_s)
        if accepted:
            self._movements.settle(attempt, now_s)
        elif otp.exhausted(page):
            self._movements.fail(attempt, OTP_EXHAUSTED, now_s)
        return accepted
