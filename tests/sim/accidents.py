"""Accidents of the whole store: it restarts, and sometimes loses its last commits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from cfflow.store.memory import store as memory
from cfflow.testing import MemoryStore
from tests.sim.books import Books
from tests.sim.loop import VirtualLoop
from tests.sim.story import Story

#: The commits of so many seconds may be lost with `appendfsync everysec`.
_LOST_S = 1.2


@dataclass(frozen=True, slots=True)
class _Copy:
    """The store as it was at some time."""

    at_s: float
    orders: dict[str, memory._Order]
    wakes: dict[str, int]
    events: int


class Accidents:
    """Restarts the store of a world, in some worlds without its last commits."""

    def __init__(
        self,
        store: MemoryStore,
        books: Books,
        *,
        loop: VirtualLoop,
        rng: Random,
        story: Story,
        rough: bool,
    ) -> None:
        self.restarts = rng.choice((0, 6) if rough else (0, 0, 0, 1, 3))
        self.loses_commits = self.restarts > 0 and rng.random() < (0.7 if rough else 0.4)
        self.rolled_back = False
        self._store = store
        self._books = books
        self._loop = loop
        self._rng = rng
        self._story = story
        self._copies: list[_Copy] = []

    def stored(self) -> None:
        """Keep a copy of the store after a command, as long as a restart may go back to it."""
        if not self.loses_commits:
            return
        now_s = self._loop.time()
        self._copies = [copy for copy in self._copies if copy.at_s > now_s - _LOST_S]
        orders = {name: _copied(order) for name, order in self._store._orders.items()}
        wakes = dict(self._store._wakes)
        self._copies.append(_Copy(now_s, orders, wakes, len(self._store.events)))

    async def happen(self) -> None:
        """Restart the store a few times."""
        for _ in range(self.restarts):
            await asyncio.sleep(self._rng.choice((3.0, 15.0, 40.0)) * self._rng.random())
            if self.loses_commits:
                # A crash right after a write finds the most bugs: that write can be lost.
                written = len(self._copies)
                while len(self._copies) == written:
                    await asyncio.sleep(0.3)
                self._roll_back()
            self._store.restarted()
            self._story.add("store", "RESTARTED")

    def _roll_back(self) -> None:
        if not self._copies:
            return
        copy = self._rng.choice(self._copies)
        store = self._store
        store._orders = {name: _copied(order) for name, order in copy.orders.items()}
        store._wakes = dict(copy.wakes)
        del store.events[copy.events :]
        self._copies = [older for older in self._copies if older.at_s <= copy.at_s]
        self.rolled_back = True
        age_s = self._loop.time() - copy.at_s
        self._story.add("store", f"LOSES its last {age_s:.3f} s")
        self._books.roll_back()


def _copied(order: memory._Order) -> memory._Order:
    """Return a copy that later commits do not change."""
    return memory._Order(
        list(order.attempts), dict(order.records), dict(order.actions), dict(order.notices)
    )
