"""Which steps a payment's situation bars for the other payments of its order."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from cfflow.core.chart import State
from cfflow.core.due import HoldEnd, due_hold
from cfflow.core.operation import Operation, Step
from cfflow.core.order import SITUATIONS, Snapshot, why_barred
from cfflow.core.record import Record, Review
from cfflow.core.steps import allowed_steps, leave_otp
from cfflow.errors import IllegalStep
from tests.core.core_kit import (
    HOUR,
    NATIVE,
    PREAUTH,
    SECOND,
    T0,
    a_created,
    a_payment,
    an_otp_page,
    answered,
    begun,
    beside,
    decided,
    entity,
    inquired,
    listed,
    opened,
    paid,
    reasons,
    taken,
    with_record,
)

PAY, SUBMIT, RESEND = Step.PAY, Step.SUBMIT_OTP, Step.RESEND_OTP
CAPTURE, VOID = Step.CAPTURE, Step.VOID


def an_operation(step: Step) -> Operation:
    """Return an open operation of this step."""
    return Operation(
        step=step, sequence=1, key="k", began_at_ms=T0, deadline_at_ms=T0 + 10 * SECOND
    )


def sibling(state: State, *, step: Step | None = None, review: str = "") -> Record:
    """Return another payment of the order in this situation."""
    return msgspec.structs.replace(
        a_created().record,
        state=state,
        operation=None if step is None else an_operation(step),
        reviews=(Review(review, T0),) if review else (),
    )


#: Situation → the steps that it bars, written by hand from the design.
TABLE: dict[str, tuple[Record, set[Step]]] = {
    "authorized": (sibling(State.AUTHORIZED), set(Step)),
    "captured": (sibling(State.CAPTURED), set(Step)),
    "created": (sibling(State.CREATED), set()),
    "pay open": (sibling(State.CREATED, step=PAY), {PAY, SUBMIT, CAPTURE, VOID}),
    "initiated": (sibling(State.INITIATED), {CAPTURE, VOID}),
    "otp_pending": (sibling(State.OTP_PENDING), {CAPTURE, VOID}),
    "submit open": (sibling(State.OTP_PENDING, step=SUBMIT), {CAPTURE, VOID}),
    "resend open": (sibling(State.OTP_PENDING, step=RESEND), {CAPTURE, VOID}),
    "capture open": (sibling(State.FAILED, step=CAPTURE), {PAY, SUBMIT}),
    "void open": (sibling(State.FAILED, step=VOID), {PAY, SUBMIT}),
    "failed": (sibling(State.FAILED), set()),
    "voided": (sibling(State.VOIDED), set()),
    "ambiguous": (sibling(State.CREATED, review="ambiguous_attempt"), {PAY, SUBMIT}),
    "unclaimed": (sibling(State.FAILED, review="unclaimed_money"), {PAY, SUBMIT}),
    "two holds": (sibling(State.FAILED, review="two_holds"), {PAY, SUBMIT}),
    "other review": (sibling(State.FAILED, review="late_authorization"), set()),
}


def ready_for(step: Step) -> Snapshot:
    """Return a payment that may begin this step when it is alone."""
    if step is PAY:
        return a_created()
    return an_otp_page() if step in {SUBMIT, RESEND} else a_payment(State.AUTHORIZED, PREAUTH)


@pytest.mark.parametrize(("situation", "step"), list(product(TABLE, Step)))
def test_every_cell_of_the_table(situation: str, step: Step) -> None:
    """A barred step is refused, with the other payment's name; any other one is opened."""
    other, bars = TABLE[situation]
    held = beside(ready_for(step), other)
    flow = PREAUTH if step in {CAPTURE, VOID} else NATIVE
    at_ms = T0 + 31 * SECOND
    assert (step in bars) is any(row.applies(other) and step in row.bars for row in SITUATIONS)
    if step not in bars:
        assert begun(held, step, at_ms, flow).opens
        return
    with pytest.raises(IllegalStep, match=r"order_1\.1"):
        begun(held, step, at_ms, flow)
    assert step.value not in allowed_steps(held, flow, at_ms)


@pytest.mark.parametrize("state", [State.AUTHORIZED, State.CAPTURED])
def test_beside_money_every_step_is_barred(state: State) -> None:
    """The way to the bank's page is barred too: the customer would pay twice there."""
    for step in Step:
        held = beside(ready_for(step), sibling(state))
        assert step.value not in allowed_steps(held, NATIVE, T0 + 31 * SECOND)
    with pytest.raises(IllegalStep, match="holds or took money"):
        leave_otp(beside(an_otp_page(), sibling(state)), NATIVE, T0)


@pytest.mark.parametrize("reason", ["ambiguous_attempt", "unclaimed_money", "two_holds"])
def test_its_own_review_bars_what_can_take_money(reason: str) -> None:
    """Until a person closes the review; the way to the bank's page is barred too."""
    for step in (PAY, SUBMIT):
        held = ready_for(step)
        held = with_record(held, reviews=(Review(reason, T0),))
        with pytest.raises(IllegalStep, match=reason):
            begun(held, step, T0)
        closed = Review(reason, T0, acknowledged_at_ms=T0)
        assert begun(with_record(held, reviews=(closed,)), step, T0).opens
    page = with_record(an_otp_page(), reviews=(Review(reason, T0),))
    with pytest.raises(IllegalStep, match=reason):
        leave_otp(page, NATIVE, T0)


def test_acknowledging_another_payments_review_does_not_open_the_way() -> None:
    """Each payment's own review stays in force until it is closed itself."""
    acknowledged = sibling(State.FAILED)
    held = with_record(ready_for(SUBMIT), reviews=(Review("two_holds", T0),))
    held = beside(held, acknowledged)
    with pytest.raises(IllegalStep, match="two_holds"):
        begun(held, SUBMIT, T0)


@pytest.mark.parametrize("step", [CAPTURE, VOID])
def test_capture_and_void_are_refused_while_two_attempts_hold_money(step: Step) -> None:
    """They name only the order: it is unknown which of the two the gateway would take."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    other = entity(cf_payment_id="777", is_captured=False)
    held = decided(held, listed(entity(), other, asked_at_ms=T0 + HOUR), T0 + HOUR, PREAUTH)
    assert reasons(held) == ["two_holds"]
    with pytest.raises(IllegalStep, match="two_holds"):
        begun(held, step, T0 + HOUR, PREAUTH)


@pytest.mark.parametrize("state", list(State))
def test_money_of_a_foreign_attempt_is_seen_in_every_state(state: State) -> None:
    """Also in a state without money of its own: the order is paid, and no pay is sent."""
    held = a_payment(state)
    ours = (entity("PENDING", cf_payment_id=held.record.cf_payment_id),)
    seen = (*(ours if held.record.cf_payment_id else ()), taken(cf_payment_id="777"))
    held = decided(held, listed(*seen, asked_at_ms=T0 + SECOND), T0 + SECOND)
    waits = state in {State.INITIATED, State.OTP_PENDING, State.AUTHORIZED, State.CAPTURED}
    assert reasons(held) == ["two_holds" if waits else "unclaimed_money"]
    assert why_barred(beside(a_created(), held.record), PAY)


# the worker's own capture and void


def a_hold_beside(other: Record) -> Snapshot:
    """Return a hold of seven days beside another payment of its order."""
    return beside(a_payment(State.AUTHORIZED, PREAUTH), other)


def test_the_workers_void_waits_for_another_attempt_until_the_holds_last_hour() -> None:
    """Then a person decides: neither to wait nor to act is safe any more."""
    held = a_hold_beside(sibling(State.OTP_PENDING))
    ends_at_ms = held.record.hold_expires_at_ms
    assert ends_at_ms is not None
    assert due_hold(held, PREAUTH, ends_at_ms - 6 * HOUR) is None
    assert due_hold(held, PREAUTH, ends_at_ms - HOUR - 1) is None
    assert due_hold(held, PREAUTH, ends_at_ms - HOUR) is HoldEnd.REVIEW
    over = a_hold_beside(sibling(State.FAILED))
    assert due_hold(over, PREAUTH, ends_at_ms - 6 * HOUR) is HoldEnd.VOID


def test_an_abandoned_hold_waits_in_the_same_way() -> None:
    """Its void names only the order as well."""
    held = a_hold_beside(sibling(State.CREATED, step=PAY))
    held = with_record(held, abandoned=True)
    assert due_hold(held, PREAUTH, T0 + HOUR) is None


def test_a_late_answer_to_pay_does_not_open_the_way_for_the_otp() -> None:
    """The money of a foreign attempt is seen before our own pay is answered."""
    held = with_record(opened(a_created(), PAY, T0), reviews=(Review("unclaimed_money", T0),))
    held = decided(held, answered(held, paid(), asked_at_ms=T0), T0 + SECOND)
    assert held.record.state is State.OTP_PENDING
    with pytest.raises(IllegalStep, match="unclaimed_money"):
        begun(held, SUBMIT, T0 + SECOND)
    seen = decided(held, inquired(entity("PENDING"), asked_at_ms=T0 + SECOND), T0 + SECOND)
    assert seen.record.state is State.OTP_PENDING
