"""The rate budget's ledger in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cfflow.core.observation import Call
from cfflow.limits.ledger import Balance, Entry
from cfflow.store.clock import monotonic_ms
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink

_encode = msgspec.msgpack.Encoder().encode


class RedisLedger:
    """Keeps each class's book under one key; an entry is one run of the script, at server time."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    def clock_s(self) -> float:
        """Return this process's monotonic clock in seconds."""
        return monotonic_ms() / 1000

    async def settle(self, call: Call, entry: Entry) -> Balance:
        """Write an entry into the book of a class of calls. Raises `StoreError`."""
        args: Sequence[object] = ("budget", _encode(entry))
        reply = await self._link.script([self._keys.budget(call)], args)
        granted, wait_ms, blocked_ms = (int(number) for number in reply[2:5])
        return Balance(granted, wait_ms, blocked_ms)
