"""What an answer, a failed call or the passing of time changes: (snapshot, event, now) → Plan.

A webhook's wake, a poll, a step's own answer and an inquiry all end here. The events are
facts; deciding the same fact twice, late or out of order is harmless.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from cfflow._core.absorb import absorb
from cfflow._core.actions import NextAction
from cfflow._core.answers import (
    authenticate_answered,
    count_lost_otp,
    end_turn,
    find_pay,
    pay_answered,
    show,
)
from cfflow._core.chart import State, Trigger
from cfflow._core.draft import PAY_MARGIN_MS, Draft, Plan
from cfflow._core.flow import Flow
from cfflow._core.observation import Call, Observation
from cfflow._core.record import Operation, Snapshot, Step
from cfflow._core.steps import renewed
from cfflow.errors import IllegalStep

__all__ = [
    "KEY_LIFE_MS",
    "LATE_PAY_MS",
    "Answered",
    "Ask",
    "Disputed",
    "Ended",
    "Event",
    "Inquired",
    "OrderSeen",
    "Refused",
    "TimePassed",
    "decide",
    "in_flight",
    "resend",
    "resendable",
    "what_to_ask",
]

#: The gateway replays a key for 24 h (GATEWAY 5); an hour is left for clocks and queues.
KEY_LIFE_MS: Final = 23 * 3600 * 1000


_SEEN_MAX: Final = 32

#: A pay that was given up is looked for among the order's attempts for so long.
LATE_PAY_MS: Final = 24 * 3600 * 1000


class Answered(msgspec.Struct, frozen=True):
    """The gateway answered our step, and perhaps the inquiry that followed at once."""

    sequence: int
    observations: tuple[Observation, ...]
    asked_ms: int
    next_action: NextAction | None = None


class Inquired(msgspec.Struct, frozen=True):
    """An inquiry was answered; `everything` says that it listed all attempts of the order."""

    observations: tuple[Observation, ...]
    asked_ms: int
    everything: bool = False


class OrderSeen(msgspec.Struct, frozen=True):
    """The order itself was fetched."""

    status: str
    asked_ms: int
    expires_ms: int | None = None


class Refused(msgspec.Struct, frozen=True):
    """A step had no effect: the gateway said no, it was not reached, or it was not sent.

    `sends` is which call of the step it was; it says nothing about the others.
    """

    sequence: int
    why: str
    sends: int = 1


class Ended(msgspec.Struct, frozen=True):
    """A step's call is over and nobody knows what it did: an inquiry may ask from now on.

    `replayed`: it brought back an error that the gateway had stored under the step's key.
    """

    sequence: int
    replayed: bool = False
    sends: int = 1


class Disputed(msgspec.Struct, frozen=True):
    """The store refused a plan because of another payment of the order: a person must look."""

    reason: str
    detail: str


class TimePassed(msgspec.Struct, frozen=True):
    """Somebody looked at the clock: local limits end the customer's turn, nothing else."""


Event = Answered | Inquired | OrderSeen | Refused | Ended | Disputed | TimePassed


def decide(snapshot: Snapshot, event: Event, flow: Flow, now_ms: int) -> Plan:
    """Return the plan that this event makes of this payment."""
    draft = Draft(snapshot, flow, now_ms)
    match event:
        case Answered():
            _answered(draft, event)
        case Inquired():
            _inquired(draft, event)
        case OrderSeen():
            _order_seen(draft, event)
        case Refused():
            _refused(draft, event)
        case Ended():
            _ended(draft, event)
        case Disputed():
            draft.review(event.reason, event.detail)
        case TimePassed():
            pass
    end_turn(draft)
    _too_long(draft)
    return draft.plan()


def _answered(draft: Draft, event: Answered) -> None:
    for observation in event.observations:
        if observation.call is Call.PAY:
            pay_answered(draft, observation, event.sequence)
        elif observation.call is Call.AUTHENTICATE:
            authenticate_answered(draft, observation, event.sequence)
        else:
            _warn_of_other(draft, observation)
            absorb(draft, observation, event.asked_ms)
    show(draft, event.next_action)


def _warn_of_other(draft: Draft, observation: Observation) -> None:
    """Capture and void name the order: this one acted on an attempt that is not ours."""
    other = observation.cf_payment_id
    if observation.call is Call.AUTHORIZE and other not in {None, draft.get("cf_payment_id")}:
        draft.review("other_attempt", f"the gateway acted on attempt {other}, not on ours")


def _inquired(draft: Draft, event: Inquired) -> None:
    ours = draft.get("cf_payment_id")
    if ours is None and event.everything:
        find_pay(draft, event.observations, event.asked_ms)
    elif all(observation.cf_payment_id != ours for observation in event.observations):
        # An answer about somebody else's attempt: we asked, and know no more.
        draft.asked(event.asked_ms)
    if event.everything:
        _warn_of_late_pay(draft, event.observations)
        _remember(draft, event.observations)
    for observation in event.observations:
        if ours is not None and observation.cf_payment_id == ours:
            absorb(draft, observation, event.asked_ms)
            count_lost_otp(draft, event.asked_ms)
    _check_key(draft)


def _warn_of_late_pay(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """A pay was given up, and now an attempt is there that nobody knew: perhaps that one."""
    given_up_ms = draft.was.given_up_ms
    known = draft.snapshot.claimed_elsewhere | {*draft.get("seen"), draft.get("cf_payment_id")}
    late = [o.cf_payment_id for o in attempts if o.cf_payment_id not in known]
    waiting = draft.get("operation") is not None and draft.get("cf_payment_id") is None
    if given_up_ms is not None and late and not waiting:
        ids = ", ".join(str(name) for name in late[:8])
        draft.review("unclaimed_money", f"a pay was given up, and attempt {ids} appeared since")


def _remember(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """Keep the ids of the order's other attempts: none of them can be a later pay of ours."""
    seen = dict.fromkeys([*draft.get("seen"), *(o.cf_payment_id or "" for o in attempts)])
    operation: Operation | None = draft.get("operation")
    if operation is None or operation.step is not Step.PAY:
        ours = draft.get("cf_payment_id")
        draft.set(seen=tuple(name for name in seen if name and name != ours)[-_SEEN_MAX:])


def _order_seen(draft: Draft, event: OrderSeen) -> None:
    draft.asked(event.asked_ms)
    if event.expires_ms is not None:
        draft.set(order_expires_ms=event.expires_ms)
    closed = event.status in {"EXPIRED", "TERMINATED"}
    if closed and draft.state is State.CREATED and draft.was.operation is None:
        draft.fire(Trigger.FAIL, None, f"order_status={event.status}")
    nobodys = draft.get("cf_payment_id") is None and draft.was.operation is None
    if event.status == "PAID" and nobodys:
        draft.review("unclaimed_money", "the order is paid, by no attempt of this payment")


def _refused(draft: Draft, event: Refused) -> None:
    operation: Operation | None = draft.get("operation")
    if not _speaks_for(operation, event) or operation is None:
        return
    if operation.sends == 1 or _surely_over(draft, operation):
        draft.close_operation(event.why)


def _ended(draft: Draft, event: Ended) -> None:
    operation: Operation | None = draft.get("operation")
    if operation is not None and _speaks_for(operation, event):
        limit_ms = min(operation.limit_ms, draft.now_ms)
        ended = msgspec.structs.replace(operation, limit_ms=limit_ms, replayed=event.replayed)
        draft.set(operation=ended)


def _speaks_for(operation: Operation | None, event: Refused | Ended) -> bool:
    """Whether this event is about the newest call of the open step, and not about an older one."""
    if operation is None:
        return False
    return (operation.sequence, operation.sends) == (event.sequence, event.sends)


def _surely_over(draft: Draft, operation: Operation) -> bool:
    """Whether the first call of a step is over for good: its whole limit and a margin ago.

    And an inquiry since then saw the hold untouched, so that none of its calls acted.
    """
    over_ms = operation.started_ms + round(draft.flow.pay.timeout_s * 1000) + PAY_MARGIN_MS
    return operation.missed_ms is not None and operation.missed_ms >= over_ms


def _check_key(draft: Draft) -> None:
    """A capture or void that cannot be sent again under its own key needs a person."""
    operation: Operation | None = draft.get("operation")
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID} or operation.accepted:
        return
    if draft.now_ms - operation.started_ms > KEY_LIFE_MS:
        draft.review("key_too_old", f"{operation.step} of unknown outcome is over a day old")


def _too_long(draft: Draft) -> None:
    """What the bank owes for longer than the flow waits goes to a person; we still ask."""
    lapses_ms = draft.get("hold_expires_ms")
    if draft.state is State.AUTHORIZED and lapses_ms is not None and draft.now_ms >= lapses_ms:
        draft.review("hold_lapsed", "the hold is past its end and the gateway still shows it")
    operation: Operation | None = draft.get("operation")
    waiting = draft.state in {State.INITIATED, State.OTP_PENDING} or draft.get("confirming")
    since_ms = draft.get("moved_ms") if operation is None else operation.started_ms
    too_long = draft.now_ms - since_ms >= draft.flow.poll.review_after_s * 1000
    if too_long and (operation is not None or waiting):
        what = operation.step if operation else draft.state
        draft.review("no_answer", f"{what}: the bank owes an answer for too long")


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
    if record.operation is not None and record.cf_payment_id is None:
        return Ask.PAYMENTS
    if record.given_up_ms is not None and now_ms < record.given_up_ms + LATE_PAY_MS:
        # The pay that was given up may still arrive, and then nobody has claimed it.
        return Ask.PAYMENTS
    if record.cf_payment_id is not None:
        return Ask.PAYMENT
    return Ask.ORDER if record.wake_ms is not None and now_ms >= record.wake_ms else Ask.NOTHING


def resendable(snapshot: Snapshot, now_ms: int) -> bool:
    """Say whether an open capture or void may be sent again under its own key.

    Only straight after an inquiry that showed no action taken, only once the first call
    is surely over, and only while the gateway still remembers the key (DESIGN 4).
    """
    operation = snapshot.record.operation
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID} or operation.accepted:
        return False
    missed_ms = operation.missed_ms
    if any(review.reason == "other_attempt" for review in snapshot.record.open_reviews):
        return False
    over = missed_ms is not None and missed_ms >= operation.limit_ms and now_ms >= missed_ms
    fresh = now_ms - operation.started_ms <= KEY_LIFE_MS
    return over and fresh and snapshot.record.state is State.AUTHORIZED


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
    again = msgspec.structs.replace(
        operation, limit_ms=limit_ms, resent_ms=now_ms, sends=operation.sends + 1
    )
    if operation.replayed:
        again = renewed(draft, again)
    draft.set(operation=again, asked_ms=0, polls=0)
    return draft.plan(sole_holder=True)
