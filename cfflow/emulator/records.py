"""The records of the bank: accounts, orders, attempts, and the ledger of effects on money.

Times are seconds since the epoch. Amounts are exact rupees with two decimals. Only the last
four digits of a card are kept, and only the digest of a session (gateway.md#secrets).
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
# The attempt is not decided: it waits for the customer or the bank.
OPEN: frozenset[Status] = frozenset({"PENDING", "NOT_ATTEMPTED", "FLAGGED", "INCOMPLETE"})
OrderStatus = Literal["ACTIVE", "PAID", "EXPIRED", "TERMINATION_REQUESTED", "TERMINATED"]
Effect = Literal[
    "attempt_created",
    "authorized",  # the bank holds the money
    "captured",  # the merchant has the money, from a sale or from a hold
    "voided",  # the merchant released the hold
    "released",  # the hold expired, or the bank released it
    "failed",
    "dropped",  # the customer left
    "cancelled",  # the gateway closed the attempt at the account's time limit
    "reversed",  # the bank took money for a cancelled attempt, and returned it at once
]

DEFAULT_CLIENT_ID = "cfflow-test-id"
DEFAULT_CLIENT_SECRET = "cfflow-test-secret"
PREAUTH_CLIENT_ID = "cfflow-preauth-id"
PREAUTH_CLIENT_SECRET = "cfflow-preauth-secret"


@dataclass(frozen=True, slots=True)
class Account:
    """A merchant: its credentials, and whether its card payments are holds (preauth)."""

    client_id: str
    client_secret: str = field(repr=False)
    preauth: bool = False


DEFAULT_ACCOUNTS = (
    Account(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET),
    Account(PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET, preauth=True),
)


class BankOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this bank behaves; every `_s` is in seconds of the emulator's clock.

    bins_without_otp: six-digit card prefixes that get `link` where `post` was requested.
    otp: the one-time password that every bank accepts.
    otp_settles_after_s: from an accepted OTP until the money moves.
    upi_approves_after_s: from a UPI collect until the test customer acts.
    late_after_s: from the failure of `testlate@gocash` until its late authorization.
    confirm_after_s: from an accepted capture or void until `authorization` leaves PENDING.
    hold_s: how long a card hold lasts; a UPI mandate has its own end.
    closes_after_s: the account's time limit. An attempt that is open then is CANCELLED, and
        money that its bank takes later is returned. None: no limit.
    order_s: how long an order without its own expiry time can be paid.
    form_methods: payment methods that get `form` where others get `link`.
    methods_not_enabled: payment methods that the account may not use.
    offers: the discount in rupees of each `offer_id`; other ids give none.
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


# What a test customer does. leave: abandons the page. late: the bank declines and authorizes
# later. never: nothing happens, and the method's time limit does not apply.
Script = Literal["approve", "decline", "leave", "late", "never"]


@dataclass(frozen=True, slots=True)
class Method:
    """A valid payment method, without the data that must not be kept (gateway.md#secrets).

    shown: how a payment entity shows it. scripted: what its test customer does; None means
    that a person decides. deadline_at_s: when an undecided attempt fails, if the method has
    a time limit. native_otp: whether the card's bank supports native OTP.
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
    """The OTP page of one attempt. It counts submissions and resends, and stores no OTP."""

    expires_at_s: float
    last_sent_at_s: float
    rejections: int = 0
    resends: int = 0
    accepted: bool = False


@dataclass(slots=True)
class HoldAction:
    """The one CAPTURE or VOID of a hold. status: PENDING until the bank confirms it."""

    action: Literal["CAPTURE", "VOID"]
    status: Literal["PENDING", "SUCCESS"]
    amount: Decimal | None
    reference: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in codes of the gateway and raw codes of the bank behind it."""

    code: str
    reason: str
    source: str
    description: str
    raw_code: str = "05"
    raw_description: str = "DO NOT HONOUR"


@dataclass(slots=True)
class Attempt:
    """One attempt to pay an order. The gateway calls it a payment."""

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
        """Whether the customer or the bank has yet to decide it."""
        return self.status in OPEN

    @property
    def succeeded(self) -> bool:
        """Whether the bank has authorized it, even if a hold was released later."""
        return self.status in ("SUCCESS", "VOID")

    @property
    def held(self) -> bool:
        """Whether the bank holds money for it that is neither captured nor released."""
        return self.holds and self.status == "SUCCESS" and self.hold_action is None


@dataclass(slots=True)
class Order:
    """One order of one account, with its attempts, oldest first."""

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
        """Return the order's status.

        It is PAID while an attempt holds or has taken money; a released hold makes it payable
        again. A terminated order waits for its open attempts (gateway.md#terminate).
        """
        if any(attempt.status == "SUCCESS" for attempt in self.attempts):
            return "PAID"
        if self.terminated:
            waits = any(attempt.open for attempt in self.attempts)
            return "TERMINATION_REQUESTED" if waits else "TERMINATED"
        return "EXPIRED" if now_s >= self.expires_at_s else "ACTIVE"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One effect on one payment: its amount, and its time in seconds since the epoch."""

    effect: Effect
    order_id: str
    cf_payment_id: str
    amount: Decimal
    at: float


@dataclass(frozen=True, slots=True)
class OtpResult:
    """The result of submitting or resending an OTP."""

    attempt: Attempt
    action: Literal["SUBMIT_OTP", "RESEND_OTP"]
    status: Literal["SUCCESS", "FAILED"]
    message: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """One forced status; it can be fetched again by its id."""

    simulation_id: str
    account: Account
    cf_payment_id: str
    payment_status: str
    payment_error_code: str | None
