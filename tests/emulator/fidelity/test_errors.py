"""GATEWAY 9 and 10: the form of every refusal, what it never tells, and what is never kept."""

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

#: Codes of GATEWAY 9 that a bug of the gateway or a fault answers, never a right gateway.
FAULTS_ALONE = {"bank_processing_failure", "internal_error"}
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


async def test_a_refusal_says_what_why_and_where_to_look(desk: Desk) -> None:
    """`message`, `code`, `type`, and `help`."""
    body = (await desk.fetch("/orders/nobody")).json()
    assert set(body) == {"message", "code", "type", "help"}
    assert (body["code"], body["type"]) == ("order_not_found", INVALID)


async def test_the_gateway_says_no_more_to_a_stranger(desk: Desk) -> None:
    """A 401 has no `help`."""
    headers = desk.credentials | {"x-client-secret": "wrong"}
    body = (await desk.http.get("/orders/x", headers=headers)).json()
    assert set(body) == {"message", "code", "type"}


async def test_every_code_that_was_seen_is_documented() -> None:
    """Those of GATEWAY 9, but for those of faults."""
    own = {code for call in CALLS for code in (*call.unknown, *call.conflict)}
    told = REQUEST_CODES | ORDER_CODES | PAY_CODES | own | {"request_failed"}
    assert SEEN - told == set()
    assert not FAULTS_ALONE & told


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "request_invalid"), (b"[]", "request_invalid"), (b"\xff", "request_invalid")],
)
async def test_a_body_that_is_no_json_object_is_refused(desk: Desk, body: bytes, code: str) -> None:
    """By every call that takes one."""
    for call in CALLS:
        if call.request is not None:
            path = re.sub(r"\{\w+\}", "1234", call.path)
            method = call.method.upper()
            answer = await desk.http.request(method, path, headers=desk.credentials, content=body)
            assert refusal(answer) == (400, code, INVALID)


async def test_a_body_over_a_mebibyte_is_refused(desk: Desk) -> None:
    """413."""
    answer = await desk.http.post(
        "/orders", headers=desk.credentials, content=b" " * ((1 << 20) + 1)
    )
    assert refusal(answer) == (413, "request_failed", INVALID)


async def test_a_refusal_never_quotes_what_was_sent(desk: Desk) -> None:
    """No card number, CVV, OTP or session comes back, whichever field is wrong."""
    order = await desk.order()
    secrets = ("4111111111111112", "98123", "777123", order["payment_session_id"])
    answers = [
        await desk.pay(order, card(card_number=secrets[0], card_cvv=secrets[1])),
        await desk.pay(order, card(card_cvv=secrets[1])),
        await desk.pay(order, {"card": secrets[0]}),
        await desk.submit("1", secrets[2]),
        await desk.pay({"payment_session_id": secrets[3] + "x"}),
    ]
    assert {answer.status_code for answer in answers} == {400, 404}
    assert not [secret for secret in secrets for answer in answers if secret in answer.text]


async def test_nothing_forbidden_is_kept(desk: Desk) -> None:
    """After a whole sale no text of the bank holds a card number, a CVV, an OTP or a cryptogram."""
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
    """Every text that can be reached from an object, without what belongs to Python itself."""
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
async def test_the_document_tells_every_call(version: str | None) -> None:
    """Each address and method once, with every answer and its headers, in any version."""
    told = document(version)
    operations = {
        operation["operationId"]: (method, path)
        for path, methods in told["paths"].items()
        for method, operation in methods.items()
    }
    assert operations == {call.name: (call.method, call.path) for call in CALLS}
    assert told["openapi"] == "3.1.0"


async def test_the_document_knows_no_other_version() -> None:
    """A version that there is not is an error of the caller."""
    with pytest.raises(ValueError, match="no API version 2021-05-21"):
        document("2021-05-21")


async def test_the_document_is_served(desk: Desk) -> None:
    """For tools that only have an address."""
    answer = await desk.http.get(f"{desk.emulator.admin_url}/openapi.json")
    assert answer.json() == document()


async def test_an_answer_that_is_not_documented_would_be_seen(desk: Desk) -> None:
    """The judge of these tests refuses a field, a type and a status that nobody told of."""
    good = await desk.create(order_body())
    order = good.json()
    for change in ({"colour": "blue"}, {"order_amount": "170"}, {"cf_order_id": 7}):
        with pytest.raises(ValidationError):
            await check(_answer(good, order | change))
    with pytest.raises(AssertionError, match="answered 418"):
        await check(_answer(good, order, 418))


def _answer(good: httpx.Response, body: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body, headers={"x-request-id": "1"}, request=good.request)


async def test_a_fixed_address_is_no_order() -> None:
    """`/orders/sessions` is pay, and an order named sessions cannot be asked for that way."""
    pay, fetch = call_of("POST", "/orders/sessions"), call_of("GET", "/orders/any")
    assert pay is not None and fetch is not None
    assert (pay.name, fetch.name) == ("pay", "fetch_order")


async def test_a_phone_has_ten_digits(desk: Desk) -> None:
    """In an order and in a wallet alike."""
    assert len(PHONE) == 10
    for phone in ("989898989", "98989898989", "98989x9898", "٩٨٩٨٩٨٩٨٩٨"):
        customer = {"customer_id": "asha", "customer_phone": phone}
        answer = await desk.create(order_body(customer_details=customer))
        assert refusal(answer) == (400, "phone_invalid", INVALID)
