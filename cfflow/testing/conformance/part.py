"""What each part of the suite needs to have of the store under test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest


class ConformancePart:
    """The base of the suite's parts: what a test class gives beside its `store` fixture."""

    # For pytest-asyncio in strict mode, which runs no async test without it.
    pytestmark = pytest.mark.asyncio

    #: How many partitions the store has: a lease takes payments from each of them by itself.
    partitions: int = 1

    #: How many entries a partition of the feed keeps for groups that do not exist yet. The
    #: tests write twelve times as many events, so make it small.
    feed_max: int = 1_000

    async def events_of(self, store: Any) -> Sequence[bytes]:
        """Return all stored feed entries; those of one order oldest first."""
        raise NotImplementedError

    async def restart(self, store: Any) -> None:
        """Make the store behave like one that restarted and may have lost its last commits."""
        raise NotImplementedError

    async def later(self, store: Any, seconds: float) -> None:
        """Let time pass. For a store on a clock of its own, move that clock."""
        await asyncio.sleep(seconds)
