"""Facts that contradict the arguments of `start`, or that are about another order."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from cfflow.core.chart import State
from cfflow.core.decide import Adopted, Event, NotFound, OrderSeen, TimePassed
from cfflow.core.due import HoldEnd, due_hold
from cfflow.core.observation import Observation
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.people import acknowledge
from cfflow.core.steps import amount_to_capture
from tests.core.core_kit import (
    AMOUNT,
    DAY,
    HOUR,
    NATIVE,
    OURS,
    PREAUTH,
    SECOND,
    T0,
    a_created,
    a_payment,
    alone,
    answered,
    decided,
    entity,
    inquired,
    listed,
    opened,
    reasons,
    taken,
    with_record,
)

OTHER = Decimal("1.00")
LIMIT = T0 + 10 * SECOND


def a_lost_pay(amount: Decimal | None = AMOUNT) -> Snapshot:
    """Return a payment whose pay went out at T0 and was never answered."""
    return opened(a_created(amount=amount), Step.PAY, T0)


def the_detail(held: Snapshot) -> str:
    """Return the detail of the only open review."""
    (review,) = held.record.open_reviews
    return review.detail


# the order's amount and currency


@pytest.mark.parametrize("status", ["SUCCESS", "PENDING", "FAILED", "VOID"])
def test_another_order_amount_than_start_was_given_is_reviewed(status: str) -> None:
    """The review has both values, in every state; the payment shows the gateway's."""
    held = a_payment(State.INITIATED)
    seen = entity(status, is_captured=True, payment_amount=OTHER, order_amount=OTHER)
    held = decided(held, inquired(seen, asked_at_ms=T0 + SECOND), T0 + SECOND)
    assert reasons(held) == ["order_amount_differs"]
    assert str(AMOUNT) in the_detail(held)
    assert str(OTHER) in the_detail(held)
    assert held.record.amount_held == OTHER


@pytest.mark.parametrize("paid_amount", [AMOUNT + 2, AMOUNT - 2])
def test_fees_and_offers_are_no_difference(paid_amount: Decimal) -> None:
    """The amount paid may differ from the order's; the order's amount is the one compared."""
    seen = taken(payment_amount=paid_amount, order_amount=AMOUNT)
    held = decided(a_payment(State.INITIATED), inquired(seen, asked_at_ms=T0 + 1), T0 + 1)
    assert (held.record.state, reasons(held)) == (State.CAPTURED, [])
    assert held.record.amount_held == paid_amount


def test_a_payment_started_without_an_amount_takes_the_gateways_amount() -> None:
    """Without an amount from `start` there is no contradiction."""
    held = decided(a_lost_pay(None), listed(taken(order_amount=OTHER), asked_at_ms=LIMIT), LIMIT)
    assert (held.record.state, reasons(held)) == (State.CAPTURED, [])


def test_another_currency_is_reviewed() -> None:
    """The review has both; the same currency in other letter case is the same."""
    held = a_payment(State.INITIATED)
    same = decided(held, inquired(taken(currency="inr"), asked_at_ms=T0 + 1), T0 + 1)
    assert reasons(same) == []
    other = decided(held, inquired(taken(currency="USD"), asked_at_ms=T0 + 1), T0 + 1)
    assert reasons(other) == ["currency_differs"]
    assert {"INR", "USD"} <= set(the_detail(other).replace(",", "").split())


def test_a_lost_pay_and_an_adopted_attempt_go_through_the_same_check() -> None:
    """Both compare the order's amount, and both open a review."""
    seen = taken(payment_amount=AMOUNT, order_amount=OTHER)
    found = decided(a_lost_pay(), listed(seen, asked_at_ms=LIMIT), LIMIT)
    assert (found.record.cf_payment_id, reasons(found)) == (OURS, ["order_amount_differs"])
    adopted = decided(a_created(), Adopted(seen, T0, "n1"), T0)
    assert (adopted.record.state, reasons(adopted)) == (State.CAPTURED, ["order_amount_differs"])


def test_the_order_itself_is_compared_before_it_is_paid() -> None:
    """A page that fetches the order finds the difference before the customer pays."""
    event = OrderSeen("ACTIVE", T0, T0 + DAY, amount=OTHER, currency="INR", order_id="order_1")
    assert reasons(decided(a_created(), event, T0)) == ["order_amount_differs"]


def test_an_acknowledged_difference_is_not_reviewed_again() -> None:
    """A person has decided; the same fact opens no second review."""
    held = a_payment(State.INITIATED)
    event = inquired(taken(order_amount=OTHER), asked_at_ms=T0 + 1)
    held = decided(held, event, T0 + 1)
    decision = {"reason": "order_amount_differs", "actor": "desk", "note": "refunded"}
    held = acknowledge(held, NATIVE, T0 + 2, **decision).snapshot
    assert (
        reasons(decided(held, inquired(taken(order_amount=OTHER), asked_at_ms=T0 + 3), T0 + 3))
        == []
    )


# another order

ELSEWHERE = "order_2"


def elsewhere(**fields: object) -> Observation:
    """Return an entity with our attempt's id that names another order."""
    return taken(order_id=ELSEWHERE, **fields)


@pytest.mark.parametrize(
    ("held", "event"),
    [
        (a_payment(State.INITIATED), inquired(elsewhere(), asked_at_ms=T0 + 1)),
        (a_payment(State.INITIATED), listed(elsewhere(), asked_at_ms=T0 + 1)),
        (a_lost_pay(), listed(elsewhere(), asked_at_ms=LIMIT)),
        (a_created(), Adopted(elsewhere(), T0, "n1")),
        (a_created(), OrderSeen("EXPIRED", T0 + 1, order_id=ELSEWHERE)),
    ],
    ids=["one", "list", "lost pay", "adopted", "order"],
)
def test_an_answer_about_another_order_proves_nothing(held: Snapshot, event: Event) -> None:
    """No state, attempt or moment of the schedule changes; the review names the other order."""
    after = decided(held, event, LIMIT)
    same = ("state", "cf_payment_id", "amount_held", "captured_amount", "asked_at_ms", "operation")
    for name in same:
        assert getattr(after.record, name) == getattr(held.record, name), name
    assert reasons(after) == ["other_answer"]
    assert ELSEWHERE in the_detail(after)


def test_a_capture_answered_about_another_order_stays_open() -> None:
    """The outcome of the step is unknown: an inquiry decides."""
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.CAPTURE, T0, PREAUTH)
    held = decided(held, answered(held, elsewhere(), asked_at_ms=T0), T0, PREAUTH)
    assert held.record.state is State.AUTHORIZED
    assert held.record.operation is not None


def test_a_list_with_another_orders_attempt_still_shows_ours() -> None:
    """Facts about this order count as always."""
    mixed = entity("PENDING", cf_payment_id="777", order_id=ELSEWHERE)
    held = decided(
        a_lost_pay(), listed(mixed, entity(order_id="order_1"), asked_at_ms=LIMIT), LIMIT
    )
    assert held.record.cf_payment_id == OURS


# what the bank did with a hold


@pytest.mark.parametrize("confirmed", ["SUCCESS", "PENDING"])
def test_a_hold_that_was_captured_in_the_dashboard_was_held_first(confirmed: str) -> None:
    """CAPTURE proves it, whoever requested it: no false `captured_without_hold`."""
    seen = taken(authorization_action="CAPTURE", authorization_status=confirmed)
    held = decided(
        a_payment(State.INITIATED, PREAUTH), inquired(seen, asked_at_ms=LIMIT), LIMIT, PREAUTH
    )
    assert (held.record.state, reasons(held)) == (State.CAPTURED, [])
    adopted = decided(a_created(PREAUTH), Adopted(seen, T0, "n1"), T0, PREAUTH)
    assert (adopted.record.state, reasons(adopted)) == (State.CAPTURED, [])


def test_money_that_was_taken_at_once_is_still_reviewed() -> None:
    """The gateway shows no hold: this account does not hold money."""
    held = decided(
        a_payment(State.INITIATED, PREAUTH), inquired(taken(), asked_at_ms=LIMIT), LIMIT, PREAUTH
    )
    assert reasons(held) == ["captured_without_hold"]


def test_only_an_answer_asked_after_the_holds_end_shows_that_it_was_not_released() -> None:
    """A refused capture proves no release, and neither does the clock."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    ends_at_ms = held.record.hold_expires_at_ms
    assert ends_at_ms is not None
    late = opened(held, Step.CAPTURE, ends_at_ms + HOUR, PREAUTH)
    assert reasons(late) == []
    early = decided(
        held, inquired(entity(), asked_at_ms=ends_at_ms - 1), ends_at_ms + HOUR, PREAUTH
    )
    assert reasons(early) == []
    shown = decided(held, inquired(entity(), asked_at_ms=ends_at_ms), ends_at_ms, PREAUTH)
    assert reasons(shown) == ["hold_lapsed"]


# an order that the gateway does not know


@pytest.mark.parametrize("state", [State.INITIATED, State.OTP_PENDING, State.AUTHORIZED])
def test_an_order_that_the_gateway_does_not_know_is_reviewed(state: State) -> None:
    """Not in its first minute, because not every machine of the gateway may have it yet."""
    held = a_payment(state, PREAUTH)
    wait_ms = held.record.otp.expires_at_ms - T0 if held.record.otp else 0
    early = decided(held, NotFound(T0 + wait_ms + 59 * SECOND), T0 + wait_ms + 59 * SECOND, PREAUTH)
    assert (early.record.state, reasons(early)) == (state, [])
    late_ms = T0 + wait_ms + 60 * SECOND
    late = decided(early, NotFound(late_ms), late_ms, PREAUTH)
    assert (late.record.state, reasons(late)) == (state, ["order_not_found"])
    assert "secret" in the_detail(late)
    assert late.record.asked_at_ms == late_ms


# adopted attempts keep the gateway's times


def test_an_adopted_payment_has_the_gateways_times() -> None:
    """Yesterday's capture keeps its time; the history has the time of the adoption."""
    began_at_ms, paid_at_ms = T0 - DAY, T0 - DAY + 40 * SECOND
    seen = taken(began_at_ms=began_at_ms, paid_at_ms=paid_at_ms)
    held = a_created()
    record = held.record
    old = alone(replace(record, created_at_ms=began_at_ms, moved_at_ms=began_at_ms))
    adopted = decided(old, Adopted(seen, T0, "n1"), T0).record
    assert adopted.moved_at_ms == paid_at_ms
    offsets = [entry.offset_ms for entry in adopted.history]
    assert offsets == [0, 40 * SECOND, 40 * SECOND, DAY]
    assert adopted.history[-1].text == "adopted from the gateway's list"


def test_a_time_in_the_future_is_not_stored() -> None:
    """When the gateway's clock is ahead, cfflow stores the present time instead."""
    seen = taken(began_at_ms=T0 + DAY, paid_at_ms=T0 + DAY)
    adopted = decided(a_created(), Adopted(seen, T0, "n1"), T0).record
    assert adopted.moved_at_ms == T0


# how long a hold lasts


def a_hold(card_kind: str | None = None) -> Snapshot:
    """Return a hold of the shipped preauth flow, first seen at T0."""
    held = a_payment(State.INITIATED, PREAUTH)
    return decided(held, inquired(entity(card_kind=card_kind), asked_at_ms=T0), T0, PREAUTH)


@pytest.mark.parametrize(("kind", "days"), [("debit", 3), ("credit", 7), ("prepaid", 3), (None, 3)])
def test_how_long_a_hold_lasts_depends_on_the_kind_of_card(kind: str | None, days: int) -> None:
    """The shorter life where the kind is unknown: an early look is free, a lapsed hold is not."""
    assert a_hold(card_kind=kind).record.hold_expires_at_ms == T0 + days * DAY


def test_a_kind_that_is_learned_later_is_counted_from_the_same_beginning() -> None:
    """An end that the gateway names wins, and stays."""
    held = a_hold()
    seen = inquired(entity(card_kind="credit"), asked_at_ms=T0 + HOUR)
    held = decided(held, seen, T0 + HOUR, PREAUTH)
    assert held.record.hold_expires_at_ms == T0 + 7 * DAY
    named = inquired(entity(hold_expires_at_ms=T0 + 2 * DAY), asked_at_ms=T0 + 2 * HOUR)
    held = decided(held, named, T0 + 2 * HOUR, PREAUTH)
    again = inquired(entity(card_kind="debit"), asked_at_ms=T0 + 3 * HOUR)
    held = decided(held, again, T0 + 3 * HOUR, PREAUTH)
    assert held.record.hold_expires_at_ms == T0 + 2 * DAY


# what is about something else, and what passes


def test_an_answer_about_another_attempt_of_the_order_is_reviewed_and_settles_nothing() -> None:
    """The answer is about an attempt that was not asked for: no step may be sent because of it."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    act_ms = held.record.wake_at_ms
    assert act_ms is not None
    held = decided(held, inquired(taken(cf_payment_id="777"), asked_at_ms=act_ms), act_ms, PREAUTH)
    assert (held.record.state, held.record.wake_at_ms) == (State.AUTHORIZED, act_ms)
    assert reasons(held) == ["other_answer"]
    assert "777" in the_detail(held)


@pytest.mark.parametrize(
    "first", [NotFound(T0 + HOUR), inquired(elsewhere(), asked_at_ms=T0 + HOUR)]
)
def test_one_wrong_answer_does_not_keep_a_hold_from_its_end(first: Event) -> None:
    """The worker acts on the next correct answer."""
    held = decided(a_payment(State.AUTHORIZED, PREAUTH), first, T0 + HOUR, PREAUTH)
    assert len(held.record.open_reviews) == 1
    act_ms = held.record.wake_at_ms
    assert act_ms is not None
    while act_ms < (held.record.hold_expires_at_ms or 0) - 6 * HOUR:
        held = decided(held, inquired(entity(), asked_at_ms=act_ms), act_ms, PREAUTH)
        act_ms = held.record.wake_at_ms or 0
    held = decided(held, inquired(entity(), asked_at_ms=act_ms), act_ms, PREAUTH)
    assert due_hold(held, PREAUTH, act_ms) is HoldEnd.VOID


@pytest.mark.parametrize("reason", ["order_not_found", "no_answer"])
def test_a_review_about_time_comes_back_after_it_was_acknowledged(reason: str) -> None:
    """It is still true a day later, and without the review no person could end the payment."""
    held, now_ms = a_payment(State.INITIATED), T0 + DAY
    event: Event = NotFound(now_ms) if reason == "order_not_found" else TimePassed()
    held = decided(held, event, now_ms)
    assert reason in reasons(held)
    for open_reason in reasons(held):
        held = acknowledge(
            held, NATIVE, now_ms, reason=open_reason, actor="ann", note="asked"
        ).snapshot
    soon = decided(held, event, now_ms + HOUR)
    assert reason not in reasons(soon)
    late_ms = now_ms + DAY + HOUR
    later: Event = NotFound(late_ms) if reason == "order_not_found" else TimePassed()
    assert reason in reasons(decided(held, later, late_ms))


def test_a_404_after_its_end_ends_the_watch_of_a_given_up_pay() -> None:
    """An order that the gateway does not know has no attempt that could still arrive."""
    held = a_lost_pay()
    for asked_at_ms in (LIMIT, LIMIT + 15 * SECOND):
        held = decided(held, listed(asked_at_ms=asked_at_ms), asked_at_ms)
    over_ms = (held.record.pay_given_up_at_ms or 0) + DAY
    assert decided(held, NotFound(over_ms), over_ms).record.pay_given_up_at_ms is None


def test_another_amount_than_a_capture_asked_for_is_reviewed() -> None:
    """The gateway's is shown, and the review has both."""
    asked = Decimal("4.20")
    held = opened(a_payment(State.AUTHORIZED, PREAUTH), Step.CAPTURE, T0, PREAUTH, amount=asked)
    held = decided(held, inquired(taken(captured_amount=AMOUNT), asked_at_ms=LIMIT), LIMIT, PREAUTH)
    assert held.record.captured_amount == AMOUNT
    assert reasons(held) == ["captured_amount_changed"]
    assert {"4.20", str(AMOUNT)} <= set(the_detail(held).replace(",", "").split())


def test_what_was_paid_is_compared_where_the_order_shows_no_amount() -> None:
    """The order has no amount, so the paid amount is compared."""
    seen = taken(payment_amount=OTHER)
    held = decided(a_payment(State.INITIATED), inquired(seen, asked_at_ms=LIMIT), LIMIT)
    assert reasons(held) == ["order_amount_differs"]


def test_the_noise_that_an_older_record_kept_blocks_no_capture() -> None:
    """Version 0.1 kept the gateway's float as it came."""
    noisy = Decimal("1098.0000000000002")
    held = a_payment(State.AUTHORIZED, PREAUTH)
    held = with_record(held, amount=Decimal(1098), amount_held=noisy)
    assert amount_to_capture(held) == Decimal("1098.00")
    seen = entity(payment_amount=Decimal("1098.00"))
    assert reasons(decided(held, inquired(seen, asked_at_ms=LIMIT), LIMIT, PREAUTH)) == []


def test_an_empty_text_is_no_fact() -> None:
    """Some pages leave a field empty where others leave it out."""
    seen = taken(order_id="", currency="")
    held = decided(a_payment(State.INITIATED), inquired(seen, asked_at_ms=LIMIT), LIMIT)
    assert (held.record.state, reasons(held)) == (State.CAPTURED, [])
