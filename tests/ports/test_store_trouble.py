"""What the Redis store does when the network, the server or an operator fails it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Walked
from cfflow.core.record import Review, Snapshot
from cfflow.errors import ConfigError, StoreError, StoreUnavailable
from cfflow.store.protocol import Notification, Outcome, Page
from cfflow.store.redis.link import SCRIPT, RedisLink
from cfflow.store.redis.store import RedisStore
from cfflow.store.redis.url import shown
from cfflow.testing.conformance.helpers import FLOW, a_plan, a_record
from tests.ports.servers import Proxy, Server, free_port, running, valkey_binary

SECRET = "correct-horse-battery"
EDGE = (Walked(Trigger.INITIATE, State.CREATED, State.INITIATED, "test"),)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """An open store on an empty server."""
    opened = RedisStore(redis_url)
    await opened.open()
    yield opened
    await opened.aclose()


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


async def begin(store: RedisStore, order_id: str = "order_1") -> Snapshot:
    """Start a payment."""
    return (await store.start(order_id, a_record(store), FLOW)).snapshot


async def commit_once(store: RedisStore, snapshot: Snapshot, **changes: Any) -> Snapshot:
    """Commit a change that must succeed."""
    committed = await store.commit(a_plan(snapshot, **changes))
    assert committed.outcome is Outcome.OK
    assert committed.snapshot is not None
    return committed.snapshot


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
    """Cut before or after the server received it: the outcome is OK, and it is stored once."""
    store = RedisStore(proxy.url)
    await store.open()
    snapshot = await begin(store)
    setattr(proxy, what, times)
    committed = await store.commit(a_plan(snapshot, state=State.INITIATED, walked=EDGE))
    assert (committed.outcome, proxy.cut) == (Outcome.OK, times)
    assert committed.snapshot == await store.load("order_1", 1)
    assert committed.snapshot is not None
    assert committed.snapshot.record.version == 2
    assert await events(store) == 1
    await store.aclose()


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_a_start_whose_connection_was_cut_begins_one_payment(proxy: Proxy, what: str) -> None:
    """The second try finds the payment of the first, and its outcome is "ok" too."""
    store = RedisStore(proxy.url)
    await store.open()
    proxy.applies_to = lambda request: b"start" in request
    setattr(proxy, what, 1)
    started = await store.start("order_1", a_record(store, amount=Decimal("1.50")), FLOW)
    assert (started.outcome, started.snapshot.n, proxy.cut) == ("ok", 1, 1)
    assert len(started.snapshot.attempts) == 1
    await store.aclose()


async def test_the_same_token_returns_ok_each_time(store: RedisStore) -> None:
    """The same commit again changes nothing and returns what is stored."""
    plan = a_plan(await begin(store), state=State.INITIATED, walked=EDGE)
    call = store._commit_call(plan, msgspec.structs.replace(plan.record, token="t1"))
    first, second = await store.link.script(*call), await store.link.script(*call)
    assert (first[0], second[0]) == (b"ok", b"ok")
    assert first[2] == second[2]
    assert await events(store) == 1


async def test_a_duplicate_that_arrives_after_the_next_commit_is_a_conflict(
    store: RedisStore,
) -> None:
    """A request that was delayed in the network does not overwrite later commits."""
    plan = a_plan(await begin(store), walked=EDGE)
    call = store._commit_call(plan, msgspec.structs.replace(plan.record, token="t1"))
    await store.link.script(*call)
    first = await store.load("order_1", 1)
    assert first is not None
    newest = await commit_once(store, first, polls=9)
    assert (await store.link.script(*call))[0] == b"conflict"
    assert await store.load("order_1", 1) == newest
    assert await events(store) == 1


async def test_a_commit_that_never_gets_through_is_given_up(proxy: Proxy) -> None:
    """All requests are lost: `StoreUnavailable`, in time."""
    store = RedisStore(proxy.url, deadline_s=1.0)
    await store.open()
    snapshot = await begin(store)
    proxy.lose_requests = 1_000
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.commit(a_plan(snapshot))
    assert time.monotonic() - began < 2.5
    assert await store.load("order_1", 1) == snapshot
    await store.aclose()


@pytest.mark.parametrize("url", ["redis_url", "cluster_url"])
async def test_the_reply_to_a_cancelled_command_reaches_no_other_caller(
    url: str, request: pytest.FixtureRequest
) -> None:
    """A caller is cancelled in the middle: the next one gets its own reply."""
    store = RedisStore(request.getfixturevalue(url))
    await store.open()
    for i in range(8):
        await begin(store, f"order_{i}")
    chance = random.Random(7)
    for i in range(150):
        cancelled: asyncio.Future[Any] = asyncio.ensure_future(
            store.lease(64, 1) if i % 5 == 0 else store.load(f"order_{i % 8}", 1)
        )
        await asyncio.sleep(chance.choice([0, 0, 0.0002, 0.0005, 0.001]))
        cancelled.cancel()
        other = (i + 3) % 8
        found = await store.load(f"order_{other}", 1)
        assert found is not None
        assert found.order_id == f"order_{other}"
        assert found.record.nonce == "n0"
        loaded = await asyncio.gather(*(store.load(f"order_{k}", 1) for k in range(8)))
        assert [s and s.order_id for s in loaded] == [f"order_{k}" for k in range(8)]
        await asyncio.gather(cancelled, return_exceptions=True)
    await store.aclose()


async def test_cancelled_commits_are_stored_whole_or_not_at_all(
    store: RedisStore,
) -> None:
    """Each order has the cancelled commit or the one before it, and the store goes on."""
    chance = random.Random(11)
    snapshots = {f"order_{i}": await begin(store, f"order_{i}") for i in range(6)}
    for i in range(90):
        order_id = f"order_{i % 6}"
        ours = f"{order_id}-{i}"
        cancelled = asyncio.ensure_future(
            store.commit(a_plan(snapshots[order_id], cf_payment_id=ours))
        )
        await asyncio.sleep(chance.choice([0, 0.0003, 0.0006, 0.0015]))
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        found = await store.load(order_id, 1)
        assert found is not None
        assert found.record.cf_payment_id in (ours, snapshots[order_id].record.cf_payment_id)
        snapshots[order_id] = found


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
    snapshot = await begin(store)
    server.pause()
    try:
        for call in (store.commit(a_plan(snapshot)), store.lease(64, 1), late.open()):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"no reply .* 0\.4 s"):
                await call
            assert time.monotonic() - began < 1.0
    finally:
        server.resume()
    found = await store.load("order_1", 1)
    assert found is not None
    await store.aclose()


async def test_a_server_that_dies_is_unavailable_and_found_again(server: Server) -> None:
    """Killed under thirty open connections: refused in time, and served after its return."""
    store = RedisStore(server.url)
    await store.open()
    snapshot = await begin(store)
    await asyncio.gather(*(store.load("order_1", 1) for _ in range(30)))
    await asyncio.sleep(0.05)
    server.kill()
    with pytest.raises(StoreUnavailable):
        await store.commit(a_plan(snapshot))
    server.start()
    written = await commit_once(store, snapshot, verified_after_restart=True)
    loaded = await asyncio.gather(*(store.load("order_1", 1) for _ in range(30)))
    assert all(found == written for found in loaded)
    await store.lease(64, 1)
    await store.aclose()


async def test_a_server_that_is_back_in_time_is_waited_for(server: Server) -> None:
    """A short restart during a commit: the commit only takes longer."""
    store = RedisStore(server.url, deadline_s=5)
    await store.open()
    snapshot = await begin(store)
    server.kill()
    committing = asyncio.ensure_future(store.commit(a_plan(snapshot, verified_after_restart=True)))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(server.start)
    assert (await committing).outcome is Outcome.OK
    await store.aclose()


async def test_a_lost_script_is_sent_again(store: RedisStore, valkey_server: Server) -> None:
    """After SCRIPT FLUSH every call still works, one by one and in a pipeline."""
    snapshot = await begin(store)
    valkey_server.run("SCRIPT", "FLUSH")
    snapshot = await commit_once(store, snapshot, wake_at_ms=1)
    valkey_server.run("SCRIPT", "FLUSH")
    assert [found.id for found in await store.lease(64, 60_000)] == [snapshot.id]
    valkey_server.run("SCRIPT", "FLUSH")
    assert [found.id for found in await store.list(Page())] == [snapshot.id]


async def test_two_versions_of_the_script_run_side_by_side(
    store: RedisStore, redis_url: str
) -> None:
    """During an upgrade the words of a command may differ: each process runs its own text."""
    other = RedisLink(redis_url, script=SCRIPT.replace("lease = lease,", "take = lease,"))
    await other.open()
    snapshot = await commit_once(store, await begin(store), wake_at_ms=1)
    place = store.keys.partition(snapshot.order_id)
    for _ in range(2):
        taking = ["take", 0, store.keys.order_prefix(place), 1, 1]
        taken = await other.script([store.keys.wake(place)], taking)
        assert taken[2][0][0].decode() == snapshot.id
        assert [found.id for found in await store.lease(64, 0)] == [snapshot.id]
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
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load("order_1", 1)
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load("order_1", 1)


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
    snapshot = await begin(store)
    before = everything(server)
    server.run("CONFIG", "SET", "maxmemory", "1")
    plan = a_plan(snapshot, state=State.INITIATED, walked=EDGE, reviews=(Review("r", 1),))
    with pytest.raises(StoreUnavailable, match="memory"):
        await store.commit(plan)
    with pytest.raises(StoreUnavailable, match="memory"):
        await begin(store, "order_2")
    with pytest.raises(StoreUnavailable, match="memory"):
        await RedisStore(server.url).open()
    assert await store.load("order_1", 1) == snapshot
    server.run("CONFIG", "SET", "maxmemory", "0")
    assert everything(server) == before
    assert (await store.commit(plan)).outcome is Outcome.OK
    await store.aclose()


async def test_a_replica_is_refused_at_open_and_unavailable_later(
    server: Server, valkey_server: Server
) -> None:
    """A replica takes no payments, from the start or after a failover."""
    store = RedisStore(server.url)
    await store.open()
    snapshot = await begin(store)
    server.run("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(ConfigError, match="replica"):
        await RedisStore(server.url).open()
    with pytest.raises(StoreUnavailable, match="read-only"):
        await store.commit(a_plan(snapshot))
    server.run("REPLICAOF", "NO", "ONE")
    await commit_once(store, snapshot, verified_after_restart=True)
    await store.aclose()


async def test_a_failover_behind_a_name_is_followed(server: Server, tmp_path: Path) -> None:
    """The demoted server keeps our connections open; new ones reach its successor."""
    server.run("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    with running(Server(valkey_binary(), tmp_path / "next")) as successor:
        async with Proxy(server.port).running() as name:
            store = RedisStore(name.url)
            await store.open()
            snapshot = await begin(store)
            successor.run("REPLICAOF", "127.0.0.1", server.port)
            while successor.run("DBSIZE") != server.run("DBSIZE"):
                await asyncio.sleep(0.05)
            successor.run("REPLICAOF", "NO", "ONE")
            server.run("REPLICAOF", "127.0.0.1", successor.port)
            name.target = successor.port
            await commit_once(store, snapshot, verified_after_restart=True)
            await store.aclose()


async def test_a_server_busy_with_a_script_is_unavailable(server: Server) -> None:
    """Another client's endless script is a `StoreUnavailable`: it may end."""
    store = RedisStore(server.url, deadline_s=1.0)
    await store.open()
    snapshot = await begin(store)
    server.run("CONFIG", "SET", "busy-reply-threshold", "10")

    def hold() -> None:
        with server.client() as client, pytest.raises(Exception, match="killed"):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=hold)
    thread.start()
    await asyncio.sleep(0.1)
    with pytest.raises(StoreUnavailable):
        await store.commit(a_plan(snapshot))
    server.run("SCRIPT", "KILL")
    thread.join()
    await commit_once(store, snapshot)
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
    with pytest.raises(StoreUnavailable, match="not open"):
        await other.load("order_1", 1)
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
    snapshot = await begin(store)
    await commit_once(store, snapshot, wake_at_ms=1)
    assert len(await store.lease(64, 1)) == 1
    await store.aclose()
    other = RedisStore(redis_url)
    await other.open()
    assert await other.load("order_1", 1) is None
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


# foreign bytes


@pytest.mark.parametrize("blob", [b"garbage", b"\x93\x01\x02\x03", b"\xdc\x00\x03\x01\x02\xa1x"])
async def test_foreign_bytes_are_a_store_error(store: RedisStore, blob: bytes) -> None:
    """Bytes that are not a record are reported, and never overwritten."""
    snapshot = await begin(store)
    key = store.keys.order("order_1")
    await store.link.command("HSET", key, "1", blob)
    with pytest.raises(StoreError):
        await store.load("order_1", 1)
    with pytest.raises(StoreError):
        await store.list(Page())
    with contextlib.suppress(StoreError):
        assert (await store.commit(a_plan(snapshot))).outcome is not Outcome.OK
    assert await store.link.command("HGET", key, "1") == blob


async def test_foreign_bytes_beside_a_record_are_a_store_error(store: RedisStore) -> None:
    """So are an order's entry and a next action that do not decode."""
    for field in ("o", "1a"):
        await begin(store, f"order_{field}")
        await store.link.command("HSET", store.keys.order(f"order_{field}"), field, b"\xc1\xff")
        with pytest.raises(StoreError):
            await store.load(f"order_{field}", 1)


async def test_one_unreadable_record_does_not_hide_the_others(store: RedisStore) -> None:
    """A lease returns the readable payments; alone, the unreadable one is reported."""
    for i in range(6):
        await commit_once(store, await begin(store, f"order_{i}"), wake_at_ms=1)
    await store.link.command("HSET", store.keys.order("order_3"), "1", b"garbage")
    leased = await store.lease(640, 30)
    assert sorted(found.order_id for found in leased) == [f"order_{i}" for i in (0, 1, 2, 4, 5)]
    for found in leased:
        await commit_once(store, found, wake_at_ms=None)
    await asyncio.sleep(0.05)
    with pytest.raises(StoreError, match="decode"):
        await store.lease(640, 60_000)


# commands that are used


async def test_it_uses_no_command_that_blocks_a_server_or_needs_several_slots(
    store: RedisStore, valkey_server: Server
) -> None:
    """No KEYS, no SCAN, no MULTI, no WATCH: scripts and a few plain reads."""
    valkey_server.run("CONFIG", "RESETSTAT")
    again = RedisStore(valkey_server.url)
    await again.open()
    snapshot = await commit_once(again, await begin(again), walked=EDGE, wake_at_ms=1)
    await again.start("order_1", a_record(again), FLOW)
    await again.lease(64, 1)
    await again.list(Page())
    await again.list(Page(review=True))
    await again.flow_text("order_1", snapshot.record.digest)
    await again.load("order_1", 1)
    await again.overdue()
    await again.defer(snapshot, 1)
    await again.notify(
        Notification(type="T", content_id="c", order_id="order_1", cf_payment_id="1")
    )
    await again.clear_notifications(snapshot, 2**60)
    await commit_once(again, snapshot, polls=1)
    assert await again.purge([await begin(again, "order_2")])
    await again.aclose()
    from_clients = {"evalsha", "eval", "hget", "hmget", "hsetnx", "info", "client|setinfo"}
    from_the_script = {"time", "hset", "hdel", "zadd", "zrem", "zscore", "xadd", "xlen"}
    from_the_script |= {"zrangebyscore", "zrevrangebyscore", "zrange", "zcount"}
    from_the_script |= {"exists", "hexists", "hlen", "del", "set", "pexpire", "info"}
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


async def test_it_works_without_hiredis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """hiredis is an extra: without it the same commands are only encoded more slowly."""
    monkeypatch.setattr("cfflow.store.redis.link._pack_fast", None)
    store = RedisStore(redis_url)
    await store.open()
    await commit_once(store, await begin(store), wake_at_ms=1)
    assert len(await store.lease(64, 1)) == 1
    await store.aclose()
