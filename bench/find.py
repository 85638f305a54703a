"""python -m bench.find: what a call of `find` costs among many orders.

By state, the first page of 100 payments, in both directions; and a filter of which there is no
index, with one payment in 50,000: how long each call takes, and how many find it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

from bench.places import embedded_valkey, loop_factory, machine
from cfflow import Found
from cfflow.core.chart import State
from cfflow.core.order import Order
from cfflow.core.steps import begin_payment, create
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders
from cfflow.store.redis.store import RedisStore
from cfflow.views.reader import Reader

_AT_ONCE: Final = 256
_ROUNDS: Final = 30
#: One order in so many is on hold, and one in so many was abandoned. No hold has an end.
_HELD: Final = 10
_RARE: Final = 50_000


class Cost(NamedTuple):
    """How many calls a question took, and what each cost: CPU of this process, and time, in ms."""

    calls: int
    cpu_ms: float
    p50_ms: float
    max_ms: float


async def _fill(store: RedisStore, count: int) -> None:
    """Begin orders, one after another by their time of creation."""
    orders, flow = Orders(store), Catalog().named("preauth")
    numbers = itertools.count()
    start_ms = store.now_ms() - count

    async def some() -> None:
        for number in numbers:
            if number >= count:
                return
            record = create(
                flow,
                start_ms + number,
                nonce=f"{number:08x}",
                currency="INR",
                amount=Decimal("170.00"),
                metadata=None,
            )
            record = msgspec.structs.replace(
                record,
                state=State.AUTHORIZED if number % _HELD == 0 else State.CAPTURED,
                abandoned=number % _RARE == _RARE // 2,
            )
            await orders.commit(begin_payment(Order(id=f"order_{number:08}"), record, flow))

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


async def _cost(reader: Reader, rounds: int, **question: Any) -> Cost:
    """Ask until something is found or all was looked at, some times over."""
    took_ms: list[float] = []
    cpu_s = time.process_time()
    for _ in range(rounds):
        page: Found | None = None
        calls = 0
        while page is None or (page.more and not page):
            began_s = time.perf_counter()
            page = await reader.find(cursor=None if page is None else page.cursor, **question)
            took_ms.append((time.perf_counter() - began_s) * 1000)
            calls += 1
    cpu_ms = (time.process_time() - cpu_s) * 1000 / len(took_ms)
    return Cost(calls, cpu_ms, statistics.median(took_ms), max(took_ms))


async def _measure(count: int) -> None:
    async with embedded_valkey() as url:
        store = RedisStore(url)
        await store.open()
        await _fill(store, count)
        await store.aclose()
        async with Reader(RedisStore(url), Catalog()) as reader:
            far = datetime(2999, 1, 1, tzinfo=UTC)
            for name, rounds, question in (
                ("by state, the oldest 100", _ROUNDS, {"state": "authorized"}),
                ("the newest 100", _ROUNDS, {"state": "authorized", "newest_first": True}),
                ("the newest 100 of any state", _ROUNDS, {"newest_first": True}),
                ("the newest 1,000", _ROUNDS, {"newest_first": True, "limit": 1_000}),
                ("one in 50,000, each call", 3, {"abandoned": True, "limit": 1}),
                ("none, each call", 3, {"hold_ends_before": far}),
            ):
                cost = await _cost(reader, rounds, **question)
                _print(name, cost)


def _print(name: str, cost: Cost) -> None:
    times = f"{cost.cpu_ms:>9.1f}{cost.p50_ms:>9.1f}{cost.max_ms:>9.1f}"
    print(f"  {name:<32}{cost.calls:>4}{times}")


def main() -> None:
    """Fill a store, ask, and print the times."""
    parser = argparse.ArgumentParser(prog="python -m bench.find")
    parser.add_argument("--orders", type=int, default=100_000)
    count = parser.parse_args().orders
    print(f"find among {count:,} orders\n{machine()}")
    print(f"  {'':<31}calls   CPU ms   p50 ms   max ms")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_measure(count))


if __name__ == "__main__":
    main()
