"""What is due of a payment: which inquiry, a step that may be sent again, a hold to end.

This is what a worker, a `refresh` and a step after a crash ask before they do anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from cfflow._core.chart import State
from cfflow._core.draft import LATE_PAY_MS, Draft, Plan, act_on_hold_ms
from cfflow._core.flow import Flow
from cfflow._core.record import BLOCKS_PAY, Operation, Record, Snapshot, Step
from cfflow._core.steps import renewed
from cfflow.errors import IllegalStep

__all__ = [
    "KEY_LIFE_MS",
    "Ask",
    "HoldEnd",
    "due_hold",
    "in_flight",
    "resend",
    "resendable",
    "what_to_ask",
]

#: The gateway replays a key for 24 h (GATEWAY 5); an hour is left for clocks and queues.
KEY_LIFE_MS: Final = 23 * 3600 * 1000

#: While one of these is open a person decides what becomes of a hold, never a worker.
_HANDS_OFF: Final = BLOCKS_PAY | {
    "attempt_claimed",
    "captured_over_hold",
    "hold_ends_soon",
    "key_too_old",
    "other_attempt",
    "step_refused",
    "two_holds",
}


class Ask(StrEnum):
    """Which inquiry tells us most about a payment now."""

    NOTHING = "nothing"
    PAYMENT = "payment"
    PAYMENTS = "payments"
    ORDER = "order"


def in_flight(snapshot: Snapshot, now_ms: int) -> bool:
    """Say whether a step may still be on its way: somebody else is waiting for its answer."""
    operation = snapshot.record.operation
    return operation is not None and not operation.accepted and now_ms < operation.limit_ms


def what_to_ask(snapshot: Snapshot, now_ms: int) -> Ask:
    """Return the inquiry for this state and open operation (docs/reference/refresh.md)."""
    record = snapshot.record
    if in_flight(snapshot, now_ms):
        return Ask.NOTHING
    if record.operation is not None and (record.cf_payment_id is None or _names_order(record)):
        return Ask.PAYMENTS
    if record.given_up_ms is not None and now_ms < record.given_up_ms + LATE_PAY_MS:
        # The pay that was given up may still arrive, and then nobody has claimed it.
        expired = record.order_expires_ms is not None and now_ms >= record.order_expires_ms
        turn_of_order = record.state is State.CREATED and expired and record.polls % 2 == 1
        return Ask.ORDER if turn_of_order else Ask.PAYMENTS
    if record.cf_payment_id is not None:
        # A notification about an attempt of nobody's: the list shows it, and ours as well.
        ours = snapshot.notice is None or snapshot.notice.is_about(record)
        return Ask.PAYMENT if ours else Ask.PAYMENTS
    if snapshot.notice is not None:
        return Ask.ORDER
    return Ask.ORDER if record.wake_ms is not None and now_ms >= record.wake_ms else Ask.NOTHING


def _names_order(record: Record) -> bool:
    """Whether the open step named the order only: what it did may show on another attempt."""
    operation = record.operation
    authorizes = operation is not None and operation.step in {Step.CAPTURE, Step.VOID}
    return authorizes and operation is not None and not operation.accepted


def resendable(snapshot: Snapshot, now_ms: int) -> bool:
    """Say whether an open capture or void may be sent again under its own key.

    Only straight after an inquiry that showed no action taken, only once the first call
    is surely over, and only while the gateway still remembers the key (DESIGN 4).
    """
    operation = snapshot.record.operation
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID} or operation.accepted:
        return False
    missed_ms = operation.missed_ms
    if _may_take_another(snapshot.record, operation):
        return False
    over = missed_ms is not None and missed_ms >= operation.limit_ms and now_ms >= missed_ms
    fresh = now_ms - operation.started_ms <= KEY_LIFE_MS
    return over and fresh and snapshot.record.state is State.AUTHORIZED


def _may_take_another(record: Record, operation: Operation) -> bool:
    """Whether the order has another attempt for this step to act on.

    Once it did, its key can only bring that answer again, whatever a person has acknowledged.
    """
    if any(review.reason == "two_holds" for review in record.open_reviews):
        return True
    reviews = (review for review in record.reviews if review.reason == "other_attempt")
    return any(review.at_ms >= operation.started_ms for review in reviews)


def resend(snapshot: Snapshot, flow: Flow, now_ms: int) -> Plan:
    """Return the plan to send the open capture or void again: same key, same body.

    Under a key that only repeats a stored error nothing could ever happen again: such a
    step goes under a new number and key, since the call that earned the error is over.
    Raises `IllegalStep` for everything that is not `resendable`.
    """
    if not resendable(snapshot, now_ms):
        raise IllegalStep(f"{snapshot.id}: there is no step that may be sent again")
    draft = Draft(snapshot, flow, now_ms)
    operation: Operation = draft.get("operation")
    draft.tell_operation("sent again")
    limit_ms = now_ms + round(flow.pay.timeout_s * 1000)
    again = msgspec.structs.replace(operation, limit_ms=limit_ms, sends=operation.sends + 1)
    if operation.replayed:
        again = renewed(draft, again)
    # The polls go on where they were: a step that is lost again and again comes ever more rarely.
    draft.set(operation=again, asked_ms=now_ms)
    return draft.plan(opens=True)


class HoldEnd(StrEnum):
    """What the flow wants done with a hold that nobody captured or voided."""

    VOID = "void"
    CAPTURE = "capture"
    REVIEW = "review"


def due_hold(snapshot: Snapshot, flow: Flow, now_ms: int) -> HoldEnd | None:
    """Return how this hold has to end now: it lapses soon, or its payment was abandoned.

    None while there is time, while the bank still works on it, and while a review says
    that a person looks at this money.
    """
    record = snapshot.record
    if record.state is not State.AUTHORIZED or record.operation is not None or record.confirming:
        return None
    if any(review.reason in _HANDS_OFF for review in record.open_reviews):
        return None
    if record.abandoned:
        return HoldEnd(flow.end.abandoned_hold)
    if not _lapses_soon(record, flow, now_ms):
        return None
    late = any(review.reason == "late_authorization" for review in record.open_reviews)
    # Money that came after the customer was told of a failure is nobody's to take unasked.
    taken_unasked = late and flow.hold_rules.on_expiry == "capture"
    return HoldEnd.REVIEW if taken_unasked else HoldEnd(flow.hold_rules.on_expiry)


def _lapses_soon(record: Record, flow: Flow, now_ms: int) -> bool:
    """Only a manual flow's hold: an automatic one that is still held is reviewed at once."""
    if flow.capture != "manual" or record.hold_expires_ms is None:
        return False
    return now_ms >= act_on_hold_ms(record, flow)
