"""What the blocking face adds to a call: `cfflow.sync` against the async orchestrator.

The call is `get` on a store in memory: it waits for nothing, so what differs is the way to the
thread of the loop and back. Both run on one core, as a process with one core would.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final, NamedTuple

import cfflow
import cfflow.sync
from cfflow.emulator import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from cfflow.logs import silent_log
from cfflow.testing import MemoryStore

__all__ = ["Blocking", "measure"]

_WARM_UP: Final = 50


class Blocking(NamedTuple):
    """Milliseconds of one call, at the median."""

    async_ms: float
    blocking_ms: float

    @property
    def overhead_ms(self) -> float:
        """What the blocking call takes beyond the same call on the loop."""
        return self.blocking_ms - self.async_ms


def measure(calls: int) -> Blocking:
    """Time so many calls of each."""
    return Blocking(asyncio.run(_async_ms(calls)), _blocking_ms(calls))


async def _async_ms(calls: int) -> float:
    took_ms = []
    async with cfflow.connect(**_settings()) as orchestrator:
        payment = await orchestrator.start("native_otp", order_id="order_1", amount="170.00")
        for _ in range(_WARM_UP + calls):
            began_s = time.perf_counter()
            await orchestrator.get(payment.id)
            took_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took_ms[_WARM_UP:])


def _blocking_ms(calls: int) -> float:
    took_ms = []
    with cfflow.sync.connect(**_settings()) as orchestrator:
        payment = orchestrator.start("native_otp", order_id="order_1", amount="170.00")
        for _ in range(_WARM_UP + calls):
            began_s = time.perf_counter()
            orchestrator.get(payment.id)
            took_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took_ms[_WARM_UP:])


def _settings() -> dict[str, Any]:
    return {
        "store": MemoryStore(),
        "client_id": DEFAULT_CLIENT_ID,
        "client_secret": DEFAULT_CLIENT_SECRET,
        "environment": "sandbox",
        "log": silent_log(),
    }
