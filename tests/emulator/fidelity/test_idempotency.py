"""Idempotency keys on the calls that have credentials, for one day.

gateway.md#idempotency
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from cfflow.emulator import PREAUTH_CLIENT_ID, PREAUTH_CLIENT_SECRET
from tests.emulator.emulator_kit import DAY_S, card, order_body
from tests.emulator.fidelity.desk import INVALID, Desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

Request = tuple[str, Mapping[str, Any], Mapping[str, Any]]
KEYED = ["create_order", "authorize", "simulate"]


async def a_request(desk: Desk, call: str) -> Request:
    """Return the path of this call, its body, and another body for the same path."""
    if call == "create_order":
        body = order_body()
        return "/orders", body, body | {"order_amount": 1}
    if call == "authorize":
        order = await desk.held()
        body = {"action": "CAPTURE", "amount": 170}
        return f"/orders/{order['order_id']}/authorization", body, {"action": "VOID"}
    _, cf_payment_id = await desk.attempt(card("link"))
    body = {
        "entity": "PAYMENTS",
        "entity_id": cf_payment_id,
        "entity_simulation": {"payment_status": "SUCCESS"},
    }
    return "/simulate", body, body | {"entity_simulation": {"payment_status": "FAILED"}}


async def post(
    desk: Desk, path: str, body: Mapping[str, Any], key: str, **headers: str
) -> httpx.Response:
    """Send a POST with this key."""
    given = desk.credentials | {"x-idempotency-key": key} | headers
    return await desk.http.post(path, headers=given, json=body)


@pytest.mark.parametrize("call", KEYED)
async def test_a_key_replays_its_response(desk: Desk, call: str) -> None:
    """The same key and body get the stored status and body, and nothing is done twice."""
    path, body, _ = await a_request(desk, call)
    first = await post(desk, path, body, f"again-{call}")
    desk.advance(DAY_S - 60)
    again = await post(desk, path, body, f"again-{call}")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert first.headers.get("x-idempotency-replayed") is None
    assert again.headers["x-idempotency-replayed"] == "true"


@pytest.mark.parametrize("call", KEYED)
async def test_a_key_belongs_to_one_body(desk: Desk, call: str) -> None:
    """Another body gets a 422 `idempotency_error`; the stored response stays."""
    path, body, other = await a_request(desk, call)
    first = await post(desk, path, body, f"other-{call}")
    refused = await post(desk, path, other, f"other-{call}")
    assert refusal(refused) == (422, "request_invalid", "idempotency_error")
    assert (await post(desk, path, body, f"other-{call}")).content == first.content


async def test_an_error_is_replayed_too(desk: Desk) -> None:
    """A stored error blocks its key for a day, even if the call would now succeed."""
    order, cf_payment_id = await desk.attempt(order_tags={"cfflow_preauth": "true"})
    path, body = f"/orders/{order['order_id']}/authorization", {"action": "VOID"}
    early = await post(desk, path, body, "early")
    await desk.submit(cf_payment_id)
    replayed = await post(desk, path, body, "early")
    assert refusal(early) == refusal(replayed) == (400, "request_invalid", INVALID)
    assert replayed.headers["x-idempotency-replayed"] == "true"
    assert (await post(desk, path, body, "another")).status_code == 200


async def test_a_key_is_new_after_a_day(desk: Desk) -> None:
    """The same request is then done again."""
    body = order_body()
    first = await post(desk, "/orders", body, "daily")
    desk.advance(DAY_S)
    later = await post(desk, "/orders", body, "daily")
    assert first.status_code == 200
    assert refusal(later) == (409, "order_already_exists", INVALID)


async def test_a_key_counts_within_its_endpoint(desk: Desk) -> None:
    """The captures of two orders may use the same key."""
    for order in (await desk.held(), await desk.held()):
        path = f"/orders/{order['order_id']}/authorization"
        response = await post(desk, path, {"action": "VOID"}, "shared")
        assert response.json()["order_id"] == order["order_id"]


async def test_a_key_counts_within_its_credentials(desk: Desk) -> None:
    """Two accounts may use the same key."""
    body = order_body()
    mine = await post(desk, "/orders", body, "ours")
    other = {"x-client-id": PREAUTH_CLIENT_ID, "x-client-secret": PREAUTH_CLIENT_SECRET}
    theirs = await post(desk, "/orders", body, "ours", **other)
    assert mine.json()["cf_order_id"] != theirs.json()["cf_order_id"]


@pytest.mark.parametrize("call", ["pay", "authenticate"])
async def test_a_call_without_credentials_is_never_replayed(desk: Desk, call: str) -> None:
    """Its key has no scope, so each call is done."""
    order, cf_payment_id = await desk.attempt()
    path = "/orders/sessions"
    body: dict[str, Any] = {"payment_method": card()}
    if call == "authenticate":
        path = f"/orders/pay/authenticate/{cf_payment_id}"
        body = {"action": "SUBMIT_OTP", "otp": "000000"}
    body |= {"payment_session_id": order["payment_session_id"]}
    headers = desk.version | {"x-idempotency-key": f"nobodys-{call}"}
    responses = [await desk.http.post(path, headers=headers, json=body) for _ in range(2)]
    if call == "pay":
        assert responses[0].json()["cf_payment_id"] != responses[1].json()["cf_payment_id"]
    else:
        await desk.submit(cf_payment_id, "000000")
        assert (await desk.payments(order))[0]["payment_status"] == "FAILED"


async def test_a_pay_with_credentials_is_replayed(desk: Desk) -> None:
    """Credentials give its key a scope: one attempt, and a 422 for another body."""
    order = await desk.order()
    session = order["payment_session_id"]
    body = {"payment_session_id": session, "payment_method": card()}
    first, again = [await post(desk, "/orders/sessions", body, "named") for _ in range(2)]
    other = await post(desk, "/orders/sessions", body | {"offer_id": "x"}, "named")
    assert first.content == again.content and len(await desk.payments(order)) == 1
    assert refusal(other) == (422, "request_invalid", "idempotency_error")
