"""Worker processes: the library's own worker; `ACTION` shows that its steps are a worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cfflow import Orchestrator
from cfflow.worker import Worker
from tests.sim.process import ACTION, WORKER, Action


async def work(orchestrator: Orchestrator, lease_s: float, until_s: float) -> None:
    """Handle due orders for so many seconds, then stop."""
    ACTION.set(Action(0, WORKER, ""))
    worker = Worker(orchestrator, concurrency=8, lease_s=lease_s, drain_s=3.0)
    asyncio.get_running_loop().call_later(until_s, worker.stop)
    await worker.run(signals=False)


async def catch_up(worker: Worker, is_due: Callable[[], bool]) -> None:
    """Handle due orders until none is left."""
    ACTION.set(Action(0, WORKER, ""))
    while is_due():
        await worker.run_once()
