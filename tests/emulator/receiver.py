"""A merchant's webhook receiver on a real socket, with responses that a test chooses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.emulator.emulator_kit import Shop


class Received(NamedTuple):
    """One webhook as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The body, decoded."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded

    @property
    def order_id(self) -> str:
        """The order that it is about."""
        return str(self.event["data"]["order"]["order_id"])


class Receiver:
    """Keeps what it receives; responds with the next of `statuses`, then with `status`.

    While `gate` is not set, responses wait. `open` and `most_open` count the calls that are
    open at once.
    """

    def __init__(self) -> None:
        self.url = ""
        self.gate = asyncio.Event()
        self.begin()

    def begin(self) -> None:
        """Clear what was received, and respond with 200 at once."""
        self.received: list[Received] = []
        self.statuses: list[int] = []
        self.status = 200
        self.open = self.most_open = 0
        self.gate.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Respond to every request of one connection."""
        try:
            while (line := await reader.readline()).strip():
                await self._respond(line.decode().split()[1], reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _respond(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        headers = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(path, headers, body))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0.005)
        await self.gate.wait()
        self.open -= 1
        status = self.statuses.pop(0) if self.statuses else self.status
        location = f"location: {self.url}/elsewhere\r\n" if 300 <= status < 400 else ""
        writer.write(f"HTTP/1.1 {status} So\r\n{location}content-length: 0\r\n\r\n".encode())
        await writer.drain()


@asynccontextmanager
async def a_receiver() -> AsyncIterator[Receiver]:
    """Return a receiver that listens."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    receiver.url = f"http://{host}:{port}"
    try:
        yield receiver
    finally:
        server.close()


async def sell(shop: Shop, **order: Any) -> dict[str, Any]:
    """Make a sale of 170 rupees, paid by card."""
    created = await shop.order(**order)
    await shop.submit((await shop.pay(created)).json()["cf_payment_id"])
    return created


async def simulate(shop: Shop, cf_payment_id: str, status: str) -> None:
    """Force a payment to this status."""
    body = {
        "entity": "PAYMENTS",
        "entity_id": cf_payment_id,
        "entity_simulation": {"payment_status": status},
    }
    response = await shop.http.post("/simulate", headers=shop.credentials, json=body)
    assert response.status_code == 200, response.text


def verified(received: Received, body: bytes | None = None, secret: str = "") -> bool:
    """Return whether the signature is valid for these bytes, as the gateway documents it."""
    headers, key = received.headers, (secret or "cfflow-test-secret").encode()
    signed = headers["x-webhook-timestamp"].encode() + (received.body if body is None else body)
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return headers.get("x-webhook-signature") == expected
