"""A merchant's till: orders, payments up to a state, the processes that die, and the auditor.

Everything except the time is real: a Redis server, a bank behind HTTP, processes that are
killed. `recover` does what happens after a crash: a new process runs a worker.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, Self, cast

import httpx
from msgspec.structs import replace

import cfflow
from cfflow import Orchestrator, Payment, State, Worker
from cfflow.emulator import EmulatorProcess
from cfflow.store.redis.store import RedisStore
from cfflow.testing.shared_time import script_with_skipped_time
from tests.crash.audit import Bank, Kept, Order, findings, kept_of, lost, on_its_way
from tests.crash.child import ACTS, PARTITIONS, End, Job, Nursery
from tests.crash.clock import Clock
from tests.crash.stages import Doom
from tests.engine.shop import CUSTOMER, OTP, Events, card
from tests.ports.servers import Server

__all__ = ["PROCESSES", "TASKS", "Till", "no_limits"]

#: A wake time later than this has nothing to do with a crash: a lease is 60 s, and a lost pay
#: is looked for twice, 15 s apart.
_HORIZON_MS: Final = 100_000
#: The processes of a race and the tasks of each: 200 tasks.
PROCESSES: Final = 8
TASKS: Final = 25

_WAKES_MAX: Final = 40
_TURNS_MAX: Final = 8
_LOOKS_MAX: Final = 500
_LOOK_S: Final = 0.01

_numbers = count(1)

#: Other tests cover the gateway's limits.
no_limits: Final = dict.fromkeys(
    ("create_order", "fetch_order", "fetch_payments", "fetch_payment", "pay")
)


class Till:
    """The parts of a merchant that a test of dying processes needs."""

    def __init__(
        self,
        server: Server,
        bank: EmulatorProcess,
        admin: httpx.Client,
        nursery: Nursery,
        flows: Iterable[str],
    ) -> None:
        self._server = server
        self._bank = bank
        self._nursery = nursery
        self._flows = tuple(flows)
        self._admin = admin
        self.clock: Final = Clock(server, admin)
        self._performed = self.books().calls.performed
        self._auditor = self._new_store()

    async def __aenter__(self) -> Self:
        await self._auditor.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._auditor.aclose()

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Orchestrator]:
        """Yield an orchestrator like that of a new process: new connections, empty caches."""
        async with cfflow.connect(
            store=self._new_store(),
            client_id=self._bank.client_id,
            client_secret="cfflow-test-secret",
            environment=self._bank.base_url,
            flows=self._flows,
            limits=no_limits,
            log=Events(),
        ) as orchestrator:
            yield orchestrator

    def _new_store(self) -> RedisStore:
        """Return a store on the server's clock and the time skipped."""
        script = script_with_skipped_time()
        return RedisStore(self._server.url, partitions=PARTITIONS, script=script)

    # a payment up to a state

    async def order(self, till: Orchestrator, *, hold: bool = False) -> tuple[str, str]:
        """Create an order at the gateway; return its id and its session."""
        order_id = f"order_{next(_numbers)}"
        tags = {"cfflow_preauth": "true"} if hold else None
        made = await till.gateway.create_order(
            "170.00", CUSTOMER, order_id=order_id, order_tags=tags
        )
        return order_id, made.payment_session_id

    async def begun(self, till: Orchestrator, flow: str, *, hold: bool = False) -> Job:
        """Return a payment before its pay, as a job to be filled in."""
        order_id, session = await self.order(till, hold=hold)
        payment = await till.start(flow, order_id=order_id, amount="170")
        return Job(act="pay", order_id=order_id, flow=flow, payment_id=payment.id, session=session)

    async def at_otp(self, till: Orchestrator, flow: str = "native_otp") -> Job:
        """Return a payment whose customer must type the OTP."""
        job = await self.begun(till, flow, hold=flow != "native_otp")
        await till.pay(job.payment_id, job.session, card())
        return job

    async def held(self, till: Orchestrator, flow: str = "preauth") -> Job:
        """Return a payment whose money the bank holds."""
        job = await self.at_otp(till, flow)
        await till.submit_otp(job.payment_id, OTP)
        return job

    # the crash, and after it

    async def kill(self, job: Job, doom: Doom | None) -> End:
        """Run a job in a process of its own, which kills itself at `doom`."""
        (end,) = await self._nursery.run(replace(self.placed(job), doom=doom))
        return end

    async def race(self, job: Job, *buttons: str) -> Counter[str]:
        """Let 8 processes with 25 tasks each press these buttons at once; count the ends."""
        crowd = replace(
            self.placed(job), act="race", buttons=buttons, tasks=TASKS, processes=PROCESSES
        )
        ends: Counter[str] = Counter()
        for end in await self._nursery.run(*[crowd] * PROCESSES):
            if end.status or end.error:
                raise RuntimeError(f"a process of the race failed: {end}")
            ends.update(end.results)
        return ends

    def placed(self, job: Job) -> Job:
        """Return the job with the addresses of the store and the bank, and the flows."""
        return replace(
            job, redis_url=self._server.url, base_url=self._bank.base_url, flows=self._flows
        )

    async def act(self, job: Job) -> None:
        """Do the same in this process, as the merchant's next try."""
        async with self.process() as till:
            await ACTS[job.act](till, job)

    async def look(self) -> None:
        """Skip to the next wake time and run a worker once."""
        async with self.process() as till:
            orders = {payment.order_id for payment in await till.find()}
            await self._skip_to_wake(till, *orders)
            await Worker(till).run_once()

    async def recover(self, order_id: str) -> None:
        """Run a new worker until the order's next wake time is far away."""
        async with self.process() as till:
            await self._come_to_rest(till, order_id)

    async def _come_to_rest(self, till: Orchestrator, order_id: str) -> None:
        worker = Worker(till)
        for _ in range(_WAKES_MAX):
            await worker.run_once()
            found = await kept_of(_store(till), order_id)
            if all(_at_rest(kept, till.store.now_ms()) for kept in found):
                return
            await self._skip_to_wake(till, order_id)
        raise RuntimeError(f"{order_id} does not come to rest: {found}")

    async def _skip_to_wake(self, till: Orchestrator, *order_ids: str) -> None:
        kept = [kept for order_id in order_ids for kept in await kept_of(_store(till), order_id)]
        wakes = [one.wake_at_ms for one in kept if one.wake_at_ms is not None]
        if wakes:
            self.clock.skip(max(0, min(wakes) - till.store.now_ms()) / 1000 + 0.002)

    async def wait_for_bank(self, call: str, times: int) -> None:
        """Wait until the bank has carried out so many such calls since this till was opened."""
        for _ in range(_LOOKS_MAX):
            if self.performed(call) >= times:
                return
            await asyncio.sleep(_LOOK_S)
        raise RuntimeError(f"the bank has not carried out {call}")

    def fault(self, order_id: str, kind: str) -> None:
        """Give the next call about an order a fault."""
        rule = {"call": "any", "kind": kind, "order_id": order_id}
        self._admin.post("/faults", json=rule).raise_for_status()

    async def finish(self, till: Orchestrator, job: Job, end: State) -> Payment:
        """Act for customer and merchant until the order's newest payment is at its end."""
        for _ in range(_TURNS_MAX):
            await self._come_to_rest(till, job.order_id)
            payment = (await till.find(order_id=job.order_id))[-1]
            if payment.state in {State.CAPTURED, State.VOIDED, State.FAILED}:
                return payment
            await _go_on(till, replace(job, payment_id=payment.id), payment, end)
        raise RuntimeError(f"{payment!r} does not come to its end")

    # the books

    def books(self, order_id: str | None = None) -> Bank:
        """Return the bank's books."""
        return Bank.of(self._admin, order_id)

    def effects(self, order_id: str) -> list[str]:
        """Return what the bank has done with an order, oldest first."""
        return [line.effect for line in self.books(order_id).ledger]

    def performed(self, call: str) -> int:
        """Return how often the bank carried out a call since this till was opened."""
        return self.books().calls.performed.get(call, 0) - self._performed.get(call, 0)

    async def findings(self, order_id: str, *, settled: bool = False) -> list[str]:
        """Return the broken rules of an order; settled: also the rules for finished workers."""
        order = Order(await kept_of(self._auditor, order_id), self.books(order_id).ledger)
        return findings(order) + (lost(order) if settled else [])


def _store(till: Orchestrator) -> RedisStore:
    return cast("RedisStore", till.store)


async def _go_on(till: Orchestrator, job: Job, payment: Payment, end: State) -> None:
    """Do what the customer or the merchant does next."""
    if payment.state is State.CREATED:
        await ACTS["pay"](till, job)
    elif payment.otp is not None and payment.otp.submits_left:
        await till.submit_otp(payment.id, OTP)
    elif payment.state in {State.INITIATED, State.OTP_PENDING}:
        # The customer pays at the bank's own page, and comes back to the merchant's.
        await till.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
        await till.refresh(payment.id)
    elif end is State.VOIDED:
        await till.void(payment.id)
    else:
        await ACTS["capture"](till, job)


def _at_rest(kept: Kept, now_ms: int) -> bool:
    soon = kept.wake_at_ms is not None and kept.wake_at_ms < now_ms + _HORIZON_MS
    return not soon and (not on_its_way(kept.record) or bool(kept.record.open_reviews))
