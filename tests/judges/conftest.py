"""Fixtures for the judges: a gateway in a process of its own, as a client from outside meets it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cfflow.emulator import EmulatorProcess
from tests.judges.receiver import Receiver, receiving

if TYPE_CHECKING:
    from tests.judges.python_sdk import Merchant


@pytest.fixture(scope="session")
def gateway() -> Iterator[EmulatorProcess]:
    """A local Cashfree in a process of its own."""
    with EmulatorProcess() as process:
        yield process


@pytest.fixture(scope="session")
def merchant(gateway: EmulatorProcess) -> Merchant:
    """A merchant with the official Python SDK."""
    from tests.judges.python_sdk import Merchant

    return Merchant(gateway)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks go."""
    with receiving() as server:
        yield server
