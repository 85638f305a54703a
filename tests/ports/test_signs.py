"""Workers' signs of life, in memory, on a server, on a cluster: bounded, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cfflow import Worker
from cfflow.store.control import identity_of
from cfflow.store.memory.signs import MemorySigns, signs_of
from cfflow.store.memory.store import MemoryStore
from cfflow.store.redis.store import RedisStore
from cfflow.store.signs import SIGN_KEPT_MS, SIGNS_MAX, Failing, Sign, Signs
from tests.engine.shop import open_shop

KINDS = ["redis_url", "redis7_url", "cluster_url"]


def a_sign(name: str, **fields: Any) -> Sign:
    """Return a sign of a worker of this name."""
    return Sign(name=name, host="till-1", pid=7, **fields)


@pytest.fixture(params=[*KINDS, "memory"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[MemoryStore | RedisStore]:
    """A store of each kind, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    opened = RedisStore(request.getfixturevalue(request.param))
    await opened.open()
    yield opened
    await opened.aclose()


async def test_the_newest_sign_of_each_worker_is_kept(store: MemoryStore | RedisStore) -> None:
    """All of it, with the store's own time; the worker that reported last comes first."""
    signs, other = store.signs(), signs_of(store)
    failing = Failing(call="fetch_payment", error="E", times=3, since_at_ms=5, at_ms=6)
    before = store.now_ms()
    await signs.put(a_sign("a", leased=1))
    await signs.put(a_sign("b", failing=(failing,), limits={"pay": 9}))
    await asyncio.sleep(0.01)
    await signs.put(a_sign("a", leased=2, has_stopped=True))
    found = await other.all()
    assert [(each.name, each.leased, each.has_stopped) for each in found] == [
        ("a", 2, True),
        ("b", 0, False),
    ]
    assert (found[1].failing, found[1].limits) == ((failing,), {"pay": 9})
    assert all(before - 1_000 <= each.at_ms <= store.now_ms() + 1_000 for each in found)
    assert other.is_shared


async def test_signs_are_bounded(store: MemoryStore | RedisStore) -> None:
    """However many workers there were: those that reported last are kept."""
    signs = store.signs()
    for number in range(SIGNS_MAX + 6):
        await signs.put(a_sign(f"worker_{number:02}"))
        await asyncio.sleep(0.002)
    names = {each.name for each in await signs.all()}
    assert names == {f"worker_{number:02}" for number in range(6, SIGNS_MAX + 6)}
    if isinstance(store, RedisStore):
        assert len(await store.link.command("HKEYS", store.keys.workers)) == SIGNS_MAX


@pytest.mark.parametrize("kind", KINDS)
async def test_an_old_sign_is_not_shown_and_goes_with_the_next(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """After a day; one that does not decode hides no other one."""
    store = RedisStore(request.getfixturevalue(kind))
    await store.open()
    old = store.now_ms() - SIGN_KEPT_MS - 1_000
    held = (f"{old}:" + '{"name":"old","host":"h","pid":1}', "nonsense", f"{store.now_ms()}:{{")
    for name, text in zip(("old", "none", "broken"), held, strict=True):
        await store.link.command("HSET", store.keys.workers, name, text)
    assert await store.signs().all() == []
    await store.signs().put(a_sign("new"))
    assert [each.name for each in await store.signs().all()] == ["new"]
    assert set(await store.link.command("HKEYS", store.keys.workers)) == {b"new", b"broken"}
    await store.aclose()


async def test_a_sign_of_this_process_alone_is_told_apart() -> None:
    """A store without signs: status must not say that no worker works."""
    clock = MemoryStore()
    signs: Signs = MemorySigns(clock.now_ms, is_shared=False)
    await signs.put(a_sign("a"))
    assert (len(await signs.all()), signs.is_shared) == (1, False)
    assert (await identity_of(clock)).name


async def test_a_worker_reports_itself_while_it_runs_and_when_it_ends() -> None:
    """At once, whether anything is due or not."""
    async with open_shop() as shop:
        worker = Worker(shop.cashier)
        running = asyncio.create_task(worker.run(signals=False))
        while not (seen := (await shop.cashier.status()).workers):
            await asyncio.sleep(0.01)
        assert [each.state for each in seen] == ["working"]
        worker.stop()
        await running
        (ended,) = (await shop.cashier.status()).workers
        assert (ended.name, ended.state) == (seen[0].name, "stopped")
