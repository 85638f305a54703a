"""The feed in memory: partitions, and how far groups have read them, as in script.lua."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from cfflow.feed.protocol import Member, PartitionRead, Position, Start

_PARTITIONS: Final = 4
#: For a group that does not acknowledge, `feed_max` times this many entries are kept at most.
_UNREAD_MAX: Final = 10


class _Group(msgspec.Struct):
    """A group in one partition: the last position acknowledged, and who has the lease."""

    acknowledged: Position
    consumer: str = ""
    session: int = 0
    until_at_ms: int = 0

    def is_leased_to(self, member: Member) -> bool:
        return (self.consumer, self.session) == (member.consumer, member.session)


class _Partition(msgspec.Struct):
    entries: list[tuple[str, bytes]] = []
    trimmed: int = 0
    groups: dict[str, _Group] = {}

    @property
    def written(self) -> int:
        return self.trimmed + len(self.entries)


class MemoryFeed:
    """The `FeedStore` of a `MemoryStore`, on its clock."""

    def __init__(self, now_ms: Callable[[], int], *, feed_max: int = 1_000) -> None:
        self._now_ms = now_ms
        self._feed_max = feed_max
        self._partitions = [_Partition() for _ in range(_PARTITIONS)]
        self._alive_until_at_ms: dict[str, dict[str, int]] = {}

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        return _PARTITIONS

    def append(self, order_id: str, entries: Sequence[bytes]) -> None:
        """Write entries, and drop those that every group has acknowledged or that are too many."""
        partition = self._partitions[zlib.crc32(order_id.encode()) % _PARTITIONS]
        for entry in entries:
            partition.entries.append((f"{partition.written + 1}-0", entry))
        groups = partition.groups.values()
        lowest = min((group.acknowledged.number for group in groups), default=math.inf)
        kept = max(self._feed_max, partition.written - lowest)
        dropped = len(partition.entries) - min(kept, self._feed_max * _UNREAD_MAX)
        if dropped > 0:
            del partition.entries[: int(dropped)]
            partition.trimmed += int(dropped)

    async def join(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group in every partition if it is new; return its living consumers."""
        for partition in self._partitions:
            position = Position("0-0", partition.trimmed)
            if start == "now" and partition.entries:
                position = Position(partition.entries[-1][0], partition.written)
            partition.groups.setdefault(member.group, _Group(position))
        return self._living(member)

    async def read(
        self, member: Member, positions: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, PartitionRead]]:
        """Lease partitions, and read the entries after these positions."""
        reads = {p: self._read(member, p, position, count) for p, position in positions.items()}
        return self._living(member), reads

    def _read(
        self, member: Member, number: int, position: Position | None, count: int
    ) -> PartitionRead:
        partition, now_ms = self._partitions[number], self._now_ms()
        group = partition.groups.get(member.group)
        if group is None:
            return PartitionRead("gone")
        same = group.consumer == member.consumer and group.session <= member.session
        if not same and group.until_at_ms > now_ms:
            return PartitionRead("held")
        had_lease = group.is_leased_to(member)
        group.consumer, group.session = member.consumer, member.session
        group.until_at_ms = now_ms + member.lease_ms
        start = position if position is not None and had_lease else group.acknowledged
        first = max(start.number - partition.trimmed, 0)
        found = tuple(partition.entries[first : first + count])
        skipped_to = partition.trimmed + first
        return PartitionRead("ok" if had_lease else "taken", start, skipped_to, found)

    async def ack(self, member: Member, partition: int, position: Position) -> bool:
        """Acknowledge all entries up to a position; False if another consumer has the lease."""
        group = self._partitions[partition].groups.get(member.group)
        if group is None or not group.is_leased_to(member):
            return False
        if position.is_after(group.acknowledged):
            group.acknowledged = position
            group.until_at_ms = self._now_ms() + member.lease_ms
        return True

    async def leave(self, member: Member, partitions: Sequence[int], *, leaves_group: bool) -> None:
        """Give partitions back. With `leaves_group`, the consumer leaves the group too."""
        for partition in partitions:
            group = self._partitions[partition].groups.get(member.group)
            if group is not None and group.is_leased_to(member):
                group.consumer, group.until_at_ms = "", 0
        if leaves_group:
            self._alive_until_at_ms.get(member.group, {}).pop(member.consumer, None)

    async def forget(self, group: str) -> None:
        """Remove a group: what it has acknowledged, its leases and its consumers."""
        self._alive_until_at_ms.pop(group, None)
        for partition in self._partitions:
            partition.groups.pop(group, None)

    def _living(self, member: Member) -> Sequence[str]:
        """Let the member count as alive for one lease; return the group's living consumers."""
        if member.group not in self._partitions[0].groups:
            return []
        now_ms = self._now_ms()
        alive = self._alive_until_at_ms.setdefault(member.group, {})
        alive[member.consumer] = now_ms + member.lease_ms
        for name in [name for name, until_at_ms in alive.items() if until_at_ms <= now_ms]:
            del alive[name]
        return list(alive)
