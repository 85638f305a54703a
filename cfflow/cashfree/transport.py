"""The sockets under the gateway client: one origin, HTTP/1.1, nothing sent twice.

httpx's own transport walks over all its connections for every request and slows down as
they grow. This one keeps its idle connections on a stack: taking and giving back cost the
same with one connection or a hundred (docs/adr/0002-http-transport.md has the numbers).

What a payment needs and a general HTTP client need not care about:

- a request is written at most once. There is no retry in here, not even of a request that
  seems not to have reached the gateway: only the caller can judge what a second attempt would cost.
- an idle connection is checked before it is used again. Writing a payment to one that the
  other side has closed would turn a safe call into one of unknown outcome.
- a connection is used again only after an answer that ended cleanly, with nothing behind
  it; bytes left over would be taken for the answer to the next payment.
- it speaks to one origin. A redirect cannot carry the credentials, or a card, elsewhere.

Not here: proxies, HTTP/2, and streaming of answers, which are small and read as a whole.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore
import httpx

from cfflow.cashfree.inflate import inflated

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


class GatewayTransport(httpx.AsyncBaseTransport):
    """Carries the requests of an `httpx.AsyncClient` to one origin.

    `base_url` names the origin; its path is not looked at. An https origin is verified
    against `ssl_context`, by default httpx's own (certifi's authorities, or those of
    `SSL_CERT_FILE`). At most `max_connections` are open, idle ones included, and a request
    waits for one as long as its pool timeout permits. A connection that was idle for
    `keepalive_expiry_s` seconds is closed; keep it below the gateway's own limit. An answer
    over `answer_bytes_max` is refused, as it came and as what it inflates to.

    It raises what httpx raises; `NEVER_SENT` has those that prove that nothing was sent. It
    belongs to the event loop that first uses it.
    """

    def __init__(
        self,
        base_url: httpx.URL | str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 100,
        keepalive_expiry_s: float = 30.0,
        answer_bytes_max: int = 1024 * 1024,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"Expected an http:// or https:// URL, got {str(url)!r}")
        if min(max_connections, keepalive_expiry_s, answer_bytes_max) <= 0:
            raise ValueError("The limits of a transport must be positive")
        self._origin = _url(url).origin
        self._keepalive_expiry_s = keepalive_expiry_s
        self._answer_bytes_max = answer_bytes_max
        self._backend = httpcore.AnyIOBackend()
        self._ssl_context: ssl.SSLContext | None = None
        if url.scheme == "https":
            self._ssl_context = ssl_context or httpx.create_ssl_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        # A connection is opened only when none is idle, so as many slots as connections
        # bound the open ones too.
        self._slots = asyncio.Semaphore(max_connections)
        self._open: set[_Connection] = set()
        # Used from the right, aged out from the left: the longest idle one is the first.
        self._idle: deque[_Connection] = deque()
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, once. After `aclose`: RuntimeError, with nothing sent."""
        call = httpcore.Request(
            request.method,
            _url(request.url),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        if call.url.origin != self._origin:
            raise httpx.UnsupportedProtocol(
                f"Expected a request to {self._origin}, got one to {call.url.origin}"
            )
        time_limits_s = request.extensions.get("timeout", {})
        self._require_open()
        await self._wait_for_slot(time_limits_s.get("pool"))
        try:
            self._require_open()
            with _raise_as_httpx():
                return await self._exchange(call, time_limits_s.get("connect"))
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close every connection, those in use too: their requests end in an error."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        for connection in tuple(self._open):
            await self._discard(connection)

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("The gateway transport is closed; nothing was sent")

    async def _wait_for_slot(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout(f"No connection became free in {timeout_s} s") from None

    async def _exchange(
        self, request: httpcore.Request, connect_timeout_s: float | None
    ) -> httpx.Response:
        connection = await self._take(connect_timeout_s)
        try:
            answer = await connection.handle_async_request(request)
            body = await self._read(answer)
            # httpx would inflate it to whatever size it has.
            headers, body = inflated(answer.headers, body, self._answer_bytes_max)
        except BaseException:
            # Cancelled, timed out or broken: what is still to come on this connection
            # must not meet another request.
            await self._discard(connection)
            raise
        if connection.is_clean(answer) and not self._closed:
            self._give_back(connection)
        else:
            await self._discard(connection)
        return httpx.Response(
            answer.status,
            headers=headers,
            content=body,
            extensions=answer.extensions,
        )

    async def _read(self, answer: httpcore.Response) -> bytes:
        body = bytearray()
        async for part in answer.aiter_stream():
            body += part
            if len(body) > self._answer_bytes_max:
                raise httpx.RemoteProtocolError(f"Over {self._answer_bytes_max} bytes of answer")
        await answer.aclose()
        return bytes(body)

    async def _take(self, connect_timeout_s: float | None) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            # Looks at the socket too: an idle one has nothing to read but its end.
            if not connection.has_expired():
                return connection
            await self._discard(connection)
        connection = await self._connect(connect_timeout_s)
        self._open.add(connection)
        return connection

    async def _connect(self, timeout_s: float | None) -> _Connection:
        host = self._origin.host.decode("ascii")
        stream = await self._backend.connect_tcp(host, self._origin.port, timeout_s)
        try:
            if self._ssl_context is not None:
                tls = await stream.start_tls(self._ssl_context, host, timeout_s)
            self._require_open()
        except BaseException:
            # A handshake that is cancelled leaves its socket open.
            await stream.aclose()
            raise
        return _Connection(
            self._origin,
            _OneWrite(stream if self._ssl_context is None else tls),
            keepalive_expiry=self._keepalive_expiry_s,
        )

    def _give_back(self, connection: _Connection) -> None:
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Close what was idle too long, also when no further request comes."""
        while self._idle:
            left_s = self._idle[0].idle_since_s + self._keepalive_expiry_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            else:
                await self._discard(self._idle.popleft())

    async def _discard(self, connection: _Connection) -> None:
        # The socket is closed before anything here can be cancelled.
        self._open.discard(connection)
        await connection.aclose()


class _OneWrite(httpcore.AsyncNetworkStream):
    """Sends head and body of a request in one write, when its answer is waited for.

    httpcore writes each part by itself; the calls into the kernel cost as much as the rest.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self._limit_s: float | None = None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  httpcore's name
        """Keep a part of the request until the answer is waited for."""
        self._waiting += buffer
        self._limit_s = timeout

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  httpcore's name
        """Send what waits, then read. A server that closed may have sent its answer before."""
        if self._waiting:
            request = bytes(self._waiting)
            self._waiting.clear()
            with suppress(httpcore.WriteError):
                await self._stream.write(request, self._limit_s)
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return a property of the socket."""
        return self._stream.get_extra_info(info)


class _Connection(httpcore.AsyncHTTP11Connection):
    """One socket, with a question httpcore does not ask: whether anything is left on it."""

    idle_since_s = 0.0

    def is_clean(self, answer: httpcore.Response) -> bool:
        """Whether the answer ended, the connection stays open, and nothing follows.

        Bytes behind the answer were read along with it, so the socket no longer shows them:
        they wait in the HTTP parser, or undecrypted in the TLS layer.
        """
        if not self.is_idle():
            return False
        # httpcore offers no public way to ask its parser. Should the name change, then no
        # connection is used twice: slow, but never wrong.
        parser = getattr(self, "_h11_state", None)
        if parser is None or parser.trailing_data != (b"", False):
            return False
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            tls.read(1)
        except ssl.SSLError as error:
            return isinstance(error, ssl.SSLWantReadError)
        return False


def _url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )


@contextmanager
def _raise_as_httpx() -> Iterator[None]:
    """Translate httpcore's exceptions; httpx gives its own the same names."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raised: type[httpx.TransportError] = getattr(httpx, type(error).__name__)
        raise raised(str(error)) from error
    except OSError as error:
        # A TLS record that does not decrypt, for one: httpx lets it through as it is.
        # Connecting has errors of its own, so the request may have been sent.
        raise httpx.ReadError(str(error)) from error
