"""The rate budget's ledger in this process's memory, for a store that has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from cfflow.core.observation import Call
from cfflow.limits.ledger import Balance, Book, Entry, Ledger, Use, settle, use_of
from cfflow.store.clock import monotonic_ms


@runtime_checkable
class _HasLedger(Protocol):
    """A store that keeps the ledger for all processes that share it."""

    def ledger(self) -> Ledger:
        """Return the ledger."""
        ...


def ledger_of(store: object) -> Ledger:
    """Return the store's ledger; for a store without one, a new ledger of this process."""
    return store.ledger() if isinstance(store, _HasLedger) else MemoryLedger()


class MemoryLedger:
    """The ledger of one process. `now_ms` is its clock, which must not go back."""

    def __init__(self, now_ms: Callable[[], float] = monotonic_ms) -> None:
        self._now_ms = now_ms
        self._books: dict[Call, Book] = {}

    def clock_s(self) -> float:
        """Return the clock's time in seconds."""
        return self._now_ms() / 1000

    async def settle(self, call: Call, entry: Entry) -> Balance:
        """Write an entry into the book of a class of calls."""
        return settle(self._books.setdefault(call, Book()), entry, int(self._now_ms()))

    async def use(self, call: Call) -> Use:
        """Return how much of a class was used."""
        return use_of(self._books.get(call, Book()), int(self._now_ms()))
