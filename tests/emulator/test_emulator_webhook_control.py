"""Webhooks under a test's control: held, repeated, reordered, sent again, inspected."""

from __future__ import annotations

import time

import pytest

from cfflow.emulator import WebhookSettings
from tests.emulator.emulator_kit import Shop
from tests.emulator.receiver import Receiver, sell, verified

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def receiver(one_receiver: Receiver) -> Receiver:
    """The receiver, without received webhooks."""
    one_receiver.begin()
    return one_receiver


@pytest.fixture
def shop(one_hooked_shop: Shop, receiver: Receiver) -> Shop:
    """The merchant, without any webhook."""
    one_hooked_shop.emulator.app.reset()
    return one_hooked_shop


@pytest.mark.parametrize("timestamps", ["emulator", "machine"])
async def test_timestamps_may_ignore_skipped_time(
    shop: Shop, receiver: Receiver, timestamps: str
) -> None:
    """A receiver with its own clock then accepts signatures after a skip of time."""
    await shop.emulator.advance(7 * 86400)
    shop.emulator.webhooks.configure(timestamps=timestamps)
    await sell(shop)
    await shop.emulator.deliver()
    stamp_s = int(receiver.received[0].headers["x-webhook-timestamp"]) / 1000
    assert (abs(stamp_s - time.time()) < 60) is (timestamps == "machine")


async def test_a_success_event_may_show_pending(shop: Shop, receiver: Receiver) -> None:
    """The gateway sometimes does this, so only a fetch decides."""
    shop.emulator.webhooks.configure(success_says_pending=True)
    await sell(shop)
    await shop.emulator.deliver()
    event = receiver.received[0].event
    assert event["type"] == "PAYMENT_SUCCESS_WEBHOOK"
    assert event["data"]["payment"]["payment_status"] == "PENDING"


async def test_an_event_of_any_type_can_be_sent(shop: Shop, receiver: Receiver) -> None:
    """Refunds and disputes go to the same URL with the same signature."""
    url = f"{shop.emulator.admin_url}/webhooks/send"
    body = {"type": "REFUND_STATUS_WEBHOOK", "data": {"refund": {"refund_id": "r1"}}}
    response = await shop.http.post(url, json=body)
    [received] = receiver.received
    assert verified(received)
    assert {name: received.event[name] for name in body} == body
    assert response.json()["webhooks"][0]["status"] == "delivered"


async def test_the_default_settings_are_regular() -> None:
    """By default nothing is sent, held or repeated."""
    settings = WebhookSettings()
    assert (settings.urls, settings.copies, settings.hold) == ((), 1, False)


async def test_an_event_can_come_several_times(shop: Shop, receiver: Receiver) -> None:
    """Copies have the same body, key and attempt number."""
    await shop.admin("PUT", "/webhooks/settings", {"copies": 3})
    await sell(shop)
    await shop.emulator.deliver()
    assert len(receiver.received) == 3
    assert len({each.body for each in receiver.received}) == 1
    names = ("x-idempotency-key", "x-webhook-attempt")
    assert len({tuple(each.headers[n] for n in names) for each in receiver.received}) == 1


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (3, 3)])
async def test_copies_come_one_after_the_other_or_at_once(
    shop: Shop, receiver: Receiver, at_once: int, most: int
) -> None:
    """`at_once` is the number of open attempts at a receiver."""
    shop.emulator.webhooks.configure(copies=3, at_once=at_once)
    await sell(shop)
    await shop.emulator.deliver()
    assert (len(receiver.received), receiver.most_open) == (3, most)


async def test_held_webhooks_are_sent_when_released(shop: Shop, receiver: Receiver) -> None:
    """They are sent in the order of their events."""
    await shop.admin("POST", "/webhooks/hold")
    orders = [(await sell(shop))["order_id"] for _ in range(3)]
    await shop.emulator.advance(3600)
    shown = await shop.admin("GET", "/webhooks?status=held")
    assert (receiver.received, len(shown["webhooks"])) == ([], 3)
    released = await shop.admin("POST", "/webhooks/release", {})
    assert [each.order_id for each in receiver.received] == orders
    assert {each["status"] for each in released["webhooks"]} == {"delivered"}


async def test_one_order_s_webhooks_can_be_released_alone(shop: Shop, receiver: Receiver) -> None:
    """The others and new ones stay held."""
    shop.emulator.webhooks.hold()
    first, second = await sell(shop), await sell(shop)
    await shop.admin("POST", "/webhooks/release", {"which": second["order_id"]})
    third = await sell(shop)
    await shop.emulator.deliver()
    assert [each.order_id for each in receiver.received] == [second["order_id"]]
    held = [each.order_id for each in shop.emulator.webhooks if each.status == "held"]
    assert held == [first["order_id"], third["order_id"]]


async def test_a_release_can_be_in_reverse(shop: Shop, receiver: Receiver) -> None:
    """The newest is sent first; later events have the normal order."""
    shop.emulator.webhooks.hold()
    orders = [(await sell(shop))["order_id"] for _ in range(3)]
    await shop.admin("POST", "/webhooks/release", {"sequence": "reversed"})
    orders.insert(0, (await sell(shop))["order_id"])
    await shop.emulator.deliver()
    assert [each.order_id for each in reversed(receiver.received)] == orders


async def test_a_seed_shuffles_the_same_way_again(shop: Shop, receiver: Receiver) -> None:
    """A failure with one order of arrival can be repeated."""
    seen = []
    for _ in range(2):
        shop.emulator.webhooks.configure(seed=7, sequence="shuffled", hold=True)
        orders = [(await sell(shop))["order_id"] for _ in range(6)]
        receiver.received.clear()
        await shop.admin("POST", "/webhooks/release", {})
        seen.append([orders.index(each.order_id) for each in receiver.received])
    assert seen[0] == seen[1] != sorted(seen[0])


async def test_a_resend_is_one_more_attempt(shop: Shop, receiver: Receiver) -> None:
    """It has the same body and key, the next number and a new timestamp."""
    order = await sell(shop)
    await shop.emulator.advance(5)
    [delivery] = shop.emulator.webhooks
    await shop.admin("POST", "/webhooks/resend", {"which": delivery.id})
    shown = await shop.admin("POST", "/webhooks/resend", {"which": order["order_id"]})
    assert [made["number"] for made in shown["webhooks"][0]["attempts"]] == [1, 2, 3]
    assert len({(each.body, each.headers["x-idempotency-key"]) for each in receiver.received}) == 1
    assert all(verified(each) for each in receiver.received)
    assert len({each.headers["x-webhook-timestamp"] for each in receiver.received}) == 3


async def test_a_resend_that_is_refused_changes_no_schedule(shop: Shop, receiver: Receiver) -> None:
    """A refused resend is not retried; the scheduled retry is made once."""
    receiver.status = 500
    order = await sell(shop)
    await shop.emulator.deliver()
    await shop.admin("POST", "/webhooks/resend", {"which": order["order_id"]})
    receiver.status = 200
    await shop.emulator.advance(86400)
    [delivery] = shop.emulator.webhooks
    assert [made.status for made in delivery.attempts] == [500, 500, 200]


async def test_a_webhook_can_be_inspected(shop: Shop, receiver: Receiver) -> None:
    """It shows the body that was sent and the result of each attempt."""
    receiver.status = 418
    order = await sell(shop)
    await shop.emulator.deliver()
    [shown] = (await shop.admin("GET", f"/webhooks?order_id={order['order_id']}"))["webhooks"]
    whole = await shop.admin("GET", f"/webhooks/{shown['id']}")
    assert whole["body"].encode() == receiver.received[0].body
    assert whole | {"body": None} == shown | {"body": None}
    [made] = shown["attempts"]
    assert (shown["status"], made["outcome"], made["status"]) == ("waiting", "refused", 418)


async def test_webhooks_can_be_removed(shop: Shop, receiver: Receiver) -> None:
    """Pending ones are then never sent."""
    receiver.status = 500
    await sell(shop)
    await shop.emulator.deliver()
    assert await shop.admin("DELETE", "/webhooks") == {"webhooks": []}
    await shop.emulator.advance(3600)
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/settings", {"copies": 0}, 400),
        ("/settings", {"version": "2021-05-21"}, 400),
        ("/settings", {"url": "nonsense"}, 400),
        ("/settings", {"urls": ["ftp://a/b"]}, 400),
        ("/settings", {"sequence": "random"}, 400),
        ("/settings", {"speed": 1}, 400),
        ("/settings", [], 400),
        ("/release", {"which": "nobody"}, 404),
        ("/release", {"sequence": "random"}, 400),
        ("/resend", {}, 400),
        ("/resend", {"which": "nobody"}, 404),
        ("/resend", {"which": "wh_1", "alter": "magic"}, 400),
        ("/send", {"type": "X"}, 400),
    ],
)
async def test_an_invalid_request_is_refused(
    shop: Shop, path: str, body: object, status: int
) -> None:
    """The response has the reason, and the settings stay."""
    before = shop.emulator.webhooks.settings
    method = "PUT" if path == "/settings" else "POST"
    assert (await shop.admin(method, f"/webhooks{path}", body, status))["message"]
    assert shop.emulator.webhooks.settings == before


async def test_an_unknown_webhook_is_not_found(shop: Shop) -> None:
    """The response is a 404 with the id in its message."""
    shown = await shop.admin("GET", "/webhooks/wh_999999", status=404)
    assert "wh_999999" in shown["message"]


async def test_a_resend_without_any_url_is_refused(shop: Shop) -> None:
    """The response is a 400, and the delivery stays recorded."""
    shop.emulator.webhooks.configure(url=None)
    order = await sell(shop)
    shown = await shop.admin("POST", "/webhooks/resend", {"which": order["order_id"]}, status=400)
    assert "no URL" in shown["message"]
    assert shop.emulator.webhooks.deliveries[0].status == "recorded"
