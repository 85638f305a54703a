"""Worker processes: the library's own worker, marked so that its steps can be told apart."""

from __future__ import annotations

import asyncio

from cfflow import Orchestrator
from cfflow.worker import Worker
from tests.sim.process import ACTION, WORKER, Action


async def work(orchestrator: Orchestrator, lease_s: float, until_s: float) -> None:
    """Look after what is due, until it is told to stop after so many seconds."""
    ACTION.set(Action(0, WORKER, ""))
    worker = Worker(orchestrator, concurrency=8, lease_s=lease_s, drain_s=3.0)
    asyncio.get_running_loop().call_later(until_s, worker.stop)
    await worker.run(signals=False)


async def catch_up(worker: Worker) -> None:
    """Look after what is due until nothing is."""
    ACTION.set(Action(0, WORKER, ""))
    claimed = -1
    while claimed < (report := await worker.run_once()).leased:
        claimed = report.leased
