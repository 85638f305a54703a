"""The part of the suite for stores that is about the feed: order, leases, acknowledgements, gaps.

The tests read as users do, through `Feed`. Give them a store whose feed keeps few entries
for readers yet to come, and say how many in `feed_max`: they write twelve times as many.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Walked
from cfflow.core.record import Snapshot
from cfflow.errors import Conflict, InvalidInput
from cfflow.feed.feed import Feed, FeedEvent, FeedGap, FeedItem
from cfflow.store.protocol import Store
from cfflow.testing.conformance.helpers import begin, written
from cfflow.testing.conformance.part import ConformancePart

__all__ = ["FeedConformance"]

_LEASE_S: Final = 1.0
_AT_ONCE: Final = 16

Told = FeedItem


async def tell(store: Store, snapshot: Snapshot, count: int, first: int = 1) -> Snapshot:
    """Commit so many events of a payment, numbered in their request ids."""
    numbers = range(first, first + count)
    for start in range(0, count, _AT_ONCE):
        edges = tuple(
            Walked(
                Trigger.INITIATE, State.CREATED, State.INITIATED, "conformance", "pay", str(number)
            )
            for number in numbers[start : start + _AT_ONCE]
        )
        snapshot = await written(store, snapshot, state=State.INITIATED, walked=edges)
    return snapshot


async def opened(store: Store, consumer: str, group: str = "mailer", **options: Any) -> Feed:
    """Return an open feed that nobody will close: its consumer dies with the test."""
    feed = Feed(store, group, consumer=consumer, **options)
    return await AsyncExitStack().enter_async_context(feed)


async def drained(feed: Feed) -> list[Told]:
    """Return all that comes now."""
    found = []
    while (event := await feed.poll()) is not None:
        found.append(event)
    return found


async def handled(feed: Feed) -> list[Told]:
    """Return all that comes now, acknowledged one by one."""
    found = []
    while (event := await feed.poll()) is not None:
        found.append(event)
        await feed.ack(event)
    return found


async def next_event(feed: Feed) -> FeedEvent:
    """Return the next event, which must be there."""
    event = await feed.poll()
    assert isinstance(event, FeedEvent)
    return event


def numbers(found: list[Told], order_id: str = "order_1") -> list[int]:
    """Return the numbers of an order's events."""
    return [
        int(event.request_id)
        for event in found
        if isinstance(event, FeedEvent) and event.order_id == order_id
    ]


def lost(found: list[Told]) -> list[int]:
    """Return what the gaps say."""
    return [event.lost for event in found if isinstance(event, FeedGap)]


def beside(event: FeedEvent, *, takes: bool) -> str:
    """Return a name beside "m", to which the partition of this event falls, or does not."""
    first = int(event.id.partition(":")[0]) % 2 == 0
    return "a" if first is takes else "z"


class FeedConformance(ConformancePart):
    """Tests of the feed; `StoreConformance` has them too."""

    # what comes, and in which order

    async def test_an_event_tells_the_whole_transition(self, store: Store) -> None:
        """Who moved, from where to where, why, and when; its id is the same each time."""
        snapshot = await begin(store, "order_1")
        snapshot = await written(store, snapshot, cf_payment_id="9001")
        snapshot = await tell(store, snapshot, 1)
        event = await next_event(await opened(store, "m"))
        assert (event.payment_id, event.order_id) == ("order_1.1", "order_1")
        assert (event.from_state, event.to_state) == ("created", "initiated")
        assert (event.trigger, event.step, event.observation) == ("initiate", "pay", "conformance")
        assert (event.version, event.cf_payment_id) == (snapshot.record.version, "9001")
        assert round(event.at.timestamp() * 1000) == snapshot.record.updated_at_ms
        assert await drained(await opened(store, "other", "other")) == [event]

    async def test_the_events_of_a_payment_come_in_their_order(self, store: Store) -> None:
        """Whatever else happens meanwhile, and however few are fetched at once."""
        orders = {f"order_{i}": await begin(store, f"order_{i}") for i in range(6)}
        async with Feed(store, "mailer", batch=2) as feed:
            for first in (1, 4, 7):
                for order_id, snapshot in orders.items():
                    orders[order_id] = await tell(store, snapshot, 3, first)
            found = await handled(feed)
        assert len(found) == 54
        for order_id in orders:
            assert numbers(found, order_id) == list(range(1, 10))

    async def test_groups_read_independently(self, store: Store) -> None:
        """Each group gets everything; what one has done is nothing to the others."""
        await tell(store, await begin(store, "order_1"), 5)
        async with Feed(store, "mailer") as mailer, Feed(store, "ledger") as ledger:
            assert numbers(await handled(mailer)) == [1, 2, 3, 4, 5]
            assert numbers(await drained(ledger)) == [1, 2, 3, 4, 5]

    async def test_a_new_group_may_begin_now(self, store: Store) -> None:
        """It gets what comes from then on; once known, it goes on where it was."""
        snapshot = await tell(store, await begin(store, "order_1"), 3)
        async with Feed(store, "mailer", start="now") as feed:
            assert await drained(feed) == []
        await tell(store, snapshot, 2, 4)
        async with Feed(store, "mailer", start="now") as feed:
            assert numbers(await drained(feed)) == [4, 5]

    # at least once

    async def test_what_was_acknowledged_does_not_come_again(self, store: Store) -> None:
        """And what comes later does."""
        snapshot = await tell(store, await begin(store, "order_1"), 3)
        async with Feed(store, "mailer") as feed:
            assert len(await handled(feed)) == 3
        await tell(store, snapshot, 1, 4)
        async with Feed(store, "mailer") as feed:
            assert numbers(await handled(feed)) == [4]

    async def test_an_acknowledgement_covers_what_came_before_it(self, store: Store) -> None:
        """Of its partition: the third of five leaves the last two."""
        await tell(store, await begin(store, "order_1"), 5)
        async with Feed(store, "mailer") as feed:
            await feed.ack((await drained(feed))[2])
        async with Feed(store, "mailer") as feed:
            assert numbers(await drained(feed)) == [4, 5]

    async def test_a_consumer_that_comes_back_gets_again_what_it_left(self, store: Store) -> None:
        """It died between reading and acknowledging; under its name it need not wait."""
        await tell(store, await begin(store, "order_1"), 3)
        dead = await opened(store, "m")
        await dead.ack((await drained(dead))[0])
        assert numbers(await handled(await opened(store, "m"))) == [2, 3]

    async def test_a_dead_consumers_events_go_to_another(self, store: Store) -> None:
        """Not before its lease has ended; then from the first that was not acknowledged on."""
        await tell(store, await begin(store, "order_1"), 3)
        dead = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(dead)
        await dead.ack(event)
        assert numbers(await drained(dead)) == [2, 3]
        heir = await opened(store, beside(event, takes=True))
        assert await drained(heir) == []
        await self.later(store, _LEASE_S + 0.1)
        assert numbers(await handled(heir)) == [2, 3]
        assert heir.consumers == (heir.consumer,)

    async def test_what_comes_again_may_be_acknowledged_by_its_reader_only(
        self, store: Store
    ) -> None:
        """Whoever lost the lease hears it, and holds nobody else's events up or back."""
        await tell(store, await begin(store, "order_1"), 2)
        slow = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(slow)
        await self.later(store, _LEASE_S + 0.1)
        quick = await opened(store, beside(event, takes=True))
        assert await next_event(quick) == event
        with pytest.raises(Conflict):
            await slow.ack(event)
        assert await slow.poll() is None
        assert numbers(await handled(quick)) == [2]

    async def test_who_gets_a_partition_back_goes_on_where_the_other_stopped(
        self, store: Store
    ) -> None:
        """What it had fetched before is old: some of it is done, the rest comes again."""
        await tell(store, await begin(store, "order_1"), 5)
        slow = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(slow)
        await self.later(store, _LEASE_S + 0.1)
        async with Feed(store, "mailer", consumer=beside(event, takes=True)) as quick:
            await quick.ack((await drained(quick))[1])
        assert numbers(await drained(slow)) == [3, 4, 5]

    async def test_a_lease_that_nobody_else_took_still_counts(self, store: Store) -> None:
        """A slow handler is done with its event when it says so in time."""
        await tell(store, await begin(store, "order_1"), 2)
        slow = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(slow)
        await self.later(store, _LEASE_S + 0.1)
        await slow.ack(event)
        assert numbers(await drained(await opened(store, "m"))) == [2]

    async def test_only_what_was_handed_out_is_acknowledged(self, store: Store) -> None:
        """Another group's event would move this group past what it never saw."""
        await tell(store, await begin(store, "order_1"), 2)
        mailer = await opened(store, "m")
        event = (await drained(mailer))[1]
        async with Feed(store, "ledger") as ledger:
            await next_event(ledger)
            with pytest.raises(InvalidInput):
                await ledger.ack(event)
            await mailer.ack(event)

    # several consumers

    async def test_two_consumers_share_the_feed(self, store: Store) -> None:
        """Both work where there is more than one partition, and nothing comes to both."""
        first, second = await opened(store, "m"), await opened(store, "n")
        for i in range(32):
            await tell(store, await begin(store, f"order_{i}"), 2)
        shares = [await handled(first), await handled(second)]
        assert [numbers(shares[0] + shares[1], f"order_{i}") for i in range(32)] == [[1, 2]] * 32
        if store.feed().partitions > 1:
            assert all(shares)

    async def test_a_consumer_that_joins_gets_its_half(self, store: Store) -> None:
        """The one that had everything gives up what now belongs to the other."""
        first = await opened(store, "m")
        await first.poll()
        assert len(first.partitions) == store.feed().partitions
        second = await opened(store, "n")
        for feed in (first, second):
            await feed.poll()
        assert len(second.partitions) == store.feed().partitions // 2
        held = [*first.partitions, *second.partitions]
        assert sorted(held) == list(range(store.feed().partitions))

    async def test_a_partition_changes_hands_between_two_events(self, store: Store) -> None:
        """The one that works on an event keeps its partition until it is acknowledged."""
        await tell(store, await begin(store, "order_1"), 3)
        first = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(first)
        second = await opened(store, beside(event, takes=True))
        await self.later(store, _LEASE_S * 0.3)
        assert await first.poll() is None
        assert await second.poll() is None
        await first.ack(event)
        assert numbers(await drained(second)) == [2, 3]

    async def test_a_consumer_that_leaves_is_followed_at_once(self, store: Store) -> None:
        """Its partitions are free, and what it did not acknowledge comes to the others."""
        await tell(store, await begin(store, "order_1"), 2)
        async with Feed(store, "mailer") as feed:
            assert len(await drained(feed)) == 2
        assert numbers(await drained(await opened(store, "z"))) == [1, 2]

    async def test_leases_are_renewed_while_events_wait_for_their_handler(
        self, store: Store
    ) -> None:
        """Many events were fetched at once: as long as they are handled, nobody else gets them."""
        await tell(store, await begin(store, "order_1"), 5)
        feed = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(feed)
        other = await opened(store, beside(event, takes=False), lease_s=_LEASE_S)
        for number in (2, 3, 4, 5):
            await self.later(store, _LEASE_S * 0.4)
            assert await other.poll() is None
            event = await next_event(feed)
            assert numbers([event]) == [number]
        await feed.ack(event)

    async def test_of_one_name_the_newer_consumer_wins(self, store: Store) -> None:
        """A process that was replaced gets nothing more, and its word counts no more."""
        await tell(store, await begin(store, "order_1"), 2)
        older = await opened(store, "m")
        event = await next_event(older)
        await self.later(store, 0.05)
        newer = await opened(store, "m")
        assert numbers(await drained(newer)) == [1, 2]
        with pytest.raises(Conflict):
            await older.ack(event)
        assert await older.poll() is None

    # trimming

    async def test_a_feed_that_nobody_reads_stays_small(self, store: Store) -> None:
        """A reader yet to come finds the newest entries; it missed nothing that was its own."""
        await tell(store, await begin(store, "order_1"), self.feed_max + 200)
        found = await drained(await opened(store, "m", batch=10_000))
        assert self.feed_max <= len(found) < self.feed_max + 200
        assert numbers(found) == list(range(201 + self.feed_max - len(found), self.feed_max + 201))

    async def test_what_a_group_has_not_acknowledged_is_kept(self, store: Store) -> None:
        """Well beyond what a feed without readers keeps."""
        snapshot = await begin(store, "order_1")
        async with Feed(store, "mailer"):
            pass
        await tell(store, snapshot, self.feed_max * 5)
        found = await drained(await opened(store, "m", batch=10_000))
        assert numbers(found) == list(range(1, self.feed_max * 5 + 1))

    async def test_what_every_group_has_acknowledged_is_dropped(self, store: Store) -> None:
        """The feed shrinks again once the last one has caught up."""
        snapshot = await begin(store, "order_1")
        async with Feed(store, "mailer", batch=10_000) as feed:
            snapshot = await tell(store, snapshot, self.feed_max * 9)
            await feed.ack((await drained(feed))[-1])
        await tell(store, snapshot, 80)
        found = await drained(await opened(store, "m", "late", batch=10_000))
        assert lost(found) == []
        assert len(found) < self.feed_max * 9

    async def test_a_group_learns_exactly_what_it_has_missed(self, store: Store) -> None:
        """Before what is left: one gap, and the rest without another."""
        total = self.feed_max * 12
        snapshot = await begin(store, "order_1")
        feed = await opened(store, "m", batch=10_000)
        await tell(store, snapshot, total)
        found = await handled(feed)
        assert isinstance(found[0], FeedGap)
        assert len(lost(found)) == 1
        assert numbers(found) == list(range(lost(found)[0] + 1, total + 1))
        assert await drained(await opened(store, "m")) == []

    async def test_a_gap_comes_again_until_it_is_acknowledged(self, store: Store) -> None:
        """Like an event: whoever died with it told nobody."""
        snapshot = await begin(store, "order_1")
        dead = await opened(store, "m")
        await tell(store, snapshot, self.feed_max * 12)
        gap = await dead.poll()
        heir = await opened(store, "m")
        assert isinstance(gap, FeedGap)
        assert await heir.poll() == gap
        await heir.ack(gap)
        rest = await drained(await opened(store, "m", batch=10_000))
        assert (lost(rest), numbers(rest)[0]) == ([], gap.lost + 1)

    async def test_what_was_handed_out_before_it_was_dropped_is_not_missed(
        self, store: Store
    ) -> None:
        """Of four events that are gone from the store by now, none is in the gap."""
        total = self.feed_max * 12
        snapshot = await tell(store, await begin(store, "order_1"), 4)
        feed = await opened(store, "m", batch=4)
        events = [await next_event(feed) for _ in range(4)]
        await tell(store, snapshot, total - 4, 5)
        await feed.ack(events[-1])
        found = await handled(feed)
        assert len(lost(found)) == 1
        assert 4 + lost(found)[0] + len(numbers(found)) == total

    async def test_a_forgotten_group_begins_anew(self, store: Store) -> None:
        """Its readers learn that they read for nobody, and nothing is kept for it."""
        await tell(store, await begin(store, "order_1"), 2)
        feed = await opened(store, "m")
        await handled(feed)
        await feed.forget()
        with pytest.raises(Conflict):
            await feed.poll()
        assert numbers(await drained(await opened(store, "z"))) == [1, 2]
