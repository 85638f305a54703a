"""What a store must do for the feed's readers, and the entries it hands out.

A group of consumers reads the feed together. The store keeps for each group and partition
how far it has read and whose turn it is: a lease on the whole partition, because two
consumers of one partition would lose the order of a payment's events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

__all__ = ["FeedKeeper", "FeedStore", "Member", "Portion", "Position", "Start"]

Start = Literal["oldest", "now"]


class Position(msgspec.Struct, frozen=True):
    """A place in a partition's stream: an entry's id, and which one it is, counted from 1.

    The count tells how many were missed where ids cannot; a gap has the id of what was
    read before it, and the count of the last entry that is missing.
    """

    id: str
    seen: int

    def is_behind(self, other: Position) -> bool:
        """Say whether this place comes later in the stream."""
        return self._order() > other._order()

    def _order(self) -> tuple[int, int, int]:
        at, _, n = self.id.partition("-")
        return int(at), int(n), self.seen


_ORIGIN: Final = Position("0-0", 0)


class Member(msgspec.Struct, frozen=True):
    """A consumer of a group, in one of its lives: of one name, the newer session wins."""

    group: str
    consumer: str
    session: int
    lease_ms: int


class Portion(msgspec.Struct, frozen=True):
    """The answer to a read of one partition.

    `ok`: its lease is still ours. `taken`: ours from now on, to be read from the last
    acknowledged entry. `held`: somebody else's. `gone`: nobody knows the group any more.
    `since` is where the entries begin, `before` how many entries of the partition stand
    before the first of them: more than were seen is a gap.
    """

    status: Literal["ok", "taken", "held", "gone"]
    since: Position = _ORIGIN
    before: int = 0
    entries: tuple[tuple[str, bytes], ...] = ()

    @property
    def is_ours(self) -> bool:
        """Say whether the partition is this consumer's to read."""
        return self.status in {"ok", "taken"}


class FeedStore(Protocol):
    """Keeps what the feed's groups have read. Raises as `Store` does."""

    @property
    def partitions(self) -> int:
        """How many parts the feed has, each of them ordered."""
        ...

    async def enter(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group everywhere if it is new; return its living consumers."""
        ...

    async def read(
        self, member: Member, marks: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, Portion]]:
        """Lease these partitions and read on behind the marks; None is the group's own.

        Returns the group's living consumers too, none if it was forgotten. `count` limits
        each partition's entries; with 0 the leases are renewed and nothing is read.
        """
        ...

    async def ack(self, member: Member, partition: int, mark: Position) -> bool:
        """Be done with everything up to a mark; False if somebody else has the partition."""
        ...

    async def leave(self, member: Member, partitions: Sequence[int], *, wholly: bool) -> None:
        """Give partitions back; `wholly`: this consumer is alive no more."""
        ...

    async def forget(self, group: str) -> None:
        """Forget a group: what it has read, and who reads."""
        ...


class FeedKeeper(Protocol):
    """What a reader of the feed needs of a store."""

    def now_ms(self) -> int:
        """Return the store's time."""
        ...

    def feed(self) -> FeedStore:
        """Return what the feed's groups have read."""
        ...
