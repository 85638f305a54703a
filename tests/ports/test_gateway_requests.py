"""What each call sends: verb, path, headers and body, read from the socket on the other side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from cfflow import BankTransfer, ConfigError, InvalidAmount, InvalidInput
from cfflow.cashfree import facts
from cfflow.cashfree.calls import ROUTES
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.environment import base_url_of
from cfflow.cashfree.gateway import frozen_authorize
from cfflow.cashfree.wire import observe_entity, observe_pay
from cfflow.core.observation import Call
from tests.ports.gateway_kit import (
    CARD,
    CLIENT_ID,
    CLIENT_SECRET,
    SESSION,
    a_client,
    a_gateway,
    answer,
)
from tests.ports.test_methods import METHODS

CUSTOMER = {"customer_id": "customer_7", "customer_phone": "9908734801"}
CAPTURE = frozen_authorize("CAPTURE", Decimal("1.00"))

Make = Callable[[GatewayClient], Awaitable[Any]]

#: Every call: how it is made, and the verb, path and body that must come of it.
CALLS: dict[str, tuple[Make, str, str, Any]] = {
    "pay": (
        lambda c: c.pay(SESSION, BankTransfer(), key="k"),
        "POST",
        "/orders/sessions",
        {
            "payment_session_id": SESSION,
            "payment_method": {"banktransfer": {"channel": "link"}},
        },
    ),
    "submit": (
        lambda c: c.authenticate("12376124", "111000", key="k"),
        "POST",
        "/orders/pay/authenticate/12376124",
        {"action": "SUBMIT_OTP", "otp": "111000"},
    ),
    "resend": (
        lambda c: c.authenticate("12376124", key="k"),
        "POST",
        "/orders/pay/authenticate/12376124",
        {"action": "RESEND_OTP"},
    ),
    "capture": (
        lambda c: c.authorize("order_8123", CAPTURE, key="k"),
        "POST",
        "/orders/order_8123/authorization",
        {"action": "CAPTURE", "amount": "1.00"},
    ),
    "void": (
        lambda c: c.authorize("order_8123", frozen_authorize("VOID"), key="k"),
        "POST",
        "/orders/order_8123/authorization",
        {"action": "VOID"},
    ),
    "fetch one": (
        lambda c: c.fetch_payment("order_8123", "14910259396"),
        "GET",
        "/orders/order_8123/payments/14910259396",
        None,
    ),
    "fetch all": (
        lambda c: c.fetch_payments("order_8123"),
        "GET",
        "/orders/order_8123/payments",
        None,
    ),
    "create order": (
        lambda c: c.create_order(170, CUSTOMER, order_id="order_8123", order_note="n", key="k"),
        "POST",
        "/orders",
        {
            "order_id": "order_8123",
            "order_amount": "170.00",
            "order_currency": "INR",
            "customer_details": CUSTOMER,
            "order_note": "n",
        },
    ),
    "fetch order": (lambda c: c.fetch_order("order_8123"), "GET", "/orders/order_8123", None),
    "simulate": (
        lambda c: c.simulate("12376124", "FAILED", payment_error_code="TRANSACTION_DECLINED"),
        "POST",
        "/simulate",
        {
            "entity": "PAYMENTS",
            "entity_id": "12376124",
            "entity_simulation": {
                "payment_status": "FAILED",
                "payment_error_code": "TRANSACTION_DECLINED",
            },
        },
    ),
    "fetch simulation": (lambda c: c.fetch_simulation("sim_1"), "GET", "/simulate/sim_1", None),
}
BEARERS = ("pay", "submit", "resend")
UNKEYED = ("simulate",)

CREATED = {"order_id": "order_8123", "payment_session_id": SESSION}


def reply_to(name: str) -> Any:
    """An answer that decodes, for any of the calls."""
    bodies: dict[str, Any] = {"fetch all": [], "create order": CREATED}
    return answer(200, bodies.get(name, {}))


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_sends_its_verb_path_and_body(name: str) -> None:
    """One request, below the base URL, with exactly the documented body."""
    make, verb, path, body = CALLS[name]
    async with a_gateway(reply_to(name)) as gateway, a_client(gateway.base_url) as client:
        await make(client)
    assert (gateway.sent.verb, gateway.sent.target) == (verb, f"/pg{path}")
    assert (gateway.sent.json if gateway.sent.body else None) == body


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_carries_its_headers_and_no_others(name: str) -> None:
    """gateway.md#hosts: always the version, credentials but for bearers, the key where given."""
    make, verb, _, body = CALLS[name]
    async with a_gateway(reply_to(name)) as gateway, a_client(gateway.base_url) as client:
        await make(client)
    host = gateway.base_url.removeprefix("http://").removesuffix("/pg")
    wanted = {"host": host, "x-api-version": "2025-01-01", "user-agent": "cfflow"}
    if name not in BEARERS:
        wanted |= {"x-client-id": CLIENT_ID, "x-client-secret": CLIENT_SECRET}
    if verb == "POST":
        wanted |= {"content-type": "application/json"}
        wanted |= {"content-length": str(len(gateway.sent.body))}
    if body is not None and name not in UNKEYED:
        wanted |= {"x-idempotency-key": "k"}
    plumbing = {"accept", "accept-encoding", "connection"}
    sent = {k: v for k, v in gateway.sent.headers.items() if k not in plumbing}
    assert len(sent.pop("x-request-id")) == 32
    assert sent == wanted


@pytest.mark.parametrize("name", BEARERS)
async def test_pay_and_authenticate_carry_no_credentials_anywhere(name: str) -> None:
    """Not in a header, the target or the body: the session and the id are the bearers."""
    async with a_gateway(reply_to(name)) as gateway, a_client(gateway.base_url) as client:
        await CALLS[name][0](client)
    assert CLIENT_ID.encode() not in gateway.sent.raw
    assert CLIENT_SECRET.encode() not in gateway.sent.raw


@pytest.mark.parametrize("method", METHODS)
async def test_every_payment_method_is_sent_as_the_gateways_page_sends_it(method: str) -> None:
    """The body is the session, the method's own fields, and nothing else."""
    given, documented = METHODS[method]
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        await client.pay(SESSION, given)
    assert gateway.sent.json == {"payment_session_id": SESSION, "payment_method": documented}
    assert "x-idempotency-key" not in gateway.sent.headers


async def test_a_pay_can_save_the_instrument_and_name_an_offer() -> None:
    """Both are fields of the request, False is sent too, and absent ones are not null."""
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        await client.pay(SESSION, CARD, save_instrument=True, offer_id="offer_1")
        await client.pay(SESSION, CARD, save_instrument=False)
    first, second = (sent.json for sent in gateway.requests)
    assert (first["save_instrument"], first["offer_id"]) == (True, "offer_1")
    assert second["save_instrument"] is False
    assert "offer_id" not in second


@pytest.mark.parametrize("version", facts.API_VERSIONS)
@pytest.mark.parametrize("given_id", [12376123, "12376123"])
async def test_every_api_version_reads_an_id_as_the_same_string(
    version: str, given_id: object
) -> None:
    """The header names the version; a number and a string are one id."""
    body = {"cf_payment_id": given_id, "payment_status": "SUCCESS", "action": "post"}
    async with (
        a_gateway(answer(200, body, x_request_id="r-1")) as gateway,
        a_client(gateway.base_url, api_version=version) as client,
    ):
        paid = observe_pay(await client.pay(SESSION, CARD))
        entity = await client.fetch_payment("order_8123", "12376123")
    assert [sent.headers["x-api-version"] for sent in gateway.requests] == [version] * 2
    fetched = observe_entity(entity, Call.FETCH_PAYMENT)
    assert (paid.cf_payment_id, fetched.cf_payment_id) == ("12376123", "12376123")
    assert (paid.request_id, fetched.request_id) == ("r-1", "r-1")


async def test_a_frozen_capture_is_sent_under_its_own_version_byte_for_byte() -> None:
    """A resend after an upgrade repeats the first request, or the key does not hold."""
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        await client.authorize("order_8123", CAPTURE, key="k", api_version="2022-09-01")
    assert gateway.sent.body == CAPTURE == b'{"action":"CAPTURE","amount":1.00}'
    assert gateway.sent.headers["x-api-version"] == "2022-09-01"


def test_a_capture_has_an_amount_and_a_void_has_none() -> None:
    """Without one the gateway would take the whole hold; a void is always whole."""
    with pytest.raises(InvalidAmount):
        frozen_authorize("CAPTURE")
    with pytest.raises(InvalidAmount):
        frozen_authorize("VOID", Decimal("1.00"))
    assert frozen_authorize("VOID") == b'{"action":"VOID"}'


@pytest.mark.parametrize("amount", ["1", "1.0", "1.00", "1E+0", "10", "22.4", "0.01"])
async def test_an_amount_is_a_json_number_with_two_decimals(amount: str) -> None:
    """However the caller or the gateway wrote it."""
    text = f"{Decimal(amount):.2f}"
    assert frozen_authorize("CAPTURE", Decimal(amount)).decode().endswith(f'"amount":{text}}}')
    async with a_gateway(answer(200, CREATED)) as gateway, a_client(gateway.base_url) as client:
        await client.create_order(Decimal(amount), CUSTOMER)
    assert f'"order_amount":{text},'.encode() in gateway.sent.body


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-1", "0", "1.001", "ten", 1.5, "1e400"])
async def test_what_is_no_amount_is_never_sent(amount: Any) -> None:
    """`InvalidAmount`, and no connection is made."""
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        with pytest.raises(InvalidAmount):
            await client.create_order(amount, CUSTOMER)
    assert gateway.connections == 0


HOSTILE = ["../../evil", "x?y#z", "..", ".", "a/b", "%2e%2e", "a b", "é", "\\..\\", "a%00b", "\n"]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_an_id_that_no_gateway_gives_is_never_sent(hostile: str) -> None:
    """Whatever an answer put into a cf_payment_id, the OTP goes to authenticate and no further."""
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        for call in (
            client.authenticate(hostile, "111000"),
            client.fetch_payment("order_1", hostile),
            client.fetch_payment(hostile, "1"),
            client.authorize(hostile, CAPTURE),
            client.fetch_order(hostile),
            client.fetch_simulation(hostile),
        ):
            with pytest.raises(InvalidInput):
                await call
    assert gateway.connections == 0


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_id_stays_one_segment_of_the_path(hostile: str) -> None:
    """The path is safe even without the check of its ids."""
    segments = ROUTES[Call.AUTHORIZE].path_of((hostile,)).split("/")[1:]
    shape = [unquote(part) if part not in {".", ".."} else "" for part in segments]
    assert shape == ["orders", hostile, "authorization"]


@pytest.mark.parametrize(
    ("environment", "base_url"),
    [
        ("sandbox", "https://sandbox.cashfree.com/pg"),
        ("production", "https://api.cashfree.com/pg"),
        ("https://pay.example.com/pg", "https://pay.example.com/pg"),
        ("https://pay.example.com/pg/", "https://pay.example.com/pg"),
        ("https://pay.example.com:8443/pg", "https://pay.example.com:8443/pg"),
        ("http://127.0.0.1:8000/pg", "http://127.0.0.1:8000/pg"),
        ("http://localhost:8000/pg", "http://localhost:8000/pg"),
        ("http://[::1]:8000/pg", "http://[::1]:8000/pg"),
    ],
)
def test_an_environment_is_a_name_or_a_base_url(environment: str, base_url: str) -> None:
    """Sandbox, production, or a URL of one's own; plain http on this machine only."""
    assert base_url_of(environment) == base_url


@pytest.mark.parametrize(
    "environment",
    [
        "",
        "Sandbox",
        "live",
        "pay.example.com",
        "//pay.example.com",
        "ftp://pay.example.com",
        "file:///etc/passwd",
        "https://",
        "https:///pg",
        "https://[::1",
        "https://host:port/pg",
        "https://host:99999/pg",
        "https://host:0/pg",
        "https://ho st/pg",
        "https://host/pg\n",
        "https://host/pg?to=",
        "https://host/pg#",
        "https://host\\@evil.example/pg",
        "http://pay.example.com/pg",
        "http://127.0.0.1.evil.example/pg",
        "http://localhost.evil.example/pg",
        "http://10.0.0.1/pg",
        "https://user:hunter2@host/pg",
        "http://127.0.0.1@evil.example/pg",
    ],
)
def test_what_is_no_base_url_is_a_config_error(environment: str) -> None:
    """One clear error before anything is sent, which never repeats a password."""
    with pytest.raises(ConfigError) as caught:
        base_url_of(environment)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("secret", ["", "a\nb", "a\r\nx: y", "a\n", " a", "é", "a\x00", "a\tb"])
@pytest.mark.parametrize("name", ["client_id", "client_secret"])
def test_credentials_that_no_header_can_carry_are_a_config_error(name: str, secret: str) -> None:
    """A newline at the end of a secret file would otherwise fail every call."""
    credentials = {"client_id": "id", "client_secret": "a-secret-of-the-tests"} | {name: secret}
    transport = httpx.AsyncHTTPTransport()
    with pytest.raises(ConfigError, match=name.replace("_", ".")):
        GatewayClient(
            transport,
            environment="sandbox",
            client_id=credentials["client_id"],
            client_secret=credentials["client_secret"],
        )


def test_an_unknown_api_version_is_a_config_error() -> None:
    """Only the versions whose answers are known to decode."""
    with pytest.raises(ConfigError, match="api_version"):
        a_client("sandbox", api_version="2021-05-21")
