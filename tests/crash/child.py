"""Processes to be killed: one that has imported everything forks one for each job.

`python -m tests.crash.child` reads groups of jobs from its standard input, a line each,
runs every job of a group in a process of its own, and writes a line with how they ended.
It ends when its input ends.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import multiprocessing
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from cfflow import UPI, Orchestrator, PaymentMethod, Worker
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.transport import GatewayTransport
from cfflow.core.arguments import LEFT_OUT
from cfflow.emulator.records import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from cfflow.store.catalog import Catalog
from cfflow.testing.shared_time import script_with_skipped_time
from tests.crash.race import race
from tests.crash.stages import Doom, DoomedStore, DoomedTransport, Stages
from tests.engine.shop import Events, card

__all__ = ["ACTS", "PARTITIONS", "End", "Job", "Nursery"]

#: A process that has not ended after so many seconds hangs and is killed.
_HANGS_S: Final = 30

#: Fewer than usual: each lease reads all of them, and the orders are few.
PARTITIONS: Final = 4

_METHODS: Final[dict[str, Callable[[], PaymentMethod]]] = {
    "card_otp": card,
    "card_link": lambda: card(channel="link"),
    "upi_link": lambda: UPI(channel="link"),
    "upi_collect": lambda: UPI(channel="collect", upi_id="testsuccess@gocash"),
}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does, for which payment, and where it dies; None: it is not killed.

    `argument`: an OTP, a review's reason, a state: what the act takes. `buttons`, `tasks`,
    `processes`: what the race presses, with how many tasks here and how many processes in all.
    The till fills in the addresses of the store and the bank, and the flows.
    """

    act: str
    order_id: str
    flow: str
    payment_id: str = ""
    session: str = ""
    method: str = "card_otp"
    argument: str = ""
    amount: str | None = None
    buttons: tuple[str, ...] = ()
    tasks: int = 0
    processes: int = 0
    redis_url: str = ""
    base_url: str = ""
    flows: tuple[str, ...] = ()
    doom: Doom | None = None


class End(msgspec.Struct, frozen=True):
    """How a process ended, as minus its signal or as its exit status, and what it had done.

    `seen`: its stages; `results`: how the tasks of its race ended.
    """

    status: int
    seen: tuple[str, ...] = ()
    results: dict[str, int] = {}
    error: str = ""


async def _pay(orchestrator: Orchestrator, job: Job) -> object:
    return await orchestrator.pay(job.payment_id, job.session, _METHODS[job.method]())


async def _start(orchestrator: Orchestrator, job: Job) -> object:
    return await orchestrator.start(job.flow, order_id=job.order_id, amount="170")


async def _acknowledge(orchestrator: Orchestrator, job: Job) -> object:
    decision = {"actor": "asha", "note": "seen"}
    return await orchestrator.acknowledge(job.payment_id, job.argument, **decision)


async def _resolve(orchestrator: Orchestrator, job: Job) -> object:
    decision = {"actor": "asha", "note": "seen"}
    return await orchestrator.resolve(job.payment_id, job.argument, **decision)


async def _work(orchestrator: Orchestrator, _: Job) -> object:
    return await Worker(orchestrator).run_once()


async def _race(orchestrator: Orchestrator, job: Job) -> object:
    return await race(
        orchestrator,
        job.payment_id,
        job.buttons,
        session=job.session,
        tasks=job.tasks,
        processes=job.processes,
    )


#: Everything that a process can do when it is killed.
ACTS: Final[dict[str, Callable[[Orchestrator, Job], Awaitable[object]]]] = {
    "start": _start,
    "pay": _pay,
    "submit_otp": lambda o, job: o.submit_otp(job.payment_id, job.argument),
    "resend_otp": lambda o, job: o.resend_otp(job.payment_id),
    "leave_otp": lambda o, job: o.leave_otp(job.payment_id),
    "capture": lambda o, job: o.capture(
        job.payment_id, LEFT_OUT if job.amount is None else job.amount
    ),
    "void": lambda o, job: o.void(job.payment_id),
    "refresh": lambda o, job: o.refresh(job.payment_id),
    "adopt": lambda o, job: o.adopt(job.order_id, flow=job.flow),
    "abandon": lambda o, job: o.abandon(job.payment_id),
    "acknowledge": _acknowledge,
    "resolve": _resolve,
    "work": _work,
    "race": _race,
}


def _doomed(job: Job, stages: Stages) -> Orchestrator:
    """Return an orchestrator that kills its process where its job needs it."""
    script = script_with_skipped_time()
    store = DoomedStore(job.redis_url, partitions=PARTITIONS, script=script)
    store.stages = stages
    admin_url = job.base_url.removesuffix("/pg") + "/_emulator"
    sockets = GatewayTransport(job.base_url)
    gateway = GatewayClient(
        DoomedTransport(sockets, stages, admin_url, job.order_id),
        client_id=DEFAULT_CLIENT_ID,
        client_secret=DEFAULT_CLIENT_SECRET,
        environment=job.base_url,
        log=Events(),
    )
    return Orchestrator(store, gateway, catalog=Catalog(job.flows), log=Events())


async def _act(job: Job, stages: Stages) -> object:
    async with _doomed(job, stages) as orchestrator:
        done = await ACTS[job.act](orchestrator, job)
        # The side "after" of one stage more than the step has: everything is done.
        stages.reach(len(stages.seen), "after")
        return done


def _run(job: Job, results: Any) -> None:
    signal.alarm(_HANGS_S)
    stages = Stages(job.doom)
    done: object = None
    error = ""
    try:
        done = asyncio.run(_act(job, stages))
    except Exception as trouble:  # noqa: BLE001  the test shows every error
        error = f"{type(trouble).__name__}: {trouble}"
    results.send((tuple(stages.seen), dict(done) if isinstance(done, Counter) else {}, error))


def _run_all(jobs: Sequence[Job]) -> list[End]:
    forks = multiprocessing.get_context("fork")
    running = []
    for job in jobs:
        mine, theirs = forks.Pipe(duplex=False)
        process = forks.Process(target=_run, args=(job, theirs))
        process.start()
        theirs.close()
        running.append((process, mine))
    ends = []
    for process, mine in running:
        received: tuple[Any, ...] = ()
        with suppress(EOFError):
            received = mine.recv()
        process.join()
        ends.append(End(process.exitcode or 0, *received))
    return ends


class Nursery:
    """The process that forks, as a context manager for tests."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.communicate()

    async def run(self, *jobs: Job) -> list[End]:
        """Run each job in a process of its own, all at once; return how they ended."""
        return await asyncio.to_thread(self._exchange, jobs)

    def _exchange(self, jobs: Sequence[Job]) -> list[End]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the nursery is not open")
        process.stdin.write(msgspec.json.encode(jobs) + b"\n")
        process.stdin.flush()
        return msgspec.json.decode(process.stdout.readline(), type=list[End])


def main() -> None:
    """Fork for each line of jobs until the input ends."""
    # Otherwise the first connection loads it, in every child again.
    importlib.import_module("anyio._backends._asyncio")
    gc.freeze()
    for line in sys.stdin.buffer:
        ends = _run_all(msgspec.json.decode(line, type=list[Job]))
        sys.stdout.buffer.write(msgspec.json.encode(ends) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
