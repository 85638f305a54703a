"""A person's decisions: abandon, acknowledge, resolve.

A person may find out what no call shows. Their decision moves a payment along the chart as an
answer would, is stored in its history with who made it and why, and never leads out of
`captured` or `voided`.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from transitions import MachineError

from cfflow.core.arguments import shown_name
from cfflow.core.attempts import warn_of_siblings_with_money, with_siblings_warned
from cfflow.core.authors import CALLER, Author, Cause
from cfflow.core.chart import FINAL, OPEN, State, Trigger, walk
from cfflow.core.draft import Draft
from cfflow.core.due import in_flight
from cfflow.core.flow import Flow
from cfflow.core.money import amount_of
from cfflow.core.order import Snapshot
from cfflow.core.plan import Plan
from cfflow.core.record import Review
from cfflow.core.reviews import Effect, effect_of
from cfflow.errors import Conflict, IllegalStep, InvalidAmount, InvalidInput


def abandon(snapshot: Snapshot, flow: Flow, now_ms: int, *, author: Author = CALLER) -> Plan:
    """Free the order for another payment; this one is watched to its end.

    Raises `Conflict` while a step is open, since its effect is not known yet, and `IllegalStep`
    for a payment that is over.
    """
    record = snapshot.record
    if record.operation is not None:
        raise Conflict(
            f"{snapshot.id}: {record.operation.step} is open; refresh shows how it ended"
        )
    if record.abandoned or record.state not in OPEN:
        state = "abandoned" if record.abandoned else record.state
        means = "the order is paid" if record.state is State.CAPTURED else "the order is free"
        raise IllegalStep(f"{snapshot.id}: it is {state} already, {means}")
    draft = Draft(snapshot, flow, now_ms, author)
    draft.abandoned = True
    draft.since_at_ms = now_ms
    draft.next_action = None
    draft.add_note("abandoned")
    return draft.plan()


def acknowledge(
    snapshot: Snapshot, flow: Flow, now_ms: int, *, reason: str, actor: str, note: str
) -> Plan:
    """Close the open review of this name; the payment itself stays as it is.

    Raises `InvalidInput` when none of this name is open.
    """
    names = [review.reason for review in snapshot.record.open_reviews]
    if not isinstance(reason, str) or reason not in names:
        known = ", ".join(names) or "none"
        raise InvalidInput(
            f"{snapshot.id}: there is no open review {shown_name(reason)}; open: {known}"
        )
    draft = Draft(snapshot, flow, now_ms, Author(Cause.PERSON, actor))
    _close_reviews(draft, {reason}, actor, note)
    # What the review prevented goes on from here.
    draft.since_at_ms = now_ms
    draft.add_note(f"{reason} acknowledged by {actor}")
    return draft.plan()


def resolve(
    snapshot: Snapshot,
    flow: Flow,
    now_ms: int,
    *,
    state: State,
    amount: Decimal | None,
    actor: str,
    note: str,
) -> Plan:
    """Take a person's decision on where this payment is, while a review is open.

    The present state may be named too: it closes the open step and every open review. Raises
    `IllegalStep` for a state that `resolvable_states` does not list, `InvalidAmount` for a
    captured amount over the hold.
    """
    record = snapshot.record
    if in_flight(snapshot, now_ms):
        raise Conflict(f"{snapshot.id}: a step is on its way; refresh shows how it ended")
    if not record.open_reviews:
        raise IllegalStep(f"{snapshot.id}: nothing to resolve, no review is open")
    if amount is not None and state is not State.CAPTURED:
        raise InvalidInput("an amount belongs to captured only")
    draft = Draft(snapshot, flow, now_ms, Author(Cause.PERSON, actor))
    _walk(draft, state, f"resolved by {actor}")
    if state is State.CAPTURED and record.state is not State.CAPTURED:
        draft.captured_amount = _captured(snapshot, amount)
    _close_reviews(draft, {review.reason for review in record.open_reviews}, actor, note)
    draft.close_operation(f"resolved by {actor}")
    if state is not record.state:
        draft.otp = None
        draft.confirming = False
    draft.pay_given_up_at_ms = None
    draft.since_at_ms = now_ms
    draft.add_note(f"resolved as {state} by {actor}")
    if state is not record.state:
        warn_of_siblings_with_money(draft)
    return with_siblings_warned(draft.plan(), flow, now_ms, draft.author)


def resolvable_states(snapshot: Snapshot) -> tuple[State, ...]:
    """Return the other states that a person may put this payment in.

    Those that the chart leads to, and that the payment can live in: `initiated` needs an
    attempt, and `otp_pending` an OTP page, which a UPI payment never has.
    """
    record = snapshot.record
    attempted = record.cf_payment_id is not None
    impossible = {record.state}
    if not attempted:
        impossible.add(State.INITIATED)
    if record.otp is None or record.otp.accepted:
        impossible.add(State.OTP_PENDING)
    return tuple(
        state
        for state in State
        if state not in impossible and _way(record.state, state, attempted=attempted)
    )


def _way(source: State, target: State, *, attempted: bool) -> tuple[Trigger, ...]:
    try:
        return walk(source, target, attempted=attempted)
    except MachineError:
        return ()


def _walk(draft: Draft, state: State, reason: str) -> None:
    """Walk the chart's edges to a state; a final state has none, for a person either."""
    if draft.state is state:
        return
    possible = resolvable_states(draft.snapshot)
    if state not in possible:
        way = "has no way out" if draft.state in FINAL else f"has no way to {state}"
        known = f"; possible: {', '.join(possible)}" if possible else ""
        raise IllegalStep(f"{draft.snapshot.id}: {draft.state} {way} in the chart{known}")
    for trigger in _way(draft.state, state, attempted=draft.cf_payment_id is not None):
        draft.fire(trigger, None, reason)


def _captured(snapshot: Snapshot, amount: Decimal | None) -> Decimal | None:
    held = snapshot.record.amount_held
    held = snapshot.record.amount if held is None else held
    if amount is None:
        return held
    exact = amount_of(amount)
    if held is not None and exact > held:
        raise InvalidAmount(f"{exact} is more than the {held} held")
    return exact


def _close_reviews(draft: Draft, reasons: set[str], actor: str, note: str) -> None:
    def closed(review: Review) -> Review:
        if review.acknowledged_at_ms is not None or review.reason not in reasons:
            return review
        return msgspec.structs.replace(
            review, actor=actor, note=note, acknowledged_at_ms=draft.now_ms
        )

    draft.reviews = tuple(closed(review) for review in draft.reviews)
    if any(Effect.BLOCKS_PAY in effect_of(reason) for reason in reasons):
        draft.foreign_money = tuple(
            msgspec.structs.replace(foreign, is_closed=True)
            if foreign.n == draft.snapshot.n
            else foreign
            for foreign in draft.foreign_money
        )
