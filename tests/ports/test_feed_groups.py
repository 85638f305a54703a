"""The rules of feed groups when consumers write between each other's reads and writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest

from cfflow.errors import StoreError
from cfflow.feed.feed import Feed
from cfflow.feed.groups import GroupFeed, entries_to_keep
from cfflow.feed.protocol import FeedLog, Member, PartitionRead, Position, Reply, Request
from cfflow.store.redis.store import RedisStore
from cfflow.testing import FakeClock, MemoryStore
from cfflow.testing.conformance.feed import commit_events, drained, opened
from cfflow.testing.conformance.helpers import begin

LEASE_MS = 10_000
GROUP = "mailer"

Between = Callable[[], Awaitable[object]]


class Interrupted:
    """A log that lets something else happen before single round trips, and counts them all."""

    def __init__(self, log: FeedLog) -> None:
        self.round_trips = 0
        self.before: dict[int, Between] = {}
        self._log = log

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        return self._log.partitions

    async def request(self, group: str, requests: Mapping[int, Request]) -> dict[int, Reply]:
        """Do what comes before this round trip, and then the request."""
        self.round_trips += 1
        if between := self.before.pop(self.round_trips, None):
            await between()
        return await self._log.request(group, requests)


class Consumer:
    """One consumer, and what it has of a feed's partitions."""

    def __init__(self, store: MemoryStore, name: str, session: int = 1) -> None:
        self.log = Interrupted(store.feed())
        self.feed = GroupFeed(self.log)
        self.member = Member(GROUP, name, session, LEASE_MS)
        self.partition = next(iter(sorted(filled(store))))

    async def join(self) -> Consumer:
        """Join the group; round trips count from then on."""
        await self.feed.join(self.member, "oldest")
        self.log.round_trips = 0
        return self

    async def read(self, position: Position | None = None, count: int = 9) -> PartitionRead:
        """Read the partition that has events."""
        _, reads = await self.feed.read(self.member, {self.partition: position}, count)
        return reads[self.partition]

    async def ack(self, position: Position) -> bool:
        """Acknowledge a position in it."""
        return await self.feed.ack(self.member, self.partition, position)

    async def leave(self) -> None:
        """Give it back."""
        await self.feed.leave(self.member, [self.partition], leaves_group=False)

    def interrupt(self, between: Between, round_trips: int = 1) -> None:
        """Let this happen before the round trip that comes after so many more."""
        self.log.before[self.log.round_trips + round_trips + 1] = between


def filled(store: MemoryStore) -> set[int]:
    """Return the partitions that have entries."""
    return {p for p, each in enumerate(store.feed()._partitions) if each.entries}


def positions(read: PartitionRead) -> list[Position]:
    """Return the position of each entry that was read."""
    first = read.skipped_to + 1
    return [Position(name, number) for number, (name, _) in enumerate(read.entries, first)]


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> MemoryStore:
    """A store with five events in one partition."""
    store = MemoryStore(clock)
    await commit_events(store, await begin(store, "order_1"), 5)
    return store


@pytest.fixture
async def pair(store: MemoryStore) -> tuple[Consumer, Consumer]:
    """Two consumers of one group."""
    return await Consumer(store, "a").join(), await Consumer(store, "b").join()


Pair = tuple[Consumer, Consumer]

# what it costs


async def test_a_fresh_lease_is_read_in_one_round_trip(clock: FakeClock, pair: Pair) -> None:
    """Two to take it, one while less than a fifth of it is over, then two to renew it."""
    consumer, _ = pair
    start = (await consumer.read()).start
    assert consumer.log.round_trips == 2
    for seconds, round_trips in [(0, 1), (2, 1), (0.1, 2), (2, 1), (0.1, 2)]:
        clock.advance(seconds)
        consumer.log.round_trips = 0
        assert (await consumer.read(start)).status == "ok"
        assert consumer.log.round_trips == round_trips


async def test_an_acknowledgement_and_a_farewell_are_one_round_trip_each(pair: Pair) -> None:
    """The state is in the reply of the read before."""
    consumer, _ = pair
    read = await consumer.read()
    consumer.log.round_trips = 0
    for position in positions(read):
        assert await consumer.ack(position)
    assert consumer.log.round_trips == 5
    await consumer.leave()
    assert consumer.log.round_trips == 6


async def test_a_group_that_exists_is_joined_in_two_round_trips(store: MemoryStore) -> None:
    """One that reads all partitions, and one that writes the consumer."""
    await Consumer(store, "a").join()
    consumer = Consumer(store, "b")
    assert sorted(await consumer.feed.join(consumer.member, "now")) == ["a", "b"]
    assert consumer.log.round_trips == 2


# races


async def test_of_two_that_take_a_partition_the_first_gets_it(pair: Pair) -> None:
    """The other one has read that it is free, and gets none of its entries."""
    one, other = pair
    one.interrupt(other.read)
    assert await one.read() == PartitionRead("held")
    assert (await other.read()).status != "held"


async def test_a_lease_that_is_given_back_meanwhile_is_taken(pair: Pair) -> None:
    """From the event on that the other one had not acknowledged."""
    one, other = pair
    first = positions(await other.read())[0]

    async def acknowledge_and_leave() -> None:
        assert await other.ack(first)
        await other.leave()

    one.interrupt(acknowledge_and_leave, 0)
    read = await one.read()
    assert (read.status, read.start, len(read.entries)) == ("taken", first, 4)


async def test_an_acknowledgement_before_a_take_counts(clock: FakeClock, pair: Pair) -> None:
    """Its lease had ended: who takes the partition begins behind what it acknowledged last."""
    one, other = pair
    read = positions(await other.read())
    clock.advance(LEASE_MS / 1000)
    one.interrupt(lambda: other.ack(read[2]))
    taken = await one.read()
    assert (taken.status, taken.start, positions(taken)) == ("taken", read[2], read[3:])
    assert not await other.ack(read[3])


async def test_a_renewal_does_not_take_a_partition_back(clock: FakeClock, pair: Pair) -> None:
    """The lease has ended, and another consumer takes it between the read and the renewal."""
    one, other = pair
    start = (await one.read()).start
    clock.advance(LEASE_MS / 1000)
    one.interrupt(other.read)
    assert await one.read(start) == PartitionRead("held")
    assert not await one.ack(start)


async def test_a_partition_that_comes_back_is_read_from_the_acknowledged_on(
    clock: FakeClock, pair: Pair
) -> None:
    """Not from where this consumer was: it may have been overtaken, or have more to repeat."""
    one, other = pair
    read = positions(await one.read())
    clock.advance(LEASE_MS / 1000)
    await other.read()
    assert await other.ack(read[0])
    await other.leave()
    again = await one.read(read[3])
    assert (again.status, again.start, positions(again)) == ("taken", read[0], read[1:])


async def test_an_acknowledgement_after_a_take_is_refused(clock: FakeClock, pair: Pair) -> None:
    """Between the last read and the acknowledgement; the group's position stays."""
    one, other = pair
    read = positions(await one.read())
    clock.advance(LEASE_MS / 1000)
    await other.read()
    assert not await one.ack(read[4])
    await one.leave()
    assert await other.ack(read[0])


async def test_a_newer_session_wins_against_a_renewal(clock: FakeClock, store: MemoryStore) -> None:
    """Two processes have one name; the older one notices it at its next write."""
    older = await Consumer(store, "a", session=1).join()
    newer = await Consumer(store, "a", session=2).join()
    read = positions(await older.read())
    clock.advance(3)
    older.interrupt(newer.read)
    assert await older.read(read[0]) == PartitionRead("held")
    assert not await older.ack(read[0])
    assert await newer.ack(read[0])


async def test_acknowledgements_extend_the_lease(clock: FakeClock, pair: Pair) -> None:
    """By the time of the reply before: a consumer that only acknowledges keeps its partition."""
    one, other = pair
    for position in positions(await one.read())[:3]:
        clock.advance(6)
        assert await one.ack(position)
    assert await other.read() == PartitionRead("held")


async def test_an_older_acknowledgement_does_not_move_back(pair: Pair) -> None:
    """It is acknowledged all the same."""
    one, _ = pair
    read = positions(await one.read())
    assert await one.ack(read[3])
    assert await one.ack(read[1])
    await one.leave()
    assert (await one.read()).start == read[3]


async def test_a_lease_whose_reply_was_lost_is_read_from_the_acknowledged_on(pair: Pair) -> None:
    """The consumer has the lease and no position."""
    one, _ = pair
    first = positions(await one.read())[0]
    await one.ack(first)
    read = await one.read()
    assert (read.status, read.start, len(read.entries)) == ("taken", first, 4)


async def test_of_two_that_register_a_group_the_first_decides_where_it_begins(
    store: MemoryStore,
) -> None:
    """The second wanted to begin now, and finds the group registered."""
    one, other = Consumer(store, "a"), Consumer(store, "b")
    one.interrupt(other.join)
    assert sorted(await one.feed.join(one.member, "now")) == ["a", "b"]
    assert len((await one.read()).entries) == 5


async def test_a_group_is_forgotten_while_its_consumers_write(pair: Pair) -> None:
    """A lease that was written meanwhile does not keep it."""
    one, other = pair
    one.interrupt(other.read)
    await one.feed.forget(GROUP)
    assert (await other.read()).status == "gone"
    assert not await other.ack(Position("9-0", 9))


async def test_a_consumer_that_is_late_leaves_nothing_in_a_forgotten_group(
    clock: FakeClock, pair: Pair, store: MemoryStore
) -> None:
    """It has read that the group exists, and then writes that it is alive."""
    one, other = pair
    await one.read()
    clock.advance(3)
    one.interrupt(lambda: other.feed.forget(GROUP))
    consumers, _ = await one.feed.read(one.member, {}, 0)
    assert consumers == []
    partitions = store.feed()._partitions
    assert not any(each.states or each.consumers for each in partitions)


async def test_consumers_whose_time_is_over_are_removed(
    clock: FakeClock, pair: Pair, store: MemoryStore
) -> None:
    """At once from what is returned, and from the store with the next renewal."""
    one, _ = pair
    clock.advance(LEASE_MS / 1000 - 1)
    assert sorted((await one.feed.read(one.member, {}, 0))[0]) == ["a", "b"]
    clock.advance(1)
    assert (await one.feed.read(one.member, {}, 0))[0] == ["a"]
    clock.advance(2)
    await one.feed.read(one.member, {}, 0)
    (stored,) = (each.consumers for each in store.feed()._partitions if each.consumers)
    assert set(stored[GROUP]) == {"a"}


@pytest.mark.parametrize("broken", [b"\xc1", b"[]", msgspec.msgpack.encode(["a", "b"])])
async def test_a_state_that_cannot_be_read_is_an_error_of_the_store(
    pair: Pair, store: MemoryStore, broken: bytes
) -> None:
    """Reading, acknowledging and leaving raise; nothing is overwritten."""
    one, _ = pair
    first = positions(await one.read())[0]
    store.feed()._partitions[one.partition].states[GROUP] = broken
    with pytest.raises(StoreError, match="feed group"):
        await one.ack(first)
    with pytest.raises(StoreError, match="feed group"):
        await one.read()
    with pytest.raises(StoreError, match="feed group"):
        await one.leave()
    assert store.feed()._partitions[one.partition].states[GROUP] == broken


# random lives


class Watched(Interrupted):
    """A log whose round trips take a random time. It checks each state that is written."""

    def __init__(self, log: FeedLog, member: Member, clock: FakeClock, dice: random.Random) -> None:
        super().__init__(log)
        self.writes = 0
        self._member = (member.consumer, member.session)
        self._clock = clock
        self._dice = dice

    async def request(self, group: str, requests: Mapping[int, Request]) -> dict[int, Reply]:
        """Compare the states before and after."""
        await self._wait()
        before = await self._log.request(group, dict.fromkeys(requests, Request()))
        replies = await super().request(group, requests)
        for partition, reply in replies.items():
            old, new = before[partition].state, reply.state
            if old is not None and new is not None and old != new:
                self.writes += 1
                self._check(msgspec.msgpack.decode(old), msgspec.msgpack.decode(new))
        await self._wait()
        return replies

    async def _wait(self) -> None:
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)

    def _check(self, old: list[Any], new: list[Any]) -> None:
        """Only the consumer that has the lease changes a state, or one that may take it."""
        owner, next_owner = (old[0], old[1]), (new[0], new[1])
        assert new[4] >= old[4]
        if owner == self._member:
            assert next_owner in {self._member, ("", 0)}
            return
        is_restart = owner[0] == self._member[0] and owner[1] < self._member[1]
        assert is_restart or old[2] <= self._clock.now_ms
        assert next_owner == self._member
        assert new[3:] == old[3:]


async def lived(store: MemoryStore, clock: FakeClock, name: str, dice: random.Random) -> int:
    """Let consumers of one name follow each other, also at the same time; return their writes."""
    writes = 0
    for session in range(1, 6):
        consumer = Consumer(store, name, session)
        log = Watched(store.feed(), consumer.member, clock, dice)
        consumer.feed = GroupFeed(log)
        await consumer.join()
        position: Position | None = None
        for _ in range(dice.randrange(20)):
            clock.advance(dice.choice([0, 0, 0.5, 3, LEASE_MS / 1000]))
            read = await consumer.read(position, dice.randrange(4))
            if not read.is_leased:
                position = None
            elif found := positions(read):
                position = dice.choice(found)
                await consumer.ack(position)
            elif position is None:
                position = read.start
        if dice.random() < 0.5:
            await consumer.leave()
        writes += log.writes
    return writes


@pytest.mark.parametrize("seed", range(30))
async def test_random_lives_change_states_only_as_they_may(clock: FakeClock, seed: int) -> None:
    """A lease is taken from no living consumer, and no acknowledgement is lost."""
    store, dice = MemoryStore(clock), random.Random(seed)
    await commit_events(store, await begin(store, "order_1"), 45)
    lives = (lived(store, clock, name, dice) for name in ("a", "a", "b", "c"))
    assert sum(await asyncio.gather(*lives)) > 20


# trimming


def state(number: int) -> bytes:
    """A group that has acknowledged this entry."""
    return msgspec.msgpack.encode(["", 0, 0, f"{number}-0", number])


@pytest.mark.parametrize(
    ("acknowledged", "written", "kept"),
    [
        ([], 3, 10),
        ([], 500, 10),
        ([500], 500, 10),
        ([480], 500, 20),
        ([495, 430, 500], 500, 70),
        ([300], 500, 100),
        ([0], 500, 100),
        # After a server lost its last entries.
        ([510], 500, 10),
    ],
)
def test_as_many_entries_stay_as_the_slowest_group_needs(
    acknowledged: list[int], written: int, kept: int
) -> None:
    """Ten for groups that do not exist yet, ten times as many for one that does not read."""
    assert entries_to_keep(map(state, acknowledged), written, 10) == kept


# in Redis


@pytest.fixture(params=["redis_url", "redis7_url"])
async def redis_store(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    """A store with three events, that trims early."""
    opened_store = RedisStore(request.getfixturevalue(request.param), partitions=1, feed_max=16)
    await opened_store.open()
    await commit_events(opened_store, await begin(opened_store, "order_1"), 3)
    yield opened_store
    await opened_store.aclose()


async def test_a_group_of_an_older_version_goes_on(redis_store: RedisStore) -> None:
    """The script of that version packed its states; its consumers count until they end."""
    groups, readers = redis_store.keys.groups(0), redis_store.keys.readers(0, GROUP)
    entries = await redis_store.link.command("XRANGE", redis_store.keys.events(0), "-", "+")
    until_at_ms = redis_store.now_ms() + 60_000
    first = entries[0][0].decode()
    state = f"{{ 'old', {redis_store.now_ms()}, {until_at_ms}, '{first}', 1 }}"
    packed = await redis_store.link.command("EVAL", f"return cmsgpack.pack({state})", 1, groups)
    await redis_store.link.command("HSET", groups, GROUP, packed)
    await redis_store.link.command("ZADD", readers, until_at_ms, "old")
    for name, status in [("new", "held"), ("old", "taken")]:
        member = Member(GROUP, name, redis_store.now_ms(), LEASE_MS)
        consumers, reads = await GroupFeed(redis_store.feed()).read(member, {0: None}, 9)
        assert (sorted(consumers), reads[0].status) == (["new", "old"], status)
    assert (reads[0].start, len(reads[0].entries)) == (Position(first, 1), 2)


@pytest.mark.parametrize("length", [1, 31, 32, 128])
async def test_the_script_trims_by_the_states_of_this_version(
    redis_store: RedisStore, length: int
) -> None:
    """It reads what has been acknowledged from a state of any length."""
    async with Feed(redis_store, "g" * length, consumer="c" * length) as feed:
        await commit_events(redis_store, await begin(redis_store, "order_2"), 64)
        event = (await drained(feed))[-1]
        await feed.ack(event)
        await commit_events(redis_store, await begin(redis_store, "order_3"), 61)
        length_now = await redis_store.link.command("XLEN", redis_store.keys.events(0))
        assert length_now == 61


async def test_a_forgotten_group_leaves_no_key(redis_store: RedisStore) -> None:
    """Neither its state nor its consumers."""
    feed = await opened(redis_store, "m")
    await drained(feed)
    keys = redis_store.keys.groups(0), redis_store.keys.readers(0, GROUP)
    assert await redis_store.link.command("EXISTS", *keys) == 2
    await feed.forget()
    assert await redis_store.link.command("EXISTS", *keys) == 0
