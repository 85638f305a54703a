"""What the gateway's tests share: a raw server that records, clients on it, and misbehaviour."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from cfflow import Card
from cfflow.cashfree.client import GatewayClient
from cfflow.connecting import gateway_client, settings_of
from cfflow.core.sealed import Sealed

CLIENT_ID = "test-client-id"
CLIENT_SECRET = "cfsk_test_secret_1f2e3d4c"
SESSION = "session_LnO-vcZ9znG_swyugIFmZRtvP3ZC7euzAq4Gq8IfNjt68OFCJ31mbJsN8SWZ169G8y0"
NUMBER = "4111111111111111"
CARD = Card(
    channel="post",
    card_number=NUMBER,
    card_holder_name="Test",
    card_expiry_mm="12",
    card_expiry_yy="25",
    card_cvv="123",
)

# For these tests only: a certificate for localhost that signed itself, valid for a century.
TEST_ONLY_SELF_SIGNED = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgoBcESuMrDLGL+WDJ
7ccWvDhXLEPSfG9cmOeA+uJG+behRANCAAQQk+iyBh5RJL2sQjcJCetua3IeTY+M
KHs5RKmIlq9tQIamyePFI6QrCrVYkCXFJKOP74w0HSW9huSa73+UJlYT
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUGYt5OM3qHE4k5d9XUrh3pnnSg/4wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjE5MTIzOFoYDzIxMjYxMDI5
MTkxMjM4WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQQk+iyBh5RJL2sQjcJCetua3IeTY+MKHs5RKmIlq9tQIamyePFI6Qr
CrVYkCXFJKOP74w0HSW9huSa73+UJlYTo28wbTAdBgNVHQ4EFgQUliZOlYaGAtOc
sidizx4o86ehu9cwHwYDVR0jBBgwFoAUliZOlYaGAtOcsidizx4o86ehu9cwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgUrXQdcTVXBc66/69aMYM2rsJd6+pjLDKy4u7UEnzEBMCIEP+
en075d4am3yzMOmTM7RjdSeghOoxwQQbatsSNcM4
-----END CERTIFICATE-----
"""


@dataclass(frozen=True)
class Sent:
    """One request as it came over the wire."""

    connection: int
    verb: str
    target: str
    headers: dict[str, str]
    raw: bytes
    body: bytes

    @property
    def json(self) -> Any:
        """The body as values; numbers keep their text, so that 1.00 is not 1.0."""
        return json.loads(self.body, parse_float=str)


Reply = Callable[[asyncio.StreamWriter, Sent], Awaitable[None]]


def answer(status: int, body: Any = None, **headers: str) -> Reply:
    """A whole answer; `body` is JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Answer", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    whole = "\r\n".join([*lines, "", ""]).encode() + content

    async def reply(writer: asyncio.StreamWriter, sent: Sent) -> None:
        writer.write(whole)

    return reply


def raw(*parts: bytes, pause_s: float = 0.0, close: bool = True) -> Reply:
    """Bytes as they are, with a pause after each part, and then perhaps the end."""

    async def reply(writer: asyncio.StreamWriter, sent: Sent) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if close:
            writer.close()

    return reply


async def hang(writer: asyncio.StreamWriter, sent: Sent) -> None:
    """Take the request and never answer."""
    await asyncio.sleep(60)


async def reset(writer: asyncio.StreamWriter, sent: Sent) -> None:
    """Take the request and break the connection."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class RawGateway:
    """A server on loopback: it keeps each request and answers as the test asks."""

    reply: Reply
    base_url: str = ""
    requests: list[Sent] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None] | None] = field(default_factory=set)

    @property
    def sent(self) -> Sent:
        """The only request that came."""
        (only,) = self.requests
        return only

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        number = self.connections
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").rstrip().split("\r\n")
                pairs = (line.split(": ", 1) for line in lines)
                headers = {name.lower(): value for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                verb, target, _ = first.split(" ")
                sent = Sent(number, verb, target, headers, head + body, body)
                self.requests.append(sent)
                self.asked.set()
                await self.reply(writer, sent)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def a_gateway(reply: Reply, *, tls: bool = False) -> AsyncIterator[RawGateway]:
    """A gateway that answers like this, at `base_url`."""
    gateway = RawGateway(reply)
    context = _self_signed() if tls else None
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    gateway.base_url = f"https://localhost:{port}/pg" if tls else f"http://127.0.0.1:{port}/pg"
    try:
        yield gateway
    finally:
        server.close()
        for task in gateway.tasks:
            if task is not None:
                task.cancel()


def a_client(
    base_url: str, *, api_version: str = "2025-01-01", log: Any = None, secret: str = CLIENT_SECRET
) -> GatewayClient:
    """The client as `connect` makes it, on real connections."""
    settings = settings_of(
        redis_url="redis://unused",
        client_id=CLIENT_ID,
        client_secret=Sealed(secret),
        environment=base_url,
        api_version=api_version,
    )
    return gateway_client(settings, log or KeptLog())


class KeptLog:
    """A logger that keeps its events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep an event."""
        self.events.append({"event": event, **fields})

    warning = info


def _self_signed() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.pem"
        path.write_text(TEST_ONLY_SELF_SIGNED)
        context.load_cert_chain(path)
    return context
