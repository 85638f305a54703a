"""Fixtures for the engine's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.shop import Shop, open_shop


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A shop whose payments live in memory and whose clocks stand still."""
    async with open_shop() as opened:
        yield opened
