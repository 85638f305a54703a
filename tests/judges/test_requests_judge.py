"""The judge of requests can say no: each broken request is caught for what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.judges.request_schemas import Raw, call_of, verdict

SECRETS = ("the-id", "the-secret")
BASE = (("Host", "127.0.0.1"), ("x-api-version", "2025-01-01"), ("x-request-id", "0" * 32))
KEY = ("x-idempotency-key", "1977495f-3c33-5211-bb32-f2a9efa9288d")
CREDENTIALS = (("x-client-id", "the-id"), ("x-client-secret", "the-secret"))
CARD = {
    "channel": "post",
    "card_number": "4111111111111111",
    "card_expiry_mm": "12",
    "card_expiry_yy": "31",
    "card_cvv": "123",
}
CUSTOMER = {"customer_id": "c_7", "customer_phone": "9908734801"}


def request(
    verb: str, path: str, body: Any = None, *headers: tuple[str, str], text: str | None = None
) -> Raw:
    """Return a request with the headers that its body needs."""
    content = (json.dumps(body) if text is None else text).encode() if verb == "POST" else b""
    framing = (
        (("content-type", "application/json"), ("content-length", str(len(content))))
        if content
        else ()
    )
    return Raw(verb, f"/pg{path}", (*BASE, *framing, *headers), content)


def a_pay(text: str | None = None, path: str = "/orders/sessions", **method: Any) -> Raw:
    """Return a pay with this method, a card unless told otherwise."""
    body = {"payment_session_id": "session_1", "payment_method": method or {"card": CARD}}
    return request("POST", path, body, KEY, text=text)


def a_capture(amount: str) -> Raw:
    """Return a capture whose amount is written like this."""
    text = f'{{"action":"CAPTURE","amount":{amount}}}'
    return request("POST", "/orders/order_1/authorization", None, *CREDENTIALS, KEY, text=text)


def an_order(**fields: Any) -> Raw:
    """Return a create order with these fields changed."""
    body = {"order_amount": 170, "order_currency": "INR", "customer_details": CUSTOMER} | fields
    return request("POST", "/orders", body, *CREDENTIALS)


def otp(**body: Any) -> Raw:
    """Return an authenticate."""
    return request("POST", "/orders/pay/authenticate/7", body, KEY)


def without(raw: Raw, name: str) -> Raw:
    """Return a request without a header."""
    return raw._replace(headers=tuple(h for h in raw.headers if h[0] != name))


def with_header(raw: Raw, name: str, value: str) -> Raw:
    """Return a request with a header more."""
    return raw._replace(headers=(*raw.headers, (name, value)))


def changed(raw: Raw, name: str, value: str) -> Raw:
    """Return a request with another value of a header."""
    return with_header(without(raw, name), name, value)


FETCH = request("GET", "/orders/order_1/payments/7", None, *CREDENTIALS)
SIMULATION = {"entity": "PAYMENTS", "entity_id": "7", "entity_simulation": {}}

GOOD: dict[str, Raw] = {
    "pay": a_pay(),
    "pay with a saved card": a_pay(card={"channel": "link", "instrument_id": "i-1"}),
    "mandate": a_pay(upi={"channel": "collect", "upi_id": "a@b", "authorize_only": True}),
    "mandate by link": a_pay(upi={"channel": "link", "authorize_only": True}),
    "mandate by QR code": a_pay(upi={"channel": "qrcode", "authorize_only": True}),
    "capture": a_capture("99.50"),
    "order": an_order(),
    "submit": otp(action="SUBMIT_OTP", otp="111000"),
    "resend": otp(action="RESEND_OTP"),
    "fetch": FETCH,
}

#: What somebody could get wrong, and a word of what the judge must say to it.
BROKEN: dict[str, tuple[Raw, str]] = {
    "an address that nobody serves": (a_pay(path="/orders/session"), "no call"),
    "a secret in the address": (FETCH._replace(target=f"{FETCH.target}?otp=111000"), "no call"),
    "an address without the prefix": (FETCH._replace(target="/orders/order_1"), "no call"),
    "another method": (FETCH._replace(verb="PUT"), "no call"),
    "no version": (without(a_pay(), "x-api-version"), "x-api-version is missing"),
    "an unknown version": (changed(a_pay(), "x-api-version", "2021-05-21"), "no version"),
    "no request id": (without(FETCH, "x-request-id"), "x-request-id is missing"),
    "a request id out of form": (changed(FETCH, "x-request-id", "1"), "x-request-id is out"),
    "credentials on a pay": (with_header(a_pay(), *CREDENTIALS[1]), "does not belong"),
    "the secret in a pay's key": (
        changed(a_pay(), "x-idempotency-key", "the-secret-1"),
        "credentials are in a call",
    ),
    "credentials on a resend": (
        with_header(otp(action="RESEND_OTP"), *CREDENTIALS[0]),
        "does not belong",
    ),
    "no secret on a fetch": (without(FETCH, "x-client-secret"), "x-client-secret is missing"),
    "no id on an order": (without(an_order(), "x-client-id"), "x-client-id is missing"),
    "a key on a fetch": (with_header(FETCH, *KEY), "x-idempotency-key does not"),
    "no key on a capture": (without(a_capture("1.00"), KEY[0]), "x-idempotency-key is missing"),
    "no key on a pay": (without(a_pay(), KEY[0]), "x-idempotency-key is missing"),
    "a key out of form": (changed(a_pay(), KEY[0], "a b"), "x-idempotency-key is out"),
    "a key that is no UUID": (changed(a_pay(), KEY[0], "pay-1-0a1b"), "x-idempotency-key is out"),
    "a header twice": (with_header(a_pay(), *KEY), "comes 2 times"),
    "a cookie": (with_header(FETCH, "Cookie", "a=b"), "cookie does not belong"),
    "a form": (changed(a_pay(), "content-type", "application/x-www-form-urlencoded"), "not JSON"),
    "no content type": (without(a_pay(), "content-type"), "content-type is missing"),
    "a length that lies": (changed(a_pay(), "content-length", "3"), "not the body's"),
    "a body on a fetch": (FETCH._replace(body=b"{}"), "a body does not belong"),
    "no JSON": (a_pay(text="payment_session_id=1"), "not JSON"),
    "two methods": (a_pay(card=CARD, upi={"channel": "link"}), "too many properties"),
    "no method": (a_pay(text='{"payment_session_id":"session_1"}'), "'payment_method' is a"),
    "a method that nobody knows": (a_pay(crypto={"channel": "link"}), "'crypto' was unexpected"),
    "a field that is null": (a_pay(card=CARD | {"card_alias": None}), "payment_method.card"),
    "a field that nobody knows": (a_pay(card=CARD | {"number": "1"}), "payment_method.card"),
    "a card without its CVV": (a_pay(card=CARD | {"card_cvv": ""}), "payment_method.card"),
    "a card number that is a number": (a_pay(card=CARD | {"card_number": 4111}), "method.card"),
    "a channel that is none": (a_pay(card=CARD | {"channel": "app"}), "payment_method.card"),
    "a bank code that is a text": (
        a_pay(netbanking={"channel": "link", "netbanking_bank_code": "3010"}),
        "payment_method.netbanking",
    ),
    "a collect without its id": (a_pay(upi={"channel": "collect"}), "payment_method.upi"),
    "a mandate that is a word": (a_pay(upi={"channel": "qrcode", "authorize_only": "yes"}), "upi"),
    "a phone of nine digits": (
        a_pay(paylater={"channel": "link", "provider": "lazypay", "phone": "990873480"}),
        "paylater.phone",
    ),
    "an OTP that is a number": (otp(action="SUBMIT_OTP", otp=111000), "not valid"),
    "an OTP with a resend": (otp(action="RESEND_OTP", otp="111000"), "not valid"),
    "a submit without its OTP": (otp(action="SUBMIT_OTP"), "not valid"),
    "an amount that is a text": (a_capture('"1.00"'), "not valid"),
    "three decimals": (a_capture("1.005"), "not valid"),
    "an amount with an exponent": (a_capture("1e2"), "rupees and paise"),
    "three decimals that are none": (a_capture("1.000"), "rupees and paise"),
    "no amount of money": (a_capture("NaN"), "not JSON"),
    "nothing": (a_capture("0"), "not valid"),
    "two amounts": (a_capture('1.00,"amount":2.00'), "comes twice"),
    "a capture without its amount": (a_capture("null"), "not valid"),
    "a float's amount": (an_order(order_amount=0.1 + 0.2), "order_amount"),
    "a currency that is none": (an_order(order_currency="rupees"), "order_currency"),
    "no customer": (an_order(customer_details={}), "customer_details"),
    "an order id out of form": (an_order(order_id="a.b"), "order_id"),
    "an expiry without an offset": (an_order(order_expiry_time="2031-01-01T00:00:00"), "expiry"),
    "a status that cannot be forced": (
        request("POST", "/simulate", SIMULATION, *CREDENTIALS),
        "payment_status",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_request_that_is_right_is_let_through(name: str) -> None:
    """A judge that refuses everything proves nothing either."""
    assert verdict(GOOD[name], SECRETS) == []
    assert call_of(GOOD[name])


@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_is_broken_is_caught(name: str) -> None:
    """For what is wrong with it, and not by chance for something else."""
    raw, word = BROKEN[name]
    assert any(word in said for said in verdict(raw, SECRETS)), verdict(raw, SECRETS)
