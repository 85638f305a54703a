"""What stands in indexes and keys that cfflow did not write: it is named, and harms no order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cfflow import Payment, State, StoreError, Worker
from cfflow.cli.doctor import examine
from cfflow.core.order import REVIEW_INDEX
from cfflow.core.record import Review
from cfflow.store.catalog import Catalog
from cfflow.store.control import Decision, decision_text
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import UNREADABLE_INDEX, Notification, Window
from cfflow.store.redis.store import RedisStore
from cfflow.store.retention import Retention
from cfflow.testing import MemoryStore
from cfflow.views.reader import Reader
from tests.engine.shop import OTP, Shop, open_shop
from tests.engine.signing import SUCCESS, event, signed
from tests.ports.orders_kit import begin, changed, ids, loaded
from tests.ports.servers import Server
from tests.ports.shop_kit import redis_of

OLD = {"state": State.FAILED, "created_at_ms": 1, "updated_at_ms": 1, "wake_at_ms": None}


async def named(store: RedisStore | MemoryStore) -> list[str]:
    """Return what `status` names as unreadable."""
    return sorted((await Reader(store, Catalog()).status()).unreadable)


async def found(store: RedisStore | MemoryStore, page: Page | None = None) -> list[str]:
    """Return the payments that a list has."""
    read = await Orders(store).list(page or Page())
    return sorted(payment.id for payment in read.payments)


# members of indexes that are no payment

STRAYS = [
    b"\xff\xfe\x00",
    b"",
    b"\xff.1",
    b"no payment id",
    b"order_none.1",
    b"order_1.9",
    b"order_1.999999999",
]
HUGE = ["1e300", "inf", "-inf", "1.5", "-5"]


async def add(store: RedisStore, index: str, member: bytes | str, score: object = 1) -> None:
    """Write a member into an index of the partition of order_1."""
    key = store.keys.index(store.keys.partition("order_1"), index)
    await store.link.command("ZADD", key, score, member)


@pytest.mark.parametrize("index", [State.CREATED, REVIEW_INDEX])
@pytest.mark.parametrize("member", STRAYS)
async def test_a_member_that_is_no_payment_hides_no_other_and_is_named(
    store: RedisStore, index: str, member: bytes
) -> None:
    """A list has all payments; the member stays where it is, and `status` names it."""
    reviews = (Review("no_answer", 1),)
    for i in range(3):
        await begin(Orders(store), f"order_{i}", wake_at_ms=1, reviews=reviews)
    await add(store, index, member)
    page = Page(review=index == REVIEW_INDEX)
    assert await found(store, page) == ["order_0.1", "order_1.1", "order_2.1"]
    assert await named(store) == [member.decode("utf-8", "backslashreplace")]
    key = store.keys.index(store.keys.partition("order_1"), index)
    assert await store.link.command("ZSCORE", key, member) is not None
    assert ids(await store.lease(640, 60_000)) == ["order_0", "order_1", "order_2"]


async def test_an_order_that_was_purged_meanwhile_is_no_stray(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two round trips of a list its members have gone."""
    orders = Orders(store)
    order = await begin(orders, "order_1", **OLD)
    await begin(orders, "order_2", **OLD)
    read = store.read

    async def after_a_purge(order_ids: Any) -> Any:
        monkeypatch.setattr(store, "read", read)
        assert await orders.remove(order)
        return await read(order_ids)

    monkeypatch.setattr(store, "read", after_a_purge)
    assert await found(store) == ["order_2.1"]
    assert await named(store) == []


@pytest.mark.parametrize("score", HUGE)
async def test_a_score_that_is_no_time_fails_no_list(store: RedisStore, score: str) -> None:
    """Of a payment or of a stray."""
    for i in range(3):
        await begin(Orders(store), f"order_{i}")
    await add(store, State.CREATED, "order_none.1", score)
    await add(store, State.CREATED, "order_0.1", score)
    assert {"order_1.1", "order_2.1"} <= set(await found(store))
    assert await Reader(store, Catalog()).find(limit=10_000, older_than=0) is not None


@pytest.mark.parametrize("score", HUGE)
async def test_a_due_time_that_is_no_time_fails_no_worker(shop: Shop, score: str) -> None:
    """It is counted in the report, leased where it is due, and nothing else waits."""
    store, worker = redis_of(shop), Worker(shop.cashier)
    (payment,) = await paid_at_the_bank(shop, 1)
    wake = store.keys.wake(store.keys.partition("order_none"))
    await store.link.command("ZADD", wake, score, "order_none")
    is_due = float(score) < store.now_ms()
    assert (await worker.report()).due == 1 + is_due
    report = await worker.run_once()
    assert (report.due, report.unreadable) == (0, int(is_due))
    assert await shop.captured(payment)


async def paid_at_the_bank(shop: Shop, count: int) -> list[Payment]:
    """Return payments whose customers paid: a notification came, and a worker must ask."""
    payments = [(await shop.at_otp())[0] for _ in range(count)]
    for payment in payments:
        await shop.cashier.gateway.authenticate(payment.cf_payment_id or "", OTP)
        body = event(payment.order_id, payment.cf_payment_id, "SUCCESS", SUCCESS)
        await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)
    return payments


# pages and purges go on behind what cannot be read


@pytest.mark.parametrize("bad", [1, 100, 150, 250])
async def test_what_cannot_be_read_does_not_end_a_list_early(store: RedisStore, bad: int) -> None:
    """However many of them fill the first pages, the payments behind are found."""
    orders = Orders(store)
    for i in range(bad):
        await add(store, State.CREATED, f"order_none.{i + 1}", i + 1)
    for i in range(3):
        await begin(orders, f"order_{i}", created_at_ms=1_000 + i)
    reader = Reader(store, Catalog())
    payments = await reader.find(limit=3)
    assert [payment.id for payment in payments] == ["order_0.1", "order_1.1", "order_2.1"]
    assert [payment.id for payment in await reader.find(limit=1, after="order_1.1")] == [
        "order_2.1"
    ]


@pytest.mark.parametrize("limit", [1, 2, 4])
async def test_what_cannot_be_read_does_not_end_the_purge_early(
    store: RedisStore, limit: int
) -> None:
    """Page after page, until all that is over is removed."""
    orders, retention = Orders(store), Retention(Orders(store), Catalog())
    for i in range(9):
        await begin(orders, f"order_{i}", **{**OLD, "created_at_ms": 1 + i})
    for i in (0, 1, 4):
        await store.link.command("SET", store.keys.order(f"order_{i}"), b"garbage")
    purged = 0
    for _ in range(40):
        purged += await retention.purge_some(limit)
    assert purged == 6
    assert await named(store) == ["order_0", "order_1", "order_4"]


async def test_a_payment_whose_flow_is_gone_hides_no_other(shop: Shop) -> None:
    """A list shows it without its turn on the OTP page; to ask for it by name is the error."""
    store = redis_of(shop)
    payment, _ = await shop.at_otp()
    other, _ = await shop.at_otp()
    value = await store.link.command("GET", store.keys.order(payment.order_id))
    digest = shop.cashier.flows.named("native_otp").digest.encode()
    value = value.replace(digest, b"0" * len(digest))
    await store.link.command("SET", store.keys.order(payment.order_id), value)
    shown = {each.id: each for each in await shop.cashier.find()}
    assert [shown[payment.id].state, shown[payment.id].otp] == [State.OTP_PENDING, None]
    assert shown[other.id] == other


# leases that no worker wrote


@pytest.mark.parametrize(
    "lease", [b"", b"garbage", b"\xff", b":x", b"99999999999999999999:x", b"9999999999999:x"]
)
async def test_a_lease_that_no_worker_wrote_keeps_nothing_waiting(
    store: RedisStore, lease: bytes
) -> None:
    """Neither a commit nor a notification: the order is due when it should be."""
    orders = Orders(store)
    order = await begin(orders, "order_1")
    leases = store.keys.leases(store.keys.partition("order_1"))
    await store.link.command("HSET", leases, "order_1", lease)
    await changed(orders, order, wake_at_ms=1)
    assert (await store.overdue()).count == 1
    await store.link.command("HSET", leases, "order_1", lease)
    await changed(orders, await loaded(orders), wake_at_ms=None)
    await store.link.command("HSET", leases, "order_1", lease)
    given = Notification(type="T", content_id="c", order_id="order_1", cf_payment_id="77")
    assert (await store.notify(given, b"digest")).is_news
    assert ids(await store.lease(64, 1)) == ["order_1"]


async def test_a_lease_of_a_name_without_an_order_harms_nothing(store: RedisStore) -> None:
    """No one reads it."""
    await begin(Orders(store), "order_1", wake_at_ms=1)
    leases = store.keys.leases(store.keys.partition("order_1"))
    await store.link.command("HSET", leases, b"\xff", b"\xff", "order_none", "1:x")
    assert ids(await store.lease(64, 1)) == ["order_1"]


# keys of another type


def key_of(store: RedisStore, what: str) -> str:
    """Return a key of the partition of order_1."""
    place = store.keys.partition("order_1")
    named_here = {
        "wake": store.keys.wake,
        "leases": store.keys.leases,
        "run": store.keys.run,
        "events": store.keys.events,
        "groups": store.keys.groups,
        "flows": store.keys.flows,
    }
    return named_here[what](place) if what in named_here else store.keys.index(place, what)


@pytest.mark.parametrize("what", ["wake", "leases", "run", UNREADABLE_INDEX])
async def test_a_key_of_another_type_stops_only_its_own_partition(shop: Shop, what: str) -> None:
    """The worker goes on with the others, and reports it once; `status` and `doctor` name it."""
    store, worker = redis_of(shop), Worker(shop.cashier)
    await paid_at_the_bank(shop, 5)
    key, place = key_of(store, what), store.keys.partition("order_1")
    if what == UNREADABLE_INDEX:
        await store.link.command("ZADD", store.keys.wake(place), 1, "order_none\xff")
    await store.link.command("DEL", key)
    await store.link.command("SET", key, "of another program")
    for _ in range(3):
        report = await worker.run_once()
    assert report.unreadable == 1
    assert [one["order_id"] for one in shop.events.named("worker.failed")] == [
        store.keys.of_partition(place)
    ]
    captured = {one.id for one in await shop.cashier.find(state="captured")}
    beside = [f"order_{i}.1" for i in range(1, 6) if store.keys.partition(f"order_{i}") != place]
    assert set(beside) <= captured
    assert (await shop.cashier.status()).unreadable == (key,)
    assert await store.link.command("GET", key) == b"of another program"


@pytest.mark.parametrize("what", [*State, REVIEW_INDEX, "events", "groups", "flows"])
async def test_a_key_of_another_type_is_named(
    store: RedisStore, what: str, valkey_server: Server
) -> None:
    """A list has the payments of all other partitions, and `doctor` names the key."""
    for i in range(4):
        await begin(Orders(store), f"order_{i}")
    key = key_of(store, what)
    await store.link.command("DEL", key)
    await store.link.command("SET", key, "of another program")
    beside = [f"order_{i}.1" for i in (0, 2, 3)]
    assert set(beside) <= set(await found(store))
    assert await named(store) == [key]
    shown = {finding.subject: finding for finding in await examine(valkey_server.url)}
    assert (shown["unreadable"].verdict, key in shown["unreadable"].detail) == ("bad", True)


@pytest.mark.parametrize("history", [{}, {"history": b"\xff\xfe"}])
async def test_a_restart_without_a_time_is_one_that_is_seen_now(
    store: RedisStore, history: dict[str, bytes]
) -> None:
    """Only its partition's orders are verified late enough then, and no worker fails."""
    orders = Orders(store)
    await begin(orders, "order_1", wake_at_ms=1)
    run = store.keys.run(store.keys.partition("order_1"))
    for field, text in {"since": b"never", **history}.items():
        await store.link.command("HSET", run, field, text)
    ((_, restart),) = (await store.lease(64, 1)).orders
    assert store.now_ms() - 5_000 < restart.since_at_ms <= store.now_ms() + 50
    assert float(await store.link.command("HGET", run, "since")) == restart.since_at_ms


@pytest.mark.parametrize("state", [b"\xc1", b"garbage", b"\x90", b"\x95\xa1a\xa1a\xa1a\xa1a\xa1a"])
async def test_a_groups_state_that_cannot_be_read_stops_no_commit(
    redis_url: str, state: bytes
) -> None:
    """The commit that trims the feed is written, and drops nothing that the group may want."""
    store = RedisStore(redis_url, namespace="one", partitions=1, feed_max=16)
    await store.open()
    await store.link.command("HSET", store.keys.groups(0), "mailer", state, "", "many")
    await begin(Orders(store), "order_1")
    for i in range(130):
        given = Notification(type="T", content_id=str(i), order_id="order_1")
        await store.notify(given, b"")
    assert await store.link.command("XLEN", store.keys.events(0)) == 130
    await store.aclose()


# what people wrote


@pytest.mark.parametrize("text", [b"garbage", b"\xff\xfe", b"{}"])
async def test_a_decision_that_cannot_be_read_hides_no_other(
    store: RedisStore, text: bytes
) -> None:
    """In the audit trail, and of a gate, which stays closed and can be opened."""
    reader = Reader(store, Catalog())
    await reader.pause("auto", actor="asha", note="incident 4711")
    await store.link.command("LPUSH", store.keys.audit, text)
    for place in range(store.keys.partitions):
        await store.link.command("HSET", store.keys.run(place), "gate:pay", text)
    status = await reader.status()
    assert {gate: by.actor for gate, by in status.paused.items()} == {"auto": "asha", "pay": "?"}
    assert [decision.what for decision in status.decisions] == ["?", "pause auto"]
    status = await reader.resume("pay", actor="asha", note="it was damaged")
    assert [*status.paused] == ["auto"]


# a notification of an order that cannot be read


@pytest.mark.parametrize("damage", ["order", "another type", "notices"])
async def test_a_notification_of_an_order_that_cannot_be_read_is_taken(
    shop: Shop, damage: str
) -> None:
    """The gateway gets its 200, the feed has it, and nothing of the order is written over."""
    store = redis_of(shop)
    payment, _ = await shop.at_otp()
    key = store.keys.order(payment.order_id)
    if damage == "order":
        await store.link.command("SET", key, b"garbage")
    elif damage == "another type":
        await store.link.command("DEL", key)
        await store.link.command("HSET", key, "a", "b")
    else:
        await store.link.command("SET", store.keys.notices(payment.order_id), "garbage")
    before = await store.link.command("DUMP", key)
    body = event(payment.order_id, payment.cf_payment_id, "SUCCESS", SUCCESS)
    receipt = await shop.cashier.on_webhook(signed(body, store.now_ms()), body)
    assert (receipt.order_id, receipt.payment_ids) == (payment.order_id, ())
    async with shop.cashier.events("mailer") as feed:
        kinds = []
        while (item := await feed.poll()) is not None:
            kinds.append(type(item).__name__)
    assert "FeedNotification" in kinds
    assert await store.link.command("DUMP", key) == before
    with pytest.raises(StoreError):
        await shop.cashier.get(payment)


# the store in memory


async def test_the_store_in_memory_sets_aside_too() -> None:
    """An order that cannot be read, a due name without an order, a member that is no payment."""
    async with open_shop() as shop:
        store = shop.store
        assert isinstance(store, MemoryStore)
        bad, good = await paid_at_the_bank(shop, 2)
        held = store._orders[bad.order_id]
        store._orders[bad.order_id] = msgspec.structs.replace(held, record=b"garbage")
        store._wakes["order_none"] = 1
        store._indexes[State.OTP_PENDING]["no payment id"] = 1
        report = await Worker(shop.cashier).run_once()
        assert (report.due, report.unreadable) == (0, 2)
        assert await shop.captured(good)
        assert [payment.id for payment in await shop.cashier.find()] == [good.id]
        expected = sorted([bad.order_id, "order_none", "no payment id"])
        assert await named(store) == expected
        logged = {one["order_id"] for one in shop.events.named("worker.failed")}
        assert logged == {bad.order_id, "order_none"}
        assert store._orders[bad.order_id].record == b"garbage"


# repaired


@pytest.mark.parametrize("what", ["wake", "leases", "run"])
async def test_a_part_whose_key_was_renamed_goes_on(shop: Shop, what: str) -> None:
    """As docs/guides/recovery.md has it."""
    store = redis_of(shop)
    (payment,) = await paid_at_the_bank(shop, 1)
    await store.link.command("SET", key_of(store, what), "of another program")
    assert (await Worker(shop.cashier).run_once()).unreadable == 1
    place = store.keys.partition("order_1")
    foreign = f"{store.keys.of_partition(place)[:-1]}foreign"
    await store.link.command("RENAME", key_of(store, what), foreign)
    if what == "run":
        decision = Decision(what="accept-store", actor="asha", note="renamed", at_ms=1)
        await store.control.accept(decision_text(decision))
    await shop.cashier.adopt(payment.order_id, flow="native_otp")
    await Worker(shop.cashier).run_once()
    assert await shop.captured(payment)
    assert await named(store) == []


async def test_adopt_makes_an_order_due_whose_wake_time_is_lost(shop: Shop) -> None:
    """With the whole wake index of its partition."""
    store = redis_of(shop)
    payment, _ = await shop.at_otp()
    wake = key_of(store, "wake")
    await store.link.command("DEL", wake)
    await shop.cashier.adopt(payment.order_id, flow="native_otp")
    assert await store.link.command("ZSCORE", wake, payment.order_id) is not None


async def test_an_order_that_was_repaired_is_not_named_any_more(shop: Shop) -> None:
    """Deleted by a person and adopted again; nor after it was purged."""
    store = redis_of(shop)
    (payment,) = await paid_at_the_bank(shop, 1)
    await store.link.command("SET", store.keys.order(payment.order_id), b"garbage")
    await Worker(shop.cashier).run_once()
    assert await named(store) == [payment.order_id]
    await store.link.command("DEL", store.keys.order(payment.order_id))
    assert await named(store) == [payment.order_id]
    (adopted,) = await shop.cashier.adopt(payment.order_id, flow="native_otp")
    assert adopted.state is State.CAPTURED
    assert await named(store) == []
    await Worker(shop.cashier).run_once()
    assert await Orders(store).remove(await loaded(Orders(store), payment.order_id))
    assert await store.find(Window((UNREADABLE_INDEX,))) == []
