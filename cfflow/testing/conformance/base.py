"""What the parts of the suite for stores have in common."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Suite"]


class Suite:
    """A part of the suite."""

    #: Among how many parts the store divides the limit of a claim.
    partitions: int = 1

    async def later(self, store: Any, seconds: float) -> None:
        """Let time pass; a store with a clock of its own moves that."""
        await asyncio.sleep(seconds)
