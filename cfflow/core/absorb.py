"""How one payment entity changes a draft: the state it proves, the money, the operation.

Nothing here goes back. A contradiction of a final state, or a money fact that shrinks or
grows over the hold, changes nothing and opens a review; an answer that was asked for
before the last move is stale and proves nothing against it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from cfflow.core.chart import FINAL, State
from cfflow.core.draft import Draft
from cfflow.core.money import without_noise
from cfflow.core.observation import Observation, prove
from cfflow.core.operation import CLOCK_ERROR_MS
from cfflow.core.record import Operation, Step

__all__ = ["absorb", "compare_order", "own"]

_BEFORE_MONEY: Final = frozenset({State.CREATED, State.INITIATED, State.OTP_PENDING})

_WANTED: Final = {Step.CAPTURE: "CAPTURE", Step.VOID: "VOID"}

_REACHES: Final = {Step.CAPTURE: State.CAPTURED, Step.VOID: State.VOIDED}


def own(draft: Draft, observation: Observation) -> None:
    """Make this attempt ours; the store refuses the commit if another payment has it."""
    draft.set(cf_payment_id=observation.cf_payment_id)
    _held_amount(draft, observation)


def absorb(draft: Draft, observation: Observation, asked_at_ms: int) -> None:
    """Apply a payment entity that was asked for at `asked_at_ms`; skip one that is not ours."""
    if observation.cf_payment_id != draft.get("cf_payment_id") or not observation.is_entity:
        return
    target = prove(observation).state
    if target is not None and not _agrees(draft, observation, target, asked_at_ms):
        return
    draft.asked(asked_at_ms)
    # Without the order's own amount, what was paid is all that can be compared.
    charged = _first_known(observation.order_amount, observation.payment_amount)
    compare_order(draft, charged, observation.currency)
    _held_amount(draft, observation)
    if target is not None:
        _move(draft, observation, target, asked_at_ms)
    _settle_operation(draft, observation, asked_at_ms)


def _agrees(draft: Draft, observation: Observation, target: State, asked_at_ms: int) -> bool:
    """Say whether the observation may be applied, and report it where it may not."""
    backwards = draft.state is State.AUTHORIZED and target is State.FAILED
    if draft.state is target or not (backwards or draft.state in FINAL | {State.FAILED}):
        return True
    # Going back needs a question that is surely younger; within one millisecond none is. One
    # from the future was timed before the store's clock went back: nobody knows how old it is.
    is_fresh = draft.was.moved_at_ms + backwards <= asked_at_ms <= draft.now_ms + CLOCK_ERROR_MS
    if not is_fresh:
        # It does not count as asked, so the same question is due again.
        return False
    if draft.state in FINAL:
        draft.asked(asked_at_ms)
        draft.review(f"contradicts_{draft.state}", f"the gateway says {observation.summary()}")
        return False
    return True


def compare_order(draft: Draft, charged: Decimal | None, currency: str | None) -> None:
    """Open a review where the gateway's order is not the one that `start` was given.

    `charged` is the order's own amount: fees and offers may change what is paid of it. The
    payment shows the gateway's value; which of the two is right only a person knows.
    """
    amount, started_in = draft.was.amount, draft.was.currency
    if amount is not None and charged is not None and amount != charged:
        detail = f"start was given {amount}, the gateway's order is of {charged}"
        draft.review("order_amount_differs", detail)
    if currency and currency.upper() != started_in:
        detail = f"start was given {started_in}, the gateway has {currency[:8]}"
        draft.review("currency_differs", detail)


def _move(draft: Draft, observation: Observation, target: State, asked_at_ms: int) -> None:
    """Walk to the state that was proven, and take the facts that belong to it."""
    came_from = draft.state
    draft.walk_to(target, observation)
    # The customer's turn is over for good; what was left of it is of no use to anybody.
    draft.set(otp=None)
    _flow_reviews(draft, observation, came_from, target, asked_at_ms)
    if came_from is State.FAILED and target is not State.FAILED:
        draft.set(failure=None)
        draft.review("late_authorization", f"after it had failed: {observation.summary()}")
    if target is State.FAILED and observation.failure is not None:
        draft.set(failure=observation.failure)
    if target is State.AUTHORIZED:
        _hold_end(draft, observation)
    if target is State.CAPTURED:
        _captured_amount(draft, observation, first=came_from is not State.CAPTURED)


def _flow_reviews(
    draft: Draft, observation: Observation, came_from: State, target: State, asked_at_ms: int
) -> None:
    """The gateway did something else than the flow asked for: say so, never repair it.

    A time is over only when an answer was asked for after its end.
    """
    operation: Operation | None = draft.get("operation")
    automatic = draft.flow.capture == "automatic"
    polled = asked_at_ms >= draft.was.moved_at_ms + draft.flow.poll.after_s[0] * 1000
    still_held = came_from is target is State.AUTHORIZED and operation is None
    if automatic and still_held and polled:
        draft.review("held_not_captured", "an automatic flow's money is still only held")
    ends_at_ms = draft.get("hold_expires_at_ms")
    if (
        came_from is target is State.AUTHORIZED
        and ends_at_ms is not None
        and asked_at_ms >= ends_at_ms
    ):
        draft.review("hold_lapsed", "the hold is past its end and the gateway still shows it")
    asked = operation is not None and operation.step is Step.CAPTURE
    if draft.get("abandoned") and target is State.CAPTURED is not came_from and not asked:
        draft.review("abandoned_and_paid", "its order was free for another payment by then")
    # CAPTURE shows that the money was held first, whoever asked for it to be taken.
    at_once = observation.authorization_action != "CAPTURE"
    before_hold = came_from in _BEFORE_MONEY | {State.FAILED}
    if not automatic and target is State.CAPTURED and before_hold and at_once:
        draft.review("captured_without_hold", "a manual flow's money was taken at once")


def _held_amount(draft: Draft, observation: Observation) -> None:
    amount = observation.payment_amount
    if amount is None:
        return
    held, taken = _stored(draft.get("amount_held")), draft.get("captured_amount")
    if held is None and taken is not None and taken > amount:
        draft.review("captured_over_hold", f"captured {taken} of {amount}, says the gateway")
    elif held is None or draft.state in _BEFORE_MONEY:
        draft.set(amount_held=amount)
    elif held != amount:
        draft.review("amount_changed", f"the gateway says {amount}, it said {held} before")


def _hold_end(draft: Draft, observation: Observation) -> None:
    """The mandate's own end wins; else the hold lapses by the flow, from the bank's own time.

    Where the kind of card is learned later, the end is calculated again from the same time.
    """
    if observation.hold_expires_at_ms is not None:
        draft.set(hold_expires_at_ms=observation.hold_expires_at_ms, hold_began_at_ms=None)
        return
    began_at_ms = draft.get("hold_began_at_ms")
    kind = "upi" if observation.method == "upi" else observation.card_kind
    learned = began_at_ms is not None and kind is not None
    if draft.get("hold_expires_at_ms") is None or learned:
        if began_at_ms is None:
            began_at_ms = min(observation.paid_at_ms or draft.now_ms, draft.now_ms)
        lasts_ms = draft.flow.hold_rules.lasts_s(kind) * 1000
        draft.set(hold_expires_at_ms=began_at_ms + lasts_ms, hold_began_at_ms=began_at_ms)


def _captured_amount(draft: Draft, observation: Observation, *, first: bool) -> None:
    """The gateway's amount, else the operation's, else the payment's; never over the hold."""
    operation: Operation | None = draft.get("operation")
    held = _first_known(_stored(draft.get("amount_held")), draft.was.amount)
    said = _within(draft, observation.captured_amount, held, "says the gateway")
    if first or draft.get("captured_amount") is None:
        asked = operation.amount if operation and operation.step is Step.CAPTURE else None
        asked = None if said is not None else _within(draft, asked, held, "was asked for")
        draft.set(captured_amount=_first_known(said, asked, held))
        wanted = operation.amount if operation and operation.step is Step.CAPTURE else None
        if said is not None and wanted is not None and said != wanted:
            detail = f"the gateway captured {said}, {wanted} was asked for"
            draft.review("captured_amount_changed", detail)
    elif said is not None and said != draft.get("captured_amount"):
        known = draft.get("captured_amount")
        draft.review("captured_amount_changed", f"the gateway says {said}, it said {known} before")


def _within(draft: Draft, amount: Decimal | None, held: Decimal | None, who: str) -> Decimal | None:
    """Return a captured amount, None for one over the hold, which a person must look at."""
    if amount is None or held is None or amount <= held:
        return amount
    draft.review("captured_over_hold", f"captured {amount} of {held}, {who}")
    return None


def _stored(amount: Decimal | None) -> Decimal | None:
    """Return an amount of the record; one that version 0.1 wrote may have a float's noise."""
    return None if amount is None else without_noise(amount)


def _first_known(*amounts: Decimal | None) -> Decimal | None:
    return next((amount for amount in amounts if amount is not None), None)


def _settle_operation(draft: Draft, observation: Observation, asked_at_ms: int) -> None:
    """Close the operation that this observation answers; the bank's PENDING keeps it open."""
    operation: Operation | None = draft.get("operation")
    pending = observation.authorization_status == "PENDING"
    draft.set(confirming=pending and draft.state in FINAL | {State.AUTHORIZED})
    if operation is None:
        return
    if operation.step in _WANTED:
        _settle_authorize(draft, operation, observation, asked_at_ms, pending=pending)
    elif draft.state is not State.OTP_PENDING or operation.step is Step.PAY:
        draft.close_operation("done")


def _settle_authorize(
    draft: Draft, operation: Operation, observation: Observation, asked_at_ms: int, *, pending: bool
) -> None:
    if pending and observation.authorization_action == _WANTED[operation.step]:
        if not operation.accepted:
            accepted = msgspec.structs.replace(operation, accepted=True)
            draft.set(operation=accepted, since_at_ms=draft.now_ms)
    elif draft.state is _REACHES[operation.step]:
        draft.close_operation("done")
    elif draft.state in FINAL | {State.FAILED}:
        draft.close_operation(f"overtaken: {draft.state}")
    else:
        # Only a hold that nobody touched permits to send the step again.
        untouched = observation.payment_status == "SUCCESS" and not (
            observation.authorization_action or observation.authorization_status
        )
        not_seen_at_ms = asked_at_ms if untouched else None
        draft.set(operation=msgspec.structs.replace(operation, not_seen_at_ms=not_seen_at_ms))
