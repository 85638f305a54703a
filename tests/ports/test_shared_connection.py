"""The connection that all callers of a store share: real servers, a proxy that cuts and holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import TimeoutError  # noqa: A004  redis-py's own name

from cfflow.errors import StoreUnavailable
from cfflow.store.orders import Orders
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.shared import SharedConnection
from cfflow.store.redis.store import RedisStore
from tests.ports.orders_kit import EDGE, a_plan, begin, loaded
from tests.ports.servers import Proxy, Server

BOTH_LOOPS = True


@pytest.fixture
async def link(proxy: Proxy) -> AsyncIterator[RedisLink]:
    """A link behind the proxy, with a short deadline."""
    opened = RedisLink(proxy.url, deadline_s=1.0)
    await opened.open()
    yield opened
    await opened.aclose()


def stat(server: Server, name: str) -> int:
    """Return a counter of a server's."""
    return int(server.run("INFO", "stats")[name])


@asynccontextmanager
async def stand_in(
    respond: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[SharedConnection, list[Connection]]]:
    """A connection to a server that responds as no Redis does, and all sockets it has opened."""
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection(port=port, protocol=2))
        return made[-1]

    shared = SharedConnection(make, deadline_s=2.0)
    yield shared, made
    await shared.aclose()
    server.close()


async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond to each GET after some time, one after another."""
    while data := await reader.read(1000):
        writer.write(b"+OK\r\n" * data.count(b"SETINFO"))
        for _ in range(data.count(b"GET")):
            await asyncio.sleep(0.44)
            writer.write(b"+OK\r\n")


async def test_many_callers_share_one_connection_and_few_system_calls(server: Server) -> None:
    """A hundred commands of one turn arrive in a handful of reads, over one connection."""
    link = RedisLink(server.url)
    await link.open()
    await link.command("SET", "key", "0")
    opened, reads = (
        stat(server, "total_connections_received"),
        stat(server, "total_reads_processed"),
    )
    replies = await asyncio.gather(*(link.command("INCR", "key") for _ in range(100)))
    assert replies == [*range(1, 101)]
    # Each look at a counter is a connection, and three reads.
    assert stat(server, "total_connections_received") - opened <= 2
    assert stat(server, "total_reads_processed") - reads <= 20
    await link.aclose()


async def test_a_caller_that_gives_up_leaves_the_connection_to_the_others(
    server: Server, link: RedisLink
) -> None:
    """Its reply is read and dropped; whoever asked before and after gets its own."""
    await link.command("SET", "key", "mine")
    opened = stat(server, "total_connections_received")
    for turns in range(4):
        others = [asyncio.create_task(link.command("GET", "key"))]
        given_up = asyncio.create_task(link.command("SET", "other", turns))
        others.append(asyncio.create_task(link.command("GET", "key")))
        for _ in range(turns):
            await asyncio.sleep(0)
        given_up.cancel()
        assert await asyncio.gather(*others) == [b"mine", b"mine"]
        with pytest.raises(asyncio.CancelledError):
            await given_up
    # One more for each look at a counter, and none of the link's own.
    assert stat(server, "total_connections_received") - opened == 1


@pytest.mark.parametrize("what", ["lose_replies", "lose_requests"])
async def test_a_cut_connection_loses_no_commit(server: Server, proxy: Proxy, what: str) -> None:
    """Forty commits are under way: each is applied once, also those that were sent twice."""
    store = RedisStore(proxy.url)
    await store.open()
    orders = Orders(store)
    names = [f"order_{i}" for i in range(40)]
    begun = [await begin(orders, name) for name in names]
    setattr(proxy, what, 2)
    written = await asyncio.gather(*(orders.commit(a_plan(each, walked=EDGE)) for each in begun))
    assert proxy.cut == 2
    for name, each in zip(names, written, strict=True):
        stored = await loaded(orders, name)
        assert stored.token == each.order.token
        assert stored.record(1).version == 2
    places = {store.keys.partition(name) for name in names}
    assert sum([server.run("XLEN", store.keys.events(place)) for place in places]) == 40
    await store.aclose()


async def test_a_server_that_hangs_costs_a_deadline_and_no_more(
    server: Server, link: RedisLink
) -> None:
    """It says nothing: the connection is given up with its callers, and the next one is new."""
    await link.command("SET", "key", "0")
    opened = stat(server, "total_connections_received")
    server.pause()
    calls = [link.command("INCR", "key") for _ in range(3)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in ended] == [StoreUnavailable] * 3
    server.resume()
    assert await link.command("GET", "key") in {b"0", b"3", b"6"}
    assert stat(server, "total_connections_received") > opened + 1


async def test_a_slow_server_keeps_its_connection() -> None:
    """One caller's time ends within a long queue: replies still come, so it stays open."""
    async with stand_in(slow) as (shared, made):
        calls = [shared.replies([("GET", "key")]) for _ in range(7)]
        ended = await asyncio.gather(*calls)
        in_time = sum(reply == b"OK" for (reply,) in ended)
        assert 2 <= in_time <= 4
        assert {type(reply) for (reply,) in ended[in_time:]} == {TimeoutError}
        assert await shared.replies([("GET", "key")]) == [b"OK"]
        assert len(made) == 1


async def test_an_ended_connection_is_not_written_to(server: Server, proxy: Proxy) -> None:
    """The server ended it while it was idle: the next command goes over a new one, and once."""
    store = RedisStore(proxy.url)
    await store.open()
    await store.link.command("SET", "key", "0")
    server.run("CLIENT", "KILL", "TYPE", "normal")
    await asyncio.sleep(0.05)
    server.run("CONFIG", "RESETSTAT")
    assert await store.link.command("INCR", "key") == 1
    assert server.calls()["incr"] == 1
    await store.aclose()


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    """It could be taken for the reply to the next command, which may be a commit's."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.read(1000):
            # The second one belongs to nothing that was asked.
            writer.write(b"+OK\r\n+WRONG\r\n" if b"first" in line else b"+OK\r\n")

    async with stand_in(respond) as (shared, made):
        assert await shared.replies([("GET", "first")]) == [b"OK"]
        await asyncio.sleep(0.05)
        assert await shared.replies([("GET", "second")]) == [b"OK"]
        assert len(made) == 2


async def test_a_retired_connection_gives_its_replies() -> None:
    """What was asked over it gets its reply; what comes later goes over a new one."""
    async with stand_in(slow) as (shared, made):
        old = asyncio.create_task(shared.replies([("GET", "key")]))
        await asyncio.sleep(0.05)
        shared.retire(asyncio.get_running_loop().time())
        assert await shared.replies([("GET", "key")]) == [b"OK"]
        assert await old == [b"OK"]
        assert len(made) == 2


async def test_closing_ends_what_waits(server: Server, link: RedisLink) -> None:
    """`aclose` waits for no reply, and no task is left."""
    await link.command("SET", "key", "0")
    before = asyncio.all_tasks()
    server.pause()
    waiting = asyncio.create_task(link.command("INCR", "key"))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(0.9):
        await link.aclose()
        with pytest.raises(StoreUnavailable):
            await waiting
    server.resume()
    assert asyncio.all_tasks() <= before


async def test_an_error_reply_is_its_own_callers(link: RedisLink) -> None:
    """A command that is refused fails one caller, whatever was written with it."""
    calls: list[Any] = [
        link.command("SET", "key", "text"),
        link.command("INCR", "key"),
        link.command("GET", "key"),
    ]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert (ended[0], ended[2]) == (b"OK", b"text")
    assert "not an integer" in str(ended[1])
