"""When a worker looks, seen from outside: status pages, siblings, hours without a worker."""

from __future__ import annotations

from cfflow import Payment, State, Worker
from tests.engine.shop import Shop, card


async def waiting(shop: Shop) -> Payment:
    """Return a payment whose customer is away at the bank's page."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    return await shop.cashier.pay(payment, session, card(channel="link"))


async def wake_at_ms(shop: Shop, payment: Payment) -> int:
    """Return when this payment is looked at next."""
    found = (await shop.cashier.orders.payment(*_place(payment))).record.wake_at_ms
    assert found is not None
    return found


def _place(payment: Payment) -> tuple[str, int]:
    order_id, _, n = payment.id.rpartition(".")
    return order_id, int(n)


async def test_a_status_page_does_not_keep_the_worker_from_looking(shop: Shop) -> None:
    """It refreshes every second; the customer pays, the page closes, and the worker sees it."""
    payment = await waiting(shop)
    for _ in range(5):
        shop.pass_time(1)
        await shop.cashier.refresh(payment)
    await shop.cashier.gateway.simulate(str(payment.cf_payment_id), "SUCCESS")
    shop.pass_time(6)
    report = await Worker(shop.cashier).run_once()
    assert report.leased == 1
    assert (await shop.cashier.get(payment)).state is State.CAPTURED


async def test_a_busy_sibling_moves_no_look(shop: Shop) -> None:
    """One payment of the order gets inquiries and steps; the other keeps its moments."""
    idle = await waiting(shop)
    await shop.cashier.abandon(idle)
    before = await wake_at_ms(shop, idle)
    session = (await shop.cashier.gateway.fetch_order(idle.order_id)).payment_session_id
    assert session is not None
    busy = await shop.cashier.start("native_otp", order_id=idle.order_id, amount="170.00")
    busy = await shop.cashier.pay(busy, session, card("4706131211212123"))
    for _ in range(4):
        shop.pass_time(1)
        busy = await shop.cashier.refresh(busy)
    busy = await shop.cashier.submit_otp(busy, "222222")
    assert busy.state is State.OTP_PENDING
    assert await wake_at_ms(shop, idle) == before


async def test_after_hours_without_a_worker_one_inquiry_settles_what_was_missed(
    shop: Shop,
) -> None:
    """One inquiry, not one for each moment that passed."""
    payment = await waiting(shop)
    shop.pass_time(5 * 3600)
    before = shop.performed("fetch_payment")
    worker = Worker(shop.cashier)
    reports = [await worker.run_once() for _ in range(3)]
    assert shop.performed("fetch_payment") == before + 1
    assert reports[-1].due == 0
    assert await wake_at_ms(shop, payment) > shop.clock.now_ms
