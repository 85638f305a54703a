"""What each part of the suite needs to have of the store under test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cfflow.store.protocol import Leased, Store
from cfflow.testing.conformance.helpers import MINUTE_MS


class ConformancePart:
    """The base of the suite's parts: what a test class gives beside its `store` fixture."""

    # For pytest-asyncio in strict mode, which runs no async test without it.
    pytestmark = pytest.mark.asyncio

    #: How many partitions the store has: a lease takes orders from each of them by itself.
    partitions: int = 1

    #: How many entries a partition of the feed keeps for groups that do not exist yet. The
    #: tests write twelve times as many events, so make it small.
    feed_max: int = 1_000

    #: Whether `later` moves a clock and does not wait.
    moves_clock: bool = False

    async def events_of(self, store: Any) -> Sequence[bytes]:
        """Return all stored feed entries; those of one order oldest first."""
        raise NotImplementedError

    async def restart(self, store: Any) -> None:
        """Make the store behave like one that restarted and may have lost its last commits."""
        raise NotImplementedError

    async def later(self, store: Any, seconds: float) -> None:
        """Let time pass. For a store on a clock of its own, move that clock."""
        await asyncio.sleep(seconds)

    async def much_later(self, store: Any, milliseconds: int) -> None:
        """Let minutes, a day or a year pass; without a clock to move, these tests are skipped."""
        if not self.moves_clock:
            pytest.skip("this takes a clock that `later` moves")
        await self.later(store, milliseconds / 1000)

    async def make_due(self, store: Any, name: str) -> None:
        """Write a name without an order among what is due, as another program could.

        For a store that cannot have one, these tests are skipped.
        """
        pytest.skip("in this store nothing is due but orders")

    def partition_of(self, store: Any, order_id: str) -> int:
        """Return the partition of an order, for a store with several."""
        return 0

    # for the tests themselves

    async def lease_all(self, store: Store, lease_ms: int = MINUTE_MS) -> Leased:
        """Lease all orders that are due now."""
        return await store.lease(100 * self.partitions, lease_ms)

    def together(self, store: Store, count: int) -> list[str]:
        """Return so many order ids of one partition."""
        found: list[str] = []
        number = 0
        while len(found) < count:
            number += 1
            if self.partition_of(store, f"order_{number}") == self.partition_of(store, "order_1"):
                found.append(f"order_{number}")
        return found
