"""How one payment entity changes a draft: the state it proves, the money, the operation.

Nothing here goes back. A contradiction of a final state, or a money fact that shrinks or
grows over the hold, changes nothing and opens a review; an answer that was asked for
before the last move is stale and proves nothing against it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import msgspec

from cfflow.core.chart import FINAL, HOLDS, State
from cfflow.core.draft import Draft
from cfflow.core.money import without_noise
from cfflow.core.observation import Observation, masked_card, prove
from cfflow.core.operation import CLOCK_ERROR_MS, Operation, Step
from cfflow.core.record import GIVEN_UP, STEPS, Details, Entry, EntryKind, word_of
from cfflow.core.reviews import ReviewReason

_BEFORE_MONEY: Final = frozenset({State.CREATED, State.INITIATED, State.OTP_PENDING})

_WANTED: Final = {Step.CAPTURE: "CAPTURE", Step.VOID: "VOID"}

_REACHES: Final = {Step.CAPTURE: State.CAPTURED, Step.VOID: State.VOIDED}


def own(draft: Draft, observation: Observation) -> None:
    """Make this attempt ours. The caller has checked that no other payment of the order owns it."""
    draft.cf_payment_id = observation.cf_payment_id
    draft.foreign_money = tuple(
        foreign
        for foreign in draft.foreign_money
        if foreign.cf_payment_id != observation.cf_payment_id
    )
    describe(draft, observation)
    _held_amount(draft, observation)


def describe(draft: Draft, observation: Observation) -> None:
    """Take over what the gateway shows of the attempt; what it leaves out stays as it was."""
    held = draft.details or _asked_for(draft)
    draft.details = Details(
        method=_word(observation.method, held.method),
        channel=_word(observation.channel, held.channel),
        payment_group=_word(observation.payment_group, held.payment_group),
        masked=observation.masked or held.masked,
        bank_reference=observation.bank_reference or held.bank_reference,
        auth_id=observation.auth_id or held.auth_id,
        authorized_after_ms=held.authorized_after_ms,
        captured_after_ms=held.captured_after_ms,
    )


def _asked_for(draft: Draft) -> Details:
    """Return what the open pay was asked to pay with: its answer shows less of it."""
    operation = draft.operation
    if operation is None or operation.step is not Step.PAY:
        return Details()
    return Details(
        method=_word(operation.method),
        channel=_word(operation.channel),
        masked=operation.last_four and masked_card(operation.last_four),
    )


def _word(text: str | None, before: int | str | None = None) -> int | str | None:
    return word_of(text) if text else before


def _stamp_times(draft: Draft, observation: Observation, came_from: State, target: State) -> None:
    """Store when the money was held and when it was taken, by the gateway's own time.

    By the store's where the gateway names none. A time before the payment's creation or in the
    future was not taken by this clock, and is set to the nearest possible one.
    """
    if came_from is target or target not in HOLDS:
        return
    details = draft.details or Details()
    paid_at_ms = observation.paid_at_ms or draft.now_ms
    authorized_after_ms = details.authorized_after_ms
    if came_from in _BEFORE_MONEY | {State.FAILED}:
        authorized_after_ms = _after(draft, paid_at_ms)
    captured_after_ms = details.captured_after_ms
    if target is State.CAPTURED:
        acted = observation.acted_at_ms if observation.authorization_action == "CAPTURE" else None
        at_once = paid_at_ms if came_from in _BEFORE_MONEY else draft.now_ms
        captured_after_ms = max(_after(draft, acted or at_once), authorized_after_ms or 0)
    draft.details = msgspec.structs.replace(
        details, authorized_after_ms=authorized_after_ms, captured_after_ms=captured_after_ms
    )


def _after(draft: Draft, at_ms: int) -> int:
    return min(max(at_ms, draft.was.created_at_ms), draft.now_ms) - draft.was.created_at_ms


def absorb(draft: Draft, observation: Observation, asked_at_ms: int) -> None:
    """Apply a payment entity that was asked for at `asked_at_ms`; skip one that is not ours."""
    if observation.cf_payment_id != draft.cf_payment_id or not observation.is_entity:
        return
    target = prove(observation).state
    if target is not None and not _agrees(draft, observation, target, asked_at_ms):
        return
    draft.asked(asked_at_ms)
    # Without the order's own amount, what was paid is all that can be compared.
    charged = _first_known(observation.order_amount, observation.payment_amount)
    compare_order(draft, charged, observation.currency)
    describe(draft, observation)
    _held_amount(draft, observation)
    if target is not None:
        _move(draft, observation, target, asked_at_ms)
    _settle_operation(draft, observation, asked_at_ms)


def _agrees(draft: Draft, observation: Observation, target: State, asked_at_ms: int) -> bool:
    """Whether the observation may be applied; a contradiction opens a review."""
    backwards = draft.state is State.AUTHORIZED and target is State.FAILED
    if draft.state is target or not (backwards or draft.state in FINAL | {State.FAILED}):
        return True
    # To go back, the inquiry must be later than the last move, by a millisecond at least. One
    # from the future was timed before the store's clock went back, so its age is not known.
    is_fresh = draft.was.moved_at_ms + backwards <= asked_at_ms <= draft.now_ms + CLOCK_ERROR_MS
    if not is_fresh:
        # It does not count as asked, so the same inquiry is due again.
        return False
    if draft.state in FINAL:
        draft.asked(asked_at_ms)
        captured = draft.state is State.CAPTURED
        draft.review(
            ReviewReason.CONTRADICTS_CAPTURED if captured else ReviewReason.CONTRADICTS_VOIDED,
            f"the gateway shows {observation.summary()}",
        )
        return False
    return True


def compare_order(draft: Draft, charged: Decimal | None, currency: str | None) -> None:
    """Open a review where the gateway's order is not the one that `start` was given.

    `charged` is the order's own amount: fees and offers may change what is paid of it. The
    payment shows the gateway's value; which of the two is right, a person has to find out.
    """
    amount, started_in = draft.was.amount, draft.was.currency
    if amount is not None and charged is not None and amount != charged:
        detail = f"start was given {amount}, the gateway's order is of {charged}"
        draft.review(ReviewReason.ORDER_AMOUNT_DIFFERS, detail)
    if currency and currency.upper() != started_in:
        detail = f"start was given {started_in}, the gateway has {currency[:8]}"
        draft.review(ReviewReason.CURRENCY_DIFFERS, detail)


def _move(draft: Draft, observation: Observation, target: State, asked_at_ms: int) -> None:
    """Walk to the state that was proven, and take the facts that belong to it."""
    came_from = draft.state
    draft.walk_to(target, observation)
    # The customer's turn is over for good, and its limits with it.
    draft.otp = None
    _flow_reviews(draft, observation, came_from, target, asked_at_ms)
    if came_from is State.FAILED and target is not State.FAILED:
        draft.failure = None
        draft.review(
            ReviewReason.LATE_AUTHORIZATION, f"after it had failed: {observation.summary()}"
        )
    if target is State.FAILED and observation.failure is not None:
        draft.failure = observation.failure
    if target is State.AUTHORIZED:
        _hold_end(draft, observation)
        _warn_of_lapsed_hold(draft, asked_at_ms)
    if target is State.CAPTURED:
        _captured_amount(draft, observation, first=came_from is not State.CAPTURED)
    _stamp_times(draft, observation, came_from, target)


def _flow_reviews(
    draft: Draft, observation: Observation, came_from: State, target: State, asked_at_ms: int
) -> None:
    """Review what the gateway did otherwise than the flow asked for; repair nothing.

    A time is over only when an inquiry was asked after its end.
    """
    operation = draft.operation
    automatic = draft.flow.capture == "automatic"
    polled = asked_at_ms >= draft.was.moved_at_ms + draft.flow.poll.after_s[0] * 1000
    still_held = came_from is target is State.AUTHORIZED and operation is None
    if automatic and still_held and polled:
        draft.review(ReviewReason.HELD_NOT_CAPTURED, "an automatic flow's money is still only held")
    asked = operation is not None and operation.step is Step.CAPTURE
    if draft.abandoned and target is State.CAPTURED is not came_from and not asked:
        draft.review(
            ReviewReason.ABANDONED_AND_PAID, "its order was free for another payment by then"
        )
    if came_from is not target and _acted_late(draft, target):
        done = "captured" if target is State.CAPTURED else "voided"
        draft.review(
            ReviewReason.GIVEN_UP_STEP_ACTED, f"{done} by a step that was given up for another"
        )
    # CAPTURE shows that the money was held first, whoever asked for it to be taken.
    at_once = observation.authorization_action != "CAPTURE"
    before_hold = came_from in _BEFORE_MONEY | {State.FAILED}
    if not automatic and target is State.CAPTURED and before_hold and at_once:
        draft.review(ReviewReason.CAPTURED_WITHOUT_HOLD, "a manual flow's money was taken at once")


def _warn_of_lapsed_hold(draft: Draft, asked_at_ms: int) -> None:
    """Review a hold that the gateway still shows after its end, one that came back too."""
    if draft.hold_expires_at_ms is not None and asked_at_ms >= draft.hold_expires_at_ms:
        draft.review(
            ReviewReason.HOLD_LAPSED, "the hold is past its end and the gateway still shows it"
        )


def _acted_late(draft: Draft, target: State) -> bool:
    """Whether a capture or void that was given up has brought about this end after all."""
    open_one = draft.was.operation
    if target not in FINAL or (open_one is not None and _REACHES.get(open_one.step) is target):
        return False
    given_up = [STEPS[line.code] for line in draft.was.history if _is_given_up(line)]
    return any(_REACHES.get(step) is target for step in given_up)


def _is_given_up(line: Entry) -> bool:
    is_operation = line.kind == EntryKind.OPERATION and 0 <= line.code < len(STEPS)
    return is_operation and line.text == GIVEN_UP


def _held_amount(draft: Draft, observation: Observation) -> None:
    amount = observation.payment_amount
    if amount is None:
        return
    held, taken = _stored(draft.amount_held), draft.captured_amount
    if held is None and taken is not None and taken > amount:
        draft.review(
            ReviewReason.CAPTURED_OVER_HOLD, f"the gateway shows {taken} captured of {amount}"
        )
    elif held is None or draft.state in _BEFORE_MONEY:
        draft.amount_held = amount
    elif held != amount:
        draft.review(
            ReviewReason.AMOUNT_CHANGED, f"the gateway shows {amount}, and showed {held} before"
        )


def _hold_end(draft: Draft, observation: Observation) -> None:
    """The mandate's own end wins; else the hold lapses by the flow, from the bank's own time.

    Where the kind of card is learned later, the end is calculated again from the same time.
    """
    if observation.hold_expires_at_ms is not None:
        draft.hold_expires_at_ms = observation.hold_expires_at_ms
        draft.hold_began_at_ms = None
        return
    began_at_ms = draft.hold_began_at_ms
    kind = "upi" if observation.method == "upi" else observation.card_kind
    learned = began_at_ms is not None and kind is not None
    if draft.hold_expires_at_ms is None or learned:
        if began_at_ms is None:
            began_at_ms = min(observation.paid_at_ms or draft.now_ms, draft.now_ms)
        lasts_ms = draft.flow.hold_rules.lasts_s(kind) * 1000
        draft.hold_expires_at_ms = began_at_ms + lasts_ms
        draft.hold_began_at_ms = began_at_ms


def _captured_amount(draft: Draft, observation: Observation, *, first: bool) -> None:
    """Take the gateway's amount, else the operation's, else the payment's; none over the hold."""
    operation, before = draft.operation, draft.captured_amount
    held = _first_known(_stored(draft.amount_held), draft.was.amount)
    wanted = operation.amount if operation and operation.step is Step.CAPTURE else None
    shown = _within(draft, observation.captured_amount, held, "as the gateway shows")
    if first or before is None:
        asked = None if shown is not None else _within(draft, wanted, held, "as was asked for")
        draft.captured_amount = _first_known(shown, asked, held)
        if shown is not None and wanted is not None and shown != wanted:
            detail = f"the gateway captured {shown}, {wanted} was asked for"
            draft.review(ReviewReason.CAPTURED_AMOUNT_CHANGED, detail)
    elif shown is not None and shown != before:
        detail = f"the gateway shows {shown}, and showed {before} before"
        draft.review(ReviewReason.CAPTURED_AMOUNT_CHANGED, detail)


def _within(draft: Draft, amount: Decimal | None, held: Decimal | None, who: str) -> Decimal | None:
    """Return a captured amount, None for one over the hold, which a person must look at."""
    if amount is None or held is None or amount <= held:
        return amount
    draft.review(ReviewReason.CAPTURED_OVER_HOLD, f"captured {amount} of {held}, {who}")
    return None


def _stored(amount: Decimal | None) -> Decimal | None:
    """Return an amount of the record; one that version 0.1 wrote may have a float's noise."""
    return None if amount is None else without_noise(amount)


def _first_known(*amounts: Decimal | None) -> Decimal | None:
    for amount in amounts:
        if amount is not None:
            return amount
    return None


def _settle_operation(draft: Draft, observation: Observation, asked_at_ms: int) -> None:
    """Close the operation that this observation answers; the bank's PENDING keeps it open."""
    operation = draft.operation
    pending = observation.authorization_status == "PENDING"
    draft.confirming = pending and draft.state in FINAL | {State.AUTHORIZED}
    if operation is None:
        return
    if operation.step in _WANTED:
        _settle_authorize(draft, operation, observation, asked_at_ms, pending=pending)
    elif draft.state is not State.OTP_PENDING or operation.step is Step.PAY:
        draft.close_operation("done", observation.request_id)


def _settle_authorize(
    draft: Draft, operation: Operation, observation: Observation, asked_at_ms: int, *, pending: bool
) -> None:
    if pending and observation.authorization_action == _WANTED[operation.step]:
        if not operation.accepted:
            accepted = msgspec.structs.replace(operation, accepted=True)
            draft.operation = accepted
            draft.since_at_ms = draft.now_ms
    elif draft.state is _REACHES[operation.step]:
        draft.close_operation("done", observation.request_id)
    elif draft.state in FINAL | {State.FAILED}:
        draft.close_operation(f"overtaken: {draft.state}", observation.request_id)
    else:
        # The step may be sent again only over a hold that is still untouched.
        untouched = observation.payment_status == "SUCCESS" and not (
            observation.authorization_action or observation.authorization_status
        )
        not_seen_at_ms = asked_at_ms if untouched else None
        draft.operation = msgspec.structs.replace(operation, not_seen_at_ms=not_seen_at_ms)
