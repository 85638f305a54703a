"""The rate budget's books in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cfflow.core.observation import Call
from cfflow.limits.ledger import Balance, Entry
from cfflow.store.clock import monotonic_ms
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink

__all__ = ["RedisLedger"]

_encode = msgspec.msgpack.Encoder().encode


class RedisLedger:
    """The books in Redis: one script on one key for each entry, at the server's own time."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    def clock_s(self) -> float:
        """Return this process's monotonic clock."""
        return monotonic_ms() / 1000

    async def settle(self, call: Call, entry: Entry) -> Balance:
        """Write an entry into a class's book; raises `StoreError`."""
        asked: Sequence[object] = ("budget", _encode(entry))
        answer = await self._link.script([self._keys.budget(call)], asked)
        granted, wait_ms, blocked_ms = (int(number) for number in answer[2:5])
        return Balance(granted, wait_ms, blocked_ms)
