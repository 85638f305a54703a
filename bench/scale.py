"""python -m bench.scale: how the cost of each call grows with the number of stored orders.

There is a server for each number. Half of its orders sleep until a hold ends, half have ended, and
the first 80,000 have an entry in the feed, which is more than it keeps. The same calls are timed on
all servers in turn: `start` and `pay` on the gateway stub (the HTTP call of `pay` is a part of its
cost), and what workers, lists and readers of the feed do. Each must stay flat, or grow with the
logarithm at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from secrets import token_urlsafe
from typing import Final, NamedTuple

import msgspec

import cfflow
from bench.bulk import BulkStore
from bench.floor import CARD_FIELDS
from bench.places import Account, embedded_valkey, loop_factory, machine, pin_here, stub_gateway
from bench.plot import svg_of
from bench.report import Aim
from cfflow import Card, Feed, Orchestrator, Payment
from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.order import Order
from cfflow.core.plan import under_token
from cfflow.core.steps import begin_payment, create
from cfflow.logs import silent_log
from cfflow.store.catalog import Catalog
from cfflow.store.codec import commit_of, encode_notification
from cfflow.store.orders import Orders
from cfflow.store.protocol import Commit, Notification
from cfflow.store.retention import Retention

__all__ = ["Cost", "Growth", "growth_of", "main"]

_SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
_SVG: Final = Path(__file__).parents[1] / "docs" / "bench-scale.svg"

#: How often each call is timed; those of many orders or events in one are timed less often.
_TIMES: Final = 200
_READS: Final = 12
_PURGES: Final = 20
_WARM_UP: Final = 3
#: Longer than a run: the feed of each server is open from the beginning.
_LEASE_S: Final = 3_600.0
_AT_ONCE: Final = 256

#: A cost that is at most so many times the first one is flat; less is noise.
_FLAT: Final = 1.25

#: So many that nearly each of the 64 partitions has one for each lease.
_DUE: Final = 480
_LEASE_LIMIT: Final = 64
_PAGE: Final = 100
_EVENTS: Final = 64
_PURGED: Final = 10
#: So many orders have an entry in the feed: more than its 64 partitions keep.
_FED: Final = 80_000
_DAY_MS: Final = 86_400_000
#: Longer ago than any flow keeps an order.
_OLD_MS: Final = 400 * _DAY_MS


class Cost(NamedTuple):
    """What one call took, in ms."""

    p50_ms: float
    p99_ms: float


#: By call, one for each size.
Costs = Mapping[str, Sequence[Cost]]


class Growth(NamedTuple):
    """How much more a call costs at the last size than at the first."""

    factor: float
    logarithm: float

    @property
    def shape(self) -> str:
        """`flat`, `logarithmic`, or `faster` than that."""
        if self.factor <= _FLAT:
            return "flat"
        return "logarithmic" if self.factor <= self.logarithm else "faster"


def growth_of(sizes: Sequence[int], costs: Sequence[Cost]) -> Growth:
    """Return the growth of the medians, beside that of the logarithm of the size.

    From 1,000 to 1,000,000 the logarithm doubles.
    """
    factor = costs[-1].p50_ms / costs[0].p50_ms
    return Growth(factor, max(_FLAT, math.log(sizes[-1]) / math.log(sizes[0])))


# filling


async def _fill(store: BulkStore, size: int) -> None:
    """Write so many orders, and some that were paid so long ago that they may be purged now."""
    flow = Catalog().named("preauth")
    now_ms = store.now_ms()
    orders = itertools.chain(_old(now_ms - _OLD_MS), _recent(now_ms, size))

    async def some() -> None:
        for number, order in enumerate(orders):
            commit = _commit(flow, order)
            events = (_entry(order),) if number < _FED else ()
            await store.commit(msgspec.structs.replace(commit, events=events))

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


class _Filling(NamedTuple):
    """An order to write."""

    order_id: str
    state: State
    created_at_ms: int
    wake_at_ms: int | None


def _old(at_ms: int) -> Iterator[_Filling]:
    for number in range((_WARM_UP + _PURGES) * _PURGED):
        yield _Filling(f"old_{number:08d}", State.CAPTURED, at_ms + number, None)


def _recent(now_ms: int, size: int) -> Iterator[_Filling]:
    for number in range(size):
        order_id = f"order_{number:08d}"
        if number % 2 == 0:
            yield _Filling(order_id, State.CAPTURED, now_ms + number, None)
        else:
            due_ms = 0 if number < 2 * _DUE else _DAY_MS + number
            yield _Filling(order_id, State.AUTHORIZED, now_ms + number, now_ms + due_ms)


def _commit(flow: Flow, order: _Filling) -> Commit:
    record = create(
        flow,
        order.created_at_ms,
        nonce=order.order_id[-8:],
        currency="INR",
        amount=Decimal("170.00"),
        metadata=None,
    )
    record = msgspec.structs.replace(record, state=order.state, wake_at_ms=order.wake_at_ms)
    plan = begin_payment(Order(id=order.order_id), record, flow)
    return commit_of(under_token(plan, token_urlsafe(6)))


def _entry(order: _Filling) -> bytes:
    name = order.order_id
    seen = Notification(type="PAYMENT_SUCCESS_WEBHOOK", content_id=name, order_id=name)
    return encode_notification(seen, order.created_at_ms)


# measuring

#: Does a call once, and returns for how many orders or events.
Do = Callable[[], Awaitable[int]]


class Call(NamedTuple):
    """A call to be timed, so many times."""

    name: str
    do: Do
    times: int


async def _measure(sizes: Sequence[int], times: int) -> Costs:
    """Fill a server for each size, and time each call on all of them in turn."""
    async with contextlib.AsyncExitStack() as stack:
        stub = await stack.enter_async_context(stub_gateway())
        stages = []
        for size in sizes:
            _print(f"filling with {size:,} orders")
            stages.append(await stack.enter_async_context(_stage(size, stub, times)))
        costs = {}
        for calls in zip(*stages, strict=True):
            _print(f"measuring {calls[0].name}")
            costs[calls[0].name] = await _costs(calls)
        return costs


@contextlib.asynccontextmanager
async def _stage(size: int, stub: Account, times: int) -> AsyncIterator[Sequence[Call]]:
    """Yield what is timed on a server with so many orders."""
    async with embedded_valkey() as url:
        store = BulkStore(url)
        await store.open()
        await _fill(store, size)
        await store.aclose()
        async with (
            _connected(url, stub) as orchestrator,
            orchestrator.events("readers", batch=1, lease_s=_LEASE_S) as feed,
        ):
            steps, looks = _steps(orchestrator, times), _looks(orchestrator, times)
            yield (*steps, *looks, _read(feed))


def _connected(url: str, stub: Account) -> Orchestrator:
    return cfflow.connect(
        redis_url=url,
        environment=stub.base_url,
        client_id=stub.client_id,
        client_secret=stub.client_secret,
        log=silent_log(),
    )


def _steps(orchestrator: Orchestrator, times: int) -> Iterator[Call]:
    order_ids = (f"new_{number}" for number in itertools.count())
    card = Card(channel="post", **CARD_FIELDS)
    started: list[Payment] = []

    async def start() -> int:
        order_id = next(order_ids)
        started.append(await orchestrator.start("native_otp", order_id=order_id, amount="170.00"))
        return 1

    async def pay() -> int:
        await orchestrator.pay(started.pop(), "session_of_the_stub_payment", card)
        return 1

    yield Call("start", start, times)
    yield Call("pay", pay, times)


def _looks(orchestrator: Orchestrator, times: int) -> Iterator[Call]:
    store = orchestrator.store
    retention = Retention(Orders(store), Catalog())

    async def lease() -> int:
        # It ends at once, so that the same orders are due at the next one.
        _expect(_LEASE_LIMIT * 3 // 4, len((await store.lease(_LEASE_LIMIT, 1)).orders))
        return 1

    async def find() -> int:
        page = await orchestrator.find(state="captured", newest_first=True, limit=_PAGE)
        _expect(_PAGE, len(page))
        return 1

    async def purge() -> int:
        _expect(_PURGED, await retention.purge_some(_PURGED))
        return _PURGED

    yield Call(f"lease of {_LEASE_LIMIT}", lease, times)
    yield Call(f"find, {_PAGE} of them", find, times)
    yield Call("purge, one order", purge, _PURGES)


def _read(feed: Feed) -> Call:
    async def read() -> int:
        for _ in range(_EVENTS):
            await feed.ack(await anext(feed))
        return _EVENTS

    return Call("feed, one event", read, _READS)


async def _costs(calls: Sequence[Call]) -> list[Cost]:
    """Time one call on all servers in turn, so that a slow moment of the machine meets all."""
    took_ms: list[list[float]] = [[] for _ in calls]
    for _ in range(_WARM_UP + calls[0].times):
        for call, each_ms in zip(calls, took_ms, strict=True):
            began_s = time.perf_counter()
            count = await call.do()
            each_ms.append((time.perf_counter() - began_s) * 1000 / count)
    return [_cost(each_ms[_WARM_UP:]) for each_ms in took_ms]


def _cost(took_ms: Sequence[float]) -> Cost:
    return Cost(statistics.median(took_ms), sorted(took_ms)[len(took_ms) * 99 // 100])


def _expect(count: int, found: int) -> None:
    """Refuse to compare servers on which a call did not do the same."""
    if found < count:
        raise RuntimeError(f"{found} in place of {count}")


# printing


def _print_table(sizes: Sequence[int], costs: Costs) -> None:
    print("  ms at p50 and at p99, by stored orders")
    print(f"  {'':<20}" + "".join(f"{size:>16,}" for size in sizes) + f"{'x':>8}")
    for name, line in costs.items():
        growth = growth_of(sizes, line)
        cells = "".join(f"{cost.p50_ms:>8.2f}{cost.p99_ms:>8.2f}" for cost in line)
        print(f"  {name:<20}{cells}{growth.factor:>8.2f}  {growth.shape}")
    limit = growth_of(sizes, [Cost(1, 1)] * len(sizes)).logarithm
    print(f"  x: p50 at {sizes[-1]:,} to p50 at {sizes[0]:,};", end=" ")
    print(f"flat up to {_FLAT}, logarithmic up to {limit:.2f}, which is the logarithms' ratio\n")
    print("aims")
    for name, line in costs.items():
        growth = growth_of(sizes, line)
        print(Aim(f"{name}: growth", growth.factor, growth.logarithm))


def _print(what: str) -> None:
    """Show on standard error what takes so long; the table alone goes to standard output."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def main() -> None:
    """Fill, measure, print the table and write the plot."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="ascending")
    parser.add_argument("--times", type=int, default=_TIMES, help="of each call at each size")
    parser.add_argument("--svg", type=Path, default=_SVG, help="the file of the plot")
    options = parser.parse_args()
    pin_here()
    began_s = time.perf_counter()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        costs = runner.run(_measure(options.sizes, options.times))
    took_s = time.perf_counter() - began_s
    print(f"cfflow by the number of orders: python -m bench.scale, {took_s:.0f} s, over loopback")
    print(f"{machine()}\n")
    _print_table(options.sizes, costs)
    lines = {name: [cost.p50_ms for cost in line] for name, line in costs.items()}
    options.svg.write_text(svg_of("Cost of a call, ms at p50", options.sizes, lines))


if __name__ == "__main__":
    main()
