"""Payment methods: which are valid, what each gives, and what is kept of it."""

from __future__ import annotations

from typing import Any

import pytest

from cfflow.emulator import BankOptions, Refused
from cfflow.emulator.cards import TEST_CARDS, Terms, luhn
from cfflow.emulator.methods import read_method
from cfflow.emulator.records import Method
from tests.emulator.emulator_kit import T0, card, upi

PHONE = "9898989898"


def read(method: object, **options: Any) -> Method:
    """Return the method as the bank reads it."""
    return read_method(method, Terms(BankOptions(**options), T0))


def link(name: str, **fields: Any) -> dict[str, Any]:
    """Return a method that redirects the customer."""
    return {name: {"channel": "link", **fields}}


@pytest.mark.parametrize("number", TEST_CARDS)
def test_every_test_card_is_accepted_and_masked(number: str) -> None:
    """Only the last four digits of a card are kept."""
    method = read(card(card_number=number, card_cvv="9876"))
    assert method.shown["card"]["card_number"] == f"xxxxxx{number[-4:]}"
    assert luhn(number) and number not in repr(method) and "9876" not in repr(method)


@pytest.mark.parametrize(
    ("method", "action", "group"),
    [
        (card("post"), "post", "credit_card"),
        (card("link"), "link", "credit_card"),
        (card(card_number="6074825972083818"), "post", "debit_card"),
        (
            {"emi": card()["card"] | {"emi_tenure": 3, "card_bank_name": "hdfc"}},
            "post",
            "credit_card_emi",
        ),
        (upi(), "custom", "upi"),
        ({"upi": {"channel": "link"}}, "custom", "upi"),
        ({"upi": {"channel": "qrcode"}}, "custom", "upi"),
        (link("netbanking", netbanking_bank_code=3333), "link", "net_banking"),
        (link("netbanking", netbanking_bank_name="TESTR"), "link", "net_banking"),
        (link("app", provider="phonepe", phone=PHONE), "link", "wallet"),
        (link("cardless_emi", provider="kotak", phone=PHONE, emi_tenure=3), "link", "cardless_emi"),
        (link("paylater", provider="lazypay", phone=PHONE), "link", "pay_later"),
        (link("banktransfer"), "custom", "bank_transfer"),
    ],
)
def test_each_method_has_its_action_and_group(
    method: dict[str, Any], action: str, group: str
) -> None:
    """The action is the customer's next step, the group is the gateway's kind of payment."""
    found = read(method)
    assert (found.action, found.group) == (action, group)


def test_a_saved_card_and_a_network_token_are_cards() -> None:
    """Neither shows a card number that was not sent."""
    saved = read(link("card", instrument_id="54deabb4", card_cvv="123"))
    token = read(card(cryptogram="AAAA", token_requestor_id="TRID", card_display="4242"))
    assert saved.shown["card"]["instrument_id"] == "54deabb4"
    assert token.shown["card"]["card_number"] == "xxxxxx4242"
    assert "AAAA" not in str(token)


def test_a_method_can_get_a_form() -> None:
    """The option `form_methods` gives `form` instead of `link`."""
    method = link("netbanking", netbanking_bank_code=3333)
    assert read(method, form_methods=frozenset({"netbanking"})).action == "form"


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (None, "payment_method_invalid"),
        ({}, "payment_method_invalid"),
        (card() | upi(), "payment_method_invalid"),
        ({"cash": {}}, "payment_method_unsupported"),
        (card(channel=""), "channel_missing"),
        (card(channel="teleport"), "channel_invalid"),
        (card(card_number="4111111111111112"), "card_number_invalid"),
        (card(card_number=4111111111111111), "card_number_invalid"),
        (card(card_expiry_mm="13"), "card_expiry_mm_invalid"),
        (card(card_cvv=None), "card_cvv_missing"),
        (card(card_cvv="12"), "card_cvv_invalid"),
        ({"emi": card()["card"] | {"card_bank_name": "hdfc"}}, "emi_tenure_missing"),
        ({"emi": card()["card"] | {"emi_tenure": 3}}, "card_bank_name_missing"),
        (upi(""), "upi_id_missing"),
        (upi("nobody"), "upi_id_invalid"),
        (upi(upi_expiry_minutes=4), "upi_expiry_minutes_invalid"),
        (upi(upi_expiry_minutes=[5]), "upi_expiry_minutes_invalid"),
        ({"upi": {"channel": "link", "authorize_only": "yes"}}, "request_invalid"),
        (upi(authorize_only=True, authorization={"end_time": "soon"}), "authorization_invalid"),
        (link("netbanking", netbanking_bank_code=12), "netbanking_bank_code_invalid"),
        (link("netbanking"), "netbanking_bank_code_invalid"),
        (link("app", provider="cowrie", phone=PHONE), "payment_method_unsupported"),
        (link("app", provider=["gpay"], phone=PHONE), "payment_method_unsupported"),
        (link("app", provider="gpay", phone="12"), "phone_invalid"),
    ],
)
def test_an_invalid_method_is_refused(method: object, code: str) -> None:
    """The error has the gateway's code and quotes nothing of the request."""
    with pytest.raises(Refused) as refusal:
        read(method)
    assert (refusal.value.status, refusal.value.code) == (400, code)
    assert "4111" not in str(refusal.value)
