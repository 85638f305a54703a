"""A person's decision and the end of a hold: what is allowed, and what a worker does alone."""

from __future__ import annotations

from decimal import Decimal
from itertools import product

import msgspec
import pytest
from transitions import MachineError

from cfflow.core.chart import OPEN, State, fire, walk
from cfflow.core.decide import Disputed, decide
from cfflow.core.due import HoldEnd, due_hold
from cfflow.core.flow import Flow, parse
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.people import abandon, acknowledge, resolvable_states, resolve
from cfflow.core.plan import Plan
from cfflow.core.record import TRIGGERS, EntryKind
from cfflow.core.reviews import ReviewReason
from cfflow.errors import Conflict, IllegalStep, InvalidAmount, InvalidInput
from tests.core.core_kit import (
    AMOUNT,
    DAY,
    HOUR,
    NATIVE,
    PREAUTH,
    T0,
    a_payment,
    begun,
    beside,
    with_record,
)

LATER = T0 + 12_000
BY_NAME = {reason.value: reason for reason in ReviewReason}


def reviewed(state: State, reason: str = "no_answer", flow: Flow = NATIVE) -> Snapshot:
    """Return a payment in this state with one open review."""
    return decide(a_payment(state, flow), Disputed(BY_NAME[reason], "test"), flow, LATER).snapshot


def resolution(held: Snapshot, state: State, amount: Decimal | None = None) -> Plan:
    """Return the plan of a person's decision about the state of a payment."""
    return resolve(held, NATIVE, LATER, state=state, amount=amount, actor="asha", note="by phone")


def reachable(held: Snapshot, target: State) -> bool:
    """Return whether a person may choose this state: the chart leads there, and it is usable."""
    record = held.record
    no_attempt = target is State.INITIATED and record.cf_payment_id is None
    no_page = target is State.OTP_PENDING and record.otp is None
    try:
        walk(record.state, target)
    except MachineError:
        return False
    return not (no_attempt or no_page)


@pytest.mark.parametrize(("source", "target"), list(product(State, State)))
def test_a_decision_leads_only_where_the_chart_does(source: State, target: State) -> None:
    """The history stays a path; no caller can leave a final state."""
    held = reviewed(source)
    possible = resolvable_states(held)
    assert (target in possible) is (source is not target and reachable(held, target))
    if source is not target and not reachable(held, target):
        with pytest.raises(IllegalStep):
            resolution(held, target)
        return
    record = resolution(held, target).record
    here = record.history_from or State.CREATED
    for line in record.history:
        if line.kind == EntryKind.TRANSITION:
            here = fire(here, TRIGGERS[line.code])
    assert here is record.state is target
    assert not record.open_reviews
    assert record.operation is None


def test_a_decision_is_stored_with_its_actor_and_note() -> None:
    """In the review that it closes, and in the history."""
    record = resolution(reviewed(State.AUTHORIZED), State.CAPTURED).record
    (review,) = record.reviews
    assert (review.actor, review.note, review.acknowledged_at_ms) == ("asha", "by phone", LATER)
    assert record.history[-1].text == "resolved as captured by asha"
    assert record.captured_amount == AMOUNT


@pytest.mark.parametrize("amount", [Decimal("10.02"), Decimal(0), Decimal(-1)])
def test_no_decision_captures_zero_or_more_than_the_hold(amount: Decimal) -> None:
    """`0 < captured <= held`, also by hand."""
    with pytest.raises(InvalidAmount):
        resolution(reviewed(State.AUTHORIZED), State.CAPTURED, amount)


def test_an_amount_without_a_capture_makes_no_sense() -> None:
    """No field could store it."""
    with pytest.raises(InvalidInput):
        resolution(reviewed(State.AUTHORIZED), State.VOIDED, AMOUNT)


@pytest.mark.parametrize("state", State)
def test_without_a_review_no_decision_is_taken(state: State) -> None:
    """Without a review the gateway's answers decide."""
    with pytest.raises(IllegalStep):
        resolution(a_payment(state), State.FAILED)


def test_a_step_on_its_way_is_waited_for() -> None:
    """Its answer may come at any moment; a decision over it would race with the money."""
    held = begun(reviewed(State.AUTHORIZED, flow=PREAUTH), Step.CAPTURE, LATER, PREAUTH).snapshot
    with pytest.raises(Conflict):
        resolution(held, State.CAPTURED)


@pytest.mark.parametrize("state", State)
def test_only_an_open_payment_is_abandoned_and_only_once(state: State) -> None:
    """A payment that is over no longer blocks its order."""
    held = a_payment(state)
    if state not in OPEN:
        with pytest.raises(IllegalStep):
            abandon(held, NATIVE, LATER)
        return
    plan = abandon(held, NATIVE, LATER)
    assert (plan.record.state, plan.record.abandoned) == (state, True)
    assert plan.snapshot.next_action is None
    assert plan.record.wake_at_ms is not None
    with pytest.raises(IllegalStep):
        abandon(plan.snapshot, NATIVE, LATER)


def test_two_payments_with_money_by_a_decision_both_get_the_review() -> None:
    """A person's decision is the commit in which the second of the two got its money."""
    sibling = a_payment(State.CAPTURED).record
    held = beside(with_record(reviewed(State.FAILED), cf_payment_id="777"), sibling)
    after = resolution(held, State.CAPTURED).after
    open_reasons = [[r.reason for r in s.open_reviews] for s in after.siblings.values()]
    assert open_reasons == [["two_holds"], ["two_holds"]]


@pytest.mark.parametrize("step", [Step.PAY, Step.SUBMIT_OTP, Step.RESEND_OTP])
def test_the_customer_of_an_abandoned_payment_gets_no_further(step: Step) -> None:
    """Another payment of the order may be under way."""
    state = State.CREATED if step is Step.PAY else State.OTP_PENDING
    held = abandon(a_payment(state), NATIVE, LATER).snapshot
    with pytest.raises(IllegalStep, match="abandoned"):
        begun(held, step, T0 + 40_000, NATIVE)


def test_an_acknowledged_fact_is_not_reported_again_and_another_one_is() -> None:
    """The texts are compared: a new detail is a new fact."""
    held = reviewed(State.AUTHORIZED)
    held = acknowledge(held, NATIVE, LATER, reason="no_answer", actor="asha", note="known").snapshot
    same = decide(held, Disputed(ReviewReason.NO_ANSWER, "test"), NATIVE, LATER).record
    other = decide(held, Disputed(ReviewReason.NO_ANSWER, "something else"), NATIVE, LATER).record
    assert (same.open_reviews, len(other.open_reviews)) == ((), 1)


def test_an_open_review_that_blocks_the_order_names_everything_that_it_blocks_for() -> None:
    """Who closes it must have seen it all: after that the order takes a pay."""
    held, details = a_payment(State.CREATED), []
    for detail in ("attempt 7", "attempt 8", "attempt 7"):
        event = Disputed(ReviewReason.UNCLAIMED_MONEY, detail)
        held = decide(held, event, NATIVE, LATER).snapshot
        details += [review.detail for review in held.record.open_reviews]
    assert details == ["attempt 7", "attempt 7; attempt 8", "attempt 7; attempt 8"]


# the end of a hold


ENDS = parse(b"""
name = "ends"
capture = "manual"
methods = ["card"]
[hold]
expires_after_s = 604800
act_before_expiry_s = 21600
on_expiry = "capture"
[end]
abandoned_hold = "review"
""")


def test_a_hold_ends_by_its_flow_and_not_before_its_time() -> None:
    """Six hours before the end; `authorization.end_time`, stored as the hold's end, wins."""
    held = a_payment(State.AUTHORIZED, ENDS)
    ends_at_ms = held.record.hold_expires_at_ms
    assert ends_at_ms is not None
    assert due_hold(held, ENDS, ends_at_ms - 6 * HOUR - 1) is None
    assert due_hold(held, ENDS, ends_at_ms - 6 * HOUR) is HoldEnd.CAPTURE
    sooner = with_record(held, hold_expires_at_ms=T0 + DAY)
    assert due_hold(sooner, ENDS, T0 + DAY - 6 * HOUR) is HoldEnd.CAPTURE


def test_an_abandoned_hold_ends_at_once_by_its_own_rule() -> None:
    """Whether the flow captures automatically or not."""
    held = with_record(a_payment(State.AUTHORIZED, ENDS), abandoned=True)
    assert due_hold(held, ENDS, T0 + 1) is HoldEnd.REVIEW
    automatic = with_record(a_payment(State.AUTHORIZED), abandoned=True)
    assert due_hold(automatic, NATIVE, T0 + 1) is HoldEnd.VOID


@pytest.mark.parametrize(
    "reason", ["two_holds", "other_attempt", "step_refused", "hold_ends_soon", "unclaimed_money"]
)
def test_a_worker_leaves_a_hold_with_an_open_review_alone(reason: str) -> None:
    """Until the review is acknowledged."""
    held = reviewed(State.AUTHORIZED, reason, ENDS)
    late_ms = T0 + 7 * DAY - HOUR
    assert due_hold(held, ENDS, late_ms) is None
    freed = acknowledge(held, ENDS, LATER, reason=reason, actor="asha", note="go on").snapshot
    assert due_hold(freed, ENDS, late_ms) is HoldEnd.CAPTURE


@pytest.mark.parametrize("state", [state for state in State if state is not State.AUTHORIZED])
def test_only_held_money_ends_as_a_hold(state: State) -> None:
    """In every other state there is no hold to capture or to void."""
    held = with_record(a_payment(state, ENDS), hold_expires_at_ms=T0, abandoned=True)
    assert due_hold(held, ENDS, T0 + 8 * DAY) is None


def test_a_hold_that_the_bank_works_on_is_left_alone() -> None:
    """An open step, or an action that the bank has accepted and not confirmed."""
    held = a_payment(State.AUTHORIZED, ENDS)
    late_ms = T0 + 7 * DAY - HOUR
    assert due_hold(begun(held, Step.CAPTURE, LATER, ENDS).snapshot, ENDS, late_ms) is None
    assert due_hold(with_record(held, confirming=True), ENDS, late_ms) is None


@pytest.mark.parametrize("other", [State.AUTHORIZED, State.CAPTURED])
def test_two_payments_with_money_are_reviewed_by_any_look(other: State) -> None:
    """The review names both attempts; a sibling without money opens none."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    ours = held.record.cf_payment_id or ""
    for state, reasons in ((other, ["two_holds"]), (State.FAILED, [])):
        sibling = msgspec.structs.replace(held.record, state=state, cf_payment_id="777")
        both = beside(held, sibling)
        seen = decide(both, Disputed(ReviewReason.NO_ANSWER, "x"), PREAUTH, LATER).record
        found = [review for review in seen.open_reviews if review.reason == "two_holds"]
        assert [review.reason for review in found] == reasons
        assert all("777" in r.detail and ours in r.detail for r in found)


def test_a_short_mandate_does_not_end_when_it_begins() -> None:
    """The worker gets the last half hour of two hours, even if the flow reserves more."""
    held = with_record(a_payment(State.AUTHORIZED, ENDS), hold_expires_at_ms=T0 + 2 * HOUR)
    began_at_ms = held.record.moved_at_ms
    quarter_ms = (T0 + 2 * HOUR - began_at_ms) // 4
    assert due_hold(held, ENDS, T0 + 2 * HOUR - quarter_ms - 1) is None
    assert due_hold(held, ENDS, T0 + 2 * HOUR - quarter_ms) is HoldEnd.CAPTURE


def test_late_money_is_not_taken_by_the_clock() -> None:
    """The customer saw a failure: a person decides whether to take the money."""
    held = reviewed(State.AUTHORIZED, "late_authorization", ENDS)
    assert due_hold(held, ENDS, T0 + 7 * DAY - HOUR) is HoldEnd.REVIEW
