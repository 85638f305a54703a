"""`min_replicas`: a step is sent only when as many replicas have it as the shop asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

import cfflow
from cfflow import ConfigError, Payment, State, StoreUnavailable
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import OTP, Shop, card, open_shop
from tests.ports.servers import Cluster, Proxy, Server, running, valkey_binary

Open = Callable[..., AbstractAsyncContextManager[Shop]]

#: For how long a store waits for replicas, where the test is about not waiting.
PATIENT_S = 60.0


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone."""
    with running(Server(valkey_binary(), tmp_path / "primary")) as started:
        yield started


@pytest.fixture
def replicas(primary: Server, tmp_path: Path) -> Iterator[Sequence[Server]]:
    """Two replicas with all the data of the server."""
    pair = [Server(primary.binary, tmp_path / name) for name in ("first", "second")]
    try:
        for replica in pair:
            replica.start().follow(primary)
        yield pair
    finally:
        for replica in pair:
            replica.kill()


@pytest.fixture
def shop_with(primary: Server) -> Open:
    """Opens a shop that asks for so many replicas."""

    @asynccontextmanager
    async def opened(count: int, deadline_s: float = 1.5) -> AsyncIterator[Shop]:
        store = RedisStore(primary.url, min_replicas=count, deadline_s=deadline_s)
        async with open_shop(store=store) as shop:
            yield shop

    return opened


async def pay(shop: Shop) -> Payment:
    """Start a payment and pay it up to its OTP, as a hold."""
    order_id, session = await shop.order(hold=True)
    payment = await shop.cashier.start("preauth", order_id=order_id, amount="170.00")
    return await shop.cashier.pay(payment, session, card())


async def test_a_step_that_enough_replicas_have_is_sent(
    replicas: Sequence[Server], shop_with: Open
) -> None:
    """One of two hangs: one is enough, and no step waits for the other one."""
    async with shop_with(1, PATIENT_S) as shop:
        replicas[1].pause()
        async with asyncio.timeout(PATIENT_S / 2):
            held = await shop.cashier.submit_otp(await pay(shop), OTP)
            assert (await shop.cashier.capture(held)).state is State.CAPTURED


async def test_a_step_that_too_few_replicas_have_is_not_sent(
    replicas: Sequence[Server], shop_with: Open
) -> None:
    """Two are asked for and one hangs: nothing is sent, nothing stays open, and then it works."""
    async with shop_with(2) as shop:
        held = await shop.cashier.submit_otp(await pay(shop), OTP)
        replicas[1].pause()
        with pytest.raises(StoreUnavailable, match="too few replicas") as refused:
            await shop.cashier.capture(held)
        assert not refused.value.money_may_have_moved
        assert shop.performed("authorize") == 0
        again = await shop.cashier.get(held)
        assert (again.state, again.operation) == (State.AUTHORIZED, None)
        replicas[1].resume()
        assert (await shop.cashier.capture(again)).state is State.CAPTURED
        assert shop.effects(held.order_id).count("captured") == 1


async def test_a_pay_and_an_otp_are_not_sent_either(
    replicas: Sequence[Server], shop_with: Open
) -> None:
    """Every step that may move money waits for the replicas."""
    async with shop_with(2) as shop:
        paying = await pay(shop)
        order_id, session = await shop.order()
        payment = await shop.cashier.start("native_otp", order_id=order_id)
        replicas[0].pause()
        for step in (
            shop.cashier.submit_otp(paying, OTP),
            shop.cashier.pay(payment, session, card()),
        ):
            with pytest.raises(StoreUnavailable):
                await step
        assert (shop.performed("authenticate"), shop.performed("pay")) == (0, 1)
        assert shop.effects(order_id) == []


async def test_what_sends_nothing_waits_for_no_replica(
    replicas: Sequence[Server], shop_with: Open
) -> None:
    """A start and a refresh work while all of them hang."""
    async with shop_with(2) as shop:
        paying = await pay(shop)
        for replica in replicas:
            replica.pause()
        order_id, _ = await shop.order()
        assert (await shop.cashier.start("preauth", order_id=order_id)).version == 1
        await shop.cashier.gateway.authenticate(paying.cf_payment_id or "", OTP)
        assert (await shop.cashier.refresh(paying)).state is State.AUTHORIZED


async def test_without_any_replica_no_step_is_sent(primary: Server, shop_with: Open) -> None:
    """A shop that requires copies sends no step while the server has no replica."""
    assert primary.run("INFO", "replication")["connected_slaves"] == 0
    async with shop_with(1) as shop:
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await pay(shop)
        assert shop.performed("pay") == 0


async def test_a_lost_script_and_a_lost_answer_change_nothing(
    primary: Server, replicas: Sequence[Server]
) -> None:
    """A step that is sent again waits for its replicas on the connection that wrote it."""
    assert len(replicas) == 2
    async with (
        Proxy(primary.port).running() as name,
        open_shop(store=RedisStore(name.url, min_replicas=2)) as shop,
    ):
        held = await shop.cashier.submit_otp(await pay(shop), OTP)
        primary.run("SCRIPT", "FLUSH")
        name.applies_to = lambda request: b"WAIT" in request
        name.lose_replies = 1
        captured = await shop.cashier.capture(held)
        assert (captured.state, captured.version) == (State.CAPTURED, held.version + 2)
        assert (shop.performed("authorize"), name.cut) == (1, 1)


async def test_a_lost_answer_counts_only_replicas_that_have_the_step(
    primary: Server, replicas: Sequence[Server]
) -> None:
    """The step is already stored when it is sent again, but one replica lacks it: refused."""
    async with (
        Proxy(primary.port).running() as name,
        open_shop(store=RedisStore(name.url, min_replicas=2)) as shop,
    ):
        held = await shop.cashier.submit_otp(await pay(shop), OTP)
        replicas[1].pause()
        name.lose_replies = 1
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await shop.cashier.capture(held)
        assert (shop.performed("authorize"), name.cut) == (0, 1)


async def test_a_cluster_waits_for_replicas_of_the_node_that_has_the_order(tmp_path: Path) -> None:
    """One of its three masters has a replica that hangs: only that master's orders are refused."""
    masters = [Server(valkey_binary(), tmp_path / f"m{i}", cluster=True) for i in range(3)]
    replicas = [Server(valkey_binary(), tmp_path / f"r{i}", cluster=True) for i in range(2)]
    own = Cluster(masters)
    try:
        own.start().replicate(replicas)
        store = RedisStore(own.url, min_replicas=1, deadline_s=1.5)
        async with open_shop(store=store) as shop:
            held = await held_on(shop, store, 0)
            replicas[0].pause()
            with pytest.raises(StoreUnavailable, match="too few replicas"):
                await shop.cashier.capture(held)
            other = await held_on(shop, store, 1)
            assert (await shop.cashier.capture(other)).state is State.CAPTURED
            replicas[0].resume()
            again = await shop.cashier.get(held)
            assert (await shop.cashier.capture(again)).state is State.CAPTURED
            assert shop.effects(held.order_id).count("captured") == 1
    finally:
        own.kill()
        for replica in replicas:
            replica.kill()


async def held_on(shop: Shop, store: RedisStore, master: int) -> Payment:
    """Hold money for an order that lives on this master of three."""
    while True:
        order_id, session = await shop.order(hold=True)
        if key_slot(store.keys.order(order_id).encode()) * 3 >> 14 == master:
            break
    payment = await shop.cashier.start("preauth", order_id=order_id, amount="170.00")
    return await shop.cashier.submit_otp(await shop.cashier.pay(payment, session, card()), OTP)


@pytest.mark.parametrize(
    ("url", "count"), [("embedded:", 1), ("redis://127.0.0.1", -1), ("redis://127.0.0.1", "1")]
)
def test_an_impossible_number_of_replicas_is_refused(url: str, count: int) -> None:
    """Checked when the program starts, not at the first payment."""
    with pytest.raises(ConfigError, match="min_replicas"):
        connected(url, count)


async def test_connect_takes_it_as_a_setting(primary: Server) -> None:
    """`connect(min_replicas=...)` is the only setting that a shop needs."""
    async with connected(primary.url, 1) as cashier:
        payment = await cashier.start("native_otp", order_id="order_1")
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await cashier.pay(payment, "session_1", card())


def connected(url: str, count: int) -> cfflow.Orchestrator:
    """Return an orchestrator that asks for so many replicas."""
    return cfflow.connect(
        redis_url=url,
        min_replicas=count,
        client_id="id",
        client_secret="a-secret-of-the-tests",
        environment="http://127.0.0.1:9/pg",
    )
