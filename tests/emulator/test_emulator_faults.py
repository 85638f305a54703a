"""Faults: what each does to a call, and whether its effect happened."""

from __future__ import annotations

import time

import httpx
import pytest

from cfflow.emulator import ConnectionDropped, Fault, Faults, create_app
from tests.emulator.emulator_kit import Shop

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def shop(one_shop: Shop) -> Shop:
    """The merchant, with no fault waiting."""
    one_shop.emulator.faults.clear()
    return one_shop


@pytest.mark.parametrize(("kind", "captured"), [("lost_before", 0), ("lost_after", 1)])
async def test_a_lost_answer_drops_the_connection(shop: Shop, kind: str, captured: int) -> None:
    """The caller sees no byte of an answer, and cannot tell whether the capture happened."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind)
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        await shop.authorize(order, action="CAPTURE", amount=1)
    assert (await shop.ledger(order)).count("captured") == captured


@pytest.mark.parametrize(("kind", "captured"), [("status_before", 0), ("status_after", 1)])
async def test_an_error_status_hides_what_happened(shop: Shop, kind: str, captured: int) -> None:
    """The same 503, with the capture done or not."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind, status=503)
    answer = await shop.authorize(order, action="CAPTURE", amount=1)
    assert (answer.status_code, answer.json()["type"]) == (503, "api_error")
    assert (await shop.ledger(order)).count("captured") == captured


async def test_a_stored_error_blocks_its_key(shop: Shop) -> None:
    """The key replays the 500 and nothing is done; another key gets through."""
    order = await shop.held()
    await _add(shop, call="authorize", kind="status_stored")
    answers = [
        await shop.authorize(order, key=key, action="CAPTURE", amount=1)
        for key in ("blocked", "blocked", "fresh")
    ]
    assert [answer.status_code for answer in answers] == [500, 500, 200]
    assert (await shop.ledger(order)).count("captured") == 1


async def test_an_error_after_the_effect_leaves_the_true_answer_under_the_key(shop: Shop) -> None:
    """Asked again with the same key, the gateway tells what it did."""
    order = await shop.held()
    await _add(shop, call="authorize", kind="status_after")
    answers = [
        await shop.authorize(order, key="told", action="CAPTURE", amount=1) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [500, 200]
    assert (await shop.ledger(order)).count("captured") == 1


@pytest.mark.parametrize("kind", ["html", "garbage"])
async def test_an_answer_can_be_unreadable(shop: Shop, kind: str) -> None:
    """A 200 that is no JSON, after the effect."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind)
    answer = await shop.authorize(order, action="VOID")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Invalid|Unterminated"):
        answer.json()
    assert "voided" in await shop.ledger(order)


@pytest.mark.parametrize("kind", ["delay_before", "delay_after"])
async def test_a_delayed_call_takes_its_effect_although_the_caller_hung_up(
    shop: Shop, kind: str
) -> None:
    """A caller who timed out has not undone anything."""
    order = await shop.held()
    await _add(shop, call="authorize", kind=kind, delay_s=0.3)
    body, path = {"action": "VOID"}, f"/orders/{order['order_id']}/authorization"
    with pytest.raises(httpx.ReadTimeout):
        await shop.http.post(path, headers=shop.credentials, json=body, timeout=0.1)
    early = "voided" in await shop.ledger(order)
    assert early is (kind == "delay_after")
    deadline = time.monotonic() + 5
    while "voided" not in await shop.ledger(order):
        assert time.monotonic() < deadline, "the delayed void never happened"


async def test_a_fault_strikes_as_often_as_told_and_only_its_order(shop: Shop) -> None:
    """The other order's calls pass, and the rule is gone when it is used up."""
    mine, other = await shop.held(), await shop.held()
    order_id = mine["order_id"]
    await _add(shop, call="fetch_payments", kind="status_before", count=2, order_id=order_id)
    seen = [
        (await shop.fetch(f"/orders/{order['order_id']}/payments")).status_code
        for order in (other, mine, mine, mine)
    ]
    assert seen == [200, 500, 500, 200]


@pytest.mark.parametrize("call", ["create_order", "pay", "authenticate", "simulate"])
async def test_a_fault_finds_the_order_of_every_call(shop: Shop, call: str) -> None:
    """Also where the address does not name it."""
    order = await shop.order(order_id=f"order_of_{call}")
    paid = (await shop.pay(order)).json()["cf_payment_id"]
    await _add(shop, call=call, kind="status_before", status=502, order_id=order["order_id"])
    forced = {"payment_status": "PENDING"}
    simulate = {"entity": "PAYMENTS", "entity_id": paid, "entity_simulation": forced}
    answers = {
        "create_order": lambda: shop.http.post("/orders", headers=shop.credentials, json=order),
        "pay": lambda: shop.pay(order),
        "authenticate": lambda: shop.submit(paid),
        "simulate": lambda: shop.http.post("/simulate", headers=shop.credentials, json=simulate),
    }
    assert (await answers[call]()).status_code == 502


async def test_faults_can_be_listed_and_forgotten(shop: Shop) -> None:
    """Over HTTP, as a program in another process does it."""
    url = f"{shop.emulator.admin_url}/faults"
    await _add(shop, call="any", kind="html", count=3)
    listed = (await shop.http.get(url)).json()["faults"]
    assert listed == [{"call": "any", "kind": "html", "count": 3}]
    assert (await shop.http.delete(url)).json()["faults"] == []


@pytest.mark.parametrize(
    "body", [{"call": "pay"}, {"call": "pay", "kind": "magic"}, {"call": "x", "kind": "html"}]
)
async def test_a_rule_that_makes_no_sense_is_refused(shop: Shop, body: dict[str, str]) -> None:
    """With the field that is wrong."""
    answer = await shop.http.post(f"{shop.emulator.admin_url}/faults", json=body)
    assert answer.status_code == 400 and answer.json()["message"]


async def test_in_process_a_lost_answer_is_an_exception() -> None:
    """There is no connection to drop, so the caller gets the next closest thing."""
    faults = Faults()
    faults.add(Fault(call="fetch_order", kind="lost_before"))
    transport = httpx.ASGITransport(app=create_app(faults=faults))
    headers = {
        "x-api-version": "2025-01-01",
        "x-client-id": "cfflow-test-id",
        "x-client-secret": "cfflow-test-secret",
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
        with pytest.raises(ConnectionDropped):
            await http.get("/pg/orders/any", headers=headers)


async def _add(shop: Shop, **fault: object) -> None:
    answer = await shop.http.post(f"{shop.emulator.admin_url}/faults", json=fault)
    assert answer.status_code == 200, answer.text
