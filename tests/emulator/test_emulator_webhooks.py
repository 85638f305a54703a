"""Outgoing webhooks: what a merchant's receiver gets, when, and how often."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest

from cfflow.emulator import (
    Bank,
    BankOptions,
    EmulatorProcess,
    create_app,
    running_emulator,
)
from cfflow.emulator.webhook_requests import ALTERATIONS, Alteration
from tests.emulator.emulator_kit import HOLDS, SALES, Shop, a_shop, an_order, card, pay, upi
from tests.emulator.receiver import Receiver, sell, simulate, verified

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def shop(one_hooked_shop: Shop, receiver: Receiver) -> Shop:
    """The merchant, without any webhook."""
    one_hooked_shop.emulator.app.reset()
    return one_hooked_shop


@pytest.fixture
def receiver(one_receiver: Receiver) -> Receiver:
    """The receiver, without received webhooks."""
    one_receiver.begin()
    return one_receiver


@pytest.mark.parametrize(
    ("status", "event_type"),
    [
        ("SUCCESS", "PAYMENT_SUCCESS_WEBHOOK"),
        ("FAILED", "PAYMENT_FAILED_WEBHOOK"),
        ("USER_DROPPED", "PAYMENT_USER_DROPPED_WEBHOOK"),
    ],
)
async def test_the_end_of_a_payment_sends_an_event(
    shop: Shop, receiver: Receiver, status: str, event_type: str
) -> None:
    """Success, failure and a customer who left send one signed event each."""
    paid = (await shop.pay(await shop.order())).json()["cf_payment_id"]
    await simulate(shop, paid, status)
    await shop.emulator.deliver()
    [received] = receiver.received
    payment = received.event["data"]["payment"]
    assert verified(received)
    assert received.event["type"] == event_type
    assert (payment["cf_payment_id"], payment["payment_status"]) == (paid, status)


async def test_a_cancelled_payment_sends_a_dropped_event(shop: Shop, receiver: Receiver) -> None:
    """The status in its body is CANCELLED."""
    paid = (await shop.pay(await shop.order())).json()["cf_payment_id"]
    shop.emulator.bank.force(paid, "CANCELLED", shop.emulator.clock.now())
    await shop.emulator.deliver()
    [received] = receiver.received
    assert received.event["type"] == "PAYMENT_USER_DROPPED_WEBHOOK"
    assert received.event["data"]["payment"]["payment_status"] == "CANCELLED"


@pytest.mark.parametrize("action", ["CAPTURE", "VOID"])
async def test_a_hold_sends_one_event(shop: Shop, receiver: Receiver, action: str) -> None:
    """The authorization sends a success; a capture or a void sends nothing."""
    order = await shop.held()
    await shop.authorize(order, action=action, amount=170)
    await shop.emulator.deliver()
    assert [each.event["type"] for each in receiver.received] == ["PAYMENT_SUCCESS_WEBHOOK"]


async def test_a_late_authorization_sends_a_second_event(shop: Shop, receiver: Receiver) -> None:
    """The two events of the payment have different keys."""
    paid = (await shop.pay(await shop.order())).json()["cf_payment_id"]
    for status in ("FAILED", "SUCCESS"):
        await simulate(shop, paid, status)
    await shop.emulator.deliver()
    shown = [each.event["data"]["payment"]["payment_status"] for each in receiver.received]
    keys = {each.headers["x-idempotency-key"] for each in receiver.received}
    assert (shown, len(keys)) == (["FAILED", "SUCCESS"], 2)


async def test_amounts_keep_their_decimals(shop: Shop, receiver: Receiver) -> None:
    """170.00 has two decimals, so encoding the body again breaks the signature."""
    await sell(shop)
    await shop.emulator.deliver()
    [received] = receiver.received
    assert b'"order_amount":170.00,' in received.body
    assert b'"payment_amount":170.00,' in received.body
    assert verified(received)
    assert not verified(received, json.dumps(received.event, separators=(",", ":")).encode())


async def test_the_body_has_the_gateway_s_parts(shop: Shop, receiver: Receiver) -> None:
    """The payment has no `authorization`; only a failed one has `error_details`."""
    await shop.pay(await shop.order(), upi("testfailure@gocash"))
    await sell(shop)
    await shop.emulator.deliver()
    failed, sold = (each.event["data"] for each in receiver.received)
    parts = {"order", "payment", "customer_details", "payment_gateway_details", "payment_offers"}
    assert (set(sold), set(failed)) == (parts, parts | {"error_details"})
    assert {"authorization", "is_captured"} & {*sold["payment"], *failed["payment"]} == set()
    assert failed["error_details"]["error_code"]
    assert sold["customer_details"]["customer_phone"] == "9908734801"


@pytest.mark.parametrize(
    ("version", "kind", "key"),
    [("2022-09-01", int, False), ("2023-08-01", str, False), ("2025-01-01", str, True)],
)
async def test_versions_differ_in_ids_and_headers(
    shop: Shop, receiver: Receiver, version: str, kind: type, key: bool
) -> None:
    """The id is a number in the oldest version; only the newest has the idempotency key."""
    shop.emulator.webhooks.configure(version=version)
    await sell(shop)
    await shop.emulator.deliver()
    [received] = receiver.received
    assert received.headers["x-webhook-version"] == version
    assert type(received.event["data"]["payment"]["cf_payment_id"]) is kind
    assert ("x-idempotency-key" in received.headers) is key


async def test_each_account_signs_with_its_own_secret(shop: Shop, receiver: Receiver) -> None:
    """The secret is that of the order's account."""
    bank, now = shop.emulator.bank, shop.emulator.clock.now()
    paid = pay(bank, an_order(bank, HOLDS, now), now=now)
    bank.submit_otp(paid.cf_payment_id, "111000", now)
    await shop.emulator.deliver()
    [received] = receiver.received
    assert verified(received, secret=HOLDS.client_secret)
    assert not verified(received, secret=SALES.client_secret)


async def test_an_order_s_own_url_comes_first(shop: Shop, receiver: Receiver) -> None:
    """`notify_url` replaces the configured URLs."""
    await sell(shop, order_meta={"notify_url": f"{receiver.url}/mine"})
    await shop.emulator.deliver()
    assert [each.path for each in receiver.received] == ["/mine"]


async def test_every_configured_url_gets_every_event(shop: Shop, receiver: Receiver) -> None:
    """Each gets the same event with the same key."""
    urls = [f"{receiver.url}/{name}" for name in ("one", "two")]
    shop.emulator.webhooks.configure(urls=urls)
    await sell(shop)
    await shop.emulator.deliver()
    assert sorted(each.path for each in receiver.received) == ["/one", "/two"]
    assert len({each.headers["x-idempotency-key"] for each in receiver.received}) == 1


async def test_without_a_url_an_event_is_only_recorded(shop: Shop, receiver: Receiver) -> None:
    """It can be inspected, and sent when there is a URL."""
    shop.emulator.webhooks.configure(url=None)
    order = await sell(shop)
    await shop.emulator.deliver()
    [recorded] = shop.emulator.webhooks
    assert (recorded.status, receiver.received) == ("recorded", [])
    shop.emulator.webhooks.resend(order["order_id"], url=f"{receiver.url}/late")
    await shop.emulator.deliver()
    assert (recorded.status, receiver.received[0].path) == ("delivered", "/late")


@pytest.mark.parametrize("status", [201, 204, 302, 404, 500])
async def test_any_status_but_200_is_retried_three_times(
    shop: Shop, receiver: Receiver, status: int
) -> None:
    """The retries come after 2, 10 and 30 minutes; a redirect is not followed."""
    receiver.status = status
    await sell(shop)
    for skipped_s in (0, 119, 2, 600, 1800, 86400):
        await shop.emulator.advance(skipped_s)
    [delivery] = shop.emulator.webhooks
    waited = [round(made.at - delivery.attempts[0].at) for made in delivery.attempts]
    assert (waited, delivery.status) == ([0, 120, 720, 2520], "given_up")
    assert {(made.outcome, made.status) for made in delivery.attempts} == {("refused", status)}
    numbers = [each.headers["x-webhook-attempt"] for each in receiver.received]
    assert (numbers, {each.path for each in receiver.received}) == (list("1234"), {"/hook"})


async def test_a_delivered_webhook_is_not_retried(shop: Shop, receiver: Receiver) -> None:
    """After an error and a 200 there is no further attempt."""
    receiver.statuses = [503]
    await sell(shop)
    for skipped_s in (0, 120, 3600):
        await shop.emulator.advance(skipped_s)
    [delivery] = shop.emulator.webhooks
    assert [made.status for made in delivery.attempts] == [503, 200]
    assert delivery.status == "delivered"


async def test_every_attempt_has_its_own_signature(shop: Shop, receiver: Receiver) -> None:
    """Body and key are the same; the timestamp is later and the signature fits it."""
    receiver.statuses = [503]
    await sell(shop)
    await shop.emulator.deliver()
    await shop.emulator.advance(120)
    first, second = receiver.received
    same = ("x-idempotency-key", "x-webhook-version")
    assert first.body == second.body
    assert [first.headers[name] for name in same] == [second.headers[name] for name in same]
    stamps = [int(each.headers["x-webhook-timestamp"]) for each in receiver.received]
    assert abs(stamps[1] - stamps[0] - 120_000) <= 1
    assert verified(second)


async def test_the_clock_responds_after_due_webhooks_are_delivered(
    shop: Shop, receiver: Receiver
) -> None:
    """One skip over all retries makes all of them, so a test need not sleep."""
    receiver.status = 500
    await sell(shop)
    await shop.http.post(f"{shop.emulator.admin_url}/clock", json={"advance_s": 7200})
    assert len(receiver.received) == 4


@pytest.mark.parametrize("alter", ALTERATIONS)
async def test_a_webhook_can_be_sent_again_altered(
    shop: Shop, receiver: Receiver, alter: Alteration
) -> None:
    """It is wrong in exactly one way, and the state of the delivery does not change."""
    order = await sell(shop)
    await shop.emulator.deliver()
    shop.emulator.webhooks.resend(order["order_id"], alter=alter)
    await shop.emulator.deliver()
    good, bad = receiver.received
    age_s = time.time() - int(good.headers["x-webhook-timestamp"]) / 1000
    stamp = bad.headers["x-webhook-timestamp"]
    wrong = {
        "unsigned": "x-webhook-signature" not in bad.headers,
        "forged": bad.body == good.body and not verified(bad),
        "tampered": bad.body != good.body and not verified(bad),
        "stale": stamp.isdigit() and time.time() - int(stamp) / 1000 > 86000 + age_s,
        "bad_timestamp": not stamp.isdigit(),
        "malformed": len(bad.body) < len(good.body),
        "oversized": len(bad.body) > 2 << 20,
    }
    assert wrong[alter]
    assert shop.emulator.webhooks.deliveries[0].attempts[-1].altered == alter


async def test_a_slow_receiver_delays_no_call(shop: Shop, receiver: Receiver) -> None:
    """The gateway serves calls meanwhile; at the time limit the attempt has failed."""
    receiver.gate.clear()
    shop.emulator.webhooks.configure(time_limit_s=0.3)
    await sell(shop)
    begun = time.monotonic()
    assert (await shop.fetch("/orders/unknown")).status_code == 404
    assert time.monotonic() - begun < 0.2
    await shop.emulator.deliver()
    [delivery] = shop.emulator.webhooks
    [made] = delivery.attempts
    assert (made.outcome, made.error) == ("failed", "no answer within 0.3 s")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_receiver_that_cannot_be_reached_is_a_failed_attempt(
    shop: Shop, receiver: Receiver, scheme: str
) -> None:
    """The attempt has a reason, and the next one is made."""
    there = receiver.url.replace("http", "https")
    url = "http://127.0.0.1:1/hook" if scheme == "http" else there
    await sell(shop, order_meta={"notify_url": url})
    await sell(shop)
    await shop.emulator.deliver()
    lost, delivered = shop.emulator.webhooks
    assert (lost.attempts[0].outcome, bool(lost.attempts[0].error)) == ("failed", True)
    assert delivered.status == "delivered"


async def test_a_timer_sends_its_event_without_a_call(receiver: Receiver) -> None:
    """A customer's scheduled approval sends the webhook."""
    options = BankOptions(upi_approves_after_s=0.05)
    async with (
        running_emulator(webhook_url=receiver.url, options=options) as emulator,
        a_shop(emulator) as shop,
    ):
        await shop.pay(await shop.order(), upi())
        deadline = time.monotonic() + 5
        while not receiver.received:
            assert time.monotonic() < deadline, "the webhook never came"
            await asyncio.sleep(0.01)
    assert receiver.received[0].event["type"] == "PAYMENT_SUCCESS_WEBHOOK"


async def test_an_app_without_a_server_delivers_on_request(receiver: Receiver) -> None:
    """In-process, `deliver()` sends what is due."""
    bank = Bank()
    app = create_app(bank, webhooks={"url": receiver.url})
    now = app.state.clock.now()
    paid = pay(bank, an_order(bank, now=now), card(), now)
    bank.submit_otp(paid.cf_payment_id, "111000", now)
    assert receiver.received == []
    await app.deliver()
    assert len(receiver.received) == 1


async def test_a_process_takes_the_webhook_url_and_version(
    receiver: Receiver,
) -> None:
    """`--webhook-url` and `--webhook-version` reach the emulator in the other process."""
    async with (
        EmulatorProcess(webhook_url=receiver.url, webhook_version="2023-08-01") as process,
        httpx.AsyncClient() as http,
    ):
        response = await http.get(f"{process.admin_url}/webhooks/settings")
    assert response.json()["urls"] == [receiver.url]
    assert response.json()["version"] == "2023-08-01"


async def test_delivery_ends_when_it_is_stopped_just_as_an_event_comes() -> None:
    """A cancellation that meets a wake-up in one turn of the loop is not lost."""
    sender = create_app(Bank()).state.webhooks.sender
    delivering = asyncio.create_task(sender.run())
    await asyncio.sleep(0.01)
    sender._woken.set()
    delivering.cancel()
    done, _ = await asyncio.wait({delivering}, timeout=5)
    assert done == {delivering}
    assert delivering.cancelled()
