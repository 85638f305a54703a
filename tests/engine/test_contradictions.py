"""What the gateway shows and the merchant did not intend, through the whole of cfflow."""

from __future__ import annotations

import pytest

import cfflow
from cfflow import OutcomeUnknown, State, Worker
from cfflow.errors import IllegalStep
from cfflow.testing import FakeClock
from tests.engine.shop import OTP, Shop, card, open_shop

ANN = {"actor": "ann", "note": "the bank's books"}


async def lost_pay(shop: Shop, kind: str, *, of: str, started_with: str) -> cfflow.Payment:
    """Return a payment of an order of one amount, started with another, whose pay was lost."""
    order_id, session = await shop.order(of)
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount=started_with)
    shop.fault("pay", kind)
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    return payment


async def asked_twice(shop: Shop, payment: cfflow.Payment) -> cfflow.Payment:
    """Return the payment after two inquiries that count."""
    for seconds in (11, 16):
        shop.pass_time(seconds)
        payment = await shop.cashier.refresh(payment)
    return payment


async def test_a_sale_of_another_amount_than_start_was_given_is_reviewed(shop: Shop) -> None:
    """The customer pays the amount of the gateway's order, and the review has both amounts."""
    order_id, session = await shop.order("1.00")
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    payment = await shop.cashier.pay(payment, session, card())
    payment = await shop.cashier.submit_otp(payment, OTP)
    assert (payment.state, str(payment.captured_amount)) == (State.CAPTURED, "1.00")
    assert payment.review == ("order_amount_differs",)
    text = str(await shop.cashier.why(payment))
    assert "170.00" in text
    assert "1.00" in text


async def test_a_lost_pay_of_another_amount_is_not_followed_by_a_second_one(shop: Shop) -> None:
    """The order is of 1.30, start was given 1.31: the attempt may still be ours."""
    payment = await lost_pay(shop, "lost_after", of="1.30", started_with="1.31")
    # The order's own session would pay it a second time if a second pay were allowed.
    payment = await asked_twice(shop, payment)
    assert payment.review == ("ambiguous_attempt",)
    with pytest.raises(cfflow.CfflowError):
        await shop.cashier.pay(payment, "session_again", card())
    assert shop.performed("pay") == 1


@pytest.mark.parametrize("ahead_s", [-3600.0, 900.0])
@pytest.mark.parametrize("kind", ["lost_before", "lost_after"])
async def test_a_store_whose_clock_is_wrong_changes_no_verdict(kind: str, ahead_s: float) -> None:
    """An older attempt has the same card: only the gateway's clock separates the two."""
    clock = FakeClock()
    async with open_shop(clock=clock) as shop:
        clock.now_ms = round((shop.emulator.clock.now() + ahead_s) * 1000)
        order_id, session = await shop.order("10.00")
        fields = card().body()
        old = shop.emulator.bank.pay(session, fields, shop.emulator.clock.now() - 120)
        payment = await shop.cashier.start("native_otp", order_id=order_id, amount="10.00")
        shop.fault("pay", kind)
        with pytest.raises(OutcomeUnknown):
            await shop.cashier.pay(payment, session, card())
        payment = await asked_twice(shop, payment)
        assert payment.cf_payment_id != str(old.cf_payment_id)
        assert payment.review == ()
        arrived = kind == "lost_after"
        assert payment.state is (State.OTP_PENDING if arrived else State.CREATED)
        assert payment.operation is None


async def test_an_order_of_another_account_is_reviewed_and_can_be_ended(shop: Shop) -> None:
    """The gateway always answers 404; a person's decision ends the payment, with their name."""
    payment, _ = await shop.at_otp()
    shop.fault("fetch_payment", "status_before", status=404, count=None)
    worker = Worker(shop.cashier)
    for _ in range(12):
        shop.pass_time(60)
        await worker.run_once()
    payment = await shop.cashier.get(payment)
    assert (payment.state, payment.review) == (State.OTP_PENDING, ("order_not_found",))
    why = await shop.cashier.why(payment)
    assert "secret" in str(why)
    assert "resolve" in why.allowed
    payment = await shop.cashier.resolve(payment, "failed", **ANN)
    assert (payment.state, payment.review) == (State.FAILED, ())
    history = await shop.cashier.history(payment)
    assert history[-1].what == "resolved as failed by ann"


async def test_a_worker_sends_nothing_because_of_an_order_that_is_not_known(shop: Shop) -> None:
    """The gateway answers 404 when the hold is due; after the next good answer it is voided."""
    held = await shop.held()
    shop.fault("fetch_payment", "status_before", status=404)
    shop.pass_time(7 * 86_400 - 6 * 3_600 + 1)
    worker = Worker(shop.cashier)
    await worker.run_once()
    assert shop.performed("authorize") == 0
    assert (await shop.cashier.get(held)).state is State.AUTHORIZED
    shop.pass_time(10)
    await worker.run_once()
    assert (await shop.cashier.get(held)).state is State.VOIDED


async def test_a_upi_payment_is_never_resolved_to_an_otp_page(shop: Shop) -> None:
    """UPI has no OTP page; where no other state can be reached, `resolve` is not offered."""
    order_id, session = await shop.order("10.00")
    payment = await shop.cashier.start("upi", order_id=order_id, amount="11.00")
    method = cfflow.UPI(channel="collect", upi_id="me@gocash")
    payment = await shop.cashier.pay(payment, session, method)
    payment = await shop.cashier.refresh(payment)
    assert payment.review == ("order_amount_differs",)
    with pytest.raises(IllegalStep, match="possible: authorized, captured, voided, failed"):
        await shop.cashier.resolve(payment, "otp_pending", **ANN)
    payment = await shop.cashier.resolve(payment, "captured", **ANN)
    allowed = (await shop.cashier.why(payment)).allowed
    assert "resolve" not in allowed


async def test_adopting_under_a_flow_that_does_not_take_the_method_is_refused(shop: Shop) -> None:
    """No payment is stored; a second flow takes the card, and each attempt gets its own."""
    order_id, session = await shop.order("10.00")
    await shop.cashier.gateway.pay(session, card())
    await shop.cashier.gateway.pay(session, cfflow.UPI(channel="collect", upi_id="me@gocash"))
    with pytest.raises(cfflow.InvalidInput, match="paid by card"):
        await shop.cashier.adopt(order_id, flow="upi")
    assert await shop.cashier.find(order_id=order_id) == []
    adopted = await shop.cashier.adopt(order_id, flow=("upi", "native_otp"))
    assert [payment.flow for payment in adopted] == ["native_otp", "upi"]


async def test_an_adopted_payment_is_as_old_as_its_attempt(shop: Shop) -> None:
    """Yesterday's capture keeps its date; its history has the adoption."""
    order_id, session = await shop.order("10.00")
    paid = await shop.cashier.gateway.pay(session, card())
    await shop.cashier.gateway.simulate(str(paid.cf_payment_id), "SUCCESS")
    shop.clock.now_ms = round(shop.emulator.clock.now() * 1000)
    shop.pass_time(86_400)
    (payment,) = await shop.cashier.adopt(order_id, flow="native_otp")
    assert payment.state is State.CAPTURED
    age_s = shop.clock.now_ms / 1000 - payment.created_at.timestamp()
    assert 86_390 <= age_s <= 86_410
    history = await shop.cashier.history(payment)
    moves = [entry for entry in history if entry.kind == "transition"]
    assert [entry.what for entry in moves] == ["initiate", "hold", "capture"]
    assert all(abs((entry.at - payment.created_at).total_seconds()) < 5 for entry in moves)
    assert history[-1].what == "adopted from the gateway's list"
