"""The part of the suite about finding payments: wake times and lists."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import pytest

from cfflow.core.actions import AskOtp
from cfflow.core.chart import State
from cfflow.core.record import Review, Snapshot
from cfflow.store.protocol import Outcome, Overdue, Store
from cfflow.testing.conformance.helpers import FLOW, a_plan, a_record, begin, due, ids, written
from cfflow.testing.conformance.part import ConformancePart

_MINUTE_MS: Final = 60_000


class IndexConformance(ConformancePart):
    """Tests of leases and lists. `StoreConformance` has them too."""

    # wake times

    async def test_a_lease_returns_whole_payments_that_are_due(self, store: Store) -> None:
        """With record, next action and order entry; only the due ones."""
        ready = await begin(store, "order_1")
        ready = await written(store, ready, action=AskOtp(), wake_at_ms=store.now_ms() - 1)
        await due(store, "order_2", store.now_ms() + _MINUTE_MS)
        never = await begin(store, "order_3")
        await written(store, never, wake_at_ms=None)
        assert await self._leased(store) == [ready]

    async def test_a_started_payment_is_due_at_its_own_wake_time(self, store: Store) -> None:
        """The start writes the wake time too, so that no payment is forgotten."""
        record = a_record(store, wake_at_ms=store.now_ms() - 1)
        started = await store.start("order_1", record, FLOW)
        assert await self._leased(store) == [started.snapshot]

    async def test_a_leased_payment_is_hidden_until_its_lease_ends(self, store: Store) -> None:
        """No other worker gets it meanwhile; after a worker's death the lease ends by itself."""
        await due(store, "order_1", store.now_ms() - 1)
        assert len(await self._leased(store, lease_ms=200)) == 1
        assert await self._leased(store) == []
        await self.later(store, 0.3)
        assert len(await self._leased(store)) == 1

    async def test_workers_that_lease_at_once_share_the_payments(self, store: Store) -> None:
        """Every due payment goes to exactly one of them."""
        for i in range(12):
            await due(store, f"order_{i}", store.now_ms() - 1)
        leases = await asyncio.gather(*(self._leased(store) for _ in range(4)))
        leased = sorted(snapshot.id for lease in leases for snapshot in lease)
        assert leased == sorted(f"order_{i}.1" for i in range(12))

    async def test_a_commit_during_a_lease_sets_the_wake_time(self, store: Store) -> None:
        """The plan's wake time replaces the end of the lease, be it sooner, later or never."""
        now_ms = store.now_ms()
        leased = await due(store, "order_1", now_ms - 1)
        await self._leased(store)
        again = await written(store, leased, wake_at_ms=now_ms - 1)
        assert await self._leased(store) == [again]
        await written(store, again, wake_at_ms=None)
        await self.later(store, 0.02)
        assert await self._leased(store) == []

    async def test_a_stale_workers_commit_loses(self, store: Store) -> None:
        """A lease only saves work; the version protects the payment."""
        leased = await due(store, "order_1", store.now_ms() - 1)
        await self._leased(store)
        await written(store, leased, polls=1)
        assert (await store.commit(a_plan(leased, polls=7))).outcome is Outcome.CONFLICT

    async def test_a_lease_takes_the_newest_and_a_quarter_of_the_oldest(self, store: Store) -> None:
        """Under overload the newest are looked at in time and the oldest are not forgotten."""
        await self._overdue(store, 20)
        leased = await self._leased(store, limit=8)
        assert sorted(s.n for s in leased) == [1, 2, 15, 16, 17, 18, 19, 20]

    async def test_even_leases_of_one_reach_the_oldest(self, store: Store) -> None:
        """One in four is the oldest, so that small leases leave no payment out."""
        await self._overdue(store, 8)
        leased = [(await self._leased(store, limit=1))[0].n for _ in range(4)]
        assert sorted(leased) == [1, 6, 7, 8]

    async def test_a_lease_never_takes_more_than_its_limit(self, store: Store) -> None:
        """A worker with room for three gets no more, however many partitions there are."""
        for i in range(24):
            await due(store, f"order_{i}", store.now_ms() - 1)
        for limit in (1, 2, 3, 5):
            assert len(await store.lease(limit, 1)) <= limit

    async def test_small_leases_reach_every_payment(self, store: Store) -> None:
        """A store with partitions takes one after the other: none of them is left out."""
        expected = {(await due(store, f"order_{i}", store.now_ms() - 1)).id for i in range(24)}
        leased: set[str] = set()
        for _ in range(24 * self.partitions):
            leased |= {snapshot.id for snapshot in await store.lease(1, _MINUTE_MS)}
        assert leased == expected

    @pytest.mark.parametrize("share", [2, 4, 8])
    async def test_small_leases_reach_the_oldest_too(self, store: Store, share: int) -> None:
        """In each partition every fourth turn is the oldest's."""
        await self._overdue(store, 8)
        limit = max(1, self.partitions // share)
        leased: list[int] = []
        while len(leased) < 4:
            leased += [snapshot.n for snapshot in await store.lease(limit, _MINUTE_MS)]
        assert sorted(leased) == [1, 6, 7, 8]

    async def _overdue(self, store: Store, count: int) -> None:
        """Make payments of one order; each became due 1 ms after the one before."""
        long_ago = store.now_ms() - _MINUTE_MS
        for n in range(1, count + 1):
            snapshot = await begin(store, "order_1")
            await written(store, snapshot, abandoned=True, wake_at_ms=long_ago + n)

    async def _leased(
        self, store: Store, *, limit: int = 100, lease_ms: int = _MINUTE_MS
    ) -> Sequence[Snapshot]:
        return await store.lease(limit * self.partitions, lease_ms)

    # leases that are given back

    async def test_a_deferred_payment_is_due_at_its_new_time(self, store: Store) -> None:
        """Not before, however long its lease was."""
        leased = await due(store, "order_1", store.now_ms() - 1)
        await self._leased(store)
        await store.defer(leased, store.now_ms() + 200)
        assert await self._leased(store) == []
        await self.later(store, 0.3)
        assert await self._leased(store) == [leased]

    async def test_a_payment_that_has_changed_is_not_deferred(self, store: Store) -> None:
        """The wake time of a newer commit wins over that of the worker that leased before it."""
        leased = await due(store, "order_1", store.now_ms() - 1)
        await self._leased(store)
        moved = await written(store, leased, wake_at_ms=store.now_ms() - 1)
        await store.defer(leased, store.now_ms() + _MINUTE_MS)
        assert await self._leased(store) == [moved]

    async def test_a_payment_without_a_wake_time_is_not_deferred(self, store: Store) -> None:
        """Neither one at its end, nor one that does not exist."""
        ended = await written(store, await begin(store, "order_1"), wake_at_ms=None)
        for snapshot in (ended, msgspec.structs.replace(ended, order_id="order_2")):
            await store.defer(snapshot, store.now_ms() - 1)
        assert await self._leased(store) == []

    async def test_overdue_counts_payments_that_are_due_and_not_leased(self, store: Store) -> None:
        """How many, and since when the oldest is due."""
        assert await store.overdue() == Overdue(0, None)
        now_ms = store.now_ms()
        for i in range(3):
            await due(store, f"order_{i}", now_ms - 3_000 + i)
        await due(store, "order_9", now_ms + _MINUTE_MS)
        assert await store.overdue() == Overdue(3, now_ms - 3_000)
        await self._leased(store)
        assert (await store.overdue()).count == 0

    # lists

    async def test_a_list_follows_the_state(self, store: Store) -> None:
        """A payment is in the list of its own state, and in no other."""
        snapshot = await begin(store, "order_1")
        assert await ids(store, State.CREATED) == ["order_1.1"]
        await written(store, snapshot, state=State.INITIATED)
        assert await ids(store, State.CREATED) == []
        assert await ids(store, State.INITIATED) == ["order_1.1"]
        assert await ids(store) == ["order_1.1"]

    async def test_a_list_is_ordered_by_time_and_cut_at_its_limit(self, store: Store) -> None:
        """Oldest first, of all states and partitions."""
        now_ms = store.now_ms()
        for i in range(12):
            record = a_record(store, created_at_ms=now_ms - i * 1000)
            started = await store.start(f"order_{i:02}", record, FLOW)
            if i % 2:
                await written(store, started.snapshot, state=State.FAILED)
        expected = [f"order_{i:02}.1" for i in reversed(range(12))]
        assert await ids(store) == expected
        assert await ids(store, limit=5) == expected[:5]
        assert await ids(store, State.FAILED, limit=2) == ["order_11.1", "order_09.1"]

    async def test_a_list_includes_both_ends_of_its_time(self, store: Store) -> None:
        """Payments created at the first and at the last millisecond belong to it."""
        now_ms = store.now_ms()
        for i in range(5):
            await store.start(f"order_{i}", a_record(store, created_at_ms=now_ms + i), FLOW)
        assert await ids(store, from_at_ms=now_ms + 1, to_at_ms=now_ms + 3) == [
            "order_1.1",
            "order_2.1",
            "order_3.1",
        ]
        assert await ids(store, from_at_ms=now_ms + 4) == ["order_4.1"]
        assert await ids(store, to_at_ms=now_ms) == ["order_0.1"]

    async def test_the_list_of_reviews_follows_the_open_ones(self, store: Store) -> None:
        """A payment is in it while one of its reviews is open."""
        snapshot = await begin(store, "order_1")
        await begin(store, "order_2")
        opened = Review("two_holds", snapshot.record.created_at_ms)
        reviewed = await written(store, snapshot, reviews=(opened,))
        assert await ids(store, review=True) == ["order_1.1"]
        reviewed = await written(store, reviewed, polls=1)
        assert await ids(store, review=True) == ["order_1.1"]
        closed = msgspec.structs.replace(opened, acknowledged_at_ms=1)
        await written(store, reviewed, reviews=(closed,))
        assert await ids(store, review=True) == []

    async def test_reviews_of_one_state_are_found_behind_many_of_another(
        self, store: Store
    ) -> None:
        """The limit counts the payments of the page, not those that were passed over."""
        reviews = (Review("held_not_captured", 1),)
        for i in range(6):
            snapshot = await begin(store, f"order_{i}")
            state = State.CAPTURED if i == 5 else State.AUTHORIZED
            await written(store, snapshot, state=state, reviews=reviews)
        assert await ids(store, State.CAPTURED, review=True, limit=1) == ["order_5.1"]
