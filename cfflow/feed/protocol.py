"""What a store must do for the feed's consumers, and the entries that it hands out.

The feed has partitions; the entries of one partition are ordered, and all entries of one order
are in one partition. Consumers read as groups. For each group and partition the store keeps
how far the group has acknowledged, and which consumer has the lease. The lease is on the whole
partition: two consumers of one partition would lose the order of a payment's events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

Start = Literal["oldest", "now"]


class Position(msgspec.Struct, frozen=True):
    """A place in a partition: an entry's id, and its number.

    `number` counts all entries that the partition ever had, from 1 on. The ids have gaps of
    their own, so only the numbers show how many entries were dropped before a group read them.
    Of a gap, `id` is that of the last entry read before it, and `number` that of the last
    entry that is missing.
    """

    id: str
    number: int

    def is_after(self, other: Position) -> bool:
        """Return whether this place is later in the partition than the other."""
        return self._order() > other._order()

    def _order(self) -> tuple[int, int, int]:
        at, _, n = self.id.partition("-")
        return int(at), int(n), self.number


_ORIGIN: Final = Position("0-0", 0)


class Member(msgspec.Struct, frozen=True):
    """A consumer of a group.

    `session` rises each time a consumer of this name joins. The newest session gets the
    partitions of the older ones at once: it is the same consumer after a restart.
    """

    group: str
    consumer: str
    session: int
    lease_ms: int


class PartitionRead(msgspec.Struct, frozen=True):
    """The result of reading one partition.

    status: "ok": the consumer still has the lease. "taken": it has the lease from now on, and
    reads from the group's last acknowledged entry. "held": another consumer has the lease.
    "gone": the group was forgotten. `start`: the entries are those after this position.
    `skipped_to`: the number of the last entry before the first of them; if it is higher than
    that of `start`, the entries between were dropped.
    """

    status: Literal["ok", "taken", "held", "gone"]
    start: Position = _ORIGIN
    skipped_to: int = 0
    entries: tuple[tuple[str, bytes], ...] = ()

    @property
    def is_leased(self) -> bool:
        """Whether the consumer has the lease now."""
        return self.status in {"ok", "taken"}


class FeedStore(Protocol):
    """Keeps how far groups have read the feed. Raises what `cfflow.store.protocol.Store` does."""

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        ...

    async def join(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group in every partition if it is new; return its living consumers.

        A new group begins at the oldest entry that is stored, or after the newest ("now").
        """
        ...

    async def read(
        self, member: Member, positions: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, PartitionRead]]:
        """Lease partitions, and read the entries after these positions.

        None stands for the last entry that the group has acknowledged. `count` limits the
        entries of each partition; with 0 the leases are renewed and nothing is read. Returns
        the group's living consumers too; none if the group was forgotten.
        """
        ...

    async def ack(self, member: Member, partition: int, position: Position) -> bool:
        """Acknowledge all entries up to a position; False if another consumer has the lease."""
        ...

    async def leave(self, member: Member, partitions: Sequence[int], *, leaves_group: bool) -> None:
        """Give partitions back. With `leaves_group`, the consumer leaves the group too."""
        ...

    async def forget(self, group: str) -> None:
        """Remove a group: what it has acknowledged, its leases and its consumers."""
        ...


class StoreWithFeed(Protocol):
    """What a `Feed` needs of a store."""

    def now_ms(self) -> int:
        """Return the store's time."""
        ...

    def feed(self) -> FeedStore:
        """Return the part of the store that feed consumers use."""
        ...
