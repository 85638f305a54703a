"""Versions, credentials, request ids, and the format of ids and amounts.

gateway.md#hosts
"""

from __future__ import annotations

import json
from decimal import Decimal

import httpx
import pytest

from cfflow.emulator import running_emulator
from cfflow.emulator.openapi import CALLS, Call
from cfflow.emulator.versions import VERSIONS
from tests.emulator.emulator_kit import card, order_body
from tests.emulator.fidelity.desk import INVALID, Desk, a_desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

OLDEST = "2022-09-01"
BY_NAME = [pytest.param(call, id=call.name) for call in CALLS]
WITH_CREDENTIALS = [pytest.param(call, id=call.name) for call in CALLS if call.credentials]


async def send(desk: Desk, call: Call, **headers: str) -> httpx.Response:
    """Make this call with ids that do not exist."""
    path = call.path
    for name in ("order_id", "cf_payment_id", "simulation_id"):
        path = path.replace(f"{{{name}}}", "1234")
    body = None if call.request is None else {"action": "SUBMIT_OTP", "otp": "111000"}
    return await desk.http.request(call.method.upper(), path, headers=headers, json=body)


@pytest.mark.parametrize("call", BY_NAME)
async def test_every_call_needs_a_version(desk: Desk, call: Call) -> None:
    """No version is `version_missing`, an unknown one `version_invalid`."""
    missing = await send(desk, call)
    strange = await send(desk, call, **{"x-api-version": "2021-05-21"})
    assert refusal(missing) == (400, "version_missing", INVALID)
    assert refusal(strange) == (400, "version_invalid", INVALID)


@pytest.mark.parametrize("call", WITH_CREDENTIALS)
@pytest.mark.parametrize("secret", ["", "wrong"])
async def test_every_other_call_needs_credentials(desk: Desk, call: Call, secret: str) -> None:
    """Without the right ones the response is a 401 `authentication_error`."""
    wrong = desk.credentials | {"x-client-secret": secret}
    response = await send(desk, call, **wrong)
    assert refusal(response) == (401, "request_failed", "authentication_error")


async def test_paying_and_typing_an_otp_need_no_credentials(desk: Desk) -> None:
    """The session and the payment id are the secrets of these calls."""
    order = await desk.order()
    paid = await desk.pay_in(OLDEST, order)
    typed = await desk.submit(paid.json()["cf_payment_id"])
    assert (paid.status_code, typed.status_code) == (200, 200)
    assert "x-client-id" not in paid.request.headers and "x-client-id" not in typed.request.headers


@pytest.mark.parametrize("version", sorted(VERSIONS))
async def test_a_whole_sale_runs_in_every_version(desk: Desk, version: str) -> None:
    """Every response fits the document of its version."""
    order = (await desk.create(order_body(), **{"x-api-version": version})).json()
    paid = (await desk.pay_in(version, order)).json()
    await desk.submit(paid["cf_payment_id"])
    (payment,) = await desk.payments(order, version)
    assert payment["payment_status"] == "SUCCESS"


async def test_ids_are_numbers_in_the_oldest_version_only(desk: Desk) -> None:
    """Every response with an id has a string in later versions."""
    order = await desk.held()
    headers = desk.credentials | {"x-api-version": OLDEST}
    path = f"/orders/{order['order_id']}/authorization"
    captured = (await desk.http.post(path, headers=headers, json={"action": "VOID"})).json()
    again = (await desk.pay_in(OLDEST, order)).json()
    wrong = await desk.http.post(
        f"/orders/pay/authenticate/{again['cf_payment_id']}",
        headers={"x-api-version": OLDEST},
        json={"action": "SUBMIT_OTP", "otp": "1"},
    )
    newest = (await desk.payments(order, "2026-01-01"))[0]
    ids = [found["cf_payment_id"] for found in (captured, again, wrong.json(), newest)]
    assert [type(found) for found in ids] == [int, int, int, str]


async def test_amounts_are_numbers_with_two_decimals(desk: Desk) -> None:
    """They are exact, without the rounding of a float."""
    order = await desk.order(order_amount=170.1)
    text = (await desk.pay(order)).text
    assert '"payment_amount":170.10' in text
    assert json.loads(text, parse_float=Decimal)["payment_amount"] == Decimal("170.10")


@pytest.mark.parametrize("call", BY_NAME)
async def test_every_response_has_a_request_id(desk: Desk, call: Call) -> None:
    """It is the caller's id, or one of the gateway's; errors have it too."""
    ours = await send(desk, call, **{"x-request-id": "mine-1"})
    own = await send(desk, call)
    assert ours.headers["x-request-id"] == "mine-1"
    assert own.headers["x-request-id"] not in ("", "mine-1")


async def test_two_calls_never_share_a_request_id(desk: Desk) -> None:
    """Without an id of the caller, each response gets its own."""
    responses = [await desk.fetch("/orders/none") for _ in range(3)]
    assert len({response.headers["x-request-id"] for response in responses}) == 3


async def test_a_limited_call_has_rate_limit_headers() -> None:
    """There are four headers; a refused call gets a 429 with the time to wait."""
    async with running_emulator(rate_limits={"pay": 1}) as emulator, a_desk(emulator) as desk:
        order = await desk.order()
        admitted, refused = await desk.pay(order), await desk.pay(order)
    kinds = ("limit", "remaining", "retry", "type")
    assert [admitted.headers[f"x-ratelimit-{kind}"] for kind in kinds] == ["1", "0", "60", "ip"]
    assert refusal(refused) == (429, "request_failed", "rate_limit_error")
    assert refused.headers["x-ratelimit-retry"] == "60"


async def test_optional_objects_are_null(desk: Desk) -> None:
    """`error_details` and `authorization` are present and null."""
    order, _ = await desk.attempt(card("link"))
    payment = await desk.payment(order)
    assert payment["error_details"] is None and payment["authorization"] is None


async def test_an_unknown_field_is_ignored(desk: Desk) -> None:
    """The gateway ignores unknown fields of a request."""
    order = await desk.order(order_colour="blue")
    response = await desk.pay(order, card(card_colour="blue"))
    assert "order_colour" not in order and "card_colour" not in response.text
