"""One emulator for each module of this folder; every test creates its own order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.emulator.fidelity.desk import Desk, open_desk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk() -> AsyncIterator[Desk]:
    """A merchant whose every response is checked against the OpenAPI document."""
    async with open_desk() as merchant:
        yield merchant
