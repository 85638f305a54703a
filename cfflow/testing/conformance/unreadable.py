"""The part of the suite about what cannot be read: it is set aside, kept, and harms no other order.

A store never looks into an order's bytes, so any order may be the one that its caller cannot read.
"""

from __future__ import annotations

from typing import Final

from cfflow.store.protocol import UNREADABLE_INDEX, IndexChange, Store, StoredOrder, Window
from cfflow.testing.conformance.helpers import (
    a_notification,
    begin,
    changed,
    digest_of,
    due,
    due_count,
    ids,
    members,
    removed,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart

#: Two clocks measure the time that is the score of a member.
_CLOCKS_MS: Final = 50


class UnreadableConformance(ConformancePart):
    """Tests of what cannot be read. `StoreConformance` has them too."""

    async def _set_aside(self, store: Store, order_id: str = "order_1") -> StoredOrder:
        """Set an order aside that is due, and return it as it was."""
        order = await stored(store, order_id)
        await store.set_aside(order_id, token=order.token)
        return order

    # an order that cannot be read

    async def test_an_order_that_cannot_be_read_is_set_aside(self, store: Store) -> None:
        """It is not due any more, leased or not, and is found in its index."""
        for order_id in ("order_1", "order_2"):
            await due(store, order_id)
            before = store.now_ms()
            await self._set_aside(store, order_id)
            await self.lease_all(store, 0)
        assert await due_count(store) == 0
        found = list(await store.find(Window((UNREADABLE_INDEX,))))
        assert [member for member, _ in found] == ["order_1", "order_2"]
        assert before - _CLOCKS_MS <= found[-1][1] <= store.now_ms() + _CLOCKS_MS

    async def test_an_order_that_is_set_aside_keeps_all_that_it_has(self, store: Store) -> None:
        """Record, actions, notifications and members: a newer version may have written them."""
        await due(store, actions=b"press", index=(IndexChange("red", "order_1.1", 5),))
        await store.notify(a_notification(), digest_of("77"))
        order = await self._set_aside(store)
        assert order.notices
        assert await stored(store) == order
        assert await members(store, "red") == ["order_1.1"]

    async def test_an_order_that_is_set_aside_harms_no_other(self, store: Store) -> None:
        """Those beside it are leased, due, found and changed as before."""
        names = self.together(store, 4)
        orders = [await due(store, name) for name in names]
        await self._set_aside(store, names[1])
        others = [name for name in names if name != names[1]]
        assert await due_count(store) == 3
        assert ids(await self.lease_all(store)) == sorted(others)
        await changed(store, orders[0], index=(IndexChange("red", "a", 1),))
        assert await members(store, "red") == ["a"]

    async def test_an_order_is_set_aside_once(self, store: Store) -> None:
        """Whoever meets it, and however often."""
        await due(store)
        for _ in range(3):
            await self._set_aside(store)
        assert await members(store, UNREADABLE_INDEX) == ["order_1"]

    async def test_an_order_that_was_changed_meanwhile_is_not_set_aside(self, store: Store) -> None:
        """A person has repaired it: it stays due, and is in no index of what cannot be read."""
        order = await due(store)
        newest = await changed(store, order, wake_at_ms=1)
        for token in (order.token, ""):
            await store.set_aside("order_1", token=token)
        assert await members(store, UNREADABLE_INDEX) == []
        assert await due_count(store) == 1
        assert await stored(store) == newest

    async def test_an_order_that_was_set_aside_comes_back_by_a_commit(self, store: Store) -> None:
        """A later version may read it; its lease ended when it was set aside."""
        order = await due(store)
        await self.lease_all(store)
        await self._set_aside(store)
        change = IndexChange(UNREADABLE_INDEX, "order_1", None)
        await changed(store, order, wake_at_ms=1, index=(change,))
        assert await due_count(store) == 1
        assert await members(store, UNREADABLE_INDEX) == []

    async def test_an_order_that_was_set_aside_is_due_again_by_a_notification(
        self, store: Store
    ) -> None:
        """It may have been repaired; if not, it is set aside again."""
        await due(store)
        await self._set_aside(store)
        assert (await store.notify(a_notification(), digest_of("77"))).is_news
        assert await due_count(store) == 1

    async def test_an_order_that_was_set_aside_can_be_removed(self, store: Store) -> None:
        """With its place in the index."""
        order = await begin(store)
        await self._set_aside(store)
        await removed(store, order, index=(IndexChange(UNREADABLE_INDEX, "order_1", None),))
        assert await members(store, UNREADABLE_INDEX) == []

    # a name without an order

    async def test_a_name_without_an_order_is_set_aside(self, store: Store) -> None:
        """One that stands in an index of payments, and belongs to none."""
        await due(store)
        await store.set_aside("order_9.1", token="")
        assert await members(store, UNREADABLE_INDEX) == ["order_9.1"]
        assert ids(await self.lease_all(store)) == ["order_1"]

    async def test_a_due_name_without_an_order_is_set_aside_and_reported(
        self, store: Store
    ) -> None:
        """Once; what is due beside it is leased in the same call."""
        names = self.together(store, 4)
        for name in names[:3]:
            await due(store, name)
        await self.make_due(store, names[3])
        leased = await self.lease_all(store)
        assert ids(leased) == sorted(names[:3])
        assert leased.unreadable == (names[3],)
        assert await members(store, UNREADABLE_INDEX) == [names[3]]
        assert (await self.lease_all(store, 0)).unreadable == ()
        assert await due_count(store) == 0
