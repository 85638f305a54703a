"""What a store must do for the feed (`FeedLog`), and the values that its consumers work with.

The feed has partitions; the entries of one partition are ordered, and all entries of one order
are in one partition. Consumers read as groups. For each group and partition the store keeps a
state: how far the group has acknowledged, and which consumer has the lease. The lease is on the
whole partition: two consumers of one partition would lose the order of a payment's events.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class Request(msgspec.Struct, frozen=True):
    """What a group wants of one partition; the store does all of it in one atomic step.

    `old`, `new`: if the group's state has exactly the bytes `old`, it becomes `new`. None is no
    state: so the first one is written, and the last one removed. Two that are equal write
    nothing. `after`, `count`: read so many entries at most, the first ones behind this id.

    `consumers`: write until when these consumers count as alive, in milliseconds of the store's
    time; None removes one. All of the group's are read then, so an empty mapping only reads.
    Without a mapping they are neither written nor read. They exist only while the group has a
    state: a consumer that is late must leave nothing in a group that was forgotten.
    """

    old: bytes | None = None
    new: bytes | None = None
    after: str = "0-0"
    count: int = 0
    consumers: Mapping[str, int | None] | None = None


class Reply(msgspec.Struct, frozen=True):
    """A partition right after a request, at the store's time `now_ms`.

    `state`: what is stored for the group now, None if nothing is. If it is the request's `new`,
    the request had its effect, perhaps in an earlier run whose reply was lost. `trimmed`: how
    many entries were dropped so far. `length`: how many are stored. `newest`: the id of the last
    of them, "0-0" without one. `entries`: the (id, bytes) that were read, in their order.
    `consumers`: until when each counts as alive, also those whose time is over.
    """

    now_ms: int
    state: bytes | None
    trimmed: int
    length: int
    newest: str
    entries: tuple[tuple[str, bytes], ...] = ()
    consumers: Mapping[str, int] = {}


class FeedLog(Protocol):
    """What a store does for the feed: it keeps entries, and some bytes for each group.

    The rules of groups are in `cfflow.feed.groups`, and a store has none of them. Its commits
    append their entries to the partition of their order. The id of an entry is two numbers,
    `<a>-<b>`, higher than those of all entries before it in the partition. The commits also drop
    the oldest entries and count them; `cfflow.feed.groups.entries_to_keep` returns how many stay.
    """

    @property
    def partitions(self) -> int:
        """How many partitions the feed has, fixed for the store's life. They count from 0."""
        ...

    async def request(self, group: str, requests: Mapping[int, Request]) -> dict[int, Reply]:
        """Do what a group wants of these partitions, and return the reply of each.

        That is one round trip, on a cluster one for each node. Each partition by itself is
        atomic; all of them together are not. A request whose reply was lost may be sent again:
        then `new` is stored already, and nothing changes.

        Raises `StoreUnavailable` if the store cannot be reached or refuses writes; each request
        may have had its effect then. Raises `StoreError` if stored bytes cannot be read. No
        money moves.
        """
        ...


class StoreWithFeed(Protocol):
    """What a `Feed` needs of a store."""

    def now_ms(self) -> int:
        """Return the store's time."""
        ...

    def feed(self) -> FeedLog:
        """Return the part of the store that keeps the feed."""
        ...
