"""A commit whose reply is lost, and another payment of the order that is committed meanwhile.

The order has another token then, so the repeat of the commit is a conflict. The engine finds its
own token in its payment: the commit was applied, and the step goes on as if nothing was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import pytest

from cfflow import Conflict, Payment, State, StoreUnavailable
from cfflow.core.chart import Trigger
from cfflow.feed.feed import FeedEvent
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import OTP, Shop, card, open_shop, until
from tests.ports.orders_kit import loaded
from tests.ports.servers import Proxy, Server
from tests.ports.shop_kit import Sibling, open_sibling, second_payment


@pytest.fixture
async def sibling(server: Server) -> AsyncIterator[Sibling]:
    """Another process, which commits past the proxy."""
    async with open_sibling(server) as opened:
        yield opened


@pytest.fixture
async def shop(proxy: Proxy) -> AsyncIterator[Shop]:
    """A shop behind that proxy."""
    async with open_shop(store=RedisStore(proxy.url)) as opened:
        yield opened


def commits_meanwhile(proxy: Proxy, sibling: Sibling, order_id: str, times: int = 1) -> None:
    """Lose the next replies to commits, but not to repeats; before these the sibling commits."""
    is_first = cycle([True, False])
    proxy.applies_to = lambda request: b"commit" in request and next(is_first)
    proxy.lose_replies = times
    proxy.before_cut = lambda: sibling.commit(order_id)


async def transitions(shop: Shop, order_id: str) -> list[str]:
    """Return the edges of an order's events in the feed."""
    async with shop.cashier.events("test", start="oldest") as feed:
        found = []
        while (item := await feed.poll()) is not None:
            found.append(item)
    events = [item for item in found if isinstance(item, FeedEvent)]
    return [event.trigger for event in events if event.order_id == order_id]


async def test_a_pay_whose_reply_is_lost_goes_on_after_a_siblings_commit(
    shop: Shop, proxy: Proxy, sibling: Sibling
) -> None:
    """The operation was stored and is the payment's own: it is sent once, and its outcome kept."""
    payment, session = await second_payment(shop)
    commits_meanwhile(proxy, sibling, payment.order_id)
    paying = await shop.cashier.pay(payment, session, card())
    assert (paying.state, paying.version) == (State.OTP_PENDING, payment.version + 2)
    assert (proxy.cut, sibling.commits) == (1, 1)
    assert await sibling.is_kept(payment.order_id)
    assert shop.effects(payment.order_id) == ["attempt_created"]
    assert (await shop.cashier.submit_otp(paying, OTP)).state is State.CAPTURED


async def test_an_outcome_whose_reply_is_lost_is_stored_once_beside_a_siblings_commit(
    shop: Shop, proxy: Proxy, sibling: Sibling
) -> None:
    """The same after the call as before it; each transition is in the feed once."""
    payment, session = await second_payment(shop)
    shop.fault("pay", "delay_after", delay_s=0.5)
    step = asyncio.create_task(shop.cashier.pay(payment, session, card()))
    await until(lambda: shop.performed("pay"))
    commits_meanwhile(proxy, sibling, payment.order_id)
    paying = await step
    assert (paying.state, paying.version) == (State.OTP_PENDING, payment.version + 2)
    assert (proxy.cut, sibling.commits) == (1, 1)
    assert await sibling.is_kept(payment.order_id)
    order = await loaded(sibling.orders, payment.order_id)
    assert order.record(2).operation is None
    assert await transitions(shop, payment.order_id) == [Trigger.INITIATE, Trigger.REQUIRE_OTP]


async def test_every_reply_to_a_sale_may_be_lost_while_a_sibling_commits(
    shop: Shop, proxy: Proxy, sibling: Sibling
) -> None:
    """Pay, OTP and capture: each commit is applied once, and the sibling's last one is kept."""
    payment, session = await second_payment(shop, "failed")
    paid = shop.performed("pay")
    commits_meanwhile(proxy, sibling, payment.order_id, times=4)
    paying = await shop.cashier.pay(payment, session, card())
    captured = await shop.cashier.submit_otp(paying, OTP)
    assert (captured.state, captured.version) == (State.CAPTURED, payment.version + 4)
    assert (proxy.cut, sibling.commits, proxy.lose_replies) == (4, 4, 0)
    assert await sibling.is_kept(payment.order_id)
    assert shop.performed("pay") == paid + 1
    assert shop.effects(payment.order_id).count("captured") == 1


async def test_a_start_whose_reply_is_lost_begins_one_payment_beside_a_siblings_commit(
    shop: Shop, proxy: Proxy, sibling: Sibling
) -> None:
    """The repeat finds the payment that it began, and returns it."""
    order_id, _ = await shop.order()
    first = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    await shop.cashier.abandon(first)
    commits_meanwhile(proxy, sibling, order_id)
    # The first commit shows that the order has payments; the second begins one.
    begins = iter([False, True])
    proxy.applies_to = lambda request: b"commit" in request and next(begins, False)
    second = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    assert (second.id, second.version, proxy.cut) == (f"{order_id}.2", 1, 1)
    assert len((await loaded(sibling.orders, order_id)).payments) == 2
    assert await sibling.is_kept(order_id)


async def test_a_commit_that_was_not_applied_is_made_on_the_siblings_order(
    shop: Shop, proxy: Proxy, sibling: Sibling
) -> None:
    """The request was lost and the sibling was first: the step is planned again, and sent once."""
    payment, session = await second_payment(shop)
    proxy.lose_requests = 1
    await sibling.commit(payment.order_id)
    paying = await shop.cashier.pay(payment, session, card())
    assert (paying.state, paying.version, proxy.cut) == (State.OTP_PENDING, payment.version + 2, 1)
    assert await sibling.is_kept(payment.order_id)
    assert shop.performed("pay") == 1


async def test_a_reply_that_is_lost_after_another_change_of_the_same_payment_is_a_conflict(
    shop: Shop, proxy: Proxy, server: Server
) -> None:
    """Its token is not in the payment any more: nothing is sent, whatever became of the commit."""
    payment, session = await second_payment(shop)
    async with open_sibling(server) as other:
        proxy.lose_replies = 1
        proxy.before_cut = lambda: other.commit(payment.order_id, 2)
        with pytest.raises(Conflict):
            await shop.cashier.pay(payment, session, card())
    assert (proxy.cut, shop.performed("pay")) == (1, 0)


# replicas


@pytest.fixture
def replicas(server: Server, tmp_path: Path) -> Iterator[Sequence[Server]]:
    """Two replicas of that server."""
    pair = [Server(server.binary, tmp_path / name) for name in ("first", "second")]
    try:
        for replica in pair:
            replica.start().follow(server)
        yield pair
    finally:
        for replica in pair:
            replica.kill()


@pytest.mark.usefixtures("replicas")
async def test_a_step_that_all_replicas_have_is_sent_after_a_siblings_commit(
    proxy: Proxy, sibling: Sibling
) -> None:
    """The repeat is a conflict, and the replicas are waited for all the same."""
    async with open_shop(store=RedisStore(proxy.url, min_replicas=2)) as shop:
        payment, session = await second_payment(shop)
        commits_meanwhile(proxy, sibling, payment.order_id)
        paying = await shop.cashier.pay(payment, session, card())
        assert (paying.state, proxy.cut) == (State.OTP_PENDING, 1)


async def test_a_step_that_a_replica_lacks_is_not_sent_after_a_siblings_commit(
    replicas: Sequence[Server], proxy: Proxy, sibling: Sibling
) -> None:
    """The repeat is a conflict and writes nothing of its own: the replicas must count it too."""
    async with open_shop(store=RedisStore(proxy.url, min_replicas=2, deadline_s=1.5)) as shop:
        payment, session = await second_payment(shop)
        replicas[1].pause()
        commits_meanwhile(proxy, sibling, payment.order_id)
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await shop.cashier.pay(payment, session, card())
        assert (shop.performed("pay"), proxy.cut) == (0, 1)
        replicas[1].resume()
        now: Payment = await shop.cashier.get(payment)
        assert (now.state, now.operation) == (State.CREATED, None)
        assert (await shop.cashier.pay(now, session, card())).state is State.OTP_PENDING
