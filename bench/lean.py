"""The clients of the best floor: aiohttp, and one Redis connection that all tasks share.

What Python can do at best by hand. There are no retries, no time limits and no error handling.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import aiohttp
import hiredis

__all__ = ["LeanAnswer", "LeanHttp", "LeanRedis"]

_CONNECTIONS_MAX: Final = 256


class LeanAnswer:
    """A body with the names that httpx has for it."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode()


class LeanHttp:
    """One `aiohttp.ClientSession` with the methods of httpx that a sale needs.

    It belongs to the event loop on which it is made.
    """

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def post(self, url: str, *, content: bytes, headers: dict[str, str]) -> LeanAnswer:
        """Send a POST."""
        async with self._session.post(url, data=content, headers=headers) as answer:
            return LeanAnswer(await answer.read())

    async def get(self, url: str, *, headers: dict[str, str]) -> LeanAnswer:
        """Send a GET."""
        async with self._session.get(url, headers=headers) as answer:
            return LeanAnswer(await answer.read())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()


class LeanRedis(asyncio.Protocol):
    """One connection to Redis. Commands of one turn of the loop go out in one write.

    Replies come in the order of the commands, so a queue of futures is all that is needed.
    `url`: `redis://HOST:PORT` or `unix://PATH`, with a password where the server wants one.
    """

    def __init__(self, url: str) -> None:
        self._url: Final = urlsplit(url)
        self._reader: Final = hiredis.Reader()
        self._waiting: Final[deque[asyncio.Future[Any]]] = deque()
        self._commands: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    async def open(self) -> None:
        """Connect."""
        if self._url.scheme == "unix":
            await self._loop.create_unix_connection(lambda: self, unquote(self._url.path))
        else:
            await self._loop.create_connection(
                lambda: self, self._url.hostname or "localhost", self._url.port or 6379
            )
        if self._url.password:
            await self.execute_command("AUTH", unquote(self._url.password))

    async def script_load(self, script: str) -> str:
        """Connect, and load a script; return the name by which it is run."""
        await self.open()
        return str((await self.execute_command("SCRIPT", "LOAD", script)).decode())

    def execute_command(self, *args: Any) -> asyncio.Future[Any]:
        """Run one command; the future gets its reply, or raises the server's error."""
        if not self._commands:
            self._loop.call_soon(self._write)
        self._commands.append(hiredis.pack_command(args))
        reply = self._loop.create_future()
        self._waiting.append(reply)
        return reply

    async def aclose(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _write(self) -> None:
        commands, self._commands = self._commands, []
        if self._transport is not None:
            self._transport.write(b"".join(commands))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give each reply to the command that waits longest."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            waiting = self._waiting.popleft()
            if waiting.cancelled():
                continue
            if isinstance(reply, hiredis.HiredisError):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what still waits: a benchmark that lost its server must not hang."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(exc or ConnectionError("the connection ended"))
