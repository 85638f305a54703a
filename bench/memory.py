"""Bytes per payment in the server, at 50,000 payments with six transitions each.

Every payment lives its life through the pure core and the store's real commits: nine
script calls, the bank's answers made up here. `used_memory` before and after tells what all
of them take together. The event feed is bounded per partition, whatever the number of
payments, so what MEMORY USAGE says of its streams is taken off, as are the flows' texts.
A captured payment has left the wake index; what an entry in it takes is measured apart and
added, so that the figure is that of a payment still in flight.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from bench.places import embedded_valkey
from cfflow.core.actions import AskOtp
from cfflow.core.chart import State, Trigger
from cfflow.core.decide import Answered, decide
from cfflow.core.flow import Flow
from cfflow.core.observation import Call, Observation
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Plan
from cfflow.core.record import TRIGGERS, EntryKind
from cfflow.core.steps import (
    Instrument,
    begin_pay,
    begin_payment,
    begin_resend,
    begin_submit,
    create,
)
from cfflow.store.catalog import Catalog
from cfflow.store.codec import encode_order
from cfflow.store.orders import Orders
from cfflow.store.protocol import Outcome
from cfflow.store.redis.store import RedisStore

__all__ = ["Memory", "measure"]

_AT_ONCE: Final = 128
_LOOKS_MAX: Final = 100
_AMOUNT: Final = Decimal("170.00")
_WAY_OUT: Final = "https://api.cashfree.com/pg/view/redirecttobank/" + "x" * 48

_LIFE: Final = (
    Trigger.INITIATE,
    Trigger.REQUIRE_OTP,
    Trigger.REJECT_OTP,
    Trigger.RESEND_OTP,
    Trigger.HOLD,
    Trigger.CAPTURE,
)

#: Opens a step or takes an answer, at a time in ms after the payment began.
Deed = tuple[int, Callable[[Snapshot, Flow, int], Plan]]


class Memory(NamedTuple):
    """Bytes per payment, and what they are made of; `blob_b` is the record's own size."""

    payments: int
    kept_b: float
    wake_b: float
    feed_b: float
    blob_b: float

    @property
    def in_flight_b(self) -> float:
        """The order with its one payment, its state index and its wake index."""
        return self.kept_b + self.wake_b


async def measure(payments: int, seconds_max: float) -> Memory:
    """Write so many payments, or as many as the time permits, and look what they take."""
    ends_s = time.perf_counter() + seconds_max
    async with embedded_valkey() as url:
        # One payment first: scripts, indexes of every kind and buffers are there then.
        blobs = await _written(url, 0, 1, ends_s)
        before_b = await _used(url)
        feed_before_b, flows_before_b = await _taken(url, "events"), await _taken(url, "flows")
        blobs += await _written(url, 1, payments, ends_s)
        after_b = await _used(url)
        count = len(blobs) - 1
        feed_b = await _taken(url, "events") - feed_before_b
        flows_b = await _taken(url, "flows") - flows_before_b
        wake_b = await _wake_added(url, count)
    return Memory(
        payments=count,
        kept_b=(after_b - before_b - feed_b - flows_b) / count,
        wake_b=wake_b / count,
        feed_b=feed_b / count,
        blob_b=statistics.fmean(blobs),
    )


async def _written(url: str, first: int, count: int, ends_s: float) -> list[int]:
    """Write payments in many tasks; return the sizes of their records."""
    numbers = iter(range(first, first + count))
    sizes: list[int] = []
    flow = Catalog().named("native_otp")
    store = RedisStore(url)
    orders = Orders(store)
    await store.open()
    try:

        async def one_after_the_other() -> None:
            for number in numbers:
                if time.perf_counter() > ends_s and sizes:
                    return
                sizes.append(len(encode_order(await _live(orders, flow, number))))

        await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
    finally:
        # Its connections' buffers are memory too, and not the payments'.
        await store.aclose()
    return sizes


async def _live(orders: Orders, flow: Flow, number: int) -> Order:
    """Lead one payment from start to captured, commit by commit."""
    began_at_ms = orders.store.now_ms()
    record = create(
        flow,
        began_at_ms,
        nonce=f"{number:08x}",
        currency="INR",
        amount=_AMOUNT,
        metadata=None,
    )
    held = await _committed(orders, begin_payment(Order(id=_order_id(number)), record, flow))
    for after_ms, deed in _deeds(f"51149{number:08d}", began_at_ms):
        held = await _committed(orders, deed(held, flow, began_at_ms + after_ms))
    walked = [
        TRIGGERS[entry.code] for entry in held.record.history if entry.kind == EntryKind.TRANSITION
    ]
    if tuple(walked) != _LIFE or held.record.state is not State.CAPTURED:
        raise RuntimeError(f"{held.id} walked {walked}")
    return held.order


async def _committed(orders: Orders, plan: Plan) -> Snapshot:
    written = await orders.commit(plan)
    if written.outcome is not Outcome.APPLIED:
        raise RuntimeError(f"{plan.after.id}: {written.outcome}")
    return written.plan.snapshot


def _deeds(attempt: str, began_at_ms: int) -> Iterator[Deed]:
    """Pay, a wrong OTP, a resend, the right OTP: each opened, then answered."""
    instrument = Instrument("card", "post", "1111")
    paid = _observed(Call.PAY, attempt, action="post", method="card", channel="post")
    wrong = _observed(Call.AUTHENTICATE, attempt, authenticate_status="FAILED")
    right = _observed(Call.AUTHENTICATE, attempt, authenticate_status="SUCCESS")
    taken = _observed(
        Call.FETCH_PAYMENT,
        attempt,
        payment_status="SUCCESS",
        is_captured=True,
        payment_amount=_AMOUNT,
        paid_at_ms=began_at_ms,
        method="card",
        channel="post",
        payment_group="credit_card",
        masked="xxxxxx1111",
        bank_reference="018352345678",
        auth_id="A01835",
    )
    sequences = itertools.count(1)

    def answered(*seen: Observation, asks: AskOtp | None = None) -> Callable[..., Plan]:
        sequence = next(sequences)
        return lambda held, flow, now_ms: decide(
            held, Answered(sequence, seen, now_ms - 200, asks), flow, now_ms
        )

    yield 200, lambda held, flow, now_ms: begin_pay(held, flow, now_ms, instrument)
    yield 900, answered(paid, asks=AskOtp(_WAY_OUT))
    yield 21_000, begin_submit
    yield 21_400, answered(wrong)
    yield 43_000, begin_resend
    yield 43_400, answered(right)
    yield 64_000, begin_submit
    yield 64_900, answered(right, taken)


def _observed(call: Call, attempt: str, **fields: Any) -> Observation:
    return Observation(
        call=call, cf_payment_id=attempt, request_id="0123456789abcdef0123456789abcdef", **fields
    )


def _order_id(number: int) -> str:
    return f"order_20261122{number:08d}"


async def _used(url: str) -> int:
    """Return the server's used_memory once connections and garbage are gone."""
    async with Redis.from_url(url) as client:
        clients = -1
        for _ in range(_LOOKS_MAX):
            about = await client.info()
            settled = about["connected_clients"] == clients
            if settled and not about["lazyfree_pending_objects"]:
                break
            clients = about["connected_clients"]
            await asyncio.sleep(0.05)
        # What the one asking takes is in both figures.
        return int(about["used_memory"]) - int(about["mem_aof_buffer"])


async def _taken(url: str, kind: str) -> int:
    """Return what MEMORY USAGE says of all keys of one kind, every element looked at."""
    total = 0
    async with Redis.from_url(url) as client:
        async for key in client.scan_iter(match=f"cf:*:{kind}", count=1000):
            total += int(await client.memory_usage(key, samples=0) or 0)
    return total


async def _wake_added(url: str, count: int) -> int:
    """Put every order into its wake index and return what that takes."""
    before_b = await _used(url)
    keys = RedisStore(url).keys
    async with Redis.from_url(url) as client:
        for first in range(1, count + 1, 1000):
            pipeline = client.pipeline(transaction=False)
            for number in range(first, min(first + 1000, count + 1)):
                order_id = _order_id(number)
                due_ms = time.time_ns() // 1_000_000 + number
                pipeline.zadd(keys.wake(keys.partition(order_id)), {order_id: due_ms})
            await pipeline.execute()
    return await _used(url) - before_b
