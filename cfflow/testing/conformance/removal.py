"""The part of the suite about orders that are removed, and the markers that they leave."""

from __future__ import annotations

from typing import Final

from cfflow.store.protocol import PAID_MARKER_MS, IndexChange, Outcome, Store
from cfflow.testing.conformance.helpers import (
    a_notification,
    begin,
    beginning,
    changed,
    digest_of,
    due,
    due_count,
    following,
    ids,
    members,
    outcome_is,
    removed,
    removing,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart

_ENTERS: Final = (IndexChange("red", "a", 1), IndexChange("red", "b", 2))
_LEAVES: Final = (IndexChange("red", "a", None),)


class RemovalConformance(ConformancePart):
    """Tests of the removal of orders. `StoreConformance` has them too."""

    async def test_a_removed_order_is_gone(self, store: Store) -> None:
        """It cannot be read, is never due, and takes no commit; other orders stay."""
        order, other = await due(store, "order_1"), await due(store, "order_2")
        await removed(store, order)
        assert list(await store.read(["order_1", "order_2"])) == [other]
        assert ids(await self.lease_all(store)) == ["order_2"]
        for commit in (following(order), removing(order)):
            assert (await outcome_is(Outcome.GONE, store, commit)).marker == ""

    async def test_a_removal_writes_its_index_changes_and_events(self, store: Store) -> None:
        """It is a commit like any other."""
        order = await begin(store, index=_ENTERS)
        await removed(store, order, index=_LEAVES, events=(b"removed",))
        assert await members(store, "red") == ["b"]
        assert list(await self.events_of(store)) == [b"removed"]

    async def test_an_order_that_begins_again_has_nothing_of_the_removed_one(
        self, store: Store
    ) -> None:
        """Neither its actions, nor its digests, nor its lease, nor a notification of it."""
        notification = a_notification()
        order = await due(store, actions=b"press", digests=digest_of("77"))
        await store.notify(notification, digest_of("78"))
        await self.lease_all(store)
        order = await changed(store, order, answered=(await stored(store)).notices)
        await removed(store, order)
        again = await due(store)
        assert (again.actions, again.notices) == (b"", {})
        assert await due_count(store) == 1
        assert (await store.notify(a_notification(), digest_of("77"))).is_news

    async def test_an_order_that_has_changed_is_not_removed(self, store: Store) -> None:
        """It is returned as it is now."""
        first = await begin(store)
        newest = await changed(store, first)
        refused = await outcome_is(Outcome.CONFLICT, store, removing(first))
        assert refused.stored == newest

    async def test_an_order_with_a_notification_is_not_removed(self, store: Store) -> None:
        """An inquiry must settle it first: the order may have money."""
        order = await begin(store)
        await store.notify(a_notification(), digest_of("77"))
        newest = await stored(store)
        refused = await outcome_is(Outcome.CONFLICT, store, removing(order))
        assert refused.stored == newest
        assert newest.notices
        await removed(store, await changed(store, order, answered=newest.notices))

    async def test_a_removal_is_sent_twice(self, store: Store) -> None:
        """The second time there is no order any more; its marker stays."""
        for order_id, marker in (("order_1", "paid by 1"), ("order_2", "")):
            order = await begin(store, order_id)
            await removed(store, order, marker=marker)
            again = await outcome_is(Outcome.GONE, store, removing(order, marker=marker))
            assert again.marker == marker

    # markers

    async def test_an_order_that_left_a_marker_does_not_begin_again(self, store: Store) -> None:
        """The caller gets what was left: the order was paid."""
        await removed(store, await begin(store), marker="paid by 1")
        assert (await outcome_is(Outcome.GONE, store, beginning())).marker == "paid by 1"
        assert list(await store.read(["order_1"])) == []

    async def test_a_commit_to_an_order_that_left_a_marker_is_gone(self, store: Store) -> None:
        """A worker that still has the order gets the marker too."""
        order = await begin(store)
        await removed(store, order, marker="paid by 1")
        assert (await outcome_is(Outcome.GONE, store, following(order))).marker == "paid by 1"

    async def test_an_order_that_left_no_marker_begins_again(self, store: Store) -> None:
        """And a caller of the removed one gets a conflict."""
        old = await begin(store)
        await removed(store, old)
        again = await begin(store)
        assert (await outcome_is(Outcome.CONFLICT, store, following(old))).stored == again

    async def test_a_marker_is_of_one_order(self, store: Store) -> None:
        """Others begin as before."""
        await removed(store, await begin(store), marker="paid by 1")
        for number in range(2, 10):
            await begin(store, f"order_{number}")

    async def test_a_marker_stays_for_its_time(self, store: Store) -> None:
        """Not longer: the ids of orders may come again after years."""
        await removed(store, await begin(store), marker="paid by 1")
        await self.much_later(store, PAID_MARKER_MS - 1_000)
        assert (await outcome_is(Outcome.GONE, store, beginning())).marker == "paid by 1"
        await self.much_later(store, 2_000)
        await begin(store)
