"""Fixtures for the faces: a gateway in a process of its own, and a store with payments in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cfflow.emulator import EmulatorProcess
from cfflow.store.embedded import EmbeddedServer
from tests.faces.faces_kit import Till, fill


@pytest.fixture(scope="session")
def bank() -> Iterator[EmulatorProcess]:
    """A local Cashfree in a process of its own."""
    with EmulatorProcess() as process:
        yield process


@pytest.fixture(scope="session")
def till(bank: EmulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """An embedded store with one payment of each kind, made by the library."""
    opened = Till(bank, tmp_path_factory.mktemp("till"))
    server = EmbeddedServer(opened.folder / "store")
    with asyncio.Runner() as runner:
        # It stays up between the commands, which join it: starting it each time takes longer.
        runner.run(server.start())
        runner.run(fill(opened))
        yield opened
        runner.run(server.stop())
