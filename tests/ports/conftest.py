"""Fixtures for the ports: a store on an empty server, and the event loops of real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cfflow.store.orders import Orders
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import Shop, open_shop
from tests.ports.servers import Proxy, Server, running, valkey_binary

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, LoopFactory]:
    """Run a module that says `BOTH_LOOPS = True` on asyncio's loop and on uvloop.

    Their sockets and their TLS are different code.
    """
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    module = item.getparent(pytest.Module)
    if module is not None and getattr(module.obj, "BOTH_LOOPS", False) and find_spec("uvloop"):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
def url(redis_url: str) -> str:
    """Where the store is; a module that tries other servers too has a fixture of its own."""
    return redis_url


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    """An open store on an empty server."""
    opened = RedisStore(url)
    await opened.open()
    yield opened
    await opened.aclose()


@pytest.fixture
def orders(store: RedisStore) -> Orders:
    """Its orders."""
    return Orders(store)


@pytest.fixture
async def shop(url: str) -> AsyncIterator[Shop]:
    """A shop whose payments live on an empty server."""
    async with open_shop(store=RedisStore(url)) as opened:
        yield opened


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes to which commands were sent, one entry for each round trip."""
    sent: list[str] = []

    def counting(method: Any) -> Any:
        async def counted(self: RedisLink, place: str, commands: Any) -> Any:
            sent.append(place)
            return await method(self, place, commands)

        return counted

    for name in ("_asked", "_exchange"):
        monkeypatch.setattr(RedisLink, name, counting(getattr(RedisLink, name)))
    return sent


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of this test alone: its data, its counters and its end are the test's own."""
    with running(Server(valkey_binary(), tmp_path / "own")) as started:
        yield started


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A proxy to that server, which can lose requests and replies."""
    async with Proxy(server.port).running() as listening:
        yield listening
