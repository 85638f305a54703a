"""The feed's readers in Redis: the `feed_` functions of cfflow.lua, one round trip per node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cfflow.feed.protocol import Member, Portion, Position, Start
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink

__all__ = ["RedisFeed"]

Call = tuple[Sequence[str], Sequence[Any]]


class RedisFeed:
    """What groups have read of the streams that commits write."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys: Final = keys

    @property
    def partitions(self) -> int:
        """How many parts the feed has, each of them ordered."""
        return self._keys.partitions

    async def enter(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group everywhere if it is new; return its living consumers."""
        calls: list[Call] = [
            (self._stream(place), ("feed_register", member.group, start))
            for place in range(self.partitions)
        ]
        answers = await self._link.scripts([*calls, self._join(member)])
        return _names(answers[-1])

    async def read(
        self, member: Member, marks: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, Portion]]:
        """Lease these partitions and read on behind the marks; None is the group's own."""
        calls: list[Call] = [
            (
                self._stream(place),
                (
                    "feed_read",
                    *_named(member),
                    member.lease_ms,
                    count,
                    mark.id if mark else "",
                    mark.seen if mark else 0,
                ),
            )
            for place, mark in marks.items()
        ]
        answers = await self._link.scripts([self._join(member), *calls])
        portions = map(_portion, answers[1:])
        return _names(answers[0]), dict(zip(marks, portions, strict=True))

    async def ack(self, member: Member, partition: int, mark: Position) -> bool:
        """Be done with everything up to a mark; False if somebody else has the partition."""
        keys = (self._keys.groups(partition),)
        args = ("feed_ack", *_named(member), member.lease_ms, mark.id, mark.seen)
        answer = await self._link.script(keys, args)
        return bool(answer[0] == b"ok")

    async def leave(self, member: Member, partitions: Sequence[int], *, wholly: bool) -> None:
        """Give partitions back; `wholly`: this consumer is alive no more."""
        home = self._keys.home(member.group) if wholly else None
        places = sorted({*partitions} | ({home} if home is not None else set()))
        named = ("feed_leave", *_named(member))
        await self._link.scripts([(self._parts(member.group, p, home), named) for p in places])

    async def forget(self, group: str) -> None:
        """Forget a group: what it has read, and who reads."""
        home = self._keys.home(group)
        places = range(self.partitions)
        calls = [(self._parts(group, place, home), ("feed_forget", group)) for place in places]
        await self._link.scripts(calls)

    def _stream(self, place: int) -> Sequence[str]:
        return self._keys.groups(place), self._keys.events(place)

    def _parts(self, group: str, place: int, home: int | None) -> Sequence[str]:
        own = self._keys.groups(place)
        return (own, self._keys.readers(group)) if place == home else (own,)

    def _join(self, member: Member) -> Call:
        keys = (self._keys.groups(self._keys.home(member.group)), self._keys.readers(member.group))
        return keys, ("feed_join", member.group, member.consumer, member.lease_ms)


def _named(member: Member) -> tuple[str, str, int]:
    return member.group, member.consumer, member.session


def _names(answer: Sequence[Any]) -> list[str]:
    return [name.decode() for name in answer[2]]


def _portion(answer: Sequence[Any]) -> Portion:
    status = answer[0].decode()
    if status not in {"ok", "taken"}:
        return Portion(status)
    identifier, seen, before, found = answer[2:6]
    entries = tuple((name.decode(), fields[1]) for name, fields in found)
    return Portion(status, Position(identifier.decode(), int(seen)), int(before), entries)
