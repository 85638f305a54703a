"""`Payment`: what a caller sees of a payment, frozen at the moment of its commit."""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from cfflow.core.actions import NextAction
from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.observation import Failure
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot, why_barred
from cfflow.core.record import Record
from cfflow.core.times import moment
from cfflow.errors import CfflowError


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


class Payment(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One attempt to pay an order.

    `amount` is the amount held, the gateway's own `payment_amount`, once it is known: fees
    and offers make it differ from the order's. `operation` is an open step, `review` the
    reasons for which a person must look. Passing a payment to a step protects against
    the same button pressed twice: a step on an older snapshot is a `Conflict`.
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

    @property
    def money(self) -> str:
        """The amount as text: `4200.50 of 5000.00 INR` where only a part was captured."""
        part = self.captured_amount
        taken = f"{part} of " if part is not None and part != self.amount else ""
        return "" if self.amount is None else f"{taken}{self.amount} {self.currency}"

    def __repr__(self) -> str:
        parts = [repr(self.id), self.state.value]
        if self.amount is not None:
            parts.append(self.money)
        if self.operation is not None:
            parts.append(f"{self.operation.step} open")
        if self.review:
            parts.append(f"review: {', '.join(self.review)}")
        return f"<Payment {' '.join(parts)}>"


def payment_of(snapshot: Snapshot, flow: Flow | None, now_ms: int) -> Payment:
    """Return the payment that a snapshot shows now, with the snapshot inside for its next step.

    Without its flow, whose text the store may have lost, it has no `otp`.

    `next_action` is None once the OTP page has expired, even if no commit has ended it yet, and
    when another attempt of the order has money: the customer would pay twice.
    """
    record = snapshot.record
    otp = None if flow is None else _otp(record, flow)
    expired = record.otp is not None and now_ms >= record.otp.expires_at_ms
    barred = why_barred(snapshot, Step.SUBMIT_OTP) is not None
    over = (record.state is State.OTP_PENDING and expired) or barred
    payment = Payment(
        id=snapshot.id,
        order_id=snapshot.order_id,
        cf_payment_id=record.cf_payment_id,
        state=record.state,
        flow=record.flow,
        amount=record.amount if record.amount_held is None else record.amount_held,
        currency=record.currency,
        captured_amount=record.captured_amount,
        next_action=None if over else snapshot.next_action,
        otp=otp,
        hold_expires_at=_when(record.hold_expires_at_ms),
        failure=record.failure,
        operation=_operation(record),
        review=tuple(review.reason for review in record.open_reviews),
        version=record.version,
        created_at=moment(record.created_at_ms),
        updated_at=moment(record.updated_at_ms),
        metadata=deepcopy(record.metadata) if record.metadata else {},
    )
    payment.__dict__["_snapshot"] = snapshot
    return payment


def attach_payment(error: CfflowError, snapshot: Snapshot, flow: Flow, now_ms: int) -> None:
    """Set `error.payment` to the payment that a snapshot shows now."""
    error.payment = payment_of(snapshot, flow, now_ms)


def snapshot_in(payment: Payment) -> Snapshot | None:
    """Return the snapshot in a payment; None for a payment that was pickled or copied."""
    found = payment.__dict__.get("_snapshot")
    return found if isinstance(found, Snapshot) else None


def _when(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else moment(at_ms)


def _otp(record: Record, flow: Flow) -> Otp | None:
    turn = record.otp
    if turn is None or turn.accepted or record.state is not State.OTP_PENDING:
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
