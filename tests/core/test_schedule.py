"""The schedule depends on time only: extra inquiries do not move the worker's moments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from cfflow.core.chart import State
from cfflow.core.decide import Ended, Inquired, OrderSeen, Refused, TimePassed
from cfflow.core.due import Ask, in_flight, resend, resend_is_due, resendable, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.observation import Call, Observation
from cfflow.core.operation import OperationStatus, Step
from cfflow.core.order import Snapshot
from cfflow.core.people import abandon
from cfflow.core.schedule import owed_since_at_ms
from tests.core.core_kit import (
    DAY,
    HOUR,
    NATIVE,
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
    listed,
    opened,
    otp_result,
    reasons,
    sequence_of,
)
from tests.core.schedule_model import grid

MINUTES = 60 * SECOND

#: What the bank answers to each kind of inquiry while it still owes the result.
Bank = Callable[[Snapshot, int], Inquired]


def pending(held: Snapshot, now_ms: int) -> Inquired:
    """Answer that the attempt is still under way."""
    seen = entity("PENDING", cf_payment_id=held.record.cf_payment_id or "none")
    return inquired(seen, asked_at_ms=now_ms)


def untouched(held: Snapshot, now_ms: int) -> Inquired:
    """Answer with a list in which the hold is unchanged."""
    return listed(entity(cf_payment_id=held.record.cf_payment_id or ""), asked_at_ms=now_ms)


def unconfirmed(held: Snapshot, now_ms: int) -> Inquired:
    """Answer that the bank has accepted the capture and not confirmed it."""
    seen = entity(authorization_action="CAPTURE", authorization_status="PENDING")
    return inquired(seen, asked_at_ms=now_ms)


def failed(held: Snapshot, now_ms: int) -> Inquired:
    """Answer that the attempt took nothing."""
    return inquired(entity("FAILED"), asked_at_ms=now_ms)


def unmatched(held: Snapshot, now_ms: int) -> Inquired:
    """Answer with a list that does not contain our attempt."""
    return listed(asked_at_ms=now_ms)


def a_captured_hold() -> Snapshot:
    """Return a hold whose capture the bank has accepted and not confirmed."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.CAPTURE, T0, PREAUTH)
    seen = entity(
        call=Call.AUTHORIZE, authorization_action="CAPTURE", authorization_status="PENDING"
    )
    return decided(held, answered(held, seen, asked_at_ms=T0), T0, PREAUTH)


def an_expired_page() -> Snapshot:
    """Return a payment at the moment at which its OTP page expires."""
    return an_otp_page()


CASES: dict[str, tuple[Callable[[], Snapshot], Bank, Flow]] = {
    "under way": (lambda: a_payment(State.INITIATED), pending, NATIVE),
    "lost pay": (lambda: opened(a_created(), Step.PAY, T0), unmatched, NATIVE),
    "lost capture": (
        lambda: opened(a_payment(State.AUTHORIZED, PREAUTH), Step.CAPTURE, T0, PREAUTH),
        untouched,
        PREAUTH,
    ),
    "lost void": (
        lambda: opened(a_payment(State.AUTHORIZED, PREAUTH), Step.VOID, T0, PREAUTH),
        untouched,
        PREAUTH,
    ),
    "accepted capture": (a_captured_hold, unconfirmed, PREAUTH),
    "expired OTP page": (an_expired_page, pending, NATIVE),
    "failed and watched": (lambda: a_payment(State.FAILED), failed, NATIVE),
    "abandoned hold": (
        lambda: abandon(a_payment(State.AUTHORIZED, PREAUTH), PREAUTH, T0).snapshot,
        untouched,
        PREAUTH,
    ),
}


def looks(case: str, minutes: int, *, polls_every_s: int = 0) -> list[int]:
    """Return when a worker looked, while a status page asks every so many seconds.

    Time goes in steps of a tenth of a second, and the worker looks as soon as it is due. It
    sends nothing: the test compares only the times.
    """
    begin, bank, flow = CASES[case]
    held, seen = begin(), []
    for tick in range(1, minutes * 600):
        now_ms = T0 + tick * 100
        wake_at_ms = held.record.wake_at_ms
        if wake_at_ms is not None and wake_at_ms <= now_ms and not in_flight(held, now_ms):
            seen.append(wake_at_ms)
            held = decided(held, bank(held, now_ms), now_ms, flow)
        polls = polls_every_s and tick % (polls_every_s * 10) == 0
        if polls and not in_flight(held, now_ms):
            held = decided(held, bank(held, now_ms), now_ms, flow)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_a_status_page_that_refreshes_every_second_moves_no_look(case: str) -> None:
    """For ten minutes the worker looks at each of the schedule's moments plus its own jitter."""
    begin, _, flow = CASES[case]
    record, seen = begin().record, looks(case, 10, polls_every_s=1)
    base_ms = owed_since_at_ms(record)
    operation, end_ms = record.operation, T0 + 10 * MINUTES
    if operation is not None and not operation.accepted:
        assert seen[0] == operation.deadline_at_ms + SECOND
    if case == "lost pay":
        # Given up by the page's second question; from then on it is counted from there.
        base_ms = T0 + 25 * SECOND
    expected = {at for at in grid(record, flow, base_ms) if seen[0] < at < end_ms}
    assert len(expected) >= 3
    assert expected <= set(seen)


@pytest.mark.parametrize("case", CASES)
def test_the_looks_are_the_same_with_and_without_a_status_page(case: str) -> None:
    """The page's inquiries come between the worker's, and replace none of them."""
    alone = looks(case, 10)
    if case == "lost pay":
        # The page's question may be the second one that counts, so the pay is given up sooner.
        assert looks(case, 10, polls_every_s=1)[0] == alone[0]
        return
    assert set(alone) <= set(looks(case, 10, polls_every_s=7))


def test_five_questions_in_five_seconds_do_not_move_the_workers_look() -> None:
    """A moment that the page's inquiry has settled is over; a later one stays due."""
    held = a_payment(State.INITIATED)
    for second in range(1, 6):
        now_ms = T0 + second * SECOND
        held = decided(held, pending(held, now_ms), now_ms)
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms <= T0 + 11 * SECOND


def test_hours_without_a_worker_are_settled_by_one_question() -> None:
    """A missed moment stays due until an inquiry; then the schedule goes on unchanged."""
    held = a_payment(State.INITIATED)
    first_ms = held.record.wake_at_ms
    assert first_ms is not None
    now_ms = T0 + 5 * HOUR + 7 * MINUTES
    assert decided(held, TimePassed(), now_ms).record.wake_at_ms == first_ms
    held = decided(held, pending(held, now_ms), now_ms)
    record = held.record
    expected = min(at for at in grid(record, NATIVE, record.since_at_ms) if at > now_ms)
    assert record.wake_at_ms == expected


def test_a_stale_answer_settles_no_moment() -> None:
    """It was asked before the last move, so the same inquiry stays due."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    act_ms = held.record.wake_at_ms
    assert act_ms is not None
    stale = inquired(entity("FAILED"), asked_at_ms=T0 - SECOND)
    held = decided(held, stale, act_ms, PREAUTH)
    assert (held.record.state, held.record.wake_at_ms) == (State.AUTHORIZED, act_ms)


def test_a_resend_and_a_renewal_leave_the_beginning_of_the_wait_alone() -> None:
    """A gateway that answers 500 again and again renews the key, but the review still opens."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.VOID, T0, PREAUTH)
    now_ms, keys = T0, set()
    while now_ms < T0 + DAY + HOUR:
        operation = held.record.operation
        assert operation is not None
        keys.add(operation.key)
        assert operation.began_at_ms == T0
        ended = Ended(operation.sequence, replayed=True, sends=operation.sends)
        held = decided(held, ended, now_ms + SECOND, PREAUTH)
        now_ms = max(held.record.wake_at_ms or 0, now_ms + 30 * SECOND)
        held = decided(held, untouched(held, now_ms), now_ms, PREAUTH)
        if resendable(held, now_ms):
            held = resend(held, PREAUTH, now_ms).snapshot
    assert len(keys) > 5
    assert "no_answer" in reasons(held)


def test_a_lost_void_is_sent_again_at_the_deadline_whoever_polls() -> None:
    """Then once after each moment of the schedule, so more and more rarely."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.VOID, T0, PREAUTH)
    sent_s = []
    for second in range(1, 1300):
        now_ms = T0 + second * SECOND
        if in_flight(held, now_ms):
            continue
        held = decided(held, untouched(held, now_ms), now_ms, PREAUTH)
        if resend_is_due(held, PREAUTH, now_ms):
            sent_s.append(second)
            held = resend(held, PREAUTH, now_ms).snapshot
    assert sent_s[0] == 10
    gaps = [later - earlier for earlier, later in pairwise(sent_s)]
    assert len(sent_s) < 8
    assert gaps == sorted(gaps)


def test_a_watch_ends_only_with_an_answer_asked_after_its_end() -> None:
    """Neither time alone nor an older inquiry ends it."""
    held = a_payment(State.FAILED)
    ends_at_ms = T0 + NATIVE.end.late_watch_s * SECOND
    late = decided(held, TimePassed(), ends_at_ms + HOUR)
    assert late.record.wake_at_ms is not None
    early = decided(late, failed(late, ends_at_ms - 1), ends_at_ms + HOUR)
    assert early.record.wake_at_ms == ends_at_ms
    assert decided(early, failed(early, ends_at_ms), ends_at_ms + HOUR).record.wake_at_ms is None


def test_a_given_up_pay_is_watched_until_a_whole_list_asked_after_the_watchs_end() -> None:
    """Only the list can show an attempt that arrived late; the order or one attempt cannot."""
    held = opened(a_created(), Step.PAY, T0)
    for asked_at_ms in (T0 + 10 * SECOND, T0 + 25 * SECOND):
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms)
    pay_given_up_at_ms = held.record.pay_given_up_at_ms
    assert pay_given_up_at_ms is not None
    over_ms = pay_given_up_at_ms + DAY
    assert what_to_ask(held, over_ms) is Ask.PAYMENTS
    held = decided(held, OrderSeen("ACTIVE", over_ms, over_ms + DAY), over_ms)
    assert held.record.pay_given_up_at_ms == pay_given_up_at_ms
    held = decided(held, listed(asked_at_ms=over_ms), over_ms)
    assert (held.record.pay_given_up_at_ms, held.record.wake_at_ms) == (None, over_ms + DAY)


def test_a_sale_that_is_only_held_is_reviewed_by_an_answer_asked_after_the_first_moment() -> None:
    """An old answer that comes late proves nothing about what the bank did since."""
    held = a_payment(State.AUTHORIZED)
    early = inquired(entity(is_captured=False), asked_at_ms=T0 + SECOND)
    assert reasons(decided(held, early, T0 + HOUR)) == []
    late = inquired(entity(is_captured=False), asked_at_ms=T0 + 5 * SECOND)
    assert reasons(decided(held, late, T0 + 5 * SECOND)) == ["held_not_captured"]


# the store's clock


def test_a_clock_that_goes_back_an_hour_leaves_no_payment_asleep() -> None:
    """The next decision counts its moments by the new clock."""
    held = a_payment(State.INITIATED)
    held = decided(held, pending(held, T0 + 6 * SECOND), T0 + 6 * SECOND)
    back_ms = T0 - HOUR
    held = decided(held, pending(held, back_ms), back_ms)
    assert held.record.wake_at_ms is not None
    assert back_ms < held.record.wake_at_ms <= back_ms + 6 * SECOND


def test_a_step_from_before_the_clock_went_back_is_asked_about_and_never_given_up_early() -> None:
    """How long its call has been on its way is unknown: it gets its whole time again."""
    held = opened(a_created(), Step.PAY, T0)
    operation = held.record.operation
    assert operation is not None
    back_ms = T0 - HOUR
    assert operation.status(back_ms) is OperationStatus.UNKNOWN
    assert what_to_ask(held, back_ms) is Ask.PAYMENTS
    held = decided(held, listed(asked_at_ms=back_ms), back_ms)
    for after_s in (5, 9):
        asked_at_ms = back_ms + after_s * SECOND
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms)
    assert held.record.operation is not None
    for after_s in (10, 25):
        asked_at_ms = back_ms + after_s * SECOND
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms)
    assert held.record.pay_given_up_at_ms == back_ms + 25 * SECOND


def test_an_answer_from_the_future_of_the_clock_undoes_nothing() -> None:
    """It was timed before the clock went back, so its age is unknown."""
    back_ms = T0 - HOUR
    held = decided(a_payment(State.AUTHORIZED, PREAUTH), TimePassed(), back_ms, PREAUTH)
    held = decided(held, inquired(entity("FAILED"), asked_at_ms=T0), back_ms + SECOND, PREAUTH)
    assert held.record.state is State.AUTHORIZED


# the customer's turn


def test_an_accepted_otp_starts_the_wait_for_the_money() -> None:
    """The wait starts when the bank accepts the OTP."""
    later = T0 + 100 * SECOND
    page = opened(an_otp_page(), Step.SUBMIT_OTP, later)
    held = decided(page, answered(page, otp_result("SUCCESS"), asked_at_ms=later), later + SECOND)
    assert owed_since_at_ms(held.record) == later + SECOND
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms <= later + 7 * SECOND


def test_a_wrong_otp_and_a_resend_leave_the_page_its_time() -> None:
    """The bank owes nothing while the customer may type."""
    held = an_otp_page()
    for step, status in ((Step.SUBMIT_OTP, "FAILED"), (Step.RESEND_OTP, "SUCCESS")):
        at_ms = T0 + 40 * SECOND
        page = opened(held, step, at_ms)
        held = decided(page, answered(page, otp_result(status), asked_at_ms=at_ms), at_ms)
        assert held.record.wake_at_ms == T0 + 300 * SECOND


def test_a_lost_otp_counts_the_wait_from_when_it_was_sent() -> None:
    """The OTP may have been right: then the bank owes a result from the call on."""
    sent_at_ms = T0 + 30 * SECOND
    held = opened(an_otp_page(), Step.SUBMIT_OTP, sent_at_ms)
    asked_at_ms = sent_at_ms + 11 * SECOND
    held = decided(held, pending(held, asked_at_ms), asked_at_ms)
    assert held.record.operation is None
    moments = grid(held.record, NATIVE, sent_at_ms)
    assert held.record.wake_at_ms == min(at for at in moments if at > asked_at_ms)


@pytest.mark.parametrize("step", [Step.CAPTURE, Step.VOID])
def test_a_refused_step_changes_no_moment_of_a_hold(step: Step) -> None:
    """After the refusal the schedule is as if the step had never been opened."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    tried = opened(held, step, T0 + HOUR, PREAUTH)
    assert tried.record.wake_at_ms == T0 + HOUR + 11 * SECOND
    refused = decided(tried, Refused(sequence_of(tried), "refused"), T0 + HOUR, PREAUTH)
    assert refused.record.wake_at_ms == held.record.wake_at_ms
    assert owed_since_at_ms(refused.record) == owed_since_at_ms(held.record)


def test_an_observation_of_another_attempt_counts_for_nothing() -> None:
    """A list without our attempt settles no moment of this payment."""
    held = a_payment(State.INITIATED)
    other = Observation(call=Call.FETCH_PAYMENTS, cf_payment_id="777", payment_status="PENDING")
    now_ms = T0 + 6 * SECOND
    assert decided(held, Inquired((other,), now_ms, everything=True), now_ms).record.wake_at_ms == (
        held.record.wake_at_ms
    )
