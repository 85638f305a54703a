"""The part of the suite for stores that is about finding payments: wake times and lists."""

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

__all__ = ["IndexConformance"]

_MINUTE_MS: Final = 60_000


class IndexConformance(ConformancePart):
    """Tests of claims and lists; `StoreConformance` has them too."""

    # wake times

    async def test_a_claim_returns_whole_payments_that_are_due(self, store: Store) -> None:
        """Record, next action and order entry, of the due ones only."""
        ready = await begin(store, "order_1")
        ready = await written(store, ready, action=AskOtp(), wake_at_ms=store.now_ms() - 1)
        await due(store, "order_2", store.now_ms() + _MINUTE_MS)
        never = await begin(store, "order_3")
        await written(store, never, wake_at_ms=None)
        assert await self._claimed(store) == [ready]

    async def test_a_started_payment_is_due_at_its_own_wake_time(self, store: Store) -> None:
        """The start writes the wake time too: from the first moment nothing is forgotten."""
        record = a_record(store, wake_at_ms=store.now_ms() - 1)
        started = await store.start("order_1", record, FLOW)
        assert await self._claimed(store) == [started.snapshot]

    async def test_a_leased_payment_is_hidden_until_its_lease_ends(self, store: Store) -> None:
        """Nobody else gets it meanwhile; a worker that died gives it back by dying."""
        await due(store, "order_1", store.now_ms() - 1)
        assert len(await self._claimed(store, lease_ms=200)) == 1
        assert await self._claimed(store) == []
        await self.later(store, 0.3)
        assert len(await self._claimed(store)) == 1

    async def test_workers_that_claim_at_once_share_the_payments(self, store: Store) -> None:
        """Every due payment goes to exactly one of them."""
        for i in range(12):
            await due(store, f"order_{i}", store.now_ms() - 1)
        claims = await asyncio.gather(*(self._claimed(store) for _ in range(4)))
        claimed = sorted(snapshot.id for claim in claims for snapshot in claim)
        assert claimed == sorted(f"order_{i}.1" for i in range(12))

    async def test_a_commit_during_a_lease_sets_the_wake_time(self, store: Store) -> None:
        """The plan's wake time wins over the lease, sooner, later or never."""
        now_ms = store.now_ms()
        leased = await due(store, "order_1", now_ms - 1)
        await self._claimed(store)
        again = await written(store, leased, wake_at_ms=now_ms - 1)
        assert await self._claimed(store) == [again]
        await written(store, again, wake_at_ms=None)
        await self.later(store, 0.02)
        assert await self._claimed(store) == []

    async def test_a_stale_workers_commit_loses(self, store: Store) -> None:
        """A lease is a courtesy; the version is what protects."""
        leased = await due(store, "order_1", store.now_ms() - 1)
        await self._claimed(store)
        await written(store, leased, polls=1)
        assert (await store.commit(a_plan(leased, polls=7))).outcome is Outcome.CONFLICT

    async def test_a_claim_takes_the_newest_and_a_quarter_of_the_oldest(self, store: Store) -> None:
        """Under overload the newest are served in time and the oldest are not forgotten."""
        await self._overdue(store, 20)
        claimed = await self._claimed(store, limit=8)
        assert sorted(s.n for s in claimed) == [1, 2, 15, 16, 17, 18, 19, 20]

    async def test_even_claims_of_one_reach_the_oldest(self, store: Store) -> None:
        """One in four, so that small claims starve nobody."""
        await self._overdue(store, 8)
        claimed = [(await self._claimed(store, limit=1))[0].n for _ in range(4)]
        assert sorted(claimed) == [1, 6, 7, 8]

    async def test_a_claim_never_takes_more_than_its_limit(self, store: Store) -> None:
        """A worker with room for three gets no more, in however many parts the store is."""
        for i in range(24):
            await due(store, f"order_{i}", store.now_ms() - 1)
        for limit in (1, 2, 3, 5):
            assert len(await store.lease(limit, 1)) <= limit

    async def test_small_claims_reach_every_payment(self, store: Store) -> None:
        """A store in parts serves one part after the other: none of them is left out."""
        expected = {(await due(store, f"order_{i}", store.now_ms() - 1)).id for i in range(24)}
        claimed: set[str] = set()
        for _ in range(24 * self.partitions):
            claimed |= {snapshot.id for snapshot in await store.lease(1, _MINUTE_MS)}
        assert claimed == expected

    @pytest.mark.parametrize("share", [2, 4, 8])
    async def test_small_claims_reach_the_oldest_too(self, store: Store, share: int) -> None:
        """In each part every fourth turn is the oldest's, however the turns fall."""
        await self._overdue(store, 8)
        limit = max(1, self.partitions // share)
        claimed: list[int] = []
        while len(claimed) < 4:
            claimed += [snapshot.n for snapshot in await store.lease(limit, _MINUTE_MS)]
        assert sorted(claimed) == [1, 6, 7, 8]

    async def _overdue(self, store: Store, count: int) -> None:
        """Make payments of one order, the n-th overdue since n ms later than the first."""
        long_ago = store.now_ms() - _MINUTE_MS
        for n in range(1, count + 1):
            snapshot = await begin(store, "order_1")
            await written(store, snapshot, abandoned=True, wake_at_ms=long_ago + n)

    async def _claimed(
        self, store: Store, *, limit: int = 100, lease_ms: int = _MINUTE_MS
    ) -> Sequence[Snapshot]:
        return await store.lease(limit * self.partitions, lease_ms)

    # claims that are given back

    async def test_a_deferred_payment_is_due_at_its_new_time(self, store: Store) -> None:
        """Not before, whatever its lease was."""
        leased = await due(store, "order_1", store.now_ms() - 1)
        await self._claimed(store)
        await store.defer(leased, store.now_ms() + 200)
        assert await self._claimed(store) == []
        await self.later(store, 0.3)
        assert await self._claimed(store) == [leased]

    async def test_what_has_moved_since_is_not_deferred(self, store: Store) -> None:
        """The wake time of a newer commit wins over that of whoever claimed before it."""
        leased = await due(store, "order_1", store.now_ms() - 1)
        await self._claimed(store)
        moved = await written(store, leased, wake_at_ms=store.now_ms() - 1)
        await store.defer(leased, store.now_ms() + _MINUTE_MS)
        assert await self._claimed(store) == [moved]

    async def test_what_waits_for_nothing_is_not_deferred(self, store: Store) -> None:
        """A payment at its end is not woken up again, nor is one that was never there."""
        ended = await written(store, await begin(store, "order_1"), wake_at_ms=None)
        for snapshot in (ended, msgspec.structs.replace(ended, order_id="order_2")):
            await store.defer(snapshot, store.now_ms() - 1)
        assert await self._claimed(store) == []

    async def test_overdue_counts_what_nobody_has_claimed(self, store: Store) -> None:
        """How many, and since when at the longest; leases and later times do not count."""
        assert await store.overdue() == Overdue(0, None)
        now_ms = store.now_ms()
        for i in range(3):
            await due(store, f"order_{i}", now_ms - 3_000 + i)
        await due(store, "order_9", now_ms + _MINUTE_MS)
        assert await store.overdue() == Overdue(3, now_ms - 3_000)
        await self._claimed(store)
        assert (await store.overdue()).count == 0

    # lists

    async def test_a_list_follows_the_state(self, store: Store) -> None:
        """A payment is in the list of the state in which it is, and in no other."""
        snapshot = await begin(store, "order_1")
        assert await ids(store, State.CREATED) == ["order_1.1"]
        await written(store, snapshot, state=State.INITIATED)
        assert await ids(store, State.CREATED) == []
        assert await ids(store, State.INITIATED) == ["order_1.1"]
        assert await ids(store) == ["order_1.1"]

    async def test_a_list_is_ordered_by_time_and_cut_at_its_limit(self, store: Store) -> None:
        """Oldest first, whatever the state and wherever the order lives."""
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

    async def test_a_list_begins_and_ends_where_it_was_asked_to(self, store: Store) -> None:
        """Both ends belong to it."""
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
        """In while a review is open, out once all are acknowledged."""
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
        """The limit counts what was asked for, not what was passed over."""
        reviews = (Review("held_not_captured", 1),)
        for i in range(6):
            snapshot = await begin(store, f"order_{i}")
            state = State.CAPTURED if i == 5 else State.AUTHORIZED
            await written(store, snapshot, state=state, reviews=reviews)
        assert await ids(store, State.CAPTURED, review=True, limit=1) == ["order_5.1"]
