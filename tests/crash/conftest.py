"""Fixtures for the tests that kill processes: one bank and one nursery per xdist worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from cfflow.emulator import EmulatorProcess
from tests.crash.child import Nursery
from tests.crash.scenarios import FLOW
from tests.crash.till import Till
from tests.ports.servers import Server


@pytest.fixture(scope="session")
def bank() -> Iterator[EmulatorProcess]:
    """A bank in a process of its own."""
    with EmulatorProcess() as process:
        yield process


@pytest.fixture(scope="session")
def admin(bank: EmulatorProcess) -> Iterator[httpx.Client]:
    """A client of the bank's own calls."""
    with httpx.Client(base_url=bank.admin_url, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that forks processes to be killed."""
    with Nursery() as opened:
        yield opened


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The files of the merchant's own flows."""
    file: Path = tmp_path_factory.mktemp("flows") / "crash_hotel.toml"
    file.write_text(FLOW)
    return (str(file),)


@pytest.fixture
async def till(
    valkey_server: Server,
    bank: EmulatorProcess,
    admin: httpx.Client,
    nursery: Nursery,
    flows: tuple[str, ...],
) -> AsyncIterator[Till]:
    """A till on an empty Valkey server, whose time can be skipped."""
    valkey_server.run("FLUSHALL")
    async with Till(valkey_server, bank, admin, nursery, flows) as opened:
        yield opened
