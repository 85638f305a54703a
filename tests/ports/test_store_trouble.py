"""What the Redis store does when the network, the server or an operator fails it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from cfflow.core.chart import State
from cfflow.core.order import Order, notice_digest
from cfflow.core.plan import Gate, under_token
from cfflow.core.record import Review
from cfflow.core.steps import begin_payment
from cfflow.errors import ConfigError, StoreError, StoreUnavailable
from cfflow.store.codec import commit_of
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import Notification, Outcome, Window
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.store import RedisStore
from cfflow.store.redis.url import shown
from tests.ports.orders_kit import (
    EDGE,
    FLOW,
    a_plan,
    a_record,
    applied,
    begin,
    changed,
    contents,
    ids,
    loaded,
    verified,
)
from tests.ports.servers import Proxy, Server, free_port, running, valkey_binary

SECRET = "correct-horse-battery"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone, which keeps its data."""
    with running(Server(valkey_binary(), tmp_path / "own", "--appendonly", "yes")) as started:
        yield started


@pytest.fixture
async def proxy(valkey_server: Server, redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of an empty server."""
    async with Proxy(valkey_server.port).running() as listening:
        yield listening


async def events(store: RedisStore, order_id: str = "order_1") -> int:
    """Count the events in the order's partition."""
    key = store.keys.events(store.keys.partition(order_id))
    return int(await store.link.command("XLEN", key))


def everything(server: Server) -> dict[bytes, bytes]:
    """Return all that a server holds, byte for byte."""
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter()}


# lost replies and requests


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_a_commit_whose_connection_was_cut_is_applied_once(
    proxy: Proxy, what: str, times: int
) -> None:
    """Cut before or after the server received it: it is applied, and it is stored once."""
    store = RedisStore(proxy.url)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    setattr(proxy, what, times)
    written = await orders.commit(a_plan(order, state=State.INITIATED, walked=EDGE))
    assert (written.outcome, proxy.cut) == (Outcome.APPLIED, times)
    assert contents(written.order) == contents(await loaded(orders))
    assert written.order.record(1).version == 2
    assert await events(store) == 1
    await store.aclose()


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_a_start_whose_connection_was_cut_begins_one_payment(proxy: Proxy, what: str) -> None:
    """The second try finds the payment of the first, and its outcome is "applied" too."""
    store = RedisStore(proxy.url)
    await store.open()
    orders = Orders(store)
    setattr(proxy, what, 1)
    record = a_record(orders, amount=Decimal("1.50"))
    started = await orders.commit(begin_payment(Order(id="order_1"), record, FLOW))
    assert (started.outcome, proxy.cut) == (Outcome.APPLIED, 1)
    assert contents(started.order) == contents(await loaded(orders))
    assert len(started.order.payments) == 1
    await store.aclose()


async def test_the_same_token_is_applied_each_time(orders: Orders, store: RedisStore) -> None:
    """The same commit again changes nothing, and its outcome is the same."""
    plan = under_token(a_plan(await begin(orders), state=State.INITIATED, walked=EDGE), "token_01")
    first = await store.commit(commit_of(plan))
    stored = await store.read(["order_1"])
    second = await store.commit(commit_of(plan))
    assert (first.outcome, second.outcome) == (Outcome.APPLIED, Outcome.APPLIED)
    assert await store.read(["order_1"]) == stored
    assert stored[0].token == "token_01"
    assert await events(store) == 1


async def test_a_duplicate_that_arrives_after_the_next_commit_is_a_conflict(
    orders: Orders, store: RedisStore
) -> None:
    """A request that was delayed in the network does not overwrite later commits."""
    commit = commit_of(under_token(a_plan(await begin(orders), walked=EDGE), "token_01"))
    await store.commit(commit)
    newest = await changed(orders, await loaded(orders), asked_at_ms=9)
    late = await store.commit(commit)
    assert (late.outcome, late.stored) == (Outcome.CONFLICT, (await store.read(["order_1"]))[0])
    assert contents(await loaded(orders)) == contents(newest)
    assert await events(store) == 1


async def test_a_commit_that_never_gets_through_is_given_up(proxy: Proxy) -> None:
    """All requests are lost: `StoreUnavailable`, in time."""
    store = RedisStore(proxy.url, deadline_s=1.0)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    proxy.lose_requests = 1_000
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await orders.commit(a_plan(order))
    assert time.monotonic() - began < 2.5
    assert contents(await loaded(orders)) == contents(order)
    await store.aclose()


@pytest.mark.parametrize("url", ["redis_url", "cluster_url"])
async def test_the_reply_to_a_cancelled_command_reaches_no_other_caller(
    url: str, request: pytest.FixtureRequest
) -> None:
    """A caller is cancelled in the middle: the next one gets its own reply."""
    store = RedisStore(request.getfixturevalue(url))
    await store.open()
    orders = Orders(store)
    for i in range(8):
        await begin(orders, f"order_{i}")
    chance = random.Random(7)
    for i in range(150):
        cancelled: asyncio.Future[Any] = asyncio.ensure_future(
            store.lease(64, 1) if i % 5 == 0 else orders.load(f"order_{i % 8}")
        )
        await asyncio.sleep(chance.choice([0, 0, 0.0002, 0.0005, 0.001]))
        cancelled.cancel()
        other = (i + 3) % 8
        found = await loaded(orders, f"order_{other}")
        assert found.id == f"order_{other}"
        assert found.record(1).nonce == "n0"
        several = await asyncio.gather(*(loaded(orders, f"order_{k}") for k in range(8)))
        assert [order.id for order in several] == [f"order_{k}" for k in range(8)]
        await asyncio.gather(cancelled, return_exceptions=True)
    await store.aclose()


async def test_cancelled_commits_are_stored_whole_or_not_at_all(orders: Orders) -> None:
    """Each order has the cancelled commit or the one before it, and the store goes on."""
    chance = random.Random(11)
    newest = {f"order_{i}": await begin(orders, f"order_{i}") for i in range(6)}
    for i in range(90):
        order_id = f"order_{i % 6}"
        ours = f"{order_id}-{i}"
        cancelled = asyncio.ensure_future(
            orders.commit(a_plan(newest[order_id], cf_payment_id=ours))
        )
        await asyncio.sleep(chance.choice([0, 0.0003, 0.0006, 0.0015]))
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        found = await loaded(orders, order_id)
        before = newest[order_id].record(1).cf_payment_id
        assert found.record(1).cf_payment_id in (ours, before)
        newest[order_id] = found


# servers that do not respond


async def test_a_server_that_is_down_at_open_is_unavailable() -> None:
    """No process listens: `StoreUnavailable`, well within the deadline."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.open()
    assert time.monotonic() - began < 3.0


async def test_a_server_that_hangs_is_unavailable_after_the_deadline(server: Server) -> None:
    """Connected, but no reply comes: at open and later."""
    store, late = (RedisStore(server.url, deadline_s=0.4) for _ in range(2))
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    server.pause()
    try:
        for call in (orders.commit(a_plan(order)), store.lease(64, 1), late.open()):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"no reply .* 0\.4 s"):
                await call
            assert time.monotonic() - began < 1.0
    finally:
        server.resume()
    assert await orders.load("order_1") is not None
    await store.aclose()


async def test_a_server_that_dies_is_unavailable_and_found_again(server: Server) -> None:
    """Killed under thirty open connections: refused in time, and served after its return."""
    store = RedisStore(server.url)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    await asyncio.gather(*(orders.load("order_1") for _ in range(30)))
    await asyncio.sleep(0.05)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await orders.commit(a_plan(order))
    server.start()
    written = await verified(orders, order)
    several = await asyncio.gather(*(loaded(orders) for _ in range(30)))
    assert all(contents(found) == contents(written) for found in several)
    await changed(orders, written, opens=True)
    await store.lease(64, 1)
    await store.aclose()


async def test_a_server_that_is_back_in_time_is_waited_for(server: Server) -> None:
    """A short restart during a commit: the commit only takes longer."""
    store = RedisStore(server.url, deadline_s=5)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    server.kill()
    committing = asyncio.ensure_future(changed(orders, order))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(server.start)
    await verified(orders, await committing)
    await store.aclose()


async def test_a_lost_script_is_sent_again(store: RedisStore, valkey_server: Server) -> None:
    """After SCRIPT FLUSH every call still works, one by one and in a pipeline."""
    orders = Orders(store)
    order = await begin(orders)
    valkey_server.run("SCRIPT", "FLUSH")
    order = await changed(orders, order, wake_at_ms=1)
    valkey_server.run("SCRIPT", "FLUSH")
    assert ids(await store.lease(64, 60_000)) == [order.id]
    valkey_server.run("SCRIPT", "FLUSH")
    assert [found.id for found in (await orders.list(Page())).payments] == [order.payment(1).id]


async def test_two_versions_of_the_script_run_side_by_side(
    orders: Orders, store: RedisStore, redis_url: str
) -> None:
    """During an upgrade the words of a command may differ: each process runs its own text."""
    other = RedisLink(redis_url, script=lambda text: text.replace("find = find,", "seek = find,"))
    await other.open()
    order = await changed(orders, await begin(orders), wake_at_ms=1)
    keys, place = store.keys, store.keys.partition(order.id)
    window = Window(("created",), limit=10)
    for _ in range(2):
        seeking = ["seek", "-inf", "+inf", 10, 0]
        sought = await other.script([keys.index(place, "created")], seeking)
        assert sought[2][0][0].decode() == f"{order.id}.1"
        assert [member for member, _ in await store.find(window)] == [f"{order.id}.1"]
    await other.aclose()


async def test_more_callers_than_connections_wait_for_one(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rush is served, not refused."""
    monkeypatch.setattr("cfflow.store.redis.link._CONNECTIONS_MAX", 3)
    link = RedisLink(redis_url)
    await link.open()
    replies = await asyncio.gather(*(link.command("GET", "none") for _ in range(200)))
    assert replies == [None] * 200
    assert len((await link.command("CLIENT", "LIST")).splitlines()) <= 3
    await link.aclose()


async def test_a_store_that_is_not_open_is_unavailable(redis_url: str) -> None:
    """Before `open` and after `aclose`; closing twice is harmless."""
    store = RedisStore(redis_url)
    with pytest.raises(ConfigError, match="not open"):
        await Orders(store).load("order_1")
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="closed"):
        await Orders(store).load("order_1")


# servers that must not be used


@pytest.mark.parametrize("user", [":wrong", "", f"nobody:{SECRET}", f":{SECRET}-not"])
async def test_a_wrong_password_is_refused_without_being_shown(tmp_path: Path, user: str) -> None:
    """`ConfigError`, at once, and no password in its text."""
    with running(Server(valkey_binary(), tmp_path, "--requirepass", SECRET)) as server:
        url = f"redis://{user}@127.0.0.1:{server.port}" if user else server.url
        began = time.monotonic()
        with pytest.raises(ConfigError) as refused:
            await RedisStore(url).open()
        assert time.monotonic() - began < 1.0
        assert "password" in str(refused.value)
        assert SECRET not in str(refused.value)
        assert "wrong@" not in str(refused.value)
        right = RedisStore(f"redis://:{SECRET}@127.0.0.1:{server.port}")
        await right.open()
        await right.aclose()


async def test_a_server_that_evicts_is_refused(server: Server) -> None:
    """A server that evicts drops keys when it is full, and a payment could be one of them."""
    server.run("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="noeviction"):
        await RedisStore(server.url).open()
    server.run("CONFIG", "SET", "maxmemory", "0")
    store = RedisStore(server.url)
    await store.open()
    await store.aclose()


async def test_a_full_server_refuses_and_keeps_what_it_has(server: Server) -> None:
    """`StoreUnavailable` that names memory, and nothing is written in part."""
    store = RedisStore(server.url)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    before = everything(server)
    server.run("CONFIG", "SET", "maxmemory", "1")
    plan = a_plan(order, state=State.INITIATED, walked=EDGE, reviews=(Review("r", 1),))
    with pytest.raises(StoreUnavailable, match="memory"):
        await orders.commit(plan)
    with pytest.raises(StoreUnavailable, match="memory"):
        await begin(orders, "order_2")
    with pytest.raises(StoreUnavailable, match="memory"):
        await RedisStore(server.url).open()
    assert contents(await loaded(orders)) == contents(order)
    server.run("CONFIG", "SET", "maxmemory", "0")
    assert everything(server) == before
    assert (await orders.commit(plan)).outcome is Outcome.APPLIED
    await store.aclose()


async def test_a_replica_is_refused_at_open_and_unavailable_later(
    server: Server, valkey_server: Server
) -> None:
    """A replica takes no payments, from the start or after a failover."""
    store = RedisStore(server.url)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    server.run("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(ConfigError, match="replica"):
        await RedisStore(server.url).open()
    with pytest.raises(StoreUnavailable, match="read-only"):
        await orders.commit(a_plan(order))
    server.run("REPLICAOF", "NO", "ONE")
    await verified(orders, order)
    await store.aclose()


async def test_a_failover_behind_a_name_is_followed(server: Server, tmp_path: Path) -> None:
    """The demoted server keeps our connections open; new ones reach its successor."""
    server.run("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    with running(Server(valkey_binary(), tmp_path / "next")) as successor:
        async with Proxy(server.port).running() as name:
            store = RedisStore(name.url)
            await store.open()
            orders = Orders(store)
            order = await begin(orders)
            successor.run("REPLICAOF", "127.0.0.1", server.port)
            while successor.run("DBSIZE") != server.run("DBSIZE"):
                await asyncio.sleep(0.05)
            successor.run("REPLICAOF", "NO", "ONE")
            server.run("REPLICAOF", "127.0.0.1", successor.port)
            name.target = successor.port
            await verified(orders, order)
            await store.aclose()


def is_busy(server: Server) -> bool:
    """Return whether a script keeps a server from all other commands."""
    try:
        server.run("GET", "none")
    except ResponseError as error:
        return "BUSY" in str(error).upper()
    return False


async def test_a_server_busy_with_a_script_is_unavailable(server: Server) -> None:
    """Another client's endless script is a `StoreUnavailable`: it may end."""
    store = RedisStore(server.url, deadline_s=1.0)
    await store.open()
    orders = Orders(store)
    order = await begin(orders)
    server.run("CONFIG", "SET", "busy-reply-threshold", "10")

    def hold() -> None:
        with server.client() as client, pytest.raises(Exception, match="killed"):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=hold)
    thread.start()
    while not is_busy(server):
        await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable):
        await orders.commit(a_plan(order))
    server.run("SCRIPT", "KILL")
    thread.join()
    await changed(orders, await loaded(orders))
    await store.aclose()


@pytest.mark.parametrize("url", ["redis_url", "cluster_url"])
async def test_another_number_of_partitions_is_refused(
    url: str, request: pytest.FixtureRequest
) -> None:
    """The number is fixed by the first process; another namespace has its own."""
    address = request.getfixturevalue(url)
    first = RedisStore(address)
    await first.open()
    for partitions in (1, 3, 32):
        other = RedisStore(address, partitions=partitions)
        with pytest.raises(ConfigError, match="64 partitions"):
            await other.open()
    with pytest.raises(StoreUnavailable, match="closed"):
        await Orders(other).load("order_1")
    apart = RedisStore(address, namespace="apart", partitions=32)
    await apart.open()
    await apart.aclose()
    await first.aclose()


async def test_a_refused_store_leaves_no_connection(store: RedisStore, redis_url: str) -> None:
    """An `open` that fails closes its connections."""
    with pytest.raises(ConfigError):
        await RedisStore(redis_url, partitions=3).open()
    await asyncio.sleep(0.02)
    assert len((await store.link.command("CLIENT", "LIST")).splitlines()) == 1


# addresses


def test_addresses_are_shown_without_passwords() -> None:
    """However a URL is mistyped, what may be a password is not in a message."""
    assert shown(f"redis://user:{SECRET}@host:1/2") == "redis://host:1/2"
    assert shown(f"unix:///tmp/a.sock?password={SECRET}") == "unix:///tmp/a.sock"
    for url in (f"redis://:{SECRET}", f"redis://host:{SECRET}", f"redis://a@b:{SECRET}"):
        assert SECRET not in shown(url)


@pytest.mark.parametrize("url", [f"redis://:{SECRET}", f"http://:{SECRET}@host", f"{SECRET}"])
async def test_an_invalid_address_is_refused_without_being_repeated(url: str) -> None:
    """`ConfigError`; a password in the wrong place is not in its text."""
    with pytest.raises(ConfigError) as refused:
        await RedisStore(url).open()
    assert SECRET not in str(refused.value)


async def test_an_unknown_option_of_the_address_is_refused(redis_url: str) -> None:
    """A typing error in a URL is a `ConfigError`, not a `TypeError`."""
    with pytest.raises(ConfigError, match="colour"):
        await RedisStore(f"{redis_url}/0?colour=red").open()


async def test_options_of_the_address_that_change_replies_are_ignored(redis_url: str) -> None:
    """Text instead of bytes, or RESP 3, would change every reply; `db` is used."""
    store = RedisStore(f"{redis_url}/3?decode_responses=True&protocol=3&retry_on_timeout=1")
    await store.open()
    await begin(Orders(store), wake_at_ms=1)
    assert ids(await store.lease(64, 1)) == ["order_1"]
    await store.aclose()
    other = RedisStore(redis_url)
    await other.open()
    assert await Orders(other).load("order_1") is None
    await other.aclose()


async def test_a_server_that_is_not_a_redis_is_a_store_error() -> None:
    """A web server at the address: an error of the tree, in time."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StoreError):
        await RedisStore(f"redis://127.0.0.1:{port}", deadline_s=1).open()
    server.close()


# commands that are used


async def test_it_uses_no_command_that_blocks_a_server_or_needs_several_slots(
    store: RedisStore, valkey_server: Server
) -> None:
    """No KEYS, no SCAN, no MULTI, no WATCH: scripts and a few plain reads."""
    valkey_server.run("CONFIG", "RESETSTAT")
    again = RedisStore(valkey_server.url)
    await again.open()
    orders = Orders(again)
    order = await begin(orders)
    order = await changed(orders, order, walked=EDGE, wake_at_ms=1, opens=True, gate=Gate.PAY)
    await begin(orders)
    leased = await again.lease(64, 1)
    await orders.list(Page())
    await orders.list(Page(review=True))
    await orders.list(Page((State.CREATED,), review=True))
    await again.flow_text("order_1", order.record(1).digest)
    await again.overdue()
    order = await loaded(orders)
    for lease in ("", leased.orders[0][0].lease):
        assert await again.defer("order_1", 1, token=order.token, lease=lease) is None
    notification = Notification(type="T", content_id="c", order_id="order_1", cf_payment_id="1")
    await again.notify(notification, notice_digest("1", ""))
    order = await loaded(orders)
    order = await applied(orders, msgspec.structs.replace(a_plan(order), answered=order.notices))
    await again.set_gate("pay", "alice")
    await again.set_gate("pay", "")
    assert await again.gates() == {}
    assert await orders.remove(order)
    await begin(orders)
    await again.set_aside("order_1", token=(await loaded(orders)).token)
    await again.aclose()
    from_clients = {"evalsha", "eval", "info", "client|setinfo"}
    from_clients |= {"hget", "hset", "hsetnx", "hexists", "hmget"}
    from_the_script = {"time", "info", "exists", "del"}
    from_the_script |= {"get", "set", "mget", "getrange", "setrange"}
    from_the_script |= {"hget", "hset", "hsetnx", "hdel", "hexists", "hlen", "hincrby", "hmget"}
    from_the_script |= {"hgetall", "zadd", "zrem", "zscore", "zrange", "zcount"}
    from_the_script |= {"zrangebyscore", "zrevrangebyscore", "xadd", "xlen"}
    from_this_test = {"config|resetstat"}
    assert set(valkey_server.calls()) <= from_clients | from_the_script | from_this_test


@pytest.mark.parametrize("url", ["redis_url", "cluster_url"])
async def test_the_clients_own_retries_are_off(url: str, request: pytest.FixtureRequest) -> None:
    """redis-py would try ten times by itself and hide what happened."""
    store = RedisStore(request.getfixturevalue(url))
    await store.open()
    client: Any = store.link.client
    retry = (
        client.retry if store.link.is_cluster else client.connection_pool.connection_kwargs["retry"]
    )
    assert retry.get_retries() == 0
    await store.aclose()
