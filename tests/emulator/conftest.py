"""One emulator for each test module; its `shop` fixture sets the state that a test finds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from cfflow.emulator import running_emulator
from tests.emulator.emulator_kit import Shop, a_shop
from tests.emulator.receiver import Receiver, a_receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_shop() -> AsyncIterator[Shop]:
    """The merchant of an emulator that has no URL for webhooks."""
    async with running_emulator() as emulator, a_shop(emulator) as merchant:
        yield merchant


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_receiver() -> AsyncIterator[Receiver]:
    """The receiver of the module's webhooks."""
    async with a_receiver() as receiver:
        yield receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_hooked_shop(one_receiver: Receiver) -> AsyncIterator[Shop]:
    """A merchant of an emulator whose webhooks go to the receiver."""
    async with (
        running_emulator(webhook_url=f"{one_receiver.url}/hook") as emulator,
        a_shop(emulator) as merchant,
    ):
        yield merchant
