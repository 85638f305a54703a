"""The emulator's own API over HTTP: clock, ledger, orders, forced payments, reset."""

from __future__ import annotations

from datetime import datetime

import pytest

from cfflow.emulator import running_emulator
from cfflow.emulator.admin_orders import ACTS
from cfflow.emulator.webhook_outbox import WebhookSettings
from tests.emulator.emulator_kit import HOLDS, Shop, an_order, upi
from tests.emulator.receiver import sell

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def shop(one_shop: Shop) -> Shop:
    """The merchant of an emulator without orders."""
    one_shop.emulator.app.reset()
    return one_shop


async def test_the_clock_skips_to_a_given_time(shop: Shop) -> None:
    """The time is seconds since the epoch or ISO 8601; without an offset it is Indian time."""
    now = (await shop.admin("GET", "/clock"))["epoch_s"]
    shown = await shop.admin("POST", "/clock", {"at": now + 100})
    assert abs(shown["epoch_s"] - now - 100) < 1
    ahead = datetime.fromisoformat(shown["now"]).replace(tzinfo=None, microsecond=0)
    later = ahead.replace(year=ahead.year + 1, day=1)
    shown = await shop.admin("POST", "/clock", {"at": later.isoformat()})
    assert shown["now"].startswith(later.isoformat()[:16])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"advance_s": -1},
        {"advance_s": 1, "at": 1},
        {"at": 1},
        {"at": "yesterday"},
        {"at": 1e300},
        {"at": "2020-01-01T00:00:00Z"},
        {"speed": 2},
        [],
    ],
)
async def test_the_clock_never_goes_back(shop: Shop, body: object) -> None:
    """A past time or an invalid body is refused and skips nothing."""
    before = shop.emulator.clock.offset_s
    assert (await shop.admin("POST", "/clock", body, 400))["message"]
    assert shop.emulator.clock.offset_s == before


async def test_the_ledger_can_be_filtered(shop: Shop) -> None:
    """The filters are order, payment, effect and time, alone or together."""
    first = await sell(shop)
    await shop.emulator.advance(3600)
    since = shop.emulator.clock.now()
    second = await sell(shop)
    whole = (await shop.admin("GET", "/ledger"))["ledger"]
    paid = whole[-1]["cf_payment_id"]
    queries = {
        f"order_id={first['order_id']}": whole[:2],
        f"cf_payment_id={paid}": whole[2:],
        "effect=captured": whole[1::2],
        f"since={since}": whole[2:],
        f"since={whole[2]['at']}": whole[2:],
        f"effect=captured&order_id={second['order_id']}": whole[3:],
        "effect=voided": [],
        "order_id=nobody": [],
    }
    for query, entries in queries.items():
        assert (await shop.admin("GET", f"/ledger?{query}"))["ledger"] == entries, query


async def test_an_invalid_time_is_refused(shop: Shop) -> None:
    """It must not give an empty ledger."""
    assert (await shop.admin("GET", "/ledger?since=soon", status=400))["message"]


async def test_an_order_is_shown_with_everything_about_it(shop: Shop) -> None:
    """The response has attempts with their holds, effects and webhooks."""
    order = await shop.held()
    shown = await shop.admin("GET", f"/orders/{order['order_id']}")
    [found] = shown["orders"]
    [attempt] = found["attempts"]
    assert (found["order_status"], found["client_id"]) == ("PAID", "cfflow-test-id")
    assert attempt["held"] and attempt["hold_until"] > attempt["payment_time"]
    assert [entry["effect"] for entry in shown["ledger"]] == ["attempt_created", "authorized"]
    assert [each["type"] for each in shown["webhooks"]] == ["PAYMENT_SUCCESS_WEBHOOK"]


async def test_an_order_without_attempts_is_shown_too(shop: Shop) -> None:
    """Two accounts may use the same order id; both orders are shown."""
    order = await shop.order()
    order_id, now = order["order_id"], shop.emulator.clock.now()
    an_order(shop.emulator.bank, HOLDS, now, order_id=order_id)
    shown = await shop.admin("GET", f"/orders/{order_id}")
    accounts = {each["client_id"] for each in shown["orders"]}
    assert accounts == {"cfflow-test-id", HOLDS.client_id}
    assert {len(each["attempts"]) for each in shown["orders"]} == {0}


async def test_an_unknown_order_is_not_found(shop: Shop) -> None:
    """The response is a 404 with the order id in its message."""
    assert "nobody" in (await shop.admin("GET", "/orders/nobody", status=404))["message"]


@pytest.mark.parametrize("act", [name for name in ACTS if name != "release"])
async def test_a_payment_can_be_decided(shop: Shop, act: str) -> None:
    """Each act has the effect that the customer, the bank or the gateway would have."""
    paid = (await shop.pay(await shop.order(), upi("somebody@okbank"))).json()["cf_payment_id"]
    shown = await shop.admin("POST", f"/payments/{paid}/{act}")
    assert shown["payment_status"] == ACTS[act]


async def test_a_hold_can_be_released(shop: Shop) -> None:
    """The bank may release a hold before its end."""
    order = await shop.held()
    [attempt] = shop.emulator.bank.attempts_of(order["order_id"])
    shown = await shop.admin("POST", f"/payments/{attempt.cf_payment_id}/release")
    assert (shown["payment_status"], await shop.ledger(order)) == (
        "VOID",
        ["attempt_created", "authorized", "released"],
    )


async def test_a_decline_has_the_given_error_code(shop: Shop) -> None:
    """It takes the codes that `simulate` takes."""
    paid = (await shop.pay(await shop.order(), upi("somebody@okbank"))).json()["cf_payment_id"]
    body = {"error_code": "INSUFFICIENT_FUNDS"}
    shown = await shop.admin("POST", f"/payments/{paid}/decline", body)
    assert shown["error_details"]["error_code"] == "INSUFFICIENT_FUNDS"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/payments/1/approve", {}, 404),
        ("/payments/1/explode", {}, 404),
        ("/payments/1/decline", {"error": "x"}, 400),
    ],
)
async def test_an_invalid_act_is_refused(shop: Shop, path: str, body: object, status: int) -> None:
    """The response has the reason."""
    assert (await shop.admin("POST", path, body, status))["message"]


async def test_a_decided_payment_stays_decided(shop: Shop) -> None:
    """A second act gets a 400, as from the gateway's own calls."""
    order = await sell(shop)
    [attempt] = shop.emulator.bank.attempts_of(order["order_id"])
    await shop.admin("POST", f"/payments/{attempt.cf_payment_id}/drop", status=400)
    assert attempt.status == "SUCCESS"


async def test_a_reset_empties_everything_in_place(shop: Shop) -> None:
    """The Python objects stay the same, return to their first state, and repeat no id."""
    emulator = shop.emulator
    before = (emulator.bank, emulator.bank.ledger, emulator.faults, emulator.webhooks)
    order = await sell(shop)
    emulator.webhooks.configure(url="http://127.0.0.1:1/x", copies=2)
    emulator.limits.set({"pay": 1})
    await shop.admin("POST", "/faults", {"call": "any", "kind": "html"})
    await shop.admin("POST", "/reset")
    after = (emulator.bank, emulator.bank.ledger, emulator.faults, emulator.webhooks)
    assert all(old is new for old, new in zip(before, after, strict=True))
    assert emulator.faults.empty and emulator.limits.empty and not emulator.webhooks.deliveries
    assert emulator.webhooks.settings == WebhookSettings()
    assert (await shop.admin("GET", "/ledger"))["ledger"] == []
    again = await sell(shop, order_id=order["order_id"])
    assert again["cf_order_id"] != order["cf_order_id"]
    assert len(emulator.webhooks) == 1


async def test_a_reset_restores_the_first_settings() -> None:
    """The rate limits and the webhook URL of the start are set again."""
    url = "http://127.0.0.1:1/x"
    async with running_emulator(rate_limits={"pay": 5}, webhook_url=url) as emulator:
        emulator.limits.clear()
        emulator.webhooks.configure(url=None)
        emulator.app.reset()
        assert emulator.limits.per_minute == {"pay": 5}
        assert emulator.webhooks.settings.urls == (url,)


async def test_the_openapi_document_is_served(shop: Shop) -> None:
    """It covers all versions or a given one; an unknown version is refused."""
    document = await shop.admin("GET", "/openapi.json?version=2025-01-01")
    assert "/orders/{order_id}/authorization" in "".join(document["paths"])
    assert (await shop.admin("GET", "/openapi.json"))["openapi"].startswith("3.")
    await shop.admin("GET", "/openapi.json?version=1999-01-01", status=400)
