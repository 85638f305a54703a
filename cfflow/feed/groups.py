"""The rules of consumer groups: who leases which partition, and how far a group has read it.

They are here once, for every store. A store keeps a state for each group and partition, and
replaces it only if it is still the one that a rule was applied to (`FeedLog`). If another
consumer was faster, the rule is applied again, to what that one has written. So of two
consumers that take a partition at the same time one gets it, and the other finds it held.

No consumer mistakes another's write for its own: a state names the consumer and its session.
Two states without a consumer that have the same bytes mean the same, whoever wrote them.

All times are the store's, from the reply that a rule is applied to. The write comes one round
trip later, so a lease ends a little early and never late.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from cfflow.errors import StoreError
from cfflow.feed.protocol import FeedLog, Member, PartitionRead, Position, Reply, Request, Start

#: For a group that does not acknowledge, `feed_max` times this many entries are kept at most.
_UNREAD_MAX: Final = 10
#: A lease is renewed once less than this part of it is left. An idle consumer then does not write
#: each time that it reads.
_FRESH: Final = 0.8

#: What to request of a partition after this reply; None if nothing is left to do there.
_Rule = Callable[[int, Reply], Request | None]


class _State(msgspec.Struct, frozen=True, array_like=True):
    """A group in one partition: who has the lease, and the last entry acknowledged.

    The stored bytes are this array in msgpack; script.lua reads `number` from them to trim.
    `consumer` is empty while no consumer has the lease.
    """

    consumer: str = ""
    session: int = 0
    until_at_ms: int = 0
    id: str = "0-0"
    number: int = 0

    @property
    def acknowledged(self) -> Position:
        return Position(self.id, self.number)

    def is_leased_to(self, member: Member) -> bool:
        return (self.consumer, self.session) == (member.consumer, member.session)

    def must_wait(self, member: Member, now_ms: int) -> bool:
        """Return whether the partition is held until the lease of another consumer ends.

        A consumer that was restarted takes its partitions back at once, without waiting for its
        own lease: the newer session of a name wins.
        """
        is_same = self.consumer == member.consumer and self.session <= member.session
        return not is_same and self.until_at_ms > now_ms


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(_State)


def _encoded(acknowledged: Position, member: Member | None = None, until_at_ms: int = 0) -> bytes:
    owner = (member.consumer, member.session) if member else ("", 0)
    return _encode(_State(*owner, until_at_ms, acknowledged.id, acknowledged.number))


def _decoded(blob: bytes) -> _State:
    try:
        return _decoder.decode(blob)
    except msgspec.MsgspecError as error:
        raise StoreError(f"a stored state of a feed group does not decode: {error}") from None


def _state_of(reply: Reply) -> _State:
    """Return the group's state; one without a lease if there is none."""
    return _State() if reply.state is None else _decoded(reply.state)


def entries_to_keep(states: Iterable[bytes], written: int, feed_max: int) -> int:
    """Return how many of its newest entries a partition keeps.

    `states` are those of all groups in it, `written` is how many entries it ever had. `feed_max`
    entries are kept for groups that do not exist yet, and older ones while a group has not
    acknowledged them: ten times as many at most, so that a group without readers cannot fill
    the store.
    """
    lowest = min((_number_of(state) for state in states), default=written)
    return min(max(feed_max, written - lowest), feed_max * _UNREAD_MAX)


def _number_of(state: bytes) -> int:
    """Return how many entries a group has acknowledged; none where its state cannot be read.

    The commit that trims must be written all the same, and drop nothing that the group may want.
    """
    try:
        return _decoded(state).number
    except StoreError:
        return 0


class GroupFeed:
    """Reads a `FeedLog` as a member of groups. All calls raise what `FeedLog.request` does."""

    def __init__(self, log: FeedLog) -> None:
        self._log = log
        # The newest reply by group and partition. It has the state, so that an acknowledgement
        # need not read before it writes. One that is out of date costs a round trip.
        self._newest: dict[tuple[str, int], Reply] = {}

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        return self._log.partitions

    async def join(self, member: Member, start: Start) -> Sequence[str]:
        """Register the group in every partition if it is new; return its living consumers.

        A new group begins at the oldest entry that is stored, or after the newest ("now").
        """
        home = self._home(member.group)

        def rule(partition: int, reply: Reply) -> Request | None:
            new = _first_state(reply, start) if reply.state is None else reply.state
            if partition == home:
                alive = {member.consumer: reply.now_ms + member.lease_ms}
                return Request(reply.state, new, consumers=alive)
            return Request(None, new) if reply.state is None else None

        replies = await self._request(member.group, self._everywhere())
        replies = await self._settle(member.group, replies, rule)
        return _living(replies[home])

    async def read(
        self, member: Member, positions: Mapping[int, Position | None], count: int
    ) -> tuple[Sequence[str], dict[int, PartitionRead]]:
        """Lease partitions, and read the entries after these positions.

        None stands for the last entry that the group has acknowledged. `count` limits the
        entries of each partition; with 0 the leases are renewed and nothing is read. Returns
        the group's living consumers too; none if the group was forgotten.

        That is one round trip, and a second one when leases are taken or renewed.
        """
        home = self._home(member.group)
        reading = _Reading(member, positions, count, home)
        replies = await self._request(member.group, reading.first())
        replies = await self._settle(member.group, replies, reading.rule)
        return _living(replies[home]), {p: reading.result(p, replies[p]) for p in positions}

    async def ack(self, member: Member, partition: int, position: Position) -> bool:
        """Acknowledge all entries up to a position; False if another consumer has the lease.

        A lease that has ended counts until another consumer takes the partition.
        """

        def rule(_: int, reply: Reply) -> Request:
            state, new = _state_of(reply), reply.state
            if state.is_leased_to(member) and position.is_after(state.acknowledged):
                until_at_ms = max(state.until_at_ms, reply.now_ms + member.lease_ms)
                new = _encoded(position, member, until_at_ms)
            return Request(reply.state, new)

        replies = await self._known(member.group, [partition])
        replies = await self._settle(member.group, replies, rule)
        return _state_of(replies[partition]).is_leased_to(member)

    async def leave(self, member: Member, partitions: Sequence[int], *, leaves_group: bool) -> None:
        """Give partitions back. With `leaves_group`, the consumer leaves the group too."""
        home = self._home(member.group)

        def rule(partition: int, reply: Reply) -> Request:
            state, new = _state_of(reply), reply.state
            if state.is_leased_to(member):
                new = _encoded(state.acknowledged)
            leaves = leaves_group and partition == home
            return Request(reply.state, new, consumers={member.consumer: None} if leaves else None)

        touched = {*partitions, home} if leaves_group else {*partitions}
        replies = await self._known(member.group, touched)
        await self._settle(member.group, replies, rule)

    async def forget(self, group: str) -> bool:
        """Remove a group: what it has acknowledged, its leases and its consumers.

        Returns whether there was one.
        """

        def rule(_: int, reply: Reply) -> Request | None:
            return None if reply.state is None else Request(reply.state, None)

        replies = await self._request(group, self._everywhere())
        await self._settle(group, replies, rule)
        return any(reply.state is not None for reply in replies.values())

    def _home(self, group: str) -> int:
        """Return the partition that has the group's consumers. It must never change."""
        return zlib.crc32(group.encode()) % self.partitions

    def _everywhere(self) -> dict[int, Request]:
        return dict.fromkeys(range(self.partitions), Request())

    async def _known(self, group: str, partitions: Iterable[int]) -> dict[int, Reply]:
        """Return the newest replies; only the missing ones are requested."""
        missing = [p for p in partitions if (group, p) not in self._newest]
        if missing:
            await self._request(group, dict.fromkeys(missing, Request()))
        return {p: self._newest[group, p] for p in partitions}

    async def _settle(
        self, group: str, replies: Mapping[int, Reply], rule: _Rule
    ) -> dict[int, Reply]:
        """Request what a rule demands until it is done everywhere; return the newest replies.

        It ends, because a request has no effect only where another one had its effect.
        """
        newest, pending = dict(replies), list(replies)
        while requests := {p: r for p in pending if (r := rule(p, newest[p])) is not None}:
            newest |= await self._request(group, requests)
            pending = [p for p, request in requests.items() if newest[p].state != request.new]
        return newest

    async def _request(self, group: str, requests: Mapping[int, Request]) -> dict[int, Reply]:
        home = self._home(group)
        if home in requests and requests[home].consumers is None:
            requests = {**requests, home: replace(requests[home], consumers={})}
        replies = await self._log.request(group, requests)
        for partition, reply in replies.items():
            # Without the entries, which would stay in memory until the next read.
            self._newest[group, partition] = replace(reply, entries=())
        return replies


class _Reading:
    """One read of a member: which leases to write for it, and what it has read."""

    def __init__(
        self, member: Member, positions: Mapping[int, Position | None], count: int, home: int
    ) -> None:
        self._member = member
        # None also once a lease is taken: another consumer may have acknowledged more meanwhile.
        self._positions = dict(positions)
        self._count = count
        self._home = home

    def first(self) -> dict[int, Request]:
        """Return the requests that are enough while all leases are fresh."""
        return {self._home: Request()} | {
            partition: Request() if position is None else self._entries_after(position)
            for partition, position in self._positions.items()
        }

    def rule(self, partition: int, reply: Reply) -> Request | None:
        """Take or renew the lease; in the group's home, keep the consumer alive too."""
        request = self._lease(partition, reply) if partition in self._positions else None
        alive_until_at_ms = reply.consumers.get(self._member.consumer, 0)
        if partition != self._home or self._is_fresh(alive_until_at_ms, reply):
            return request
        alive: dict[str, int | None] = dict.fromkeys({*reply.consumers} - {*_living(reply)})
        alive[self._member.consumer] = reply.now_ms + self._member.lease_ms
        return replace(request or Request(reply.state, reply.state), consumers=alive)

    def _lease(self, partition: int, reply: Reply) -> Request | None:
        member, state = self._member, _state_of(reply)
        if reply.state is None or state.must_wait(member, reply.now_ms):
            return None
        if not state.is_leased_to(member):
            self._positions[partition] = None
        position = self._positions[partition]
        if position is not None and self._is_fresh(state.until_at_ms, reply):
            return None
        new = _encoded(state.acknowledged, member, reply.now_ms + member.lease_ms)
        request = self._entries_after(position or state.acknowledged)
        return replace(request, old=reply.state, new=new)

    def _entries_after(self, position: Position) -> Request:
        return Request(after=position.id, count=self._count)

    def _is_fresh(self, until_at_ms: int, reply: Reply) -> bool:
        return until_at_ms - reply.now_ms >= self._member.lease_ms * _FRESH

    def result(self, partition: int, reply: Reply) -> PartitionRead:
        """Return what was read of a partition, from its last reply."""
        state, position = _state_of(reply), self._positions[partition]
        if reply.state is None:
            return PartitionRead("gone")
        if not state.is_leased_to(self._member):
            return PartitionRead("held")
        start, entries = position or state.acknowledged, reply.entries
        skipped_to = max(start.number, reply.trimmed)
        if len(entries) < self._count:
            # Counted from the end: that is right even after a server lost its last entries.
            skipped_to = reply.trimmed + reply.length - len(entries)
        return PartitionRead("ok" if position else "taken", start, skipped_to, entries)


def _first_state(reply: Reply, start: Start) -> bytes:
    """Return the state of a new group: it has acknowledged what it is not to get."""
    if start == "now":
        return _encoded(Position(reply.newest, reply.trimmed + reply.length))
    return _encoded(Position("0-0", reply.trimmed))


def _living(reply: Reply) -> list[str]:
    """Return the consumers that count as alive; none if the group was forgotten."""
    return [name for name, until_at_ms in reply.consumers.items() if until_at_ms > reply.now_ms]
