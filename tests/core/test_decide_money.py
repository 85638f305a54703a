"""Money facts: no step back, no effect of stale answers, a review for contradictions."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import Any

import msgspec
import pytest

from cfflow.core.chart import State
from cfflow.core.decide import Inquired, TimePassed, decide
from cfflow.core.due import Ask, what_to_ask
from cfflow.core.observation import Failure, Observation
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.record import HISTORY_MAX, EntryKind, Record, Sibling, payment_id, split_id
from tests.core.core_kit import (
    AMOUNT,
    DAY,
    FOREIGN,
    HOUR,
    NATIVE,
    OURS,
    PREAUTH,
    SECOND,
    T0,
    a_created,
    a_payment,
    an_otp_page,
    answered,
    decided,
    entity,
    inquired,
    jittered,
    opened,
    otp_result,
    reasons,
    states_walked,
    taken,
)

PROOFS = {
    State.AUTHORIZED: entity(is_captured=False),
    State.CAPTURED: taken(),
    State.VOIDED: entity("VOID"),
    State.FAILED: entity("FAILED"),
}
ENDS = (State.CAPTURED, State.VOIDED)


def money(held: Snapshot) -> tuple[Any, ...]:
    """Return state and money of a payment."""
    r = held.record
    return r.state, r.amount_held, r.captured_amount, r.hold_expires_at_ms, r.failure


def seen(held: Snapshot, *observations: Observation, at_ms: int, asked_at_ms: int = -1) -> Snapshot:
    """Return an automatic payment after an inquiry."""
    return decided(
        held, inquired(*observations, asked_at_ms=at_ms if asked_at_ms < 0 else asked_at_ms), at_ms
    )


@pytest.mark.parametrize(("end", "proven"), tuple(product(ENDS, PROOFS)))
def test_a_contradicted_end_changes_nothing_and_opens_a_review(end: State, proven: State) -> None:
    """Captured and voided are final, whatever later answers show and however often."""
    held = a_payment(end)
    now = held
    for minute in (1, 2, 3):
        now = seen(now, PROOFS[proven], at_ms=T0 + minute * 60 * SECOND)
    assert money(now) == money(held)
    assert now.record.wake_at_ms is None
    assert reasons(now) == ([] if proven is end else [f"contradicts_{end}"])


@pytest.mark.parametrize(
    ("state", "proven"),
    [
        (State.CAPTURED, State.AUTHORIZED),
        (State.CAPTURED, State.FAILED),
        (State.VOIDED, State.AUTHORIZED),
        (State.FAILED, State.AUTHORIZED),
        (State.FAILED, State.CAPTURED),
        (State.AUTHORIZED, State.FAILED),
    ],
)
def test_what_was_asked_before_the_last_move_proves_nothing_against_it(
    state: State, proven: State
) -> None:
    """A stale answer changes neither state nor money and opens no review."""
    held = a_payment(state)
    now = seen(held, PROOFS[proven], at_ms=T0 + SECOND, asked_at_ms=T0 - 1)
    assert money(now) == money(held)
    assert reasons(now) == []
    if state not in ENDS:
        assert now.record.wake_at_ms is not None
        assert now.record.wake_at_ms <= T0 + jittered(5 * SECOND)


def test_a_stale_answer_that_is_further_along_is_still_true() -> None:
    """Captured money stays captured: an old answer about it is still a proof."""
    now = seen(a_payment(State.AUTHORIZED), taken(), at_ms=T0 + SECOND, asked_at_ms=T0 - 1)
    assert now.record.state is State.CAPTURED


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("status", ["PENDING", "NOT_ATTEMPTED", "FLAGGED", "INCOMPLETE", "X", None])
def test_nothing_new_moves_nothing_in_any_state(state: State, status: str | None) -> None:
    """Row 6 only moves counters and the wake."""
    held = a_payment(state)
    now = seen(held, entity(status, payment_amount=None), at_ms=T0 + 60 * SECOND)
    assert money(now) == money(held)
    assert now.record.history == held.record.history
    assert reasons(now) == []


@pytest.mark.parametrize("proven", [State.AUTHORIZED, State.CAPTURED, State.VOIDED])
def test_money_after_a_failure_revives_and_opens_a_review(proven: State) -> None:
    """A late authorization walks revive, drops the failure and opens a review."""
    failure = Failure("E1", "declined", "bank", "no")
    held = seen(an_otp_page(), entity("FAILED", failure=failure), at_ms=T0)
    assert held.record.failure == failure
    plan = decide(held, inquired(PROOFS[proven], asked_at_ms=T0 + HOUR), NATIVE, T0 + HOUR)
    assert plan.walked[0].trigger == "revive"
    assert plan.record.state is proven
    assert plan.record.failure is None
    assert "late_authorization" in reasons(plan.snapshot)
    assert states_walked(plan.record)[-1] == proven


@pytest.mark.parametrize(
    ("reported", "asked", "payment_amount", "kept"),
    [
        (Decimal(3), Decimal(4), AMOUNT, Decimal(3)),
        (None, Decimal(4), AMOUNT, Decimal(4)),
        (None, None, AMOUNT, AMOUNT),
        (Decimal(0), None, AMOUNT, Decimal(0)),
    ],
)
def test_the_captured_amount_is_the_gateways_else_the_operations_else_the_payments(
    reported: Decimal | None, asked: Decimal | None, payment_amount: Decimal, kept: Decimal
) -> None:
    """The first known one in that order; one that differs from the request is reviewed."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    if asked is not None:
        held = opened(held, Step.CAPTURE, T0, PREAUTH, amount=asked)
    proof = taken(captured_amount=reported, payment_amount=payment_amount)
    held = decided(held, inquired(proof, asked_at_ms=T0 + 1), T0 + 1, PREAUTH)
    assert held.record.captured_amount == kept
    differs = reported is not None and asked is not None and reported != asked
    assert reasons(held) == (["captured_amount_changed"] if differs else [])


@pytest.mark.parametrize("state", [State.CREATED, State.OTP_PENDING, State.AUTHORIZED])
def test_a_captured_amount_over_the_hold_is_not_stored(state: State) -> None:
    """The reference page shows 100 of 10.01: captured, but not that amount, and reviewed."""
    held = a_payment(state)
    if state is State.CREATED:
        held = opened(held, Step.PAY, T0)
    event = Inquired((taken(captured_amount=Decimal(100)),), T0 + 1, everything=True)
    held = decided(held, event, T0 + 1)
    assert (held.record.state, held.record.captured_amount) == (State.CAPTURED, AMOUNT)
    assert "captured_over_hold" in reasons(held)


def test_a_captured_amount_never_changes_once_it_is_known() -> None:
    """Another amount later is a review, not a correction; the first one known is kept."""
    held = seen(an_otp_page(), taken(captured_amount=Decimal(4)), at_ms=T0)
    now = seen(held, taken(captured_amount=Decimal(5)), at_ms=T0 + SECOND)
    assert now.record.captured_amount == Decimal(4)
    assert reasons(now) == ["captured_amount_changed"]
    silent = seen(held, taken(captured_amount=None), at_ms=T0 + SECOND)
    assert (silent.record.captured_amount, reasons(silent)) == (Decimal(4), [])


def test_an_unknown_captured_amount_is_stored_when_it_is_first_reported() -> None:
    """Captured without an amount: the first reported amount is taken, up to the hold."""
    held = opened(a_created(amount=None), Step.PAY, T0)
    bare = taken(payment_amount=None)
    held = decided(held, Inquired((bare,), T0 + 1, everything=True), T0 + 1)
    assert (held.record.state, held.record.captured_amount) == (State.CAPTURED, None)
    held = seen(held, taken(captured_amount=Decimal(4)), at_ms=T0 + 2)
    assert (held.record.captured_amount, held.record.amount_held) == (Decimal(4), AMOUNT)
    assert reasons(held) == []


def test_a_hold_learned_after_the_capture_is_never_less_than_what_was_taken() -> None:
    """100 was captured while the hold was unknown; a hold of 10.01 then is a review."""
    held = opened(a_created(amount=None), Step.PAY, T0)
    first = taken(captured_amount=Decimal(100), payment_amount=None)
    held = decided(held, Inquired((first,), T0 + 1, everything=True), T0 + 1)
    held = seen(held, taken(), at_ms=T0 + 2)
    captured, amount_held = held.record.captured_amount, held.record.amount_held
    assert captured is not None
    assert amount_held is None or captured <= amount_held
    assert reasons(held) != []


@pytest.mark.parametrize("payment_amount", [Decimal(0), Decimal(3)])
def test_no_captured_amount_of_any_origin_is_over_the_gateways_hold(
    payment_amount: Decimal,
) -> None:
    """A hold that is smaller than the request or the order counts with its own amount."""
    page = seen(an_otp_page(), entity(payment_amount=None), at_ms=T0)
    proof = taken(payment_amount=payment_amount)
    asked = opened(page, Step.CAPTURE, T0, amount=Decimal(4))
    for held in (an_otp_page(), page, asked):
        now = seen(held, proof, at_ms=T0 + 1)
        assert now.record.amount_held == now.record.captured_amount == payment_amount
        assert ("captured_over_hold" in reasons(now)) is (held is asked)


def test_the_amount_held_is_the_gateways_and_is_fixed_once_held() -> None:
    """Fees make it differ from the order's amount; a later, different one is a review."""
    other = Decimal("10.31")
    held = seen(an_otp_page(), entity(payment_amount=other), at_ms=T0)
    assert held.record.amount_held == other
    now = seen(held, entity(payment_amount=AMOUNT), at_ms=T0 + SECOND)
    assert now.record.amount_held == other
    assert "amount_changed" in reasons(now)


def test_the_hold_ends_at_the_gateways_time_else_by_the_flow_from_the_banks_time() -> None:
    """`authorization.end_time` wins, also later; a card of unknown kind counts as debit."""
    page = an_otp_page(PREAUTH)
    paid_at_ms = T0 - HOUR
    held = decided(page, inquired(entity(paid_at_ms=paid_at_ms), asked_at_ms=T0), T0, PREAUTH)
    assert held.record.hold_expires_at_ms == paid_at_ms + 3 * DAY
    # A day before the end the feed tells of it.
    assert held.record.wake_at_ms == paid_at_ms + 2 * DAY
    reported = entity(hold_expires_at_ms=T0 + 2 * DAY, paid_at_ms=paid_at_ms)
    held = decided(held, inquired(reported, asked_at_ms=T0 + 1), T0 + 1, PREAUTH)
    assert held.record.hold_expires_at_ms == T0 + 2 * DAY
    held = decided(
        held, inquired(entity(paid_at_ms=paid_at_ms), asked_at_ms=T0 + 2), T0 + 2, PREAUTH
    )
    assert held.record.hold_expires_at_ms == T0 + 2 * DAY
    future = decided(page, inquired(entity(paid_at_ms=T0 + DAY), asked_at_ms=T0), T0, PREAUTH)
    assert future.record.hold_expires_at_ms == T0 + 3 * DAY


def test_an_automatic_flow_that_is_still_held_after_the_first_poll_is_reviewed() -> None:
    """Not at the proof, not before the first poll; and cfflow does not capture it unasked."""
    held = seen(an_otp_page(), entity(is_captured=False), at_ms=T0)
    assert reasons(held) == []
    assert held.record.wake_at_ms is not None
    assert T0 + 5 * SECOND <= held.record.wake_at_ms <= T0 + jittered(5 * SECOND)
    soon = seen(held, entity(), at_ms=T0 + 5 * SECOND - 1)
    assert reasons(soon) == []
    held = seen(held, entity(), at_ms=T0 + 5 * SECOND)
    assert (reasons(held), held.record.operation) == (["held_not_captured"], None)
    manual = a_payment(State.AUTHORIZED, PREAUTH)
    manual = decided(manual, inquired(entity(), asked_at_ms=T0 + HOUR), T0 + HOUR, PREAUTH)
    assert reasons(manual) == []


@pytest.mark.parametrize("state", [State.INITIATED, State.OTP_PENDING, State.FAILED])
def test_a_manual_flow_whose_money_was_taken_at_once_is_reviewed(state: State) -> None:
    """The merchant wanted a hold; a capture out of our own hold is what was wanted."""
    held = a_payment(state, PREAUTH)
    held = decided(held, inquired(taken(), asked_at_ms=T0 + 1), T0 + 1, PREAUTH)
    assert "captured_without_hold" in reasons(held)
    held = a_payment(State.AUTHORIZED, PREAUTH)
    held = decided(held, inquired(taken(), asked_at_ms=T0 + 1), T0 + 1, PREAUTH)
    assert reasons(held) == []


def test_an_inquiry_answered_about_another_attempt_proves_nothing_about_ours() -> None:
    """Neither state nor money change, and the next inquiry keeps its time."""
    held = an_otp_page()
    now = seen(held, taken(cf_payment_id=FOREIGN), at_ms=T0 + SECOND)
    assert money(now) == money(held)
    assert now.record.cf_payment_id == OURS


# wake times


@pytest.mark.parametrize(
    ("state", "wake_at_ms"),
    [
        (State.CREATED, T0 + DAY),
        (State.INITIATED, T0 + 5 * SECOND),
        (State.OTP_PENDING, T0 + 300 * SECOND),
        (State.AUTHORIZED, T0 + 2 * DAY),
        (State.CAPTURED, None),
        (State.VOIDED, None),
        (State.FAILED, T0 + 5 * SECOND),
    ],
)
def test_each_state_is_looked_at_again_except_an_end(state: State, wake_at_ms: int | None) -> None:
    """The wake of each state under a manual flow, with nothing open."""
    found = a_payment(state, PREAUTH).record.wake_at_ms
    if wake_at_ms is None or found is None:
        assert found is wake_at_ms
    else:
        assert wake_at_ms <= found <= T0 + jittered(wake_at_ms - T0)


def test_the_polls_follow_the_flows_schedule_and_repeat_its_last() -> None:
    """After 5, 10, 20, 60, 300, 900, 3600 seconds, and then every hour."""
    held, before_s = a_payment(State.INITIATED), 0
    for offset_s in (5, 10, 20, 60, 300, 900, 3600, 7200, 10800):
        now_ms = held.record.wake_at_ms
        assert now_ms is not None
        gap_ms, before_s = (offset_s - before_s) * SECOND, offset_s
        assert 0 <= now_ms - T0 - offset_s * SECOND <= gap_ms // 10
        assert what_to_ask(held, now_ms) is Ask.PAYMENT
        held = seen(held, entity("PENDING"), at_ms=now_ms)


def test_a_hold_that_nears_its_end_is_asked_about_by_the_schedule() -> None:
    """One a day before the end; from the time to act on the polls never stop."""
    held, before_s = a_payment(State.AUTHORIZED, PREAUTH), 0
    assert held.record.wake_at_ms == T0 + 2 * DAY
    held = decided(held, inquired(entity(), asked_at_ms=T0 + 2 * DAY), T0 + 2 * DAY, PREAUTH)
    act_ms = held.record.wake_at_ms
    assert act_ms == T0 + 3 * DAY - 21_600 * SECOND
    held = decided(held, inquired(entity(), asked_at_ms=act_ms), act_ms, PREAUTH)
    for offset_s in (5, 10, 20, 60):
        now_ms = held.record.wake_at_ms
        assert now_ms is not None
        gap_ms, before_s = (offset_s - before_s) * SECOND, offset_s
        assert 0 <= now_ms - act_ms - offset_s * SECOND <= gap_ms // 10
        held = decided(held, inquired(entity(), asked_at_ms=now_ms), now_ms, PREAUTH)


def test_a_failed_payment_is_watched_for_late_money_and_then_let_go() -> None:
    """Three days by the flow; at its end there is no wake any more."""
    held, now_ms, asked = a_payment(State.FAILED), T0, 0
    while held.record.wake_at_ms is not None:
        now_ms = held.record.wake_at_ms
        held = seen(held, entity("FAILED"), at_ms=now_ms)
        asked += 1
        assert asked < 100
    assert now_ms == T0 + 259_200 * SECOND
    assert held.record.state is State.FAILED


# the record


def test_the_history_is_capped_and_still_a_path_to_the_state() -> None:
    """At most 64 lines stay, operations go first, and the rest still walks the chart."""
    held, now_ms = a_payment(State.FAILED), T0
    for _ in range(60):
        now_ms += SECOND
        held = seen(held, entity(), at_ms=now_ms)
        now_ms += SECOND
        held = seen(held, entity("FAILED"), at_ms=now_ms)
        assert len(held.record.history) <= HISTORY_MAX
        assert states_walked(held.record)[-1] == held.record.state
    assert len(held.record.history) == HISTORY_MAX
    assert EntryKind.OPERATION not in {entry.kind for entry in held.record.history}
    assert held.record.history_from in {State.AUTHORIZED, State.FAILED}


def a_sale() -> Snapshot:
    """Return a captured sale of six transitions: two wrong OTPs, then the right one."""
    held = an_otp_page()
    for reported in (("FAILED",), ("FAILED",), ("SUCCESS", "money")):
        held = opened(held, Step.SUBMIT_OTP, T0 + 20 * SECOND)
        answer = [otp_result(reported[0])]
        if len(reported) == 2:
            answer.append(taken(captured_amount=AMOUNT))
        held = decided(held, answered(held, *answer, asked_at_ms=T0), T0 + 21 * SECOND)
    return held


def test_a_sale_of_six_transitions_is_stored_in_less_than_400_bytes() -> None:
    """The record stays small, and comes back as it was."""
    record = msgspec.structs.replace(a_sale().record, token="0123456789ab")
    assert len(states_walked(record)) - 1 == 6
    blob = msgspec.msgpack.encode(record)
    assert len(blob) < 400
    assert msgspec.msgpack.decode(blob, type=Record) == record


def test_the_leading_fields_are_those_that_siblings_need() -> None:
    """A commit about one payment decodes no more than these of the others."""
    for state in State:
        record = msgspec.structs.replace(a_payment(state).record, token="tok")
        sibling = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Sibling)
        names = Sibling.__struct_fields__
        assert Record.__struct_fields__[: len(names)] == names
        assert [getattr(sibling, name) for name in names] == [getattr(record, n) for n in names]


def test_a_record_of_a_newer_schema_is_read_and_an_older_one_filled_up() -> None:
    """Fields are only appended: unknown ones are skipped, missing ones have defaults."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(a_sale().record))
    newer = msgspec.msgpack.encode([*fields, "of tomorrow"])
    assert msgspec.msgpack.decode(newer, type=Record) == a_sale().record
    older = msgspec.msgpack.decode(msgspec.msgpack.encode(fields[:-2]), type=Record)
    assert (older.metadata, older.confirming) == (None, False)


@pytest.mark.parametrize("text", ["a", "a.", ".1", "a.0", "a.01", "a.-1", "a.1x", "a.١", "a.1 "])
def test_what_is_no_payment_id_is_not_split(text: str) -> None:
    """Only `<order_id>.<n>` with n from 1 is one; an order id may itself hold dots."""
    assert split_id(text) is None
    assert split_id(payment_id("order.2_x", 3)) == ("order.2_x", 3)


def test_time_alone_moves_no_state_and_no_money() -> None:
    """Time that passes proves nothing; only an answer of the gateway does."""
    for state in State:
        held = a_payment(state, PREAUTH)
        for now_ms in (T0, T0 + 400 * SECOND, T0 + 8 * DAY, T0 + 400 * DAY):
            assert money(decided(held, TimePassed(), now_ms, PREAUTH)) == money(held)


@pytest.mark.parametrize("state", [State.AUTHORIZED, State.FAILED, State.OTP_PENDING])
def test_a_hold_that_is_shown_after_its_end_is_reviewed_at_once(state: State) -> None:
    """Whatever the payment was before: a second look at the same answer must add nothing."""
    lapsed = entity(hold_expires_at_ms=T0 + DAY)
    page = an_otp_page(PREAUTH)
    if state is not State.OTP_PENDING:
        page = decided(page, inquired(lapsed, asked_at_ms=T0), T0, PREAUTH)
    if state is State.FAILED:
        page = decided(page, inquired(entity("FAILED"), asked_at_ms=T0 + HOUR), T0 + HOUR, PREAUTH)
    assert page.record.state is state
    for at_ms in (T0 + DAY, T0 + DAY + 1):
        page = decided(page, inquired(lapsed, asked_at_ms=at_ms), at_ms, PREAUTH)
        assert reasons(page).count("hold_lapsed") == 1
