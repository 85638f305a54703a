"""How fast workers settle payments after a crash, and what a lease costs in a large store.

Reconciling: so many processes died with an OTP on its way; the bank has taken each payment's
money. One worker on one core, no rate budget, asks about all of them; the gateway is the stub,
which counts the inquiries.

Leasing: a store full of payments that sleep, a few that are due. It must not slow a lease down.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec
from redis.asyncio import Redis

import cfflow
from bench.bulk import BulkStore
from bench.places import Account, embedded_valkey, fetches_at
from cfflow import Worker
from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Order
from cfflow.core.plan import Change, Plan
from cfflow.core.record import OtpTurn, Record
from cfflow.core.steps import begin_payment, create
from cfflow.logs import silent_log
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders
from cfflow.store.protocol import Commit, Committed, Outcome
from cfflow.store.redis.store import RedisStore

__all__ = ["Leases", "Reconciled", "measure_leases", "measure_reconciling"]

_AT_ONCE: Final = 256
_RECOVERY_S_MAX: Final = 300
_LEASES: Final = 400
_DUE: Final = 2_000
_LEASE_MS: Final = 60_000
_LEASE_LIMIT: Final = 64


class Reconciled(NamedTuple):
    """How many payments, how long it took, and how many inquiries the gateway counted.

    It is the fastest of so many `runs`.
    """

    payments: int
    took_s: float
    cpu_s: float
    inquiries: int
    runs: int = 1

    @property
    def per_s(self) -> float:
        """Payments that one worker on one core reconciled in a second."""
        return self.payments / self.took_s


class Leases(NamedTuple):
    """What a lease costs while so many payments sleep, and what they take together."""

    sleeping: int
    p50_ms: float
    p99_ms: float
    used_b: int


class _CountingStore(RedisStore):
    """Sets `done` with the last of so many commits.

    The server cannot tell that nothing is due any more, and to ask it again and again would cost
    the worker that is measured.
    """

    def __init__(self, url: str, commits: int) -> None:
        super().__init__(url)
        self.done: Final = asyncio.Event()
        self._left = commits

    async def commit(self, commit: Commit) -> Committed:
        committed = await super().commit(commit)
        self._left -= committed.outcome is Outcome.APPLIED
        if self._left == 0:
            self.done.set()
        return committed


async def measure_reconciling(payments: int, runs: int, stub: Account) -> Reconciled:
    """Return the fastest of some runs: nothing else shows how slow the machine was meanwhile."""
    found = [await _reconciled(payments, stub) for _ in range(runs)]
    return min(found, key=lambda run: run.took_s)._replace(runs=runs)


async def _reconciled(payments: int, stub: Account) -> Reconciled:
    """Let one worker find the truth about so many interrupted payments."""
    fetched = await fetches_at(stub)
    async with embedded_valkey() as url:
        await _interrupt(url, payments)
        store = _CountingStore(url, payments)
        async with cfflow.connect(
            store=store,
            environment=stub.base_url,
            client_id=stub.client_id,
            client_secret=stub.client_secret,
            log=silent_log(),
        ) as orchestrator:
            worker = Worker(orchestrator, concurrency=_AT_ONCE)
            began_s, cpu_s = time.perf_counter(), time.process_time()
            running = asyncio.create_task(worker.run(signals=False))
            async with asyncio.timeout(_RECOVERY_S_MAX):
                await store.done.wait()
            took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
            worker.stop()
            report = await running
        if report.progressed != payments or report.errors:
            raise RuntimeError(f"not reconciled: {report}")
        return Reconciled(payments, took_s, cpu_s, await fetches_at(stub) - fetched)


async def _interrupt(url: str, payments: int) -> None:
    """Write payments whose OTP was on its way when their process died, a minute ago."""
    store = RedisStore(url)
    await store.open()
    flow = Catalog().named("native_otp")
    numbers = iter(range(payments))

    async def some() -> None:
        for number in numbers:
            await _interrupted(store, flow, number, str(1_000_000_000 + number))

    try:
        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
    finally:
        await store.aclose()


async def _interrupted(store: RedisStore, flow: Flow, number: int, attempt: str) -> None:
    then_ms = store.now_ms() - 60_000
    record = _record(flow, then_ms, number)
    orders = Orders(store)
    begun = await orders.commit(begin_payment(Order(id=order_of(number)), record, flow))
    held = begun.plan.snapshot
    operation = Operation(
        step=Step.SUBMIT_OTP,
        sequence=2,
        key=f"{held.id}-submit_otp-2-{record.nonce}",
        began_at_ms=then_ms,
        deadline_at_ms=then_ms + 10_000,
    )
    interrupted = msgspec.structs.replace(
        held.record,
        version=2,
        state=State.OTP_PENDING,
        cf_payment_id=attempt,
        operation=operation,
        sequence=2,
        otp=OtpTurn(expires_at_ms=then_ms + 300_000, sent_at_ms=then_ms),
        wake_at_ms=then_ms + 11_000,
    )
    after = msgspec.structs.replace(held.order, payments=(interrupted,))
    change = Change(held.n, held.record, interrupted)
    await orders.commit(Plan(before=held.order, after=after, changes=(change,)))


def _record(flow: Flow, at_ms: int, number: int) -> Record:
    return create(
        flow,
        at_ms,
        nonce=f"{number:08x}",
        currency="INR",
        amount=Decimal("170.00"),
        metadata=None,
    )


async def measure_leases(sleeping: int) -> Leases:
    """Fill a store with payments that sleep, add a few that are due, and time leases."""
    async with embedded_valkey() as url:
        await _sleep(url, sleeping)
        store = RedisStore(url)
        await store.open()
        took_ms = []
        try:
            for _ in range(_LEASES):
                began_s = time.perf_counter()
                await store.lease(_LEASE_LIMIT, _LEASE_MS)
                took_ms.append((time.perf_counter() - began_s) * 1000)
        finally:
            await store.aclose()
        async with Redis.from_url(url) as client:
            used_b = int((await client.info("memory"))["used_memory"])
    cuts = statistics.quantiles(took_ms, n=100)
    return Leases(sleeping, statistics.median(took_ms), cuts[98], used_b)


async def _sleep(url: str, sleeping: int) -> None:
    store = BulkStore(url)
    await store.open()
    flow = Catalog().named("native_otp")
    orders = Orders(store)
    numbers = itertools.count()

    async def some() -> None:
        for number in numbers:
            if number >= sleeping:
                return
            now_ms = store.now_ms()
            wake_at_ms = now_ms - 1 if number < _DUE else now_ms + 3_600_000 + number
            record = msgspec.structs.replace(_record(flow, now_ms, number), wake_at_ms=wake_at_ms)
            await orders.commit(begin_payment(Order(id=order_of(number)), record, flow))

    try:
        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
    finally:
        await store.aclose()


def order_of(number: int) -> str:
    """Return the id of the i-th order."""
    return f"order_{number:08d}"
