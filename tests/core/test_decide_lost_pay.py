"""A pay whose answer was lost: found again, ambiguous, or never arrived."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from cfflow.core.actions import AskOtp, Redirect
from cfflow.core.chart import State
from cfflow.core.decide import Ended
from cfflow.core.due import Ask, what_to_ask
from cfflow.core.flow import PayRules
from cfflow.core.observation import Observation
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.steps import Instrument, begin_pay
from cfflow.errors import IllegalStep
from tests.core.core_kit import (
    AMOUNT,
    BANK_PAGE,
    CARD,
    DAY,
    FOREIGN,
    NATIVE,
    OURS,
    SECOND,
    T0,
    a_created,
    a_payment,
    alone,
    answered,
    begun,
    beside,
    decided,
    entity,
    listed,
    opened,
    order_is,
    paid,
    reasons,
    shipped,
    states_walked,
    taken,
    with_record,
)

LIMIT = T0 + 10 * SECOND


def a_lost_pay(amount: Decimal | None = AMOUNT) -> Snapshot:
    """Return a payment whose pay went out at T0 and was never answered."""
    return opened(a_created(amount=amount), Step.PAY, T0)


def asked_twice(held: Snapshot, *seen: Observation) -> Snapshot:
    """Return the payment after two inquiries that count, 15 seconds apart."""
    for asked_at_ms in (LIMIT, LIMIT + 15 * SECOND):
        held = decided(held, listed(*seen, asked_at_ms=asked_at_ms), asked_at_ms)
    return held


def test_a_lost_pay_is_found_and_its_page_inferred() -> None:
    """The pay asked for channel post: the OTP page is inferred and has no address of the bank."""
    held = decided(a_lost_pay(), listed(entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    assert (held.record.state, held.record.cf_payment_id) == (State.OTP_PENDING, OURS)
    assert held.record.otp is not None
    assert held.record.otp.inferred
    assert held.next_action == AskOtp(None)
    assert held.record.operation is None


def test_a_lost_pay_on_another_channel_is_initiated_without_an_action() -> None:
    """The next action was in the lost answer, and the gateway does not repeat it."""
    lost = opened(a_created(), Step.PAY, T0, instrument=Instrument("card", "link", "1111"))
    held = decided(lost, listed(entity("PENDING", channel="link"), asked_at_ms=LIMIT), LIMIT)
    assert (held.record.state, held.next_action) == (State.INITIATED, None)


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (taken(), State.CAPTURED),
        (entity(), State.AUTHORIZED),
        (entity("FAILED"), State.FAILED),
        (entity("VOID"), State.VOIDED),
    ],
)
def test_a_lost_pay_may_be_found_far_along(seen: Observation, state: State) -> None:
    """The payment walks every edge to the state of the attempt."""
    late = LIMIT + 20 * SECOND
    held = decided(a_lost_pay(), listed(seen, asked_at_ms=late), late)
    assert (held.record.state, held.record.operation) == (state, None)
    assert states_walked(held.record)[:2] == ["created", "initiated"]
    assert held.record.amount_held == AMOUNT


#: How an attempt may differ from the pay, in the fields that both show.
DIFFERENCES: list[dict[str, object]] = [
    {"method": "upi"},
    {"payment_amount": Decimal(99)},
    {"payment_amount": AMOUNT - Decimal("0.01")},
    {"order_amount": Decimal(99), "payment_amount": Decimal(98)},
    {"last_four": "2222"},
    {"channel": "link"},
]


@pytest.mark.parametrize("other", DIFFERENCES)
@pytest.mark.parametrize("status", ["PENDING", "FAILED", "SUCCESS"])
def test_a_difference_never_rules_an_attempt_out(other: dict[str, object], status: str) -> None:
    """It may still be ours: the pay stays open, a person decides, and no second pay is sent."""
    seen = entity(status, cf_payment_id=FOREIGN, **other)
    held = decided(a_lost_pay(), listed(seen, asked_at_ms=LIMIT), LIMIT)
    assert (held.record.cf_payment_id, reasons(held)) == (None, [])
    held = asked_twice(a_lost_pay(), seen)
    assert (held.record.cf_payment_id, reasons(held)) == (None, ["ambiguous_attempt"])
    assert FOREIGN not in held.order.seen_attempt_ids
    with pytest.raises(IllegalStep):
        begun(held, Step.PAY, LIMIT + DAY)


@pytest.mark.parametrize("other", DIFFERENCES)
def test_the_attempt_that_agrees_is_ours_beside_one_that_differs(other: dict[str, object]) -> None:
    """It is taken; the other one may be ours too, so a person checks before the next pay."""
    differs = entity("PENDING", cf_payment_id=FOREIGN, **other)
    held = decided(a_lost_pay(), listed(differs, asked_at_ms=LIMIT), LIMIT)
    held = decided(held, listed(differs, entity("PENDING"), asked_at_ms=LIMIT + 1), LIMIT + 1)
    assert (held.record.cf_payment_id, reasons(held)) == (OURS, ["ambiguous_attempt"])
    (review,) = held.record.open_reviews
    assert FOREIGN in review.detail
    assert OURS not in review.detail


def test_another_attempt_that_took_nothing_leaves_the_one_that_agrees_alone() -> None:
    """An open match beside a declined try: no attempt of the order can be paid twice."""
    declined = entity("FAILED", cf_payment_id=FOREIGN, last_four="2222")
    held = decided(a_lost_pay(), listed(declined, entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    assert (held.record.cf_payment_id, reasons(held)) == (OURS, [])


@pytest.mark.parametrize("other", DIFFERENCES)
def test_a_declined_match_beside_another_attempt_is_not_taken_for_ours(
    other: dict[str, object],
) -> None:
    """The declined try may be an older one of the customer, and ours the one that differs."""
    late = LIMIT + 20 * SECOND
    declined = entity("FAILED", cf_payment_id=FOREIGN)
    seen = (declined, entity("PENDING", **other))
    held = decided(a_lost_pay(), listed(*seen, asked_at_ms=late), late)
    assert (held.record.cf_payment_id, reasons(held)) == (None, ["ambiguous_attempt"])
    assert held.record.state is State.CREATED


def test_a_declined_attempt_that_was_found_is_watched_for_a_later_one() -> None:
    """It may be another try, with our pay still on its way: cfflow looks for that one all day."""
    late = LIMIT + 20 * SECOND
    held = decided(a_lost_pay(), listed(entity("FAILED"), asked_at_ms=late), late)
    assert (held.record.state, held.record.pay_given_up_at_ms) == (State.FAILED, late)
    assert what_to_ask(held, late + 60 * SECOND) is Ask.PAYMENTS
    seen = (entity("FAILED"), taken(cf_payment_id=FOREIGN))
    held = decided(held, listed(*seen, asked_at_ms=late + 60 * SECOND), late + 60 * SECOND)
    assert reasons(held) == ["unclaimed_money"]


def test_an_attempt_that_is_listed_twice_is_one() -> None:
    """Two pages of the list can overlap; an attempt on both of them is still one."""
    held = decided(
        a_lost_pay(), listed(entity("PENDING"), entity("PENDING"), asked_at_ms=LIMIT), LIMIT
    )
    assert (held.record.cf_payment_id, reasons(held)) == (OURS, [])


@pytest.mark.parametrize(
    "made_by_the_gateway",
    [
        {"payment_amount": AMOUNT + Decimal("0.50"), "order_amount": AMOUNT},
        {"payment_amount": AMOUNT - Decimal(1), "order_amount": AMOUNT},
        {"payment_amount": None, "order_amount": None},
        {"method": None},
        {"method": "emi"},
        {"last_four": None},
        {"channel": None},
        {"began_at_ms": T0 - 60 * SECOND},
        {"began_at_ms": T0 + 900 * SECOND},
    ],
    ids=str,
)
def test_what_the_gateway_changes_by_itself_is_no_difference(
    made_by_the_gateway: dict[str, object],
) -> None:
    """Fees, offers, other names, missing digits; only the gateway's own clock counts."""
    seen = entity("PENDING", **made_by_the_gateway)
    assert (
        decided(a_lost_pay(), listed(seen, asked_at_ms=LIMIT), LIMIT).record.cf_payment_id == OURS
    )


#: The gateway's clock in the tests below; it is far from the store's clock.
GATEWAY_T0 = T0 - 900 * SECOND


def a_timed_pay() -> Snapshot:
    """Return a lost pay that was stored when the gateway's clock showed GATEWAY_T0."""
    return begin_pay(a_created(), NATIVE, T0, CARD, gateway_at_ms=GATEWAY_T0).snapshot


@pytest.mark.parametrize("status", ["PENDING", "FAILED", "SUCCESS"])
def test_an_attempt_from_before_by_the_gateways_own_clock_is_not_ours(status: str) -> None:
    """Even with the same card: the pay is given up, and may be made again."""
    old = entity(status, cf_payment_id=FOREIGN, began_at_ms=GATEWAY_T0 - 32 * SECOND)
    held = asked_twice(a_timed_pay(), old)
    assert held.record.operation is None
    assert held.record.pay_given_up_at_ms is not None


def test_an_attempt_within_the_gateways_own_spread_of_clocks_may_be_ours() -> None:
    """The gateway's machines differ in their clocks: only a much older attempt is ruled out."""
    seen = entity("PENDING", began_at_ms=GATEWAY_T0 - 30 * SECOND)
    assert (
        decided(a_timed_pay(), listed(seen, asked_at_ms=LIMIT), LIMIT).record.cf_payment_id == OURS
    )


@pytest.mark.parametrize("off_ms", [-3600 * SECOND, -900 * SECOND, 0, 900 * SECOND, 3600 * SECOND])
@pytest.mark.parametrize("old", [False, True])
def test_the_stores_clock_changes_no_verdict(off_ms: int, old: bool) -> None:
    """However far it is ahead or behind: ours is found, and an older attempt is ruled out."""
    at_ms = T0 + off_ms
    held = with_record(a_created(), created_at_ms=at_ms, since_at_ms=at_ms)
    held = begin_pay(held, NATIVE, at_ms, CARD, gateway_at_ms=T0).snapshot
    began_at_ms = T0 - 60 * SECOND if old else T0 + SECOND
    seen = entity("PENDING", began_at_ms=began_at_ms)
    for asked_at_ms in (at_ms + 10 * SECOND, at_ms + 25 * SECOND):
        held = decided(held, listed(seen, asked_at_ms=asked_at_ms), asked_at_ms)
    assert held.record.cf_payment_id == (None if old else OURS)
    assert (held.record.pay_given_up_at_ms is not None) is old


def test_an_attempt_on_another_channel_opens_a_review() -> None:
    """The bank may answer link where post was asked: it may be ours, so a person checks."""
    held = asked_twice(a_lost_pay(), entity("PENDING", channel="link"))
    assert (held.record.cf_payment_id, reasons(held)) == (None, ["ambiguous_attempt"])


def test_an_attempt_of_before_or_of_another_payment_is_not_ours() -> None:
    """Attempts that were there before the pay, or that another payment has, are not ours."""
    failed = a_payment(State.FAILED).record
    other = msgspec.structs.replace(failed, cf_payment_id="77")
    held = opened(beside(a_created(), other), Step.PAY, T0)
    later = msgspec.structs.replace(failed, cf_payment_id="78")
    held = beside(held, other, later)
    seen = (entity("PENDING", cf_payment_id="77"), entity("PENDING", cf_payment_id="78"))
    assert decided(held, listed(*seen, asked_at_ms=LIMIT), LIMIT).record.cf_payment_id is None
    forgotten = alone(held.record)
    assert (
        decided(forgotten, listed(seen[0], asked_at_ms=LIMIT), LIMIT).record.cf_payment_id is None
    )


def test_two_matches_open_a_review_and_the_operation_stays() -> None:
    """cfflow does not guess: no attempt, no move and no new pay until a person resolves it."""
    another = entity("PENDING", cf_payment_id=FOREIGN)
    held = decided(a_lost_pay(), listed(entity("PENDING"), another, asked_at_ms=LIMIT), LIMIT)
    assert reasons(held) == ["ambiguous_attempt"]
    assert (held.record.state, held.record.cf_payment_id) == (State.CREATED, None)
    assert held.record.operation is not None
    assert held.record.wake_at_ms is not None
    with pytest.raises(IllegalStep):
        begun(held, Step.PAY, LIMIT + DAY)


def test_only_two_inquiries_a_margin_apart_and_past_the_limit_mean_no_attempt() -> None:
    """Before the limit no inquiry counts; the second one, 15 s later, frees the payment."""
    held = decided(a_lost_pay(), listed(asked_at_ms=LIMIT - 1), LIMIT + SECOND)
    held = decided(held, listed(asked_at_ms=LIMIT), LIMIT + SECOND)
    again = decided(held, listed(asked_at_ms=LIMIT + 15 * SECOND - 1), LIMIT + 20 * SECOND)
    assert again.record.operation is not None
    held = decided(again, listed(asked_at_ms=LIMIT + 15 * SECOND), LIMIT + 20 * SECOND)
    assert (held.record.state, held.record.operation) == (State.CREATED, None)
    assert begun(held, Step.PAY, LIMIT + 20 * SECOND).record.sequence == 2


def test_the_same_empty_answer_twice_is_one_answer() -> None:
    """One inquiry that is repeated or reordered never counts as two."""
    held = a_lost_pay()
    for asked_at_ms in (LIMIT, LIMIT, LIMIT - SECOND, LIMIT + SECOND):
        held = decided(held, listed(asked_at_ms=asked_at_ms), LIMIT + 60 * SECOND)
    assert held.record.operation is not None


def test_a_call_that_broke_early_still_has_its_whole_time_limit_to_arrive() -> None:
    """Ended lets us ask at once, but "no attempt" is decided only past the call's own limit."""
    slow = shipped("native_otp", pay=PayRules(timeout_s=60))
    held = decided(opened(a_created(slow), Step.PAY, T0, slow), Ended(1), T0 + 100, slow)
    for asked_at_ms in (T0 + 200, T0 + 20 * SECOND, T0 + 60 * SECOND - 1):
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms, slow)
    assert held.record.operation is not None
    for asked_at_ms in (T0 + 60 * SECOND, T0 + 75 * SECOND):
        assert held.record.operation is not None
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms, slow)
    assert held.record.operation is None


def test_the_wakes_of_a_lost_pay_lead_to_both_inquiries() -> None:
    """A caller who asks at each wake and finds no attempt is done after a few inquiries."""
    held = a_lost_pay()
    for _ in range(4):
        now_ms = held.record.wake_at_ms
        assert now_ms is not None
        if held.record.operation is None:
            break
        assert what_to_ask(held, now_ms) is Ask.PAYMENTS
        held = decided(held, listed(asked_at_ms=now_ms), now_ms)
    assert held.record.operation is None
    assert held.record.updated_at_ms <= T0 + 60 * SECOND


@pytest.mark.parametrize("found", [True, False])
def test_the_real_answer_gives_an_inferred_page_its_way_out(found: bool) -> None:
    """Whether a worker was faster or not, the late answer leads to the same state, once."""
    lost = a_lost_pay()
    held = decided(lost, listed(entity("PENDING"), asked_at_ms=LIMIT), LIMIT) if found else lost
    event = answered(lost, paid(), asked_at_ms=T0, action=AskOtp(BANK_PAGE))
    for _ in range(2):
        held = decided(held, event, LIMIT + 1)
        assert (held.record.state, held.next_action) == (State.OTP_PENDING, AskOtp(BANK_PAGE))
        assert held.record.otp is not None
        assert not held.record.otp.inferred
        assert states_walked(held.record) == ["created", "initiated", "otp_pending"]


def test_the_real_answer_corrects_a_wrong_guess_of_a_page() -> None:
    """Post was asked, link was answered: the payment leaves the inferred page."""
    lost = a_lost_pay()
    held = decided(lost, listed(entity("PENDING"), asked_at_ms=LIMIT), LIMIT)
    away = Redirect("https://bank.example")
    held = decided(held, answered(lost, paid("link"), asked_at_ms=T0, action=away), LIMIT + 1)
    assert (held.record.state, held.next_action) == (State.INITIATED, away)


def test_the_real_answer_corrects_a_guess_of_no_page() -> None:
    """No channel was asked, so no page was inferred; the answer is post, and the page opens."""
    plain = shipped("redirect")
    lost = opened(a_created(plain), Step.PAY, T0, plain, instrument=Instrument("emi", None, "1111"))
    seen = entity("PENDING", method="emi", channel=None)
    held = decided(lost, listed(seen, asked_at_ms=LIMIT), LIMIT, plain)
    assert held.record.state is State.INITIATED
    event = answered(lost, paid(), asked_at_ms=T0, action=AskOtp(BANK_PAGE))
    held = decided(held, event, LIMIT + 1, plain)
    assert (held.record.state, held.next_action) == (State.OTP_PENDING, AskOtp(BANK_PAGE))


def test_an_answer_after_the_money_moved_adds_only_the_attempt() -> None:
    """The worker has seen the money: a late answer to pay does not open the page again."""
    lost = a_lost_pay()
    held = decided(lost, listed(taken(), asked_at_ms=LIMIT), LIMIT)
    event = answered(lost, paid(), asked_at_ms=T0, action=AskOtp(BANK_PAGE))
    now = decided(held, event, LIMIT + 1)
    assert (now.record.state, now.next_action) == (State.CAPTURED, None)
    assert now.record.history == held.record.history


@pytest.mark.parametrize("status", ["EXPIRED", "TERMINATED"])
def test_a_closed_order_fails_a_payment_that_has_no_attempt(status: str) -> None:
    """Only without an attempt and without an open pay; one edge, and no invented attempt."""
    held = decided(a_created(), order_is(status, T0 + DAY), T0 + DAY)
    assert (held.record.state, states_walked(held.record)) == (
        State.FAILED,
        ["created", "failed"],
    )
    assert decided(a_lost_pay(), order_is(status, T0 + DAY), T0 + DAY).record.state is State.CREATED


@pytest.mark.parametrize("status", ["ACTIVE", "TERMINATION_REQUESTED", "", "NEW_WORD"])
def test_an_order_that_is_not_closed_fails_nothing(status: str) -> None:
    """The payment keeps waiting; the next inquiry is at the order's expiry if that is known."""
    held = decided(a_created(), order_is(status, T0 + DAY, T0 + 9 * DAY), T0 + DAY)
    assert held.record.state is State.CREATED
    assert held.record.wake_at_ms == T0 + 9 * DAY
    held = decided(held, order_is(status, T0 + 9 * DAY), T0 + 9 * DAY)
    assert held.record.wake_at_ms is not None
    assert held.record.wake_at_ms > T0 + 9 * DAY


def test_an_order_paid_by_no_attempt_of_ours_is_unclaimed_money() -> None:
    """The order was paid after its pay was given up: a person checks, and no new pay is sent."""
    held = decided(a_created(), order_is("PAID", T0 + DAY), T0 + DAY)
    assert reasons(held) == ["unclaimed_money"]
    with pytest.raises(IllegalStep):
        begun(held, Step.PAY, T0 + DAY)
    failed = decided(a_created(), order_is("EXPIRED", T0 + DAY), T0 + DAY)
    failed = decided(failed, order_is("PAID", T0 + DAY + 1), T0 + DAY + 1)
    assert reasons(failed) == ["unclaimed_money"]
