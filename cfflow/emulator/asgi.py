"""Plain ASGI: reads a request, sends a response, or drops the connection."""

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

# Decimals keep amounts exact; a float would turn 0.1 + 0.2 into another amount.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class ConnectionDropped(ConnectionAbortedError):
    """A fault should drop the connection, but the app was called in-process and has none."""


@dataclass(slots=True)
class RequestHeaders:
    """The request headers that the gateway reads; empty where they were not sent.

    origin: which page's browser sent the request; None: no browser, or a page of the same origin.
    """

    version: str = ""
    client_id: str = ""
    client_secret: str = ""
    request_id: bytes = b""
    idempotency_key: str = ""
    host: str = "127.0.0.1"
    origin: str | None = None


_FIELDS = {
    b"x-api-version": "version",
    b"x-client-id": "client_id",
    b"x-client-secret": "client_secret",
    b"x-idempotency-key": "idempotency_key",
    b"host": "host",
    b"origin": "origin",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A response. replayed: it was stored under the request's idempotency key."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    replayed: bool = False


def peer_address(scope: Scope, send: Send) -> str:
    """Return the address of the caller's socket, or "" if there is no socket.

    It does not trust `scope["client"]` first: with uvicorn, a caller on this machine can
    change that by a forwarding header.
    """
    transport = transport_of(send)
    peer = None if transport is None else transport.get_extra_info("peername")
    return str((peer or scope.get("client") or ("",))[0])


def read_headers(scope: Scope) -> RequestHeaders:
    """Return the headers of a request. If a name is repeated, the last value counts."""
    headers = RequestHeaders()
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            headers.request_id = value
        elif name in _FIELDS:
            setattr(headers, _FIELDS[name], value.decode("latin-1"))
    return headers


async def read_body(receive: Receive) -> bytes:
    """Return the whole body.

    Raises `Refused` (413) if it is over 1 MiB, `ConnectionResetError` if the client
    disconnects before its end.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client disconnected")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise Refused(413, "request_failed", "the body is too long", "invalid_request_error")
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_whole(receive: Receive) -> Receive:
    """Read the whole body, and return a `receive` that has it. Raises as `read_body` does."""
    whole: dict[str, Any] | None = {"type": "http.request", "body": await read_body(receive)}

    async def replay() -> MutableMapping[str, Any]:
        nonlocal whole
        message, whole = whole, None
        return await receive() if message is None else message

    return replay


def decode_body(raw: bytes) -> Mapping[str, Any]:
    """Return the JSON object; an empty one for no body. Raises `Refused` (400)."""
    if not raw:
        return {}
    try:
        body = _decode(raw)
    except (msgspec.DecodeError, ArithmeticError, ValueError, RecursionError):
        raise invalid("request_invalid", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise invalid("request_invalid", "the body is not a JSON object")
    return body


async def send_response(
    send: Send, response: Response, request_id: bytes, admission: Admission | None = None
) -> None:
    """Send a whole response. admission: the rate limit's decision, if the call has a limit."""
    await send(response_start(response, request_id, admission))
    await send({"type": "http.response.body", "body": response.body})


def response_start(
    response: Response, request_id: bytes, admission: Admission | None = None
) -> dict[str, Any]:
    """Return the ASGI message with status and headers."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        (b"x-request-id", request_id),
    ]
    if response.replayed:
        headers.append((b"x-idempotency-replayed", b"true"))
    if admission is not None:
        headers += _rate_limit_headers(admission)
    return {"type": "http.response.start", "status": response.status, "headers": headers}


class DatedSend:
    """An ASGI `send` that sets the `date` header of every response by the emulator's clock.

    A client can read that clock from it, also after time was skipped.
    """

    def __init__(self, send: Send, clock: Clock) -> None:
        self._send = send
        self._clock = clock
        # `transport_of` finds the socket by the object that uvicorn's `send` belongs to.
        self.__self__ = getattr(send, "__self__", None)

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send one message; the start of a response gets the date."""
        if message["type"] == "http.response.start":
            date = formatdate(self._clock.now(), usegmt=True).encode()
            message["headers"] = [*message.get("headers", ()), (b"date", date)]
        await self._send(message)


async def drop_connection(receive: Receive, send: Send) -> None:
    """Close the client's TCP connection without a byte of a response.

    ASGI has no message for this, but uvicorn's `send` belongs to the object that holds the
    transport. Raises `ConnectionDropped` when the app runs without a socket.
    """
    transport = transport_of(send)
    if transport is None:
        raise ConnectionDropped("a fault dropped this response")
    transport.abort()
    # Wait for uvicorn to see the disconnect: before that, it logs an unfinished response.
    while (await receive())["type"] != "http.disconnect":
        pass


def transport_of(send: Send) -> asyncio.Transport | None:
    """Return the transport that holds the socket, or None if the app runs without one."""
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
