"""One HTTP exchange in plain ASGI: read the request, send the answer, or drop the line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from decimal import Decimal
from email.utils import formatdate
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from cfflow.emulator.clock import Clock
from cfflow.emulator.limits import Admission
from cfflow.emulator.refusals import Refused, invalid

BODY_BYTES_MAX = 1 << 20

# Amounts stay as they were written: a float would turn 0.1 + 0.2 into another amount.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class ConnectionDropped(ConnectionAbortedError):
    """A lost answer where there is no connection to drop: the app was called in-process."""


@dataclass(slots=True)
class Headers:
    """The request headers that mean something here; empty where they were not sent."""

    version: str = ""
    client_id: str = ""
    client_secret: str = ""
    request_id: bytes = b""
    idempotency_key: str = ""
    host: str = "127.0.0.1"


_FIELDS = {
    b"x-api-version": "version",
    b"x-client-id": "client_id",
    b"x-client-secret": "client_secret",
    b"x-idempotency-key": "idempotency_key",
    b"host": "host",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: `replayed` says that it was given before under this key."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    replayed: bool = False


def peer_address(scope: Scope, send: Send) -> str:
    """The address that the caller's connection comes from; empty where there is none.

    The socket's own word: uvicorn lets a caller on this machine rewrite `scope["client"]`
    by a forwarding header.
    """
    transport = transport_of(send)
    peer = None if transport is None else transport.get_extra_info("peername")
    return str((peer or scope.get("client") or ("",))[0])


def read_headers(scope: Scope) -> Headers:
    """The headers of a request, each name once."""
    headers = Headers()
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            headers.request_id = value
        elif name in _FIELDS:
            setattr(headers, _FIELDS[name], value.decode("latin-1"))
    return headers


async def read_body(receive: Receive) -> bytes:
    """The whole body.

    Raises `Refused` (413) for one over 1 MiB, `ConnectionError` when the caller hung up
    before its end.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the caller hung up")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise Refused(413, "request_failed", "the body is too long", "invalid_request_error")
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def decode_body(raw: bytes) -> Mapping[str, Any]:
    """A JSON object; empty for no body at all. Raises `Refused` (400)."""
    if not raw:
        return {}
    try:
        body = _decode(raw)
    except (msgspec.DecodeError, ArithmeticError, ValueError, RecursionError):
        raise invalid("request_invalid", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise invalid("request_invalid", "the body is not a JSON object")
    return body


async def send_answer(
    send: Send, answer: Answer, request_id: bytes, admission: Admission | None = None
) -> None:
    """Send the whole answer, under the request id that the caller may ask about later.

    admission: what the rate limit said of the call, if it has one.
    """
    await send(answer_start(answer, request_id, admission))
    await send({"type": "http.response.body", "body": answer.body})


def answer_start(
    answer: Answer, request_id: bytes, admission: Admission | None = None
) -> dict[str, Any]:
    """Status and headers, as ASGI wants them."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        (b"x-request-id", request_id),
    ]
    if answer.replayed:
        headers.append((b"x-idempotency-replayed", b"true"))
    if admission is not None:
        headers += _rate_limit_headers(admission)
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


class DatedSend:
    """An ASGI `send` that dates every answer by the emulator's clock, as the gateway does.

    A client can learn from it what that clock shows, also after time was skipped.
    """

    def __init__(self, send: Send, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        # `transport_of` finds the socket by the object that uvicorn's `send` belongs to.
        self.__self__ = getattr(send, "__self__", None)

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Pass one message on; the one that begins an answer gets the date."""
        if message["type"] == "http.response.start":
            date = formatdate(self._clock.now(), usegmt=True).encode()
            message["headers"] = [*message.get("headers", ()), (b"date", date)]
        await self._send(message)


async def drop_connection(receive: Receive, send: Send) -> None:
    """Close the caller's TCP connection without a byte of an answer.

    ASGI has no word for this, but uvicorn's `send` belongs to the object that holds the
    transport. Raises `ConnectionDropped` when the app runs without a socket.
    """
    transport = transport_of(send)
    if transport is None:
        raise ConnectionDropped("the emulator was told to lose this answer")
    transport.abort()
    # Returning before uvicorn has noticed would make it complain of an unfinished answer.
    while (await receive())["type"] != "http.disconnect":
        pass


def transport_of(send: Send) -> asyncio.Transport | None:
    """What holds the socket; None when the app runs without one."""
    transport: asyncio.Transport | None = getattr(
        getattr(send, "__self__", None), "transport", None
    )
    return transport


def _rate_limit_headers(admission: Admission) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit", str(admission.limit).encode()),
        (b"x-ratelimit-remaining", str(admission.remaining).encode()),
        (b"x-ratelimit-retry", str(admission.retry_s).encode()),
        (b"x-ratelimit-type", admission.counted_by.encode()),
    ]
