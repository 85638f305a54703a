"""What is due of a payment: which inquiry, a step that may be sent again, a hold to end.

A worker, a `refresh` and a step after a crash start here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from cfflow.cashfree import facts
from cfflow.core.authors import CALLER, Author
from cfflow.core.chart import State
from cfflow.core.draft import Draft
from cfflow.core.flow import Flow
from cfflow.core.operation import OperationStatus, Step
from cfflow.core.order import (
    AUTHORIZES,
    Notice,
    Order,
    Snapshot,
    concerned,
    may_act_on_another,
    why_barred,
)
from cfflow.core.plan import Gate, Plan
from cfflow.core.record import Record, Sibling
from cfflow.core.reviews import Effect, ReviewReason
from cfflow.core.schedule import act_on_hold_at_ms, grid_after, owed_since_at_ms
from cfflow.core.steps import renewed
from cfflow.errors import IllegalStep

#: An hour less than the gateway repeats a key's outcome: that hour is left for clocks and queues.
KEY_LIFE_MS: Final = facts.IDEMPOTENCY_KEY_LIFE_MS - 3600 * 1000

#: So long before a hold ends, it waits no more for another attempt of the order to be over: a
#: person decides, since neither waiting nor acting is safe any more.
_LAST_HOUR_MS: Final = 3600 * 1000


class Ask(StrEnum):
    """Which inquiry is the right one for a payment now."""

    NOTHING = "nothing"
    PAYMENT = "payment"
    PAYMENTS = "payments"
    ORDER = "order"


def in_flight(snapshot: Snapshot, now_ms: int) -> bool:
    """Whether a step may still be on its way: another caller is waiting for its answer."""
    operation = snapshot.record.operation
    return operation is not None and operation.status(now_ms) is OperationStatus.SENDING


class Look(msgspec.Struct, frozen=True):
    """One inquiry about an order, and the payments that its answer is decided for."""

    what: Ask
    payments: tuple[int, ...]


def what_to_ask(snapshot: Snapshot, now_ms: int) -> Ask:
    """Return the inquiry for this state and open operation (docs/reference/refresh.md)."""
    record = snapshot.record
    if in_flight(snapshot, now_ms):
        return Ask.NOTHING
    if record.operation is not None and (record.cf_payment_id is None or _names_order(record)):
        return Ask.PAYMENTS
    if record.pay_given_up_at_ms is not None:
        # The pay that was given up may still arrive, and only the list shows its attempt.
        return Ask.PAYMENTS
    if record.cf_payment_id is not None:
        # A notification about an attempt that no payment owns: the list shows it and ours.
        about = {notice.cf_payment_id for notice in snapshot.notices}
        return Ask.PAYMENT if about <= {record.cf_payment_id} else Ask.PAYMENTS
    return Ask.ORDER if snapshot.notices or _is_past(record, now_ms) else Ask.NOTHING


def due_looks(order: Order, now_ms: int) -> tuple[Look, ...]:
    """Return the inquiries that are due: one for the attempts, and one for the order's end.

    One list of all attempts serves every due payment, and one payment that needs the list makes
    it serve all. A payment whose step is on its way is left out: nothing that an inquiry does
    not see would prove anything. `Ask.NOTHING`: only time has passed for these payments.
    """
    due = [payment for payment in order.all_payments if _is_due(payment, now_ms)]
    wanted = {payment.n: what_to_ask(payment, now_ms) for payment in due}
    if len(wanted) == 1:
        return tuple([Look(what, (n,)) for n, what in wanted.items()])
    about_attempts = tuple(n for n, what in wanted.items() if what in {Ask.PAYMENT, Ask.PAYMENTS})
    about_order = tuple(n for n, what in wanted.items() if what is Ask.ORDER)
    nothing = tuple(n for n, what in wanted.items() if what is Ask.NOTHING)
    looks = []
    if Ask.PAYMENTS in wanted.values() or len(about_attempts) > 1:
        # The list serves those too that are due only because a notification came.
        notified = tuple(n for n in about_order if not _is_past(order.siblings[n], now_ms))
        about_order = tuple(n for n in about_order if n not in notified)
        looks.append(Look(Ask.PAYMENTS, (*about_attempts, *notified)))
    elif about_attempts:
        looks.append(Look(Ask.PAYMENT, about_attempts))
    looks.append(Look(Ask.ORDER, about_order))
    looks.append(Look(Ask.NOTHING, nothing))
    return tuple(look for look in looks if look.payments)


def settled_by(order: Order, look: Look) -> tuple[Notice, ...]:
    """Return the notifications that this inquiry settles.

    Those that concern no payment but the ones which it is decided for. A fetch of one attempt
    settles those about this attempt, and a fetch of the order those about payments that have no
    attempt.
    """
    if not order.notices:
        return ()
    return tuple(
        notice
        for notice in order.notices
        if {*concerned(order, notice.cf_payment_id)} <= {*look.payments}
        and _shows(order, look, notice)
    )


def _shows(order: Order, look: Look, notice: Notice) -> bool:
    payments = [order.siblings[n] for n in look.payments]
    if look.what is Ask.PAYMENT:
        return all(payment.cf_payment_id == notice.cf_payment_id for payment in payments)
    without_attempt = all(payment.cf_payment_id is None for payment in payments)
    return look.what is Ask.PAYMENTS or (look.what is Ask.ORDER and without_attempt)


def _is_due(payment: Snapshot, now_ms: int) -> bool:
    is_due = _is_past(payment.record, now_ms) or bool(payment.notices)
    return is_due and not in_flight(payment, now_ms)


def _is_past(payment: Sibling, now_ms: int) -> bool:
    return payment.wake_at_ms is not None and now_ms >= payment.wake_at_ms


def _names_order(record: Record) -> bool:
    """Whether the open step named the order only: what it did may show on another attempt."""
    operation = record.operation
    return operation is not None and operation.step in AUTHORIZES and not operation.accepted


def resendable(snapshot: Snapshot, now_ms: int) -> bool:
    """Whether an open capture or void may be sent again under its own key.

    Only after an inquiry that saw the hold untouched, only once the first call is surely over,
    and only while the gateway still has the key (gateway.md#idempotency).
    """
    operation = snapshot.record.operation
    if operation is None or operation.status(now_ms) is not OperationStatus.NOT_DONE:
        return False
    if may_act_on_another(snapshot.record, operation) or why_barred(snapshot, operation.step):
        return False
    fresh = now_ms - operation.key_first_used_at_ms <= KEY_LIFE_MS
    return fresh and snapshot.record.state is State.AUTHORIZED


def resend_is_due(snapshot: Snapshot, flow: Flow, now_ms: int) -> bool:
    """Whether a worker may send the open capture or void again now.

    The first time at once. Then at most once after each moment of the flow's schedule, so
    that a step which is lost each time is sent less and less often. A person's own call
    does not wait.
    """
    operation = snapshot.record.operation
    if operation is None or not resendable(snapshot, now_ms):
        return False
    if operation.last_sent_at_ms == operation.began_at_ms:
        return True
    since_at_ms = owed_since_at_ms(snapshot.record)
    return grid_after(snapshot.record, flow, since_at_ms, operation.last_sent_at_ms) <= now_ms


def resend(snapshot: Snapshot, flow: Flow, now_ms: int, *, author: Author = CALLER) -> Plan:
    """Return the plan to send the open capture or void again: same key, same body.

    A key under which the gateway repeats a stored error can have no effect any more: such a
    step gets a new number and key, since the call that failed is over.
    Raises `IllegalStep` for everything that is not `resendable`.
    """
    operation = snapshot.record.operation
    if operation is None or not resendable(snapshot, now_ms):
        raise IllegalStep(f"{snapshot.id}: there is no step that may be sent again")
    draft = Draft(snapshot, flow, now_ms, author)
    draft.add_operation_entry(operation, "sent again", author)
    again = msgspec.structs.replace(
        operation,
        deadline_at_ms=now_ms + round(flow.pay.timeout_s * 1000),
        sent_at_ms=now_ms,
        sends=operation.sends + 1,
    )
    draft.operation = renewed(draft, again) if operation.replayed else again
    return draft.plan(opens=True, gate=Gate.RESEND)


class HoldEnd(StrEnum):
    """What the flow wants done with a hold that was neither captured nor voided."""

    VOID = "void"
    CAPTURE = "capture"
    REVIEW = "review"


_STEP_OF: Final = {HoldEnd.VOID: Step.VOID, HoldEnd.CAPTURE: Step.CAPTURE}


def due_hold(snapshot: Snapshot, flow: Flow, now_ms: int) -> HoldEnd | None:
    """Return how this hold has to end now: it lapses soon, or its payment was abandoned.

    None while there is time, while the bank still works on it, while an open review keeps the
    worker off, and while another attempt of the order must be over first.
    """
    record = snapshot.record
    if record.state is not State.AUTHORIZED or record.operation is not None or record.confirming:
        return None
    if record.has_effect(Effect.HANDS_OFF):
        return None
    if not record.abandoned and not _lapses_soon(record, flow, now_ms):
        return None
    end = _wanted_end(record, flow)
    if end is not HoldEnd.REVIEW and why_barred(snapshot, _STEP_OF[end]):
        return HoldEnd.REVIEW if _in_last_hour(record, now_ms) else None
    return end


def _in_last_hour(record: Record, now_ms: int) -> bool:
    return record.hold_expires_at_ms is None or now_ms >= record.hold_expires_at_ms - _LAST_HOUR_MS


def _wanted_end(record: Record, flow: Flow) -> HoldEnd:
    if record.abandoned:
        return HoldEnd(flow.end.abandoned_hold)
    late = any(review.reason == ReviewReason.LATE_AUTHORIZATION for review in record.open_reviews)
    # The customer saw a failure before this money came: only a person may decide to take it.
    taken_unasked = late and flow.hold_rules.on_expiry == "capture"
    return HoldEnd.REVIEW if taken_unasked else HoldEnd(flow.hold_rules.on_expiry)


def _lapses_soon(record: Record, flow: Flow, now_ms: int) -> bool:
    """Whether a manual flow's hold ends soon; an automatic one that is held is reviewed at once."""
    if flow.capture != "manual" or record.hold_expires_at_ms is None:
        return False
    return now_ms >= act_on_hold_at_ms(record, flow)
