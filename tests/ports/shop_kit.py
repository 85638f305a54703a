"""Shops on real servers, whose time a test can skip, and other writers of their orders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from cfflow import Payment, State, StoreUnavailable
from cfflow.core.order import Order
from cfflow.store.orders import Orders
from cfflow.store.redis.store import RedisStore
from cfflow.testing.shared_time import SKIPPED_MS_KEY, script_with_skipped_time
from tests.engine.shop import Shop, card, open_shop
from tests.ports.orders_kit import changed, loaded
from tests.ports.servers import Server

#: A call's time limit in the flows that tests use, and the margin after it: before that nothing
#: proves what became of a commit that a server lost.
VERIFIED_AFTER_S: Final = 10 + 15

#: So long after the first one comes the second of two inquiries, where a pay may be lost.
SECOND_AFTER_S: Final = 15


@asynccontextmanager
async def open_timed_shop(url: str, **settings: Any) -> AsyncIterator[Shop]:
    """Open a shop whose payments live on a server that can skip time."""
    store = RedisStore(url, script=script_with_skipped_time())
    async with open_shop(store=store, **settings) as shop:
        yield shop


async def pass_time(shop: Shop, server: Server, seconds: float) -> None:
    """Skip time for the bank, and for the server on which the shop's payments live now."""
    shop.emulator.clock.advance(seconds)
    server.run("INCRBY", SKIPPED_MS_KEY, round(seconds * 1000))
    store = redis_of(shop)
    # Any run of the script will do: its reply sets the store's copy of the clock.
    await store.link.script([store.keys.run(0)], ["run"])


def redis_of(shop: Shop) -> RedisStore:
    """Return the store of a shop on a server."""
    assert isinstance(shop.store, RedisStore)
    return shop.store


async def refused_as_too_early(step: Awaitable[object]) -> None:
    """Make a step of an order that may have lost commits: nothing is sent, it may be repeated."""
    with pytest.raises(StoreUnavailable, match="may have lost a commit") as early:
        await step
    assert (early.value.safe_to_retry, early.value.money_may_have_moved) == (True, False)


class Sibling:
    """Another process that commits changes of an order with several payments."""

    def __init__(self, store: RedisStore) -> None:
        self.orders = Orders(store)
        self.commits = 0

    async def commit(self, order_id: str, n: int = 1) -> Order:
        """Change the first payment, or another one, as it is stored now; return the order."""
        self.commits += 1
        order = await loaded(self.orders, order_id)
        return await changed(self.orders, order, n, metadata={"commits": self.commits})

    async def is_kept(self, order_id: str) -> bool:
        """Return whether the last change of the first payment is stored."""
        order = await loaded(self.orders, order_id)
        return order.record(1).metadata == {"commits": self.commits}


@asynccontextmanager
async def open_sibling(server: Server) -> AsyncIterator[Sibling]:
    """Open a store of its own on a server, past every proxy."""
    store = RedisStore(server.url)
    await store.open()
    try:
        yield Sibling(store)
    finally:
        await store.aclose()


async def second_payment(shop: Shop, first: str = "abandoned") -> tuple[Payment, str]:
    """Return the second payment of an order, and its session.

    `first` is what became of the first one: it was abandoned, or its attempt failed.
    """
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    if first == "abandoned":
        await shop.cashier.abandon(payment)
    else:
        paying = await shop.cashier.pay(payment, session, card())
        await shop.cashier.gateway.simulate(paying.cf_payment_id or "", "FAILED")
        assert (await shop.cashier.refresh(paying)).state is State.FAILED
    return await shop.cashier.start("native_otp", order_id=order_id, amount="170.00"), session
