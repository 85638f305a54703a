"""Worker processes: the library's own worker, marked so that its steps can be told apart."""

from __future__ import annotations

from cfflow import Orchestrator
from cfflow.worker import Worker
from tests.sim.process import ACTION, WORKER, Action


async def work(orchestrator: Orchestrator, lease_s: float) -> None:
    """Look after what is due, for ever."""
    ACTION.set(Action(0, WORKER, ""))
    await Worker(orchestrator, concurrency=8, lease_s=lease_s).run(signals=False)


async def catch_up(worker: Worker) -> None:
    """Look after what is due until nothing is."""
    ACTION.set(Action(0, WORKER, ""))
    claimed = -1
    while claimed < (report := await worker.run_once()).claimed:
        claimed = report.claimed
