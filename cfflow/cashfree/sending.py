"""One call as it goes over HTTP and what comes back, without a library's objects in between.

`GatewayRequest` and `GatewayAnswer` are plain records: to build httpx's own costs more than the
rest of a call. A transport of the caller's own still speaks httpx: `sender_of` wraps it.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import httpx

from cfflow.core.observation import Call
from cfflow.errors import ConfigError

__all__ = [
    "Fields",
    "GatewayAnswer",
    "GatewayRequest",
    "Pairs",
    "Sender",
    "origin_of",
    "port_of",
    "sender_of",
]

#: Headers as they came, in their order.
Pairs = list[tuple[bytes, bytes]]

#: The same by lower-case name; of a header that came twice the first counts.
Fields = dict[bytes, bytes]

#: A foreign transport has limits of its own, whose errors say more than the deadline's.
_LIMITS_FIRST_S: Final = 0.05
_LIMITS: Final = ("connect", "read", "write", "pool")


class GatewayRequest:
    """One request: `target` is its path, `limit_s` the time for the call as a whole.

    `body` is None for a request without one. It has no repr of its own, because the headers have
    the credentials and the body may have a card number.
    """

    __slots__ = ("body", "call", "headers", "limit_s", "origin", "target", "verb")

    def __init__(
        self,
        call: Call,
        *,
        verb: str,
        origin: str,
        target: str,
        headers: dict[str, str],
        body: bytes | None,
        limit_s: float,
    ) -> None:
        self.call = call
        self.verb = verb
        self.origin = origin
        self.target = target
        self.headers = headers
        self.body = body
        self.limit_s = limit_s


class GatewayAnswer:
    """One answer, read whole. `request` is what it answers."""

    __slots__ = ("_fields", "body", "pairs", "request", "status")

    def __init__(self, request: GatewayRequest, status: int, pairs: Pairs, body: bytes) -> None:
        self.request = request
        self.status = status
        self.pairs = pairs
        self.body = body
        self._fields: Fields | None = None

    @property
    def fields(self) -> Fields:
        """The headers by lower-case name."""
        if self._fields is None:
            self._fields = {name.lower(): value for name, value in reversed(self.pairs)}
        return self._fields

    def header(self, name: bytes) -> str:
        """Return a header's text, "" where there is none; `name` is in lower case."""
        value = self.fields.get(name)
        return "" if value is None else value.decode("latin-1")


class Sender(Protocol):
    """Carries a request to the gateway, once.

    `never_sent` are the errors that prove that not a byte of the request was written. Any other
    leaves the outcome of a step unknown.
    """

    @property
    def never_sent(self) -> tuple[type[Exception], ...]:
        """The errors that prove that nothing was sent."""
        ...

    async def send(self, request: GatewayRequest) -> GatewayAnswer:
        """Return the answer, read whole; raises `httpx.TransportError`."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class ForeignSender:
    """Sends over any `httpx.AsyncBaseTransport`, through httpx's own objects.

    cfflow cannot know what such a transport does: it may repeat a request, or raise
    `ConnectTimeout` for one that was written. So none of its errors proves that nothing was sent,
    unless it names those that do in an attribute `never_sent`.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self.never_sent: tuple[type[Exception], ...] = getattr(transport, "never_sent", ())

    async def send(self, request: GatewayRequest) -> GatewayAnswer:
        """Send a request and read its answer within its time."""
        limit_s = request.limit_s
        async with asyncio.timeout(limit_s + _LIMITS_FIRST_S):
            response = await self._transport.handle_async_request(
                httpx.Request(
                    request.verb,
                    request.origin + request.target,
                    content=request.body,
                    headers=request.headers,
                    extensions={
                        "timeout": dict.fromkeys(_LIMITS, limit_s),
                        "cfflow.call": request.call,
                    },
                )
            )
            body = await response.aread()
        return GatewayAnswer(request, response.status_code, response.headers.raw, body)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()


def sender_of(transport: httpx.AsyncBaseTransport | Sender) -> Sender:
    """Return what sends over a transport; raises `ConfigError` for what is none."""
    if isinstance(transport, httpx.AsyncBaseTransport):
        return ForeignSender(transport)
    if not callable(getattr(transport, "send", None)):
        raise ConfigError("transport must be an httpx.AsyncBaseTransport")
    return transport


def origin_of(url: httpx.URL) -> str:
    """Return the scheme, host and port of a URL; two that are equal are the same server."""
    return f"{url.scheme}://{url.raw_host.decode('ascii')}:{port_of(url)}"


def port_of(url: httpx.URL) -> int:
    """Return the port of a URL, or its scheme's own."""
    return url.port or (443 if url.scheme == "https" else 80)
