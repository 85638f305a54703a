"""Where a benchmark runs: a Valkey and a gateway in processes of their own, an event loop."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from cfflow.store.embedded import EmbeddedServer

__all__ = ["LOOP", "embedded_valkey", "loop_factory", "machine", "server_at"]

#: Users are told to install uvloop where it exists, so the benchmark runs on it.
LOOP: Final = "uvloop" if find_spec("uvloop") else "asyncio"

_LIBRARIES: Final = ("httpx", "redis", "msgspec", "structlog", "transitions")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop of every contender."""
    if LOOP == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


@asynccontextmanager
async def embedded_valkey() -> AsyncIterator[str]:
    """Start a Valkey with an empty temporary folder, as `embedded:` does; yield its URL.

    It writes its file to the disk once a second, as a shop's own server usually does.
    """
    server = EmbeddedServer()
    await server.start()
    async with Redis.from_url(server.url) as client:
        await client.config_set("appendfsync", "everysec")
    try:
        yield server.url
    finally:
        # Nobody else is meant to use it, so it need not wait until every connection is gone.
        async with Redis.from_url(server.url) as client:
            with suppress(RedisError):
                await client.shutdown(nosave=True)
        await server.stop()


async def server_at(url: str) -> str:
    """Return the name and version of a server."""
    async with Redis.from_url(url) as client:
        about: dict[str, Any] = await client.info("server")
    if "valkey_version" in about:
        return f"Valkey {about['valkey_version']}"
    return f"Redis {about['redis_version']}"


def machine() -> str:
    """Return what was measured on: cores, interpreter, event loop, libraries."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    cores = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    interpreter = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cores}, {interpreter}, {LOOP}\n{libraries}"
