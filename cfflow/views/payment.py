"""`Payment`: what a caller sees of a payment, frozen at the moment of its commit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from cfflow.core.actions import ApproveInApp, NextAction, SubmitForm
from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.observation import Failure
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.record import Details, Record, Review, text_of
from cfflow.core.times import moment
from cfflow.errors import CfflowError
from cfflow.views import show
from cfflow.views.show import CustomerView, customer_view

_T = TypeVar("_T")

#: The views in which the customer has something to do.
_WITH_ACTION = (show.EnterOtp, show.GoToBank, show.SubmitForm, show.ApproveInApp)


class Otp(msgspec.Struct, frozen=True):
    """What is left of the customer's turn on the OTP page; times are aware datetimes."""

    submits_left: int
    resends_left: int
    resend_at: datetime
    expires_at: datetime


class OpenOperation(msgspec.Struct, frozen=True):
    """A step without an outcome so far: its call is on its way, or an inquiry has to decide.

    `accepted`: the gateway accepted the step and owes the result. `amount` is what a capture asked
    for. The same call, with this amount or without one, may be made again.
    """

    step: Step
    sequence: int
    since: datetime
    accepted: bool
    amount: Decimal | None = None


class PaymentReview(msgspec.Struct, frozen=True, kw_only=True):
    """A reason why a person must look, or had to: `closed_at` is None while it is open.

    `actor` and `note` are of the person who closed it.
    """

    reason: str
    since: datetime
    detail: str = ""
    actor: str = ""
    note: str = ""
    closed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Payment:
    """One attempt to pay an order.

    `amount` is the amount held, the gateway's own `payment_amount`, once it is known: fees
    and offers make it differ from the order's. `operation` is an open step, `review` the
    reasons for which a person must look now, `reviews` all of them, closed ones too.

    For receipts and support, as far as the gateway shows them: `method`, `channel`,
    `payment_group`, `masked` (the card as `xxxxxx1111`, or the UPI id shortened),
    `bank_reference`, `auth_id`, `authorized_at`, `captured_at`. `confirmed` is False while the
    bank has only accepted a capture or void. `abandoned`: its order was freed for another
    payment. `customer_view` is what a page shows, one of the classes in `cfflow.show`.

    Passing a payment to a step protects against the same button pressed twice: a step on an
    older snapshot is a `Conflict`.
    """

    id: str
    order_id: str
    cf_payment_id: str | None
    state: State
    flow: str
    amount: Decimal | None
    currency: str
    captured_amount: Decimal | None
    next_action: NextAction | None
    otp: Otp | None
    hold_expires_at: datetime | None
    failure: Failure | None
    operation: OpenOperation | None
    review: tuple[str, ...]
    version: int
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]
    # A default of its own would be an attribute of the class, and be read in place of the field.
    method: str | None = field(default_factory=NoneType)
    channel: str | None = field(default_factory=NoneType)
    payment_group: str | None = field(default_factory=NoneType)
    masked: str | None = field(default_factory=NoneType)
    bank_reference: str | None = field(default_factory=NoneType)
    auth_id: str | None = field(default_factory=NoneType)
    authorized_at: datetime | None = field(default_factory=NoneType)
    captured_at: datetime | None = field(default_factory=NoneType)
    confirmed: bool = field(default_factory=lambda: True)
    abandoned: bool = field(default_factory=bool)
    reviews: tuple[PaymentReview, ...] = field(default_factory=tuple)
    customer_view: CustomerView

    # orjson reads the fields of a class that has slots, and `__dict__` of any other dataclass.
    __slots__ = ("__dict__",)

    if not TYPE_CHECKING:  # a type checker would take every misspelt name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Make the fields when the first of them is read: most steps need none of them.

            One descriptor for each field would not do: with it, msgspec encodes `__dict__` alone.
            """
            source = self.__dict__.get(_SOURCE)
            if source is None or name not in _FIELDS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.__dict__.update(_fields_of(*source))
            return self.__dict__[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *_FIELDS]

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild it of its fields: a copy or a pickle has no snapshot for a next step."""
        return _rebuilt, (self._all_fields(),)

    def _all_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def money(self) -> str:
        """The amount as text: `4200.50 of 5000.00 INR` where only a part was captured."""
        part = self.captured_amount
        taken = f"{part} of " if part is not None and part != self.amount else ""
        return "" if self.amount is None else f"{taken}{self.amount} {self.currency}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data: amounts as texts with their decimals, times in ISO 8601.

        It has what the customer paid with, shortened, and your metadata: show it only to
        whoever asked for this payment.
        """
        shown = self._all_fields() | {
            "next_action": _with_json_values(self.next_action),
            "customer_view": _with_json_values(self.customer_view),
            "metadata": _json_values(self.metadata),
        }
        data: dict[str, Any] = msgspec.to_builtins(shown)
        if self.failure is not None:
            # msgspec writes this struct as an array, as it is stored. JSON gets the names.
            data["failure"] = msgspec.structs.asdict(self.failure)
        data["review"], data["reviews"] = [*data["review"]], [*data["reviews"]]
        return data

    def __repr__(self) -> str:
        parts = [repr(self.id), self.state.value]
        if self.amount is not None:
            parts.append(self.money)
        if self.operation is not None:
            parts.append(f"{self.operation.step} open")
        if self.review:
            parts.append(f"review: {', '.join(self.review)}")
        return f"<Payment {' '.join(parts)}>"


#: The snapshot, the flow and the time of which a payment's fields are made.
_SOURCE: Final = "_source"

_FIELDS: Final = tuple(each.name for each in fields(Payment))


def _rebuilt(held: dict[str, Any]) -> Payment:
    """Return a payment of the fields that a pickle has; those that are newer have defaults."""
    return Payment(**held)


def payment_of(snapshot: Snapshot, flow: Flow | None, now_ms: int) -> Payment:
    """Return the payment that a snapshot shows now, with the snapshot inside for its next step.

    Without its flow, whose text the store may have lost, it has no `otp`.

    It has a `next_action` only while that can be of use: not once the OTP page has expired, even
    if no commit has ended it yet, not while a step is on its way, and not when another attempt
    of the order has money: the customer would pay twice. Raises `StoreError` for an order of which
    a payment does not decode.
    """
    payment = object.__new__(Payment)
    held = payment.__dict__
    held[_SOURCE] = snapshot, flow, now_ms
    held["state"] = snapshot.record.state
    if len(snapshot.order.payments) > 1:
        # Its view may need the others. One that does not decode must fail here, not where a
        # field is read.
        held.update(_fields_of(snapshot, flow, now_ms))
    return payment


def _fields_of(snapshot: Snapshot, flow: Flow | None, now_ms: int) -> dict[str, Any]:
    record, details = snapshot.record, snapshot.record.details or Details()
    view = customer_view(snapshot, flow, now_ms)
    operation = _operation(record)
    return {
        "id": snapshot.id,
        "order_id": snapshot.order_id,
        "cf_payment_id": record.cf_payment_id,
        "state": record.state,
        "flow": record.flow,
        "amount": record.amount if record.amount_held is None else record.amount_held,
        "currency": record.currency,
        "captured_amount": record.captured_amount,
        "next_action": snapshot.next_action if isinstance(view, _WITH_ACTION) else None,
        "otp": _otp(record, flow),
        "hold_expires_at": _when(record.hold_expires_at_ms),
        "failure": record.failure,
        "operation": operation,
        "review": tuple(review.reason for review in record.open_reviews),
        "version": record.version,
        "created_at": moment(record.created_at_ms),
        "updated_at": moment(record.updated_at_ms),
        "metadata": deepcopy(record.metadata) if record.metadata else {},
        "method": text_of(details.method),
        "channel": text_of(details.channel),
        "payment_group": text_of(details.payment_group),
        "masked": details.masked,
        "bank_reference": details.bank_reference,
        "auth_id": details.auth_id,
        "authorized_at": _after(record, details.authorized_after_ms),
        "captured_at": _after(record, details.captured_after_ms),
        "confirmed": not (record.confirming or (operation is not None and operation.accepted)),
        "abandoned": record.abandoned,
        "reviews": tuple(map(_review, record.reviews)),
        "customer_view": view,
    }


def _with_json_values(shown: _T) -> _T:
    """Return a next action or a view, the gateway's own JSON in it as JSON can hold it."""
    if isinstance(shown, SubmitForm | show.SubmitForm):
        return msgspec.structs.replace(shown, fields=_json_values(shown.fields))
    if isinstance(shown, ApproveInApp | show.ApproveInApp):
        return msgspec.structs.replace(shown, payload=_json_values(shown.payload))
    return shown


def _json_values(value: Any) -> Any:
    """Return stored data that JSON can hold: msgpack has more kinds of keys and values."""
    if isinstance(value, dict):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item) for item in value]
    return value if isinstance(value, str | int | float | bytes | None) else str(value)


def attach_payment(error: CfflowError, snapshot: Snapshot, flow: Flow, now_ms: int) -> None:
    """Set `error.payment` to the payment that a snapshot shows now."""
    error.payment = payment_of(snapshot, flow, now_ms)


def snapshot_in(payment: Payment) -> Snapshot | None:
    """Return the snapshot in a payment; None for a payment that was pickled or copied."""
    source = payment.__dict__.get(_SOURCE)
    return None if source is None else cast("Snapshot", source[0])


def _when(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else moment(at_ms)


def _after(record: Record, after_ms: int | None) -> datetime | None:
    return None if after_ms is None else moment(record.created_at_ms + after_ms)


def _review(review: Review) -> PaymentReview:
    return PaymentReview(
        reason=review.reason,
        since=moment(review.at_ms),
        detail=review.detail,
        actor=review.actor,
        note=review.note,
        closed_at=_when(review.acknowledged_at_ms),
    )


def _is_submitting(record: Record) -> bool:
    """Whether an OTP is on its way, or its answer is missing: it may be the right one."""
    return record.operation is not None and record.operation.step is Step.SUBMIT_OTP


def _otp(record: Record, flow: Flow | None) -> Otp | None:
    turn = record.otp
    if turn is None or turn.accepted or record.state is not State.OTP_PENDING:
        return None
    if flow is None or _is_submitting(record):
        return None
    return Otp(
        submits_left=max(0, flow.otp.submits_max - turn.submits_used),
        resends_left=max(0, flow.otp.resends_max - turn.resends_used),
        resend_at=moment(turn.sent_at_ms + flow.otp.resend_after_s * 1000),
        expires_at=moment(turn.expires_at_ms),
    )


def _operation(record: Record) -> OpenOperation | None:
    held = record.operation
    if held is None:
        return None
    return OpenOperation(
        held.step, held.sequence, moment(held.began_at_ms), held.accepted, held.amount
    )
