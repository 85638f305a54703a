"""What happens to the store as a whole: it restarts, and now and then forgets its last moments."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from cfflow.store.memory import store as memory
from cfflow.testing import MemoryStore
from tests.sim.books import Books
from tests.sim.loop import VirtualLoop
from tests.sim.story import Story

#: `appendfsync everysec` may lose so much.
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
        self.forgets = self.restarts > 0 and rng.random() < (0.7 if rough else 0.4)
        self.forgot = False
        self._store = store
        self._books = books
        self._loop = loop
        self._rng = rng
        self._story = story
        self._copies: list[_Copy] = []

    def stored(self) -> None:
        """Remember the store as it is after a command, for as long as it may forget it."""
        if not self.forgets:
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
            if self.forgets:
                # A crash is nastiest when something was just written.
                written = len(self._copies)
                while len(self._copies) == written:
                    await asyncio.sleep(0.3)
                self._roll_back()
            self._store.restarted()
            self._story.tell("store", "RESTARTED")

    def _roll_back(self) -> None:
        if not self._copies:
            return
        copy = self._rng.choice(self._copies)
        store = self._store
        store._orders = {name: _copied(order) for name, order in copy.orders.items()}
        store._wakes = dict(copy.wakes)
        del store.events[copy.events :]
        self._copies = [older for older in self._copies if older.at_s <= copy.at_s]
        self.forgot = True
        age_s = self._loop.time() - copy.at_s
        self._story.tell("store", f"FORGETS its last {age_s:.3f} s")
        self._books.roll_back()


def _copied(order: memory._Order) -> memory._Order:
    """Return a copy that later commits do not change."""
    return memory._Order(
        list(order.attempts), dict(order.records), dict(order.actions), dict(order.notices)
    )
