"""The emulator over real HTTP: headers, JSON, idempotency keys, its own API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cfflow.emulator import running_emulator
from tests.emulator.emulator_kit import NO_OTP_BIN, VISA, Shop, a_shop, card, order_body, upi

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """The merchant of one emulator for the whole module; every test creates its own order."""
    async with running_emulator() as emulator, a_shop(emulator) as merchant:
        yield merchant


async def test_a_sale_ends_with_a_capture(shop: Shop) -> None:
    """After create, pay, OTP and fetch, the order is paid and the ledger has the capture."""
    order = await shop.order()
    paid = (await shop.pay(order)).json()
    assert paid["action"] == "post" and paid["data"]["redirect_to_bank"].startswith("http://")
    response = (await shop.submit(paid["cf_payment_id"])).json()
    assert response == {
        "cf_payment_id": paid["cf_payment_id"],
        "authenticate_status": "SUCCESS",
        "action": "SUBMIT_OTP",
        "payment_message": "otp accepted",
    }
    path = f"/orders/{order['order_id']}"
    payment = (await shop.fetch(f"{path}/payments/{paid['cf_payment_id']}")).json()
    assert (payment["payment_status"], payment["is_captured"]) == ("SUCCESS", True)
    assert payment["payment_method"]["card"]["card_number"] == "xxxxxx1111"
    assert (await shop.fetch(path)).json()["order_status"] == "PAID"
    assert await shop.ledger(order) == ["attempt_created", "captured"]


async def test_a_wrong_otp_gets_http_200(shop: Shop) -> None:
    """A wrong OTP is no HTTP error: the body has the status FAILED."""
    paid = (await shop.pay(await shop.order())).json()
    response = await shop.submit(paid["cf_payment_id"], "123456")
    assert response.status_code == 200
    assert response.json()["authenticate_status"] == "FAILED"
    assert response.json()["payment_message"] == "otp is invalid"


async def test_an_otp_is_not_resent_too_soon(shop: Shop) -> None:
    """An immediate resend is refused; after a skip of the clock it is permitted."""
    paid = (await shop.pay(await shop.order())).json()
    path, body = f"/orders/pay/authenticate/{paid['cf_payment_id']}", {"action": "RESEND_OTP"}
    soon = await shop.http.post(path, headers=shop.version, json=body)
    assert (soon.status_code, soon.json()["code"]) == (400, "request_invalid")
    clock = f"{shop.emulator.admin_url}/clock"
    await shop.http.post(clock, json={"advance_s": 30})
    later = await shop.http.post(path, headers=shop.version, json=body)
    assert later.json()["authenticate_status"] == "SUCCESS"


async def test_a_card_without_native_otp_gets_a_link(shop: Shop) -> None:
    """The response to `post` is then `link`, with all that a redirect needs."""
    paid = (await shop.pay(await shop.order(), card(card_number=NO_OTP_BIN))).json()
    assert (paid["channel"], paid["action"]) == ("post", "link")
    assert set(paid["data"]) == {"url", "payload", "content_type", "method"}
    assert paid["data"]["url"].startswith(f"{shop.emulator.base_url}/view/gateway/")


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (upi("someone@bank"), set()),
        ({"upi": {"channel": "qrcode"}}, {"qrcode"}),
        ({"upi": {"channel": "link"}}, {"bhim", "default", "gpay", "paytm", "phonepe", "web"}),
        ({"banktransfer": {"channel": "link"}}, {"account_number", "ifsc", "beneficiary_name"}),
    ],
)
async def test_a_custom_action_has_its_payload(
    shop: Shop, method: dict[str, Any], names: set[str]
) -> None:
    """The payload holds deep links, a QR image or an account."""
    paid = (await shop.pay(await shop.order(), method)).json()
    assert paid["action"] == "custom" and set(paid["data"]["payload"]) == names


async def test_a_capture_returns_the_payment_entity(shop: Shop) -> None:
    """`authorization` has action, status, amount, reference and time."""
    order = await shop.held()
    entity = (await shop.authorize(order, action="CAPTURE", amount=100.5)).json()
    authorization = entity["authorization"]
    assert (authorization["action"], authorization["status"]) == ("CAPTURE", "SUCCESS")
    assert authorization["captured_amount"] == 100.5
    assert authorization["action_time"].endswith("+05:30")
    assert await shop.ledger(order) == ["attempt_created", "authorized", "captured"]


async def test_a_mandate_shows_its_times_before_any_action(shop: Shop) -> None:
    """The end of the hold is the end of the mandate, in Indian time."""
    ends = {"end_time": "2099-01-02T03:04:05+05:30"}
    order = await shop.order()
    await shop.pay(order, upi(authorize_only=True, authorization=ends))
    (entity,) = (await shop.fetch(f"/orders/{order['order_id']}/payments")).json()
    assert entity["payment_status"] == "SUCCESS" and entity["is_captured"] is False
    assert entity["authorization"]["end_time"] == ends["end_time"]
    assert entity["authorization"]["action"] is None


async def test_a_failed_sale_has_is_captured_and_error_details(shop: Shop) -> None:
    """`is_captured` alone proves nothing; the details have code, reason and source."""
    order = await shop.order()
    await shop.pay(order, upi("testfailure@gocash"))
    (entity,) = (await shop.fetch(f"/orders/{order['order_id']}/payments")).json()
    assert (entity["payment_status"], entity["is_captured"]) == ("FAILED", True)
    assert entity["error_details"]["error_code"] == "TRANSACTION_DECLINED"


async def test_a_simulated_status_is_forced_and_kept(shop: Shop) -> None:
    """The attempt gets the status, and the simulation can be fetched again."""
    order = await shop.order()
    paid = (await shop.pay(order, card("link"))).json()
    forced = {"payment_status": "FAILED", "payment_error_code": "ISSUER_NOT_AVAILABLE"}
    body = {"entity": "PAYMENTS", "entity_id": paid["cf_payment_id"], "entity_simulation": forced}
    done = (await shop.http.post("/simulate", headers=shop.credentials, json=body)).json()
    assert (await shop.fetch(f"/simulate/{done['simulation_id']}")).json() == done
    assert done["entity_simulation"] == forced
    (entity,) = (await shop.fetch(f"/orders/{order['order_id']}/payments")).json()
    assert entity["error_details"]["error_code"] == "ISSUER_NOT_AVAILABLE"


async def test_ids_are_numbers_in_the_oldest_version_only(shop: Shop) -> None:
    """Later versions have strings."""
    order = await shop.order()
    await shop.pay(order)
    found = {
        version: (await shop.fetch(f"/orders/{order['order_id']}/payments", version)).json()
        for version in ("2022-09-01", "2023-08-01", "2025-01-01", "2026-01-01")
    }
    kinds = [type(payments[0]["cf_payment_id"]) for payments in found.values()]
    assert kinds == [int, str, str, str]


async def test_amounts_keep_their_two_decimals(shop: Shop) -> None:
    """Amounts are exact JSON numbers."""
    order = await shop.order(order_amount=10.1)
    text = (await shop.fetch(f"/orders/{order['order_id']}")).text
    assert '"order_amount":10.10,' in text
    assert json.loads(text, parse_float=Decimal)["order_amount"] == Decimal("10.10")


@pytest.mark.parametrize(
    ("changes", "status", "code", "type_"),
    [
        ({"x-api-version": ""}, 400, "version_missing", "invalid_request_error"),
        ({"x-api-version": "2021-05-21"}, 400, "version_invalid", "invalid_request_error"),
        ({"x-client-id": ""}, 401, "request_failed", "authentication_error"),
        ({"x-client-secret": "wrong"}, 401, "request_failed", "authentication_error"),
    ],
)
async def test_a_call_without_version_or_credentials_is_refused(
    shop: Shop, changes: dict[str, str], status: int, code: str, type_: str
) -> None:
    """The body is the gateway's error body."""
    response = await shop.http.get("/orders/any", headers=shop.credentials | changes)
    body = response.json()
    assert (response.status_code, body["code"], body["type"]) == (status, code, type_)
    assert body["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"a": 1e}', b"\xff", b'{"action": ["CAPTURE"]}'])
async def test_an_invalid_body_gets_a_400(shop: Shop, body: bytes) -> None:
    """It never gets a 500, which would look like an error of the gateway."""
    order = await shop.held()
    path = f"/orders/{order['order_id']}/authorization"
    response = await shop.http.post(path, headers=shop.credentials, content=body)
    assert (response.status_code, response.json()["code"]) == (400, "request_invalid")


async def test_an_unknown_session_and_path_get_a_404(shop: Shop) -> None:
    """Each has the gateway's code."""
    unknown = await shop.pay({"payment_session_id": "session_nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "orderpay_not_found")
    nowhere = await shop.fetch("/settlements")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "request_failed")


async def test_every_response_has_a_request_id(shop: Shop) -> None:
    """It is the caller's id if there is one, on errors too."""
    ours = await shop.http.get("/orders/none", headers={"x-request-id": "mine"})
    given = await shop.http.get("/orders/none")
    assert ours.headers["x-request-id"] == "mine"
    assert given.headers["x-request-id"]


async def test_a_key_replays_its_response_and_does_nothing_twice(shop: Shop) -> None:
    """The same key and body get the same response, and one capture."""
    order = await shop.held()
    first = await shop.authorize(order, key="k1", action="CAPTURE", amount=1)
    again = await shop.authorize(order, key="k1", action="CAPTURE", amount=1)
    assert again.content == first.content
    assert "x-idempotency-replayed" not in first.headers
    assert again.headers["x-idempotency-replayed"] == "true"
    assert (await shop.ledger(order)).count("captured") == 1


async def test_a_key_with_another_body_is_refused(shop: Shop) -> None:
    """The status is 422, also when the first response was an error."""
    order = await shop.held()
    await shop.authorize(order, key="k2", action="CAPTURE", amount=1)
    response = await shop.authorize(order, key="k2", action="CAPTURE", amount=2)
    assert (response.status_code, response.json()["type"]) == (422, "idempotency_error")


async def test_a_key_replays_errors_for_a_day(shop: Shop) -> None:
    """An error is replayed even if the call would now succeed; after 24 hours it is not."""
    order = await shop.order(order_tags={"cfflow_preauth": "true"})
    early = await shop.authorize(order, key="k3", action="VOID")
    await shop.submit((await shop.pay(order)).json()["cf_payment_id"])
    replayed = await shop.authorize(order, key="k3", action="VOID")
    assert (early.status_code, replayed.status_code) == (400, 400)
    shop.emulator.clock.advance(86400)
    assert (await shop.authorize(order, key="k3", action="VOID")).status_code == 200


async def test_a_pay_is_never_replayed(shop: Shop) -> None:
    """Without credentials its key has no scope: two calls make two attempts."""
    order = await shop.order()
    body = {"payment_session_id": order["payment_session_id"], "payment_method": card()}
    headers = shop.version | {"x-idempotency-key": "k4"}
    for _ in range(2):
        await shop.http.post("/orders/sessions", headers=headers, json=body)
    assert await shop.ledger(order) == ["attempt_created", "attempt_created"]


async def test_the_ledger_counts_calls(shop: Shop) -> None:
    """It counts how often each call was received and how often the bank performed it."""
    await shop.order()
    response = (await shop.http.get(f"{shop.emulator.admin_url}/ledger")).json()
    assert response["calls"]["received"]["create_order"] >= 1
    assert response["calls"]["performed"]["create_order"] >= 1


async def test_the_clock_only_goes_forward(shop: Shop) -> None:
    """Its response has the present time."""
    url = f"{shop.emulator.admin_url}/clock"
    assert (await shop.http.post(url, json={"advance_s": -1})).status_code == 400
    before = (await shop.http.get(url)).json()["offset_s"]
    assert (await shop.http.post(url, json={"advance_s": 5})).json()["offset_s"] == before + 5
    with pytest.raises(ValueError, match="forward"):
        shop.emulator.clock.advance(-1)


async def test_no_secret_is_stored_or_returned(shop: Shop) -> None:
    """The bank stores no card number, CVV or session; only the order's response has the session."""
    order = await shop.order()
    await shop.pay(order, card(card_cvv="9182"))
    shown = (await shop.fetch(f"/orders/{order['order_id']}/payments")).text
    shown += (await shop.http.get(f"{shop.emulator.admin_url}/ledger")).text
    kept = repr([vars(attempt_part) for attempt_part in _parts(shop)])
    for secret in (VISA, '"9182"', "'9182'", order["payment_session_id"]):
        assert secret not in shown and secret not in kept


async def test_a_used_order_id_is_a_conflict(shop: Shop) -> None:
    """The status is 409."""
    order = await shop.order()
    body = order_body(order_id=order["order_id"])
    response = await shop.http.post("/orders", headers=shop.credentials, json=body)
    assert (response.status_code, response.json()["code"]) == (409, "order_already_exists")


async def test_a_huge_body_is_refused(shop: Shop) -> None:
    """A body over 1 MiB is not read into memory to its end."""
    response = await shop.http.post("/orders", headers=shop.credentials, content=b" " * (2 << 20))
    assert response.status_code == 413


async def test_the_app_can_be_called_in_process() -> None:
    """Without a socket it is an ordinary ASGI app."""
    from cfflow.emulator import create_app

    transport = httpx.ASGITransport(app=create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as http:
        assert (await http.get("/_emulator/health")).json()["status"] == "ok"
        assert (await http.get("/pg/orders/none")).json()["code"] == "version_missing"


def _parts(shop: Shop) -> list[Any]:
    bank = shop.emulator.bank
    return [bank, bank._movements]
