"""Stores that go by the local gateway's clock, so that a test skips time for both at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

import pytest
from redis import Redis

from cfflow.store.clock import monotonic_ms
from cfflow.store.embedded import EmbeddedServer
from cfflow.store.memory.store import MemoryStore
from cfflow.store.redis import link as redis_link
from cfflow.store.redis.store import RedisStore
from cfflow.testing.cashfree import LocalClock

__all__ = ["GatewayTimeStore", "embedded_store"]

#: Where a server keeps how much time was skipped, and the words of the script that ask for it.
_SKIPPED: Final = "cfflow_testing:skipped_ms"
_NOW: Final = "return time[1] * 1000 + math.floor(time[2] / 1000)"
#: Fewer than usual: opening a new store touches each of them.
_PARTITIONS: Final = 4

_numbers = count(1)


class GatewayTimeStore(MemoryStore):
    """A store in memory whose time is the gateway's. now_s: seconds since the epoch."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        super().__init__()

    def now_ms(self) -> int:
        """Return the gateway's time."""
        return round(self._now_s() * 1000)


@contextmanager
def embedded_store(server: EmbeddedServer, clock: LocalClock) -> Iterator[RedisStore]:
    """An empty store on a running embedded server, whose time is skipped with the gateway's.

    Time is the server's own, asked for inside the script; meanwhile the script of this
    process adds what was skipped. The store is the caller's to open and to close.
    """
    store = RedisStore(server.url, namespace=f"test{next(_numbers)}", partitions=_PARTITIONS)
    script = redis_link.SCRIPT.replace(_NOW, f"{_NOW} + (redis.call('GET', '{_SKIPPED}') or 0)")
    if script == redis_link.SCRIPT:
        raise RuntimeError("cfflow.lua asks for the time in other words now")
    sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    with (
        pytest.MonkeyPatch.context() as patch,
        Redis(unix_socket_path=server.url.removeprefix("unix://")) as client,
    ):
        patch.setattr(redis_link, "SCRIPT", script)
        patch.setattr(redis_link, "SHA", sha)

        def follow(skipped_s: float) -> None:
            skipped_ms = round(skipped_s * 1000)
            client.set(_SKIPPED, skipped_ms)
            asked_at_ms = monotonic_ms()
            seconds, microseconds = client.time()
            now_ms = seconds * 1000 + microseconds // 1000 + skipped_ms
            store.link.clock.heard(now_ms, asked_at_ms, monotonic_ms())

        clock.follow(follow)
        yield store
