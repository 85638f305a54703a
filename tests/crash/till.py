"""A merchant's till: orders, payments up to a state, the processes that die, and the auditor.

Everything is real but the time: a Redis server, a bank behind HTTP, processes that are
killed. `recover` is what happens after a crash: a fresh process, and its worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import cfflow
from cfflow import Orchestrator, Payment, State, Worker
from cfflow.emulator import EmulatorProcess
from tests.crash.audit import Bank, Kept, Order, findings, kept_of, lost, on_its_way
from tests.crash.child import ACTS, End, Job, Nursery
from tests.crash.clock import Clock
from tests.crash.stages import Doom
from tests.engine.shop import CUSTOMER, OTP, Events, card
from tests.ports.servers import Server

__all__ = ["Till", "no_limits"]

#: What wakes later than this is no aftermath of a crash: a lease is 60 s, an answer is
#: looked for twice, 15 s apart.
_HORIZON_MS: Final = 100_000
_WAKES_MAX: Final = 40
_LOOKS_MAX: Final = 400

_numbers = count(1)

#: The gateway's limits are another test's matter.
no_limits: Final = dict.fromkeys(
    ("create_order", "fetch_order", "fetch_payments", "fetch_payment", "pay")
)


class Till:
    """What a test needs of a merchant whose processes die."""

    def __init__(
        self, server: Server, bank: EmulatorProcess, nursery: Nursery, flows: Iterable[str]
    ) -> None:
        self._server = server
        self._bank = bank
        self._nursery = nursery
        self._flows = tuple(flows)
        self.clock: Final = Clock(server, bank.admin_url)
        self._performed = self.books().calls.performed

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Orchestrator]:
        """A fresh process as far as the store can tell: new connections, nothing remembered."""
        async with cfflow.connect(
            redis_url=self._server.url,
            client_id=self._bank.client_id,
            client_secret="cfflow-test-secret",
            environment=self._bank.base_url,
            flows=self._flows,
            limits=no_limits,
            log=Events(),
        ) as orchestrator:
            yield orchestrator

    # a payment up to a state

    async def order(self, till: Orchestrator, *, hold: bool = False) -> tuple[str, str]:
        """Create an order at the gateway; return its id and its session."""
        order_id = f"order_{next(_numbers)}"
        tags = {"cfflow_preauth": "true"} if hold else None
        made = await till.gateway.create_order(
            "170.00", CUSTOMER, order_id=order_id, order_tags=tags
        )
        return order_id, made.payment_session_id or ""

    async def begun(self, till: Orchestrator, flow: str, *, hold: bool = False) -> Job:
        """Return a payment that nobody has paid yet, as a job to be filled in."""
        order_id, session = await self.order(till, hold=hold)
        payment = await till.start(flow, order_id=order_id, amount="170")
        return Job(
            act="pay", order_id=order_id, flow=flow, payment_id=payment.id, session=session
        )

    async def at_otp(self, till: Orchestrator, flow: str = "native_otp") -> Job:
        """Return a payment whose customer is asked for the OTP."""
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
        """Run a job in a process of its own, which dies where it is told to."""
        placed = {"redis_url": self._server.url, "base_url": self._bank.base_url}
        told = {"flows": self._flows, "doom": doom}
        (end,) = await self._nursery.run(_with(job, **placed, **told))
        return end

    async def act(self, job: Job) -> object:
        """Do the same in this process, as the merchant's next try."""
        async with self.process() as till:
            return await ACTS[job.act](till, job)

    async def look(self) -> None:
        """Let the next wake come and a worker look once."""
        async with self.process() as till:
            await self._skip_to_wake(till)
            await Worker(till).run_once()

    async def recover(self, order_id: str) -> list[Payment]:
        """Let a fresh worker look after an order until its next wake is far away."""
        async with self.process() as till:
            worker = Worker(till)
            for _ in range(_WAKES_MAX):
                await worker.run_once()
                found = await kept_of(till.store, order_id)  # type: ignore[arg-type]  # it is in Redis
                if all(_quiet(kept, till.store.now_ms()) for kept in found):
                    return await till.find(order_id=order_id)
                await self._skip_to_wake(till, order_id)
        raise RuntimeError(f"{order_id} does not come to rest: {found}")

    async def _skip_to_wake(self, till: Orchestrator, order_id: str | None = None) -> None:
        found = [p.order_id for p in await till.find()] if order_id is None else [order_id]
        wakes = [
            kept.wake_ms
            for order in found
            for kept in await kept_of(till.store, order)  # type: ignore[arg-type]  # it is in Redis
            if kept.wake_ms is not None
        ]
        if wakes:
            self.clock.skip(max(0, min(wakes) - till.store.now_ms()) / 1000 + 0.002)

    async def settled_at_the_bank(self, call: str, times: int) -> None:
        """Wait until the bank has carried out so many such calls since this till was opened."""
        for _ in range(_LOOKS_MAX):
            if self.performed(call) >= times:
                return
            await asyncio.sleep(0.01)
        raise RuntimeError(f"the bank has not carried out {call}")

    async def finish(self, job: Job, end: State) -> Payment:
        """Let customer and merchant go on, until the order's newest payment is at its end."""
        for _ in range(8):
            payment = (await self.recover(job.order_id))[-1]
            if payment.state in {State.CAPTURED, State.VOIDED, State.FAILED}:
                return payment
            await self._go_on(_with(job, payment_id=payment.id), payment, end)
        raise RuntimeError(f"{payment!r} does not come to its end")

    async def _go_on(self, job: Job, payment: Payment, end: State) -> None:
        async with self.process() as till:
            if payment.state is State.CREATED:
                await ACTS["pay"](till, job)
            elif payment.state is State.OTP_PENDING:
                await till.submit_otp(payment.id, OTP)
            elif payment.state is State.INITIATED:
                await till.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
            elif end is State.VOIDED:
                await till.void(payment.id)
            else:
                await ACTS["capture"](till, job)

    # the books

    def books(self, order_id: str | None = None) -> Bank:
        """Return the bank's books."""
        return Bank.of(self._bank.admin_url, order_id)

    def effects(self, order_id: str) -> list[str]:
        """Return what the bank has done with an order, oldest first."""
        return [line.effect for line in self.books(order_id).ledger]

    def performed(self, call: str) -> int:
        """Return how often the bank carried out a call since this till was opened."""
        return self.books().calls.performed.get(call, 0) - self._performed.get(call, 0)

    async def findings(self, order_id: str) -> list[str]:
        """Return what must never be, of one order."""
        return findings(await self._order(order_id))

    async def lost(self, order_id: str) -> list[str]:
        """Return what must not be left when all is done, of one order."""
        return lost(await self._order(order_id))

    async def _order(self, order_id: str) -> Order:
        async with self.process() as till:
            kept = await kept_of(till.store, order_id)  # type: ignore[arg-type]  # it is in Redis
        return Order(kept, self.books(order_id).ledger)


def _quiet(kept: Kept, now_ms: int) -> bool:
    soon = kept.wake_ms is not None and kept.wake_ms < now_ms + _HORIZON_MS
    return not soon and (not on_its_way(kept.record) or bool(kept.record.open_reviews))
