"""The part of the suite about a store that restarted, and may have lost its last commits."""

from __future__ import annotations

from cfflow.core.restart import Restart
from cfflow.store.protocol import BEGUN_ANEW_MS, Outcome, Store, StoredOrder
from cfflow.testing.conformance.helpers import (
    MINUTE_MS,
    applied,
    begin,
    beginning,
    changed,
    due,
    following,
    outcome_is,
    removed,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart


async def present(store: Store, order: StoredOrder) -> Restart:
    """Return the present history of the data in which this order lies."""
    refused = following(order, verified="no such")
    return (await outcome_is(Outcome.RESTARTED, store, refused)).restart


async def verified(store: Store, order: StoredOrder) -> StoredOrder:
    """Commit an inquiry that verifies an order in the present history."""
    return await changed(store, order, verified=(await present(store, order)).history)


async def must_be_verified(store: Store, order: StoredOrder) -> None:
    """Check that no step of this order can be opened now."""
    await outcome_is(Outcome.RESTARTED, store, following(order, opens=True))


class RestartConformance(ConformancePart):
    """Tests of the stamp of orders. `StoreConformance` has them too."""

    async def _restarted(self, store: Store) -> int:
        """Restart the store, certainly after the last write, and return when that was."""
        await self.later(store, 0.005)
        since_at_ms = store.now_ms()
        await self.restart(store)
        await self.later(store, 0.005)
        return since_at_ms

    # without a restart

    async def test_an_order_begins_with_the_present_history_as_its_stamp(
        self, store: Store
    ) -> None:
        """So its steps need no inquiry before them."""
        order = await begin(store)
        assert await present(store, order) == Restart(order.stamp, 0)
        for _ in range(3):
            order = await changed(store, order, opens=True)

    async def test_an_order_may_begin_with_a_step(self, store: Store) -> None:
        """Nothing is lost that could have been sent before."""
        await begin(store, opens=True)

    async def test_an_order_that_has_its_stamp_can_be_verified_again(self, store: Store) -> None:
        """Two processes may have asked at once."""
        order = await begin(store)
        assert (await changed(store, order, verified=order.stamp)).stamp == order.stamp

    # after a restart

    async def test_after_a_restart_no_step_is_opened(self, store: Store) -> None:
        """However often it is tried; the caller gets the present history and since when it is."""
        order = await begin(store)
        since_at_ms = await self._restarted(store)
        for _ in range(2):
            refused = await outcome_is(Outcome.RESTARTED, store, following(order, opens=True))
            assert refused.restart.history not in {"", order.stamp}
            assert since_at_ms - 50 <= refused.restart.since_at_ms <= store.now_ms() + 50
            assert refused.restart == await present(store, order)
        assert await stored(store) == order

    async def test_other_commits_keep_the_stamp(self, store: Store) -> None:
        """They are written, and no number of them makes up for an inquiry."""
        order = await begin(store)
        stamp = order.stamp
        await self._restarted(store)
        for _ in range(3):
            order = await changed(store, order)
            assert order.stamp == stamp
            await must_be_verified(store, order)

    async def test_a_verified_commit_gives_the_present_history(self, store: Store) -> None:
        """After it all goes on as before the restart."""
        order = await begin(store)
        await self._restarted(store)
        restart = await present(store, order)
        order = await changed(store, order, verified=restart.history)
        assert order.stamp == restart.history
        order = await changed(store, order, opens=True)
        assert (await changed(store, order)).stamp == restart.history

    async def test_a_verified_commit_may_open_a_step(self, store: Store) -> None:
        """It was decided on an order of which nothing is lost."""
        order = await begin(store)
        await self._restarted(store)
        history = (await present(store, order)).history
        order = await changed(store, order, verified=history, opens=True)
        assert order.stamp == history

    async def test_an_inquiry_of_an_earlier_history_verifies_nothing(self, store: Store) -> None:
        """The store restarted again while it was asked."""
        order = await begin(store)
        await self._restarted(store)
        earlier = await present(store, order)
        await self._restarted(store)
        for history in (earlier.history, order.stamp):
            late = following(order, verified=history)
            refused = await outcome_is(Outcome.RESTARTED, store, late)
            assert refused.restart.history not in {earlier.history, order.stamp}
            assert refused.restart.since_at_ms >= earlier.since_at_ms
        assert await stored(store) == order

    async def test_a_second_restart_needs_a_second_inquiry(self, store: Store) -> None:
        """A stamp is good for its own history only."""
        order = await begin(store)
        for _ in range(2):
            await self._restarted(store)
            await must_be_verified(store, order)
            order = await changed(store, await verified(store, order), opens=True)

    async def test_every_order_is_verified_by_itself(self, store: Store) -> None:
        """An inquiry about one of them proves nothing about the others."""
        orders = [await begin(store, f"order_{number}") for number in range(8)]
        await self._restarted(store)
        for order in orders:
            await must_be_verified(store, order)
            await changed(store, await verified(store, order), opens=True)

    async def test_a_lease_returns_the_present_history(self, store: Store) -> None:
        """So a worker's inquiry can verify the order that it has leased."""
        order = await due(store)
        ((_, before),) = (await self.lease_all(store, 0)).orders
        assert before == Restart(order.stamp, 0)
        await self._restarted(store)
        for _ in range(2):
            # The first one sees the restart; it is as long ago for those that come later.
            ((leased, now),) = (await self.lease_all(store, 0)).orders
            assert (leased.stamp, now) == (order.stamp, await present(store, order))
        ((leased, now),) = (await self.lease_all(store)).orders
        assert (leased.stamp, now) == (order.stamp, await present(store, order))
        order = await changed(store, order, verified=now.history, lease=leased.lease)
        await changed(store, order, opens=True)

    async def test_a_lease_that_finds_nothing_does_not_hide_a_restart(self, store: Store) -> None:
        """Workers are the first to come back after one."""
        order = await begin(store)
        await self._restarted(store)
        await self.lease_all(store)
        await must_be_verified(store, order)

    # orders that begin after a restart

    async def test_an_order_that_begins_soon_after_a_restart_must_be_verified(
        self, store: Store
    ) -> None:
        """It may be one that was lost, with a step that was sent."""
        old = await begin(store, "order_2")
        await self._restarted(store)
        await must_be_verified(store, old)
        order = await begin(store)
        assert order.stamp not in {(await present(store, order)).history, old.stamp}
        await must_be_verified(store, order)
        await changed(store, await verified(store, order), opens=True)

    async def test_an_order_does_not_begin_with_a_step_soon_after_a_restart(
        self, store: Store
    ) -> None:
        """Its step may be one that was sent before the restart."""
        await removed(store, await begin(store))
        await self._restarted(store)
        await outcome_is(Outcome.RESTARTED, store, beginning(opens=True))
        assert list(await store.read(["order_1"])) == []

    async def test_an_order_may_begin_verified(self, store: Store) -> None:
        """In the present history only, like every other one."""
        old = await begin(store, "order_1")
        await self._restarted(store)
        history = (await present(store, old)).history
        await removed(store, old)
        await outcome_is(Outcome.RESTARTED, store, beginning(verified=old.stamp))
        order = await begin(store, verified=history)
        assert order.stamp == history
        await changed(store, order, opens=True)

    async def test_an_order_that_begins_long_after_a_restart_is_a_new_one(
        self, store: Store
    ) -> None:
        """Whatever was lost is over by then. Each partition may see a restart by itself."""
        first, *later = self.together(store, 3)
        old = await begin(store, first)
        await self._restarted(store)
        await must_be_verified(store, old)
        await self.much_later(store, BEGUN_ANEW_MS - MINUTE_MS)
        await must_be_verified(store, await begin(store, later[0]))
        await self.much_later(store, MINUTE_MS)
        await changed(store, await begin(store, later[1]), opens=True)
        await must_be_verified(store, old)

    async def test_a_repeated_verified_commit_is_applied_once(self, store: Store) -> None:
        """Its first reply was lost; the order keeps its stamp."""
        order = await begin(store)
        await self._restarted(store)
        commit = following(order, verified=(await present(store, order)).history)
        assert await applied(store, commit) == await applied(store, commit)
