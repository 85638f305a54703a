"""Webhooks as a test wants them: held, repeated, out of order, sent again, looked at."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cfflow.emulator import WebhookSettings
from tests.emulator.emulator_kit import Shop
from tests.emulator.receiver import Receiver, sell, verified

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def receiver(one_receiver: Receiver) -> Receiver:
    """The receiver, with nothing received."""
    one_receiver.begin()
    return one_receiver


@pytest.fixture
def shop(one_hooked_shop: Shop, receiver: Receiver) -> Shop:
    """The merchant, with nothing on its way."""
    one_hooked_shop.emulator.app.reset()
    return one_hooked_shop


async def ask(shop: Shop, method: str, path: str, body: object = None, status: int = 200) -> Any:
    """What the emulator answers below /_emulator/webhooks."""
    url = f"{shop.emulator.admin_url}/webhooks{path}"
    answer = await shop.http.request(method, url, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("timestamps", ["emulator", "machine"])
async def test_timestamps_may_ignore_skipped_time(
    shop: Shop, receiver: Receiver, timestamps: str
) -> None:
    """A receiver with a clock of its own accepts what was signed in another week."""
    await shop.emulator.advance(7 * 86400)
    shop.emulator.webhooks.configure(timestamps=timestamps)
    await sell(shop)
    await shop.emulator.deliver()
    stamp_s = int(receiver.received[0].headers["x-webhook-timestamp"]) / 1000
    assert (abs(stamp_s - time.time()) < 60) is (timestamps == "machine")


async def test_a_success_may_say_that_it_is_pending(shop: Shop, receiver: Receiver) -> None:
    """As the gateway's own sometimes does: only a fetch tells."""
    shop.emulator.webhooks.configure(success_says_pending=True)
    await sell(shop)
    await shop.emulator.deliver()
    event = receiver.received[0].event
    assert event["type"] == "PAYMENT_SUCCESS_WEBHOOK"
    assert event["data"]["payment"]["payment_status"] == "PENDING"


async def test_an_event_of_any_type_can_be_sent(shop: Shop, receiver: Receiver) -> None:
    """Refunds and disputes come to the same URL, signed in the same way."""
    url = f"{shop.emulator.admin_url}/webhooks/send"
    body = {"type": "REFUND_STATUS_WEBHOOK", "data": {"refund": {"refund_id": "r1"}}}
    answer = await shop.http.post(url, json=body)
    [received] = receiver.received
    assert verified(received)
    assert {name: received.event[name] for name in body} == body
    assert answer.json()["webhooks"][0]["status"] == "delivered"


async def test_the_settings_begin_harmless() -> None:
    """Without a word nothing is sent anywhere, held or repeated."""
    settings = WebhookSettings()
    assert (settings.urls, settings.copies, settings.hold) == ((), 1, False)


async def test_an_event_can_come_several_times(shop: Shop, receiver: Receiver) -> None:
    """The same body, key and attempt number: only the key tells that it is one event."""
    await ask(shop, "PUT", "/settings", {"copies": 3})
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
    """As many attempts as told are open at a receiver."""
    shop.emulator.webhooks.configure(copies=3, at_once=at_once)
    await sell(shop)
    await shop.emulator.deliver()
    assert (len(receiver.received), receiver.most_open) == (3, most)


async def test_what_is_held_goes_out_when_it_is_released(shop: Shop, receiver: Receiver) -> None:
    """Nothing comes until then, and then in the order in which it happened."""
    await ask(shop, "POST", "/hold")
    orders = [(await sell(shop))["order_id"] for _ in range(3)]
    await shop.emulator.advance(3600)
    told = await ask(shop, "GET", "?status=held")
    assert (receiver.received, len(told["webhooks"])) == ([], 3)
    released = await ask(shop, "POST", "/release", {})
    assert [each.order_id for each in receiver.received] == orders
    assert {each["status"] for each in released["webhooks"]} == {"delivered"}


async def test_one_order_s_webhooks_can_be_released_alone(shop: Shop, receiver: Receiver) -> None:
    """The others stay, and what comes later is held as well."""
    shop.emulator.webhooks.hold()
    first, second = await sell(shop), await sell(shop)
    await ask(shop, "POST", "/release", {"which": second["order_id"]})
    third = await sell(shop)
    await shop.emulator.deliver()
    assert [each.order_id for each in receiver.received] == [second["order_id"]]
    held = [each.order_id for each in shop.emulator.webhooks if each.status == "held"]
    assert held == [first["order_id"], third["order_id"]]


async def test_what_is_released_can_come_in_reverse(shop: Shop, receiver: Receiver) -> None:
    """The newest first; the next ones come as they happen again."""
    shop.emulator.webhooks.hold()
    orders = [(await sell(shop))["order_id"] for _ in range(3)]
    await ask(shop, "POST", "/release", {"sequence": "reversed"})
    orders.insert(0, (await sell(shop))["order_id"])
    await shop.emulator.deliver()
    assert [each.order_id for each in reversed(receiver.received)] == orders


async def test_a_seed_shuffles_the_same_way_again(shop: Shop, receiver: Receiver) -> None:
    """So that a failure found in one order of arrival can be repeated."""
    seen = []
    for _ in range(2):
        shop.emulator.webhooks.configure(seed=7, sequence="shuffled", hold=True)
        orders = [(await sell(shop))["order_id"] for _ in range(6)]
        receiver.received.clear()
        await ask(shop, "POST", "/release", {})
        seen.append([orders.index(each.order_id) for each in receiver.received])
    assert seen[0] == seen[1] != sorted(seen[0])


async def test_a_resend_is_one_more_attempt(shop: Shop, receiver: Receiver) -> None:
    """Same body and key, the next number, another timestamp; by id as by order."""
    order = await sell(shop)
    await shop.emulator.advance(5)
    [delivery] = shop.emulator.webhooks
    await ask(shop, "POST", "/resend", {"which": delivery.id})
    told = await ask(shop, "POST", "/resend", {"which": order["order_id"]})
    assert [made["number"] for made in told["webhooks"][0]["attempts"]] == [1, 2, 3]
    assert len({(each.body, each.headers["x-idempotency-key"]) for each in receiver.received}) == 1
    assert all(verified(each) for each in receiver.received)
    assert len({each.headers["x-webhook-timestamp"] for each in receiver.received}) == 3


async def test_a_resend_that_is_refused_changes_no_schedule(shop: Shop, receiver: Receiver) -> None:
    """Nobody asked for more; what the schedule had in mind still comes, once."""
    receiver.status = 500
    order = await sell(shop)
    await shop.emulator.deliver()
    await ask(shop, "POST", "/resend", {"which": order["order_id"]})
    receiver.status = 200
    await shop.emulator.advance(86400)
    [delivery] = shop.emulator.webhooks
    assert [made.status for made in delivery.attempts] == [500, 500, 200]


async def test_a_webhook_can_be_looked_at(shop: Shop, receiver: Receiver) -> None:
    """Its body is the text that was sent, its attempts say what came of them."""
    receiver.status = 418
    order = await sell(shop)
    await shop.emulator.deliver()
    [told] = (await ask(shop, "GET", f"?order_id={order['order_id']}"))["webhooks"]
    whole = await ask(shop, "GET", f"/{told['id']}")
    assert whole["body"].encode() == receiver.received[0].body
    assert whole | {"body": None} == told | {"body": None}
    [made] = told["attempts"]
    assert (told["status"], made["outcome"], made["status"]) == ("waiting", "refused", 418)


async def test_webhooks_can_be_forgotten(shop: Shop, receiver: Receiver) -> None:
    """The waiting ones too: they never come."""
    receiver.status = 500
    await sell(shop)
    await shop.emulator.deliver()
    assert await ask(shop, "DELETE", "") == {"webhooks": []}
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
async def test_what_makes_no_sense_is_refused(
    shop: Shop, path: str, body: object, status: int
) -> None:
    """With the reason, and the settings stay as they are."""
    before = shop.emulator.webhooks.settings
    method = "PUT" if path == "/settings" else "POST"
    assert (await ask(shop, method, path, body, status))["message"]
    assert shop.emulator.webhooks.settings == before


async def test_an_unknown_webhook_is_not_found(shop: Shop) -> None:
    """404, and its id in the message."""
    told = await ask(shop, "GET", "/wh_999999", status=404)
    assert "wh_999999" in told["message"]


async def test_a_resend_without_any_url_is_refused(shop: Shop) -> None:
    """Nowhere to send it to: 400, and it stays recorded."""
    shop.emulator.webhooks.configure(url=None)
    order = await sell(shop)
    told = await ask(shop, "POST", "/resend", {"which": order["order_id"]}, status=400)
    assert "no URL" in told["message"]
    assert shop.emulator.webhooks.deliveries[0].status == "recorded"
