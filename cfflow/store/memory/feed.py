"""The feed in memory: streams in parts, and what groups have read of them, as in cfflow.lua."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from cfflow.feed.protocol import Member, Portion, Position, Start

__all__ = ["MemoryFeed"]

#: A group that has not acknowledged keeps so many times `feed_max` entries at most.
_HARD: Final = 10


class _Held(msgspec.Struct):
    """What a group knows of a partition: where it is, and who reads until when."""

    mark: Position
    consumer: str = ""
    session: int = 0
    until_ms: int = 0

    def is_of(self, member: Member) -> bool:
        return (self.consumer, self.session) == (member.consumer, member.session)


class _Part(msgspec.Struct):
    entries: list[tuple[str, bytes]] = []
    trimmed: int = 0
    groups: dict[str, _Held] = {}

    @property
    def written(self) -> int:
        return self.trimmed + len(self.entries)


class MemoryFeed:
    """The feed of a `MemoryStore`, on its clock, in a few partitions."""

    def __init__(
        self, now_ms: Callable[[], int], *, partitions: int = 4, feed_max: int = 1_000
    ) -> None:
        self._now_ms = now_ms
        self._feed_max = feed_max
        self._parts = [_Part() for _ in range(partitions)]
        self._alive: dict[str, dict[str, int]] = {}

    @property
    def partitions(self) -> int:
        """How many parts the feed has, each of them ordered."""
        return len(self._parts)

    def append(self, order_id: str, events: Sequence[bytes]) -> None:
        """Write what a commit tells; drop what nobody needs, or what is far too much."""
        part = self._parts[zlib.crc32(order_id.encode()) % self.partitions]
        for event in events:
            part.entries.append((f"{part.written + 1}-0", event))
        lowest = min((held.mark.seen for held in part.groups.values()), default=math.inf)
        unseen = max(self._feed_max, part.written - lowest)
        gone = len(part.entries) - min(unseen, self._feed_max * _HARD)
        if gone > 0:
            del part.entries[: int(gone)]
            part.trimmed += int(gone)

    async def enter(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group everywhere if it is new; return its living consumers."""
        for part in self._parts:
            mark = Position("0-0", part.trimmed)
            if start == "now" and part.entries:
                mark = Position(part.entries[-1][0], part.written)
            part.groups.setdefault(member.group, _Held(mark))
        return self._join(member)

    async def read(
        self, member: Member, marks: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, Portion]]:
        """Lease these partitions and read on behind the marks; None is the group's own."""
        portions = {place: self._read(member, place, marks[place], count) for place in marks}
        return self._join(member), portions

    def _read(self, member: Member, place: int, mark: Position | None, count: int) -> Portion:
        part, now_ms = self._parts[place], self._now_ms()
        held = part.groups.get(member.group)
        if held is None:
            return Portion("gone")
        again = held.consumer == member.consumer and held.session <= member.session
        if not again and held.until_ms > now_ms:
            return Portion("held")
        status = "ok" if held.is_of(member) else "taken"
        held.consumer, held.session = member.consumer, member.session
        held.until_ms = now_ms + member.lease_ms
        since = mark if mark is not None and status == "ok" else held.mark
        first = max(since.seen - part.trimmed, 0)
        found = tuple(part.entries[first : first + count])
        return Portion("ok" if status == "ok" else "taken", since, part.trimmed + first, found)

    async def ack(self, member: Member, partition: int, mark: Position) -> bool:
        """Be done with everything up to a mark; False if somebody else has the partition."""
        held = self._parts[partition].groups.get(member.group)
        if held is None or not held.is_of(member):
            return False
        if mark.is_behind(held.mark):
            held.mark = mark
            held.until_ms = self._now_ms() + member.lease_ms
        return True

    async def leave(self, member: Member, partitions: Sequence[int], *, wholly: bool) -> None:
        """Give partitions back; `wholly`: this consumer is alive no more."""
        for place in partitions:
            held = self._parts[place].groups.get(member.group)
            if held is not None and held.is_of(member):
                held.consumer, held.until_ms = "", 0
        if wholly:
            self._alive.get(member.group, {}).pop(member.consumer, None)

    async def forget(self, group: str) -> None:
        """Forget a group: what it has read, and who reads."""
        self._alive.pop(group, None)
        for part in self._parts:
            part.groups.pop(group, None)

    def _join(self, member: Member) -> Sequence[str]:
        if member.group not in self._parts[0].groups:
            return []
        now_ms = self._now_ms()
        alive = self._alive.setdefault(member.group, {})
        alive[member.consumer] = now_ms + member.lease_ms
        for name in [name for name, until_ms in alive.items() if until_ms <= now_ms]:
            del alive[name]
        return list(alive)
