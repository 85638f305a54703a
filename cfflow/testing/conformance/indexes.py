"""The part of the suite about indexes: which members are found, and in which order."""

from __future__ import annotations

from cfflow.store.protocol import IndexChange, Store, Window
from cfflow.testing.conformance.helpers import begin, changed, members
from cfflow.testing.conformance.part import ConformancePart


async def entered(store: Store, number: int, *indexes: str, score: int | None = None) -> None:
    """Begin an order that enters these indexes under its own name, with its number as score."""
    name = f"order_{number:02}"
    at = number if score is None else score
    await begin(store, name, index=tuple(IndexChange(index, name, at) for index in indexes))


def names(*numbers: int) -> list[str]:
    """Return the names of these orders."""
    return [f"order_{number:02}" for number in numbers]


class IndexConformance(ConformancePart):
    """Tests of indexes. `StoreConformance` has them too."""

    async def test_members_are_found_with_their_scores(self, store: Store) -> None:
        """An order may have several, in one index and in many."""
        changes = (
            IndexChange("red", "a", 2),
            IndexChange("red", "b", 1),
            IndexChange("blue", "a", 7),
        )
        await begin(store, index=changes)
        assert list(await store.find(Window(("red",)))) == [("b", 1), ("a", 2)]
        assert list(await store.find(Window(("blue",)))) == [("a", 7)]
        assert list(await store.find(Window(("green",)))) == []

    async def test_the_lowest_scores_come_first(self, store: Store) -> None:
        """Of all indexes and partitions, whenever they were written; of one score, by name."""
        for number in (5, 2, 9, 0, 7, 3, 11, 8, 1, 10, 6, 4):
            await entered(store, number, "even" if number % 2 == 0 else "odd")
        assert await members(store, "odd", "even") == names(*range(12))
        assert await members(store, "even") == names(0, 2, 4, 6, 8, 10)
        for number in (22, 20, 21):
            await entered(store, number, "equal", score=1)
        assert await members(store, "equal") == names(20, 21, 22)

    async def test_a_limit_leaves_out_the_highest_scores(self, store: Store) -> None:
        """It counts over all indexes and partitions."""
        for number in range(12):
            await entered(store, number, "even" if number % 2 == 0 else "odd")
        assert await members(store, "odd", "even", limit=5) == names(0, 1, 2, 3, 4)
        assert await members(store, "odd", limit=2) == names(1, 3)
        assert await members(store, "odd", limit=6) == names(1, 3, 5, 7, 9, 11)

    async def test_members_are_counted(self, store: Store) -> None:
        """All of them, over all partitions; an index that nothing has entered has none."""
        for number in range(130):
            await entered(store, number, "even" if number % 2 == 0 else "odd")
        await entered(store, 130, "even", "odd")
        found = await store.count(["odd", "even", "green"])
        assert dict(found) == {"odd": 66, "even": 66, "green": 0}
        assert dict(await store.count([])) == {}

    async def test_without_a_limit_a_hundred_are_found(self, store: Store) -> None:
        """It is the limit of a window that names none."""
        changes = tuple(IndexChange("red", f"{number:03}", number) for number in range(120))
        await begin(store, index=changes)
        assert await members(store, "red") == [f"{number:03}" for number in range(100)]

    async def test_both_ends_of_the_time_belong_to_a_window(self, store: Store) -> None:
        """Times of milliseconds, as the store has them."""
        now_ms = store.now_ms()
        for number in range(5):
            await entered(store, number, "red", score=now_ms + number)
        between = {"from_at_ms": now_ms + 1, "to_at_ms": now_ms + 3}
        assert await members(store, "red", **between) == names(1, 2, 3)
        assert await members(store, "red", from_at_ms=now_ms + 4) == names(4)
        assert await members(store, "red", to_at_ms=now_ms) == names(0)
        assert await members(store, "red", from_at_ms=now_ms + 5) == []
        assert list(await store.find(Window(("red",), limit=1))) == [(names(0)[0], now_ms)]

    async def test_a_window_within_another_index_has_the_members_of_both(
        self, store: Store
    ) -> None:
        """With the scores of the first; the order in the other index does not matter."""
        for number in range(12):
            await entered(store, number, "odd" if number % 2 else "even")
        for number in (7, 3, 4):
            change = (IndexChange("review", names(number)[0], 100 - number),)
            (order,) = await store.read(names(number))
            await changed(store, order, index=change)
        assert list(await store.find(Window(("odd",), within="review"))) == [
            (names(3)[0], 3),
            (names(7)[0], 7),
        ]
        assert await members(store, "odd", "even", within="review") == names(3, 4, 7)
        assert await members(store, "odd", within="review", from_at_ms=4) == names(7)
        assert await members(store, "odd", within="nothing") == []

    async def test_the_limit_counts_members_of_both_indexes(self, store: Store) -> None:
        """One is found behind many that are in the first index only."""
        red = tuple(IndexChange("red", f"{number:02}", number) for number in range(30))
        review = tuple(IndexChange("review", member, 0) for member in ("28", "29"))
        await begin(store, index=(*red, *review))
        assert await members(store, "red", within="review", limit=1) == ["28"]
        assert await members(store, "red", within="review", limit=2) == ["28", "29"]
