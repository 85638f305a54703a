"""Decisions: what each answer, failed call, inquiry and passing of time changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from cfflow.core.actions import ApproveInApp, AskOtp, NextAction, Redirect, SubmitForm
from cfflow.core.chart import State
from cfflow.core.decide import Disputed, Ended, Refused, TimePassed, decide
from cfflow.core.due import KEY_LIFE_MS, Ask, in_flight, resend, resendable, what_to_ask
from cfflow.core.observation import Observation
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.reviews import ReviewReason
from cfflow.errors import IllegalStep
from cfflow.views.history import history_of
from tests.core.core_kit import (
    AMOUNT,
    BANK_PAGE,
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
    listed,
    opened,
    otp_result,
    paid,
    reasons,
    sequence_of,
    taken,
)

LIMIT = T0 + 10 * SECOND


def facts(held: Snapshot) -> tuple[Any, ...]:
    """Return the fields of state, money and open step that an answer may change."""
    r = held.record
    money = (r.state, r.amount_held, r.captured_amount, r.cf_payment_id, r.hold_expires_at_ms)
    return (*money, r.operation, r.otp, r.failure, held.next_action)


# answers to pay


@pytest.mark.parametrize(
    ("action", "shown", "state"),
    [
        ("post", AskOtp(BANK_PAGE), State.OTP_PENDING),
        ("link", Redirect("https://a.example"), State.INITIATED),
        ("form", SubmitForm("https://a.example", {"a": "b"}), State.INITIATED),
        ("custom", ApproveInApp("qrcode", {"qrcode": "x"}), State.INITIATED),
    ],
)
def test_a_pay_answer_leads_to_the_customers_next_action(
    action: str, shown: NextAction, state: State
) -> None:
    """Each action leads to its state, with its next action, and closes the operation."""
    held = opened(a_created(), Step.PAY, T0)
    held = decided(held, answered(held, paid(action), asked_at_ms=T0, action=shown), T0 + 1)
    assert (held.record.state, held.next_action) == (state, shown)
    assert held.record.operation is None
    assert held.record.cf_payment_id == OURS
    assert (held.record.otp is not None) is (state is State.OTP_PENDING)


@pytest.mark.parametrize("action", ["post", "link"])
def test_a_pay_answer_without_an_id_leaves_the_outcome_unknown(action: str) -> None:
    """No attempt is known: the operation stays open and the state does not change."""
    held = opened(a_created(), Step.PAY, T0)
    now = decided(held, answered(held, paid(action, cf_payment_id=None), asked_at_ms=T0), T0 + 1)
    assert facts(now) == facts(held)


def test_a_pay_answer_with_another_attempt_is_unclaimed_money() -> None:
    """A worker found one attempt, the answer names a second: a person checks."""
    lost = opened(a_created(), Step.PAY, T0)
    held = decided(lost, listed(entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    held = decided(held, answered(lost, paid(cf_payment_id=FOREIGN), asked_at_ms=T0), LIMIT)
    assert held.record.cf_payment_id == OURS
    assert reasons(held) == ["unclaimed_money"]


# answers to authenticate


def test_a_wrong_otp_uses_one_try_and_keeps_the_page() -> None:
    """The attempt stays open in its state, and the refusal is one edge of the history."""
    held = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    plan = decide(held, answered(held, otp_result("FAILED"), asked_at_ms=T0), NATIVE, T0)
    assert [w.trigger for w in plan.walked] == ["reject_otp"]
    assert plan.record.otp is not None
    assert plan.record.otp.submits_used == 1
    assert plan.snapshot.next_action == AskOtp(BANK_PAGE)
    assert plan.record.operation is None


def test_an_accepted_otp_is_asked_about_at_once_and_proves_no_money() -> None:
    """The state stays, the turn is over, the wake is the first poll."""
    held = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    held = decided(held, answered(held, otp_result("SUCCESS"), asked_at_ms=T0), T0 + 1)
    assert held.record.state is State.OTP_PENDING
    assert held.record.captured_amount is None
    assert held.next_action is None
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms <= T0 + 1 + jittered(5 * SECOND)


@pytest.mark.parametrize(
    ("status", "with_id"), [("SUCCESS", "submit_otp"), ("FAILED", "reject_otp")]
)
def test_the_history_has_the_request_id_of_an_otp_s_answer_once(status: str, with_id: str) -> None:
    """With the edge that it proved; an accepted OTP proves none, so with the end of its step."""
    held = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    seen = msgspec.structs.replace(otp_result(status), request_id="request-of-the-otp")
    held = decided(held, answered(held, seen, asked_at_ms=T0), T0 + 1)
    ids = [
        (line.what.partition(" ")[0], line.request_id)
        for line in history_of(held)
        if line.request_id
    ]
    assert ids == [(with_id, "request-of-the-otp")]


def test_an_accepted_otp_with_its_money_captures_in_one_plan() -> None:
    """The fetch that follows at once walks hold and capture."""
    held = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    event = answered(held, otp_result("SUCCESS"), taken(), asked_at_ms=T0)
    plan = decide(held, event, NATIVE, T0 + 1)
    assert [w.trigger for w in plan.walked] == ["hold", "capture"]
    assert (plan.record.captured_amount, plan.record.wake_at_ms) == (AMOUNT, None)


def test_a_resend_moves_the_waiting_time_and_uses_one() -> None:
    """An accepted resend is an edge; a refused one uses a resend and changes no state."""
    now_ms = T0 + 40 * SECOND
    held = opened(an_otp_page(), Step.RESEND_OTP, now_ms)
    ok = decided(held, answered(held, otp_result("SUCCESS"), asked_at_ms=now_ms), now_ms)
    no = decided(held, answered(held, otp_result("FAILED"), asked_at_ms=now_ms), now_ms)
    assert ok.record.otp is not None
    assert no.record.otp is not None
    assert (ok.record.otp.resends_used, ok.record.otp.sent_at_ms) == (1, now_ms)
    assert (no.record.otp.resends_used, no.record.otp.sent_at_ms) == (1, T0)
    assert not ok.record.otp.accepted
    assert ok.record.operation is no.record.operation is None


@pytest.mark.parametrize("step", [Step.SUBMIT_OTP, Step.RESEND_OTP])
@pytest.mark.parametrize("status", ["PENDING", "", "OK"])
def test_an_unknown_or_foreign_otp_answer_changes_nothing(step: Step, status: str) -> None:
    """The operation stays open until an inquiry decides."""
    now_ms = T0 + 40 * SECOND
    held = opened(an_otp_page(), step, now_ms)
    for result in (otp_result(status), otp_result("SUCCESS", cf_payment_id=FOREIGN)):
        now = decided(held, answered(held, result, asked_at_ms=now_ms), now_ms + 1)
        assert facts(now) == facts(held)


def test_a_late_accepted_otp_ends_the_turn_though_a_worker_closed_its_operation() -> None:
    """Our own late answer is merged: the OTP is accepted, and the try is not counted twice."""
    lost = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    held = decided(lost, inquired(entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    held = decided(held, answered(lost, otp_result("SUCCESS"), asked_at_ms=T0), LIMIT + 1)
    assert held.record.otp is not None
    assert (held.record.otp.accepted, held.record.otp.submits_used) == (True, 1)
    assert held.next_action is None


def test_a_late_wrong_otp_is_not_counted_twice() -> None:
    """The lost answer used one try; when it arrives later, it uses no second one."""
    lost = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    held = decided(lost, inquired(entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    again = decided(held, answered(lost, otp_result("FAILED"), asked_at_ms=T0), LIMIT + 1)
    assert facts(again) == facts(held)
    assert held.next_action == AskOtp(BANK_PAGE)


def test_the_answer_of_one_step_never_closes_another() -> None:
    """The first submit was given up; its late answer leaves the second one open, uncounted."""
    lost = opened(an_otp_page(), Step.SUBMIT_OTP, T0)
    held = decided(lost, inquired(entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    held = opened(held, Step.SUBMIT_OTP, LIMIT)
    for result in ("FAILED", "SUCCESS"):
        now = decided(held, answered(lost, otp_result(result), asked_at_ms=T0), LIMIT + 1)
        assert now.record.operation == held.record.operation
        assert now.record.otp is not None
        assert now.record.otp.submits_used == 1


# lost OTP calls


@pytest.mark.parametrize("step", [Step.SUBMIT_OTP, Step.RESEND_OTP])
def test_a_lost_otp_call_counts_as_used_once_the_bank_still_waits(step: Step) -> None:
    """Only an inquiry that was asked past the limit closes it, whenever its answer arrives."""
    start_ms = T0 + 40 * SECOND
    held = opened(an_otp_page(), step, start_ms)
    deadline_at_ms = start_ms + 10 * SECOND
    early = decided(
        held, inquired(entity("PENDING"), asked_at_ms=deadline_at_ms - 1), deadline_at_ms + SECOND
    )
    assert early.record.operation is not None
    assert early.record.otp == held.record.otp
    late = decided(
        held, inquired(entity("PENDING"), asked_at_ms=deadline_at_ms), deadline_at_ms + SECOND
    )
    assert late.record.operation is None
    assert late.record.otp is not None
    assert late.record.otp.submits_used == (step is Step.SUBMIT_OTP)
    assert late.record.otp.resends_used == (step is Step.RESEND_OTP)


def test_the_third_lost_submit_leaves_nothing_to_do() -> None:
    """A lost try counts: after three of them there is no next action."""
    held, now_ms = an_otp_page(), T0
    for _ in range(3):
        held = opened(held, Step.SUBMIT_OTP, now_ms)
        now_ms += 11 * SECOND
        held = decided(held, inquired(entity("PENDING"), asked_at_ms=now_ms), now_ms)
    assert (held.record.state, held.next_action) == (State.OTP_PENDING, None)


def test_out_of_tries_the_bank_is_polled_and_not_the_page_awaited() -> None:
    """The customer's turn is over, so inquiries follow the flow's schedule at once."""
    held = an_otp_page()
    for _ in range(3):
        held = opened(held, Step.SUBMIT_OTP, T0)
        held = decided(held, answered(held, otp_result("FAILED"), asked_at_ms=T0), T0)
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms <= T0 + jittered(5 * SECOND)


# answers to authorize


def a_capture(amount: Decimal | None = None, now_ms: int = T0) -> Snapshot:
    """Return a hold with a capture on its way."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    return opened(held, Step.CAPTURE, now_ms, PREAUTH, amount=amount)


def pending(action: str = "CAPTURE", **fields: Any) -> Observation:
    """Return an entity whose capture or void the bank has yet to confirm."""
    return entity(authorization_action=action, authorization_status="PENDING", **fields)


def test_a_capture_confirmed_at_once_closes_its_operation() -> None:
    """Captured, with the gateway's amount, and no further inquiry."""
    held = a_capture(Decimal(4))
    done = taken(captured_amount=Decimal(4))
    held = decided(held, answered(held, done, asked_at_ms=T0), T0 + 1, PREAUTH)
    assert (held.record.state, held.record.captured_amount) == (State.CAPTURED, Decimal(4))
    assert held.record.operation is None
    assert held.record.wake_at_ms is None
    assert reasons(held) == []


@pytest.mark.parametrize("captured", [False, True])
def test_the_banks_pending_keeps_the_operation_open_with_a_wake(captured: bool) -> None:
    """Accepted is not confirmed: a captured payment too is asked about until SUCCESS."""
    held = a_capture()
    event = answered(held, pending(is_captured=captured), asked_at_ms=T0)
    held = decided(held, event, T0 + 1, PREAUTH)
    assert held.record.state is (State.CAPTURED if captured else State.AUTHORIZED)
    assert held.record.operation is not None
    assert held.record.operation.accepted
    assert held.record.wake_at_ms is not None
    assert what_to_ask(held, T0 + 2) is Ask.PAYMENT
    done = taken(authorization_action="CAPTURE", authorization_status="SUCCESS")
    held = decided(held, inquired(done, asked_at_ms=T0 + 2), T0 + 3, PREAUTH)
    assert held.record.state is State.CAPTURED
    assert (held.record.operation, held.record.wake_at_ms) == (None, None)


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_void_is_voided_once_the_bank_confirms_it(confirmed: bool) -> None:
    """VOID + PENDING is still held, with the operation open; VOID + SUCCESS is released."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.VOID, T0, PREAUTH)
    result = entity(
        authorization_action="VOID", authorization_status="SUCCESS" if confirmed else "PENDING"
    )
    held = decided(held, answered(held, result, asked_at_ms=T0), T0 + 1, PREAUTH)
    assert held.record.state is (State.VOIDED if confirmed else State.AUTHORIZED)
    assert (held.record.operation is None) is confirmed
    assert (held.record.wake_at_ms is None) is confirmed


@pytest.mark.parametrize("result", [taken(cf_payment_id=FOREIGN), entity("VOID", cf_payment_id="")])
def test_an_authorize_answer_about_another_attempt_proves_nothing(result: Observation) -> None:
    """The order's other attempt may have been captured; ours is still unknown."""
    held = a_capture()
    now = decided(held, answered(held, result, asked_at_ms=T0), T0 + 1, PREAUTH)
    assert facts(now) == facts(held)


def test_an_answer_with_nothing_in_it_changes_nothing() -> None:
    """No observation, no change: the operation waits for its inquiry."""
    held = a_capture()
    assert facts(decided(held, answered(held, asked_at_ms=T0), T0 + 1, PREAUTH)) == facts(held)


def test_a_capture_that_the_bank_voided_is_overtaken() -> None:
    """A confirmed void closes the capture, which can never succeed any more."""
    held = decided(a_capture(), inquired(entity("VOID"), asked_at_ms=LIMIT), LIMIT, PREAUTH)
    assert (held.record.state, held.record.operation) == (State.VOIDED, None)


# a lost capture


def test_a_lost_capture_is_sent_again_only_after_a_late_inquiry_that_shows_no_action() -> None:
    """Not before the limit, nor by an inquiry asked before it; then the same bytes are sent."""
    held = a_capture(Decimal(4))
    assert not resendable(held, LIMIT)
    early = decided(held, inquired(entity(), asked_at_ms=LIMIT - 1), LIMIT + SECOND, PREAUTH)
    assert not resendable(early, LIMIT + SECOND)
    shown = decided(held, inquired(entity(), asked_at_ms=LIMIT), LIMIT + SECOND, PREAUTH)
    assert resendable(shown, LIMIT + SECOND)
    plan = resend(shown, PREAUTH, LIMIT + SECOND)
    was, now = held.record.operation, plan.record.operation
    assert was is not None
    assert now is not None
    assert (now.key, now.body, now.api_version) == (was.key, was.body, was.api_version)
    assert (now.sequence, now.amount, now.began_at_ms) == (was.sequence, was.amount, T0)
    assert plan.opens
    assert not resendable(plan.snapshot, LIMIT + SECOND)
    assert in_flight(plan.snapshot, LIMIT + SECOND)


@pytest.mark.parametrize(
    "seen",
    [
        entity(cf_payment_id=FOREIGN),
        entity("PENDING"),
        entity("SOMETHING_NEW"),
        pending("CAPTURE"),
        pending("VOID"),
        entity(authorization_action="CAPTURE", authorization_status="FAILED"),
    ],
    ids=["foreign", "pending", "unknown", "capture under way", "void under way", "capture failed"],
)
def test_an_inquiry_that_does_not_show_an_untouched_hold_permits_no_second_sending(
    seen: Observation,
) -> None:
    """A foreign answer, an unknown status or an action under way is not "no action"."""
    held = decided(a_capture(), inquired(seen, asked_at_ms=LIMIT), LIMIT, PREAUTH)
    assert held.record.operation is not None
    assert not resendable(held, LIMIT + SECOND)


def test_a_key_too_old_goes_to_a_person() -> None:
    """The key may be used within its life; one millisecond later a review opens."""
    held = decided(a_capture(), inquired(entity(), asked_at_ms=LIMIT), LIMIT, PREAUTH)
    assert resendable(held, T0 + KEY_LIFE_MS)
    assert not resendable(held, T0 + KEY_LIFE_MS + 1)
    late_ms = T0 + KEY_LIFE_MS + 1
    held = decided(held, inquired(entity(), asked_at_ms=late_ms), late_ms, PREAUTH)
    assert reasons(held) == ["key_too_old"]
    assert held.record.operation is not None
    assert held.record.wake_at_ms is not None


@pytest.mark.parametrize("step", [Step.PAY, Step.SUBMIT_OTP, Step.RESEND_OTP])
def test_pay_and_otp_calls_are_never_sent_again(step: Step) -> None:
    """Not when asked, not when old: the gateway may not keep their keys."""
    held = a_created() if step is Step.PAY else an_otp_page()
    held = opened(held, step, T0 + 40 * SECOND)
    for now_ms in (T0 + 40 * SECOND, T0 + HOUR, T0 + DAY):
        assert not resendable(held, now_ms)
        with pytest.raises(IllegalStep):
            resend(held, NATIVE, now_ms)


# refused, ended


@pytest.mark.parametrize("step", [Step.PAY, Step.SUBMIT_OTP, Step.CAPTURE, Step.VOID])
def test_a_refused_step_had_no_effect_and_its_operation_closes(step: Step) -> None:
    """State, money and tries are as before; the history has the reason."""
    start = {Step.PAY: State.CREATED, Step.SUBMIT_OTP: State.OTP_PENDING}
    before = a_payment(start.get(step, State.AUTHORIZED), PREAUTH)
    held = opened(before, step, T0, PREAUTH)
    now = decided(held, Refused(sequence_of(held), "refused: request_failed"), T0, PREAUTH)
    assert facts(now)[:5] == facts(before)[:5]
    assert (now.record.operation, now.record.otp) == (None, before.record.otp)
    assert now.record.history[-1].text == "refused: request_failed"
    stale = decided(held, Refused(sequence_of(held) + 1, "of another step"), T0, PREAUTH)
    assert stale.record.operation == held.record.operation


def test_a_call_that_is_over_may_be_asked_about_at_once() -> None:
    """An ended call proves nothing: the operation stays open, but its limit is not awaited."""
    held = opened(a_created(), Step.PAY, T0)
    assert what_to_ask(held, T0 + SECOND) is Ask.NOTHING
    held = decided(held, Ended(1), T0 + SECOND)
    assert held.record.operation is not None
    assert not in_flight(held, T0 + SECOND)
    assert what_to_ask(held, T0 + SECOND) is Ask.PAYMENTS
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms <= T0 + 3 * SECOND
    other = decided(held, Ended(2), T0 + SECOND)
    assert other.record.operation == held.record.operation


def test_an_unclosed_operation_of_any_kind_is_reported_when_the_bank_owes_too_long() -> None:
    """After the flow's patience a review is opened, and the inquiries go on."""
    page_ends_ms = NATIVE.otp.expires_after_s * SECOND
    for held, later_at_ms in (
        (opened(a_created(), Step.PAY, T0), 0),
        (a_payment(State.INITIATED), 0),
        (an_otp_page(), page_ends_ms),
    ):
        before = decided(held, TimePassed(), T0 + later_at_ms + DAY - 1)
        assert reasons(before) == []
        late = decided(before, TimePassed(), T0 + later_at_ms + DAY)
        assert reasons(late) == ["no_answer"]
        assert late.record.wake_at_ms is not None


def test_a_disputed_plan_opens_a_review_by_its_name() -> None:
    """A commit that the store refused because of another payment opens one review."""
    held = decided(
        a_created(), Disputed(ReviewReason.ATTEMPT_CLAIMED, "attempt 1 belongs to order_1.2"), T0
    )
    held = decided(
        held, Disputed(ReviewReason.ATTEMPT_CLAIMED, "attempt 1 belongs to order_1.2"), T0
    )
    assert reasons(held) == ["attempt_claimed"]
