"""What a call becomes when its connection ends, is early, late or half closed: at every byte.

Over real sockets, with and without TLS, on both loops. Whether something was sent is asked of the
server. The lean way of the client is used, where the limit of a call is one for all its parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import pytest

from cfflow.cashfree.sending import GatewayAnswer, GatewayRequest
from cfflow.cashfree.transport import NEVER_SENT, GatewaySockets, GatewayTransport
from cfflow.core.observation import Call
from tests.ports.test_transport import (
    Seen,
    Server,
    echo,
    hang,
    http,
    server_context,
    serving,
    set_reset_on_close,
    trusting_context,
    until,
)

TLS = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])

ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntext",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntext\r\n0\r\n\r\n",
    "hints": b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntext",
}


#: Read by conftest.py.
BOTH_LOOPS = True


def request_of(
    server: Server, body: bytes | None = b"pay", *, limit_s: float = 5.0, **more: Any
) -> GatewayRequest:
    """A request as the client makes it."""
    fields: dict[str, Any] = {"target": "/pg/x", "headers": {"x-id": "1"}, "verb": "POST"} | more
    origin = server.url
    return GatewayRequest(Call.PAY, origin=origin, body=body, limit_s=limit_s, **fields)


@contextlib.asynccontextmanager
async def sockets_to(server: Server, **limits: Any) -> AsyncIterator[GatewaySockets]:
    """Sockets that trust the test's authority."""
    sockets = GatewaySockets(server.url, ssl_context=trusting_context(), **limits)
    try:
        yield sockets
    finally:
        await sockets.aclose()


async def failure(sending: Awaitable[GatewayAnswer]) -> Exception:
    """The error of a call that must fail."""
    with pytest.raises(httpx.TransportError) as caught:
        await sending
    return caught.value


# The end


@TLS
@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_ends_at_any_byte_is_an_error_and_the_next_one_is_right(
    name: str, how: str, tls: bool
) -> None:
    """Each request is seen once; no error claims that nothing was sent."""
    wire, cut = ANSWERS[name], 0

    async def ends_early(_: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        if seen.body == b"cut":
            writer.write(wire[:cut])
            await writer.drain()
            if how == "rst":
                await asyncio.sleep(0.002)
                set_reset_on_close(writer)
                writer.transport.abort()
            else:
                writer.close()
        else:
            writer.write(http(seen.body))

    async with serving(ends_early, tls=tls) as server, sockets_to(server) as sockets:
        for cut in range(0, len(wire), 3):  # noqa: B007  the server reads it
            before = len(server.requests)
            error = await failure(sockets.send(request_of(server, b"cut")))
            assert isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))
            assert not isinstance(error, NEVER_SENT)
            assert (await sockets.send(request_of(server, b"next"))).body == b"next"
            assert [seen.body for seen in server.requests[before:]] == [b"cut", b"next"]
        await until(lambda: server.open == 1)


@TLS
async def test_a_body_that_ends_with_its_connection_is_whole_only_after_a_goodbye(
    tls: bool,
) -> None:
    """Over TLS anybody on the way can end a connection: without a goodbye it is cut off."""

    async def until_close(_: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ntext")
        await writer.drain()
        if seen.body == b"cut":
            plain = socket.socket(fileno=writer.get_extra_info("socket").fileno())
            plain.shutdown(socket.SHUT_WR)
            plain.detach()
        else:
            writer.close()

    async with serving(until_close, tls=tls) as server, sockets_to(server) as sockets:
        assert (await sockets.send(request_of(server, b"whole"))).body == b"text"
        if tls:
            error = await failure(sockets.send(request_of(server, b"cut")))
            assert not isinstance(error, NEVER_SENT)
        else:
            assert (await sockets.send(request_of(server, b"cut"))).body == b"text"
        await until(lambda: server.open == 0)
        assert len(server.requests) == 2


async def test_a_half_closed_connection_is_not_used_again() -> None:
    """The server ends its side behind the answer and goes on reading: nothing more is written."""

    async def half_close(_: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(http(seen.body))
        writer.write_eof()

    async with serving(half_close) as server, sockets_to(server) as sockets:
        for body in (b"one", b"two"):
            assert (await sockets.send(request_of(server, body))).body == body
        assert [seen.connection for seen in server.requests] == [0, 1]
        await until(lambda: server.open == 0)


async def test_the_end_is_noticed_when_the_loop_has_had_no_time_to_see_it() -> None:
    """Between the close and the next request nothing of the loop runs: the socket is asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(echo)
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def serve_one() -> socket.socket:
        taken, _ = listener.accept()
        taken.recv(4096)
        taken.sendall(http(b"text"))
        return taken

    async with sockets_to(server) as sockets:
        serving_one = asyncio.create_task(asyncio.to_thread(serve_one))
        assert (await sockets.send(request_of(server))).body == b"text"
        taken = await serving_one
        serving_one = asyncio.create_task(asyncio.to_thread(serve_one))
        await asyncio.sleep(0.05)
        # From here to the next write there is no turn of the loop.
        taken.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")
        assert (await sockets.send(request_of(server))).body == b"text"
        (await serving_one).close()
        taken.close()
    listener.close()


# Too early


@TLS
async def test_bytes_before_a_request_are_no_answer_to_it(tls: bool) -> None:
    """A server that speaks first: nothing is written to it, and the error proves that."""
    read = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"wrong"))
        with contextlib.suppress(OSError):
            read.append(await reader.read(100))
        writer.transport.abort()

    context = server_context() if tls else None
    listener = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=context)
    server = Server(echo)
    host = "https://localhost" if tls else "http://127.0.0.1"
    server.url = f"{host}:{listener.sockets[0].getsockname()[1]}"
    async with sockets_to(server) as sockets:
        connect = sockets._connect

        async def slowly(*args: Any) -> Any:
            connection = await connect(*args)
            await asyncio.sleep(0.05)
            return connection

        sockets._connect = slowly  # type: ignore[method-assign,assignment]  # so that the bytes are there first
        error = await failure(sockets.send(request_of(server)))
    assert isinstance(error, NEVER_SENT)
    await until(lambda: bool(read))
    assert read == [b""]
    listener.close()


@TLS
async def test_bytes_on_an_idle_connection_end_it(tls: bool) -> None:
    """They belong to no request, whatever they look like."""
    async with serving(tls=tls) as server, sockets_to(server) as sockets:
        await sockets.send(request_of(server, b"one"))
        (writer,) = server.writers.values()
        writer.write(http(b"wrong"))
        await until(lambda: server.open == 0)
        assert (await sockets.send(request_of(server, b"two"))).body == b"two"
        assert server.accepted == 2


@TLS
async def test_an_answer_before_the_whole_request_is_taken_and_its_connection_is_not_kept(
    tls: bool,
) -> None:
    """A 413: the rest of the request would be read as the next one."""
    taken = 0

    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b"too large", status="413 Content Too Large"))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await asyncio.sleep(1)
        writer.transport.abort()

    context = server_context() if tls else None
    listener = await asyncio.start_server(too_large, "127.0.0.1", 0, ssl=context, limit=1024)
    server = Server(echo)
    host = "https://localhost" if tls else "http://127.0.0.1"
    server.url = f"{host}:{listener.sockets[0].getsockname()[1]}"
    async with sockets_to(server) as sockets:
        for _ in range(2):
            answer = await sockets.send(request_of(server, b"x" * 2**25))
            assert (answer.status, answer.body) == (413, b"too large")
    assert taken == 2
    listener.close()


# Time: the kind of an error shows how far a call had come


async def test_the_limit_of_a_call_shows_in_which_part_it_ended() -> None:
    """Waiting for a connection and connecting prove that nothing was sent, the rest does not."""
    async with serving(hang) as server, sockets_to(server, max_connections=1) as sockets:
        first = asyncio.create_task(sockets.send(request_of(server)))
        await until(lambda: len(server.requests) == 1)
        error = await failure(sockets.send(request_of(server, limit_s=0.1)))
        assert type(error) is httpx.PoolTimeout
        server.go_on.set()
        await first
        server.go_on.clear()
        error = await failure(sockets.send(request_of(server, limit_s=0.1)))
        assert type(error) is httpx.ReadTimeout
        assert len(server.requests) == 2
        server.behave = echo
        assert (await sockets.send(request_of(server, b"next"))).body == b"next"


async def test_a_handshake_that_hangs_never_sent_anything() -> None:
    """The limit of the call ends it while it connects."""
    async with serving() as server:
        server.url = server.url.replace("http://127.0.0.1", "https://localhost")
        async with sockets_to(server) as sockets:
            error = await failure(sockets.send(request_of(server, limit_s=0.1)))
        assert type(error) is httpx.ConnectTimeout
        await until(lambda: server.open == 0)


async def test_a_request_that_is_not_read_ends_with_the_write_timeout() -> None:
    """A part of it may have arrived."""

    async def read_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1)
        writer.transport.abort()

    listener = await asyncio.start_server(read_nothing, "127.0.0.1", 0, limit=1)
    server = Server(echo)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with sockets_to(server) as sockets:
        error = await failure(sockets.send(request_of(server, b"x" * 2**25, limit_s=0.3)))
    assert type(error) is httpx.WriteTimeout
    listener.close()


@TLS
async def test_a_trickle_ends_at_the_limit_of_the_call(tls: bool) -> None:
    """A byte now and then keeps no call alive, and the connection is not used again."""

    async def trickle(_: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        for byte in http(b"x" * 100):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    async with serving(trickle, tls=tls) as server, sockets_to(server) as sockets:
        error = await failure(sockets.send(request_of(server, limit_s=0.2)))
        assert type(error) is httpx.ReadTimeout
        server.behave = echo
        assert (await sockets.send(request_of(server, b"next"))).body == b"next"
        await until(lambda: server.open == 1)


async def test_one_timer_serves_calls_with_shorter_and_longer_limits() -> None:
    """A limit is neither forgotten nor that of the call before."""
    async with serving() as server, sockets_to(server) as sockets:
        for limit_s in (0.05, 5.0, 0.05):
            await sockets.send(request_of(server, limit_s=limit_s))
        await asyncio.sleep(0.1)
        server.behave = hang
        call = asyncio.create_task(sockets.send(request_of(server, limit_s=5.0)))
        await asyncio.sleep(0.2)
        assert not call.done()
        server.go_on.set()
        await call
        server.go_on.clear()
        error = await failure(sockets.send(request_of(server, limit_s=0.1)))
        assert type(error) is httpx.ReadTimeout
        assert server.accepted == 1


# Cancellation


@TLS
async def test_cancelled_at_any_step_a_call_is_sent_once_at_most(tls: bool) -> None:
    """Fresh and kept connections; afterwards the only slot is free and the answer is right."""
    async with serving(tls=tls) as server, sockets_to(server, max_connections=1) as sockets:
        for steps in range(40):
            lost = b"lost-%d" % steps
            call = asyncio.create_task(sockets.send(request_of(server, lost)))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            kept = b"kept-%d" % steps
            assert (await sockets.send(request_of(server, kept))).body == kept
        bodies = [seen.body for seen in server.requests]
        assert len(bodies) == len(set(bodies))
        await until(lambda: server.open == 1)


# What is written


UNFIT = ("a\r\nb: c", "a\nb", "a\rb", "a\0", "é", "\x7f")


@pytest.mark.parametrize(
    "more",
    [
        *({"headers": {"x-id": text}} for text in UNFIT),
        *({"headers": {name: "1"}} for name in ("a\r\nb", "a\n", "a\0")),
        *({"target": text} for text in ("/a b", "/a\r\nb", "/a\n", "/é", "/\0")),
    ],
)
async def test_no_line_break_gets_out_in_a_path_or_a_header(more: dict[str, Any]) -> None:
    """The call is refused and nothing is sent, not even a connection opened."""
    async with serving() as server, sockets_to(server) as sockets:
        error = await failure(sockets.send(request_of(server, **more)))
        assert type(error) is httpx.LocalProtocolError
        assert (server.accepted, server.requests) == (0, [])


@pytest.mark.parametrize(
    ("method", "url", "headers", "content"),
    [
        ("GET", "/", {"x-id": "a\r\nb: c"}, b""),
        ("GET", "/", {b"x\nid": b"a"}, b""),
        ("GET", "/", {b"x id": b"a"}, b""),
        ("G ET", "/", {}, b""),
        ("CONNECT", "/", {}, b""),
        ("POST", "/", {"content-length": "2"}, b"abc"),
        ("POST", "/", {"content-length": "4"}, b"abc"),
    ],
)
async def test_what_cannot_be_framed_is_refused_of_httpx_too(
    method: str, url: str, headers: Any, content: bytes
) -> None:
    """Whatever `httpx.Request` lets through; nothing is sent."""
    async with serving() as server:
        transport = GatewayTransport(server.url)
        request = httpx.Request(method, server.url + url, headers=headers, content=content)
        with pytest.raises(httpx.LocalProtocolError):
            await transport.handle_async_request(request)
        await transport.aclose()
        assert (server.accepted, server.requests) == (0, [])


async def test_a_body_of_unknown_length_is_sent_with_its_length() -> None:
    """No request is chunked: a server that does not know that would see two."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"body"

    async with serving() as server:
        async with httpx.AsyncClient(transport=GatewayTransport(server.url)) as client:
            assert (await client.post(server.url, content=parts())).content == b"one body"
        assert b"chunked" not in server.requests[0].head


async def test_a_request_to_another_origin_is_not_sent() -> None:
    """The client's base URL and the sockets' must be one."""
    async with serving() as server, serving() as other, sockets_to(server) as sockets:
        error = await failure(sockets.send(request_of(other)))
        assert isinstance(error, httpx.UnsupportedProtocol)
        assert (server.accepted, other.accepted) == (0, 0)


def test_sockets_of_another_loop_are_refused() -> None:
    """A connection of a loop that has ended would never wake its caller."""
    sockets = GatewaySockets("http://127.0.0.1:1")
    request = partial(
        GatewayRequest, Call.PAY, verb="GET", target="/", headers={}, body=None, limit_s=1.0
    )

    async def send() -> None:
        await sockets.send(request(origin="http://127.0.0.1:1"))

    with pytest.raises(httpx.ConnectError):
        asyncio.run(send())
    with pytest.raises(RuntimeError, match="nothing was sent"):
        asyncio.run(send())


# Addresses


@pytest.mark.parametrize("dead", ["refuses", "is silent"])
async def test_the_next_address_is_tried_when_one_does_not_answer(
    dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network without IPv6 costs a quarter of a second at most, not the call."""
    async with serving() as server:
        port = int(server.url.rpartition(":")[2])
        full = _full_listener() if dead == "is silent" else None
        first = ("127.0.0.1", full.getsockname()[1] if full else 1)
        found = [(socket.AF_INET, 1, 6, "", each) for each in (first, ("127.0.0.1", port))]

        async def resolve(*_: Any, **__: Any) -> Any:
            return found

        monkeypatch.setattr(
            "cfflow.cashfree.dialing._resolved",
            lambda *_: _after(resolve, lambda each: [(f, a) for f, _, _, _, a in each]),
        )
        server.url = server.url.replace("127.0.0.1", "localhost")
        async with sockets_to(server) as sockets:
            assert (await sockets.send(request_of(server))).body == b"pay"
        assert server.accepted == 1
        if full is not None:
            full.close()


async def _after(call: Callable[[], Awaitable[Any]], change: Callable[[Any], Any]) -> Any:
    return change(await call())


def _full_listener() -> socket.socket:
    """A listener whose queue is full: to connect to it takes for ever."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    for _ in range(4):
        waiting = socket.socket()
        waiting.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            waiting.connect(listener.getsockname())
        _KEPT_OPEN.append(waiting)
    return listener


_KEPT_OPEN: list[socket.socket] = []
