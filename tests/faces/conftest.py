"""Fixtures for the faces: a gateway in a process of its own, and a store with payments in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import Till, fill, filled_till


@pytest.fixture(scope="session")
def bank() -> Iterator[EmulatorProcess]:
    """A local Cashfree in a process of its own."""
    with EmulatorProcess() as process:
        yield process


@pytest.fixture(scope="session")
def till(bank: EmulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """An embedded store with one payment of each kind, made by the library."""
    with filled_till(bank, tmp_path_factory.mktemp("till"), fill) as opened:
        yield opened
