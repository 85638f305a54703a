"""Every store passes the same suite: memory, Redis 7.0, Valkey, a cluster, a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

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


class TestMemoryStoreWithAFakeClock(TestMemoryStore):
    """The store in memory, on a clock that is moved by hand."""

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

    async def restart(self, store: RedisStore) -> None:
        """Write another history of data into it; a real restart would be slower."""
        for place in range(self.partitions):
            await store.link.command("HSET", store.keys.run(place), "run", "another")


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


class TestEmbedded(RedisSuite):
    """The server of a folder, through its socket."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[RedisStore]:
        """An empty store."""
        async for store in _opened(EmbeddedStore(tmp_path, feed_max=FEED_MAX)):
            yield store
