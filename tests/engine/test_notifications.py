"""Incoming notifications: accepted once the wake is committed, settled by an inquiry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import cfflow
from cfflow import (
    UPI,
    ConfigError,
    FeedNotification,
    InvalidSignature,
    Payment,
    Receipt,
    State,
    Worker,
)
from cfflow.emulator import running_emulator
from cfflow.store.redis.store import RedisStore
from cfflow.testing import MemoryStore
from tests.engine.shop import Shop, card, open_shop, until
from tests.engine.signing import FAILED, SECRET, event, signed
from tests.ports.servers import Server, running, valkey_binary


@pytest.fixture
async def live(redis_url: str) -> AsyncIterator[Shop]:
    """A shop on a real server, in real time."""
    async with open_shop(store=RedisStore(redis_url)) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of one test alone."""
    with running(Server(valkey_binary(), tmp_path / "own")) as started:
        yield started


async def notify(shop: Shop, body: bytes, **headers: str) -> Receipt:
    """Deliver a notification that the gateway signed now."""
    return await shop.cashier.on_webhook(signed(body, shop.store.now_ms(), **headers), body)


async def by_upi(shop: Shop) -> Payment:
    """Return a payment whose customer has yet to approve it in the app."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("upi", order_id=order_id)
    method = UPI(channel="collect", upi_id="somebody@gocash")
    return await shop.cashier.pay(payment, session, method)


async def approved(shop: Shop) -> tuple[Payment, bytes]:
    """Return a payment whose money the bank has taken, and the gateway's event about it."""
    payment = await by_upi(shop)
    await shop.cashier.gateway.simulate(str(payment.cf_payment_id), "SUCCESS")
    return payment, event(payment.order_id, payment.cf_payment_id)


async def paid_twice(shop: Shop) -> tuple[Payment, str]:
    """Return a payment that waits for its OTP, and an attempt that another page has begun."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    method = UPI(channel="collect", upi_id="somebody@gocash")
    elsewhere = await shop.cashier.gateway.pay(session, method)
    return await shop.cashier.pay(payment, session, card()), str(elsewhere.cf_payment_id)


async def in_feed(shop: Shop) -> list[FeedNotification]:
    """Return the notifications in the feed."""
    async with shop.cashier.events("test") as feed:
        found = []
        while (item := await feed.poll()) is not None:
            found.append(item)
    return [item for item in found if isinstance(item, FeedNotification)]


# what a notification does


async def test_a_notification_is_answered_by_an_inquiry(shop: Shop) -> None:
    """The receipt names the payment; the next lease asks the gateway, and its answer counts."""
    payment, body = await approved(shop)
    receipt = await notify(shop, body)
    assert receipt.payment_ids == (payment.id,)
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment.id)).state is State.CAPTURED


async def test_it_moves_no_money_facts_by_itself(shop: Shop) -> None:
    """The gateway's answer to the inquiry is another one, and only that one counts."""
    payment = await by_upi(shop)
    await notify(shop, event(payment.order_id, payment.cf_payment_id, "SUCCESS"))
    await notify(shop, event(payment.order_id, payment.cf_payment_id, "FAILED", FAILED))
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment.id)).state is State.INITIATED


async def test_a_notification_makes_no_new_version(shop: Shop) -> None:
    """Neither it nor its inquiry makes a new version, so the customer's step has no Conflict."""
    payment, _ = await shop.at_otp()
    before = shop.performed("fetch_payment")
    await notify(shop, event(payment.order_id, payment.cf_payment_id, "PENDING"))
    await Worker(shop.cashier).run_once()
    assert shop.performed("fetch_payment") == before + 1
    payment = await shop.cashier.submit_otp(payment, "111000")
    assert payment.state is State.CAPTURED


async def test_a_lost_pay_is_found_by_the_notification_about_it(shop: Shop) -> None:
    """The payment has no attempt; the notification's is searched for in the order's list."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    shop.fault("pay", "lost_after")
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    (attempt,) = await shop.cashier.gateway.fetch_payments(order_id)
    await notify(shop, event(order_id, attempt.cf_payment_id))
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment.id)).cf_payment_id == str(attempt.cf_payment_id)


async def test_an_order_paid_on_another_page_is_noticed_at_once(shop: Shop) -> None:
    """Its pay was never sent here; the order is fetched long before it expires."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    method = UPI(channel="collect", upi_id="testsuccess@gocash")
    made = await shop.cashier.gateway.pay(session, method)
    await notify(shop, event(order_id, made.cf_payment_id))
    await Worker(shop.cashier).run_once()
    ended = await shop.cashier.get(payment.id)
    assert (ended.state, ended.review) == (State.FAILED, ("unclaimed_money",))


async def test_a_customer_who_paid_twice_is_noticed(shop: Shop) -> None:
    """No payment here has the second attempt; the payment that took money is reviewed."""
    payment, elsewhere = await paid_twice(shop)
    payment = await shop.cashier.submit_otp(payment, "111000")
    await shop.cashier.gateway.simulate(elsewhere, "SUCCESS")
    await notify(shop, event(payment.order_id, elsewhere))
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment.id)).review == ("two_holds",)


async def test_a_customer_who_paid_elsewhere_first_is_noticed_too(shop: Shop) -> None:
    """Until a person closes the review, no OTP of our attempt is asked for or sent."""
    payment, elsewhere = await paid_twice(shop)
    await shop.cashier.gateway.simulate(elsewhere, "SUCCESS")
    await notify(shop, event(payment.order_id, elsewhere))
    await Worker(shop.cashier).run_once()
    for step in (
        shop.cashier.submit_otp(payment.id, "111000"),
        shop.cashier.leave_otp(payment.id),
    ):
        with pytest.raises(cfflow.IllegalStep, match="two_holds"):
            await step
    shown = await shop.cashier.get(payment.id)
    assert (shown.state, shown.review, shown.next_action) == (
        State.OTP_PENDING,
        ("two_holds",),
        None,
    )
    allowed = (await shop.cashier.why(payment.id)).allowed
    assert {"submit_otp", "leave_otp"}.isdisjoint(allowed)
    await shop.cashier.acknowledge(payment.id, "two_holds", actor="desk", note="refunded it")
    payment = await shop.cashier.submit_otp(payment.id, "111000")
    assert (payment.state, payment.review) == (State.CAPTURED, ())


async def test_an_inquiry_about_ours_does_not_settle_a_foreign_one(
    shop: Shop,
) -> None:
    """A refused step asks about its own attempt; the worker still asks for the list."""
    payment, elsewhere = await paid_twice(shop)
    for attempt in (str(payment.cf_payment_id), elsewhere):
        await shop.cashier.gateway.simulate(attempt, "SUCCESS")
    await notify(shop, event(payment.order_id, elsewhere))
    with pytest.raises(cfflow.GatewayRejected):
        # By id: read just now, with the notification beside it.
        await shop.cashier.submit_otp(payment.id, "111000")
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment.id)).review == ("two_holds",)


async def test_what_is_known_already_costs_no_inquiry(shop: Shop) -> None:
    """The end of the sale was seen: no call of the gateway's rate limit is spent on it."""
    payment, _ = await shop.at_otp()
    payment = await shop.cashier.submit_otp(payment, "111000")
    before = shop.performed("fetch_payment")
    receipt = await notify(shop, event(payment.order_id, payment.cf_payment_id))
    await Worker(shop.cashier).run_once()
    assert (receipt.payment_ids, shop.performed("fetch_payment")) == ((), before)


async def test_one_that_comes_during_a_step_waits_for_its_end(shop: Shop) -> None:
    """A step on its way gets no inquiry; after its outcome the notification is still due."""
    payment, _ = await shop.at_otp()
    shop.fault("authenticate", "delay_before", delay_s=0.2)
    submitting = asyncio.create_task(shop.cashier.submit_otp(payment, "000000"))
    await until(lambda: shop.received("authenticate"))
    await notify(shop, event(payment.order_id, payment.cf_payment_id, "PENDING"))
    before = shop.performed("fetch_payment")
    await Worker(shop.cashier).run_once()
    assert shop.performed("fetch_payment") == before
    await submitting
    await Worker(shop.cashier).run_once()
    assert shop.performed("fetch_payment") == before + 1


async def test_a_notification_that_cannot_be_answered_for_days_is_still_tried(shop: Shop) -> None:
    """The pauses grow to a longest one: the gateway is not asked faster and faster."""
    payment, body = await approved(shop)
    worker = Worker(shop.cashier)
    worker._failures[payment.id] = 5_000
    await notify(shop, body)
    shop.fault("fetch_payment", "status_before", status=404)
    await worker.run_once()
    assert (await shop.store.lease(10, 1_000)).orders == ()
    shop.pass_time(301)
    await worker.run_once()
    assert (await shop.cashier.get(payment.id)).state is State.CAPTURED


# what is in the feed


async def test_one_is_in_the_feed_once_however_often_it_comes(shop: Shop) -> None:
    """Within a day, under any key. The wake is still set each time, because of the money."""
    payment, body = await approved(shop)
    receipts = [await notify(shop, body, x_idempotency_key=key) for key in ("k1", "k1", "k2")]
    assert [receipt.duplicate for receipt in receipts] == [False, True, True]
    assert [receipt.payment_ids for receipt in receipts] == [(payment.id,)] * 3
    assert [item.cf_payment_id for item in await in_feed(shop)] == [payment.cf_payment_id]


async def test_after_a_day_it_is_in_the_feed_again_under_the_same_content_id(shop: Shop) -> None:
    """With the content id a handler can drop it: the dashboard can send any event again."""
    payment, body = await approved(shop)
    headers = signed(body, shop.store.now_ms())
    receipts = []
    for pause_s in (0, 86_000, 500):
        shop.pass_time(pause_s)
        receipts.append(await shop.cashier.on_webhook(headers, body))
    assert [receipt.duplicate for receipt in receipts] == [False, True, False]
    first, again = await in_feed(shop)
    assert (first.content_id, first.id) != (again.content_id, again.id)
    assert first.content_id == again.content_id is not None
    assert first.cf_payment_id == again.cf_payment_id == payment.cf_payment_id


async def test_another_event_under_the_key_of_the_first_is_in_the_feed_too(shop: Shop) -> None:
    """The key is not signed, so it must not make a genuine event a duplicate."""
    bodies = [event(bank_reference=reference) for reference in ("1", "2")]
    receipts = [await notify(shop, body, x_idempotency_key="k1") for body in bodies]
    assert [receipt.duplicate for receipt in receipts] == [False, False]
    assert len({item.content_id for item in await in_feed(shop)}) == 2


@pytest.mark.parametrize("order_id", ["WO#10027", "x" * 50])
async def test_another_systems_payment_is_acknowledged_and_handed_to_the_feed(
    shop: Shop, order_id: str
) -> None:
    """With its own data; after a refusal the gateway would send it again without use."""
    receipt = await notify(shop, event(order_id, 77))
    assert (receipt.order_id, receipt.cf_payment_id, receipt.payment_ids) == (None, None, ())
    (item,) = await in_feed(shop)
    assert (item.type, item.order_id) == ("PAYMENT_SUCCESS_WEBHOOK", None)
    assert item.data["order"]["order_id"] == order_id


async def test_one_that_names_no_attempt_wakes_no_payment(shop: Shop) -> None:
    """Its order has a payment that waits, but no field links the event to that payment."""
    payment = await by_upi(shop)
    receipt = await notify(shop, event(payment.order_id, None))
    assert (receipt.order_id, receipt.payment_ids) == (payment.order_id, ())
    (item,) = await in_feed(shop)
    assert (item.order_id, item.data["payment"]["cf_payment_id"]) == (payment.order_id, None)


async def test_an_unknown_event_is_acknowledged_and_handed_to_the_feed(shop: Shop) -> None:
    """With its data and exact amounts, for a handler that understands it."""
    body = b'{"type": "REFUND_STATUS_WEBHOOK", "data": {"refund": {"refund_amount": 1.10}}}'
    receipt = await notify(shop, body)
    assert (receipt.type, receipt.payment_ids) == ("REFUND_STATUS_WEBHOOK", ())
    (item,) = await in_feed(shop)
    assert str(item.data["refund"]["refund_amount"]) == "1.10"


async def test_what_is_refused_touches_nothing(shop: Shop) -> None:
    """No wake, no feed, no marker: the genuine one that follows is not a duplicate."""
    payment, body = await approved(shop)
    with pytest.raises(InvalidSignature):
        await shop.cashier.on_webhook(signed(body, shop.store.now_ms(), secret="x"), body)
    assert (await shop.store.lease(10, 1_000)).orders == ()
    assert await in_feed(shop) == []
    assert not (await notify(shop, body)).duplicate
    assert payment.state is State.INITIATED


async def test_every_notification_is_in_the_log_with_its_result(shop: Shop) -> None:
    """Accepted with the payments it woke, refused with the reason; never with a signature."""
    payment, body = await approved(shop)
    await notify(shop, body)
    with pytest.raises(InvalidSignature):
        await shop.cashier.on_webhook({}, body)
    (accepted,) = shop.events.named("webhook.accepted")
    (refused,) = shop.events.named("webhook.refused")
    assert accepted["payment_ids"] == (payment.id,)
    assert refused["reason"] == "missing_header"


# how it is set up


async def test_secrets_beside_the_client_secret_are_good_while_they_are_configured() -> None:
    """No notification is lost while a secret is replaced."""
    async with open_shop(webhook_secrets=["the next secret of the account"]) as shop:
        for secret in (SECRET, "the next secret of the account"):
            body = event()
            headers = signed(body, shop.store.now_ms(), secret=secret)
            assert (await shop.cashier.on_webhook(headers, body)).order_id == "order_1"


async def test_the_tolerance_is_the_merchants_to_set() -> None:
    """In seconds, by the store's clock."""
    async with open_shop(webhook_tolerance_s=60) as shop:
        body = event()
        with pytest.raises(InvalidSignature, match="stale"):
            await shop.cashier.on_webhook(signed(body, shop.store.now_ms() - 61_000), body)


async def test_an_orchestrator_without_secrets_raises_a_config_error() -> None:
    """An orchestrator made by hand has no secrets: the error is not "forged"."""
    async with running_emulator() as emulator:
        connected = cfflow.connect(
            store=MemoryStore(),
            client_id=emulator.client_id,
            client_secret=emulator.client_secret,
            environment=emulator.base_url,
        )
        bare = cfflow.Orchestrator(MemoryStore(), connected.gateway)
        with pytest.raises(ConfigError, match="webhook secrets"):
            await bare.on_webhook({}, b"{}")
        await connected.aclose()


# on a real server


async def test_a_worker_asks_with_its_next_lease(
    live: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker leases at least every half second; the first lease has the payment."""
    payment, body = await approved(live)
    leases = live.counted_leases(monkeypatch)
    worker = Worker(live.cashier)
    working = asyncio.create_task(worker.run(signals=False))
    await until(lambda: leases)
    before = len(leases)
    assert leases == [0] * before, "the payment was due before its notification"
    await notify(live, body)
    await until(lambda: live.captured(payment))
    # One lease may have been under way when the notification was stored.
    assert 1 in leases[before : before + 2]
    worker.stop()
    await working


async def test_a_store_that_is_down_refuses_so_that_it_comes_again(server: Server) -> None:
    """The gateway gets a 503: nothing was committed, and it sends the notification again."""
    async with open_shop(store=RedisStore(server.url, deadline_s=0.3)) as shop:
        server.kill()
        with pytest.raises(cfflow.StoreUnavailable) as refused:
            await notify(shop, event())
        assert refused.value.safe_to_retry
