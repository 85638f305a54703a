"""Stores that go by the local gateway's clock, so that a test skips time for both at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

from redis import Redis

from cfflow.store.clock import monotonic_ms
from cfflow.store.embedded import EmbeddedServer
from cfflow.store.memory.store import MemoryStore
from cfflow.store.redis.scripts import Adapt
from cfflow.store.redis.store import RedisStore
from cfflow.testing.cashfree import LocalClock

#: The key under which a server keeps how many milliseconds were skipped.
SKIPPED_MS_KEY: Final = "cfflow_testing:skipped_ms"
#: How the script reads the server's clock.
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


def script_with_skipped_time() -> Adapt:
    """Return what lets the store's scripts go by a clock `SKIPPED_MS_KEY` ahead of the server's.

    Leases and wake times go by the server's own clock, which the scripts read. So a test
    cannot skip time without scripts of its own.
    """

    def adapt(text: str) -> str:
        changed = text.replace(_NOW, f"{_NOW} + (redis.call('GET', '{SKIPPED_MS_KEY}') or 0)")
        if changed == text:
            raise RuntimeError("common.lua has another way to read the clock now: change _NOW")
        return changed

    return adapt


@contextmanager
def embedded_store(server: EmbeddedServer, clock: LocalClock) -> Iterator[RedisStore]:
    """Give an empty store on a running embedded server; its time is skipped with the gateway's.

    The caller opens and closes the store.
    """
    store = RedisStore(
        server.url,
        namespace=f"test{next(_numbers)}",
        partitions=_PARTITIONS,
        script=script_with_skipped_time(),
    )
    with Redis(unix_socket_path=server.url.removeprefix("unix://")) as client:

        def follow(skipped_s: float) -> None:
            skipped_ms = round(skipped_s * 1000)
            client.set(SKIPPED_MS_KEY, skipped_ms)
            asked_at_ms = monotonic_ms()
            seconds, microseconds = client.time()
            now_ms = seconds * 1000 + microseconds // 1000 + skipped_ms
            # The store's copy of the clock: without this it is behind until the next command.
            store.link.clock.adjust(now_ms, asked_at_ms, monotonic_ms())

        clock.follow(follow)
        yield store
