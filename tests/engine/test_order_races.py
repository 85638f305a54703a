"""Races of an order with several payments on a real server, one interleaving each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

import cfflow
from cfflow import Payment, State, Worker
from cfflow.store.orders import Orders
from cfflow.store.protocol import Commit, Committed
from cfflow.store.redis.store import RedisStore
from cfflow.store.retention import Retention
from tests.engine.shop import OTP, Shop, card, open_shop, rewritten, until
from tests.engine.signing import event, signed

Between = Callable[[], Awaitable[object]]


def _any_commit(_: Commit) -> bool:
    return True


class PausingStore(RedisStore):
    """A store in which something can happen right before the next commit, or a kind of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._between: Between | None = None
        self._applies: Callable[[Commit], bool] = _any_commit

    def before_next(
        self, between: Between, applies: Callable[[Commit], bool] = _any_commit
    ) -> None:
        """Let this happen once, between what the next such commit was decided on and its write."""
        self._between, self._applies = between, applies

    async def commit(self, commit: Commit) -> Committed:
        """Commit, after what has to happen before it."""
        between = self._between
        if between is not None and self._applies(commit):
            self._between = None
            await between()
        return await super().commit(commit)


@pytest.fixture
async def shop(redis_url: str) -> AsyncIterator[Shop]:
    """A shop on a real server."""
    async with open_shop(store=PausingStore(redis_url)) as opened:
        yield opened


@asynccontextmanager
async def another_process(shop: Shop) -> AsyncIterator[cfflow.Orchestrator]:
    """An orchestrator that shares nothing with the shop's but the server and the gateway."""
    assert isinstance(shop.store, RedisStore)
    async with cfflow.connect(
        store=RedisStore(shop.store.link.url),
        client_id=shop.emulator.client_id,
        client_secret=shop.emulator.client_secret,
        environment=shop.emulator.base_url,
        log=shop.events,
    ) as opened:
        yield opened


def pausing(shop: Shop) -> PausingStore:
    """Return the shop's store."""
    assert isinstance(shop.store, PausingStore)
    return shop.store


async def notify(shop: Shop, payment: Payment, status: str = "SUCCESS") -> cfflow.Receipt:
    """Deliver a notification about a payment's attempt."""
    body = event(payment.order_id, payment.cf_payment_id, status)
    return await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)


async def two_payments(shop: Shop, flow: str = "native_otp") -> tuple[Payment, Payment, str]:
    """Return a failed payment, and the next one of its order at the OTP, and the session."""
    first, session = await shop.at_otp(flow=flow)
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "FAILED")
    first = await shop.cashier.refresh(first)
    second = await shop.cashier.start(flow, order_id=first.order_id, amount="170.00")
    return first, await shop.cashier.pay(second, session, card()), session


async def test_a_notification_between_read_and_commit_is_still_due(shop: Shop) -> None:
    """The commit lists what it was decided on; the later one waits for an inquiry of its own."""
    payment, _ = await shop.at_otp()
    store = pausing(shop)
    store.before_next(lambda: notify(shop, payment))
    await shop.cashier.refresh(payment)
    assert (await store.overdue()).count == 1
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment)).state is State.CAPTURED
    assert (await store.overdue()).count == 0


async def test_a_siblings_commit_is_no_conflict_for_the_customer(shop: Shop) -> None:
    """The customer's own payment is as they saw it, so the OTP is sent."""
    first, second, _ = await two_payments(shop)
    async with another_process(shop) as other:
        await other.refresh(first)
        captured = await shop.cashier.submit_otp(second, OTP)
    assert captured.state is State.CAPTURED
    assert shop.performed("authenticate") == 1


async def test_a_siblings_commit_in_the_middle_of_a_step_is_no_conflict(shop: Shop) -> None:
    """It comes between the plan and its commit, twice: for the step and for its outcome."""
    first, second, _ = await two_payments(shop)
    async with another_process(shop) as other:
        store = pausing(shop)

        async def once_more() -> None:
            await other.refresh(first)
            store.before_next(lambda: other.refresh(first))

        store.before_next(once_more, lambda commit: commit.opens)
        captured = await shop.cashier.submit_otp(second, OTP)
    assert (captured.state, shop.performed("authenticate")) == (State.CAPTURED, 1)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one_process", "two_processes"])
async def test_polls_of_one_payment_do_not_disturb_the_otp_of_another(
    shop: Shop, elsewhere: bool
) -> None:
    """Forty polls while the customer types wrong twice and then right."""
    first, second, _ = await two_payments(shop)
    async with another_process(shop) as other:
        poller = other if elsewhere else shop.cashier

        async def poll() -> None:
            for _ in range(40):
                await poller.refresh(first)

        async def type_otps() -> Payment:
            payment = second
            for otp in ("000000", "999999", OTP):
                payment = await shop.cashier.submit_otp(payment, otp)
            return payment

        _, captured = await asyncio.gather(poll(), type_otps())
    assert (captured.state, captured.version) == (State.CAPTURED, second.version + 6)


async def test_the_workers_void_waits_while_a_siblings_pay_is_on_its_way(shop: Shop) -> None:
    """The void names the order only: it could end the attempt that the pay has just begun."""
    first, session = await shop.at_otp(flow="preauth")
    await shop.cashier.abandon(first)
    second = await shop.cashier.start("preauth", order_id=first.order_id, amount="170.00")
    shop.fault("pay", "delay_after", delay_s=1.5)
    paying = asyncio.create_task(shop.cashier.pay(second, session, card()))
    await until(lambda: shop.performed("pay") == 2)
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "SUCCESS")
    await notify(shop, first)
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(first)).state is State.AUTHORIZED
    assert shop.performed("authorize") == 0
    assert (await paying).cf_payment_id is not None


async def test_two_workers_on_one_order_after_an_expired_lease_act_once(shop: Shop) -> None:
    """The first one is slow, its lease ends, and the second one asks too."""
    payment, _ = await shop.at_otp()
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    await notify(shop, payment)
    shop.fault("fetch_payment", "delay_after", delay_s=1.5)
    slow = asyncio.create_task(Worker(shop.cashier, lease_s=1).run_once())
    await until(lambda: shop.performed("fetch_payment"))
    async with another_process(shop) as other:

        async def looked() -> bool:
            return (await Worker(other).run_once()).leased == 1

        await until(looked)
        assert (await other.get(payment)).state is State.CAPTURED
    await slow
    moves = shop.events.named("payment.transition")
    assert [move["to_state"] for move in moves].count("captured") == 1
    assert (await shop.store.overdue()).count == 0


async def over(shop: Shop, payment: Payment) -> cfflow.Orchestrator:
    """Let a payment have ended so long ago that its order may be purged."""
    held = await shop.cashier.orders.payment(payment.order_id, int(payment.id.rpartition(".")[2]))
    await rewritten(shop.cashier.orders, held, wake_at_ms=None, updated_at_ms=1, created_at_ms=1)
    return shop.cashier


async def failed(shop: Shop) -> tuple[Payment, str]:
    """Return a payment that failed long ago, and its session."""
    payment, session = await shop.at_otp()
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
    payment = await shop.cashier.refresh(payment)
    await over(shop, payment)
    return payment, session


async def test_a_late_notification_keeps_an_order_from_being_purged(shop: Shop) -> None:
    """It comes after the purge was decided: the money may have arrived after all."""
    payment, _ = await failed(shop)
    store = pausing(shop)
    store.before_next(lambda: notify(shop, payment))
    retention = Retention(Orders(store), shop.cashier.flows)
    assert await retention.purge_some() == 0
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment)).state is State.CAPTURED


async def test_a_start_whose_order_is_purged_meanwhile_begins_anew(shop: Shop) -> None:
    """It was read with a failed payment, and is gone when the next one is written."""
    payment, _ = await failed(shop)
    store = pausing(shop)
    retention = Retention(Orders(RedisStore(store.link.url)), shop.cashier.flows)
    await retention._orders.store.open()
    store.before_next(retention.purge_some, lambda commit: bool(commit.expected))
    again = await shop.cashier.start("native_otp", order_id=payment.order_id)
    assert (again.id, again.version) == (payment.id, 1)
    await retention._orders.store.aclose()


async def test_a_start_against_the_marker_of_a_paid_order_is_refused(shop: Shop) -> None:
    """The order was paid and purged; its marker is all that is left."""
    payment, _ = await shop.at_otp()
    await over(shop, await shop.cashier.submit_otp(payment, OTP))
    store = pausing(shop)
    retention = Retention(Orders(RedisStore(store.link.url)), shop.cashier.flows)
    await retention._orders.store.open()
    store.before_next(retention.purge_some)
    with pytest.raises(cfflow.AlreadyPaid, match=payment.id):
        await shop.cashier.start("native_otp", order_id=payment.order_id)
    with pytest.raises(cfflow.AlreadyPaid, match=payment.id):
        await shop.cashier.start("native_otp", order_id=payment.order_id)
    with pytest.raises(cfflow.PaymentNotFound):
        await shop.cashier.get(payment)
    await retention._orders.store.aclose()


async def test_sixteen_tasks_on_the_payments_of_one_order_all_commit(shop: Shop) -> None:
    """A conflict that only a sibling caused is planned again, however often."""
    order_id, session = await shop.order()
    payments = []
    for _ in range(16):
        payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
        payment = await shop.cashier.pay(payment, session, card())
        await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
        payments.append(await shop.cashier.refresh(payment))
    async with another_process(shop) as other:
        both = (shop.cashier, other)
        polls = [both[i % 2].refresh(payment) for i, payment in enumerate(payments * 3)]
        ended = await asyncio.gather(*polls)
    assert {payment.state for payment in ended} == {State.FAILED}
    with pytest.raises(cfflow.TooManyPayments):
        await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
