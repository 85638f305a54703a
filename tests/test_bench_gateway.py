"""The benchmark's stub answers a sale as the emulator does, and the best floor's clients work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from unittest.mock import Mock

import hiredis
import httpx
import msgspec
import pytest

from bench.floor import CARD_FIELDS, OTP
from bench.lean import LeanHttp, LeanRedis
from bench.places import Account, fetches_at
from bench.stub import StubBank, StubProtocol
from cfflow.emulator import running_emulator

ORDER = {
    "order_id": "order_1",
    "order_amount": 170.0,
    "order_currency": "INR",
    "customer_details": {"customer_id": "customer_1", "customer_phone": "9898989898"},
}


@pytest.fixture
async def stub() -> AsyncIterator[Account]:
    """The stub, served by this loop."""
    bank = StubBank()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StubProtocol(bank), "127.0.0.1", 0)
    async with server:
        yield Account(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/pg")


async def sale(account: Account) -> list[httpx.Response]:
    """Return the answers to an order, its pay, its OTP and the inquiry."""
    whose = {"x-client-id": account.client_id, "x-client-secret": account.client_secret}
    version = {"x-api-version": "2025-01-01"}
    url = f"{account.base_url}/orders"
    async with httpx.AsyncClient(headers=version) as http:
        order = await http.post(url, json=ORDER, headers=whose)
        card = {"card": CARD_FIELDS | {"channel": "post"}}
        session = order.json()["payment_session_id"]
        body = {"payment_session_id": session, "payment_method": card}
        paid = await http.post(f"{url}/sessions", json=body)
        attempt = paid.json()["cf_payment_id"]
        otp = {"action": "SUBMIT_OTP", "otp": OTP}
        accepted = await http.post(f"{url}/pay/authenticate/{attempt}", json=otp)
        fetched = await http.get(f"{url}/order_1/payments/{attempt}", headers=whose)
    return [order, paid, accepted, fetched]


def shape(value: Any) -> Any:
    """Return JSON with each value replaced by its type."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return type(value)


async def test_the_stub_answers_with_the_fields_of_the_emulator(stub: Account) -> None:
    """Each answer of a sale has the same fields, types and headers, and the ids belong together."""
    async with running_emulator() as emulator:
        wanted = await sale(Account(emulator.base_url))
    found = await sale(stub)
    for mine, its in zip(found, wanted, strict=True):
        assert mine.status_code == its.status_code == 200
        assert mine.headers.keys() == its.headers.keys()
        assert shape(msgspec.json.decode(mine.content)) == shape(msgspec.json.decode(its.content))
    entity = found[3].json()
    assert entity["order_id"] == "order_1"
    assert entity["cf_payment_id"] == found[1].json()["cf_payment_id"]
    assert entity["payment_status"] == "SUCCESS"


async def test_the_stub_counts_inquiries_and_has_no_other_call(stub: Account) -> None:
    """One sale has one inquiry, and a call that no sale makes is not found."""
    await sale(stub)
    assert await fetches_at(stub) == 1
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{stub.base_url}/orders/order_1/refunds")).status_code == 404


async def test_the_stub_waits_for_a_body_that_comes_in_parts(stub: Account) -> None:
    """It answers once, when the last byte is here, and then the next request."""
    url = httpx.URL(stub.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = b"POST /pg/orders/pay/authenticate/7 HTTP/1.1\r\nContent-Length: 4\r\n\r\n"
    for _ in range(2):
        for part in (head[:20], head[20:], b"{", b'"":'):
            writer.write(part)
            await asyncio.sleep(0.01)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        length = int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert b'"cf_payment_id":"7"' in await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


async def test_the_lean_http_client_sends_and_reads(stub: Account) -> None:
    """It has the methods of httpx that a sale needs."""
    async with aclosing(LeanHttp()) as http:
        url = f"{stub.base_url}/orders/pay/authenticate/7"
        answer = await http.post(url, content=b"{}", headers={"content-type": "application/json"})
        assert msgspec.json.decode(answer.content)["cf_payment_id"] == "7"
        assert (await http.get(f"{stub.base_url}/orders/fetches", headers={})).text == "0"


async def test_commands_of_one_turn_share_a_write_and_get_their_own_replies(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies come in order, an error goes to its own command alone."""
    async with aclosing(LeanRedis(redis_url)) as redis:
        await redis.open()
        write = Mock(side_effect=redis._write)
        monkeypatch.setattr(redis, "_write", write)
        replies = await asyncio.gather(
            *(redis.execute_command("ECHO", n) for n in range(100)),
            redis.execute_command("NOSUCHCOMMAND"),
            redis.execute_command("ECHO", "last"),
            return_exceptions=True,
        )
    assert replies[:100] == [b"%d" % n for n in range(100)]
    assert isinstance(replies[100], hiredis.ReplyError)
    assert replies[101] == b"last"
    assert write.call_count == 1


async def test_a_lost_connection_ends_what_waits(redis_url: str) -> None:
    """A benchmark without its server must not hang."""
    redis = LeanRedis(redis_url)
    await redis.open()
    waiting = redis.execute_command("BLPOP", "cfflow-bench:none", 0)
    await asyncio.sleep(0.01)
    await redis.aclose()
    with pytest.raises(ConnectionError):
        await waiting
