"""The end of an order: an order that has been over for long enough goes, and no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from cfflow.core.chart import State, Trigger
from cfflow.core.flow import Flow, parse
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Change, Plan, Walked
from cfflow.core.record import Record, Review
from cfflow.core.steps import begin_payment, create
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import PAID_MARKER_MS, Outcome
from cfflow.store.redis.store import RedisStore
from cfflow.store.retention import Retention
from cfflow.testing import FakeClock, MemoryStore
from tests.ports.servers import Server

DAY_S: Final = 86_400
FEED_MAX: Final = 16
FLOW: Final = parse(b'name = "kept"\nmethods = ["card"]\n')
REVIEW: Final = (Review("two_holds", 1),)


class AgingStore(RedisStore):
    """A store in which days can be skipped: its callers' time is ahead of its server's."""

    skipped_ms = 0

    def now_ms(self) -> int:
        """Return the server's time and what was skipped."""
        return super().now_ms() + self.skipped_ms

    def skip(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self.skipped_ms += round(seconds * 1000)


class AgingMemory(MemoryStore):
    """The same store in memory."""

    def __init__(self) -> None:
        super().__init__(FakeClock())

    def skip(self, seconds: float) -> None:
        """Let so much time pass at once."""
        if self.clock is not None:
            self.clock.advance(seconds)


Aging = AgingStore | AgingMemory


@pytest.fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Aging]:
    """An empty store in which time can be skipped."""
    chosen: Aging = AgingMemory()
    if request.param == "valkey":
        chosen = AgingStore(request.getfixturevalue("redis_url"), feed_max=FEED_MAX)
    await chosen.open()
    yield chosen
    await chosen.aclose()


@pytest.fixture
def retention(store: Aging, tmp_path: Path) -> Retention:
    """What purges that store."""
    (tmp_path / "kept.toml").write_bytes(FLOW.source)
    return Retention(Orders(store), Catalog([tmp_path]))


def a_record(store: Aging, flow: Flow = FLOW, **changes: Any) -> Record:
    """Return the record of a payment that begins now."""
    record = create(flow, store.now_ms(), nonce="n0", currency="INR", amount=None, metadata=None)
    return msgspec.structs.replace(record, **changes)


async def begin(store: Aging, order_id: str, flow: Flow = FLOW, **changes: Any) -> Snapshot:
    """Write an order's next payment, whatever the others are."""
    order = await Orders(store).load(order_id) or Order(id=order_id)
    plan = begin_payment(order, a_record(store, flow, **changes), flow)
    written = await Orders(store).commit(plan)
    assert written.outcome is Outcome.APPLIED
    return written.plan.snapshot


async def written(
    store: Aging, held: Snapshot, *, walked: tuple[Walked, ...] = (), **changes: Any
) -> Snapshot:
    """Write a payment with these changes, whatever led to them."""
    record = msgspec.structs.replace(held.record, version=held.record.version + 1, **changes)
    payments = list(held.order.payments)
    payments[held.n - 1] = record
    after = msgspec.structs.replace(held.order, payments=tuple(payments))
    change = Change(held.n, held.record, record, walked)
    done = await Orders(store).commit(Plan(before=held.order, after=after, changes=(change,)))
    assert done.outcome is Outcome.APPLIED
    return done.order.payment(held.n)


def over(store: Aging, state: State) -> dict[str, Any]:
    """Return the fields of a payment that has just come to its end."""
    return {"state": state, "wake_at_ms": None, "updated_at_ms": store.now_ms()}


async def ended(store: Aging, order_id: str, state: State, **changes: Any) -> Snapshot:
    """Start an order's next payment and bring it to its end at once."""
    given: dict[str, Any] = {
        "state": state,
        "wake_at_ms": None,
        "updated_at_ms": store.now_ms(),
    } | changes
    return await written(store, await begin(store, order_id), **given)


async def ids(store: Aging, limit: int = 1_000) -> list[str]:
    """Return the ids of all payments."""
    return [payment.id for payment in (await Orders(store).list(Page(limit=limit))).payments]


async def purged(retention: Retention) -> int:
    """Purge until a whole round finds nothing more, and return how many orders went."""
    removed = [await retention.purge_some() for _ in range(3)]
    return sum(removed)


@pytest.mark.parametrize("state", [State.FAILED, State.VOIDED, State.CAPTURED])
async def test_an_order_goes_when_its_retention_is_over_and_not_before(
    store: Aging, retention: Retention, state: State
) -> None:
    """Counted from the last write of the order, exact to the day."""
    await ended(store, "order_1", state)
    store.skip(FLOW.end.retention_s - 60)
    assert await purged(retention) == 0
    assert await ids(store) == ["order_1.1"]
    store.skip(61)
    assert await purged(retention) == 1
    assert await ids(store) == []


async def test_a_purged_order_can_be_paid_anew_unless_it_was_paid(
    store: Aging, retention: Retention
) -> None:
    """An order that took money leaves a marker; any other leaves no key."""
    await ended(store, "order_1", State.FAILED)
    await ended(store, "order_2", State.FAILED)
    await ended(store, "order_2", State.CAPTURED)
    store.skip(FLOW.end.retention_s + 1)
    assert await purged(retention) == 2
    assert (await begin(store, "order_1")).n == 1
    plan = begin_payment(Order(id="order_2"), a_record(store), FLOW)
    refused = await Orders(store).commit(plan)
    assert (refused.outcome, refused.marker) == (Outcome.GONE, "order_2.2")


async def test_an_order_with_an_open_review_stays(store: Aging, retention: Retention) -> None:
    """A person has yet to close it, however long that takes; then the retention counts."""
    snapshot = await ended(store, "order_1", State.CAPTURED, reviews=REVIEW)
    store.skip(10 * FLOW.end.retention_s)
    assert await purged(retention) == 0
    closed = (msgspec.structs.replace(REVIEW[0], acknowledged_at_ms=store.now_ms()),)
    await written(store, snapshot, reviews=closed, updated_at_ms=store.now_ms())
    assert await purged(retention) == 0
    store.skip(FLOW.end.retention_s + 1)
    assert await purged(retention) == 1


async def test_a_payment_that_will_be_looked_at_stays(store: Aging, retention: Retention) -> None:
    """A failed one is watched for late money; a captured one may wait for its confirmation."""
    for order_id, state in (("order_1", State.FAILED), ("order_2", State.CAPTURED)):
        await ended(store, order_id, state, wake_at_ms=store.now_ms() + 10**12)
    store.skip(10 * FLOW.end.retention_s)
    assert await purged(retention) == 0


async def test_an_order_stays_for_its_youngest_payment(store: Aging, retention: Retention) -> None:
    """All payments of an order go at once, or none."""
    for state in (State.FAILED, State.VOIDED):
        await ended(store, "order_1", state)
    store.skip(FLOW.end.retention_s + 1)
    third = await begin(store, "order_1")
    assert await purged(retention) == 0
    given: dict[str, Any] = {
        "state": State.FAILED,
        "wake_at_ms": None,
        "updated_at_ms": store.now_ms(),
    }
    await written(store, third, **given)
    store.skip(FLOW.end.retention_s - 60)
    assert await purged(retention) == 0
    store.skip(61)
    assert await purged(retention) == 1
    assert await ids(store) == []


async def test_orders_that_must_stay_do_not_block_those_that_may_go(
    store: Aging, retention: Retention
) -> None:
    """Forty old orders with a review, all of one millisecond, before twenty without one."""
    now_ms = store.now_ms()
    for i in range(60):
        started = await begin(store, f"order_{i:02}", created_at_ms=now_ms + (i >= 40))
        reviews = REVIEW if i < 40 else ()
        given: dict[str, Any] = {"state": State.FAILED, "wake_at_ms": None, "reviews": reviews}
        await written(store, started, **given)
    store.skip(FLOW.end.retention_s + 1)
    removed = [await retention.purge_some(4) for _ in range(24)]
    assert sum(removed) == 20
    assert len(await ids(store, limit=100)) == 40


@pytest.mark.parametrize("seed", range(4))
async def test_exactly_the_orders_that_are_wholly_over_are_purged(
    store: Aging, retention: Retention, seed: int
) -> None:
    """Whatever states, ages, reviews and wake times they have, however small the pages are."""
    chance = random.Random(seed)
    stays: set[str] = set()
    for i in range(60):
        store.skip(chance.randrange(8) * DAY_S)
        for _ in range(chance.randrange(1, 4)):
            if not await _drawn(store, f"order_{i:02}", chance):
                stays.add(f"order_{i:02}")
    horizon_ms = store.now_ms() - FLOW.end.retention_s * 1000
    listed = {payment.order_id: payment.order for payment in await _everything(store)}
    young = {name for name, order in listed.items() if _youngest_at_ms(order) > horizon_ms}
    for _ in range(200):
        await retention.purge_some(chance.randrange(1, 9))
    left = {payment.order_id for payment in await _everything(store)}
    assert left == stays | young
    assert 0 < len(left) < len(listed)


async def _drawn(store: Aging, order_id: str, chance: random.Random) -> bool:
    """Give an order one more payment of some kind, and return whether it is over."""
    kind = chance.choice(["failed", "failed", "voided", "voided", "wake", "review"])
    state = State.VOIDED if kind == "voided" else State.FAILED
    wake_at_ms = store.now_ms() + 10**12 if kind == "wake" else None
    reviews = REVIEW if kind == "review" else ()
    await ended(store, order_id, state, wake_at_ms=wake_at_ms, reviews=reviews)
    return kind not in {"wake", "review"}


def _youngest_at_ms(order: Order) -> int:
    return max(payment.record.updated_at_ms for payment in order.all_payments)


async def _everything(store: Aging) -> Sequence[Snapshot]:
    return (await Orders(store).list(Page(limit=1_000))).payments


# months

#: A shop's life in seconds: its orders a day, for how long they are kept, and its days.
ORDERS: Final = 40
KEPT_DAYS: Final = 5
DAYS: Final = 60
#: wake, leases, review, events, groups, flows, run, and an index for each end: one per partition.
KINDS: Final = 10
SHORT: Final = parse(
    b'name = "short"\nmethods = ["card"]\n[end]\nlate_watch_s = 86400\n'
    + f"retention_s = {KEPT_DAYS * DAY_S}\n".encode()
)
PATH: Final = (
    Walked(Trigger.INITIATE, State.CREATED, State.INITIATED, "test"),
    Walked(Trigger.REQUIRE_OTP, State.INITIATED, State.OTP_PENDING, "test"),
)


async def a_day(store: AgingStore, retention: Retention, day: int) -> None:
    """Let a day's orders live and end, each with its events; then purge what is over."""
    await asyncio.gather(*(_live(store, f"order_{day}_{i}", i) for i in range(ORDERS)))
    store.skip(DAY_S)
    while await retention.purge_some():
        pass


async def _live(store: AgingStore, order_id: str, number: int) -> None:
    """Half of the orders are paid, a quarter at the second try; the others come to nothing."""
    ends = {0: (State.CAPTURED,), 1: (State.FAILED, State.CAPTURED), 2: (State.FAILED,)}
    for state in ends.get(number % 4, (State.FAILED, State.VOIDED)):
        snapshot = await begin(store, order_id, SHORT)
        snapshot = await written(store, snapshot, state=State.OTP_PENDING, walked=PATH)
        given: dict[str, Any] = {
            "state": state,
            "wake_at_ms": None,
            "updated_at_ms": store.now_ms(),
        }
        await written(store, snapshot, **given)


def sizes(server: Server) -> tuple[int, int, list[tuple[int, int]]]:
    """Return the number of keys and bytes without markers; and each marker's bytes and life.

    The feed's streams count without their bytes, which go up and down: each is trimmed once in 64
    entries.
    """
    keys = total = 0
    markers = []
    with server.client() as client:
        for key in client.scan_iter(count=1_000):
            used = client.memory_usage(key)
            if key.endswith(b":events"):
                assert client.xlen(key) <= FEED_MAX + 64
                used = 0
            if b":o:" in key and key.endswith(b":m"):
                markers.append((used, client.pttl(key)))
            else:
                keys, total = keys + 1, total + used
    return keys, total, markers


async def test_a_purged_order_leaves_no_key_but_the_marker_of_a_paid_one(
    redis_url: str, valkey_server: Server
) -> None:
    """The flow's text stays for the next orders; of the order itself one small key or none."""
    store = AgingStore(redis_url)
    await store.open()
    orders = Orders(store)
    await begin(store, "order_1")
    await orders.remove((await ended(store, "order_2", State.FAILED)).order)
    before = set(valkey_server.run("KEYS", "*")) | {store.keys.flows(p).encode() for p in range(64)}
    for order_id, end in (("order_3", State.VOIDED), ("order_4", State.CAPTURED)):
        await ended(store, order_id, State.FAILED)
        assert await orders.remove((await ended(store, order_id, end)).order)
    left = set(valkey_server.run("KEYS", "*")) - before
    assert left == {store.keys.marker("order_4").encode()}
    assert valkey_server.run("GET", store.keys.marker("order_4")) == b"order_4.2"
    assert valkey_server.run("PTTL", store.keys.marker("order_4")) > PAID_MARKER_MS - 60_000
    await store.aclose()


async def test_a_store_that_runs_for_months_does_not_grow(
    redis_url: str, valkey_server: Server, tmp_path: Path
) -> None:
    """Thousands of orders pass: the last days' orders stay, and a marker for each paid order."""
    (tmp_path / "short.toml").write_bytes(SHORT.source)
    store = AgingStore(redis_url, feed_max=FEED_MAX)
    await store.open()
    retention = Retention(Orders(store), Catalog([tmp_path]))
    seen = {}
    for day in range(1, DAYS + 1):
        await a_day(store, retention, day)
        seen[day] = sizes(valkey_server) if day in {DAYS // 2, DAYS} else (0, 0, [])
    (_, used, _), (keys, used_later, markers) = seen[DAYS // 2], seen[DAYS]
    living = (KEPT_DAYS - 1) * ORDERS
    assert keys <= living + KINDS * store.keys.partitions + 1
    assert used_later <= 1.1 * used
    assert len(markers) == (DAYS * ORDERS - living) // 2
    assert all(size <= 300 and 0 < life_ms <= PAID_MARKER_MS for size, life_ms in markers)
    assert len(await _everything(store)) == living * 3 // 2
    await store.aclose()
