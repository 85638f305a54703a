"""How fast workers settle payments after a crash, and what a lease costs in a large store.

Reconciling: so many processes died with an OTP on its way; the bank has taken each payment's
money. One worker, no rate budget, asks about all of them; the emulator counts the inquiries
and runs in a process of its own.

Leasing: a store full of payments that sleep, a few that are due. It must not slow a lease down.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec
from redis.asyncio import Redis

import cfflow
from bench.memory import BatchingStore
from bench.places import embedded_valkey
from bench.seeded_bank import Seeded, order_of
from cfflow import Worker
from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Order
from cfflow.core.plan import Change, Plan
from cfflow.core.record import OtpTurn, Record
from cfflow.core.steps import begin_payment, create
from cfflow.emulator import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from cfflow.logs import silent_log
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders
from cfflow.store.redis.store import RedisStore

__all__ = ["Leases", "Reconciled", "measure_leases", "measure_reconciling"]

_AT_ONCE: Final = 256
_LEASES: Final = 400
_DUE: Final = 2_000
_LEASE_MS: Final = 60_000
_LEASE_LIMIT: Final = 64


class Reconciled(NamedTuple):
    """How many payments, how long it took, and how many inquiries the gateway counted."""

    payments: int
    took_s: float
    cpu_s: float
    inquiries: int

    @property
    def per_s(self) -> float:
        """Payments reconciled in a second."""
        return self.payments / self.took_s


class Leases(NamedTuple):
    """What a lease costs while so many payments sleep, and what they take together."""

    sleeping: int
    p50_ms: float
    p99_ms: float
    used_b: int


async def measure_reconciling(payments: int) -> Reconciled:
    """Let one worker find the truth about so many interrupted payments."""
    async with embedded_valkey() as url, _bank(payments) as (bank, process):
        await _interrupt(url, bank.attempts)
        async with cfflow.connect(
            redis_url=url,
            environment=bank.base_url,
            client_id=DEFAULT_CLIENT_ID,
            client_secret=DEFAULT_CLIENT_SECRET,
            log=silent_log(),
        ) as orchestrator:
            worker = Worker(orchestrator, concurrency=_AT_ONCE)
            began_s, cpu_s = time.perf_counter(), time.process_time()
            running = asyncio.create_task(worker.run(signals=False))
            while (await orchestrator.store.overdue()).count:
                # It ends when nothing is due; the server cannot notify us of that.
                await asyncio.sleep(0.2)
            worker.stop()
            report = await running
            took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        if report.progressed != payments or report.errors:
            raise RuntimeError(f"not reconciled: {report}")
        if process.stdin is not None and process.stdout is not None:
            process.stdin.close()
            return Reconciled(payments, took_s, cpu_s, int(await process.stdout.readline()))
    raise RuntimeError("the bank's process has no pipes")


@asynccontextmanager
async def _bank(payments: int) -> AsyncIterator[tuple[Seeded, asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.seeded_bank",
        str(payments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        line = await process.stdout.readline() if process.stdout else b""
        yield msgspec.json.decode(line, type=Seeded), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _interrupt(url: str, attempts: Sequence[str]) -> None:
    """Write payments whose OTP was on its way when their process died, a minute ago."""
    store = BatchingStore(url)
    await store.open()
    flow = Catalog().named("native_otp")
    numbers = iter(range(len(attempts)))

    async def some() -> None:
        for number in numbers:
            await _interrupted(store, flow, number, attempts[number])

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
    store = BatchingStore(url)
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
