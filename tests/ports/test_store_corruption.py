"""Bytes that cannot be read, and bytes of a newer version: they harm no other order.

What cannot be read is moved into the index `unreadable`, once, and never written over. What a
newer version wrote is shown, and never written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from cfflow import Payment, State, StoreError, Worker
from cfflow.core.order import SCHEMA, Order
from cfflow.core.steps import begin_payment
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Listed, Orders, Page
from cfflow.store.protocol import Outcome, Window
from cfflow.store.redis.store import RedisStore
from cfflow.store.retention import Retention
from tests.engine.shop import OTP, Shop, card
from tests.engine.signing import SUCCESS, event, signed
from tests.ports.orders_kit import FLOW, a_plan, a_record, begin, changed, contents, ids, loaded
from tests.ports.shop_kit import redis_of

#: What lies before the record in an order's value: stamp, token, and the number of digests.
HEAD_B = 17

UNREADABLE = "unreadable"


async def value_of(store: RedisStore, order_id: str) -> bytes:
    """Return an order's value as it is stored."""
    value = await store.link.command("GET", store.keys.order(order_id))
    assert isinstance(value, bytes)
    return value


async def unreadable(store: RedisStore) -> list[str]:
    """Return the members of the index of what cannot be read."""
    return sorted(name for name, _ in await store.find(Window((UNREADABLE,))))


def listed(found: Listed) -> list[str]:
    """Return the orders of listed payments."""
    return sorted(payment.order_id for payment in found.payments)


# foreign bytes

Spoil = Callable[[RedisStore, str], Awaitable[Any]]

FOREIGN = [b"garbage", b"\x93\x01\x02\x03", b"\xdc\x00\x03\x01\x02\xa1x", b"x" * 99]


def whole(blob: bytes) -> Spoil:
    """Return what puts other bytes in the place of an order's value."""

    async def spoil(store: RedisStore, order_id: str) -> None:
        await store.link.command("SET", store.keys.order(order_id), blob)

    return spoil


def record(blob: bytes) -> Spoil:
    """Return what puts other bytes behind the head of an order's value."""

    async def spoil(store: RedisStore, order_id: str) -> None:
        head = (await value_of(store, order_id))[:HEAD_B]
        await store.link.command("SET", store.keys.order(order_id), head + blob)

    return spoil


async def other_type(store: RedisStore, order_id: str) -> None:
    """Put a hash in the place of an order's value."""
    await store.link.command("DEL", store.keys.order(order_id))
    await store.link.command("HSET", store.keys.order(order_id), "a", "b")


async def bad_actions(store: RedisStore, order_id: str) -> None:
    """Put bytes that are no next actions beside an order."""
    await store.link.command("SET", store.keys.actions(order_id), b"\xc1\xff")


async def truncated(store: RedisStore, order_id: str) -> None:
    """Leave the first half of an order's value."""
    value = await value_of(store, order_id)
    await store.link.command("SET", store.keys.order(order_id), value[: len(value) // 2])


def head(offset: int, blob: bytes) -> Spoil:
    """Return what puts other bytes into the head of an order's value."""

    async def spoil(store: RedisStore, order_id: str) -> None:
        await store.link.command("SETRANGE", store.keys.order(order_id), offset, blob)

    return spoil


def notice(attempt: str | bytes, text: str | bytes) -> Spoil:
    """Return what puts a notification beside an order."""

    async def spoil(store: RedisStore, order_id: str) -> None:
        await store.link.command("HSET", store.keys.notices(order_id), attempt, text)

    return spoil


async def actions_of_another_type(store: RedisStore, order_id: str) -> None:
    """Put a list in the place of an order's next actions."""
    await store.link.command("DEL", store.keys.actions(order_id))
    await store.link.command("LPUSH", store.keys.actions(order_id), "press")


async def notices_of_another_type(store: RedisStore, order_id: str) -> None:
    """Put a string in the place of an order's notifications."""
    await store.link.command("DEL", store.keys.notices(order_id))
    await store.link.command("SET", store.keys.notices(order_id), "7:SUCCESS")


SPOILED: dict[str, Spoil] = {
    **{f"whole value {blob[:7]!r}": whole(blob) for blob in FOREIGN},
    **{f"record {blob[:7]!r}": record(blob) for blob in (b"", *FOREIGN)},
    "one payment": record(msgspec.msgpack.encode([SCHEMA, [[1, "token", "no state"]]])),
    "another type": other_type,
    "truncated": truncated,
    "a token that is no text": head(8, b"\xff" * 8),
    "a token of control characters": head(8, b"\x00\n\r\t\x1b\x7f\x01\x02"),
    "too many digests": head(16, b"\xff"),
    **{
        f"schema {schema}": record(msgspec.msgpack.encode([schema, []]))
        for schema in (-1, 0, 1, None, True, "3", 2.5)
    },
    "next actions": bad_actions,
    "next actions of another type": actions_of_another_type,
    "a notification without a number": notice("77", "SUCCESS"),
    "a notification with a foreign digit": notice("77", "²:SUCCESS"),
    "a notification with a huge number": notice("77", f"{'9' * 5_000}:SUCCESS"),
    "a notification about no text": notice(b"\xff\xfe", "1:SUCCESS"),
    "a notification that is no text": notice("77", b"1:\xff"),
    "notifications of another type": notices_of_another_type,
}


@pytest.mark.parametrize("spoiled", SPOILED)
async def test_foreign_bytes_are_a_store_error(
    orders: Orders, store: RedisStore, spoiled: str
) -> None:
    """Bytes that are not an order are reported, and an order that begins does not replace them."""
    await begin(orders)
    await SPOILED[spoiled](store, "order_1")
    before = await store.link.command("DUMP", store.keys.order("order_1"))
    with pytest.raises(StoreError):
        _ = (await orders.payment("order_1", 1)).order.all_payments
    plan = begin_payment(Order(id="order_1"), a_record(orders), FLOW)
    with contextlib.suppress(StoreError):
        assert (await orders.commit(plan)).outcome is Outcome.CONFLICT
    assert await store.link.command("DUMP", store.keys.order("order_1")) == before


@pytest.mark.parametrize("blob", FOREIGN)
async def test_foreign_bytes_are_not_overwritten_by_a_held_order(
    orders: Orders, store: RedisStore, blob: bytes
) -> None:
    """A commit is decided on a token, and these bytes have another one in its place, or none."""
    order = await begin(orders)
    await whole(blob)(store, "order_1")
    with contextlib.suppress(StoreError):
        assert (await orders.commit(a_plan(order))).outcome is Outcome.CONFLICT
    assert await value_of(store, "order_1") == blob


@pytest.mark.parametrize("spoiled", SPOILED)
async def test_one_unreadable_order_does_not_hide_the_others(
    orders: Orders, store: RedisStore, spoiled: str
) -> None:
    """Leases and lists have the readable ones; a list sets the other one aside."""
    for i in range(6):
        await begin(orders, f"order_{i}", wake_at_ms=1)
    await SPOILED[spoiled](store, "order_3")
    others = [f"order_{i}" for i in (0, 1, 2, 4, 5)]
    assert set(others) <= set(ids(await store.lease(640, 60_000)))
    assert listed(await orders.list(Page())) == others
    assert await unreadable(store) == ["order_3"]


@pytest.mark.parametrize("spoiled", SPOILED)
async def test_an_unreadable_order_that_ended_does_not_stop_the_purge(
    orders: Orders, store: RedisStore, spoiled: str
) -> None:
    """The others are purged, and it stays for a person."""
    ended = {"state": State.FAILED, "created_at_ms": 1, "updated_at_ms": 1, "wake_at_ms": None}
    for i in range(4):
        await begin(orders, f"order_{i}", **ended)
    await SPOILED[spoiled](store, "order_1")
    before = await store.link.command("DUMP", store.keys.order("order_1"))
    retention = Retention(orders, Catalog())
    assert await retention.purge_some() == 3
    assert await store.link.command("DUMP", store.keys.order("order_1")) == before
    assert await unreadable(store) == ["order_1"]


# what a worker meets


async def paid_at_the_bank(shop: Shop, count: int) -> list[Payment]:
    """Return payments whose customers paid: a notification came, and a worker must ask."""
    payments = [(await shop.at_otp())[0] for _ in range(count)]
    for payment in payments:
        await shop.cashier.gateway.authenticate(payment.cf_payment_id or "", OTP)
        body = event(payment.order_id, payment.cf_payment_id, "SUCCESS", SUCCESS)
        await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)
    return payments


async def states(shop: Shop, payments: list[Payment]) -> set[State]:
    """Return the states of payments as they are stored now."""
    return {(await shop.cashier.get(payment)).state for payment in payments}


@pytest.mark.parametrize("spoiled", SPOILED)
async def test_a_worker_sets_an_unreadable_order_aside_and_goes_on(
    shop: Shop, spoiled: str
) -> None:
    """It is reported once and not leased again; all others get their money."""
    store, worker = redis_of(shop), Worker(shop.cashier)
    bad, *others = await paid_at_the_bank(shop, 5)
    await SPOILED[spoiled](store, bad.order_id)
    before = await store.link.command("DUMP", store.keys.order(bad.order_id))
    report = await worker.run_once()
    assert (report.due, report.unreadable) == (0, 1)
    assert (await shop.cashier.status()).unreadable == (bad.order_id,)
    assert await states(shop, others) == {State.CAPTURED}
    assert await unreadable(store) == [bad.order_id]
    reports = shop.events.named("worker.failed")
    assert [report.get("order_id") for report in reports] == [bad.order_id]
    assert await store.link.command("DUMP", store.keys.order(bad.order_id)) == before
    for key in (store.keys.wake, store.keys.leases):
        place = store.keys.partition(bad.order_id)
        kind = "ZSCORE" if key == store.keys.wake else "HGET"
        assert await store.link.command(kind, key(place), bad.order_id) is None
    await worker.run_once()
    assert len(shop.events.named("worker.failed")) == 1


async def in_its_partition(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return a member of the partition of its name, which has no such order."""
    return store.keys.partition("order_none"), b"order_none"


async def in_another_partition(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return the name of an order that lives in another partition, and is due there."""
    return (store.keys.partition(order_id) + 1) % store.keys.partitions, order_id.encode()


async def not_a_name(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return bytes that are no text."""
    return 7, b"\xff\xfe\x00"


async def no_text(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return nothing as a member."""
    return 7, b""


async def a_key_beside_an_order(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return what follows the prefix in the key of an order's actions: there is such a key."""
    return store.keys.partition(order_id), f"{order_id}:a".encode()


async def an_order_without_text(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return the name of an order whose key another program wrote, with bytes that are no text."""
    name = b"order_\xff"
    value = await value_of(store, order_id)
    await store.link.command("SET", store.keys.order_prefix(7).encode() + name, value)
    return 7, name


async def a_copy(store: RedisStore, order_id: str) -> tuple[int, bytes]:
    """Return the name of an order of which another partition has a copy."""
    place = (store.keys.partition(order_id) + 1) % store.keys.partitions
    value = await value_of(store, order_id)
    await store.link.command("SET", store.keys.order_prefix(place) + order_id, value)
    return place, order_id.encode()


def shown_as(name: bytes) -> str:
    """Return a member as logs and pages show it."""
    return name.decode("utf-8", "backslashreplace")


MEMBERS = [
    in_its_partition,
    in_another_partition,
    not_a_name,
    no_text,
    a_key_beside_an_order,
    an_order_without_text,
    a_copy,
]


@pytest.mark.parametrize("member", MEMBERS)
async def test_a_worker_sets_a_member_without_an_order_aside_and_goes_on(
    shop: Shop, member: Callable[[RedisStore, str], Awaitable[tuple[int, bytes]]]
) -> None:
    """It leaves the queue for good, and no order that has its name elsewhere leaves its own."""
    store, worker = redis_of(shop), Worker(shop.cashier)
    payments = [(await shop.at_otp())[0] for _ in range(3)]
    place, name = await member(store, payments[0].order_id)
    await store.link.command("ZADD", store.keys.wake(place), 1, name)
    assert (await worker.run_once()).unreadable == 1
    (shown,) = (await shop.cashier.status()).unreadable
    assert shown.startswith(shown_as(name))
    assert [each["order_id"] for each in shop.events.named("worker.failed")] == [shown]
    assert await store.link.command("ZSCORE", store.keys.wake(place), name) is None
    assert await store.link.command("HGET", store.keys.leases(place), name) is None
    index = store.keys.index(place, UNREADABLE)
    assert await store.link.command("ZRANGE", index, 0, -1) == [name]
    for payment in payments:
        key = store.keys.wake(store.keys.partition(payment.order_id))
        assert await store.link.command("ZSCORE", key, payment.order_id) is not None
        await shop.cashier.gateway.authenticate(payment.cf_payment_id or "", OTP)
        body = event(payment.order_id, payment.cf_payment_id, "SUCCESS", SUCCESS)
        await shop.cashier.on_webhook(signed(body, store.now_ms()), body)
    assert (await worker.run_once()).due == 0
    assert await states(shop, payments) == {State.CAPTURED}


# a newer version of cfflow


async def written_by_a_newer_version(store: RedisStore, order_id: str) -> bytes:
    """Write an order back as a newer version would, with fields of its own; return its value."""
    value = await value_of(store, order_id)
    at = HEAD_B + value[HEAD_B - 1] * 6
    _, payments, *rest = msgspec.msgpack.decode(value[at:])
    rest += [None] * (4 - len(rest))
    newer = [SCHEMA + 1, [[*payment, "new"] for payment in payments], *rest, {"new": 1}]
    value = value[:at] + msgspec.msgpack.encode(newer)
    await store.link.command("SET", store.keys.order(order_id), value)
    return value


async def test_an_order_of_a_newer_version_is_shown(orders: Orders, store: RedisStore) -> None:
    """All that this version has of it: read, leased and listed."""
    order = await begin(orders, wake_at_ms=1)
    await written_by_a_newer_version(store, "order_1")
    found = await loaded(orders)
    expected = contents(order) | {"schema": SCHEMA + 1, "token": ""}
    assert contents(found) == expected
    assert listed(await orders.list(Page())) == ["order_1"]
    assert ids(await store.lease(64, 1)) == ["order_1"]
    assert await unreadable(store) == []


async def test_an_order_of_a_newer_version_is_not_written(
    orders: Orders, store: RedisStore
) -> None:
    """Neither changed nor removed: fields that this version lacks would be dropped."""
    held = await changed(orders, await begin(orders), state=State.FAILED, wake_at_ms=None)
    value = await written_by_a_newer_version(store, "order_1")
    newer = await loaded(orders)
    for plan in (a_plan(newer), begin_payment(newer, a_record(orders), FLOW)):
        with pytest.raises(StoreError, match="newer"):
            await orders.commit(plan)
    assert not await orders.remove(newer)
    assert await value_of(store, "order_1") == value
    assert held.schema == SCHEMA


async def test_an_order_of_a_newer_form_is_not_set_aside(shop: Shop) -> None:
    """Whatever that form is: the workers of that version must find it due."""
    store = redis_of(shop)
    bad, *others = await paid_at_the_bank(shop, 3)
    newer = msgspec.msgpack.encode([SCHEMA + 1, {"payments": "elsewhere"}])
    await record(newer)(store, bad.order_id)
    value = await value_of(store, bad.order_id)
    report = await Worker(shop.cashier).run_once()
    assert (report.due, report.unreadable, report.errors) == (0, 0, 0)
    assert await states(shop, others) == {State.CAPTURED}
    assert len(await shop.cashier.find()) == 2
    assert await unreadable(store) == []
    wake = store.keys.wake(store.keys.partition(bad.order_id))
    assert await store.link.command("ZSCORE", wake, bad.order_id) is not None
    assert await value_of(store, bad.order_id) == value


async def test_no_step_is_made_on_an_order_of_a_newer_version(shop: Shop) -> None:
    """A person sees the payment; nothing is sent and nothing changes."""
    store = redis_of(shop)
    payment, _ = await shop.at_otp()
    order_id, session = await shop.order()
    created = await shop.cashier.start("native_otp", order_id=order_id)
    values = [
        await written_by_a_newer_version(store, name) for name in (payment.order_id, order_id)
    ]
    shown = await shop.cashier.get(payment.id)
    assert (shown.state, shown.version) == (State.OTP_PENDING, payment.version)
    assert (await shop.cashier.start("native_otp", order_id=payment.order_id)).id == payment.id
    assert (await shop.cashier.why(payment.id)).state is State.OTP_PENDING
    for step in (
        lambda: shop.cashier.submit_otp(payment.id, OTP),
        lambda: shop.cashier.submit_otp(shown, OTP),
        lambda: shop.cashier.abandon(payment.id),
        lambda: shop.cashier.adopt(payment.order_id, flow="native_otp"),
        lambda: shop.cashier.refresh(payment.id),
        lambda: shop.cashier.pay(created.id, session, card()),
    ):
        with pytest.raises(StoreError, match="newer") as refused:
            await step()
        assert not refused.value.money_may_have_moved
    assert (shop.performed("authenticate"), shop.performed("pay")) == (0, 1)
    assert [await value_of(store, name) for name in (payment.order_id, order_id)] == values


async def test_a_worker_leaves_an_order_of_a_newer_version_to_a_newer_worker(shop: Shop) -> None:
    """It changes nothing, keeps the notification, and looks again after a pause."""
    store = redis_of(shop)
    bad, *others = await paid_at_the_bank(shop, 3)
    value = await written_by_a_newer_version(store, bad.order_id)
    assert (await Worker(shop.cashier).run_once()).due == 0
    assert await states(shop, others) == {State.CAPTURED}
    assert await value_of(store, bad.order_id) == value
    assert len((await loaded(shop.cashier.orders, bad.order_id)).notices) == 1
    wake = store.keys.wake(store.keys.partition(bad.order_id))
    due_at_ms = float(await store.link.command("ZSCORE", wake, bad.order_id))
    assert store.now_ms() < due_at_ms < store.now_ms() + 5_000
    assert await unreadable(store) == []
