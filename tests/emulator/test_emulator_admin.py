"""The emulator's own calls over HTTP: clock, ledger, orders, the customer's acts, reset."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from cfflow.emulator import running_emulator
from cfflow.emulator.admin_orders import ACTS
from cfflow.emulator.webhook_outbox import WebhookSettings
from tests.emulator.emulator_kit import HOLDS, Shop, an_order, upi
from tests.emulator.receiver import sell

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def shop(one_shop: Shop) -> Shop:
    """The merchant of an emulator where nothing has happened."""
    one_shop.emulator.app.reset()
    return one_shop


async def ask(shop: Shop, method: str, path: str, body: object = None, status: int = 200) -> Any:
    """What the emulator answers below /_emulator."""
    url = f"{shop.emulator.admin_url}{path}"
    answer = await shop.http.request(method, url, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_the_clock_goes_on_to_a_moment(shop: Shop) -> None:
    """By seconds since the epoch, by ISO 8601, and Indian without an offset."""
    now = (await ask(shop, "GET", "/clock"))["epoch_s"]
    told = await ask(shop, "POST", "/clock", {"at": now + 100})
    assert abs(told["epoch_s"] - now - 100) < 1
    ahead = datetime.fromisoformat(told["now"]).replace(tzinfo=None, microsecond=0)
    later = ahead.replace(year=ahead.year + 1, day=1)
    told = await ask(shop, "POST", "/clock", {"at": later.isoformat()})
    assert told["now"].startswith(later.isoformat()[:16])


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
    """What would, or makes no sense, is refused and skips nothing."""
    before = shop.emulator.clock.offset_s
    assert (await ask(shop, "POST", "/clock", body, 400))["message"]
    assert shop.emulator.clock.offset_s == before


async def test_the_ledger_answers_questions(shop: Shop) -> None:
    """By order, by payment, by effect, by time, and by several of them."""
    first = await sell(shop)
    await shop.emulator.advance(3600)
    since = shop.emulator.clock.now()
    second = await sell(shop)
    whole = (await ask(shop, "GET", "/ledger"))["ledger"]
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
        assert (await ask(shop, "GET", f"/ledger?{query}"))["ledger"] == entries, query


async def test_a_time_that_is_none_is_refused(shop: Shop) -> None:
    """Rather than an empty ledger."""
    assert (await ask(shop, "GET", "/ledger?since=soon", status=400))["message"]


async def test_an_order_shows_all_that_is_known_of_it(shop: Shop) -> None:
    """Attempts with their holds, effects, webhooks: what an auditor needs."""
    order = await shop.held()
    told = await ask(shop, "GET", f"/orders/{order['order_id']}")
    [found] = told["orders"]
    [attempt] = found["attempts"]
    assert (found["order_status"], found["client_id"]) == ("PAID", "cfflow-test-id")
    assert attempt["held"] and attempt["hold_until"] > attempt["payment_time"]
    assert [entry["effect"] for entry in told["ledger"]] == ["attempt_created", "authorized"]
    assert [each["type"] for each in told["webhooks"]] == ["PAYMENT_SUCCESS_WEBHOOK"]


async def test_an_order_without_attempts_is_known_too(shop: Shop) -> None:
    """Two accounts may have one id each: both are shown."""
    order = await shop.order()
    order_id, now = order["order_id"], shop.emulator.clock.now()
    an_order(shop.emulator.bank, HOLDS, now, order_id=order_id)
    told = await ask(shop, "GET", f"/orders/{order_id}")
    accounts = {each["client_id"] for each in told["orders"]}
    assert accounts == {"cfflow-test-id", HOLDS.client_id}
    assert {len(each["attempts"]) for each in told["orders"]} == {0}


async def test_an_unknown_order_is_not_found(shop: Shop) -> None:
    """404, and its id in the message."""
    assert "nobody" in (await ask(shop, "GET", "/orders/nobody", status=404))["message"]


@pytest.mark.parametrize("act", [name for name in ACTS if name != "release"])
async def test_somebody_decides_a_payment(shop: Shop, act: str) -> None:
    """The customer, the bank or the gateway, as they would have by themselves."""
    paid = (await shop.pay(await shop.order(), upi("somebody@okbank"))).json()["cf_payment_id"]
    told = await ask(shop, "POST", f"/payments/{paid}/{act}")
    assert told["payment_status"] == ACTS[act]


async def test_a_hold_can_be_released(shop: Shop) -> None:
    """As when the bank gives it back before its time."""
    order = await shop.held()
    [attempt] = shop.emulator.bank.attempts_of(order["order_id"])
    told = await ask(shop, "POST", f"/payments/{attempt.cf_payment_id}/release")
    assert (told["payment_status"], await shop.ledger(order)) == (
        "VOID",
        ["attempt_created", "authorized", "released"],
    )


async def test_a_decline_has_the_reason_that_is_given(shop: Shop) -> None:
    """As `simulate` takes it."""
    paid = (await shop.pay(await shop.order(), upi("somebody@okbank"))).json()["cf_payment_id"]
    body = {"error_code": "INSUFFICIENT_FUNDS"}
    told = await ask(shop, "POST", f"/payments/{paid}/decline", body)
    assert told["error_details"]["error_code"] == "INSUFFICIENT_FUNDS"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/payments/1/approve", {}, 404),
        ("/payments/1/explode", {}, 404),
        ("/payments/1/decline", {"error": "x"}, 400),
    ],
)
async def test_an_act_that_makes_no_sense_is_refused(
    shop: Shop, path: str, body: object, status: int
) -> None:
    """With a reason."""
    assert (await ask(shop, "POST", path, body, status))["message"]


async def test_a_decided_payment_stays_decided(shop: Shop) -> None:
    """400, as the gateway's own calls would answer."""
    order = await sell(shop)
    [attempt] = shop.emulator.bank.attempts_of(order["order_id"])
    await ask(shop, "POST", f"/payments/{attempt.cf_payment_id}/drop", status=400)
    assert attempt.status == "SUCCESS"


async def test_a_reset_empties_everything_in_place(shop: Shop) -> None:
    """The same objects, as they were when it started; no id comes twice."""
    emulator = shop.emulator
    before = (emulator.bank, emulator.bank.ledger, emulator.faults, emulator.webhooks)
    order = await sell(shop)
    emulator.webhooks.configure(url="http://127.0.0.1:1/x", copies=2)
    emulator.limits.set({"pay": 1})
    await ask(shop, "POST", "/faults", {"call": "any", "kind": "html"})
    await ask(shop, "POST", "/reset")
    after = (emulator.bank, emulator.bank.ledger, emulator.faults, emulator.webhooks)
    assert all(old is new for old, new in zip(before, after, strict=True))
    assert emulator.faults.empty and emulator.limits.empty and not emulator.webhooks.deliveries
    assert emulator.webhooks.settings == WebhookSettings()
    assert (await ask(shop, "GET", "/ledger"))["ledger"] == []
    again = await sell(shop, order_id=order["order_id"])
    assert again["cf_order_id"] != order["cf_order_id"]
    assert len(emulator.webhooks) == 1


async def test_a_reset_keeps_what_it_was_started_with() -> None:
    """Limits and a webhook URL that came with the start are there again."""
    url = "http://127.0.0.1:1/x"
    async with running_emulator(rate_limits={"pay": 5}, webhook_url=url) as emulator:
        emulator.limits.clear()
        emulator.webhooks.configure(url=None)
        emulator.app.reset()
        assert emulator.limits.per_minute == {"pay": 5}
        assert emulator.webhooks.settings.urls == (url,)


async def test_the_gateway_s_calls_are_an_openapi_document(shop: Shop) -> None:
    """Of every version, or of one; of an unknown one not."""
    document = await ask(shop, "GET", "/openapi.json?version=2025-01-01")
    assert "/orders/{order_id}/authorization" in "".join(document["paths"])
    assert (await ask(shop, "GET", "/openapi.json"))["openapi"].startswith("3.")
    await ask(shop, "GET", "/openapi.json?version=1999-01-01", status=400)
