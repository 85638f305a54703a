"""The format of errors, what they never quote, and what is never stored.

gateway.md#errors, gateway.md#secrets
"""

from __future__ import annotations

import gc
import re

import httpx
import pytest

from cfflow.emulator.openapi import CALLS, REQUEST_CODES, document
from cfflow.emulator.request_fields import ORDER_CODES, PAY_CODES
from cfflow.emulator.versions import VERSIONS
from tests.emulator.emulator_kit import NO_OTP_BIN, card, order_body
from tests.emulator.fidelity.contract import ValidationError, call_of, check
from tests.emulator.fidelity.desk import INVALID, PHONE, Desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Codes of gateway.md#errors that only faults give.
FAULT_CODES = {"bank_processing_failure", "internal_error"}
SEEN = {
    "request_failed",
    "request_invalid",
    "version_missing",
    "version_invalid",
    "channel_missing",
    "phone_invalid",
    "card_number_invalid",
    "card_cvv_missing",
    "card_unsupported",
    "payment_method_invalid",
    "payment_method_unsupported",
    "netbanking_bank_code_invalid",
    "emi_tenure_missing",
    "card_bank_name_missing",
    "order_amount_invalid",
    "order_inactive",
    "orderpay_not_found",
    "order_already_exists",
}


async def test_an_error_has_all_its_fields(desk: Desk) -> None:
    """The fields are `message`, `code`, `type` and `help`."""
    body = (await desk.fetch("/orders/nobody")).json()
    assert set(body) == {"message", "code", "type", "help"}
    assert (body["code"], body["type"]) == ("order_not_found", INVALID)


async def test_a_401_has_no_help(desk: Desk) -> None:
    """The form of the request is not its cause."""
    headers = desk.credentials | {"x-client-secret": "wrong"}
    body = (await desk.http.get("/orders/x", headers=headers)).json()
    assert set(body) == {"message", "code", "type"}


async def test_every_code_of_the_gateway_is_documented() -> None:
    """The exceptions are the codes that only faults give."""
    own = {code for call in CALLS for code in (*call.unknown, *call.conflict)}
    shown = REQUEST_CODES | ORDER_CODES | PAY_CODES | own | {"request_failed"}
    assert SEEN - shown == set()
    assert not FAULT_CODES & shown


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "request_invalid"), (b"[]", "request_invalid"), (b"\xff", "request_invalid")],
)
async def test_a_body_that_is_no_json_object_is_refused(desk: Desk, body: bytes, code: str) -> None:
    """Every call with a body refuses it."""
    for call in CALLS:
        if call.request is not None:
            path = re.sub(r"\{\w+\}", "1234", call.path)
            method = call.method.upper()
            response = await desk.http.request(method, path, headers=desk.credentials, content=body)
            assert refusal(response) == (400, code, INVALID)


async def test_a_body_over_a_mebibyte_is_refused(desk: Desk) -> None:
    """The status is 413."""
    response = await desk.http.post(
        "/orders", headers=desk.credentials, content=b" " * ((1 << 20) + 1)
    )
    assert refusal(response) == (413, "request_failed", INVALID)


async def test_an_error_never_quotes_the_request(desk: Desk) -> None:
    """It has no card number, CVV, OTP or session, whichever field is wrong."""
    order = await desk.order()
    secrets = ("4111111111111112", "98123", "777123", order["payment_session_id"])
    responses = [
        await desk.pay(order, card(card_number=secrets[0], card_cvv=secrets[1])),
        await desk.pay(order, card(card_cvv=secrets[1])),
        await desk.pay(order, {"card": secrets[0]}),
        await desk.submit("1", secrets[2]),
        await desk.pay({"payment_session_id": secrets[3] + "x"}),
    ]
    assert {response.status_code for response in responses} == {400, 404}
    assert not [secret for secret in secrets for response in responses if secret in response.text]


async def test_no_forbidden_data_is_stored(desk: Desk) -> None:
    """After a sale no text of the bank has a card number, a CVV, an OTP or a cryptogram."""
    secrets = (NO_OTP_BIN, "7391", "SECRETCRYPTOGRAM", "739173")
    order = await desk.order()
    token = {"cryptogram": secrets[2], "token_requestor_id": "R1", "card_display": "4242"}
    await desk.pay_in(
        "2025-01-01", order, card(card_number=NO_OTP_BIN, card_cvv=secrets[1], **token)
    )
    paid = await desk.pay(order, card(card_cvv=secrets[1]))
    await desk.submit(paid.json()["cf_payment_id"], secrets[3])
    kept = " ".join(_texts(desk.emulator.bank))
    assert order["order_id"] in kept and "xxxxxx4242" in kept
    assert not [secret for secret in secrets if secret in kept]


def _texts(root: object) -> set[str]:
    """Return every text that can be reached from an object, except Python's own."""
    found: set[str] = set()
    seen, waiting = set[int](), [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type(gc) | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, str):
            found.add(thing)
        elif not callable(thing) or hasattr(thing, "func"):
            waiting.extend(gc.get_referents(thing))
    return found


@pytest.mark.parametrize("version", [None, *sorted(VERSIONS)])
async def test_the_document_has_every_call(version: str | None) -> None:
    """It has each path and method once, with every response and its headers."""
    shown = document(version)
    operations = {
        operation["operationId"]: (method, path)
        for path, methods in shown["paths"].items()
        for method, operation in methods.items()
    }
    assert operations == {call.name: (call.method, call.path) for call in CALLS}
    assert shown["openapi"] == "3.1.0"


async def test_the_document_has_no_other_version() -> None:
    """An unknown version raises `ValueError`."""
    with pytest.raises(ValueError, match="no API version 2021-05-21"):
        document("2021-05-21")


async def test_the_document_is_served(desk: Desk) -> None:
    """Tools can read it over HTTP."""
    response = await desk.http.get(f"{desk.emulator.admin_url}/openapi.json")
    assert response.json() == document()


async def test_the_check_finds_an_undocumented_response(desk: Desk) -> None:
    """It refuses an undocumented field, type and status."""
    good = await desk.create(order_body())
    order = good.json()
    for change in ({"colour": "blue"}, {"order_amount": "170"}, {"cf_order_id": 7}):
        with pytest.raises(ValidationError):
            await check(_altered(good, order | change))
    with pytest.raises(AssertionError, match="responded with 418"):
        await check(_altered(good, order, 418))


def _altered(good: httpx.Response, body: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body, headers={"x-request-id": "1"}, request=good.request)


async def test_a_fixed_path_is_no_order() -> None:
    """`/orders/sessions` is pay, so an order with the id `sessions` has no such path."""
    pay, fetch = call_of("POST", "/orders/sessions"), call_of("GET", "/orders/any")
    assert pay is not None and fetch is not None
    assert (pay.name, fetch.name) == ("pay", "fetch_order")


async def test_a_phone_has_ten_digits(desk: Desk) -> None:
    """Orders and wallets check the same format."""
    assert len(PHONE) == 10
    for phone in ("989898989", "98989898989", "98989x9898", "٩٨٩٨٩٨٩٨٩٨"):
        customer = {"customer_id": "asha", "customer_phone": phone}
        response = await desk.create(order_body(customer_details=customer))
        assert refusal(response) == (400, "phone_invalid", INVALID)
