"""The rate budget's books in this process's memory, for stores that keep none for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from cfflow.core.observation import Call
from cfflow.limits.ledger import Balance, Book, Entry, Ledger, settle
from cfflow.store.clock import monotonic_ms

__all__ = ["MemoryLedger", "ledger_of"]


@runtime_checkable
class _Keeper(Protocol):
    """A store that keeps the books for all processes that share it."""

    def ledger(self) -> Ledger:
        """Return the ledger."""
        ...


def ledger_of(store: object) -> Ledger:
    """Return the store's ledger; for a store without one, a ledger of this process alone."""
    return store.ledger() if isinstance(store, _Keeper) else MemoryLedger()


class MemoryLedger:
    """The books of one process. `now_ms` is its clock, which must not go back."""

    def __init__(self, now_ms: Callable[[], float] = monotonic_ms) -> None:
        self._now_ms = now_ms
        self._books: dict[Call, Book] = {}

    def clock_s(self) -> float:
        """Return the clock's seconds."""
        return self._now_ms() / 1000

    async def settle(self, call: Call, entry: Entry) -> Balance:
        """Write an entry into a class's book."""
        return settle(self._books.setdefault(call, Book()), entry, int(self._now_ms()))
