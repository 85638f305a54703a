"""The payment methods, their test data, and the errors of each.

gateway.md#methods, gateway.md#pay-action, gateway.md#test-data
"""

from __future__ import annotations

from typing import Any

import pytest

from cfflow.emulator.cards import TEST_CARDS
from tests.emulator.emulator_kit import card, upi
from tests.emulator.fidelity.desk import INVALID, PHONE, Desk, open_desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


def link(name: str, **fields: Any) -> dict[str, Any]:
    """Return a method that redirects the customer."""
    return {name: {"channel": "link", **fields}}


def emi(**changes: Any) -> dict[str, Any]:
    """Return a card payment in instalments."""
    fields = {**card()["card"], "card_bank_name": "hdfc", "emi_tenure": 3, **changes}
    return {"emi": {name: value for name, value in fields.items() if value is not None}}


TOKEN = card(cryptogram="AAAA", token_requestor_id="R1", card_display="4242", card_cvv=None)
ABROAD = {
    "address_line_one": "1 Main St",
    "address_line_two": "",
    "city": "Leeds",
    "zip_code": "LS1",
    "country": "United Kingdom",
    "country_code": "GB",
    "state": "Yorkshire",
    "state_code": "YK",
}
METHODS = [
    (card("post"), "card", "post", "credit_card"),
    (card("link"), "card", "link", "credit_card"),
    (card("link", **ABROAD), "card", "link", "credit_card"),
    (TOKEN, "card", "post", "credit_card"),
    (link("card", instrument_id="54deabb4-ba45", card_cvv="123"), "card", "link", "credit_card"),
    (emi(), "card", "post", "credit_card_emi"),
    (emi(channel="link"), "card", "link", "credit_card_emi"),
    (upi("anyone@bank"), "upi", "custom", "upi"),
    ({"upi": {"channel": "link"}}, "upi", "custom", "upi"),
    ({"upi": {"channel": "qrcode", "upi_id": "anyone@bank"}}, "upi", "custom", "upi"),
    (link("netbanking", netbanking_bank_code=3333), "netbanking", "link", "net_banking"),
    (link("netbanking", netbanking_bank_code=3010), "netbanking", "link", "net_banking"),
    (link("netbanking", netbanking_bank_name="TESTR"), "netbanking", "link", "net_banking"),
    (link("app", provider="phonepe", phone=PHONE), "app", "link", "wallet"),
    (
        link("cardless_emi", provider="kotak", phone=PHONE, emi_tenure=6),
        "cardless_emi",
        "link",
        "cardless_emi",
    ),
    (link("paylater", provider="lazypay", phone=PHONE), "paylater", "link", "pay_later"),
    (link("banktransfer"), "banktransfer", "custom", "bank_transfer"),
]


@pytest.mark.parametrize(("method", "name", "action", "group"), METHODS)
async def test_each_method_starts_a_payment(
    desk: Desk, method: dict[str, Any], name: str, action: str, group: str
) -> None:
    """The response has method, channel and action; the payment is PENDING in its group."""
    order = await desk.order()
    response = (await desk.pay(order, method)).json()
    asked = next(iter(method.values()))["channel"]
    payment = await desk.payment(order)
    assert (response["payment_method"], response["channel"], response["action"]) == (
        name,
        asked,
        action,
    )
    assert (payment["payment_status"], payment["payment_group"]) == ("PENDING", group)
    assert payment["cf_payment_id"] == response["cf_payment_id"]


@pytest.mark.parametrize("number", TEST_CARDS)
@pytest.mark.parametrize("channel", ["link", "post"])
async def test_each_test_card_pays(desk: Desk, number: str, channel: str) -> None:
    """Any expiry and CVV work; the payment shows the last four digits, network and type."""
    method = card(channel, card_number=number, card_expiry_yy="41", card_cvv="9871")
    order, cf_payment_id = await desk.attempt(method)
    await desk.simulate(cf_payment_id, "SUCCESS")
    shown = (await desk.payment(order))["payment_method"]["card"]
    assert shown["card_number"] == f"xxxxxx{number[-4:]}"
    assert (shown["card_network"], shown["card_type"]) == TEST_CARDS[number]


async def test_a_form_has_all_that_a_page_must_submit() -> None:
    """It is posted from `data.payload` to `data.url` with its method and content type."""
    async with open_desk(form_methods=frozenset({"netbanking"})) as desk:
        order = await desk.order()
        response = (await desk.pay(order, link("netbanking", netbanking_bank_code=3333))).json()
    data = response["data"]
    assert (response["action"], data["method"]) == ("form", "post")
    assert data["content_type"] == "application/x-www-form-urlencoded"
    assert data["payload"]["PaReq"] and data["url"].startswith("http://")


REFUSED: list[tuple[Any, str]] = [
    (None, "payment_method_invalid"),
    ({}, "payment_method_invalid"),
    ({"card": "4111"}, "payment_method_invalid"),
    (card() | upi(), "payment_method_invalid"),
    (card(city=7), "payment_method_invalid"),
    ({"cash": {}}, "payment_method_unsupported"),
    (card(channel=""), "channel_missing"),
    (card(channel="teleport"), "channel_invalid"),
    (card(card_number="4111111111111112"), "card_number_invalid"),
    (card(card_number="36006666333344"), "card_unsupported"),
    (card(card_number=None), "card_number_invalid"),
    (card(card_expiry_mm="13"), "card_expiry_mm_invalid"),
    (card(card_expiry_yy="2030"), "card_expiry_yy_invalid"),
    (card(card_cvv=None), "card_cvv_missing"),
    (card(card_cvv="12"), "card_cvv_invalid"),
    (card(cryptogram="AAAA", card_display="4242"), "token_requestor_id_missing"),
    (card(cryptogram="AAAA", token_requestor_id="R1"), "card_display_invalid"),
    (card(cryptogram=7), "cryptogram_invalid"),
    (link("card", instrument_id=7), "instrument_id_invalid"),
    (emi(emi_tenure=None), "emi_tenure_missing"),
    (emi(emi_tenure=0), "emi_tenure_invalid"),
    (emi(card_bank_name=None), "card_bank_name_missing"),
    (emi(card_bank_name="First of Nowhere"), "card_bank_name_invalid"),
    (emi(card_cvv=None), "card_cvv_missing"),
    (emi(channel=None), "channel_missing"),
    ({"upi": {"channel": "collect"}}, "upi_id_missing"),
    (upi("nobody"), "upi_id_invalid"),
    (upi("testinvalid@gocash"), "upi_id_invalid"),
    (upi(upi_expiry_minutes=4), "upi_expiry_minutes_invalid"),
    (upi(upi_expiry_minutes=16), "upi_expiry_minutes_invalid"),
    (upi(authorize_only="yes"), "request_invalid"),
    ({"upi": {"channel": "qrcode", "authorize_only": "yes"}}, "request_invalid"),
    (
        {"upi": {"channel": "link", "authorize_only": True, "authorization": {"end_time": "soon"}}},
        "authorization_invalid",
    ),
    (upi(authorize_only=True, authorization={"end_time": "soon"}), "authorization_invalid"),
    (
        upi(authorize_only=True, authorization={"end_time": "2020-01-01T00:00:00"}),
        "authorization_invalid",
    ),
    (
        upi(authorize_only=True, authorization={"approve_by": "2020-01-01T00:00:00"}),
        "authorization_invalid",
    ),
    ({"upi": {}}, "channel_missing"),
    (link("netbanking"), "netbanking_bank_code_invalid"),
    (link("netbanking", netbanking_bank_code="3333"), "netbanking_bank_code_invalid"),
    (link("netbanking", netbanking_bank_code=33), "netbanking_bank_code_invalid"),
    (link("netbanking", netbanking_bank_name="testr"), "netbanking_bank_code_invalid"),
    ({"netbanking": {"netbanking_bank_code": 3333}}, "channel_missing"),
    (link("app", provider="cowrie", phone=PHONE), "payment_method_unsupported"),
    (link("app", provider="gpay", phone="12"), "phone_invalid"),
    (link("app", provider="gpay"), "phone_invalid"),
    ({"app": {"provider": "gpay", "phone": PHONE}}, "channel_missing"),
    (link("cardless_emi", provider="cowrie", phone=PHONE), "payment_method_unsupported"),
    (link("cardless_emi", provider="kotak", phone=9898989898), "phone_invalid"),
    (
        link("cardless_emi", provider="kotak", phone=PHONE, emi_tenure="3"),
        "emi_tenure_invalid",
    ),
    (link("paylater", phone=PHONE), "payment_method_unsupported"),
    (link("paylater", provider="simpl", phone="989898989x"), "phone_invalid"),
    ({"banktransfer": {}}, "channel_missing"),
]


@pytest.mark.parametrize(("method", "code"), REFUSED)
async def test_an_invalid_method_is_refused(desk: Desk, method: Any, code: str) -> None:
    """The status is 400 with its own code; there is no attempt and no quote of the request."""
    order = await desk.order()
    session = order["payment_session_id"]
    body = {"payment_session_id": session, "payment_method": method}
    response = await desk.http.post("/orders/sessions", headers=desk.version, json=body)
    assert refusal(response) == (400, code, INVALID)
    assert await desk.payments(order) == []
    assert not {"4111", "3600", "12345", session} & set(response.text.split('"'))


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("save_instrument", "yes", "request_invalid"),
        ("offer_id", 7, "offer_id_invalid"),
        ("offer_id", "", "offer_id_invalid"),
    ],
)
async def test_a_request_level_field_is_checked(
    desk: Desk, field: str, value: object, code: str
) -> None:
    """It is checked before an attempt is created."""
    order = await desk.order()
    response = await desk.pay_in("2025-01-01", order, None, **{field: value})
    assert refusal(response) == (400, code, INVALID)
    assert await desk.payments(order) == []


async def test_a_method_that_the_account_lacks_is_refused() -> None:
    """The type is `feature_not_enabled`: the method is valid but not enabled."""
    async with open_desk(methods_not_enabled=frozenset({"paylater"})) as desk:
        order = await desk.order()
        response = await desk.pay(order, link("paylater", provider="simpl", phone=PHONE))
    assert refusal(response) == (400, "payment_method_unsupported", "feature_not_enabled")


async def test_a_saved_card_pays_again(desk: Desk) -> None:
    """The payment shows the card's id after it succeeded, and the id pays again."""
    first = await desk.order()
    number = "6074825972083818"
    paid = await desk.pay_in("2025-01-01", first, card(card_number=number), save_instrument=True)
    await desk.submit(paid.json()["cf_payment_id"])
    saved = (await desk.payment(first))["payment_method"]["card"]
    again = await desk.order()
    method = {"card": {"channel": "post", "instrument_id": saved["instrument_id"]}}
    assert (await desk.pay(again, method)).json()["action"] == "post"
    assert (await desk.payment(again))["payment_method"]["card"] == saved


async def test_a_card_is_not_saved_by_a_payment_that_failed(desk: Desk) -> None:
    """Before the payment succeeds, no id is shown."""
    order = await desk.order()
    paid = await desk.pay_in("2025-01-01", order, save_instrument=True)
    await desk.simulate(paid.json()["cf_payment_id"], "FAILED")
    assert "instrument_id" not in (await desk.payment(order))["payment_method"]["card"]


async def test_a_card_saved_by_another_customer_is_not_found(desk: Desk) -> None:
    """Its id stands for the first test card, like any unknown id."""
    first = await desk.order()
    method = card(card_number="6074825972083818")
    paid = await desk.pay_in("2025-01-01", first, method, save_instrument=True)
    await desk.submit(paid.json()["cf_payment_id"])
    saved = (await desk.payment(first))["payment_method"]["card"]["instrument_id"]
    somebody = {"customer_id": "somebody", "customer_phone": PHONE}
    other = await desk.order(customer_details=somebody)
    await desk.pay(other, link("card", instrument_id=saved))
    shown = (await desk.payment(other))["payment_method"]["card"]
    assert shown["card_number"] == "xxxxxx1111"


@pytest.mark.parametrize(
    ("offer_id", "amount"), [("TEN_OFF", 160), ("ALL_OFF", 1), ("NOBODY_KNOWS_IT", 170)]
)
async def test_an_offer_makes_the_payment_cheaper(offer_id: str, amount: int) -> None:
    """`payment_amount` then differs from `order_amount`; an unknown offer changes nothing."""
    async with open_desk(offers={"TEN_OFF": 10, "ALL_OFF": 1000}) as desk:
        order = await desk.order()
        response = await desk.pay_in("2025-01-01", order, offer_id=offer_id)
        payment = await desk.payment(order)
    assert (response.json()["payment_amount"], payment["order_amount"]) == (amount, 170)


@pytest.mark.parametrize(
    ("allowed", "method", "status"),
    [
        ("cc,upi", card(), 200),
        ("cc,upi", upi("anyone@bank"), 200),
        ("dc", card(), 400),
        ("nb , app", upi(), 400),
        ("", card(), 200),
    ],
)
async def test_an_order_can_exclude_methods(
    desk: Desk, allowed: str, method: dict[str, Any], status: int
) -> None:
    """`order_meta.payment_methods` lists the permitted ones; empty means all."""
    order = await desk.order(order_meta={"payment_methods": allowed})
    assert (await desk.pay(order, method)).status_code == status


async def test_the_payload_has_what_the_customer_needs(desk: Desk) -> None:
    """It is the account, the deep links or the QR image."""
    payloads = []
    for method in (
        link("banktransfer"),
        {"upi": {"channel": "link"}},
        {"upi": {"channel": "qrcode"}},
    ):
        order = await desk.order()
        payloads.append((await desk.pay(order, method)).json()["data"]["payload"])
    assert "ifsc" in payloads[0] and "gpay" in payloads[1]
    assert payloads[2]["qrcode"].startswith("data:image/png;base64,")
