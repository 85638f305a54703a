"""What an answer, a failed call or the passing of time changes: (snapshot, event, now) → Plan.

A webhook's wake, a poll, a step's own answer and an inquiry all end here. The events are
facts; deciding the same fact twice, late or out of order is harmless.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cfflow._core.absorb import absorb, claim
from cfflow._core.actions import NextAction
from cfflow._core.answers import (
    authenticate_answered,
    count_lost_otp,
    end_turn,
    find_pay,
    pay_answered,
    show,
)
from cfflow._core.chart import HOLDS, State, Trigger
from cfflow._core.draft import PAY_MARGIN_MS, Draft, Plan
from cfflow._core.due import KEY_LIFE_MS
from cfflow._core.flow import Flow
from cfflow._core.observation import Call, Observation, prove
from cfflow._core.record import Operation, Snapshot, Step

__all__ = [
    "Adopted",
    "Answered",
    "Disputed",
    "Ended",
    "Event",
    "Inquired",
    "OrderSeen",
    "Refused",
    "TimePassed",
    "decide",
]

_SEEN_MAX: Final = 32

#: Where the customer may still pay.
_WAITING: Final = frozenset({State.INITIATED, State.OTP_PENDING})


class Answered(msgspec.Struct, frozen=True):
    """The gateway answered our step, and perhaps the inquiry that followed at once."""

    sequence: int
    observations: tuple[Observation, ...]
    asked_ms: int
    next_action: NextAction | None = None


class Inquired(msgspec.Struct, frozen=True):
    """An inquiry was answered; `everything` says that it listed all attempts of the order.

    `nonce` is a fresh one when the store may have lost commits since the payment's last:
    none of its keys must come again, and nothing that it does not know can be ruled out,
    but for `named`: the attempts of which an answer in hand says that they are ours.
    `notice_ms`: it was asked because of a notification of then, or had seen it.
    """

    observations: tuple[Observation, ...]
    asked_ms: int
    everything: bool = False
    nonce: str = ""
    named: tuple[str, ...] = ()
    notice_ms: int = 0


class Adopted(msgspec.Struct, frozen=True):
    """An attempt of the order that no payment knows is given to this one, which has none."""

    observation: Observation
    asked_ms: int
    nonce: str


class OrderSeen(msgspec.Struct, frozen=True):
    """The order itself was fetched; NOT_FOUND where the gateway knows no such order."""

    status: str
    asked_ms: int
    expires_ms: int | None = None
    notice_ms: int = 0


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
    """Somebody looked at the clock and could not ask: only local limits pass, no money moves."""


Event = Answered | Inquired | Adopted | OrderSeen | Refused | Ended | Disputed | TimePassed


def decide(snapshot: Snapshot, event: Event, flow: Flow, now_ms: int) -> Plan:
    """Return the plan that this event makes of this payment."""
    draft = Draft(snapshot, flow, now_ms)
    match event:
        case Answered():
            _answered(draft, event)
        case Inquired():
            _inquired(draft, event)
        case Adopted():
            _adopted(draft, event)
        case OrderSeen():
            _order_seen(draft, event)
        case Refused():
            _refused(draft, event)
        case Ended():
            _ended(draft, event)
        case Disputed():
            draft.review(event.reason, event.detail)
        case TimePassed():
            _check_key(draft)
    end_turn(draft)
    _too_long(draft)
    _warn_of_twins(draft)
    return draft.plan(
        assured=bool(isinstance(event, Inquired | Adopted) and event.nonce),
        answers_ms=event.notice_ms if isinstance(event, Inquired | OrderSeen) else 0,
    )


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
    if event.nonce:
        _distrust(draft, event)
    if event.everything:
        _warn_of_late_pay(draft, event.observations)
        _warn_of_strangers(draft, event.observations)
        _remember(draft, event.observations)
    for observation in event.observations:
        if ours is not None and observation.cf_payment_id == ours:
            absorb(draft, observation, event.asked_ms)
            count_lost_otp(draft, event.asked_ms)
    if event.everything:
        _warn_of_second_taker(draft, event.observations)
    _check_key(draft)


def _distrust(draft: Draft, event: Inquired) -> None:
    """The store came back without its last moments: a pay of ours may be missing from it."""
    draft.set(nonce=event.nonce)
    ours = {*draft.get("seen"), *event.named, draft.get("cf_payment_id")}
    known = draft.snapshot.claimed_elsewhere | ours
    alive = [
        str(o.cf_payment_id)
        for o in event.observations
        if o.cf_payment_id not in known and prove(o).state is not State.FAILED
    ]
    if draft.state is State.CREATED and draft.get("operation") is None and alive:
        ids = ", ".join(alive[:8])
        draft.review("unclaimed_money", f"the store lost commits; attempt {ids} may be a lost pay")


def _adopted(draft: Draft, event: Adopted) -> None:
    """Claim an attempt that the gateway lists and no payment knows; its own words decide."""
    unused = draft.state is State.CREATED and not draft.was.abandoned
    free = unused and draft.get("cf_payment_id") is None
    taken = event.observation.cf_payment_id in draft.snapshot.claimed_elsewhere
    if not free or draft.get("operation") is not None or taken:
        return
    draft.set(nonce=event.nonce)
    claim(draft, event.observation)
    draft.fire(Trigger.INITIATE, event.observation)
    absorb(draft, event.observation, event.asked_ms)


def _warn_of_twins(draft: Draft) -> None:
    """Two payments of one order hold or took money: the customer may have paid twice."""
    twins = draft.snapshot.twins
    if draft.state not in HOLDS or not twins:
        return
    order_id, attempts = draft.snapshot.order_id, draft.snapshot.attempts
    others = ", ".join(f"{order_id}.{n} (attempt {attempts[n - 1].cf_payment_id})" for n in twins)
    ours = f"{draft.snapshot.id} (attempt {draft.get('cf_payment_id')})"
    draft.review("two_holds", f"{ours} and {others} both hold or took money")


def _warn_of_strangers(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """An open capture or void named the order only: perhaps it acts on another attempt."""
    operation: Operation | None = draft.get("operation")
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID}:
        return
    known = draft.snapshot.claimed_elsewhere | {draft.get("cf_payment_id")}
    for other in (o for o in attempts if o.cf_payment_id not in known):
        if other.authorization_action == operation.step.name:
            draft.review(
                "other_attempt", f"{operation.step} shows on attempt {other.cf_payment_id}"
            )
        elif prove(other).state is State.AUTHORIZED:
            draft.review(
                "two_holds", f"attempt {other.cf_payment_id}, of no payment here, is held too"
            )


def _warn_of_second_taker(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """An attempt of no payment here holds or took money: the customer pays twice, or is about to.

    Told while ours still waits: once it has its money nobody may look at the others again.
    """
    known = draft.snapshot.claimed_elsewhere | {draft.get("cf_payment_id")}
    takers = [o for o in attempts if o.cf_payment_id not in known and prove(o).state in HOLDS]
    if draft.state in HOLDS | _WAITING and takers:
        ids = ", ".join(str(o.cf_payment_id) for o in takers[:8])
        draft.review("two_holds", f"attempt {ids}, of no payment here, holds or took money")


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
    # An order may be made after its payment was started, but not for ever.
    patience_ms = draft.was.created_ms + draft.flow.poll.review_after_s * 1000
    unknown = event.status == "NOT_FOUND" and draft.now_ms >= patience_ms
    closed = event.status in {"EXPIRED", "TERMINATED"} or unknown
    if closed and draft.state is State.CREATED and draft.was.operation is None:
        draft.fire(Trigger.FAIL, None, f"order_status={event.status}")
    nobodys = draft.get("cf_payment_id") is None and draft.was.operation is None
    if event.status == "PAID" and nobodys:
        _paid_elsewhere(draft)


def _paid_elsewhere(draft: Draft) -> None:
    """Nobody can pay this order any more; whose money it is may be known."""
    paid = [n for n, attempt in draft.snapshot.others if attempt.state is State.CAPTURED]
    if draft.state is State.CREATED:
        draft.fire(Trigger.FAIL, None, "order_status=PAID, by another")
    if not paid:
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
