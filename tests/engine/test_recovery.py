"""Recovery calls: adopt, abandon, acknowledge, resolve, and a store that was rolled back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

import cfflow
from cfflow import AskOtp, Payment, State, Worker
from cfflow.core.arguments import LEFT_OUT
from cfflow.core.reviews import ReviewReason
from cfflow.testing import MemoryStore
from tests.engine.shop import OTP, Shop, card, open_shop
from tests.engine.signing import event, signed

WHO = {"actor": "asha", "note": "asked the bank on the phone"}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A merchant on a store in memory."""
    async with open_shop() as opened:
        yield opened


async def attempt(shop: Shop, order_id: str, session: str, status: str | None = None) -> str:
    """Start an attempt past cfflow, as a hosted page would, and force its status."""
    answer = await shop.cashier.gateway.pay(session, card())
    cf_payment_id = str(answer.cf_payment_id)
    if status is not None:
        await shop.cashier.gateway.simulate(cf_payment_id, status)
    shop.pass_time(1)
    return cf_payment_id


async def ambiguous(shop: Shop) -> tuple[Payment, str]:
    """Return a payment with a lost pay and two attempts that may be it, and the session."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    shop.fault("pay", "lost_after")
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    await attempt(shop, order_id, session)
    shop.pass_time(30)
    payment = await shop.cashier.refresh(payment)
    assert payment.review == ("ambiguous_attempt",)
    return payment, session


# adopt


async def test_an_order_that_redis_lost_is_rebuilt_from_the_gateway(shop: Shop) -> None:
    """Each attempt becomes a payment, oldest first, with the gateway's own fields."""
    order_id, session = await shop.order()
    ids = [
        await attempt(shop, order_id, session, "FAILED"),
        await attempt(shop, order_id, session),
        await attempt(shop, order_id, session, "SUCCESS"),
    ]
    payments = await shop.cashier.adopt(order_id, flow="native_otp")
    assert [payment.id for payment in payments] == [f"{order_id}.{n}" for n in (1, 2, 3)]
    assert [payment.cf_payment_id for payment in payments] == ids
    assert [payment.state.value for payment in payments] == ["failed", "initiated", "captured"]
    assert payments[2].captured_amount == Decimal("170.00")


async def test_adopting_twice_changes_nothing(shop: Shop) -> None:
    """Idempotent: at the second call every attempt has its payment."""
    order_id, session = await shop.order()
    await attempt(shop, order_id, session, "SUCCESS")
    first = await shop.cashier.adopt(order_id, flow="native_otp")
    again = await shop.cashier.adopt(order_id, flow="native_otp")
    assert [(p.id, p.state, p.captured_amount) for p in again] == [
        (p.id, p.state, p.captured_amount) for p in first
    ]


async def test_adopting_an_order_without_attempts_invents_nothing(shop: Shop) -> None:
    """Without an attempt there is no payment; an order unknown to the gateway is an error."""
    order_id, _ = await shop.order()
    assert await shop.cashier.adopt(order_id, flow="native_otp") == []
    with pytest.raises(cfflow.GatewayRejected):
        await shop.cashier.adopt("order_unknown", flow="native_otp")


async def test_a_payment_that_waits_takes_the_attempt_that_redis_lost(shop: Shop) -> None:
    """Rolled back to before the pay: the same payment takes it, no second one is begun."""
    order_id, session = await shop.order()
    await shop.cashier.start("native_otp", order_id=order_id)
    ours = await attempt(shop, order_id, session, "SUCCESS")
    (payment,) = await shop.cashier.adopt(order_id, flow="native_otp")
    assert (payment.cf_payment_id, payment.state) == (ours, State.CAPTURED)


async def test_an_adopted_hold_can_be_captured(shop: Shop) -> None:
    """It follows the flow that the caller named, and its steps work as for any other."""
    order_id, session = await shop.order(hold=True)
    cf_payment_id = await attempt(shop, order_id, session)
    await shop.cashier.gateway.authenticate(cf_payment_id, OTP)
    (payment,) = await shop.cashier.adopt(order_id, flow="preauth")
    assert (payment.state, payment.flow) == (State.AUTHORIZED, "preauth")
    payment = await shop.cashier.capture(payment, "100.00")
    assert (payment.state, payment.captured_amount) == (State.CAPTURED, Decimal("100.00"))


async def test_nothing_is_adopted_while_a_pay_is_open(shop: Shop) -> None:
    """One of the attempts may belong to that pay: it must be decided first."""
    payment, _ = await ambiguous(shop)
    with pytest.raises(cfflow.Conflict, match="pay is open"):
        await shop.cashier.adopt(payment.order_id, flow="native_otp")


async def test_after_a_persons_decision_the_attempts_of_an_ambiguous_pay_are_adopted(
    shop: Shop,
) -> None:
    """`resolve` closes the pay; then `adopt` gives every attempt a payment."""
    payment, _ = await ambiguous(shop)
    await shop.cashier.resolve(payment, "created", **WHO)
    payments = await shop.cashier.adopt(payment.order_id, flow="native_otp")
    assert len({p.cf_payment_id for p in payments}) == 2
    assert [p.state.value for p in payments] == ["initiated", "initiated"]


# abandon


async def test_an_abandoned_payment_frees_the_order_and_takes_no_more_customers(
    shop: Shop,
) -> None:
    """The next start begins another payment; the old page accepts no step."""
    payment, session = await shop.at_otp()
    payment = await shop.cashier.abandon(payment)
    assert payment.next_action is None
    with pytest.raises(cfflow.IllegalStep, match="abandoned"):
        await shop.cashier.submit_otp(payment, OTP)
    second = await shop.cashier.start("native_otp", order_id=payment.order_id, amount="170.00")
    assert second.id == f"{payment.order_id}.2"
    second = await shop.cashier.pay(second, session, card())
    assert isinstance(second.next_action, AskOtp)


async def test_a_payment_with_an_open_pay_cannot_be_abandoned(shop: Shop) -> None:
    """The attempt may exist; an order with two of them may be paid twice."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    shop.fault("pay", "lost_before")
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    with pytest.raises((cfflow.Conflict, cfflow.OutcomeUnknown)):
        await shop.cashier.abandon(payment.id)


async def test_an_abandoned_payment_is_watched_to_its_end(shop: Shop) -> None:
    """Money that arrives later is seen."""
    payment, _ = await shop.at_otp()
    await shop.cashier.abandon(payment)
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    shop.pass_time(400)
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment)).state is State.CAPTURED


# acknowledge and resolve


async def test_an_acknowledged_review_is_closed_with_a_name_and_a_reason(shop: Shop) -> None:
    """It leaves the list, stays in the history, and the payment is as it was."""
    payment, _ = await ambiguous(shop)
    now = await shop.cashier.acknowledge(payment, "ambiguous_attempt", **WHO)
    assert (now.review, now.state) == ((), payment.state)
    assert await shop.cashier.find(review=True) == []
    text = str(await shop.cashier.why(payment))
    assert "asha" in text
    assert WHO["note"] in text


async def test_what_was_acknowledged_is_not_reported_again(shop: Shop) -> None:
    """The same fact with the same text opens no second review."""
    payment, _ = await ambiguous(shop)
    await shop.cashier.acknowledge(payment, "ambiguous_attempt", **WHO)
    shop.pass_time(60)
    assert (await shop.cashier.refresh(payment)).review == ()


@pytest.mark.parametrize(
    "wrong",
    [{"actor": "", "note": "x"}, {"actor": "x", "note": " "}, {"actor": "x" * 501, "note": "x"}],
)
async def test_a_decision_needs_a_name_and_a_reason(shop: Shop, wrong: dict[str, str]) -> None:
    """Neither may be empty; without them nothing changes."""
    payment, _ = await ambiguous(shop)
    with pytest.raises(cfflow.InvalidInput):
        await shop.cashier.acknowledge(payment, "ambiguous_attempt", **wrong)
    with pytest.raises(cfflow.InvalidInput):
        await shop.cashier.resolve(payment, "failed", **wrong)


async def test_only_an_open_review_can_be_acknowledged(shop: Shop) -> None:
    """The error lists the open reviews."""
    payment, _ = await ambiguous(shop)
    with pytest.raises(cfflow.InvalidInput, match="ambiguous_attempt"):
        await shop.cashier.acknowledge(payment, "no_answer", **WHO)


async def test_a_person_resolves_a_payment_along_the_chart(shop: Shop) -> None:
    """Every edge of the path is walked; the open step and the reviews are closed."""
    payment, _ = await ambiguous(shop)
    now = await shop.cashier.resolve(payment, State.CAPTURED, amount="150.00", **WHO)
    assert (now.state, now.captured_amount) == (State.CAPTURED, Decimal("150.00"))
    assert (now.operation, now.review) == (None, ())
    walked = [e.what for e in await shop.cashier.history(payment) if e.kind == "transition"]
    assert walked == ["initiate", "hold", "capture"]


async def test_a_resolved_pay_can_be_paid_again(shop: Shop) -> None:
    """When a person decides that no attempt is ours, the customer can pay again."""
    payment, session = await ambiguous(shop)
    payment = await shop.cashier.resolve(payment, "created", **WHO)
    payment = await shop.cashier.pay(payment, session, card())
    assert payment.state is State.OTP_PENDING


@pytest.mark.parametrize(
    ("state", "amount", "error"),
    [
        ("captured", "170.01", cfflow.InvalidAmount),
        ("captured", "0", cfflow.InvalidAmount),
        ("failed", "1.00", cfflow.InvalidInput),
        ("captured", None, cfflow.InvalidAmount),
        ("paid", LEFT_OUT, cfflow.InvalidInput),
    ],
)
async def test_an_impossible_decision_is_refused(
    shop: Shop, state: str, amount: Any, error: type[cfflow.CfflowError]
) -> None:
    """More than the hold, zero, None, an amount without a capture, an unknown state."""
    payment, _ = await ambiguous(shop)
    with pytest.raises(error):
        await shop.cashier.resolve(payment, state, amount=amount, **WHO)
    assert (await shop.cashier.get(payment)).version == payment.version


async def test_nothing_is_resolved_without_an_open_review(shop: Shop) -> None:
    """The gateway's answers decide; a person decides only where a review is open."""
    held = await shop.held()
    with pytest.raises(cfflow.IllegalStep, match="no review is open"):
        await shop.cashier.resolve(held, "captured", **WHO)


async def test_no_decision_leads_out_of_a_final_state(shop: Shop) -> None:
    """Not even a person: a captured payment stays captured."""
    payment, _ = await ambiguous(shop)
    await shop.cashier.resolve(payment, "captured", **WHO)
    assert isinstance(shop.store, MemoryStore)
    await _contradict(shop, payment)
    with pytest.raises(cfflow.IllegalStep, match="no way out"):
        await shop.cashier.resolve(payment, "failed", **WHO)


async def _contradict(shop: Shop, payment: Payment) -> None:
    from cfflow.core.decide import Disputed

    snapshot = await shop.cashier.orders.payment(payment.order_id, 1)
    flow = await shop.cashier.flows.flow_of(snapshot, shop.cashier.store)
    await shop.cashier.engine.settle(
        snapshot, Disputed(ReviewReason.CONTRADICTS_CAPTURED, "FAILED"), flow
    )


async def test_an_unresolved_review_bars_a_new_pay_of_the_order(shop: Shop) -> None:
    """For a later payment too: the first one's lost pay may be its second attempt."""
    first, session = await ambiguous(shop)
    first = await shop.cashier.resolve(first, "created", **WHO)
    first = await shop.cashier.pay(first, session, card())
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "FAILED")
    first = await shop.cashier.refresh(first)
    await _dispute(shop, first)
    second = await shop.cashier.start("native_otp", order_id=first.order_id, amount="170.00")
    with pytest.raises(cfflow.IllegalStep, match="closed first"):
        await shop.cashier.pay(second, session, card())
    await shop.cashier.acknowledge(first, "unclaimed_money", **WHO)
    second = await shop.cashier.pay(second.id, session, card())
    assert second.state is State.OTP_PENDING


async def _dispute(shop: Shop, payment: Payment) -> None:
    from cfflow.core.decide import Disputed

    snapshot = await shop.cashier.orders.payment(payment.order_id, payment.version and 1)
    flow = await shop.cashier.flows.flow_of(snapshot, shop.cashier.store)
    await shop.cashier.engine.settle(snapshot, Disputed(ReviewReason.UNCLAIMED_MONEY, "test"), flow)


# a store that came back without its last commits


#: A call's time limit and a margin: an inquiry asked earlier may not see a lost commit's call.
READY_S = 25
#: Where a pay may be lost, the second inquiry is asked so much later.
APART_S = 15


async def refused_after_restart(shop: Shop, step: Callable[[], Awaitable[Payment]]) -> None:
    """Let a step be refused because the store restarted: nothing is sent, the caller may retry."""
    performed = {call: shop.performed(call) for call in ("pay", "authenticate", "authorize")}
    with pytest.raises(cfflow.StoreUnavailable, match="may have lost a commit") as refused:
        await step()
    assert (refused.value.safe_to_retry, refused.value.money_may_have_moved) == (True, False)
    assert {call: shop.performed(call) for call in performed} == performed


async def test_after_a_restart_a_step_is_preceded_by_one_inquiry(shop: Shop) -> None:
    """Asked once a lost commit's call must be over; none before the next step."""
    assert isinstance(shop.store, MemoryStore)
    held = await shop.held()
    shop.store.restarted()
    await refused_after_restart(shop, lambda: shop.cashier.capture(held))
    shop.pass_time(READY_S - 1)
    await refused_after_restart(shop, lambda: shop.cashier.capture(held))
    asked = shop.performed("fetch_payments")
    shop.pass_time(1)
    captured = await shop.cashier.capture(held)
    assert captured.state is State.CAPTURED
    assert shop.performed("fetch_payments") - asked == 1


async def test_a_workers_look_after_a_restart_verifies_the_order(shop: Shop) -> None:
    """A step that follows needs no inquiry of its own."""
    assert isinstance(shop.store, MemoryStore)
    payment, _ = await shop.at_otp()
    shop.store.restarted()
    shop.pass_time(READY_S)
    body = event(payment.order_id, payment.cf_payment_id, "PENDING")
    await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)
    await Worker(shop.cashier).run_once()
    asked = shop.performed("fetch_payments")
    paid = await shop.cashier.submit_otp(payment, OTP)
    assert paid.state is State.CAPTURED
    assert shop.performed("fetch_payments") == asked


async def test_an_order_is_verified_for_all_of_its_payments(shop: Shop) -> None:
    """Each one gets a fresh nonce: a lost operation may have been any payment's."""
    assert isinstance(shop.store, MemoryStore)
    first, session = await shop.at_otp(flow="preauth")
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "FAILED")
    await shop.cashier.refresh(first)
    second = await shop.cashier.start("preauth", order_id=first.order_id, amount="170")
    second = await shop.cashier.pay(second, session, card())
    held = await shop.cashier.submit_otp(second, OTP)
    before = await shop.cashier.orders.load(first.order_id)
    shop.store.restarted()
    await refused_after_restart(shop, lambda: shop.cashier.void(held))
    shop.pass_time(READY_S)
    await shop.cashier.void(held)
    after = await shop.cashier.orders.load(first.order_id)
    assert before is not None
    assert after is not None
    assert all(before.record(n).nonce != after.record(n).nonce for n in (1, 2))


async def test_a_capture_that_the_store_lost_is_found_and_not_repeated(shop: Shop) -> None:
    """The inquiry comes first: the step is refused, and the money is taken once."""
    assert isinstance(shop.store, MemoryStore)
    held = await shop.held()
    await shop.cashier.gateway.authorize(held.order_id, b'{"action":"CAPTURE","amount":170}')
    shop.store.restarted()
    await refused_after_restart(shop, lambda: shop.cashier.capture(held))
    shop.pass_time(READY_S)
    with pytest.raises(cfflow.IllegalStep):
        await shop.cashier.capture(held)
    assert (await shop.cashier.get(held)).state is State.CAPTURED
    assert shop.effects(held.order_id).count("captured") == 1


async def test_a_pay_that_the_store_lost_is_not_made_again(shop: Shop) -> None:
    """An open attempt of the order that no payment here has opens a review."""
    assert isinstance(shop.store, MemoryStore)
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    await attempt(shop, order_id, session)
    shop.store.restarted()
    for pause_s in (0, READY_S):
        shop.pass_time(pause_s)
        await refused_after_restart(shop, lambda: shop.cashier.pay(payment, session, card()))
    shop.pass_time(APART_S)
    with pytest.raises(cfflow.IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(payment.id, session, card())
    assert shop.performed("pay") == 1


async def test_a_pay_after_a_restart_waits_for_two_inquiries(shop: Shop) -> None:
    """The first one may be too early for a pay that is still on its way to the gateway."""
    assert isinstance(shop.store, MemoryStore)
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    shop.store.restarted()
    await refused_after_restart(shop, lambda: shop.cashier.pay(payment, session, card()))
    shop.pass_time(READY_S)
    await refused_after_restart(shop, lambda: shop.cashier.pay(payment, session, card()))
    shop.pass_time(APART_S - 1)
    await refused_after_restart(shop, lambda: shop.cashier.pay(payment, session, card()))
    assert shop.performed("fetch_payments") == 1
    shop.pass_time(1)
    paid = await shop.cashier.pay(payment, session, card())
    assert (paid.state, shop.performed("fetch_payments")) == (State.OTP_PENDING, 2)


async def test_an_order_that_is_started_anew_after_a_restart_is_asked_about_first(
    shop: Shop,
) -> None:
    """Its first start may be lost; some minutes later no inquiry is made any more."""
    assert isinstance(shop.store, MemoryStore)
    shop.store.restarted()
    lost, session = await shop.order()
    await attempt(shop, lost, session)
    payment = await shop.cashier.start("native_otp", order_id=lost)
    for pause_s in (0, READY_S):
        shop.pass_time(pause_s)
        await refused_after_restart(shop, lambda: shop.cashier.pay(payment, session, card()))
    shop.pass_time(APART_S)
    with pytest.raises(cfflow.IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(payment.id, session, card())
    shop.pass_time(601)
    asked = shop.performed("fetch_payments")
    await shop.at_otp()
    assert shop.performed("fetch_payments") == asked


async def test_after_a_restart_no_key_comes_again(shop: Shop) -> None:
    """The forgotten step's number is used again, so the payment gets a new nonce."""
    assert isinstance(shop.store, MemoryStore)
    held = await shop.held()
    before = await shop.cashier.orders.payment(held.order_id, 1)
    shop.store.restarted()
    await refused_after_restart(shop, lambda: shop.cashier.void(held))
    shop.pass_time(READY_S)
    await shop.cashier.void(held)
    after = await shop.cashier.orders.payment(held.order_id, 1)
    assert after.record.nonce != before.record.nonce


# late money of a payment that seemed over


async def test_a_pay_that_was_given_up_is_looked_for_after_another_one_took_the_money(
    shop: Shop,
) -> None:
    """The worker finds the late attempt, on a payment that is already captured."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    shop.fault("pay", "lost_before")
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    worker = Worker(shop.cashier)
    for _ in range(3):
        shop.pass_time(16)
        await worker.run_once()
    payment = await shop.cashier.pay(payment.id, session, card())
    late = await shop.cashier.gateway.pay(session, card())
    payment = await shop.cashier.submit_otp(payment, OTP)
    assert payment.state is State.CAPTURED
    await shop.cashier.gateway.simulate(str(late.cf_payment_id), "SUCCESS")
    for _ in range(4):
        shop.pass_time(60)
        await worker.run_once()
    assert (await shop.cashier.get(payment)).review == ("unclaimed_money", "two_holds")
    shop.pass_time(2 * 86_400)
    await worker.run_once()
    assert (await shop.cashier.orders.payment(order_id, 1)).record.wake_at_ms is None


async def test_an_abandoned_payment_takes_no_other_payments_attempt(shop: Shop) -> None:
    """A hold that belongs to a lost second payment is not voided as the first one's."""
    order_id, session = await shop.order(hold=True)
    first = await shop.cashier.start("preauth", order_id=order_id)
    await shop.cashier.abandon(first)
    cf_payment_id = await attempt(shop, order_id, session)
    await shop.cashier.gateway.authenticate(cf_payment_id, OTP)
    payments = await shop.cashier.adopt(order_id, flow="preauth")
    assert [(p.id, p.cf_payment_id) for p in payments] == [
        (first.id, None),
        (f"{order_id}.2", cf_payment_id),
    ]
    shop.pass_time(60)
    await Worker(shop.cashier).run_once()
    assert "voided" not in shop.effects(order_id)


async def test_an_abandoned_payment_of_an_order_paid_by_another_ends(
    shop: Shop,
) -> None:
    """No false review, and the inquiries end."""
    order_id, session = await shop.order()
    first = await shop.cashier.abandon(await shop.cashier.start("native_otp", order_id=order_id))
    second = await shop.cashier.start("native_otp", order_id=order_id)
    second = await shop.cashier.pay(second, session, card())
    await shop.cashier.submit_otp(second, OTP)
    worker = Worker(shop.cashier)
    shop.pass_time(86_400)
    await worker.run_once()
    now = await shop.cashier.get(first)
    assert (now.state, now.review) == (State.FAILED, ())


async def test_an_abandoned_payment_that_takes_money_calls_a_person(shop: Shop) -> None:
    """Its order may have been paid again by then."""
    payment, _ = await shop.at_otp()
    await shop.cashier.abandon(payment)
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    payment = await shop.cashier.refresh(payment)
    assert (payment.state, payment.review) == (State.CAPTURED, ("abandoned_and_paid",))
