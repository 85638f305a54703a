"""What to show the customer: `Payment.customer_view`, one of these.

A page branches on the class, or on `show` in the JSON of `Payment.as_dict`. It asks for nothing
that could take the money twice: while a step has no outcome, or an OTP was accepted, it waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from cfflow.core.actions import ApproveInApp as Approve
from cfflow.core.actions import NextAction, Redirect
from cfflow.core.actions import SubmitForm as Form
from cfflow.core.chart import HOLDS, State
from cfflow.core.flow import Flow
from cfflow.core.observation import Failure
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot, why_barred, why_not_replaced
from cfflow.core.record import Record
from cfflow.core.times import moment

__all__ = [
    "ApproveInApp",
    "CustomerView",
    "EnterOtp",
    "Failed",
    "GoToBank",
    "OnHold",
    "Paid",
    "RefundedLater",
    "StartAgain",
    "SubmitForm",
    "Wait",
]


class _View(msgspec.Struct, frozen=True, kw_only=True, tag_field="show"):
    """Base of the views; `show` is the JSON's name of the class."""


class _Open(_View, frozen=True, kw_only=True):
    """The payment is not over.

    `may_start_again`: the customer may choose another way, by `start(..., replace=True)`. The
    attempt that they leave can still take their money.
    """

    may_start_again: bool = False


class EnterOtp(_Open, frozen=True, kw_only=True, tag="enter_otp"):
    """Ask for the OTP: so many tries are left, and so many resends, each from `resend_at` on.

    `expires_at` ends the page. `can_leave`: offer the bank's own page too, by `leave_otp`.
    """

    submits_left: int
    resends_left: int
    resend_at: datetime
    expires_at: datetime
    can_leave: bool = False


class GoToBank(_Open, frozen=True, kw_only=True, tag="go_to_bank"):
    """Send the browser to `url`, the page of the customer's bank."""

    url: str


class SubmitForm(_Open, frozen=True, kw_only=True, tag="submit_form"):
    """Submit a form with these fields from the browser."""

    url: str
    fields: dict[str, Any]
    method: str
    content_type: str


class ApproveInApp(_Open, frozen=True, kw_only=True, tag="approve_in_app"):
    """The customer approves in an app, scans a code or transfers money: `payload` says with what.

    `payload` is the gateway's own: deep links by app, a QR image, an account to pay to.
    """

    channel: str
    payload: dict[str, Any]


class Wait(_Open, frozen=True, kw_only=True, tag="wait"):
    """Show that the bank is working, and look again soon: `why` is a sentence for the customer."""

    why: str


class StartAgain(_View, frozen=True, kw_only=True, tag="start_again"):
    """Let the customer choose how to pay.

    `replace`: the order's next payment takes the `pay`, so `start(..., replace=True)` comes first:
    an attempt is still open, or was abandoned. Otherwise this payment takes it.
    """

    replace: bool = False


class Paid(_View, frozen=True, kw_only=True, tag="paid"):
    """The money is taken. `confirmed` is False while the bank has only accepted it."""

    amount: Decimal | None
    currency: str
    confirmed: bool


class OnHold(_View, frozen=True, kw_only=True, tag="on_hold"):
    """The bank holds the money for you, until `until` at the latest; nothing is taken yet."""

    amount: Decimal | None
    currency: str
    until: datetime | None


class RefundedLater(_View, frozen=True, kw_only=True, tag="refunded_later"):
    """The hold was released: the bank shows the money as free within some days."""

    amount: Decimal | None
    currency: str


class Failed(_View, frozen=True, kw_only=True, tag="failed"):
    """No money was taken by this attempt, so far: `customer` is a sentence for the customer.

    `support` has the gateway's code, reason and text: do not show it on a page. The customer may
    pay again by `start`.
    """

    customer: str
    support: str


CustomerView = (
    EnterOtp
    | GoToBank
    | SubmitForm
    | ApproveInApp
    | Wait
    | StartAgain
    | Paid
    | OnHold
    | RefundedLater
    | Failed
)

_CONFIRMING: Final = "We are waiting for your bank to confirm."
_CHECKING: Final = "We are checking your payment. Please do not pay again."
_HOLDING: Final = "Your bank holds the money. We are waiting for it to be taken."

#: By a word in the gateway's code or reason, the first that occurs; what is not here gets the
#: last sentence. None of them tells what could help a thief of the card.
_FAILURES: Final[Mapping[str, str]] = {
    "otp": "The one-time password was not confirmed in time, or was wrong.",
    "insufficient": "The bank declined the payment. Try another card or account.",
    "dropped": "The payment was not finished.",
    "cancel": "The payment was cancelled.",
    "expire": "The time to pay ran out.",
    "timeout": "The time to pay ran out.",
    "timed": "The time to pay ran out.",
    "network": "The bank could not be reached. Please try again.",
    "unavailable": "The bank could not be reached. Please try again.",
    "technical": "The bank could not be reached. Please try again.",
}
_DECLINED: Final = "The bank declined the payment. Try again or choose another way to pay."


def customer_view(snapshot: Snapshot, flow: Flow | None, now_ms: int) -> CustomerView:
    """Return what the page of this payment shows now.

    Without its flow, whose text the store may have lost, an OTP cannot be asked for. An attempt
    that is over shows what became of the order's money: nothing is paid twice by an old page.
    """
    record = snapshot.record
    if record.state is State.FAILED or (record.abandoned and record.operation is None):
        holders = () if record.state in HOLDS else snapshot.siblings_with_money
        if holders:
            paid = snapshot.order.payment(holders[-1])
            return customer_view(paid, flow if paid.record.flow == record.flow else None, now_ms)
    match record.state:
        case State.CAPTURED:
            taken = record.captured_amount
            confirmed = not record.confirming
            return Paid(amount=taken, currency=record.currency, confirmed=confirmed)
        case State.VOIDED:
            return RefundedLater(amount=_held(record), currency=record.currency)
        case State.FAILED:
            return _failed(record.failure)
        case State.AUTHORIZED:
            return _on_hold(record, flow)
        case _:
            return _open(snapshot, flow, now_ms)


def _failed(failure: Failure | None) -> Failed:
    known = failure or Failure()
    words = f"{known.code} {known.reason}".lower()
    customer = next((text for word, text in _FAILURES.items() if word in words), _DECLINED)
    parts = (known.code, known.reason, known.source, known.description)
    support = " / ".join(part for part in parts if part)
    return Failed(customer=customer, support=support or "the gateway gave no reason")


def _on_hold(record: Record, flow: Flow | None) -> CustomerView:
    """A hold that a sale made is on its way to be taken; the customer was told of no hold."""
    operation = record.operation
    if operation is not None and operation.step is Step.VOID and operation.accepted:
        return RefundedLater(amount=_held(record), currency=record.currency)
    if flow is not None and flow.capture == "automatic" and not record.abandoned:
        return Wait(why=_HOLDING)
    ends_at_ms = record.hold_expires_at_ms
    until = None if ends_at_ms is None else moment(ends_at_ms)
    return OnHold(amount=_held(record), currency=record.currency, until=until)


def _open(snapshot: Snapshot, flow: Flow | None, now_ms: int) -> CustomerView:
    record, action = snapshot.record, snapshot.next_action
    if record.operation is not None:
        return Wait(why=_CHECKING if record.operation.step is Step.PAY else _CONFIRMING)
    if record.abandoned:
        return StartAgain(replace=True)
    if why_barred(snapshot, Step.SUBMIT_OTP) is not None:
        # Other money of the order, or a review, stands in the way: a person is looking.
        return Wait(why=_CHECKING)
    if record.state is State.CREATED:
        return StartAgain()
    again = why_not_replaced(snapshot) is None
    if record.state is State.OTP_PENDING:
        return _otp_page(record, flow, now_ms, again=again, action=action)
    match action:
        case Redirect():
            return GoToBank(url=action.url, may_start_again=again)
        case Form():
            form = msgspec.structs.asdict(action)
            return SubmitForm(**form, may_start_again=again)
        case Approve():
            approve = msgspec.structs.asdict(action)
            return ApproveInApp(**approve, may_start_again=again)
        case _:
            return Wait(why=_CONFIRMING, may_start_again=again)


def _otp_page(
    record: Record, flow: Flow | None, now_ms: int, *, again: bool, action: NextAction | None
) -> CustomerView:
    turn = record.otp
    if turn is None or turn.accepted or flow is None:
        return Wait(why=_CONFIRMING, may_start_again=again)
    submits_left = flow.otp.submits_max - turn.submits_used
    if submits_left <= 0 or now_ms >= turn.expires_at_ms:
        return StartAgain(replace=True) if again else Wait(why=_CONFIRMING)
    return EnterOtp(
        submits_left=submits_left,
        resends_left=max(0, flow.otp.resends_max - turn.resends_used),
        resend_at=moment(turn.sent_at_ms + flow.otp.resend_after_s * 1000),
        expires_at=moment(turn.expires_at_ms),
        can_leave=getattr(action, "redirect_to_bank", None) is not None,
        may_start_again=again,
    )


def _held(record: Record) -> Decimal | None:
    return record.amount if record.amount_held is None else record.amount_held
