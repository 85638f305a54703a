"""Compressed answers over real sockets: read as plain ones, and bombs refused at once."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow import GatewayUnavailable, OutcomeUnknown
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.gateway import frozen_authorize
from cfflow.cashfree.inflate import inflated
from tests.ports.gateway_kit import CARD, SESSION, a_client, a_gateway, answer
from tests.ports.test_wire import PAID, TAKEN

LIMIT_B: Final = 1024 * 1024
_packer: Final = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)


def bare(body: bytes) -> bytes:
    """Compress without zlib's head, as some servers do."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    "deflate ": bare,
    "identity": bytes,
    "gzip, deflate": lambda body: zlib.compress(gzip.compress(body)),
    "gzip,gzip": lambda body: gzip.compress(gzip.compress(body)),
    "identity, gzip": gzip.compress,
}


#: A mebibyte of blanks as one piece of deflate, which may be repeated before an end.
_MEBIBYTE: Final = _packer.compress(b" " * LIMIT_B) + _packer.flush(zlib.Z_FULL_FLUSH)
_END: Final = b"\x03\x00"


def bomb(mebibytes: int) -> bytes:
    """Return deflate without zlib's head that inflates to so many mebibytes of blanks."""
    return _MEBIBYTE * mebibytes + _END


def gzip_bomb(mebibytes: int) -> bytes:
    """Return the same as gzip; its sum at the end is wrong, and is not reached."""
    return gzip.compress(b"")[:10] + bomb(mebibytes) + bytes(8)


#: What cannot be read: (encoding, body).
BROKEN: dict[str, tuple[str, bytes]] = {
    "an unknown encoding": ("br", b"\x0b\x02\x80{}\x03"),
    "another one": ("zstd", b"\x28\xb5\x2f\xfd"),
    "an unknown one inside": ("br, gzip", gzip.compress(b"{}")),
    "three in a row": ("gzip, gzip, gzip", gzip.compress(gzip.compress(gzip.compress(b"{}")))),
    "not compressed": ("gzip", b"{}"),
    "another form": ("gzip", zlib.compress(b"{}")),
    "cut": ("gzip", gzip.compress(b"{}" * 500)[:-6]),
    "cut deflate": ("deflate", bare(b"{}" * 500)[:-6]),
    "a broken sum": ("gzip", gzip.compress(b"{}")[:-8] + b"\0" * 8),
    "more behind it": ("gzip", gzip.compress(b"{}") + gzip.compress(b" ")),
    "one byte over the limit": ("gzip", gzip.compress(b" " * (LIMIT_B + 1))),
    "over the limit inside": ("gzip, gzip", gzip.compress(gzip_bomb(2))),
}
BOMBS: dict[str, tuple[str, bytes]] = {
    "300 MB, twice": ("gzip, gzip", gzip.compress(gzip_bomb(300))),
    "900 MB": ("gzip", gzip_bomb(900)),
    "900 MB of deflate": ("deflate", bomb(900)),
}

CALLS: dict[str, Callable[[GatewayClient], Any]] = {
    "pay": lambda c: c.pay(SESSION, CARD),
    "authenticate": lambda c: c.authenticate("12376124", "111000"),
    "authorize": lambda c: c.authorize("order_1", frozen_authorize("CAPTURE", Decimal(1))),
    "fetch_payment": lambda c: c.fetch_payment("order_1", "1"),
    "fetch_payments": lambda c: c.fetch_payments("order_1"),
    "fetch_order": lambda c: c.fetch_order("order_1"),
}
MOVES = {"pay", "authenticate", "authorize"}


async def refused(call: str, encoding: str, body: bytes, status: int = 200) -> None:
    """Expect that an answer is not read, and that this means what a lost answer means."""
    reply = answer(status, body, content_encoding=encoding)
    async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
        expected = OutcomeUnknown if call in MOVES else GatewayUnavailable
        with pytest.raises(expected) as raised:
            await CALLS[call](client)
        assert raised.value.money_may_have_moved is (call in MOVES)
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_compressed_answer_is_read_as_a_plain_one(encoding: str) -> None:
    """gzip and deflate, once or twice; the connection is kept."""
    body = PACKERS[encoding](json.dumps(TAKEN).encode())
    reply = answer(200, body, content_encoding=encoding)
    async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
        for _ in range(2):
            found = await client.fetch_payment("order_8123", "12376123")
            assert (found.payment_status, found.is_captured) == ("SUCCESS", True)
        assert gateway.connections == 1
        assert gateway.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("broken", BROKEN)
async def test_an_answer_that_cannot_be_inflated_is_a_lost_one(call: str, broken: str) -> None:
    """The gateway has answered, and what it did is not known."""
    await refused(call, *BROKEN[broken])


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_an_error_that_cannot_be_inflated_proves_no_refusal(status: int) -> None:
    """Something that breaks answers may have made its status too."""
    await refused("pay", *BROKEN["an unknown encoding"], status=status)


async def test_an_answer_of_the_whole_limit_is_read() -> None:
    """The limit is on what it inflates to, to the byte."""
    body = json.dumps(PAID).encode().ljust(LIMIT_B)
    reply = answer(200, gzip.compress(body), content_encoding="gzip")
    async with a_gateway(reply) as gateway, a_client(gateway.base_url) as client:
        assert (await client.pay(SESSION, CARD)).action == "link"


@pytest.mark.parametrize("call", ["pay", "fetch_payments"])
@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_takes_neither_memory_nor_time(call: str, name: str) -> None:
    """Some hundred bytes, or nearly a megabyte: no task of the loop waits for it."""
    encoding, body = BOMBS[name]
    assert len(body) < LIMIT_B
    longest_s, done = 0.0, False

    async def watch() -> None:
        nonlocal longest_s
        while not done:
            began_s = time.perf_counter()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.perf_counter() - began_s)

    watching = asyncio.create_task(watch())
    tracemalloc.start(1)
    began_s = time.process_time()
    try:
        await refused(call, encoding, body)
        _, most_b = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        done = True
        await watching
    assert most_b < 16 * LIMIT_B
    assert time.process_time() - began_s < 1
    assert longest_s < 1


def test_the_bombs_are_what_they_are_called() -> None:
    """They inflate as far as they say, without an error on the way."""
    data = zlib.decompressobj(-zlib.MAX_WBITS)
    assert len(data.decompress(bomb(3))) == 3 * LIMIT_B
    assert data.eof
    assert len(BOMBS["300 MB, twice"][1]) < 8_000


def pack(body: bytes, encodings: list[str]) -> bytes:
    """Compress with each of the encodings in turn."""
    for encoding in encodings:
        body = PACKERS[encoding](body)
    return body


@settings(deadline=None)
@given(
    body=st.binary(max_size=200) | st.binary(max_size=20).map(lambda part: part * 5_000),
    encodings=st.lists(st.sampled_from(["gzip", "deflate", "identity"]), max_size=3),
    spoil=st.none() | st.tuples(st.integers(0, 300), st.binary(max_size=3)),
    limit_b=st.sampled_from([64, 1024, 200_000]),
)
def test_no_answer_inflates_over_the_limit(
    body: bytes, encodings: list[str], spoil: tuple[int, bytes] | None, limit_b: int
) -> None:
    """Whatever was sent: the body that was compressed, or an error of httpx's."""
    packed = pack(body, encodings)
    if spoil is not None:
        at, piece = spoil
        packed = packed[:at] + piece + packed[at + len(piece) :]
    headers = [(b"Content-Encoding", name.encode()) for name in encodings]
    try:
        left, found = inflated([*headers, (b"x", b"y")], packed, limit_b)
    except (httpx.DecodingError, httpx.RemoteProtocolError):
        return
    is_compressed = any(name != "identity" for name in encodings)
    assert len(found) <= limit_b or not is_compressed
    if is_compressed:
        assert left == [(b"x", b"y")]
        assert spoil is not None or found == body
