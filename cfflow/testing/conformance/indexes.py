"""The part of the suite about indexes: which members are found, and in which order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cfflow.store.protocol import IndexChange, Row, Store, Window
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


async def pages(store: Store, window: Window) -> list[Row]:
    """Return all rows of a window, page by page, each behind the last row of the one before."""
    found: list[Row] = []
    page = list(await store.find(window))
    while page:
        found += page
        assert len(found) < 100, "it goes on behind the same row again and again"
        page = list(await store.find(msgspec.structs.replace(window, after=page[-1])))
    return found


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

    async def test_the_highest_scores_come_first_if_that_is_asked(self, store: Store) -> None:
        """Of all indexes and partitions; of one score, the last by name; a limit cuts the low."""
        for number in (5, 2, 9, 0, 7, 3, 11, 8, 1, 10, 6, 4):
            await entered(store, number, "even" if number % 2 == 0 else "odd")
        falling: dict[str, Any] = {"highest_first": True}
        assert await members(store, "odd", "even", **falling) == names(*reversed(range(12)))
        assert await members(store, "odd", **falling, limit=2) == names(11, 9)
        assert await members(store, "odd", "even", **falling, from_at_ms=2, to_at_ms=4) == names(
            4, 3, 2
        )
        for number in (22, 20, 21):
            await entered(store, number, "equal", score=1)
        assert await members(store, "equal", **falling) == names(22, 21, 20)

    @pytest.mark.parametrize("limit", [1, 2, 5, 100])
    async def test_a_list_goes_on_behind_its_last_row(self, store: Store, limit: int) -> None:
        """Nothing is left out or comes twice, also of more members of one score than a page has."""
        scores = {number: number // 9 for number in range(20)}
        for number, score in scores.items():
            await entered(store, number, "red" if number % 3 else "blue", score=score)
        wanted = [(names(number)[0], score) for number, score in scores.items()]
        ones = [row for row in wanted if row[1] == 1]
        for whole, rows in (
            (Window(("red", "blue"), limit=limit), wanted),
            (Window(("red", "blue"), from_at_ms=1, to_at_ms=1, limit=limit), ones),
        ):
            assert await pages(store, whole) == rows
            falling = msgspec.structs.replace(whole, highest_first=True)
            assert await pages(store, falling) == rows[::-1]

    async def test_a_list_goes_on_behind_a_row_that_is_gone(self, store: Store) -> None:
        """Its member left the index, or has never been in it."""
        for number in range(6):
            await entered(store, number, "red", score=7)
        (order,) = await store.read(names(2))
        await changed(store, order, index=(IndexChange("red", order.id, None),))
        for after in (names(2)[0], f"{names(1)[0]}x"):
            assert await members(store, "red", after=(after, 7)) == names(3, 4, 5)
            falling = Window(("red",), highest_first=True, after=(after, 7))
            assert [member for member, _ in await store.find(falling)] == names(1, 0)
        assert await members(store, "red", after=("", 7)) == names(0, 1, 3, 4, 5)
        assert await members(store, "red", after=("z", 6), limit=2) == names(0, 1)
        assert await members(store, "red", after=("z", 7)) == []

    async def test_names_are_compared_as_bytes(self, store: Store) -> None:
        """Upper case before lower case, and no name is left out because of it."""
        found = ["A_b.1", "A-b.1", "a.1", "A.1", "_a.1", "a_.1", "a-.1", "Z.1", "a.10", "a.2"]
        for index, name in enumerate(found):
            await begin(store, f"order_{index}", index=(IndexChange("red", name, 1),))
        assert await members(store, "red") == sorted(found)
        for highest_first in (False, True):
            rows = await pages(store, Window(("red",), limit=1, highest_first=highest_first))
            assert [name for name, _ in rows] == sorted(found, reverse=highest_first)

    async def test_many_members_of_one_partition_are_found(self, store: Store) -> None:
        """However few of the others the list has: one partition may have them all."""
        changes = tuple(IndexChange("red", f"{number:03}", number // 50) for number in range(300))
        await begin(store, index=changes)
        await entered(store, 1, "red", score=3)
        wanted = sorted((change.score or 0, change.member) for change in changes)
        wanted = sorted([*wanted, (3, "order_01")])
        for limit in (130, 301, 1_000):
            rows = list(await store.find(Window(("red",), limit=limit)))
            assert rows == [(member, score) for score, member in wanted[:limit]]
            falling = await store.find(Window(("red",), limit=limit, highest_first=True))
            assert list(falling) == [(member, score) for score, member in wanted[::-1][:limit]]
