"""The rate budget's ledger in Redis, shared by all processes."""

from __future__ import annotations

from typing import Final

import msgspec

from cfflow.core.observation import Call
from cfflow.errors import StoreError, StoreUnavailable
from cfflow.limits.ledger import Balance, Book, Entry, Use, settle, use_of
from cfflow.store.clock import monotonic_ms
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink

#: Each try that fails is a write of another process, so only a server that does not keep what was
#: written comes to so many. Eight processes that wrote without a pause needed 117 at most.
_TRIES_MAX: Final = 1_000

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Book)


class RedisLedger:
    """Keeps each class's book under one key: `settle` computes the next one, and swaps it in.

    If no other process has written the book since this one saw it, that is one round trip. After
    a conflict the next try starts from the book that came back, at once: with a random pause, eight
    processes under full load starved some of them for four seconds, without one for 0.2.

    A process computes with the server's time as it has measured it. The error is half a round
    trip at most, a part of the second that each permit has for its way to the gateway.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        # The newest bytes of each book that this process has seen. Older ones cost one try.
        self._newest: dict[Call, bytes] = {}

    def clock_s(self) -> float:
        """Return this process's monotonic clock in seconds."""
        return monotonic_ms() / 1000

    async def settle(self, call: Call, entry: Entry) -> Balance:
        """Write an entry into the book of a class of calls. Raises `StoreError`."""
        for _ in range(_TRIES_MAX):
            old = self._newest.get(call, b"")
            book = _book(old)
            balance = settle(book, entry, self._link.clock.now_ms())
            new = _encode(book)
            # The key ends soon after nothing in it counts; the second is for clocks that differ.
            ttl_ms = max(entry.keep_ms, balance.blocked_ms) + 1_000
            args = ("swap", old, new, ttl_ms)
            reply = await self._link.script([self._keys.budget(call)], args)
            if reply[0] == b"ok":
                self._newest[call] = new
                return balance
            self._newest[call] = reply[2]
        raise StoreUnavailable(f"the rate budget of {call} changes faster than it can be written")

    async def use(self, call: Call) -> Use:
        """Return how much of a class was used. Raises `StoreError`."""
        blob = await self._link.command("GET", self._keys.budget(call))
        return use_of(_book(blob or b""), self._link.clock.now_ms())


def _book(blob: bytes) -> Book:
    try:
        return _decoder.decode(blob) if blob else Book()
    except msgspec.MsgspecError as error:
        raise StoreError(f"a stored rate budget does not decode: {error}") from None
