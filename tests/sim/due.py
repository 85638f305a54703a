"""When each order is due, and which worker has it: a second, independent version.

Follows every command that the store has carried out, and compares the store's index with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from cfflow.store.protocol import Leased, Notified
from cfflow.testing import MemoryStore
from tests.sim.books import Books
from tests.sim.disk import Command
from tests.sim.process import Process

#: Stands for the lease of an order that no worker has.
_NONE = ("", 0)


class Due:
    """Follows wake times and leases of orders; `complain` is called for every broken rule."""

    def __init__(self, store: MemoryStore, books: Books, complain: Callable[[str], None]) -> None:
        self._store = store
        self._books = books
        self._complain = complain
        self._wakes: dict[str, int] = {}
        #: By order: the lease's name and its end.
        self._leases: dict[str, tuple[str, int]] = {}
        self._holders: dict[str, Process] = {}

    def follow(self, command: Command, done: object, changed: Sequence[str]) -> None:
        """Look at the index after a command; `changed` are the orders whose record it wrote."""
        if isinstance(done, Leased):
            self._leased(command, done)
        for name in changed:
            self._committed(name, command.args[0].lease)
        if isinstance(done, Notified) and done.is_news:
            # What an order has kept makes it due.
            self._wake(command.args[0].order_id, self._store.now_ms())
        if command.name == "defer" and done is None:
            self._deferred(command)
        if self._wakes != self._store._wakes:
            self._complain(f"orders must be due at {self._wakes}, not {self._store._wakes}")

    def roll_back(self) -> None:
        """The store has lost its last commits: continue with what it has now."""
        self._wakes = dict(self._store._wakes)
        self._leases = dict(self._store._leases)

    def _leased(self, command: Command, done: Leased) -> None:
        """A worker leased orders: until then no other worker may lease them."""
        now_ms = self._store.now_ms()
        for order, _ in done.orders:
            holder, until_ms = self._leases.get(order.id, _NONE)
            if until_ms > now_ms:
                who = self._holders[holder].name
                self._complain(f"{order.id} was leased while {who} had it")
            if self._wakes.get(order.id, now_ms + 1) > now_ms:
                self._complain(f"{order.id} was leased, and it is not due")
            stored = self._store._orders[order.id]
            if msgspec.structs.replace(order, lease="") != stored:
                self._complain(f"{order.id} was leased, and returned as it is not stored")
            self._leases[order.id] = (order.lease, done.until_at_ms)
            self._wakes[order.id] = done.until_at_ms
            self._holders[order.lease] = command.process

    def _committed(self, order_id: str, lease: str) -> None:
        """An order was written: it is due with the earliest of its payments, or at once."""
        self._end_lease(order_id, lease)
        seen = self._books.orders.get(order_id)
        payments = self._books.payments_of(order_id).values()
        wakes = [r.wake_at_ms for r in payments if r.wake_at_ms is not None]
        if seen is not None and seen.stored.notices:
            # A commit must not delay a notification that no inquiry has settled: it stays due.
            wakes = [self._store.now_ms()]
        self._wake(order_id, min(wakes, default=None))

    def _deferred(self, command: Command) -> None:
        """A worker gives an order back, due at the time that it has chosen."""
        order_id, wake_at_ms = command.args
        lease = command.kwargs.get("lease", "")
        if self._holders.get(lease) is not command.process:
            self._complain(f"{order_id}: given back by {command.process.name} under no lease of it")
        self._end_lease(order_id, lease)
        if order_id in self._wakes:
            self._wake(order_id, wake_at_ms)

    def _end_lease(self, order_id: str, lease: str) -> None:
        name, until_ms = self._leases.get(order_id, _NONE)
        if name == lease or until_ms <= self._store.now_ms():
            self._leases.pop(order_id, None)

    def _wake(self, order_id: str, due_at_ms: int | None) -> None:
        """While another worker has the order, it is due when that lease ends, at the earliest."""
        if due_at_ms is None:
            self._wakes.pop(order_id, None)
        else:
            self._wakes[order_id] = max(due_at_ms, self._leases.get(order_id, _NONE)[1])
