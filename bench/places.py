"""Where a benchmark runs: this process on one core, a Valkey and a gateway on the others."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cfflow.emulator import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, EmulatorProcess
from cfflow.store.embedded import EmbeddedServer

__all__ = [
    "LOOP",
    "Account",
    "embedded_valkey",
    "emulator_gateway",
    "fetches_at",
    "loop_factory",
    "machine",
    "pin_away",
    "pin_here",
    "server_at",
    "stub_gateway",
]

#: Users are told to install uvloop where it exists, so the benchmark runs on it.
LOOP: Final = "uvloop" if find_spec("uvloop") else "asyncio"

_LIBRARIES: Final = ("httpx", "httptools", "redis", "hiredis", "aiohttp", "msgspec", "structlog")

#: The cores that this process may use, as it was started.
_CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
#: With one core, or on a system that pins nothing, everything shares what there is.
_IS_PINNED: Final = len(_CORES) > 1


def pin_here() -> None:
    """Keep this process on one core, so that what it measures is what one core can do."""
    if _IS_PINNED:
        os.sched_setaffinity(0, _CORES[:1])


def pin_away(pid: int) -> None:
    """Move another process, with all of its threads, to the cores that this one does not use.

    The servers would else take turns with the client on one core, and cost the faster client
    more.
    """
    if _IS_PINNED:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(thread.name), _CORES[1:])


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
        pin_away((await client.info("server"))["process_id"])
    try:
        yield server.url
    finally:
        # No other process uses it, so it need not wait until every connection is gone.
        async with Redis.from_url(server.url) as client:
            with suppress(RedisError):
                await client.shutdown(nosave=True)
        await server.stop()


class Account(NamedTuple):
    """Where a gateway is, and who we are to it."""

    base_url: str
    client_id: str = DEFAULT_CLIENT_ID
    client_secret: str = DEFAULT_CLIENT_SECRET


@asynccontextmanager
async def emulator_gateway() -> AsyncIterator[Account]:
    """Start the emulator on the servers' cores; yield how to reach it."""
    async with EmulatorProcess() as emulator:
        pin_away(emulator.pid)
        yield Account(emulator.base_url)


@asynccontextmanager
async def stub_gateway() -> AsyncIterator[Account]:
    """Start the stub on the servers' cores; it ends when this process ends, even by a crash."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.stub", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = await process.stdout.readline() if process.stdout else b""
        if not line:
            raise RuntimeError("the stub ended before it listened")
        pin_away(process.pid)
        yield Account(line.decode().strip())
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def fetches_at(stub: Account) -> int:
    """Return how many payments a stub was asked about."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return int((await client.get(f"{stub.base_url}/orders/fetches")).text)


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
    pinned = _IS_PINNED and len(os.sched_getaffinity(0)) == 1
    shared = "client on one core, servers on others" if pinned else "client on any core"
    return f"{cores}, {interpreter}, {LOOP}; {shared}\n{libraries}"
