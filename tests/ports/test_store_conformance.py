"""Every store passes the same suite: memory, Redis 7.0, Valkey, a cluster, a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import pytest
from redis.asyncio import RedisCluster

from cfflow.store.embedded import EmbeddedStore
from cfflow.store.redis.store import RedisStore
from cfflow.testing import FakeClock, MemoryStore, StoreConformance

#: Few, so that the tests of trimming need not write thousands of events.
FEED_MAX: Final = 16


class TestMemoryStore(StoreConformance):
    """The store in memory, on real time."""

    feed_max = FEED_MAX

    @pytest.fixture
    def store(self) -> MemoryStore:
        """An empty store."""
        return MemoryStore(feed_max=FEED_MAX)

    async def events_of(self, store: MemoryStore) -> Sequence[bytes]:
        """Its feed is a list."""
        return store.events

    async def restart(self, store: MemoryStore) -> None:
        """It has a method for that."""
        store.restarted()

    async def make_due(self, store: MemoryStore, name: str) -> None:
        """Its wake times are a dictionary."""
        store._wakes[name] = 1


class TestMemoryStoreWithAFakeClock(TestMemoryStore):
    """The store in memory, on a clock that is moved by hand."""

    moves_clock = True

    @pytest.fixture
    def store(self) -> MemoryStore:
        """An empty store on a clock that stands still."""
        return MemoryStore(FakeClock(), feed_max=FEED_MAX)

    async def later(self, store: Any, seconds: float) -> None:
        """Move the clock."""
        store.clock.advance(seconds)


class RedisSuite(StoreConformance):
    """The suite on Redis stores."""

    partitions = 64
    feed_max = FEED_MAX

    async def events_of(self, store: RedisStore) -> Sequence[bytes]:
        """Its feed is a stream in each partition."""
        found = []
        for place in range(self.partitions):
            for _, fields in await store.link.command("XRANGE", store.keys.events(place), "-", "+"):
                found.append(fields[1] if isinstance(fields, list) else fields[b"e"])
        return found

    def partition_of(self, store: RedisStore, order_id: str) -> int:
        """It depends on the number of partitions only."""
        return store.keys.partition(order_id)

    async def restart(self, store: RedisStore) -> None:
        """Let the server begin another history of its data, as each promotion of a replica does."""
        await store.link.command("REPLICAOF", "127.0.0.1", "1")
        await store.link.command("REPLICAOF", "NO", "ONE")

    async def make_due(self, store: RedisStore, name: str) -> None:
        """Write into the wake index of its partition."""
        await store.link.command("ZADD", store.keys.wake(store.keys.partition(name)), 1, name)

    async def much_later(self, store: RedisStore, milliseconds: int) -> None:
        """Bring every end that these tests wait for so much nearer."""
        keys, partition = store.keys, store.keys.partition("order_1")
        for key in (keys.marker("order_1"), keys.seen(partition, "c1")):
            left_ms = await store.link.command("PTTL", key)
            if left_ms > 0:
                await store.link.command("PEXPIRE", key, left_ms - milliseconds)
        await store.link.command("HINCRBY", keys.run(partition), "since", -milliseconds)


async def _opened(store: RedisStore) -> AsyncIterator[RedisStore]:
    await store.open()
    yield store
    await store.aclose()


class TestRedis7(RedisSuite):
    """Debian's Redis 7.0."""

    @pytest.fixture
    async def store(self, redis7_url: str) -> AsyncIterator[RedisStore]:
        """An empty store."""
        async for store in _opened(RedisStore(redis7_url, feed_max=FEED_MAX)):
            yield store


class TestValkey(RedisSuite):
    """Valkey, through TCP."""

    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncIterator[RedisStore]:
        """An empty store."""
        async for store in _opened(RedisStore(redis_url, feed_max=FEED_MAX)):
            yield store


class TestOnePartition(TestValkey):
    """The smallest number of partitions; nothing depends on 64."""

    partitions = 1

    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncIterator[RedisStore]:
        """An empty store."""
        one = RedisStore(redis_url, namespace="other", partitions=1, feed_max=FEED_MAX)
        async for store in _opened(one):
            yield store


class TestCluster(RedisSuite):
    """Three masters, named by a plain redis:// URL of one of them."""

    @pytest.fixture
    async def store(self, cluster_url: str) -> AsyncIterator[RedisStore]:
        """An empty store."""
        async for store in _opened(RedisStore(cluster_url, feed_max=FEED_MAX)):
            assert store.link.is_cluster
            yield store

    async def restart(self, store: RedisStore) -> None:
        """Let each master begin another history of its data; in a cluster none can be demoted."""
        for node in cast("RedisCluster", store.link.client).get_primaries():
            await node.execute_command("DEBUG", "CHANGE-REPL-ID")


class TestEmbedded(RedisSuite):
    """The server of a folder, through its socket."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[RedisStore]:
        """An empty store."""
        async for store in _opened(EmbeddedStore(tmp_path, feed_max=FEED_MAX)):
            yield store

    async def restart(self, store: RedisStore) -> None:
        """Let it be a server that may lose commits first: this one writes each to its disk."""
        for partition in range(store.keys.partitions):
            await store.link.command("HDEL", store.keys.run(partition), "keeps_every_commit")
        await super().restart(store)
