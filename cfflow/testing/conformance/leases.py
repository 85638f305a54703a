"""The part of the suite about due orders: leases, how they end, and what is put off."""

from __future__ import annotations

import asyncio

import pytest

from cfflow.store.protocol import PUT_BACK_INDEX, Outcome, Overdue, Store, StoredOrder, Window
from cfflow.testing.conformance.helpers import (
    MINUTE_MS,
    SECOND_MS,
    SHORT_MS,
    SHORT_S,
    a_notification,
    begin,
    changed,
    digest_of,
    due,
    due_count,
    following,
    ids,
    outcome_is,
    removing,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart


class LeaseConformance(ConformancePart):
    """Tests of which orders are due, and who works on them. `StoreConformance` has them too."""

    async def _leased(self, store: Store, lease_ms: int = MINUTE_MS) -> StoredOrder:
        """Lease the one order that is due."""
        ((order, _),) = (await self.lease_all(store, lease_ms)).orders
        return order

    async def _is_due_since_the_end_of(self, store: Store, until_at_ms: int) -> None:
        """Check when the one due order became due; the nodes of a store may differ a little."""
        overdue = await store.overdue()
        assert overdue.count == 1
        assert overdue.since_at_ms is not None
        assert until_at_ms <= overdue.since_at_ms <= until_at_ms + SECOND_MS

    # what is leased

    async def test_a_lease_returns_whole_orders_that_are_due(self, store: Store) -> None:
        """With actions, notifications and the lease's name; not those of later or never."""
        await due(store, "order_1", actions=b"press")
        await begin(store, "order_2", wake_at_ms=store.now_ms() + MINUTE_MS)
        await begin(store, "order_3", wake_at_ms=None)
        await store.notify(a_notification(), digest_of("77"))
        found = await self._leased(store)
        assert found.lease
        order = await stored(store)
        assert order.lease == ""
        assert (found.id, found.stamp, found.token) == (order.id, order.stamp, order.token)
        assert (found.record, found.actions) == (order.record, b"press")
        assert found.notices == order.notices
        assert found.notices

    async def test_a_lease_returns_when_it_ends(self, store: Store) -> None:
        """On the store's clock; each lease has a name of its own."""
        names = set()
        for number in range(3):
            await due(store, f"order_{number}")
            before = store.now_ms()
            leased = await self.lease_all(store)
            assert before - 50 <= leased.until_at_ms - MINUTE_MS <= store.now_ms() + 50
            names |= {order.lease for order, _ in leased.orders}
        assert len(names) == 3

    async def test_nothing_is_leased_where_nothing_is_due(self, store: Store) -> None:
        """No order, and none that cannot be read."""
        leased = await self.lease_all(store)
        assert (leased.orders, leased.unreadable) == ((), ())

    async def test_no_other_worker_gets_a_leased_order(self, store: Store) -> None:
        """It is not overdue either."""
        await due(store)
        await self._leased(store)
        assert (await self.lease_all(store)).orders == ()
        assert await store.overdue() == Overdue(0, None)

    async def test_a_lease_ends_by_itself(self, store: Store) -> None:
        """The worker that had it may be dead."""
        await due(store)
        first = await self._leased(store, SHORT_MS)
        await self.later(store, SHORT_S)
        assert (await self._leased(store)).lease != first.lease

    async def test_workers_that_lease_at_once_share_the_orders(self, store: Store) -> None:
        """Every due order goes to exactly one of them."""
        for number in range(12):
            await due(store, f"order_{number}")
        leases = await asyncio.gather(*(self.lease_all(store) for _ in range(4)))
        found = sorted(order_id for leased in leases for order_id in ids(leased))
        assert found == sorted(f"order_{number}" for number in range(12))

    # commits and notifications beside a lease

    async def test_a_commit_by_others_waits_for_the_end_of_the_lease(self, store: Store) -> None:
        """Two would work on the order at once; and no lease but the holder's own ends it."""
        order = await due(store)
        await self._leased(store)
        for lease in ("", "of another worker"):
            order = await changed(store, order, wake_at_ms=1, lease=lease)
            assert await due_count(store) == 0

    async def test_after_the_lease_the_order_is_due_as_others_left_it(self, store: Store) -> None:
        """From the lease's end on, if they wanted it sooner."""
        order = await due(store)
        until_at_ms = (await self.lease_all(store, SHORT_MS)).until_at_ms
        await changed(store, order, wake_at_ms=1)
        await self.later(store, SHORT_S)
        await self._is_due_since_the_end_of(store, until_at_ms)

    async def test_others_may_put_off_a_leased_order(self, store: Store) -> None:
        """A time after the lease's end counts, and so does never."""
        for order_id, wake_at_ms in (("order_1", store.now_ms() + MINUTE_MS), ("order_2", None)):
            order = await due(store, order_id)
            await self.lease_all(store, SHORT_MS)
            await changed(store, order, wake_at_ms=wake_at_ms)
        await self.later(store, SHORT_S)
        assert await due_count(store) == 0

    async def test_a_notification_waits_for_the_end_of_the_lease(self, store: Store) -> None:
        """The holder may settle it; a commit by others that leaves it changes nothing of that."""
        order = await due(store)
        await self._leased(store)
        await store.notify(a_notification(), digest_of("77"))
        assert await due_count(store) == 0
        await changed(store, order, wake_at_ms=None)
        assert await due_count(store) == 0

    async def test_after_the_lease_an_order_with_a_notification_is_due(self, store: Store) -> None:
        """Even if it was never due by itself."""
        order = await due(store)
        until_at_ms = (await self.lease_all(store, SHORT_MS)).until_at_ms
        await store.notify(a_notification(), digest_of("77"))
        await changed(store, order, wake_at_ms=None)
        await self.later(store, SHORT_S)
        await self._is_due_since_the_end_of(store, until_at_ms)

    async def test_the_holders_commit_ends_its_lease(self, store: Store) -> None:
        """The order is due at the commit's time, and then others get it."""
        await due(store)
        leased = await self._leased(store)
        order = await changed(store, leased, lease=leased.lease, wake_at_ms=1)
        assert (await self._leased(store)).token == order.token

    async def test_after_the_holders_commit_others_are_not_kept_waiting(self, store: Store) -> None:
        """Neither their commits nor notifications."""
        await due(store)
        leased = await self._leased(store)
        order = await changed(store, leased, lease=leased.lease, wake_at_ms=None)
        order = await changed(store, order, wake_at_ms=1)
        assert await due_count(store) == 1
        await changed(store, order, wake_at_ms=None)
        await store.notify(a_notification(), digest_of("77"))
        assert await due_count(store) == 1

    async def test_a_notification_that_the_holder_leaves_makes_the_order_due_now(
        self, store: Store
    ) -> None:
        """It came after the holder's inquiry."""
        await due(store)
        leased = await self._leased(store)
        await store.notify(a_notification(), digest_of("77"))
        await changed(store, leased, lease=leased.lease, wake_at_ms=None)
        assert await due_count(store) == 1

    async def test_an_expired_lease_keeps_nothing_waiting(self, store: Store) -> None:
        """Neither a commit by others nor its own holder's."""
        await due(store)
        leased = await self._leased(store, SHORT_MS)
        await self.later(store, SHORT_S)
        order = await changed(store, leased, wake_at_ms=1)
        assert (await store.overdue()).since_at_ms == 1
        await changed(store, order, lease=leased.lease, wake_at_ms=2)
        assert (await store.overdue()).since_at_ms == 2

    async def test_a_late_holder_does_not_end_the_lease_of_the_next(self, store: Store) -> None:
        """Its commit is written, since the order has not changed."""
        await due(store)
        late = await self._leased(store, SHORT_MS)
        await self.later(store, SHORT_S)
        await self._leased(store)
        order = await changed(store, late, lease=late.lease, wake_at_ms=1)
        assert await due_count(store) == 0
        await store.defer("order_1", 1, token=order.token, lease=late.lease)
        assert await due_count(store) == 0

    async def test_a_lease_does_not_guard_an_order(self, store: Store) -> None:
        """It only saves work: of two commits the first wins, whoever has the lease."""
        order = await due(store)
        leased = await self._leased(store)
        await changed(store, order)
        await outcome_is(Outcome.CONFLICT, store, following(leased, lease=leased.lease))

    # which of many

    async def _overdue(self, store: Store, count: int) -> list[str]:
        """Make orders of one partition; each became due 1 ms after the one before."""
        names = self.together(store, count)
        long_ago = store.now_ms() - MINUTE_MS
        for number, order_id in enumerate(names):
            await begin(store, order_id, wake_at_ms=long_ago + number)
        return names

    async def test_a_lease_takes_the_newest_and_a_quarter_of_the_oldest(self, store: Store) -> None:
        """Under overload the newest are looked at in time and the oldest are not forgotten."""
        names = await self._overdue(store, 20)
        leased = await store.lease(8 * self.partitions, MINUTE_MS)
        assert ids(leased) == sorted([*names[:2], *names[-6:]])

    async def test_even_leases_of_one_reach_the_oldest(self, store: Store) -> None:
        """One in four is the oldest, so that small leases leave no order out."""
        names = await self._overdue(store, 8)
        leased = [ids(await store.lease(self.partitions, MINUTE_MS))[0] for _ in range(4)]
        assert sorted(leased) == sorted([names[0], *names[-3:]])

    async def test_a_lease_never_takes_more_than_its_limit(self, store: Store) -> None:
        """A worker with room for three gets no more, however many partitions there are."""
        for number in range(24):
            await due(store, f"order_{number}")
        for limit in (1, 2, 3, 5):
            assert len((await store.lease(limit, 0)).orders) <= limit

    async def test_small_leases_reach_every_order(self, store: Store) -> None:
        """A store with partitions takes one after the other: none of them is left out."""
        expected = {(await due(store, f"order_{number}")).id for number in range(24)}
        leased: set[str] = set()
        for _ in range(24 * self.partitions):
            leased.update(ids(await store.lease(1, MINUTE_MS)))
        assert leased == expected

    @pytest.mark.parametrize("share", [2, 4, 8])
    async def test_small_leases_reach_the_oldest_too(self, store: Store, share: int) -> None:
        """In each partition every fourth turn is the oldest's."""
        names = await self._overdue(store, 8)
        limit = max(1, self.partitions // share)
        leased: list[str] = []
        while len(leased) < 4:
            leased += ids(await store.lease(limit, MINUTE_MS))
        assert sorted(leased) == sorted([names[0], *names[-3:]])

    # put off

    async def test_a_deferred_order_is_due_at_its_new_time(self, store: Store) -> None:
        """Not before, however long its lease was; and the lease has ended."""
        await due(store)
        for wake_at_ms, count in ((store.now_ms() + MINUTE_MS, 0), (1, 1)):
            leased = await self._leased(store)
            await self._deferred(store, leased, wake_at_ms)
            assert await due_count(store) == count
            await store.notify(a_notification(), digest_of("77"))
            assert await due_count(store) == 1
        assert (await self._leased(store)).token == leased.token

    async def _deferred(self, store: Store, order: StoredOrder, wake_at_ms: int) -> None:
        result = await store.defer("order_1", wake_at_ms, token=order.token, lease=order.lease)
        assert result is None

    async def _put_back(self, store: Store, order: StoredOrder, since_at_ms: int | None) -> None:
        """Put an order back by a minute, as a worker does that has failed; None: it has not."""
        at_ms = store.now_ms() + MINUTE_MS
        done = await store.defer(
            order.id, at_ms, token=order.token, lease=order.lease, since_at_ms=since_at_ms
        )
        assert done is None

    async def test_an_order_that_was_put_back_is_late_all_the_same(self, store: Store) -> None:
        """Nothing is due, and it is late since the first time; a later failure changes nothing."""
        await due(store)
        leased = await self._leased(store)
        for since_at_ms in (5, 9):
            await self._put_back(store, leased, since_at_ms)
            assert await store.overdue() == Overdue(0, 5, put_back=1)
        assert list(await store.find(Window((PUT_BACK_INDEX,)))) == [("order_1", 5)]
        await store.notify(a_notification(), digest_of("77"))
        assert await store.overdue() == Overdue(1, 5, put_back=1)
        await self.lease_all(store)
        assert await store.overdue() == Overdue(0, 5, put_back=1)

    @pytest.mark.parametrize("ended", ["by a commit", "by a look", "by its removal"])
    async def test_an_order_is_put_back_until_it_is_settled(self, store: Store, ended: str) -> None:
        """By any commit, its removal too, or by a worker that puts it off without failure."""
        await due(store, "order_2")
        order = await due(store)
        for each, _ in (await self.lease_all(store)).orders:
            await self._put_back(store, each, 3 if each.id == "order_2" else 2)
        assert await store.overdue() == Overdue(0, 2, put_back=2)
        if ended == "by a commit":
            await changed(store, order, wake_at_ms=store.now_ms() + MINUTE_MS)
        elif ended == "by a look":
            await self._put_back(store, order, None)
        else:
            await outcome_is(Outcome.APPLIED, store, removing(order))
        assert await store.overdue() == Overdue(0, 3, put_back=1)

    async def test_an_order_that_has_changed_or_is_never_due_is_not_put_back(
        self, store: Store
    ) -> None:
        """A newer commit has settled it, and one at its end is not late."""
        order = await due(store)
        await changed(store, order, wake_at_ms=None)
        at_ms = store.now_ms() + MINUTE_MS
        for token in (order.token, (await stored(store)).token):
            await store.defer("order_1", at_ms, token=token, since_at_ms=1)
            assert await store.overdue() == Overdue(0, None)

    async def test_without_its_lease_an_order_is_deferred_to_the_end_of_it(
        self, store: Store
    ) -> None:
        """Another worker still works on it."""
        order = await due(store)
        until_at_ms = (await self.lease_all(store, SHORT_MS)).until_at_ms
        await self._deferred(store, order, 1)
        await self.later(store, SHORT_S)
        await self._is_due_since_the_end_of(store, until_at_ms)
        await self._deferred(store, order, 1)
        assert await store.overdue() == Overdue(1, 1)

    async def test_an_order_that_has_changed_is_not_deferred(self, store: Store) -> None:
        """The time of a newer commit counts, and its lease goes on; the order is returned."""
        order = await due(store)
        leased = await self._leased(store)
        newest = await changed(store, order, wake_at_ms=1)
        found = await store.defer("order_1", 1, token=leased.token, lease=leased.lease)
        assert found == newest
        assert await due_count(store) == 0
        assert await store.defer("order_1", 1, token=newest.token, lease=leased.lease) is None
        assert await due_count(store) == 1

    async def test_an_order_that_is_never_due_is_not_deferred(self, store: Store) -> None:
        """Neither one at its end, nor one that does not exist."""
        ended = await begin(store, wake_at_ms=None)
        for order_id in ("order_1", "order_2"):
            assert await store.defer(order_id, 1, token=ended.token) is None
        assert await store.overdue() == Overdue(0, None)

    async def test_overdue_counts_orders_that_are_due_and_not_leased(self, store: Store) -> None:
        """How many, and since when the oldest is due."""
        assert await store.overdue() == Overdue(0, None)
        now_ms = store.now_ms()
        for number in range(3):
            await begin(store, f"order_{number}", wake_at_ms=now_ms - 3 * SECOND_MS + number)
        await begin(store, "order_9", wake_at_ms=now_ms + MINUTE_MS)
        assert await store.overdue() == Overdue(3, now_ms - 3 * SECOND_MS)
        await self.lease_all(store)
        assert await store.overdue() == Overdue(0, None)
