"""Payments per second, CPU and p99 of the native OTP sale: cfflow, best floor, stock.

The three take turns within each round, in one process, on one core and one event loop, so a slow
moment of the machine meets all of them; a ratio is taken within its round, and medians over
the rounds are reported. The gateway and the server run in processes of their own on other cores
and their CPU is not counted. Orders are created beforehand. cfflow writes its log, as JSON through
its own renderer, to a file: logging belongs to what it costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import httpx
from redis.asyncio import Redis

import cfflow
from bench.floor import CARD_FIELDS, OTP, Floor, Write
from bench.lean import LeanHttp, LeanRedis
from bench.places import Account, embedded_valkey, server_at
from cfflow import Card
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.wire import Order, encode
from cfflow.core.chart import State
from cfflow.logs import Log, stream_log
from cfflow.orchestrator import Orchestrator
from cfflow.store.protocol import Commit, Committed
from cfflow.store.redis.store import RedisStore

__all__ = [
    "BEST",
    "CONTENDERS",
    "ENGINE",
    "STOCK",
    "Result",
    "Size",
    "Speed",
    "measure",
]

ENGINE: Final = "cfflow"
BEST: Final = "best floor"
STOCK: Final = "stock"
CONTENDERS: Final = (ENGINE, BEST, STOCK)

#: Each sale's log: three gateway calls and four transitions.
_EVENTS_PER_SALE: Final = 7

_WRITES_PER_SALE: Final = 5
_CREATED_AT_ONCE: Final = 16

Sell = Callable[[Order], Awaitable[None]]
NewOrders = Callable[[int], Awaitable[list[Order]]]


class Size(NamedTuple):
    """How much to measure: sales of one run by how many are under way, rounds, time."""

    sales: Mapping[int, int]
    rounds: int
    seconds_max: float
    run_seconds_max: float


class Speed(NamedTuple):
    """One contender at one concurrency; or each as a multiple of another contender's."""

    payments_per_s: float
    cpu_us: float
    p99_ms: float


#: By (at once, contender).
Speeds = dict[tuple[int, str], Speed]


class Result(NamedTuple):
    """Medians over the rounds, and each as a multiple of a floor's in its round."""

    speeds: Speeds
    of_best: Speeds
    of_stock: Speeds
    rounds: int
    server: str


async def measure(size: Size, account: Account) -> Result:
    """Run the rounds at a gateway and return their medians; at least one, whatever it takes."""
    async with (
        embedded_valkey() as redis_url,
        _cashier(account) as new_orders,
        _contenders(redis_url, account, new_orders) as contenders,
    ):
        ends_s = time.perf_counter() + size.seconds_max
        at_once = max(size.sales)
        for sell in contenders.values():
            orders = await new_orders(min(at_once, size.sales[at_once]))
            await _run(sell, orders, at_once, size.run_seconds_max)
        rounds: list[Speeds] = []
        longest_s = 0.0
        while len(rounds) < size.rounds:
            if rounds and time.perf_counter() + longest_s > ends_s:
                break
            began_s = time.perf_counter()
            rounds.append(await _round(contenders, new_orders, size, turn=len(rounds)))
            longest_s = max(longest_s, time.perf_counter() - began_s)
        return Result(
            speeds=_medians(rounds),
            of_best=_medians([_relative(each, BEST) for each in rounds]),
            of_stock=_medians([_relative(each, STOCK) for each in rounds]),
            rounds=len(rounds),
            server=await server_at(redis_url),
        )


async def _round(
    contenders: Mapping[str, Sell],
    new_orders: NewOrders,
    size: Size,
    *,
    turn: int,
) -> Speeds:
    """Let each contender run once at every concurrency; who begins changes with each round."""
    first = turn % len(CONTENDERS)
    names = CONTENDERS[first:] + CONTENDERS[:first]
    speeds = {}
    for at_once, count in size.sales.items():
        for name in names:
            orders = await new_orders(count)
            speeds[at_once, name] = await _run(
                contenders[name], orders, at_once, size.run_seconds_max
            )
    return speeds


async def _run(sell: Sell, orders: Sequence[Order], at_once: int, seconds_max: float) -> Speed:
    """Sell the orders, `at_once` under way at any time, until none is left or time is up."""
    waiting = iter(orders)
    took_s: list[float] = []

    async def one_after_the_other() -> None:
        sold_at_s = time.perf_counter()
        for order in waiting:
            started_at_s = sold_at_s
            await sell(order)
            sold_at_s = time.perf_counter()
            took_s.append(sold_at_s - started_at_s)
            if sold_at_s > ends_s:
                return

    # What another contender left behind is not collected on this contender's time.
    gc.collect()
    cpu_s, began_s = time.process_time(), time.perf_counter()
    ends_s = began_s + seconds_max
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    cpu_s, all_s = time.process_time() - cpu_s, time.perf_counter() - began_s
    took_s.sort()
    sold = len(took_s)
    return Speed(sold / all_s, cpu_s / sold * 1e6, took_s[sold * 99 // 100] * 1000)


@contextlib.asynccontextmanager
async def _contenders(
    redis_url: str, account: Account, new_orders: NewOrders
) -> AsyncIterator[dict[str, Sell]]:
    """Open all of them; one that is not on turn only keeps its idle connections."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cfflow-bench-"))
        log_file = Path(folder, "log.jsonl")
        log = stack.enter_context(_logging_to(log_file))
        store = _RecordingStore(redis_url, namespace="rc")
        async with _connected(store, account, log) as recorded:
            await _sell_with(recorded, (await new_orders(1))[0])
        writes = tuple(store.writes)
        _expect("log events", _EVENTS_PER_SALE, len(log_file.read_bytes().splitlines()))
        _expect("writes", _WRITES_PER_SALE, len(writes))

        engine = await stack.enter_async_context(
            _connected(RedisStore(redis_url), account, log),
        )
        best = Floor(LeanHttp(), LeanRedis(redis_url), account, namespace="be", writes=writes)
        stock = Floor(
            httpx.AsyncClient(), Redis.from_url(redis_url), account, namespace="st", writes=writes
        )
        for by_hand in (best, stock):
            await by_hand.open()
            stack.push_async_callback(by_hand.aclose)

        async def sell(order: Order) -> None:
            await _sell_with(engine, order)

        yield {ENGINE: sell, BEST: best.sell, STOCK: stock.sell}


async def _sell_with(engine: Orchestrator, order: Order) -> None:
    payment = await engine.start("native_otp", order_id=order.order_id, amount="170.00")
    card = Card(channel="post", **CARD_FIELDS)
    payment = await engine.pay(payment, order.payment_session_id, card)
    payment = await engine.submit_otp(payment, OTP)
    if payment.state != "captured":
        raise RuntimeError(f"{payment!r} was not sold")


class _RecordingStore(RedisStore):
    """Keeps what the engine writes, so that the floors' writes have the same bytes."""

    def __init__(self, url: str, *, namespace: str) -> None:
        super().__init__(url, namespace=namespace)
        self.writes: list[Write] = []
        self._state = State.CREATED

    async def commit(self, commit: Commit) -> Committed:
        committed = await super().commit(commit)
        left = [change.index for change in commit.index if change.score is None]
        entered = [change.index for change in commit.index if change.score is not None]
        # Coming from nowhere: any other index will do, the sale is not in it.
        self._state = State(entered[0]) if entered else self._state
        was = State(left[0]) if left else State.FAILED if not commit.expected else self._state
        blob = (commit.record or b"") + (commit.actions or b"")
        due = commit.wake_at_ms is not None
        self.writes.append(Write(was, self._state, due, blob, commit.events))
        return committed


def _connected(store: RedisStore, account: Account, log: Log) -> Orchestrator:
    return cfflow.connect(
        store=store,
        client_id=account.client_id,
        client_secret=account.client_secret,
        environment=account.base_url,
        log=log,
    )


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[Log]:
    """Return the logger that a program gets which configures none, on a file."""
    with path.open("w") as file:
        yield stream_log(file)


@contextlib.asynccontextmanager
async def _cashier(account: Account) -> AsyncIterator[NewOrders]:
    """Yield what creates so many orders, each with an id of its own."""
    numbers = itertools.count(time.time_ns() // 1000)
    headers = {
        "x-api-version": "2025-01-01",
        "content-type": "application/json",
        "x-client-id": account.client_id,
        "x-client-secret": account.client_secret,
    }
    decode = decoder(Order)
    async with contextlib.aclosing(LeanHttp()) as http:

        async def new_order(turn: asyncio.Semaphore) -> Order:
            body = {
                "order_id": f"order_{next(numbers)}",
                "order_amount": 170.0,
                "order_currency": "INR",
                "customer_details": {"customer_id": "customer_1", "customer_phone": "9898989898"},
            }
            async with turn:
                answer = await http.post(
                    f"{account.base_url}/orders", content=encode(body), headers=headers
                )
            return decode(answer.content)

        async def new_orders(count: int) -> list[Order]:
            turn = asyncio.Semaphore(_CREATED_AT_ONCE)
            return list(await asyncio.gather(*(new_order(turn) for _ in range(count))))

        yield new_orders


def _expect(what: str, expected: int, found: int) -> None:
    """Refuse to compare sales that are not what the table says they are."""
    if found != expected:
        raise RuntimeError(f"one sale makes {found} {what}, not {expected}")


def _relative(speeds: Speeds, base: str) -> Speeds:
    """Return each speed as a multiple of that of `base` in the same round."""
    return {
        (at_once, name): Speed(
            *(mine / its for mine, its in zip(speed, speeds[at_once, base], strict=True))
        )
        for (at_once, name), speed in speeds.items()
    }


def _medians(rounds: Sequence[Speeds]) -> Speeds:
    return {
        key: Speed(*(statistics.median(values) for values in zip(*repeated, strict=True)))
        for key in rounds[0]
        if (repeated := [each[key] for each in rounds])
    }
