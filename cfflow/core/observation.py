"""What one answer of the gateway shows, and what it proves.

The table of gateway.md#proof, row by row, first match wins. `prove` reads it; everything that
moves a payment goes through it, whether the answer came to a step, an inquiry or a worker. An
observation has the gateway's own fields, normalised: missing and null are None, amounts are
exact decimals, ids are strings, times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from cfflow.cashfree import facts
from cfflow.core.bounds import BRIEF_MAX
from cfflow.core.chart import State


class Call(StrEnum):
    """The gateway call that an observation is the answer to."""

    PAY = "pay"
    AUTHENTICATE = "authenticate"
    AUTHORIZE = "authorize"
    FETCH_PAYMENT = "fetch_payment"
    FETCH_PAYMENTS = "fetch_payments"
    FETCH_ORDER = "fetch_order"
    CREATE_ORDER = "create_order"
    SIMULATE = "simulate"
    FETCH_SIMULATION = "fetch_simulation"


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why an attempt failed: branch on code, reason and source; the description is for people.

    All from `error_details` (gateway.md#errors); empty where the gateway sent none.
    """

    code: str = ""
    reason: str = ""
    source: str = ""
    description: str = ""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One answer in the gateway's own fields. Payment entities carry `payment_status`."""

    call: Call
    cf_payment_id: str | None = None
    order_id: str | None = None
    # pay
    action: str | None = None
    # authenticate
    authenticate_status: str | None = None
    authenticate_action: str | None = None
    # a payment entity, from a fetch or from authorize
    payment_status: str | None = None
    is_captured: bool | None = None
    authorization_action: str | None = None
    authorization_status: str | None = None
    captured_amount: Decimal | None = None
    hold_expires_at_ms: int | None = None
    failure: Failure | None = None
    # what was paid with, to find the attempt of a lost pay
    method: str | None = None
    channel: str | None = None
    last_four: str | None = None
    payment_amount: Decimal | None = None
    order_amount: Decimal | None = None
    paid_at_ms: int | None = None
    began_at_ms: int | None = None
    currency: str | None = None
    message: str = ""
    request_id: str = ""
    #: "credit", "debit" or "prepaid", of a card only.
    card_kind: str | None = None
    # for a receipt: nothing here decides
    payment_group: str | None = None
    masked: str | None = None
    bank_reference: str | None = None
    auth_id: str | None = None
    acted_at_ms: int | None = None

    @property
    def is_entity(self) -> bool:
        """Whether this is a payment entity, which rows 1 to 6 read."""
        return self.call in _ENTITY_CALLS

    def summary(self) -> str:
        """Return the fields that prove something, in the gateway's words, for `why` and logs."""
        captured = None if self.is_captured is None else str(self.is_captured).lower()
        shown = {
            "action": self.action,
            "authenticate_status": self.authenticate_status,
            "payment_status": self.payment_status,
            "is_captured": captured,
            "authorization": self._authorization(),
        }
        parts = [f"{name}={value}" for name, value in shown.items() if value is not None]
        return " ".join(parts) or "nothing that the table reads"

    def brief(self) -> str:
        """Return the same in the fewest characters, for the history inside the record."""
        parts = (
            self.action,
            self.authenticate_status,
            self.payment_status,
            "captured" if self.is_captured and self.payment_status == "SUCCESS" else None,
            self._authorization(),
        )
        return " ".join([part for part in parts if part])[:BRIEF_MAX]

    def _authorization(self) -> str | None:
        if self.authorization_action is None and self.authorization_status is None:
            return None
        return f"{self.authorization_action or '?'}+{self.authorization_status or '?'}"


_ENTITY_CALLS: Final = frozenset({Call.AUTHORIZE, Call.FETCH_PAYMENT, Call.FETCH_PAYMENTS})


def masked_card(last_four: str) -> str:
    """Return a card as receipts show it."""
    return f"xxxxxx{last_four}"


class Row(NamedTuple):
    """One row of the table: to which calls' answers it applies, when it matches, what it proves.

    That is a state, None for nothing new, and what it means in words.
    """

    number: int
    calls: frozenset[Call]
    matches: Callable[[Observation], bool]
    state: State | None
    proves: str


class Proof(NamedTuple):
    """What an observation proved: the row that matched and the state, None for nothing new."""

    row: int
    state: State | None
    proves: str


def _authorized(o: Observation, action: str, status: str) -> bool:
    return o.authorization_action == action and o.authorization_status == status


def _failed(o: Observation) -> bool:
    return o.payment_status in facts.STATUSES_WITHOUT_MONEY


def _released(o: Observation) -> bool:
    return o.payment_status == "VOID" or _authorized(o, "VOID", "SUCCESS")


def _releasing(o: Observation) -> bool:
    return o.payment_status == "SUCCESS" and _authorized(o, "VOID", "PENDING")


def _taken(o: Observation) -> bool:
    if o.payment_status != "SUCCESS":
        return False
    return o.is_captured is True or _authorized(o, "CAPTURE", "SUCCESS")


def _held(o: Observation) -> bool:
    return o.payment_status == "SUCCESS"


def _attempt_exists(o: Observation) -> bool:
    # Without an id no attempt is proved to exist, whatever the action.
    return o.cf_payment_id is not None


def _anything(_: Observation) -> bool:
    return True


_PAY: Final = frozenset({Call.PAY})
_AUTHENTICATE: Final = frozenset({Call.AUTHENTICATE})

#: gateway.md#proof. Row 11, an order without an attempt that can be ours, is about a list and not
#: about one observation: `find_pay` counts those.
ROWS: Final[tuple[Row, ...]] = (
    Row(1, _ENTITY_CALLS, _failed, State.FAILED, "this attempt took no money, so far"),
    Row(2, _ENTITY_CALLS, _released, State.VOIDED, "the hold is released"),
    Row(3, _ENTITY_CALLS, _releasing, State.AUTHORIZED, "held, and a release is under way"),
    Row(4, _ENTITY_CALLS, _taken, State.CAPTURED, "the money is taken"),
    Row(5, _ENTITY_CALLS, _held, State.AUTHORIZED, "the bank holds the money"),
    Row(6, _ENTITY_CALLS, _anything, None, "nothing new"),
    Row(
        7,
        _PAY,
        lambda o: _attempt_exists(o) and o.action == "post",
        State.OTP_PENDING,
        "an attempt awaits its OTP",
    ),
    Row(8, _PAY, _attempt_exists, State.INITIATED, "an attempt awaits the customer elsewhere"),
    Row(
        9,
        _AUTHENTICATE,
        lambda o: o.authenticate_status == "SUCCESS",
        None,
        "the OTP was accepted; nothing is proved about the money",
    ),
    Row(
        10,
        _AUTHENTICATE,
        lambda o: o.authenticate_status == "FAILED",
        State.OTP_PENDING,
        "the OTP was wrong; one try used",
    ),
)

_ROWS_OF: Final = {call: tuple(row for row in ROWS if call in row.calls) for call in Call}

_UNREADABLE: Final = Proof(0, None, "nothing: no row of the table matches")


def prove(observation: Observation) -> Proof:
    """Return what this observation proves: the first row of the table that matches."""
    for row in _ROWS_OF[observation.call]:
        if row.matches(observation):
            return Proof(row.number, row.state, row.proves)
    return _UNREADABLE
