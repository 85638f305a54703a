"""How the client uses the network: time limits, one origin, nothing from the environment."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path

import pytest

from cfflow import CfflowError, GatewayUnavailable, InvalidInput, OutcomeUnknown
from cfflow.cashfree.gateway import frozen_authorize
from tests.ports.gateway_kit import (
    CARD,
    SESSION,
    a_client,
    a_gateway,
    answer,
    hang,
    raw,
)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n"


#: Read by conftest.py.
BOTH_LOOPS = True


@pytest.mark.parametrize(
    "reply",
    [hang, raw(HEAD, b"{", pause_s=60), raw(HEAD, *[b" "] * 60, pause_s=0.05)],
    ids=["before the answer", "in the body", "a byte at a time"],
)
@pytest.mark.parametrize("own", [True, False], ids=["of the call", "of the client"])
async def test_the_time_limit_holds_for_the_call_as_a_whole(reply: object, own: bool) -> None:
    """A drip that never lets a single read time out ends at the same limit."""
    async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:  # type: ignore[arg-type]  # settings are text
        client._timeout_s = 60 if own else 0.3
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await client.pay(SESSION, CARD, timeout_s=0.3 if own else None)
        assert 0.25 < time.monotonic() - began < 1.5
    assert len(gateway.requests) == 1


async def test_calls_share_a_connection() -> None:
    """Keep-alive: one handshake for many calls."""
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        for _ in range(5):
            await client.fetch_order("order_1")
            await client.pay(SESSION, CARD)
    assert (len(gateway.requests), gateway.connections) == (10, 1)


async def test_a_certificate_without_a_trusted_authority_is_refused() -> None:
    """TLS verification is on: no byte of the card leaves."""
    async with a_gateway(answer(200, {}), tls=True) as gateway, a_client(gateway.base_url) as c:
        with pytest.raises(GatewayUnavailable, match="nothing was sent"):
            await c.pay(SESSION, CARD)
    assert gateway.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(status: int) -> None:
    """Neither to another host nor on this one; what the request did is unknown."""
    async with a_gateway(answer(200, {})) as evil:
        reply = answer(status, {}, location=f"{evil.base_url}/x")
        async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
            with pytest.raises(OutcomeUnknown):
                await client.pay(SESSION, CARD)
            with pytest.raises(GatewayUnavailable):
                await client.fetch_order("order_1")
    assert (len(gateway.requests), evil.connections) == (2, 0)


async def test_no_url_out_of_an_answer_is_ever_called() -> None:
    """The OTP goes to our base URL, though the pay answer names another server everywhere."""
    async with a_gateway(answer(200, {})) as evil:
        there = evil.base_url
        body = {
            "cf_payment_id": "12376123",
            "action": "post",
            "data": {"url": there, "redirect_to_bank": there, "payload": {"authenticate": there}},
        }
        reply = answer(200, body, location=there, content_location=there, link=f"<{there}>")
        async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
            await client.pay(SESSION, CARD)
            for call in (
                client.authenticate(f"{there}/x", "111000"),
                client.fetch_payment("order_1", f"{there}/x"),
            ):
                with pytest.raises(InvalidInput):
                    await call
            await client.authorize("order_1", frozen_authorize("CAPTURE", Decimal(1)))
    assert (len(gateway.requests), evil.connections) == (2, 0)


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A card goes to the gateway, not through what a shell profile names."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with a_gateway(answer(200, {})) as proxy:
        address = proxy.base_url.removesuffix("/pg")
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
        async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
            await client.pay(SESSION, CARD)
            await client.fetch_order("order_1")
    assert (len(gateway.requests), proxy.connections) == (2, 0)
    assert not any("authorization" in sent.headers for sent in gateway.requests)


async def test_a_cookie_is_never_sent_back() -> None:
    """What one customer's answer sets does not travel with another's call."""
    reply = answer(200, {}, set_cookie="account=1; Path=/")
    async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
        await client.fetch_order("order_1")
        await client.pay(SESSION, CARD)
    assert not any("cookie" in sent.headers for sent in gateway.requests)


async def test_a_call_after_the_end_is_our_error_and_sends_nothing() -> None:
    """A closed client cannot have moved money, and its error shows that."""
    async with a_gateway(answer(200, {})) as gateway:
        async with a_client(gateway.base_url) as client:
            await client.fetch_order("order_1")
        with pytest.raises(GatewayUnavailable, match="nothing was sent"):
            await client.pay(SESSION, CARD)
    assert len(gateway.requests) == 1


async def test_a_client_closed_under_a_call_leaves_its_outcome_unknown() -> None:
    """The request is out; only an inquiry can find out."""
    async with a_gateway(hang) as gateway:
        client = a_client(gateway.base_url)
        call = asyncio.create_task(client.pay(SESSION, CARD))
        await gateway.asked.wait()
        await client.aclose()
        with pytest.raises(OutcomeUnknown):
            await call


async def test_an_unforeseen_exception_is_still_one_of_our_errors() -> None:
    """A key that no header can carry: the error is ours, not one that shows the request."""
    async with a_gateway(answer(200, {})) as gateway, a_client(gateway.base_url) as client:
        for key in ("a\r\nx-evil: 1", "é"):
            with pytest.raises(CfflowError):
                await client.pay(SESSION, CARD, key=key)
    assert gateway.requests == []


async def test_cancelling_a_call_cancels_it() -> None:
    """CancelledError goes through, and the connection is not used again."""
    async with a_gateway(hang) as gateway, a_client(gateway.base_url) as client:
        call = asyncio.create_task(client.pay(SESSION, CARD))
        await gateway.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gateway.reply = answer(200, {})
        await client.fetch_order("order_1")
    assert gateway.connections == 2
