"""Each way a call can fail is one error, with what it means for the money.

The table is that of gateway.md#errors-proof. A step may have moved money where the request may
have had its effect; an inquiry that fails only leaves us with what we had before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import pytest

import cfflow
from cfflow import (
    CfflowError,
    GatewayAuthError,
    GatewayRejected,
    GatewayUnavailable,
    OutcomeUnknown,
    RateLimited,
)
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.gateway import frozen_authorize
from cfflow.cashfree.transport import NEVER_SENT
from cfflow.testing import MemoryStore
from tests.ports.gateway_kit import (
    CARD,
    CLIENT_SECRET,
    NUMBER,
    SESSION,
    KeptLog,
    RawGateway,
    Reply,
    a_client,
    a_gateway,
    answer,
    hang,
    raw,
    reset,
)

Make = Callable[[GatewayClient], Awaitable[Any]]

STEPS: dict[str, Make] = {
    "pay": lambda c: c.pay(SESSION, CARD),
    "authenticate": lambda c: c.authenticate("12376124", "111000"),
    "authorize": lambda c: c.authorize("order_1", frozen_authorize("CAPTURE", Decimal(1))),
}
INQUIRIES: dict[str, Make] = {
    "fetch_payment": lambda c: c.fetch_payment("order_1", "1"),
    "fetch_payments": lambda c: c.fetch_payments("order_1"),
    "fetch_order": lambda c: c.fetch_order("order_1"),
}
#: Only where the time limit is to strike; a slow machine must not fail the other tests.
LIMIT_S = 0.25
PATIENT_S = 10.0

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
DEEP = b'{"new": ' + b"[" * 100_000


def refusal(
    status: int, code: str = "request_failed", message: str = "no", **headers: str
) -> Reply:
    """An error as the gateway words it."""
    body = {"message": message, "code": code, "type": "invalid_request_error", "help": "docs"}
    return answer(status, body, **headers)


#: After the request went out: did it have its effect?
SLOW: dict[str, Reply] = {
    "hangs before the answer": hang,
    "hangs in the head": raw(b"HTTP/1.1 200", pause_s=60),
    "hangs in the body": raw(JSON_HEAD + b"content-length: 9\r\n\r\n{", pause_s=60),
    "drips beyond the limit": raw(
        JSON_HEAD + b"content-length: 99\r\n\r\n", *[b" "] * 90, pause_s=0.02
    ),
}
LOST: dict[str, Reply] = {
    "resets": reset,
    "closes without an answer": raw(b""),
    "cuts the body": raw(JSON_HEAD + b"content-length: 99\r\n\r\n{}"),
    "cuts a chunk": raw(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{}"),
    "breaks a chunk": raw(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    "breaks the compression": raw(
        JSON_HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"
    ),
    "speaks no HTTP": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "answers without end": raw(JSON_HEAD + b"content-length: 2000000\r\n\r\n", b" " * 2_000_000),
}
UNREADABLE: dict[str, Reply] = {
    "200 with HTML": answer(200, b"<html>Please wait</html>", content_type="text/html"),
    "200 with garbage": answer(200, b'{"cf_payment_id": "12'),
    "200 with nothing": answer(200, b""),
    "200 with null": answer(200, b"null"),
    "200 with another shape": answer(200, b'"OK"'),
    "200 with bytes that are no UTF-8": answer(200, b'{"cf_payment_id": "\xff\xfe"}'),
    "200 nested without end": answer(200, DEEP),
    "200 with an id of another type": answer(200, {"cf_payment_id": {"a": 1}, "order_id": 1}),
    "204": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
}
SERVER: dict[str, Reply] = {
    "500": refusal(500, "internal_error"),
    "502 bank_processing_failure": refusal(502, "bank_processing_failure"),
    "503": answer(503, b"<html>"),
    "504": answer(504, b""),
    "599": refusal(599),
    "an error nested without end": answer(500, DEEP),
} | {f"{status}": answer(status, {}, location="/pg/x") for status in (300, 301, 302, 307, 308)}
SAME: dict[str, Reply] = {
    "409": refusal(409, "request_invalid", "an equal request is known"),
    "422": refusal(422, "request_invalid", "this key was used with another body"),
}
REFUSED: dict[str, tuple[Reply, bool]] = {
    "400": (refusal(400, "request_invalid"), False),
    "400 validation_error": (refusal(400, "card_number_invalid"), False),
    "400 already processed": (
        refusal(400, "request_invalid", "Transaction is already processed"),
        True,
    ),
    "400 exceeded": (refusal(400, "request_invalid", "Exceeded retry attempts"), True),
    "400 order_inactive": (refusal(400, "order_inactive"), True),
    "404": (refusal(404, "order_not_found"), False),
    "404 orderpay_not_found": (refusal(404, "orderpay_not_found"), True),
    "404 order_inactive": (refusal(404, "order_inactive"), True),
    "404 with HTML": (answer(404, b"<html>"), False),
    "400 nested without end": (answer(400, DEEP), False),
    "400 with numbers for words": (answer(400, {"message": 1, "code": 2}), False),
    "418, which no page names": (refusal(418), False),
}
LIMITED: dict[str, tuple[dict[str, str], float]] = {
    "with its seconds": ({"x_ratelimit_retry": "7"}, 7),
    "with retry-after": ({"retry_after": "9"}, 9),
    "with the reset's seconds": ({"x_ratelimit_reset": "11"}, 11),
    "with both": ({"x_ratelimit_reset": "11", "x_ratelimit_retry": "7"}, 7),
    "with both, the first one nonsense": (
        {"x_ratelimit_reset": "11", "x_ratelimit_retry": "soon"},
        11,
    ),
    "with the reset as a date": ({"x_ratelimit_reset": "1790000000"}, 60),
    "with the reset in the past": ({"x_ratelimit_reset": "-1", "retry_after": "9"}, 9),
    "without": ({}, 60),
    "with nonsense": ({"x_ratelimit_retry": "soon"}, 60),
    "with no number": ({"x_ratelimit_retry": "nan"}, 60),
    "with a past": ({"x_ratelimit_retry": "-1"}, 60),
    "with a year": ({"x_ratelimit_retry": "31536000"}, 60),
    "with for ever": ({"x_ratelimit_retry": "inf"}, 60),
}


async def failure_of(
    make: Make, reply: Reply, limit_s: float = PATIENT_S
) -> tuple[CfflowError, RawGateway, dict[str, Any]]:
    """The error of one call, the server that it met, and the log's event of it."""
    log = KeptLog()
    async with a_gateway(reply) as gateway, a_client(gateway.base_url, log=log) as client:
        client._timeout_s = limit_s
        with pytest.raises(CfflowError) as caught:
            await make(client)
    (event,) = log.events
    assert event["outcome"] == type(caught.value).__name__
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value, gateway, event


def unknown(error: CfflowError) -> None:
    """A step's outcome is unknown: never success, never failure, never simply again."""
    assert type(error) is OutcomeUnknown
    assert (error.safe_to_retry, error.money_may_have_moved) == (False, True)


def unavailable(error: CfflowError) -> None:
    """Nothing happened: it may be done again at once."""
    assert type(error) is GatewayUnavailable
    assert (error.safe_to_retry, error.money_may_have_moved) == (True, False)


@asynccontextmanager
async def refused() -> AsyncIterator[str]:
    """A base URL on which no server listens."""
    async with a_gateway(hang) as gateway:
        pass
    yield gateway.base_url


@asynccontextmanager
async def nowhere() -> AsyncIterator[str]:
    """A base URL whose host has no address."""
    yield "https://gateway.cfflow.invalid/pg"


@asynccontextmanager
async def untrusted() -> AsyncIterator[str]:
    """A base URL whose certificate no trusted authority signed."""
    async with a_gateway(answer(200, {}), tls=True) as gateway:
        yield gateway.base_url
        assert gateway.requests == []


@asynccontextmanager
async def plain() -> AsyncIterator[str]:
    """A base URL that promises TLS where none is spoken."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/pg"


@pytest.mark.parametrize("place", [refused, nowhere, untrusted, plain])
@pytest.mark.parametrize("call", [*STEPS, "fetch_payment"])
async def test_what_was_never_sent_may_be_tried_again_at_once(call: str, place: Any) -> None:
    """Refused, DNS, TLS: no money can have moved, for a step and an inquiry alike."""
    make = (STEPS | INQUIRIES)[call]
    async with place() as base_url, a_client(base_url) as client:
        with pytest.raises(CfflowError, match="nothing was sent") as caught:
            await make(client)
    unavailable(caught.value)


@pytest.mark.parametrize("trouble", SLOW)
@pytest.mark.parametrize("call", STEPS)
async def test_a_step_that_takes_too_long_is_of_unknown_outcome(call: str, trouble: str) -> None:
    """The gateway has the request and may act on it still."""
    error, gateway, _ = await failure_of(STEPS[call], SLOW[trouble], LIMIT_S)
    unknown(error)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("trouble", SLOW)
async def test_an_inquiry_that_takes_too_long_moved_nothing(trouble: str) -> None:
    """It may be asked again."""
    error, _, event = await failure_of(INQUIRIES["fetch_payment"], SLOW[trouble], LIMIT_S)
    unavailable(error)
    assert event["status"] is None


@pytest.mark.parametrize("trouble", LOST | UNREADABLE | SERVER)
@pytest.mark.parametrize("call", STEPS)
async def test_a_step_without_a_clear_answer_is_of_unknown_outcome(call: str, trouble: str) -> None:
    """Sent once, without a usable answer: money may have moved."""
    error, gateway, _ = await failure_of(STEPS[call], (LOST | UNREADABLE | SERVER)[trouble])
    unknown(error)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("trouble", LOST | UNREADABLE | SERVER)
@pytest.mark.parametrize("call", ["fetch_payment", "fetch_payments"])
async def test_an_inquiry_without_a_clear_answer_moved_nothing(call: str, trouble: str) -> None:
    """Nothing new was learnt, and it may be asked again."""
    error, gateway, _ = await failure_of(INQUIRIES[call], (LOST | UNREADABLE | SERVER)[trouble])
    unavailable(error)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    "body", [{}, {"order_id": "order_1"}, {"order_id": "order_1", "payment_session_id": None}]
)
async def test_an_order_without_a_session_may_be_created_again(body: dict[str, Any]) -> None:
    """It could not be paid. With the same order_id nothing happens twice."""
    error, gateway, _ = await failure_of(
        lambda c: c.create_order(170, {}, order_id="order_1"), answer(200, body)
    )
    unavailable(error)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("status", SAME)
@pytest.mark.parametrize("call", STEPS)
async def test_a_step_that_was_there_before_is_of_unknown_outcome(call: str, status: str) -> None:
    """409 and 422 show that this request, or an equal one, was there before."""
    error, _, event = await failure_of(STEPS[call], SAME[status])
    unknown(error)
    assert event["status"] == int(status)


@pytest.mark.parametrize("trouble", REFUSED)
@pytest.mark.parametrize("call", [*STEPS, "fetch_payment"])
async def test_a_refusal_moved_no_money_and_has_its_reason(call: str, trouble: str) -> None:
    """With the gateway's code, and whether an inquiry must come first."""
    reply, fetch_first = REFUSED[trouble]
    error, _, event = await failure_of((STEPS | INQUIRIES)[call], reply)
    assert type(error) is GatewayRejected
    assert (error.safe_to_retry, error.money_may_have_moved) == (False, False)
    assert error.fetch_first is fetch_first
    assert (error.status, event["status"]) == (int(trouble[:3]), int(trouble[:3]))


async def test_a_refusal_carries_the_gateways_own_words() -> None:
    """Code, type, message and request id: what support asks for."""
    reply = refusal(400, "card_unsupported", "this card is not supported", x_request_id="r-7")
    error, _, event = await failure_of(STEPS["pay"], reply)
    assert isinstance(error, GatewayRejected)
    assert (error.code, error.type) == ("card_unsupported", "invalid_request_error")
    assert (error.request_id, event["request_id"]) == ("r-7", "r-7")
    assert str(error) == "pay: 400 card_unsupported: this card is not supported"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("call", [*STEPS, *INQUIRIES])
async def test_refused_credentials_leave_the_payment_as_it_was(call: str, status: int) -> None:
    """A configuration error; no money moved, and again is no better."""
    error, _, _ = await failure_of((STEPS | INQUIRIES)[call], refusal(status))
    assert type(error) is GatewayAuthError
    assert (error.safe_to_retry, error.money_may_have_moved) == (False, False)
    assert error.status == status


@pytest.mark.parametrize("waits", LIMITED)
@pytest.mark.parametrize("call", ["pay", "fetch_payment"])
async def test_a_rate_limit_has_the_seconds_to_wait(call: str, waits: str) -> None:
    """The gateway's own seconds where it names some, 60 where it does not."""
    headers, wait_s = LIMITED[waits]
    reply = answer(429, {"type": "rate_limit_error"}, **headers)
    error, _, _ = await failure_of((STEPS | INQUIRIES)[call], reply)
    assert type(error) is RateLimited
    assert (error.safe_to_retry, error.money_may_have_moved) == (True, False)
    assert error.retry_after_s == wait_s


ECHOES = {
    "the card number": NUMBER,
    "the card number in groups": "4111 1111 1111 1111",
    "the card number with dashes": "4111-1111-1111-1111",
    "another card's number": "5105105105105100",
    "the CVV": "cvv 123",
    "the session": SESSION,
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [400, 401, 409, 429])
async def test_an_error_does_not_repeat_what_the_request_carried(status: int, echo: str) -> None:
    """The gateway may echo a secret in any field of its error; ours has none of it."""
    words = dict.fromkeys(("message", "code", "type"), f"bad: {ECHOES[echo]}!")
    error, _, _ = await failure_of(STEPS["pay"], answer(status, words))
    shown = f"{error!r} {error} {vars(error)}"
    hidden = [text for text in (*ECHOES.values(), "123", SESSION[:20]) if text in shown]
    assert hidden == []


async def test_an_error_does_not_repeat_an_otp_or_the_client_secret() -> None:
    """Nor what other calls carry."""
    text = f"otp 111000 and secret {CLIENT_SECRET} are wrong"
    submit = partial(failure_of, reply=answer(400, {"message": text, "code": "111000"}))
    error, _, _ = await submit(STEPS["authenticate"])
    assert "111000" not in f"{error} {vars(error)}"
    error, _, _ = await submit(INQUIRIES["fetch_order"])
    assert CLIENT_SECRET not in f"{error} {vars(error)}"


class Declares(httpx.MockTransport):
    """A transport of one's own that names the errors that prove something."""

    never_sent = (httpx.ConnectTimeout,)


@pytest.mark.parametrize("error", [*NEVER_SENT, httpx.ReadTimeout, httpx.ProxyError, OSError])
@pytest.mark.parametrize("kind", [httpx.MockTransport, Declares])
async def test_no_error_of_a_transport_of_ones_own_proves_anything_unless_it_says_so(
    kind: type[httpx.MockTransport], error: type[Exception]
) -> None:
    """It may send twice, or raise ConnectTimeout for a request that was written."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise error("x")

    settings = {"client_id": "id", "client_secret": CLIENT_SECRET, "environment": "sandbox"}
    store = MemoryStore()
    async with cfflow.connect(transport=kind(fail), store=store, **settings) as cashier:  # type: ignore[arg-type]  # settings are text
        proves = kind is Declares and error is httpx.ConnectTimeout
        with pytest.raises(GatewayUnavailable if proves else OutcomeUnknown):
            await cashier.gateway.pay(SESSION, CARD)
        with pytest.raises(GatewayUnavailable):
            await cashier.gateway.fetch_order("order_1")


async def test_a_transport_of_ones_own_carries_the_calls_and_meets_the_deadline() -> None:
    """It gets httpx's request, with the limits; one that hangs ends all the same."""
    seen: list[httpx.Request] = []

    async def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) > 1:
            await asyncio.sleep(60)
        return httpx.Response(200, json={"cf_payment_id": "1"})

    settings = {"client_id": "id", "client_secret": CLIENT_SECRET, "environment": "sandbox"}
    transport = httpx.MockTransport(reply)
    async with cfflow.connect(transport=transport, store=MemoryStore(), **settings) as cashier:  # type: ignore[arg-type]  # settings are text
        assert (await cashier.gateway.pay(SESSION, CARD)).cf_payment_id == "1"
        with pytest.raises(OutcomeUnknown):
            await cashier.gateway.pay(SESSION, CARD, timeout_s=0.1)
    first = seen[0]
    assert str(first.url) == "https://sandbox.cashfree.com/pg/orders/sessions"
    assert first.extensions["timeout"] == dict.fromkeys(("connect", "read", "write", "pool"), 10.0)
    assert NUMBER in first.content.decode()
    assert "x-client-secret" not in first.headers


def test_only_what_precedes_the_first_byte_counts_as_never_sent() -> None:
    """One name too many here, and a payment that is under way would be paid again."""
    before_the_request = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}
    assert {error.__name__ for error in NEVER_SENT} == before_the_request
