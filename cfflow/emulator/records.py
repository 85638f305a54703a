"""What the bank keeps: accounts, orders, attempts, and the ledger of every effect on money.

Times are seconds since the epoch, as the caller gave them; amounts are exact rupees with
two decimals. A card is kept as its last four digits and a session only as its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import msgspec

Status = Literal[
    "SUCCESS",
    "FAILED",
    "PENDING",
    "USER_DROPPED",
    "CANCELLED",
    "VOID",
    "NOT_ATTEMPTED",
    "FLAGGED",
    "INCOMPLETE",
]
# Not at its end: the customer or the bank has yet to answer.
OPEN: frozenset[Status] = frozenset({"PENDING", "NOT_ATTEMPTED", "FLAGGED", "INCOMPLETE"})
OrderStatus = Literal["ACTIVE", "PAID", "EXPIRED", "TERMINATION_REQUESTED", "TERMINATED"]
Effect = Literal[
    "attempt_created",
    "authorized",  # the bank holds the money
    "captured",  # the merchant has the money, from a sale or out of a hold
    "voided",  # the merchant gave the hold back
    "released",  # the hold ran out and the bank gave it back
    "failed",
    "dropped",  # the customer left
    "cancelled",  # the gateway closed the attempt at the account's time limit
    "reversed",  # the bank took money for a cancelled attempt, and it went straight back
]

DEFAULT_CLIENT_ID = "cfflow-test-id"
DEFAULT_CLIENT_SECRET = "cfflow-test-secret"
PREAUTH_CLIENT_ID = "cfflow-preauth-id"
PREAUTH_CLIENT_SECRET = "cfflow-preauth-secret"


@dataclass(frozen=True, slots=True)
class Account:
    """A merchant: its credentials, and whether its card payments are holds."""

    client_id: str
    client_secret: str = field(repr=False)
    preauth: bool = False


DEFAULT_ACCOUNTS = (
    Account(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET),
    Account(PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET, preauth=True),
)


class BankOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this bank behaves; every `_s` is in seconds of the emulator's clock.

    bins_without_otp: six-digit card prefixes that answer `link` where `post` was asked.
    otp: the one-time password that every bank accepts.
    otp_settles_after_s: from an accepted OTP until the money moves.
    upi_approves_after_s: from a UPI collect until the test customer answers it.
    late_after_s: from the failure of `testlate@gocash` until its money comes after all.
    confirm_after_s: from an accepted capture or void until `authorization` leaves PENDING.
    hold_s: how long a card hold lasts; a UPI mandate brings its own end.
    closes_after_s: the account's time limit: an attempt still open then is CANCELLED, and
        what its bank takes later goes back. None leaves it open.
    order_s: how long an order without an expiry time of its own can be paid.
    form_methods: payment methods that answer `form` where others answer `link`.
    methods_not_enabled: payment methods that the account may not use.
    offers: rupees that an `offer_id` takes off; another offer changes nothing.
    """

    bins_without_otp: frozenset[str] = frozenset({"510510"})
    otp: str = "111000"
    otp_settles_after_s: float = 0.0
    upi_approves_after_s: float = 0.0
    late_after_s: float = 60.0
    confirm_after_s: float = 0.0
    hold_s: float = 7 * 86400.0
    closes_after_s: float | None = None
    order_s: float = 30 * 86400.0
    form_methods: frozenset[str] = frozenset()
    methods_not_enabled: frozenset[str] = frozenset()
    offers: dict[str, Decimal] = {}


@dataclass(frozen=True, slots=True)
class Mandate:
    """The times of a one-time UPI mandate, in seconds since the epoch."""

    approve_by_s: float
    start_at_s: float
    end_at_s: float


# approve, decline: the customer answers. leave: they go away. late: the bank declines, and
# pays after all. never: nobody ever answers, and no time limit of the method ends it.
Script = Literal["approve", "decline", "leave", "late", "never"]


@dataclass(frozen=True, slots=True)
class Method:
    """A payment method that passed validation, without anything that must not be kept.

    `shown` is what a payment entity says of it. `scripted` is what a test id does by
    itself; None is a customer who has yet to act, until `answer_by` (seconds since the
    epoch) where the method sets a limit. `native_otp` is what a card's bank can do.
    """

    name: str
    channel: str
    action: Literal["post", "link", "form", "custom"]
    group: str
    shown: Mapping[str, Any]
    scripted: Script | None = None
    mandate: Mandate | None = None
    deadline_at_s: float | None = None
    native_otp: bool = False


@dataclass(slots=True)
class OtpPage:
    """The native OTP page of one attempt: it counts, and remembers no OTP."""

    expires_at_s: float
    last_sent_at_s: float
    rejections: int = 0
    resends: int = 0
    accepted: bool = False


@dataclass(slots=True)
class HoldAction:
    """The one CAPTURE or VOID of a hold. `status` is PENDING until the bank confirms it."""

    action: Literal["CAPTURE", "VOID"]
    status: Literal["PENDING", "SUCCESS"]
    amount: Decimal | None
    reference: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in the gateway's own words and in those of the bank behind it."""

    code: str
    reason: str
    source: str
    description: str
    raw_code: str = "05"
    raw_description: str = "DO NOT HONOUR"


@dataclass(slots=True)
class Attempt:
    """One attempt to pay an order: what the gateway calls a payment."""

    cf_payment_id: int
    order: Order = field(repr=False)
    method: Method
    amount: Decimal
    created_at_s: float
    holds: bool
    page_token: str = field(repr=False)
    status: Status = "PENDING"
    message: str = "Waiting for the customer"
    otp_page: OtpPage | None = None
    hold_action: HoldAction | None = None
    hold_ends_at_s: float | None = None
    captured_amount: Decimal | None = None
    failure: Failure | None = None
    completed_at_s: float | None = None
    bank_reference: str | None = None
    reversed_at_s: float | None = None
    offer_id: str | None = None
    instrument_id: str | None = None

    @property
    def open(self) -> bool:
        """Whether somebody has yet to answer."""
        return self.status in OPEN

    @property
    def succeeded(self) -> bool:
        """Whether the bank said yes once, whatever became of the money since."""
        return self.status in ("SUCCESS", "VOID")

    @property
    def held(self) -> bool:
        """Whether the bank holds money for it that nobody has captured or given back."""
        return self.holds and self.status == "SUCCESS" and self.hold_action is None


@dataclass(slots=True)
class Order:
    """One order of one account, and its attempts in the order they began."""

    number: int
    order_id: str
    account: Account
    amount: Decimal
    currency: str
    created_at_s: float
    expires_at_s: float
    customer: Mapping[str, Any] = field(repr=False)
    tags: Mapping[str, str] | None = None
    note: str | None = None
    meta: Mapping[str, Any] | None = None
    attempts: list[Attempt] = field(default_factory=list, repr=False)
    terminated: bool = False

    def status(self, now_s: float) -> OrderStatus:
        """PAID while an attempt has taken or holds money: a hold given back frees the order.

        A terminated order waits for the attempts that were under way.
        """
        if any(attempt.status == "SUCCESS" for attempt in self.attempts):
            return "PAID"
        if self.terminated:
            under_way = any(attempt.open for attempt in self.attempts)
            return "TERMINATION_REQUESTED" if under_way else "TERMINATED"
        return "EXPIRED" if now_s >= self.expires_at_s else "ACTIVE"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One effect: which payment, how much, and when (seconds since the epoch)."""

    effect: Effect
    order_id: str
    cf_payment_id: str
    amount: Decimal
    at: float


@dataclass(frozen=True, slots=True)
class OtpResult:
    """What a submit or a resend answered."""

    attempt: Attempt
    action: Literal["SUBMIT_OTP", "RESEND_OTP"]
    status: Literal["SUCCESS", "FAILED"]
    message: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """One forced status, kept to be fetched again."""

    simulation_id: str
    account: Account
    cf_payment_id: str
    payment_status: str
    payment_error_code: str | None
