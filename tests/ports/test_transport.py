"""The gateway transport over real sockets: what it keeps, what it refuses, what it never does.

Each test runs its own server in the test's event loop, once on asyncio's and once on uvloop. The
server counts connections and keeps every request it has read, so "was it sent, and how often" is
asked of the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import random
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from cfflow.cashfree.transport import NEVER_SENT, GatewayTransport

# For these tests only: an authority that is not trusted, and what it signed for localhost.
# Valid from 2020 to 2120.
TEST_ONLY_CA = """
-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIBATAKBggqhkjOPQQDAjAeMRwwGgYDVQQDDBNjZmZsb3cg
dGVzdC1vbmx5IENBMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAe
MRwwGgYDVQQDDBNjZmZsb3cgdGVzdC1vbmx5IENBMFkwEwYHKoZIzj0CAQYIKoZI
zj0DAQcDQgAE6JTFtJ0ybX6m81+sq0ZR/kJwfo5drhnD707GNjYV/1yVFAdlKfyE
1bPS9ZIObMvqEI1+MX9zFRV732f3DiqAxKNCMEAwDwYDVR0TAQH/BAUwAwEB/zAO
BgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFLE1lXFncXV7efPnLmNCzfEoKKvOMAoG
CCqGSM49BAMCA0gAMEUCIC+2sMT04cnmIzjiodqCbdVhyCdUcVfMeOlFLN57u7FY
AiEAut/PKOh1Lhji926XfdcU9E1i8uWuM8nBQzW3zG8Xz2c=
-----END CERTIFICATE-----
"""
TEST_ONLY_SERVER = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5IjR3eQauveMunqC
3Zs/NCB46pv0m9g5MHbPt7igzr+hRANCAAS2UEA26FD5xLCxo+7hft8NUYDZHgZa
CCUr8o8/m+floZay1RQmCbIfEPfPJIaM0T4+UrJdNpgul9LEYYFDBICi
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIBAjAKBggqhkjOPQQDAjAeMRwwGgYDVQQDDBNjZmZsb3cg
dGVzdC1vbmx5IENBMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAU
MRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS2
UEA26FD5xLCxo+7hft8NUYDZHgZaCCUr8o8/m+floZay1RQmCbIfEPfPJIaM0T4+
UrJdNpgul9LEYYFDBICio3gwdjAUBgNVHREEDTALgglsb2NhbGhvc3QwCQYDVR0T
BAIwADATBgNVHSUEDDAKBggrBgEFBQcDATAdBgNVHQ4EFgQU5INCVTc0+BN129kz
A+GtRdbmucEwHwYDVR0jBBgwFoAUsTWVcWdxdXt58+cuY0LN8Sgoq84wCgYIKoZI
zj0EAwIDSAAwRQIhALei/aFsPUVhQyZZtDPjj7qle0D2bE5XMn/vwYGVM3AgAiA7
BhiJfk4te6F361L6ycP2GQUsroeaqPSQGX15U+G/xg==
-----END CERTIFICATE-----
"""


#: Read by conftest.py.
BOTH_LOOPS = True

Behaviour = Callable[["Server", asyncio.StreamWriter, "Seen"], Awaitable[None]]


class Seen:
    """A request as the server read it."""

    def __init__(self, connection: int, head: bytes, body: bytes) -> None:
        self.connection = connection
        self.path = head.split(b" ", 2)[1].decode()
        self.head = head
        self.body = body


class Server:
    """Counts connections, keeps requests, and answers as the test asks."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.url = ""
        self.accepted = 0
        self.requests: list[Seen] = []
        self.writers: dict[int, asyncio.StreamWriter] = {}
        self.tasks: set[asyncio.Task[None] | None] = set()
        self.go_on = asyncio.Event()

    @property
    def open(self) -> int:
        """How many connections the clients keep open."""
        return len(self.writers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.accepted = self.accepted, self.accepted + 1
        self.writers[number] = writer
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                self.requests.append(Seen(number, head, body))
                await self.behave(self, writer, self.requests[-1])
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            del self.writers[number]
            writer.transport.abort()


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def echo(_server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
    writer.write(http(seen.body))


async def hang(server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
    await server.go_on.wait()
    writer.write(http(seen.body))


async def hang_up(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
    writer.close()


async def reset(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
    set_reset_on_close(writer)
    writer.transport.abort()


async def half_an_answer(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
    writer.write(http(b"0123456789")[:-4])
    writer.close()


async def garbage(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")


def set_reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Make the kernel send RST instead of FIN."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@contextlib.asynccontextmanager
async def serving(behave: Behaviour = echo, *, tls: bool = False) -> AsyncIterator[Server]:
    """Run a server on a free port of the loopback interface."""
    server = Server(behave)
    context = server_context() if tls else None
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in server.tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, server.tasks), return_exceptions=True)


@contextlib.asynccontextmanager
async def client_of(
    server: Server, *, ssl_context: ssl.SSLContext | None = None, **limits: float
) -> AsyncIterator[httpx.AsyncClient]:
    """A client on the transport under test, which trusts the test's authority."""
    transport = GatewayTransport(
        server.url,
        ssl_context=ssl_context or trusting_context(),
        **limits,  # type: ignore[arg-type]  # one dict of mixed values
    )
    async with httpx.AsyncClient(
        transport=transport, base_url=server.url, timeout=5, trust_env=False
    ) as client:
        yield client


def trusting_context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=TEST_ONLY_CA)


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pem:
        pem.write(TEST_ONLY_SERVER)
        pem.flush()
        context.load_cert_chain(pem.name)
    return context


async def until(condition: Callable[[], bool], limit_s: float = 5) -> None:
    """Wait for what the other side is about to see."""
    ends_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends_s, "It did not happen in time"
        await asyncio.sleep(0.002)


async def assert_serves(client: httpx.AsyncClient, server: Server, slots: int) -> None:
    """Prove that exactly `slots` requests can be under way, and all are answered rightly."""
    server.behave, before = hang, len(server.requests)
    bodies = [b"after-%d" % n for n in range(slots)]
    calls = [asyncio.create_task(client.post("/", content=body)) for body in bodies]
    await until(lambda: len(server.requests) == before + slots)
    with pytest.raises(httpx.PoolTimeout):
        await client.post("/", timeout=httpx.Timeout(5, pool=0.02))
    server.go_on.set()
    assert [response.content for response in await asyncio.gather(*calls)] == bodies
    await until(lambda: server.open == slots)


# Keeping connections


async def test_requests_in_a_row_share_one_connection() -> None:
    """Keep-alive: a hundred requests, one handshake."""
    async with serving() as server, client_of(server) as client:
        for n in range(100):
            assert (await client.post("/", content=b"%d" % n)).content == b"%d" % n
        assert (server.accepted, len(server.requests)) == (1, 100)


async def test_requests_at_once_open_no_more_connections_than_they_need() -> None:
    """Sixty-four at once, over and over, open at most sixty-four."""
    async with serving() as server, client_of(server) as client:
        for _ in range(5):
            await asyncio.gather(*(client.get("/") for _ in range(64)))
        assert server.accepted <= 64


async def test_the_limit_of_connections_holds_under_load() -> None:
    """A hundred requests share three connections; each gets its own answer."""
    async with serving() as server, client_of(server, max_connections=3) as client:
        calls = (client.post("/", content=b"%d" % n) for n in range(100))
        answers = await asyncio.gather(*calls)
        assert [a.content for a in answers] == [b"%d" % n for n in range(100)]
        assert server.accepted == 3


async def test_waiting_for_a_connection_ends_with_the_pool_timeout() -> None:
    """The waiting request gives up unsent, the one under way is not disturbed."""
    async with serving(hang) as server, client_of(server, max_connections=1) as client:
        first = asyncio.create_task(client.post("/", content=b"first"))
        await until(lambda: len(server.requests) == 1)
        with pytest.raises(httpx.PoolTimeout):
            await client.post("/", timeout=httpx.Timeout(5, pool=0.05))
        server.go_on.set()
        assert (await first).content == b"first"
        assert len(server.requests) == 1


async def test_an_idle_connection_is_closed_when_it_expires_without_another_request() -> None:
    """Nothing needs to happen on the transport for an old connection to go away."""
    async with serving() as server, client_of(server, keepalive_expiry_s=0.1) as client:
        await client.get("/")
        assert server.open == 1
        await until(lambda: server.open == 0)
        await client.get("/")
        assert server.accepted == 2


async def test_the_connection_used_last_is_used_first_so_that_others_age_out() -> None:
    """After a burst of four, a slow trickle keeps one connection and lets three expire."""
    async with serving(hang) as server, client_of(server, keepalive_expiry_s=0.2) as client:
        burst = [asyncio.create_task(client.get("/")) for _ in range(4)]
        await until(lambda: len(server.requests) == 4)
        server.go_on.set()
        await asyncio.gather(*burst)
        ends_s = time.monotonic() + 0.5
        while time.monotonic() < ends_s:
            await client.get("/")
            await asyncio.sleep(0.02)
        assert (server.accepted, server.open) == (4, 1)
        assert len({seen.connection for seen in server.requests[4:]}) == 1


@pytest.mark.parametrize("headers", [{"connection": "close"}, {}])
async def test_a_connection_that_the_server_ends_with_its_answer_is_not_kept(
    headers: dict[str, str],
) -> None:
    """`Connection: close` and a body that ends with the connection both work, once each."""

    async def close_after(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
        if headers:
            writer.write(http(b"bye", "connection: close"))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nbye")
        writer.close()

    async with serving(close_after) as server, client_of(server) as client:
        assert [(await client.get("/")).content for _ in range(2)] == [b"bye", b"bye"]
        assert server.accepted == 2


async def test_answers_of_every_framing_are_read_whole_and_keep_the_connection() -> None:
    """Chunked, compressed, empty and 1xx answers, and HEAD, on one connection."""
    packed = gzip.compress(b"text")
    wire = {
        "/chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2\r\nte\r\n2\r\nxt\r\n0\r\n\r\n",
        "/gzip": http(packed, "content-encoding: gzip"),
        "/early": b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(b"text"),
        "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/head": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
    }

    async def by_path(_server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(wire[seen.path])

    async with serving(by_path) as server, client_of(server) as client:
        for path in ("/chunked", "/gzip", "/early"):
            assert (await client.get(path)).text == "text"
        assert (await client.get("/empty")).status_code == 204
        assert (await client.head("/head")).headers["content-length"] == "4"
        assert server.accepted == 1


async def test_an_answer_over_the_limit_is_refused_and_its_connection_closed() -> None:
    """A server cannot fill our memory; the request may have had its effect."""

    async def endless(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
        writer.write(http(b"x" * 5000))

    async with serving(endless) as server, client_of(server, answer_bytes_max=4999) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        await until(lambda: server.open == 0)


# A connection that died, or that is not clean


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_connection_closed_while_idle_is_noticed_before_a_request_is_written(
    how: str, tls: bool
) -> None:
    """The next POST goes over a fresh connection, is seen once, and no caller gets an error."""
    async with serving(tls=tls) as server, client_of(server) as client:
        await client.post("/", content=b"first")
        (writer,) = server.writers.values()
        if how == "rst":
            set_reset_on_close(writer)
            writer.transport.abort()
        else:
            writer.close()
        await asyncio.sleep(0.02)
        assert (await client.post("/", content=b"second")).content == b"second"
        assert [seen.body for seen in server.requests] == [b"first", b"second"]
        assert server.accepted == 2


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_bytes_behind_an_answer_never_become_the_answer_to_the_next_request(
    tls: bool,
) -> None:
    """Of two answers at once the first is read; its connection is closed."""

    async def answer_twice(_server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(http(seen.body))
        writer.write(http(b"another answer"))

    async with serving(answer_twice, tls=tls) as server, client_of(server) as client:
        for body in (b"one", b"two", b"three"):
            assert (await client.post("/", content=body)).content == body
        assert server.accepted == 3


async def test_a_tls_goodbye_that_came_with_the_answer_is_noticed() -> None:
    """It was read with the answer, so the socket shows nothing, yet the server has closed."""

    async def answer_and_leave(_server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(http(seen.body))
        writer.close()

    async with serving(answer_and_leave, tls=True) as server, client_of(server) as client:
        for body in (b"one", b"two", b"three"):
            assert (await client.post("/", content=body)).content == body
        assert [seen.body for seen in server.requests] == [b"one", b"two", b"three"]


async def test_a_close_that_races_with_a_request_is_an_error_and_never_a_second_sending() -> None:
    """Whatever the server did or did not read, each request is seen at most once."""
    chance = random.Random(7)

    async def leave_soon(_server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        writer.write(http(seen.body))
        asyncio.get_running_loop().call_later(chance.uniform(0, 0.002), writer.transport.abort)

    answered: list[bytes] = []
    failed: list[httpx.TransportError] = []
    async with serving(leave_soon) as server, client_of(server) as client:
        for n in range(300):
            try:
                response = await client.post("/", content=b"%d" % n)
            except httpx.TransportError as error:
                failed.append(error)
            else:
                assert response.content == b"%d" % n
                answered.append(response.content)
        seen = [request.body for request in server.requests]
    assert len(answered) + len(failed) == 300
    assert len(seen) == len(set(seen))
    assert set(answered) <= set(seen)
    errors = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
    assert all(isinstance(error, errors) for error in failed)


@pytest.mark.parametrize("behave", [hang_up, reset, half_an_answer, garbage])
async def test_a_request_whose_answer_failed_was_sent_once(behave: Behaviour) -> None:
    """The transport reports that the request may have arrived, and leaves it at that."""
    async with serving(behave) as server, client_of(server) as client:
        with pytest.raises(httpx.TransportError) as raised:
            await client.post("/", content=b"pay")
        assert not isinstance(raised.value, NEVER_SENT)
        await asyncio.sleep(0.05)
        assert [seen.body for seen in server.requests] == [b"pay"]
        await until(lambda: server.open == 0)
        server.behave = echo
        assert (await client.post("/", content=b"again")).content == b"again"


# Errors and time limits


async def test_a_refused_connection_was_never_sent() -> None:
    """No server listens: ConnectError."""
    async with serving() as server:
        pass
    async with client_of(server) as client:
        with pytest.raises(httpx.ConnectError) as raised:
            await client.get("/")
    assert isinstance(raised.value, NEVER_SENT)


async def test_a_certificate_without_a_trusted_authority_is_refused_by_default() -> None:
    """Without a context of our own, the test's authority is not trusted."""
    async with serving(tls=True) as server:
        transport = GatewayTransport(server.url)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(httpx.ConnectError) as raised:
                await client.get(server.url)
        assert isinstance(raised.value, NEVER_SENT)
        assert server.requests == []
        await until(lambda: server.open == 0)


async def test_a_certificate_for_another_name_is_refused() -> None:
    """A trusted authority does not help when the certificate names another host."""
    async with serving(tls=True) as server:
        server.url = server.url.replace("localhost", "127.0.0.1")
        async with client_of(server) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/")
        assert server.requests == []


async def test_a_trusted_certificate_serves_and_its_connection_is_kept() -> None:
    """One handshake for ten requests."""
    async with serving(tls=True) as server, client_of(server) as client:
        for n in range(10):
            assert (await client.post("/", content=b"%d" % n)).content == b"%d" % n
        assert server.accepted == 1


async def test_a_handshake_that_hangs_ends_with_the_connect_timeout() -> None:
    """Nothing was sent, and the socket is closed."""
    async with serving() as server:
        server.url = server.url.replace("http://127.0.0.1", "https://localhost")
        async with client_of(server) as client:
            with pytest.raises(httpx.ConnectTimeout) as raised:
                await client.get("/", timeout=httpx.Timeout(5, connect=0.1))
            assert isinstance(raised.value, NEVER_SENT)
            await until(lambda: server.open == 0)


async def test_a_server_that_hangs_ends_with_the_read_timeout_and_loses_its_connection() -> None:
    """The late answer goes nowhere: the next request uses a fresh connection."""
    async with serving() as server, client_of(server, max_connections=1) as client:
        await client.post("/", content=b"warm")
        server.behave = hang
        with pytest.raises(httpx.ReadTimeout) as raised:
            await client.post("/", content=b"slow", timeout=httpx.Timeout(5, read=0.1))
        assert not isinstance(raised.value, NEVER_SENT)
        server.go_on.set()
        assert (await client.post("/", content=b"next")).content == b"next"
        assert [seen.connection for seen in server.requests] == [0, 0, 1]


async def test_a_server_that_does_not_read_ends_with_the_write_timeout() -> None:
    """Part of the request may have arrived, so it counts as sent."""

    async def read_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        writer.transport.abort()

    listener = await asyncio.start_server(read_nothing, "127.0.0.1", 0, limit=1)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    transport = GatewayTransport(url)
    async with httpx.AsyncClient(transport=transport) as client:
        body = b"x" * 2**25
        with pytest.raises(httpx.WriteTimeout) as raised:
            await client.post(url, content=body, timeout=httpx.Timeout(5, write=0.2))
    listener.close()
    assert not isinstance(raised.value, NEVER_SENT)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("behave", [hang, hang_up, reset, half_an_answer, garbage])
async def test_errors_are_those_of_the_transport_of_httpx(behave: Behaviour, tls: bool) -> None:
    """Whoever handles httpx's exceptions need not distinguish which transport raised them."""
    raised = []
    async with serving(behave, tls=tls) as server:
        for transport in (
            httpx.AsyncHTTPTransport(verify=trusting_context()),
            GatewayTransport(server.url, ssl_context=trusting_context()),
        ):
            async with httpx.AsyncClient(transport=transport) as client:
                with pytest.raises(httpx.TransportError) as error:
                    await client.get(server.url, timeout=httpx.Timeout(5, read=0.1))
            raised.append(error.type)
    assert raised[0] is raised[1]


async def test_a_request_that_cannot_be_framed_is_a_local_error() -> None:
    """A header with a line break never reaches the wire."""
    async with serving() as server, client_of(server) as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"x-id": "a\r\nb: c"})
        assert server.requests == []


async def test_tls_bytes_that_do_not_decrypt_are_a_read_error() -> None:
    """The request went out, so a raw SSLError must not pass for something else."""

    async def plain_text(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
        plain = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        with plain:
            plain.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)

    async with serving(plain_text, tls=True) as server, client_of(server) as client:
        with pytest.raises(httpx.ReadError):
            await client.post("/", content=b"pay")
        await until(lambda: server.open == 0)


# One origin


@pytest.mark.parametrize("url", ["ftp://localhost", "localhost:80", "/pg", ""])
def test_an_origin_must_be_an_http_url(url: str) -> None:
    """A transport to nowhere is refused when it is made."""
    with pytest.raises(ValueError, match="Expected an http:// or https:// URL"):
        GatewayTransport(url)


@pytest.mark.parametrize(
    "limits", [{"max_connections": 0}, {"keepalive_expiry_s": -1}, {"answer_bytes_max": 0}]
)
def test_limits_must_permit_something(limits: dict[str, int]) -> None:
    """A limit below its least value is refused when the transport is made."""
    with pytest.raises(ValueError, match="limits"):
        GatewayTransport("http://localhost", **limits)  # type: ignore[arg-type]  # one dict of mixed values


async def test_a_redirect_to_another_origin_is_not_followed_there() -> None:
    """Headers with credentials stay with the gateway, even when it redirects elsewhere."""
    async with serving() as other:

        async def redirect(_server: Server, writer: asyncio.StreamWriter, _seen: Seen) -> None:
            writer.write(http(b"", f"location: {other.url}/", status="307 Temporary Redirect"))

        async with serving(redirect) as server, client_of(server) as client:
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.post("/", content=b"card", follow_redirects=True)
        assert (other.accepted, other.requests) == (0, [])


# Cancellation


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_cancelled_at_any_step_of_the_loop_it_serves_the_next_request(tls: bool) -> None:
    """Connect, handshake, send, read: wherever the cancel lands, slot and socket come back."""
    context = trusting_context()
    for steps in range(48):
        async with (
            serving(tls=tls) as server,
            client_of(server, ssl_context=context, max_connections=1) as client,
        ):
            call = asyncio.create_task(client.post("/", content=b"lost"))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            answer = await client.post("/", content=b"kept", timeout=httpx.Timeout(5, pool=0))
            assert answer.content == b"kept"
            assert [seen.body for seen in server.requests].count(b"lost") <= 1
            await until(lambda server=server: server.open == 1)  # type: ignore[misc]  # a default binds the loop variable


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_storm_of_cancellations_leaves_slots_and_connections_as_they_should_be(
    tls: bool,
) -> None:
    """Of 300 calls 240 are cancelled at seeded moments: no wrong answer, no lost slot."""
    chance = random.Random(11)

    async def slow_echo(_server: Server, writer: asyncio.StreamWriter, seen: Seen) -> None:
        await asyncio.sleep(chance.uniform(0, 0.003))
        writer.write(http(seen.body))

    async with (
        serving(slow_echo, tls=tls) as server,
        client_of(server, max_connections=4) as client,
    ):

        async def call_and_lose_patience(n: int) -> bool:
            await asyncio.sleep(chance.uniform(0, 0.5))
            call = asyncio.create_task(client.post("/", content=b"%d" % n))
            if n % 5:
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.02), call.cancel)
            try:
                assert (await call).content == b"%d" % n
            except asyncio.CancelledError:
                return False
            return True

        outcomes = await asyncio.gather(*(call_and_lose_patience(n) for n in range(300)))
        assert all(outcomes[::5])
        assert not all(outcomes)
        seen = [request.body for request in server.requests]
        assert len(seen) == len(set(seen))
        await until(lambda: server.open <= 4)
        await assert_serves(client, server, slots=4)


async def test_cancelled_while_it_waits_for_a_connection_it_leaves_the_queue() -> None:
    """The slot goes to the next in line."""
    async with serving(hang) as server, client_of(server, max_connections=1) as client:
        calls = [asyncio.create_task(client.post("/", content=b"%d" % n)) for n in range(3)]
        await until(lambda: len(server.requests) == 1)
        calls[1].cancel()
        server.go_on.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            httpx.Response,
            asyncio.CancelledError,
            httpx.Response,
        ]
        assert [seen.body for seen in server.requests] == [b"0", b"2"]


# Closing


async def test_closing_closes_every_connection_and_ends_what_is_under_way() -> None:
    """Idle, in use and waiting: all end; the one in use may have been sent."""
    async with serving() as server, client_of(server, max_connections=2) as client:
        await asyncio.gather(client.get("/"), client.get("/"))
        server.behave = hang
        calls = [asyncio.create_task(client.get("/")) for _ in range(3)]
        await until(lambda: len(server.requests) == 4)
        await client._transport.aclose()
        *in_use, waiting = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in in_use] == [httpx.ReadError, httpx.ReadError]
        assert isinstance(waiting, RuntimeError)
        server.go_on.set()
        await until(lambda: server.open == 0)
        assert len(server.requests) == 4


async def test_use_after_closing_is_a_clear_error() -> None:
    """Nothing is sent, and the message has that."""
    async with serving() as server:
        transport = GatewayTransport(server.url)
        await transport.aclose()
        await transport.aclose()
        with pytest.raises(RuntimeError, match="closed; nothing was sent"):
            await transport.handle_async_request(httpx.Request("GET", server.url))
        assert server.accepted == 0


async def test_a_request_still_connecting_when_the_transport_closes_is_not_sent() -> None:
    """The handshake ends after the close: the connection is dropped, not used."""
    async with serving() as server:
        # The kernel accepts the connection; the handshake waits for a server.
        waiting = socket.create_server(("127.0.0.1", 0))
        server.url = f"https://localhost:{waiting.getsockname()[1]}"
        async with client_of(server) as client:
            call = asyncio.create_task(client.post("/", content=b"pay"))
            await asyncio.sleep(0.05)
            await client._transport.aclose()
            listener = await asyncio.start_server(server.serve, sock=waiting, ssl=server_context())
            with pytest.raises(RuntimeError, match="nothing was sent"):
                await call
        # With uvloop the server does not even get the end of the handshake.
        await asyncio.sleep(0.05)
        await until(lambda: server.open == 0)
        assert server.requests == []
        listener.close()
