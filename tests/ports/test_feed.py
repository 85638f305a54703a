"""The feed on real servers: killed consumers, foreign entries, and its round trips."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cfflow.errors import Conflict, InvalidInput, StoreUnavailable
from cfflow.feed.feed import Feed, FeedEvent, FeedGap, FeedItem, FeedNotification
from cfflow.store.redis.store import RedisStore
from cfflow.testing import MemoryStore
from cfflow.testing.conformance.feed import (
    commit_events,
    drained,
    handled,
    lost,
    next_event,
    numbers,
    opened,
)
from cfflow.testing.conformance.helpers import begin
from tests.ports.servers import Monitor, Server, running, valkey_binary

URLS = ["redis_url", "cluster_url"]

#: Reads one event, prints its number, and hangs before it acknowledges it.
HANGS = """
import asyncio, sys
from cfflow.connecting import open_reader

async def main():
    async with open_reader(sys.argv[1]) as reader:
        async with reader.events("mailer", consumer=sys.argv[2], lease_s=2) as feed:
            async for event in feed:
                print(event.request_id, flush=True)
                await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(params=URLS)
async def anywhere(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    """An open store on an empty server, and one on an empty cluster."""
    opened_store = RedisStore(request.getfixturevalue(request.param))
    await opened_store.open()
    yield opened_store
    await opened_store.aclose()


def killed_with_an_event(url: str, consumer: str) -> str:
    """Let a process read an event and kill it before it acknowledges; return the event's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, url, consumer], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        read = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        return read.strip()
    finally:
        process.kill()
        process.communicate()


async def raw(store: RedisStore, blob: bytes, order_id: str = "order_1") -> None:
    """Write an entry into an order's partition, as another version would."""
    key = store.keys.events(store.keys.partition(order_id))
    await store.link.command("XADD", key, "*", "e", blob)


async def test_the_event_of_a_killed_consumer_goes_to_the_next_one(anywhere: RedisStore) -> None:
    """SIGKILL between reading and acknowledging: the next one gets it once the lease has ended."""
    await commit_events(anywhere, await begin(anywhere, "order_1"), 2)
    assert killed_with_an_event(anywhere.link.url, "dead") == "1"
    async with asyncio.timeout(20), Feed(anywhere, "mailer", idle_s=0.05) as feed:
        async for event in feed:
            assert numbers([event]) == [1]
            await feed.ack(event)
            break
        assert numbers(await drained(feed)) == [2]


async def test_a_killed_consumer_gets_its_event_again(anywhere: RedisStore) -> None:
    """Restarted under its name, it does not wait for its own lease."""
    await commit_events(anywhere, await begin(anywhere, "order_1"), 2)
    for _ in range(2):
        assert killed_with_an_event(anywhere.link.url, "pod-1") == "1"


class Crowd:
    """Consumers that come and die, three at a time, and what they acknowledged."""

    def __init__(self, store: RedisStore, seed: int) -> None:
        self.acknowledged: dict[str, list[int]] = defaultdict(list)
        self.finished = False
        self._store = store
        self._dice = random.Random(seed)

    async def generations(self, lineage: int) -> None:
        """Let one consumer follow the other."""
        generation = 0
        while not self.finished:
            generation += 1
            feed = Feed(
                self._store,
                "mailer",
                consumer=f"{lineage}.{generation}",
                lease_s=0.5,
                batch=5,
            )
            grave = AsyncExitStack()
            await grave.enter_async_context(feed)
            ended = await self._live(feed)
            if ended and self._dice.random() < 0.5:
                await grave.aclose()

    async def _live(self, feed: Feed) -> bool:
        """Handle some events; False: died while handling one."""
        for _ in range(self._dice.randrange(5, 60)):
            event = await feed.poll()
            if event is None:
                await asyncio.sleep(0.02)
            elif self._dice.random() < 0.05:
                return False
            else:
                await self._handle(feed, event)
        return True

    async def _handle(self, feed: Feed, event: FeedItem) -> None:
        assert isinstance(event, FeedEvent)
        with suppress(Conflict):
            await feed.ack(event)
            self.acknowledged[event.order_id].append(int(event.request_id))


async def write(store: RedisStore, order_id: str, count: int, each: int) -> None:
    """Commit so many events of a payment, a few at once."""
    snapshot = await begin(store, order_id)
    for first in range(1, count + 1, each):
        snapshot = await commit_events(store, snapshot, each, first)
        await asyncio.sleep(0.01)


async def test_consumers_that_come_and_die_lose_nothing(anywhere: RedisStore) -> None:
    """Each event is acknowledged once, in its payment's order, whoever dies between."""
    orders = [f"order_{i}" for i in range(12)]
    crowd = Crowd(anywhere, 8123)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for lineage in range(3):
            group.create_task(crowd.generations(lineage))
        await asyncio.gather(*(write(anywhere, order_id, 30, 3) for order_id in orders))
        while sum(map(len, crowd.acknowledged.values())) < 360:
            await asyncio.sleep(0.05)
        crowd.finished = True
    assert crowd.acknowledged == {order_id: list(range(1, 31)) for order_id in orders}


async def test_an_entry_that_cannot_be_read_is_a_gap_of_one(store: RedisStore) -> None:
    """One broken entry does not end a feed for ever."""
    snapshot = await commit_events(store, await begin(store, "order_1"), 1)
    await raw(store, b"\xc1garbage")
    await raw(store, msgspec.msgpack.encode({"payment_id": 7}))
    await commit_events(store, snapshot, 1, 2)
    found = await handled(await opened(store, "m"))
    assert (numbers(found), lost(found)) == ([1, 2], [1, 1])
    assert await drained(await opened(store, "m")) == []


async def test_a_notification_that_an_older_version_wrote_is_read(store: RedisStore) -> None:
    """It has no content id; all else of it is there."""
    about = {"type": "REFUND", "order_id": "order_1", "cf_payment_id": None, "data": b"[1]"}
    entry = {"kind": "notification", **about, "at_ms": 1_760_000_000_000}
    feed = await opened(store, "m")
    for more in ({}, {"content_id": "c1"}):
        await raw(store, msgspec.msgpack.encode(entry | more))
    old, new = (item for item in await drained(feed) if isinstance(item, FeedNotification))
    assert (old.content_id, new.content_id) == (None, "c1")
    assert (old.type, old.order_id, old.data) == ("REFUND", "order_1", [1])


async def test_additions_of_later_versions_are_ignored(store: RedisStore) -> None:
    """An unknown field is left out; an entry of an unknown kind is skipped."""
    snapshot = await commit_events(store, await begin(store, "order_1"), 1)
    key = store.keys.events(store.keys.partition("order_1"))
    ((_, fields),) = await store.link.command("XRANGE", key, "-", "+")
    kept = msgspec.msgpack.decode(fields[1])
    await raw(store, msgspec.msgpack.encode(kept | {"request_id": "2", "mood": "good"}))
    await raw(store, msgspec.msgpack.encode({"kind": "dispute", "payment_id": "order_1.1"}))
    await commit_events(store, snapshot, 1, 3)
    found = await handled(await opened(store, "m"))
    assert (numbers(found), lost(found)) == ([1, 2, 3], [])


async def test_a_server_that_lost_its_last_entries_causes_no_gap(store: RedisStore) -> None:
    """Entries that the consumer has and the server has lost are not counted."""
    snapshot = await commit_events(store, await begin(store, "order_1"), 5)
    feed = await opened(store, "m")
    assert len(await drained(feed)) == 5
    place = store.keys.partition("order_1")
    rows = await store.link.command("XRANGE", store.keys.events(place), "-", "+")
    await store.link.command("XDEL", store.keys.events(place), *(name for name, _ in rows[3:]))
    await commit_events(store, snapshot, 2, 6)
    found = await handled(feed)
    assert (numbers(found), lost(found)) == ([6, 7], [])
    packed = await store.link.command("HGET", store.keys.groups(place), "mailer")
    assert msgspec.msgpack.decode(packed)[4] == 5


async def test_gaps_and_events_add_up_while_many_write(redis_url: str) -> None:
    """Four payments in one partition write faster than the consumer reads."""
    store = RedisStore(redis_url, namespace="one", partitions=1, feed_max=16)
    await store.open()
    feed = await opened(store, "m", batch=3)
    found = []

    async def read() -> None:
        for _ in range(40):
            event = await feed.poll()
            await asyncio.sleep(0.005)
            if event is not None:
                found.append(event)
                await feed.ack(event)

    await asyncio.gather(read(), *(write(store, f"order_{i}", 600, 20) for i in range(4)))
    found += await handled(feed)
    assert lost(found)
    assert sum(lost(found)) + sum(isinstance(event, FeedEvent) for event in found) == 2_400
    for i in range(4):
        read_numbers = numbers(found, f"order_{i}")
        assert read_numbers == sorted(set(read_numbers))
    await store.aclose()


async def test_a_read_asks_each_partition_once(store: RedisStore, valkey_server: Server) -> None:
    """All 64 in one pipeline, and in another one to lease them. Further events cost nothing."""
    await commit_events(store, await begin(store, "order_1"), 3)
    feed = await opened(store, "m")
    monitor = Monitor(valkey_server)
    for _ in range(3):
        await next_event(feed)
    assert monitor.seen() == ["evalsha"] * 128
    assert await feed.poll() is None
    assert monitor.seen() == ["evalsha"] * 64
    monitor.close()


async def test_an_acknowledgement_is_one_round_trip(
    store: RedisStore, valkey_server: Server
) -> None:
    """The first one after a read too."""
    await commit_events(store, await begin(store, "order_1"), 3)
    feed = await opened(store, "m")
    monitor = Monitor(valkey_server)
    for event in await drained(feed):
        monitor.seen()
        await feed.ack(event)
        assert monitor.seen() == ["evalsha"]
    monitor.close()


async def test_a_read_is_one_round_trip_per_node(cluster_url: str, trips: list[str]) -> None:
    """One goes to each master, and another one to lease: slots share no command."""
    store = RedisStore(cluster_url)
    await store.open()
    feed = await opened(store, "m")
    for each in (2, 1, 1):
        trips.clear()
        assert await feed.poll() is None
        assert sorted(trips) == sorted([*set(trips)] * each)
        assert len(set(trips)) == 3
    await store.aclose()


async def test_an_idle_consumer_rests(store: RedisStore, valkey_server: Server) -> None:
    """Without entries it reads now and then, and renews its lease only when it must."""
    valkey_server.run("CONFIG", "RESETSTAT")
    async with Feed(store, "mailer", idle_s=0.2) as feed:
        assert await feed.poll() is None
        calls = valkey_server.calls()
        assert (calls["hset"], calls["zadd"]) == (128, 1)
        valkey_server.run("CONFIG", "RESETSTAT")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.1):
                await anext(feed)
        calls = valkey_server.calls()
    assert 3 <= calls["evalsha"] / 64 <= 7
    assert not {"hset", "hdel", "zadd", "zrem", "del"} & calls.keys()


async def test_a_store_that_is_down_is_unavailable_to_readers(tmp_path: Path) -> None:
    """Reading and acknowledging raise; leaving the feed does not wait for the server."""
    with running(Server(valkey_binary(), tmp_path / "own")) as server:
        store = RedisStore(server.url, deadline_s=0.5)
        await store.open()
        await commit_events(store, await begin(store, "order_1"), 1)
        async with Feed(store, "mailer") as feed:
            event = await next_event(feed)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await feed.ack(event)
            with pytest.raises(StoreUnavailable):
                await feed.poll()
        await store.aclose()


async def test_two_loops_on_one_feed_get_different_events() -> None:
    """A mistake that loses the order of events, but no event."""
    store = MemoryStore()
    await commit_events(store, await begin(store, "order_1"), 10)
    async with Feed(store, "mailer") as feed:
        found = await asyncio.gather(*(feed.poll() for _ in range(12)))
    assert numbers([event for event in found if event is not None]) == list(range(1, 11))


async def test_a_feed_is_read_inside_its_block() -> None:
    """Before and after it, nothing is leased."""
    feed = Feed(MemoryStore(), "mailer")
    with pytest.raises(InvalidInput, match="async with"):
        await feed.poll()
    async with feed:
        assert await feed.poll() is None
    with pytest.raises(InvalidInput, match="async with"):
        await feed.poll()


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 129, "a\n", "{1}", None, 7])
def test_names_that_could_be_mistaken_are_refused(name: Any) -> None:
    """Of groups and of consumers."""
    with pytest.raises(InvalidInput, match="group"):
        Feed(MemoryStore(), name)
    if name not in {"", None}:
        with pytest.raises(InvalidInput, match="consumer"):
            Feed(MemoryStore(), "mailer", consumer=name)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("start", "newest"),
        ("lease_s", 0),
        ("lease_s", 3601),
        ("lease_s", float("nan")),
        ("lease_s", True),
        ("lease_s", "30"),
        ("batch", 0),
        ("batch", 10_001),
        ("idle_s", 0),
        ("idle_s", float("inf")),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: str, value: Any) -> None:
    """A feed that never sleeps, or leases for a moment, is a mistake."""
    with pytest.raises(InvalidInput, match=setting):
        Feed(MemoryStore(), "mailer", **{setting: value})


@pytest.mark.parametrize(
    "event",
    [
        None,
        "1:1-0:1",
        FeedGap(id="", partition=0, lost=1),
        FeedGap(id="0:1-0:1", partition=0, lost=1),
    ],
)
async def test_an_item_that_was_not_handed_out_is_not_acknowledged(event: Any) -> None:
    """Neither a text nor an event made by hand changes a group's position."""
    async with Feed(MemoryStore(), "mailer") as feed:
        with pytest.raises(InvalidInput):
            await feed.ack(event)
