"""Accidents of the whole store: it restarts, sometimes without its last commits; closed gates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from cfflow.core.plan import Gate
from cfflow.testing import MemoryStore
from tests.sim.books import Books
from tests.sim.loop import VirtualLoop
from tests.sim.network import at_once
from tests.sim.story import Story

#: The commits of so many seconds may be lost with `appendfsync everysec`.
_LOST_S = 1.2

#: What a store keeps of its orders. All of it goes back together.
_KEPT = (
    "_orders",
    "_digests",
    "_markers",
    "_flows",
    "_wakes",
    "_leases",
    "_gates",
    "_seen_until_at_ms",
)


@dataclass(frozen=True, slots=True)
class _Copy:
    """The store as it was after so many commands."""

    at_s: float
    commands: int
    kept: Mapping[str, Mapping[Any, Any]]
    indexes: Mapping[str, Mapping[str, int]]
    notices: int
    events: int


class Accidents:
    """Restarts the store of a world, in some worlds without its last commits; closes gates."""

    def __init__(
        self,
        store: MemoryStore,
        rolled_back: Callable[[int], None],
        books: Books,
        *,
        loop: VirtualLoop,
        rng: Random,
        story: Story,
        rough: bool,
    ) -> None:
        self.restarts = rng.choice((0, 6) if rough else (0, 0, 0, 1, 3))
        self.loses_commits = self.restarts > 0 and rng.random() < (0.7 if rough else 0.4)
        self.gates = rng.choice((0, 0, 0, 0, 0, 0, 0, 3))
        self.rolled_back = False
        self._store = store
        self._books = books
        self._gone_back = rolled_back
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
        store = self._store
        self._copies.append(
            _Copy(
                at_s=now_s,
                commands=self._books.commands,
                kept={name: dict(getattr(store, name)) for name in _KEPT},
                indexes={name: dict(members) for name, members in store._indexes.items()},
                notices=store._notices,
                events=len(store.events),
            )
        )

    async def happen(self) -> None:
        """Restart the store a few times."""
        for _ in range(self.restarts):
            await asyncio.sleep(self._rng.choice((0.0, 3.0, 15.0, 40.0)) * self._rng.random())
            if self.loses_commits:
                await self._written()
                self._roll_back()
            # A server that comes back continues another history of its data, whatever it lost.
            self._store.restarted()
            self._books.restarted()
            self._story.add("store", "RESTARTED")

    async def close_gates(self) -> None:
        """Have a person stop one kind of steps for a while, a few times."""
        for _ in range(self.gates):
            await asyncio.sleep(self._rng.choice((1.0, 10.0, 60.0)) * self._rng.random())
            gate = self._rng.choice(tuple(Gate)).value
            self._set_gate(gate, "ann")
            await asyncio.sleep(self._rng.choice((5.0, 60.0)) * self._rng.random())
            self._set_gate(gate, "")

    def open_gates(self) -> None:
        """Open all gates: in the calm every step must be possible."""
        for gate in tuple(self._store._gates):
            self._set_gate(gate, "")

    def _set_gate(self, gate: str, closed_by: str) -> None:
        at_once(self._store.set_gate(gate, closed_by))
        self._story.add("ann", f"{'closes' if closed_by else 'opens'} the gate {gate}")

    async def _written(self) -> None:
        """Wait for a write, and half of the time for that of a step.

        A crash right after a write finds the most bugs: that write can be lost.
        """
        written, opened = self._books.commands, self._books.last_opened
        by_s = self._loop.time() + (60.0 if self._rng.random() < 0.5 else 0.0)
        while self._books.commands == written or (
            self._books.last_opened == opened and self._loop.time() < by_s
        ):
            await asyncio.sleep(0.3)

    def _copy(self) -> _Copy:
        """Return a copy to go back to: often the one before the newest step, or the oldest."""
        opened = self._books.last_opened
        before = [copy for copy in self._copies if copy.commands < opened]
        return self._rng.choice((*before[-1:], *self._copies[:1], self._rng.choice(self._copies)))

    def _roll_back(self) -> None:
        if not self._copies:
            return
        copy = self._copy()
        store = self._store
        for name, kept in copy.kept.items():
            setattr(store, name, dict(kept))
        store._indexes = {name: dict(members) for name, members in copy.indexes.items()}
        store._notices = copy.notices
        del store.events[copy.events :]
        self._copies = [older for older in self._copies if older.at_s <= copy.at_s]
        self.rolled_back = True
        age_s = self._loop.time() - copy.at_s
        self._story.add("store", f"LOSES its last {age_s:.3f} s")
        self._gone_back(copy.commands)
