"""Payment methods: what each one sends, and what each one shows of itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr

import cfflow
from cfflow import (
    UPI,
    BankTransfer,
    Card,
    CardEMI,
    CardlessEMI,
    InvalidInput,
    NetBanking,
    PayLater,
    PaymentMethod,
    SavedCard,
    Sealed,
    UPIAuthorization,
    Wallet,
)
from cfflow.cashfree import facts
from cfflow.cashfree.methods import with_channel
from cfflow.core.flow import ChannelRules
from cfflow.core.steps import Instrument
from cfflow.store.catalog import Catalog
from tests.ports.gateway_kit import NUMBER

PLAIN: dict[str, Any] = {
    "card_number": NUMBER,
    "card_holder_name": "Test",
    "card_expiry_mm": "12",
    "card_expiry_yy": "25",
    "card_cvv": "123",
}
MANDATE = {
    "approve_by": "2026-02-09T18:04:34+05:30",
    "start_time": "2026-02-09T18:04:34+05:30",
    "end_time": "2026-02-19T18:04:34+05:30",
}
ADDRESS = {
    "address_line_one": "1 High Street",
    "address_line_two": "Flat 2",
    "city": "London",
    "zip_code": "SW1A 1AA",
    "country": "United Kingdom",
    "country_code": "GB",
    "state": "England",
    "state_code": "ENG",
}
TOKEN = {
    "cryptogram": "AABBBCCCDDDEEEFFF000111222=",
    "token_requestor_id": "40010030273",
    "card_display": "1111",
}

#: Every method of the gateway's page, and the `payment_method` that it documents for it.
METHODS: dict[str, tuple[PaymentMethod, dict[str, Any]]] = {
    "card by link": (Card(channel="link", **PLAIN), {"card": {"channel": "link", **PLAIN}}),
    "card by post": (Card(channel="post", **PLAIN), {"card": {"channel": "post", **PLAIN}}),
    "saved card": (
        SavedCard(channel="link", card_cvv="123", instrument_id="54deabb4-ba45"),
        {"card": {"channel": "link", "card_cvv": "123", "instrument_id": "54deabb4-ba45"}},
    ),
    "network token": (
        Card(channel="post", card_number=NUMBER, **TOKEN),
        {"card": {"channel": "post", "card_number": NUMBER, **TOKEN}},
    ),
    "international card": (
        Card(channel="link", **PLAIN, **ADDRESS),
        {"card": {"channel": "link", **PLAIN, **ADDRESS}},
    ),
    "card emi": (
        CardEMI(channel="post", emi_tenure=3, card_bank_name="hdfc", **PLAIN),
        {"emi": {"channel": "post", "emi_tenure": 3, "card_bank_name": "hdfc", **PLAIN}},
    ),
    "net banking by code": (
        NetBanking(netbanking_bank_code=3010),
        {"netbanking": {"channel": "link", "netbanking_bank_code": 3010}},
    ),
    "net banking by name": (
        NetBanking(netbanking_bank_name="TESTR"),
        {"netbanking": {"channel": "link", "netbanking_bank_name": "TESTR"}},
    ),
    "upi collect": (
        UPI(channel="collect", upi_id="testsuccess@gocash"),
        {"upi": {"channel": "collect", "upi_id": "testsuccess@gocash"}},
    ),
    "upi link": (UPI(channel="link"), {"upi": {"channel": "link"}}),
    "upi qrcode": (
        UPI(channel="qrcode", upi_id="testsuccess@gocash"),
        {"upi": {"channel": "qrcode", "upi_id": "testsuccess@gocash"}},
    ),
    "upi mandate": (
        UPI(
            channel="collect",
            upi_id="a@b",
            upi_expiry_minutes=10,
            authorize_only=True,
            authorization=UPIAuthorization(**MANDATE),
        ),
        {
            "upi": {
                "channel": "collect",
                "upi_id": "a@b",
                "upi_expiry_minutes": 10,
                "authorize_only": True,
                "authorization": MANDATE,
            }
        },
    ),
    "upi mandate by link": (
        UPI(channel="link", authorize_only=True),
        {"upi": {"channel": "link", "authorize_only": True}},
    ),
    "upi mandate by qr code": (
        UPI(channel="qrcode", authorize_only=True, authorization=UPIAuthorization(**MANDATE)),
        {"upi": {"channel": "qrcode", "authorize_only": True, "authorization": MANDATE}},
    ),
    "wallet": (
        Wallet(provider="phonepe", phone="9898989898"),
        {"app": {"channel": "link", "provider": "phonepe", "phone": "9898989898"}},
    ),
    "cardless emi": (
        CardlessEMI(provider="zestmoney", phone="9898989898", emi_tenure=6),
        {
            "cardless_emi": {
                "channel": "link",
                "provider": "zestmoney",
                "phone": "9898989898",
                "emi_tenure": 6,
            }
        },
    ),
    "pay later": (
        PayLater(provider="lazypay", phone="9898989898"),
        {"paylater": {"channel": "link", "provider": "lazypay", "phone": "9898989898"}},
    ),
    "bank transfer": (BankTransfer(), {"banktransfer": {"channel": "link"}}),
}

HIDDEN = (NUMBER, "123", "AABBBCCC", "Test", "9898989898", "gocash", "54deabb4", "High Street")


def test_every_public_method_is_in_the_table() -> None:
    """A method that is added without its request is noticed here."""
    public = {kind for name in cfflow.__all__ if _is_method(kind := getattr(cfflow, name))}
    assert {type(method) for method, _ in METHODS.values()} == public - {PaymentMethod}


def test_the_facts_the_flows_and_the_classes_have_the_same_methods() -> None:
    """A method that is added in one place only is noticed here."""
    assert set(facts.CHANNELS) == set(facts.METHODS) == set(ChannelRules.__struct_fields__)
    assert {method.gateway_name for method, _ in METHODS.values()} == set(facts.METHODS)
    assert set(facts.OTHER_METHOD_NAMES.values()) | facts.METHODS_WITH_HOLDS <= set(facts.METHODS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("show", [repr, str, pretty_repr], ids=["repr", "str", "rich"])
def test_a_method_shows_nothing_that_identifies_or_pays(name: str, show: Any) -> None:
    """Neither repr nor rich, which asks msgspec, show a number, CVV, name, phone or UPI id."""
    shown = show(METHODS[name][0])
    assert "channel=" in shown
    assert [hidden for hidden in HIDDEN if hidden in shown] == []


def test_a_card_shows_its_last_four_digits() -> None:
    """People may see which card it was."""
    assert repr(Card(channel="post", **PLAIN)) == "Card(channel='post', card_number='xxxxxx1111')"
    assert Card(card_number=NUMBER, card_display="9876").last_four() == "9876"
    assert Card(card_number="411").last_four() is None
    assert UPI(channel="link").last_four() is None


@pytest.mark.parametrize("field", ["card_number", "card_cvv", "cryptogram", "card_expiry_mm"])
def test_a_card_field_that_is_no_text_is_refused_without_being_repeated(field: str) -> None:
    """A number where text belongs is our error at once, not a TypeError that quotes it later."""
    with pytest.raises(InvalidInput, match=f"{field} must be a string") as caught:
        Card(**{field: 4111111111111111})  # type: ignore[arg-type]  # what a caller did
    assert "4111" not in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_down_of_a_method_is_its_kind_and_four_digits(name: str) -> None:
    """The part that is stored with an operation has no secret in it."""
    method, body = METHODS[name]
    instrument = method.instrument()
    assert (instrument.method, instrument.channel) == (next(iter(body)), body_of(body)["channel"])
    assert instrument.last_four in (None, "1111")


LEFT_OUT: dict[str, tuple[PaymentMethod, str]] = {
    "card": (Card(**PLAIN), "post"),
    "saved card": (SavedCard(instrument_id="54deabb4-ba45"), "post"),
    "card emi": (CardEMI(emi_tenure=3, card_bank_name="hdfc", **PLAIN), "link"),
    "net banking": (NetBanking(netbanking_bank_code=3010), "link"),
    "wallet": (Wallet(provider="phonepe", phone="9898989898"), "link"),
    "cardless emi": (CardlessEMI(provider="zestmoney", phone="9898989898"), "link"),
    "pay later": (PayLater(provider="lazypay", phone="9898989898"), "link"),
    "bank transfer": (BankTransfer(), "link"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_channel_that_is_left_out_is_the_usual_one_without_a_flow(name: str) -> None:
    """The gateway needs a channel: its own client sends what it sent before."""
    method, channel = LEFT_OUT[name]
    assert body_of(method.body())["channel"] == channel
    assert method.instrument().channel == channel


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_channel_that_is_left_out_comes_from_the_flow(name: str) -> None:
    """What the caller named stays, permitted or not: that is for the step to decide."""
    method, _ = LEFT_OUT[name]
    redirect = Catalog().named("redirect")
    chosen = with_channel(method, redirect)
    assert (body_of(chosen.body())["channel"], chosen.instrument().channel) == ("link", "link")
    assert chosen.last_four() == method.last_four()
    named = msgspec.structs.replace(method, channel="post")
    assert with_channel(named, redirect) is named
    assert with_channel(UPI(channel="qrcode"), redirect) == UPI(channel="qrcode")


def test_a_method_of_another_kind_has_no_channel_of_a_flow() -> None:
    """A class of the merchant's own passes through as it is."""

    class Crypto(PaymentMethod, frozen=True, kw_only=True):
        gateway_name = "crypto"

        channel: str | None = None

    method = Crypto()
    assert with_channel(method, Catalog().named("redirect")) is method
    assert method.body() == {"crypto": {}}
    assert method.instrument() == Instrument("crypto")


def body_of(method: dict[str, Any]) -> dict[str, Any]:
    """The fields of a method, without its name."""
    (fields,) = method.values()
    return dict(fields)


def _is_method(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, PaymentMethod)


@pytest.mark.parametrize("left_out", [None, Sealed(None)])
def test_a_secret_that_is_left_out_is_not_sent(left_out: Any) -> None:
    """A form's field that was not filled in, sealed by the merchant's own code or not."""
    sent = Card(**(PLAIN | {"card_cvv": left_out}), channel="post").body()["card"]
    assert sent == {name: value for name, value in PLAIN.items() if name != "card_cvv"} | {
        "channel": "post"
    }
