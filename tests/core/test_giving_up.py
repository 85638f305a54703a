"""What may take the place of what: a lost capture or void, and an open payment of the order."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from cfflow.core.chart import State
from cfflow.core.decide import Ended
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot, why_not_replaced
from cfflow.core.record import GIVEN_UP, EntryKind, OtpTurn, Review
from cfflow.core.steps import allowed_steps
from cfflow.errors import IllegalStep
from tests.core.core_kit import (
    AMOUNT,
    PREAUTH,
    SECOND,
    T0,
    a_payment,
    begun,
    decided,
    entity,
    inquired,
    opened,
    reasons,
    sequence_of,
    taken,
    with_record,
)

TIMEOUT_MS = round(PREAUTH.pay.timeout_s * 1000)
#: When an inquiry must be asked at the earliest: 15 s after the first deadline.
OVER_AT = T0 + TIMEOUT_MS + 15 * SECOND

PAIRS = [(Step.CAPTURE, Step.VOID), (Step.VOID, Step.CAPTURE)]


def lost(step: Step, *, asked_at_ms: int, seen: Any = None) -> Snapshot:
    """Return a hold whose step was lost at T0, and an inquiry asked then."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), step, T0, PREAUTH)
    held = decided(held, Ended(sequence_of(held)), T0 + SECOND, PREAUTH)
    event = inquired(entity() if seen is None else seen, asked_at_ms=asked_at_ms)
    return decided(held, event, asked_at_ms, PREAUTH)


@pytest.mark.parametrize(("first", "other"), PAIRS)
def test_another_step_takes_the_place_of_a_lost_one_that_surely_did_nothing(
    first: Step, other: Step
) -> None:
    """With a key and number of its own; the lost one stays in the history."""
    held = lost(first, asked_at_ms=OVER_AT)
    assert other.value in allowed_steps(held, PREAUTH, OVER_AT)
    assert first.value not in allowed_steps(held, PREAUTH, OVER_AT)
    before = held.record.operation
    after = opened(held, other, OVER_AT, PREAUTH).record
    assert before is not None
    assert after.operation is not None
    assert (after.operation.step, after.operation.sequence) == (other, before.sequence + 1)
    assert after.operation.key != before.key
    last = after.history[-1]
    assert (last.kind, last.by, last.text) == (EntryKind.OPERATION, before.sequence, GIVEN_UP)


@pytest.mark.parametrize(("first", "other"), PAIRS)
def test_a_lost_step_that_may_still_act_is_not_replaced(first: Step, other: Step) -> None:
    """A millisecond too early, an inquiry that saw something, another attempt: not permitted."""
    early = lost(first, asked_at_ms=OVER_AT - 1)
    working = entity(authorization_action=first.name, authorization_status="PENDING")
    accepted = lost(first, asked_at_ms=OVER_AT, seen=working)
    elsewhere = with_record(
        lost(first, asked_at_ms=OVER_AT), reviews=(Review("other_attempt", T0 + 1),)
    )
    for held in (early, accepted, elsewhere):
        with pytest.raises(IllegalStep):
            begun(held, other, OVER_AT + SECOND, PREAUTH)
    with pytest.raises(IllegalStep):
        begun(lost(first, asked_at_ms=OVER_AT), first, OVER_AT, PREAUTH)


@pytest.mark.parametrize(("first", "other"), PAIRS)
@pytest.mark.parametrize("is_open", [True, False])
def test_a_late_effect_of_a_step_that_was_given_up_is_recognised(
    first: Step, other: Step, *, is_open: bool
) -> None:
    """The payment goes where the money is, and a person looks, whether the other is open or not."""
    held = opened(lost(first, asked_at_ms=OVER_AT), other, OVER_AT, PREAUTH)
    if not is_open:
        held = with_record(held, operation=None)
    late = taken(captured_amount=AMOUNT) if first is Step.CAPTURE else entity("VOID")
    ended = decided(held, inquired(late, asked_at_ms=OVER_AT + 1), OVER_AT + 1, PREAUTH)
    assert ended.record.state is (State.CAPTURED if first is Step.CAPTURE else State.VOIDED)
    assert ended.record.operation is None
    assert reasons(ended) == ["given_up_step_acted"]


@pytest.mark.parametrize(("first", "other"), PAIRS)
def test_the_step_that_took_the_place_ends_as_usual(first: Step, other: Step) -> None:
    """Its own effect is no late one."""
    held = opened(lost(first, asked_at_ms=OVER_AT), other, OVER_AT, PREAUTH)
    done = taken(captured_amount=AMOUNT) if other is Step.CAPTURE else entity("VOID")
    ended = decided(held, inquired(done, asked_at_ms=OVER_AT + 1), OVER_AT + 1, PREAUTH)
    assert reasons(ended) == []
    assert ended.record.history[-1].text == "done"


TURNS = [None, *product((False, True), (False, True))]


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("step", [None, *Step])
@pytest.mark.parametrize("turn", TURNS)
def test_an_open_payment_is_replaced_only_while_no_answer_is_owed(
    state: State, step: Step | None, turn: tuple[bool, bool] | None
) -> None:
    """No step open, before the money, its OTP neither accepted nor of unknown outcome."""
    otp = turn and OtpTurn(expires_at_ms=T0, sent_at_ms=T0, accepted=turn[0], unsure=turn[1])
    held = with_record(a_payment(state, PREAUTH), operation=None, otp=otp)
    if step is not None:
        pay = opened(a_payment(State.CREATED), Step.PAY, T0).record.operation
        assert pay is not None
        held = with_record(held, operation=msgspec.structs.replace(pay, step=step))
    open_states = {State.CREATED, State.INITIATED, State.OTP_PENDING}
    may = state in open_states and step is None and (turn is None or not any(turn))
    assert (why_not_replaced(held) is None) == may
