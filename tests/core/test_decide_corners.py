"""Rare cases: late pays, lapsed holds, used-up keys and pages."""

from __future__ import annotations

import pytest

from cfflow.core.chart import State
from cfflow.core.decide import Answered, Ended
from cfflow.core.due import resend
from cfflow.core.operation import Step
from cfflow.core.record import Review
from cfflow.core.steps import leave_otp
from cfflow.errors import IllegalStep, OtpLimit
from tests.core.core_kit import (
    FOREIGN,
    NATIVE,
    PREAUTH,
    SECOND,
    T0,
    a_created,
    a_payment,
    after,
    an_otp_page,
    answered,
    begun,
    decided,
    entity,
    inquired,
    listed,
    opened,
    otp_result,
    paid,
    reasons,
    with_record,
)

LIMIT = T0 + 10 * SECOND


def test_a_list_asked_before_the_pay_began_proves_nothing_about_it() -> None:
    """The list is older than the pay: an attempt in it belongs to another caller."""
    held = opened(a_created(), Step.PAY, T0)
    held = decided(held, listed(entity("PENDING"), asked_at_ms=T0 - 1), LIMIT)
    assert (held.record.state, held.record.cf_payment_id) == (State.CREATED, None)


def test_a_given_up_pay_that_is_answered_beside_a_second_one_calls_a_person() -> None:
    """Two attempts for one payment: the first answer is taken, and the review gives the reason."""
    held = opened(a_created(), Step.PAY, T0)
    for asked_at_ms in (LIMIT, LIMIT + 15 * SECOND):
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms)
    assert held.record.operation is None
    held = opened(held, Step.PAY, LIMIT + 20 * SECOND)
    held = decided(held, Answered(1, (paid(),), T0), LIMIT + 21 * SECOND)
    assert held.record.state is State.OTP_PENDING
    assert reasons(held) == ["unclaimed_money"]


def test_a_hold_past_its_end_calls_a_person() -> None:
    """The bank should have released it; a person must check what the bank did."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    ends_at_ms = held.record.hold_expires_at_ms
    assert ends_at_ms is not None
    held = decided(held, inquired(entity(), asked_at_ms=ends_at_ms - 1), ends_at_ms - 1, PREAUTH)
    assert reasons(held) == []
    held = decided(held, inquired(entity(), asked_at_ms=ends_at_ms), ends_at_ms, PREAUTH)
    assert reasons(held) == ["hold_lapsed"]


@pytest.mark.parametrize("step", [Step.CAPTURE, Step.VOID])
def test_nothing_is_done_to_a_hold_that_the_bank_is_already_acting_on(step: Step) -> None:
    """A void that is not ours is PENDING: the bank could carry out a capture beside it."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    pending = entity(authorization_action="VOID", authorization_status="PENDING")
    held = decided(held, inquired(pending, asked_at_ms=LIMIT), LIMIT, PREAUTH)
    assert held.record.operation is None
    with pytest.raises(IllegalStep, match="still confirming"):
        begun(held, step, LIMIT, PREAUTH)


def test_an_action_that_is_not_ours_is_asked_about_until_it_is_confirmed() -> None:
    """No operation is open, but the bank owes a result: ask soon, not at the hold's end."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    pending = entity(authorization_action="VOID", authorization_status="PENDING")
    held = decided(held, inquired(pending, asked_at_ms=LIMIT), LIMIT, PREAUTH)
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms <= LIMIT + 60 * SECOND
    done = entity("VOID", authorization_action="VOID", authorization_status="SUCCESS")
    held = decided(held, inquired(done, asked_at_ms=LIMIT + SECOND), LIMIT + SECOND, PREAUTH)
    assert (held.record.state, held.record.wake_at_ms) == (State.VOIDED, None)


def test_a_new_otp_is_not_sent_when_none_may_be_submitted() -> None:
    """All submissions are used, so the customer could not use a new OTP."""
    held = an_otp_page()
    for second in range(1, 4):
        held = opened(held, Step.SUBMIT_OTP, T0 + second * SECOND)
        refused = answered(held, otp_result("FAILED"), asked_at_ms=T0 + second * SECOND)
        held = decided(held, refused, T0 + second * SECOND)
    with pytest.raises(OtpLimit, match="no use"):
        begun(held, Step.RESEND_OTP, T0 + 60 * SECOND)


def test_a_step_whose_key_only_repeats_an_error_gets_the_next_number_and_key() -> None:
    """The gateway repeats a stored error for a day; the hold is untouched, so a new key is safe."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.CAPTURE, T0 + SECOND, PREAUTH)
    first = held.record.operation
    assert first is not None
    held = decided(held, Ended(first.sequence, replayed=True), T0 + 2 * SECOND, PREAUTH)
    held = decided(held, inquired(entity(), asked_at_ms=LIMIT), LIMIT, PREAUTH)
    again = after(resend(held, PREAUTH, LIMIT)).record.operation
    assert again is not None
    assert again.sequence == first.sequence + 1
    assert again.key != first.key
    assert (again.body, again.api_version, again.replayed) == (first.body, first.api_version, False)


def test_settled_reviews_make_room_for_a_new_one() -> None:
    """Acknowledged reviews are dropped first; a new reason is never dropped."""
    held = a_payment(State.CAPTURED)
    settled = tuple(Review(f"reason_{n}", T0, "", "asha", "", T0) for n in range(16))
    held = with_record(held, reviews=settled)
    late = LIMIT + SECOND
    held = decided(held, inquired(entity("FAILED"), asked_at_ms=late), late)
    assert reasons(held) == ["contradicts_captured"]
    assert len(held.record.reviews) == 16


def test_another_callers_attempt_changes_nothing() -> None:
    """An answer about another id proves nothing about ours, so the same inquiry stays due."""
    held = leave_otp(an_otp_page(), NATIVE, T0).snapshot
    before = held.record
    held = decided(
        held, inquired(entity("FAILED", cf_payment_id=FOREIGN), asked_at_ms=LIMIT), LIMIT
    )
    assert (held.record.state, held.record.asked_at_ms) == (before.state, before.asked_at_ms)
    assert held.record.wake_at_ms == before.wake_at_ms
