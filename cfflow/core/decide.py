"""Decide what an answer, a failed call or the passing of time changes: snapshot, event, now → plan.

Every inquiry and every answer to a step ends here, whatever caused it. The events are facts:
deciding the same fact twice, late or out of order changes nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from cfflow.cashfree import facts
from cfflow.core.absorb import absorb, compare_order, own
from cfflow.core.actions import NextAction
from cfflow.core.answers import (
    authenticate_answered,
    count_lost_otp,
    end_turn,
    find_pay,
    pay_answered,
    show,
)
from cfflow.core.attempts import (
    warn_of_foreign_holds,
    warn_of_late_pay,
    warn_of_lost_pay,
    warn_of_other,
    warn_of_second_taker,
    warn_of_siblings_with_money,
    with_siblings_warned,
)
from cfflow.core.authors import CALLER, NOTIFICATION, Author
from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Draft
from cfflow.core.due import KEY_LIFE_MS
from cfflow.core.flow import Flow
from cfflow.core.observation import Call, Observation
from cfflow.core.operation import Operation, Step
from cfflow.core.order import SEEN_MAX, Notice, Order, Snapshot, adds_nothing
from cfflow.core.plan import Plan, joined
from cfflow.core.reviews import ReviewReason
from cfflow.core.schedule import owed_since_at_ms, surely_over, watch_ends_at_ms

#: Where the customer may still pay.
_WAITING: Final = frozenset({State.INITIATED, State.OTP_PENDING})


class Answered(msgspec.Struct, frozen=True):
    """The gateway answered a step of ours, and perhaps the inquiry that followed at once."""

    sequence: int
    observations: tuple[Observation, ...]
    asked_at_ms: int
    next_action: NextAction | None = None


class Inquired(msgspec.Struct, frozen=True):
    """An inquiry was answered; `everything`: it listed all attempts of the order.

    `nonce` is a fresh one where the store may have lost commits of this order: none of its keys
    may be used again, and an attempt that the store does not have may be a lost pay's.
    `verified`: the history of the server's data in which this inquiry verifies the order, once it
    is decided for all of its payments. `answered` are the notifications that it settles.
    """

    observations: tuple[Observation, ...]
    asked_at_ms: int
    everything: bool = False
    nonce: str = ""
    verified: str = ""
    answered: tuple[Notice, ...] = ()


class Adopted(msgspec.Struct, frozen=True):
    """A foreign attempt of the order is given to this payment, which owns none."""

    observation: Observation
    asked_at_ms: int
    nonce: str


class OrderSeen(msgspec.Struct, frozen=True):
    """The order itself was fetched; NOT_FOUND where the gateway has no such order."""

    status: str
    asked_at_ms: int
    expires_at_ms: int | None = None
    answered: tuple[Notice, ...] = ()
    order_id: str | None = None
    amount: Decimal | None = None
    currency: str | None = None


class NotFound(msgspec.Struct, frozen=True):
    """The gateway has no such order or attempt."""

    asked_at_ms: int
    answered: tuple[Notice, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """A step had no effect: the gateway refused it, was not reached, or it was not sent.

    `sends` is which call of the step it was; the others may have had an effect.
    """

    sequence: int
    why: str
    sends: int = 1
    request_id: str = ""


class Ended(msgspec.Struct, frozen=True):
    """A step's call is over and its effect is unknown: an inquiry may ask from now on.

    `replayed`: the gateway repeated an error that it had stored under the step's key.
    """

    sequence: int
    replayed: bool = False
    sends: int = 1


class Disputed(msgspec.Struct, frozen=True):
    """A person must look: another payment of the order is in the way, or a step was refused."""

    reason: ReviewReason
    detail: str


class TimePassed(msgspec.Struct, frozen=True):
    """Only time has passed: local limits end, and no money moves.

    `passed_at_ms`: a worker looked then and there was nothing to ask. Where the gateway could
    not be asked it is None, and the moment stays due.
    """

    passed_at_ms: int | None = None


Event = (
    Answered | Inquired | Adopted | OrderSeen | NotFound | Refused | Ended | Disputed | TimePassed
)

#: What answers an inquiry. A union here would be made anew at every decision.
_INQUIRIES: Final = (Inquired, OrderSeen, NotFound)

#: An order that was just made may not be found on all of the gateway's machines yet.
_FOUND_WITHIN_MS: Final = 60_000


def decide(
    snapshot: Snapshot, event: Event, flow: Flow, now_ms: int, author: Author = CALLER
) -> Plan:
    """Return the plan that this event makes of this payment.

    Where the payment got money and another one of the order has money too, that one gets its
    review in the same plan: no step may be sent on either of them. `author` is who asked.
    """
    if isinstance(event, _INQUIRIES) and event.answered:
        author = NOTIFICATION
    draft = Draft(snapshot, flow, now_ms, author)
    _apply(draft, event)
    end_turn(draft)
    _too_long(draft)
    warn_of_siblings_with_money(draft)
    proves = _is_answer_to(snapshot, event)
    plan = draft.plan(
        verified=event.verified if proves and isinstance(event, Inquired) else "",
        answered=event.answered if proves and isinstance(event, _INQUIRIES) else (),
    )
    return with_siblings_warned(plan, flow, now_ms, author)


def decide_all(
    order: Order,
    events: Mapping[int, Event],
    flows: Mapping[int, Flow],
    now_ms: int,
    author: Author = CALLER,
) -> Plan:
    """Return one plan of several decisions: each sees the order as the one before leaves it."""
    plans: list[Plan] = []
    for n, event in events.items():
        plans.append(decide(order.payment(n), event, flows[n], now_ms, author))
        order = plans[-1].after
    return joined(plans)


def _apply(draft: Draft, event: Event) -> None:
    match event:
        case Answered():
            _answered(draft, event, _of_this_order(draft, event.observations))
        case Inquired():
            _inquired(draft, event, _of_this_order(draft, event.observations))
        case Adopted():
            _adopted(draft, event)
        case OrderSeen():
            _order_seen(draft, event)
        case NotFound():
            _not_found(draft, event)
        case Refused():
            _refused(draft, event)
        case Ended():
            _ended(draft, event)
        case Disputed():
            draft.review(event.reason, event.detail)
        case TimePassed():
            draft.asked(event.passed_at_ms or 0)
            _check_key(draft)


def is_about(order_id: str, observations: tuple[Observation, ...]) -> bool:
    """Whether all of these are about this order, as far as they name one."""
    return {o.order_id for o in observations} <= {None, "", order_id}


def _is_answer_to(snapshot: Snapshot, event: Event) -> bool:
    """Whether an inquiry's answer is about what was asked.

    One about another order or attempt proves nothing here: it settles no notification, and it
    verifies no order after a restart.
    """
    if isinstance(event, OrderSeen):
        return event.order_id in {None, "", snapshot.order_id}
    if not isinstance(event, Inquired):
        return True
    shown = {observation.cf_payment_id for observation in event.observations}
    is_ours = event.everything or snapshot.record.cf_payment_id in shown
    return is_ours and is_about(snapshot.order_id, event.observations)


def _of_this_order(draft: Draft, observations: tuple[Observation, ...]) -> tuple[Observation, ...]:
    """Return what is about this order; an answer about another one proves nothing here.

    A review is opened for it: the gateway, or a proxy before it, has mixed up two orders.
    """
    order_id = draft.snapshot.order_id
    if is_about(order_id, observations):
        return observations
    own = tuple(o for o in observations if o.order_id in {None, "", order_id})
    other = next(o for o in observations if o not in own)
    _warn_of_mixed_answer(draft, f"attempt {other.cf_payment_id} of order {other.order_id}")
    return own


def _warn_of_mixed_answer(draft: Draft, shown: str) -> None:
    asked = draft.cf_payment_id or "no attempt"
    detail = f"asked about {draft.snapshot.order_id} ({asked}), answered with {shown}"
    draft.review(ReviewReason.OTHER_ANSWER, detail[:300])


def _answered(draft: Draft, event: Answered, observations: tuple[Observation, ...]) -> None:
    for observation in observations:
        if observation.call is Call.PAY:
            pay_answered(draft, observation, event.sequence)
        elif observation.call is Call.AUTHENTICATE:
            authenticate_answered(draft, observation, event.sequence)
        else:
            warn_of_other(draft, observation)
            absorb(draft, observation, event.asked_at_ms)
    show(draft, event.next_action)


def _inquired(draft: Draft, event: Inquired, observations: tuple[Observation, ...]) -> None:
    ours = draft.cf_payment_id
    # A list that is mixed with another order's may lack attempts: it proves only what it shows.
    whole = len(observations) == len(event.observations)
    if ours is None and event.everything:
        find_pay(draft, observations, event.asked_at_ms, whole=whole)
    if event.nonce:
        draft.nonce = event.nonce
    if event.everything:
        warn_of_late_pay(draft, observations)
        warn_of_foreign_holds(draft, observations)
        _remember(draft, observations)
    if event.everything and whole:
        _end_watch(draft, event.asked_at_ms)
    for observation in observations:
        if ours is not None and observation.cf_payment_id == ours:
            absorb(draft, observation, event.asked_at_ms)
            count_lost_otp(draft, event.asked_at_ms)
    if event.nonce:
        warn_of_lost_pay(draft, observations)
    if event.everything:
        warn_of_second_taker(draft, observations)
    elif whole and ours and all(o.cf_payment_id != ours for o in observations):
        shown = ", ".join(str(observation.cf_payment_id) for observation in observations)
        _warn_of_mixed_answer(draft, f"attempt {shown}")
    _check_key(draft)


def _end_watch(draft: Draft, asked_at_ms: int) -> None:
    """A given-up pay is looked for until a whole list, asked after the watch's end, has come."""
    ends_at_ms = watch_ends_at_ms(draft.was)
    if ends_at_ms is not None and asked_at_ms >= ends_at_ms:
        draft.pay_given_up_at_ms = None


def _adopted(draft: Draft, event: Adopted) -> None:
    """Give this payment an attempt that the gateway lists and no payment owns.

    Its transitions get the gateway's own times, not the time of the adoption.
    """
    if not _adopts(draft):
        return
    for observation in _of_this_order(draft, (event.observation,)):
        if observation.cf_payment_id in draft.snapshot.owned_elsewhere:
            continue
        draft.nonce = event.nonce
        began_at_ms = observation.began_at_ms or observation.paid_at_ms or draft.now_ms
        draft.happened_at_ms = began_at_ms
        own(draft, observation)
        draft.fire(Trigger.INITIATE, observation)
        draft.happened_at_ms = observation.paid_at_ms or began_at_ms
        absorb(draft, observation, event.asked_at_ms)
        draft.happened_at_ms = draft.now_ms
        draft.since_at_ms = draft.now_ms
        draft.add_note("adopted from the gateway's list")


def _adopts(draft: Draft) -> bool:
    """Whether this payment can be given an attempt: it has never had one."""
    unused = draft.state is State.CREATED and not draft.was.abandoned
    return unused and draft.cf_payment_id is None and draft.operation is None


def _remember(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """Store the ids of the order's attempts: none of them can be a later pay's.

    Not while a pay of the order has no attempt yet, or one that was given up may still arrive:
    this attempt may be its own, and only that payment's decision may find it.
    """
    others = (sibling for _, sibling in draft.snapshot.others)
    awaited = [draft.operation, *(other.operation for other in others)]
    looked_for = any(other.pay_given_up_at_ms is not None for _, other in draft.snapshot.others)
    if looked_for or any(op is not None and op.step is Step.PAY for op in awaited):
        return
    seen = dict.fromkeys([*draft.seen_attempt_ids, *(o.cf_payment_id or "" for o in attempts)])
    draft.seen_attempt_ids = tuple(name for name in seen if name)[-SEEN_MAX:]


def _not_found(draft: Draft, event: NotFound) -> None:
    """Review an order that the gateway does not find: it may belong to another account."""
    draft.asked(event.asked_at_ms)
    if event.asked_at_ms >= owed_since_at_ms(draft) + _FOUND_WITHIN_MS:
        draft.review(
            ReviewReason.ORDER_NOT_FOUND,
            "the gateway has no such order or attempt: are client id, secret and"
            " environment those of the account that made it?",
            again=True,
        )
    _end_watch(draft, event.asked_at_ms)
    _check_key(draft)


def _order_seen(draft: Draft, event: OrderSeen) -> None:
    if event.order_id not in {None, "", draft.snapshot.order_id}:
        _warn_of_mixed_answer(draft, f"order {event.order_id}")
        return
    if draft.pay_given_up_at_ms is None:
        # Whether a given-up pay arrived shows in the list of attempts, never in the order.
        draft.asked(event.asked_at_ms)
    compare_order(draft, event.amount, event.currency)
    if event.expires_at_ms is not None:
        draft.order_expires_at_ms = event.expires_at_ms
    # The order may be made after its payment was started, but not at any later time.
    give_up_at_ms = draft.was.created_at_ms + draft.flow.poll.review_after_s * 1000
    unknown = event.status == "NOT_FOUND" and draft.now_ms >= give_up_at_ms
    closed = event.status in facts.CLOSED_ORDER_STATUSES or unknown
    if closed and draft.state is State.CREATED and draft.was.operation is None:
        draft.fire(Trigger.FAIL, None, f"order_status={event.status}")
    without_attempt = draft.cf_payment_id is None and draft.was.operation is None
    if event.status == "PAID" and without_attempt:
        _paid_elsewhere(draft)


def _paid_elsewhere(draft: Draft) -> None:
    """End a payment whose order is paid; review it where no payment here took the money."""
    paid = [n for n, other in draft.snapshot.others if other.state is State.CAPTURED]
    if draft.state is State.CREATED:
        draft.fire(Trigger.FAIL, None, "order_status=PAID, by another payment")
    if not paid:
        draft.review(
            ReviewReason.UNCLAIMED_MONEY, "the order is paid, by no attempt of this payment"
        )


def _refused(draft: Draft, event: Refused) -> None:
    operation = draft.operation
    if not _is_about(operation, event) or operation is None:
        return
    if operation.sends == 1 or surely_over(operation, draft.flow):
        draft.close_operation(event.why, event.request_id)


def _ended(draft: Draft, event: Ended) -> None:
    operation = draft.operation
    if operation is not None and _is_about(operation, event):
        deadline_at_ms = min(operation.deadline_at_ms, draft.now_ms)
        ended = msgspec.structs.replace(
            operation, deadline_at_ms=deadline_at_ms, replayed=event.replayed
        )
        draft.operation = ended


def _is_about(operation: Operation | None, event: Refused | Ended) -> bool:
    """Whether this event is about the newest call of the open step, and not about an older one."""
    if operation is None:
        return False
    return (operation.sequence, operation.sends) == (event.sequence, event.sends)


def _check_key(draft: Draft) -> None:
    """Review a capture or void that is too old to be sent again under its own key."""
    operation = draft.operation
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID} or operation.accepted:
        return
    if draft.now_ms - operation.key_first_used_at_ms > KEY_LIFE_MS:
        detail = f"{operation.step} of unknown outcome is over a day old"
        draft.review(ReviewReason.KEY_TOO_OLD, detail, again=True)


def _too_long(draft: Draft) -> None:
    """Review what the bank owes for longer than the flow waits; it is asked about all the same."""
    operation = draft.operation
    waiting = draft.state in _WAITING or draft.confirming
    since_at_ms = owed_since_at_ms(draft)
    too_long = draft.now_ms - since_at_ms >= draft.flow.poll.review_after_s * 1000
    if too_long and (operation is not None or waiting):
        what = operation.step if operation else draft.state
        detail = f"{what}: the bank owes an answer for too long"
        draft.review(ReviewReason.NO_ANSWER, detail, again=True)


def without_old_notices(order: Order) -> Plan:
    """Return the plan that removes the notifications which report nothing new, and no more."""
    old = tuple(notice for notice in order.notices if adds_nothing(order, notice))
    left = tuple(notice for notice in order.notices if notice not in old)
    return Plan(before=order, after=msgspec.structs.replace(order, notices=left), answered=old)
