"""Fixtures for the engine's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.shop import Shop, open_shop


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop with a store in memory and clocks that only the test moves."""
    async with open_shop() as opened:
        yield opened
