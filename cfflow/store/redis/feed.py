"""How far groups have read the feed, in Redis: the `feed_` commands of script.lua."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cfflow.feed.protocol import Member, PartitionRead, Position, Start
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink

Call = tuple[Sequence[str], Sequence[Any]]


class RedisFeed:
    """The `FeedStore` of a `RedisStore`. Each call is one round trip per node."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys: Final = keys

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        return self._keys.partitions

    async def join(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group in every partition if it is new; return its living consumers."""
        calls: list[Call] = [
            (self._stream(partition), ("feed_register", member.group, start))
            for partition in range(self.partitions)
        ]
        replies = await self._link.scripts([*calls, self._join_call(member)])
        return _names(replies[-1])

    async def read(
        self, member: Member, positions: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, PartitionRead]]:
        """Lease partitions, and read the entries after these positions."""
        calls: list[Call] = [
            (
                self._stream(partition),
                (
                    "feed_read",
                    *_session(member),
                    member.lease_ms,
                    count,
                    position.id if position else "",
                    position.number if position else 0,
                ),
            )
            for partition, position in positions.items()
        ]
        replies = await self._link.scripts([self._join_call(member), *calls])
        reads = map(_partition_read, replies[1:])
        return _names(replies[0]), dict(zip(positions, reads, strict=True))

    async def ack(self, member: Member, partition: int, position: Position) -> bool:
        """Acknowledge all entries up to a position; False if another consumer has the lease."""
        keys = (self._keys.groups(partition),)
        args = ("feed_ack", *_session(member), member.lease_ms, position.id, position.number)
        reply = await self._link.script(keys, args)
        return bool(reply[0] == b"ok")

    async def leave(self, member: Member, partitions: Sequence[int], *, leaves_group: bool) -> None:
        """Give partitions back. With `leaves_group`, the consumer leaves the group too."""
        home = self._keys.home(member.group) if leaves_group else None
        touched = sorted({*partitions} | ({home} if home is not None else set()))
        args = ("feed_leave", *_session(member))
        await self._link.scripts([(self._keys_of(member.group, p, home), args) for p in touched])

    async def forget(self, group: str) -> None:
        """Remove a group: what it has acknowledged, its leases and its consumers."""
        home = self._keys.home(group)
        args = ("feed_forget", group)
        calls = [(self._keys_of(group, p, home), args) for p in range(self.partitions)]
        await self._link.scripts(calls)

    def _stream(self, partition: int) -> Sequence[str]:
        return self._keys.groups(partition), self._keys.events(partition)

    def _keys_of(self, group: str, partition: int, home: int | None) -> Sequence[str]:
        """Return the key of a partition's groups; in `home` also that of the group's consumers."""
        groups = self._keys.groups(partition)
        return (groups, self._keys.readers(group)) if partition == home else (groups,)

    def _join_call(self, member: Member) -> Call:
        keys = (self._keys.groups(self._keys.home(member.group)), self._keys.readers(member.group))
        return keys, ("feed_join", member.group, member.consumer, member.lease_ms)


def _session(member: Member) -> tuple[str, str, int]:
    return member.group, member.consumer, member.session


def _names(reply: Sequence[Any]) -> list[str]:
    return [name.decode() for name in reply[2]]


def _partition_read(reply: Sequence[Any]) -> PartitionRead:
    status = reply[0].decode()
    if status not in {"ok", "taken"}:
        return PartitionRead(status)
    identifier, number, skipped_to, found = reply[2:6]
    entries = tuple((name.decode(), fields[1]) for name, fields in found)
    start = Position(identifier.decode(), int(number))
    return PartitionRead(status, start, int(skipped_to), entries)
