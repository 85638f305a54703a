"""The sockets under the gateway client: one origin, HTTP/1.1, nothing sent twice.

What a payment needs and a general HTTP client need not care about:

- a request is written at most once. There is no retry in here, not even of a request that
  seems not to have reached the gateway: only the caller can judge what a second attempt would cost.
- an idle connection is checked before it is used again. Writing a payment to one that the
  other side has closed would turn a safe call into one of unknown outcome.
- a connection is used again only after an answer that ended cleanly, with nothing behind
  it; bytes left over would be taken for the answer to the next payment.
- it speaks to one origin. A redirect cannot carry the credentials, or a card, elsewhere.

`GatewaySockets` is what the client uses, without an object of httpx per call.
`GatewayTransport` is the same behind `httpx.AsyncBaseTransport`, for whoever has httpx's client.
docs/adr/0027-own-protocol-and-httptools.md has the numbers.

Not here: HTTP/2, and streaming of answers, which are small and read as a whole.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncIterable
from typing import Final, cast

import httpx

from cfflow.cashfree.answers import AnswerReader
from cfflow.cashfree.connection import Connection, TimeLimits
from cfflow.cashfree.dialing import open_socket
from cfflow.cashfree.inflate import inflated
from cfflow.cashfree.proxy import Proxy
from cfflow.cashfree.sending import GatewayAnswer, GatewayRequest, Pairs, origin_of, port_of

__all__ = ["NEVER_SENT", "GatewaySockets", "GatewayTransport"]

# Raised before a byte of the request was written. After any other httpx.TransportError the
# gateway may have the request: a timeout, a reset or a broken answer proves nothing. This
# speaks of one request, so the client must not follow redirects (httpx's default): there, an
# error of the second request would hide that the first was sent.
NEVER_SENT: tuple[type[httpx.TransportError], ...] = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(rb"[\x21-\x7e]+")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class GatewaySockets:
    """Sends requests to the origin of `base_url`, whose path is not looked at.

    An https origin is verified against `ssl_context`, by default httpx's own (certifi's
    authorities, or those of `SSL_CERT_FILE`). At most `max_connections` are open, idle ones
    included, and a request waits for one as long as its limit permits. A connection that was idle
    for `keepalive_expiry_s` seconds is closed; keep it below the gateway's own limit. An answer
    over `answer_bytes_max` is refused, as it came and as what it inflates to. `proxy` is asked for
    a tunnel to the origin.

    It raises what httpx raises; `never_sent` has those that prove that nothing was sent. It
    belongs to the event loop that first uses it.
    """

    never_sent = NEVER_SENT

    def __init__(
        self,
        base_url: httpx.URL | str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 100,
        keepalive_expiry_s: float = 30.0,
        answer_bytes_max: int = 1024 * 1024,
        proxy: Proxy | None = None,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"Expected an http:// or https:// URL, got {str(url)!r}")
        if min(max_connections, keepalive_expiry_s, answer_bytes_max) <= 0:
            raise ValueError("The limits of a transport must be positive")
        self.origin = origin_of(url)
        self._address = (url.raw_host.decode("ascii"), port_of(url))
        self._host_line = f"host: {url.netloc.decode('ascii')}\r\n"
        self._proxy = proxy
        self._keepalive_expiry_s = keepalive_expiry_s
        self._answer_bytes_max = answer_bytes_max
        self._ssl_context: ssl.SSLContext | None = None
        if url.scheme == "https":
            self._ssl_context = ssl_context or httpx.create_ssl_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        # A connection is opened only when none is idle, so as many slots as connections
        # bound the open ones too.
        self._slots = asyncio.Semaphore(max_connections)
        self._open: set[Connection] = set()
        # Used from the right, aged out from the left: the longest idle one is the first.
        self._idle: deque[Connection] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def send(self, request: GatewayRequest) -> GatewayAnswer:
        """Send a request, once, within its `limit_s`.

        The kind of a timeout shows how far the call had come: `httpx.PoolTimeout` and
        `httpx.ConnectTimeout` prove that nothing was sent. After `aclose`: RuntimeError, with
        nothing sent.
        """
        if request.origin != self.origin:
            raise _elsewhere(self.origin, request.origin)
        wire = self._wire(request)
        ends_at = asyncio.get_running_loop().time() + request.limit_s
        reader = await self.exchange(wire, TimeLimits(ends_at=ends_at))
        pairs, body = self._inflated(reader)
        return GatewayAnswer(request, reader.status, pairs, body)

    async def exchange(
        self, wire: bytes, limits: TimeLimits, *, to_head: bool = False
    ) -> AnswerReader:
        """Write a whole request, head and body, and return its answer, read whole."""
        self._require_open()
        loop = self._own_loop()
        await self._wait_for_slot(limits)
        try:
            self._require_open()
            connection = self._take(loop) or await self._connect(limits)
            reader = await connection.exchange(
                wire, AnswerReader(self._answer_bytes_max, to_head=to_head), limits
            )
            if connection.is_clean(reader) and not self._is_closed:
                self._give_back(connection, loop)
            else:
                connection.abort()
            return reader
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close every connection, those in use too: their requests end in an error."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        for connection in tuple(self._open):
            connection.fail(httpx.ReadError("The transport was closed"))
        # The loop closes a socket when it runs next, and TLS takes one turn more.
        for _ in range(4):
            if self._open:
                await asyncio.sleep(0)

    def _wire(self, request: GatewayRequest) -> bytes:
        """Return a request as it is written.

        Raises `httpx.LocalProtocolError`, with nothing sent, for a path or a header that would not
        stay on its line.
        """
        headers, body = request.headers, request.body
        parts = [request.target, *headers, *headers.values()]
        text = "".join(parts)
        # Both scan at the speed of memory: printable ASCII has no line break and no NUL.
        if not (text.isascii() and text.isprintable()) or " " in request.target:
            raise httpx.LocalProtocolError("A path or a header that no request can carry")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        length = "" if body is None else f"content-length: {len(body)}\r\n"
        head = f"{request.verb} {request.target} HTTP/1.1\r\n{self._host_line}{lines}{length}\r\n"
        return head.encode("ascii") + (body or b"")

    def _inflated(self, reader: AnswerReader) -> tuple[Pairs, bytes]:
        """Return an answer's headers and body as if it had not been compressed."""
        if not reader.is_encoded:
            return reader.pairs, reader.body
        # httpx would inflate it to whatever size it has.
        headers, body = inflated(reader.pairs, reader.body, self._answer_bytes_max)
        return list(headers), body

    def _require_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("The gateway transport is closed; nothing was sent")

    async def _wait_for_slot(self, limits: TimeLimits) -> None:
        if not self._slots.locked():
            # It never waits here, so it needs no time limit.
            await self._slots.acquire()
            return
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(limits.at(now, limits.pool_s)):
                await self._slots.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("No connection became free in time") from None

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop: a connection of another one would never wake its caller."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise RuntimeError("The transport belongs to another event loop; nothing was sent")
        return loop

    def _take(self, loop: asyncio.AbstractEventLoop) -> Connection | None:
        """Return an idle connection that can be written to, None where there is none."""
        # A loop that was busy may be late to close what is too old.
        expired_at = loop.time() - self._keepalive_expiry_s
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since_s > expired_at and connection.is_usable():
                return connection
            connection.abort()
        return None

    async def _connect(self, limits: TimeLimits) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self._open.discard)
        self._open.add(connection)
        try:
            async with asyncio.timeout_at(limits.at(loop.time(), limits.connect_s)):
                await self._establish(connection, loop)
            self._require_open()
        except BaseException as error:  # noqa: BLE001  a cancellation leaves no socket open either
            connection.abort()
            self._open.discard(connection)
            raise _before_the_request(error) from None
        return connection

    async def _establish(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        host, port = self._address
        opened = await open_socket(host, port, self._proxy)
        # From here on the loop owns the socket, and closes it when this is cancelled.
        if self._ssl_context is None:
            await loop.create_connection(lambda: connection, sock=opened)
            return
        below, _ = await loop.create_connection(asyncio.Protocol, sock=opened)
        try:
            tls = await loop.start_tls(below, connection, self._ssl_context, server_hostname=host)
        except BaseException:
            below.abort()
            raise
        if tls is None:
            raise ConnectionResetError("The connection ended in the handshake")
        connection.tls_made(tls, below)

    def _give_back(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._keepalive_expiry_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what was idle too long, also when no further request comes."""
        self._sweeper = None
        expired_at = loop.time() - self._keepalive_expiry_s
        while self._idle and self._idle[0].idle_since_s <= expired_at:
            self._idle.popleft().abort()
        if self._idle:
            next_at = self._idle[0].idle_since_s + self._keepalive_expiry_s
            self._sweeper = loop.call_at(next_at, self._sweep, loop)


class GatewayTransport(GatewaySockets, httpx.AsyncBaseTransport):
    """`GatewaySockets` for an `httpx.AsyncClient`, with the same arguments.

    `never_sent` holds for one request: an `httpx.AsyncClient` that follows redirects may have sent
    another one before.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, once. After `aclose`: RuntimeError, with nothing sent."""
        limits = request.extensions.get("timeout", {})
        if (origin := origin_of(request.url)) != self.origin:
            raise _elsewhere(self.origin, origin)
        wire = _wire_of(request, await _body_of(request))
        reader = await self.exchange(
            wire,
            TimeLimits(*(limits.get(name) for name in ("pool", "connect", "write", "read"))),
            to_head=request.method == "HEAD",
        )
        headers, body = self._inflated(reader)
        return httpx.Response(
            reader.status, headers=headers, content=body, extensions={"http_version": b"HTTP/1.1"}
        )


def _before_the_request(error: BaseException) -> BaseException:
    """Return the error for a connection that could not be made: it proves that nothing was sent."""
    if isinstance(error, TimeoutError):
        return httpx.ConnectTimeout("No connection in time")
    if isinstance(error, OSError):
        return httpx.ConnectError(f"{type(error).__name__}: {error}")
    return error


def _elsewhere(origin: str, other: str) -> httpx.UnsupportedProtocol:
    return httpx.UnsupportedProtocol(f"Expected a request to {origin}, got one to {other}")


async def _body_of(request: httpx.Request) -> bytes:
    stream = cast("AsyncIterable[bytes]", request.stream)
    return b"".join([part async for part in stream])


def _wire_of(request: httpx.Request, body: bytes) -> bytes:
    """Return a request of httpx as it is written; a body without a length is given one.

    Raises `httpx.LocalProtocolError`, with nothing sent, for what cannot be framed.
    """
    verb, target = request.method.encode("ascii"), request.url.raw_path
    pairs = [pair for pair in request.headers.raw if pair[0].lower() != b"transfer-encoding"]
    lengths = [value for name, value in pairs if name.lower() == b"content-length"]
    if len(pairs) < len(request.headers.raw) and not lengths:
        pairs.append((b"content-length", b"%d" % len(body)))
    elif lengths != ([b"%d" % len(body)] if lengths or body else []):
        raise httpx.LocalProtocolError("The length of a request is not that of its body")
    fits = all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in pairs)
    fits = fits and bool(_TOKEN.fullmatch(verb) and _TARGET.fullmatch(target))
    if not fits or verb == b"CONNECT":
        raise httpx.LocalProtocolError("A path or a header that no request can carry")
    head = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (verb, target, head, body)
