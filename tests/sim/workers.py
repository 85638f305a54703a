"""Worker processes: the library's own worker; `ACTION` shows that its steps are a worker's."""

from __future__ import annotations

import asyncio

from cfflow import Orchestrator
from cfflow.worker import Worker
from tests.sim.process import ACTION, WORKER, Action


async def work(orchestrator: Orchestrator, lease_s: float, until_s: float) -> None:
    """Handle due payments for so many seconds, then stop."""
    ACTION.set(Action(0, WORKER, ""))
    worker = Worker(orchestrator, concurrency=8, lease_s=lease_s, drain_s=3.0)
    asyncio.get_running_loop().call_later(until_s, worker.stop)
    await worker.run(signals=False)


async def catch_up(worker: Worker) -> None:
    """Handle due payments until none is left."""
    ACTION.set(Action(0, WORKER, ""))
    leased = -1
    while leased < (report := await worker.run_once()).leased:
        leased = report.leased
