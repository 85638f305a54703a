"""The part of the suite about the feed: order, leases, acknowledgements, gaps.

The tests read through `Feed`, as users do. They write twelve times `feed_max` events.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import pytest

from cfflow.errors import Conflict, InvalidInput
from cfflow.feed.feed import Feed, FeedEvent, FeedGap, FeedItem
from cfflow.store.protocol import Store, StoredOrder
from cfflow.testing.conformance.helpers import begin, changed
from cfflow.testing.conformance.part import ConformancePart

_LEASE_S: Final = 1.0
_AT_ONCE: Final = 16


def transition(order_id: str, number: int) -> bytes:
    """Return the feed entry of a transition; the number is its request id."""
    return msgspec.msgpack.encode(
        {
            "payment_id": f"{order_id}.1",
            "order_id": order_id,
            "cf_payment_id": "9001",
            "flow": "conformance",
            "from_state": "created",
            "to_state": "initiated",
            "trigger": "initiate",
            "step": "pay",
            "observation": "conformance",
            "version": 2,
            "request_id": str(number),
            "at_ms": 1_760_000_000_000 + number,
        }
    )


async def commit_events(
    store: Store, order: StoredOrder, count: int, first: int = 1
) -> StoredOrder:
    """Commit so many events of an order; the request ids number them."""
    numbers = range(first, first + count)
    for start in range(0, count, _AT_ONCE):
        entries = tuple(transition(order.id, n) for n in numbers[start : start + _AT_ONCE])
        order = await changed(store, order, events=entries)
    return order


async def opened(store: Store, consumer: str, group: str = "mailer", **options: Any) -> Feed:
    """Return an open feed that is never closed, like that of a consumer that was killed."""
    feed = Feed(store, group, consumer=consumer, **options)
    return await AsyncExitStack().enter_async_context(feed)


async def drained(feed: Feed) -> list[FeedItem]:
    """Return all items that come now, without an acknowledgement."""
    found = []
    while (event := await feed.poll()) is not None:
        found.append(event)
    return found


async def handled(feed: Feed) -> list[FeedItem]:
    """Return all items that come now, each acknowledged."""
    found = []
    while (event := await feed.poll()) is not None:
        found.append(event)
        await feed.ack(event)
    return found


async def next_event(feed: Feed) -> FeedEvent:
    """Return the next event. There must be one."""
    event = await feed.poll()
    assert isinstance(event, FeedEvent)
    return event


def numbers(found: list[FeedItem], order_id: str = "order_1") -> list[int]:
    """Return the numbers of an order's events."""
    return [
        int(event.request_id)
        for event in found
        if isinstance(event, FeedEvent) and event.order_id == order_id
    ]


def lost(found: list[FeedItem]) -> list[int]:
    """Return how many entries each gap counts."""
    return [event.lost for event in found if isinstance(event, FeedGap)]


def beside(event: FeedEvent, *, takes: bool) -> str:
    """Return a name for a consumer beside "m" that gets this event's partition, or does not."""
    first = int(event.id.partition(":")[0]) % 2 == 0
    return "a" if first is takes else "z"


class FeedConformance(ConformancePart):
    """Tests of the feed. `StoreConformance` has them too."""

    # what comes, and in which order

    async def test_an_event_has_the_whole_transition(self, store: Store) -> None:
        """Payment, edge, reason and time; its id is the same for each group."""
        await commit_events(store, await begin(store, "order_1"), 1)
        event = await next_event(await opened(store, "m"))
        written = msgspec.msgpack.decode(transition("order_1", 1))
        assert round(event.at.timestamp() * 1000) == written.pop("at_ms")
        read = msgspec.structs.asdict(event)
        assert {name: read[name] for name in written} == written
        assert await drained(await opened(store, "other", "other")) == [event]

    async def test_the_events_of_a_payment_come_in_their_order(self, store: Store) -> None:
        """With events of other orders between them, and few fetched at once."""
        orders = {f"order_{i}": await begin(store, f"order_{i}") for i in range(6)}
        async with Feed(store, "mailer", batch=2) as feed:
            for first in (1, 4, 7):
                for order_id, order in orders.items():
                    orders[order_id] = await commit_events(store, order, 3, first)
            found = await handled(feed)
        assert len(found) == 54
        for order_id in orders:
            assert numbers(found, order_id) == list(range(1, 10))

    async def test_groups_read_independently(self, store: Store) -> None:
        """Each group gets all events, whatever the others have acknowledged."""
        await commit_events(store, await begin(store, "order_1"), 5)
        async with Feed(store, "mailer") as mailer, Feed(store, "ledger") as ledger:
            assert numbers(await handled(mailer)) == [1, 2, 3, 4, 5]
            assert numbers(await drained(ledger)) == [1, 2, 3, 4, 5]

    async def test_a_new_group_may_begin_now(self, store: Store) -> None:
        """It gets later events only; opened again, it goes on where it was."""
        order = await commit_events(store, await begin(store, "order_1"), 3)
        async with Feed(store, "mailer", start="now") as feed:
            assert await drained(feed) == []
        await commit_events(store, order, 2, 4)
        async with Feed(store, "mailer", start="now") as feed:
            assert numbers(await drained(feed)) == [4, 5]

    async def test_a_group_that_begins_now_does_not_miss_what_was_dropped_before(
        self, store: Store
    ) -> None:
        """Entries that were dropped earlier were never its own: no gap."""
        count = self.feed_max + 200
        snapshot = await commit_events(store, await begin(store, "order_1"), count)
        feed = await opened(store, "m", start="now")
        assert await drained(feed) == []
        await commit_events(store, snapshot, 2, count + 1)
        found = await drained(feed)
        assert (numbers(found), lost(found)) == ([count + 1, count + 2], [])

    # at least once

    async def test_an_acknowledged_event_does_not_come_again(self, store: Store) -> None:
        """And later events come."""
        order = await commit_events(store, await begin(store, "order_1"), 3)
        async with Feed(store, "mailer") as feed:
            assert len(await handled(feed)) == 3
        await commit_events(store, order, 1, 4)
        async with Feed(store, "mailer") as feed:
            assert numbers(await handled(feed)) == [4]

    async def test_an_acknowledgement_covers_what_came_before_it(self, store: Store) -> None:
        """After the third of five, only the last two come again."""
        await commit_events(store, await begin(store, "order_1"), 5)
        async with Feed(store, "mailer") as feed:
            await feed.ack((await drained(feed))[2])
        async with Feed(store, "mailer") as feed:
            assert numbers(await drained(feed)) == [4, 5]

    async def test_a_restarted_consumer_gets_its_unacknowledged_events_at_once(
        self, store: Store
    ) -> None:
        """It died between reading and acknowledging; its own lease does not keep it waiting."""
        await commit_events(store, await begin(store, "order_1"), 3)
        dead = await opened(store, "m")
        await dead.ack((await drained(dead))[0])
        assert numbers(await handled(await opened(store, "m"))) == [2, 3]

    async def test_a_dead_consumers_events_go_to_another(self, store: Store) -> None:
        """After its lease has ended, from the first unacknowledged event on."""
        await commit_events(store, await begin(store, "order_1"), 3)
        dead = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(dead)
        await dead.ack(event)
        assert numbers(await drained(dead)) == [2, 3]
        successor = await opened(store, beside(event, takes=True))
        assert await drained(successor) == []
        await self.later(store, _LEASE_S + 0.1)
        assert numbers(await handled(successor)) == [2, 3]
        assert successor.consumers == (successor.consumer,)

    async def test_a_consumer_that_lost_its_lease_cannot_acknowledge(self, store: Store) -> None:
        """It gets a `Conflict`, and the consumer that has the partition now is not disturbed."""
        await commit_events(store, await begin(store, "order_1"), 2)
        slow = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(slow)
        await self.later(store, _LEASE_S + 0.1)
        quick = await opened(store, beside(event, takes=True))
        assert await next_event(quick) == event
        with pytest.raises(Conflict):
            await slow.ack(event)
        assert await slow.poll() is None
        assert numbers(await handled(quick)) == [2]

    async def test_a_consumer_that_gets_a_partition_back_goes_on_where_the_other_stopped(
        self, store: Store
    ) -> None:
        """The items that it had fetched before are dropped: some are acknowledged by now."""
        await commit_events(store, await begin(store, "order_1"), 5)
        slow = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(slow)
        await self.later(store, _LEASE_S + 0.1)
        async with Feed(store, "mailer", consumer=beside(event, takes=True)) as quick:
            await quick.ack((await drained(quick))[1])
        assert numbers(await drained(slow)) == [3, 4, 5]

    async def test_an_ended_lease_that_no_other_consumer_took_still_counts(
        self, store: Store
    ) -> None:
        """A slow handler can still acknowledge its event."""
        await commit_events(store, await begin(store, "order_1"), 2)
        slow = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(slow)
        await self.later(store, _LEASE_S + 0.1)
        await slow.ack(event)
        assert numbers(await drained(await opened(store, "m"))) == [2]

    async def test_only_events_that_were_handed_out_are_acknowledged(self, store: Store) -> None:
        """Another group's event would move this group past events that it never got."""
        await commit_events(store, await begin(store, "order_1"), 2)
        mailer = await opened(store, "m")
        event = (await drained(mailer))[1]
        async with Feed(store, "ledger") as ledger:
            await next_event(ledger)
            with pytest.raises(InvalidInput):
                await ledger.ack(event)
            await mailer.ack(event)

    # several consumers

    async def test_two_consumers_share_the_feed(self, store: Store) -> None:
        """Both get events where there is more than one partition, and no event comes to both."""
        first, second = await opened(store, "m"), await opened(store, "n")
        for i in range(32):
            await commit_events(store, await begin(store, f"order_{i}"), 2)
        shares = [await handled(first), await handled(second)]
        assert [numbers(shares[0] + shares[1], f"order_{i}") for i in range(32)] == [[1, 2]] * 32
        if store.feed().partitions > 1:
            assert all(shares)

    async def test_a_consumer_that_joins_gets_its_half(self, store: Store) -> None:
        """The first one gives back the partitions of the other's share."""
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
        """A consumer keeps a partition until its current event is acknowledged."""
        await commit_events(store, await begin(store, "order_1"), 3)
        first = await opened(store, "m", lease_s=_LEASE_S)
        event = await next_event(first)
        second = await opened(store, beside(event, takes=True))
        await self.later(store, _LEASE_S * 0.3)
        assert await first.poll() is None
        assert await second.poll() is None
        await first.ack(event)
        assert numbers(await drained(second)) == [2, 3]

    async def test_the_partitions_of_a_closed_consumer_are_free_at_once(self, store: Store) -> None:
        """The events that it did not acknowledge come to the others."""
        await commit_events(store, await begin(store, "order_1"), 2)
        async with Feed(store, "mailer") as feed:
            assert len(await drained(feed)) == 2
        assert numbers(await drained(await opened(store, "z"))) == [1, 2]

    async def test_leases_are_renewed_while_events_wait_for_their_handler(
        self, store: Store
    ) -> None:
        """Many events were fetched at once: while they are handled, no other consumer gets them."""
        await commit_events(store, await begin(store, "order_1"), 5)
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
        """A replaced process gets no more events, and cannot acknowledge."""
        await commit_events(store, await begin(store, "order_1"), 2)
        older = await opened(store, "m")
        event = await next_event(older)
        await self.later(store, 0.05)
        newer = await opened(store, "m")
        assert numbers(await drained(newer)) == [1, 2]
        with pytest.raises(Conflict):
            await older.ack(event)
        assert await older.poll() is None

    # trimming

    async def test_a_feed_without_groups_stays_small(self, store: Store) -> None:
        """A new group gets the newest entries, and no gap: the older ones were never its own."""
        await commit_events(store, await begin(store, "order_1"), self.feed_max + 200)
        found = await drained(await opened(store, "m", batch=10_000))
        assert self.feed_max <= len(found) < self.feed_max + 200
        assert numbers(found) == list(range(201 + self.feed_max - len(found), self.feed_max + 201))

    async def test_events_that_a_group_has_not_acknowledged_are_kept(self, store: Store) -> None:
        """Many more than a feed without groups keeps."""
        order = await begin(store, "order_1")
        async with Feed(store, "mailer"):
            pass
        await commit_events(store, order, self.feed_max * 5)
        found = await drained(await opened(store, "m", batch=10_000))
        assert numbers(found) == list(range(1, self.feed_max * 5 + 1))

    async def test_events_that_every_group_has_acknowledged_are_dropped(self, store: Store) -> None:
        """The feed shrinks again after the last group has caught up."""
        order = await begin(store, "order_1")
        async with Feed(store, "mailer", batch=10_000) as feed:
            order = await commit_events(store, order, self.feed_max * 9)
            await feed.ack((await drained(feed))[-1])
        await commit_events(store, order, 80)
        found = await drained(await opened(store, "m", "late", batch=10_000))
        assert lost(found) == []
        assert len(found) < self.feed_max * 9

    async def test_a_gap_counts_exactly_the_missed_events(self, store: Store) -> None:
        """One gap comes before the events that are left, and no other between them."""
        total = self.feed_max * 12
        order = await begin(store, "order_1")
        feed = await opened(store, "m", batch=10_000)
        await commit_events(store, order, total)
        found = await handled(feed)
        assert isinstance(found[0], FeedGap)
        assert len(lost(found)) == 1
        assert numbers(found) == list(range(lost(found)[0] + 1, total + 1))
        assert await drained(await opened(store, "m")) == []

    async def test_a_gap_comes_again_until_it_is_acknowledged(self, store: Store) -> None:
        """Like an event: a consumer may die with it."""
        order = await begin(store, "order_1")
        dead = await opened(store, "m")
        await commit_events(store, order, self.feed_max * 12)
        gap = await dead.poll()
        successor = await opened(store, "m")
        assert isinstance(gap, FeedGap)
        assert await successor.poll() == gap
        await successor.ack(gap)
        rest = await drained(await opened(store, "m", batch=10_000))
        assert (lost(rest), numbers(rest)[0]) == ([], gap.lost + 1)

    async def test_events_that_were_handed_out_before_they_were_dropped_are_no_gap(
        self, store: Store
    ) -> None:
        """Four events are not in the store any more; the gap does not count them."""
        total = self.feed_max * 12
        order = await commit_events(store, await begin(store, "order_1"), 4)
        feed = await opened(store, "m", batch=4)
        events = [await next_event(feed) for _ in range(4)]
        await commit_events(store, order, total - 4, 5)
        await feed.ack(events[-1])
        found = await handled(feed)
        assert len(lost(found)) == 1
        assert 4 + lost(found)[0] + len(numbers(found)) == total

    async def test_a_forgotten_group_begins_anew(self, store: Store) -> None:
        """Its open consumers get a `Conflict`, and the store keeps nothing for it."""
        await commit_events(store, await begin(store, "order_1"), 2)
        feed = await opened(store, "m")
        await handled(feed)
        assert await feed.forget()
        assert not await feed.forget()
        with pytest.raises(Conflict):
            await feed.poll()
        assert numbers(await drained(await opened(store, "z"))) == [1, 2]
