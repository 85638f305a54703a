"""Orders: their required fields, and how they end.

gateway.md#calls, gateway.md#test-data, gateway.md#terminate
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.emulator.emulator_kit import DAY_S, card, order_body
from tests.emulator.fidelity.desk import INVALID, PHONE, Desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

CUSTOMER = {"customer_id": "asha", "customer_phone": PHONE}


async def test_an_order_has_the_values_of_its_request(desk: Desk) -> None:
    """Its session pays it, and fetch returns the same order."""
    meta = {
        "return_url": "https://shop.example/back?order={order_id}",
        "notify_url": "http://127.0.0.1:9/hook",
        "payment_methods": "cc,dc",
    }
    asked = {
        "order_note": "two books",
        "order_tags": {"basket": "7"},
        "order_meta": meta,
        "customer_details": CUSTOMER | {"customer_name": "Asha", "customer_email": "a@b.in"},
    }
    order = await desk.order(**asked)
    fetched = (await desk.fetch(f"/orders/{order['order_id']}")).json()
    assert order == fetched and order["payment_session_id"].startswith("session_")
    assert {name: order[name] for name in ("order_note", "order_tags", "order_meta")} == {
        name: asked[name] for name in ("order_note", "order_tags", "order_meta")
    }
    assert order["customer_details"]["customer_email"] == "a@b.in"


async def test_an_order_without_an_id_gets_one(desk: Desk) -> None:
    """The id has the required format."""
    order = await desk.order(order_id=None)
    assert (await desk.status(order)) == "ACTIVE"


@pytest.mark.parametrize("order_id", ["abc", "a" * 45, "A-b_9"])
async def test_an_order_id_has_three_to_forty_five_characters(desk: Desk, order_id: str) -> None:
    """They are letters, digits, `_` and `-`."""
    assert (await desk.order(order_id=order_id))["order_id"] == order_id


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"order_id": "ab"}, "order_id_invalid"),
        ({"order_id": "a" * 46}, "order_id_invalid"),
        ({"order_id": "a b c"}, "order_id_invalid"),
        ({"order_id": 12345}, "order_id_invalid"),
        ({"order_amount": None}, "order_amount_invalid"),
        ({"order_amount": 0.5}, "order_amount_invalid"),
        ({"order_amount": -1}, "order_amount_invalid"),
        ({"order_amount": 1.001}, "order_amount_invalid"),
        ({"order_amount": "170"}, "order_amount_invalid"),
        ({"order_currency": None}, "order_currency_missing"),
        ({"order_currency": "rupees"}, "order_currency_invalid"),
        ({"customer_details": None}, "customer_details_invalid"),
        ({"customer_details": {"customer_phone": PHONE}}, "customer_details_invalid"),
        ({"customer_details": CUSTOMER | {"customer_id": "ab"}}, "customer_details_invalid"),
        ({"customer_details": CUSTOMER | {"customer_name": 7}}, "customer_details_invalid"),
        ({"customer_details": CUSTOMER | {"customer_email": "a"}}, "customer_details_invalid"),
        ({"customer_details": {"customer_id": "asha"}}, "phone_invalid"),
        ({"customer_details": CUSTOMER | {"customer_phone": "98989"}}, "phone_invalid"),
        ({"order_expiry_time": "soon"}, "order_expiry_time_invalid"),
        ({"order_expiry_time": "2001-01-01T00:00:00+05:30"}, "order_expiry_time_invalid"),
        ({"order_note": "hm"}, "order_note_invalid"),
        ({"order_tags": {"a": 1}}, "order_tags_invalid"),
        ({"order_tags": {"a": ""}}, "order_tags_invalid"),
        ({"order_tags": {str(n): "x" for n in range(16)}}, "order_tags_invalid"),
        ({"order_meta": []}, "order_meta_invalid"),
        ({"order_meta": {"return_url": "shop.example"}}, "return_url_invalid"),
        ({"order_meta": {"return_url": "ftp://shop.example"}}, "return_url_invalid"),
        ({"order_meta": {"return_url": "http://[shop"}}, "return_url_invalid"),
        ({"order_meta": {"notify_url": "https://"}}, "notify_url_invalid"),
        ({"order_meta": {"notify_url": "https://a.in/" + "a" * 250}}, "notify_url_invalid"),
        ({"order_meta": {"payment_methods": "cc,cowrie"}}, "payment_methods_invalid"),
        ({"order_meta": {"payment_methods": ["cc"]}}, "payment_methods_invalid"),
    ],
)
async def test_an_invalid_order_is_refused(desk: Desk, changes: dict[str, Any], code: str) -> None:
    """The status is 400 with the field's own code, and no order is created."""
    body = order_body(**changes)
    assert refusal(await desk.create(body)) == (400, code, INVALID)


async def test_an_order_id_is_used_once(desk: Desk) -> None:
    """A second use is a 409 `order_already_exists`."""
    order = await desk.order()
    again = await desk.create(order_body(order_id=order["order_id"]))
    assert refusal(again) == (409, "order_already_exists", INVALID)


async def test_an_order_expires_at_its_time(desk: Desk) -> None:
    """The default is thirty days; a time without an offset is Indian time."""
    plain = await desk.order()
    named = await desk.order(order_expiry_time="2099-01-01T00:00:00")
    desk.advance(30 * DAY_S)
    assert [await desk.status(order) for order in (plain, named)] == ["EXPIRED", "ACTIVE"]
    assert named["order_expiry_time"] == "2099-01-01T00:00:00+05:30"


async def test_an_unknown_session_pays_nothing(desk: Desk) -> None:
    """The response is a 404 `orderpay_not_found`."""
    for session in ("session_nobody", "", 7, None):
        response = await desk.pay_in("2025-01-01", {"payment_session_id": session})
        assert refusal(response) == (404, "orderpay_not_found", INVALID)


async def test_a_paid_order_takes_no_payment(desk: Desk) -> None:
    """The response is a 400 `order_inactive`."""
    order, cf_payment_id = await desk.attempt()
    await desk.submit(cf_payment_id)
    assert refusal(await desk.pay(order)) == (400, "order_inactive", INVALID)


async def test_a_terminated_order_takes_no_payment(desk: Desk) -> None:
    """It is TERMINATED at once without an open attempt; repeating it changes nothing."""
    order = await desk.order()
    ended = (await desk.terminate(order)).json()
    again = await desk.terminate(order)
    assert ended == {**order, "order_status": "TERMINATED"}
    assert again.json() == ended
    assert refusal(await desk.pay(order)) == (400, "order_inactive", INVALID)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("SUCCESS", "PAID"), ("FAILED", "TERMINATED"), ("USER_DROPPED", "TERMINATED")],
)
async def test_an_open_attempt_may_end_after_the_termination(
    desk: Desk, outcome: str, status: str
) -> None:
    """Until then it is TERMINATION_REQUESTED; the attempt may pay it, and no new one may start."""
    order, cf_payment_id = await desk.attempt(card("link"))
    asked = (await desk.terminate(order)).json()["order_status"]
    refused = await desk.pay(order)
    await desk.simulate(cf_payment_id, outcome)
    assert asked == "TERMINATION_REQUESTED"
    assert refusal(refused) == (400, "order_inactive", INVALID)
    assert await desk.status(order) == status


async def test_a_terminated_order_can_be_paid_by_late_money(desk: Desk) -> None:
    """Its failed attempt becomes SUCCESS."""
    order, cf_payment_id = await desk.attempt(card("link"))
    await desk.simulate(cf_payment_id, "FAILED")
    await desk.terminate(order)
    await desk.simulate(cf_payment_id, "SUCCESS")
    assert await desk.status(order) == "PAID"


async def test_a_paid_order_is_not_terminated(desk: Desk) -> None:
    """An unknown order and another `order_status` are refused too."""
    order, cf_payment_id = await desk.attempt()
    await desk.submit(cf_payment_id)
    assert refusal(await desk.terminate(order)) == (400, "order_inactive", INVALID)
    unknown = await desk.terminate({"order_id": "nobody"})
    assert refusal(unknown) == (404, "order_not_found", INVALID)
    live = await desk.order()
    for word in ("EXPIRED", "terminated", None, 7):
        refused = await desk.terminate(live, word)
        assert refusal(refused) == (400, "request_invalid", INVALID)
    assert await desk.status(live) == "ACTIVE"


async def test_a_released_hold_leaves_the_order_payable(desk: Desk) -> None:
    """It can be paid again."""
    order = await desk.held()
    await desk.authorize(order, action="VOID")
    assert await desk.status(order) == "ACTIVE"
    assert (await desk.pay(order)).status_code == 200
