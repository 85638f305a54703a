"""The store on a real cluster of three masters: one node per commit, one round trip per node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot

from cfflow.core.chart import State
from cfflow.core.record import Snapshot
from cfflow.errors import StoreUnavailable
from cfflow.store.protocol import Outcome, Page
from cfflow.store.redis.store import RedisStore
from cfflow.testing.conformance.helpers import FLOW, a_plan, a_record
from tests.ports.servers import Cluster, Server, valkey_binary


@pytest.fixture
async def store(cluster_url: str) -> AsyncIterator[RedisStore]:
    """An open store on an empty cluster, named by a plain URL of one node."""
    opened = RedisStore(cluster_url)
    await opened.open()
    yield opened
    await opened.aclose()


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes to which pipelines were sent."""
    sent: list[str] = []
    send = ClusterNode.execute_pipeline

    async def counted(self: ClusterNode, commands: Any) -> bool:
        sent.append(self.name)
        return bool(await send(self, commands))

    monkeypatch.setattr(ClusterNode, "execute_pipeline", counted)
    return sent


async def begin(store: RedisStore, order_id: str) -> Snapshot:
    """Start a payment."""
    return (await store.start(order_id, a_record(store), FLOW)).snapshot


def orders_of(store: RedisStore, node: int) -> list[str]:
    """Return orders that live on this node: the slots are shared in equal parts."""
    names = [f"order_{i}" for i in range(60)]
    return [name for name in names if key_slot(store.keys.order(name).encode()) * 3 >> 14 == node]


async def test_the_partitions_are_shared_by_all_masters(
    store: RedisStore, cluster: Cluster
) -> None:
    """Of 60 payments every master keeps a good part, and each whole."""
    for i in range(60):
        await begin(store, f"order_{i}")
    for number, node in enumerate(cluster.nodes):
        orders = node.run("KEYS", "*:o:*")
        assert len(orders) == len(orders_of(store, number)) >= 10
    assert len(await store.list(Page())) == 60


async def test_a_lease_is_one_round_trip_per_node(store: RedisStore, pipelines: list[str]) -> None:
    """All 64 partitions are asked in three pipelines, one for each master."""
    for i in range(30):
        committed = await store.commit(a_plan(await begin(store, f"order_{i}"), wake_at_ms=1))
        assert committed.outcome is Outcome.OK
    await store.lease(1, 0)
    pipelines.clear()
    assert len(await store.lease(640, 60_000)) == 30
    assert len(pipelines) == len(set(pipelines)) == 3


async def test_a_slot_that_has_moved_is_found(store: RedisStore, cluster: Cluster) -> None:
    """Commits and leases go to the new owner, and an inquiry comes first."""
    order_id = orders_of(store, 0)[0]
    slot = key_slot(store.keys.order(order_id).encode())
    old, new = cluster.nodes[0], cluster.nodes[1]
    give(cluster, slot, new)
    try:
        snapshot = await begin(store, order_id)
        plan = a_plan(snapshot, state=State.INITIATED, wake_at_ms=1)
        assert (await store.commit(plan)).outcome is Outcome.RESTARTED
        asked = a_plan(snapshot, state=State.INITIATED, wake_at_ms=1, verified_after_restart=True)
        assert (await store.commit(asked)).outcome is Outcome.OK
        fresh = RedisStore(cluster.url)
        await fresh.open()
        assert [found.order_id for found in await fresh.lease(64, 60_000)] == [order_id]
        await fresh.aclose()
        assert store.keys.order(order_id).encode() in new.run("KEYS", "*")
    finally:
        new.run("FLUSHALL")
        give(cluster, slot, old)


async def test_a_lease_follows_a_slot_that_has_moved(store: RedisStore, cluster: Cluster) -> None:
    """A worker that only leases finds the new owner after a resharding too."""
    await store.lease(64, 0)
    order_id = orders_of(store, 0)[0]
    slot = key_slot(store.keys.order(order_id).encode())
    old, new = cluster.nodes[0], cluster.nodes[1]
    give(cluster, slot, new)
    try:
        other = RedisStore(new.url)
        await other.open()
        await other.commit(
            a_plan(await begin(other, order_id), wake_at_ms=1, verified_after_restart=True)
        )
        await other.aclose()
        assert [found.order_id for found in await store.lease(64, 60_000)] == [order_id]
    finally:
        new.run("FLUSHALL")
        give(cluster, slot, old)


async def test_a_master_that_comes_back_is_used_again(store: RedisStore, cluster: Cluster) -> None:
    """Killed: `StoreUnavailable` in time, for leases too. Restarted: all goes on by itself."""
    node = cluster.nodes[1]
    order_id = orders_of(store, 1)[0]
    await begin(store, order_id)
    node.kill()
    try:
        with pytest.raises(StoreUnavailable):
            await store.lease(64, 1)
        with pytest.raises(StoreUnavailable):
            await store.load(order_id, 1)
    finally:
        node.start()
        cluster.wait()
    assert await store.lease(64, 1) == []
    assert (await begin(store, order_id)).n == 1


async def test_a_cluster_that_is_down_is_unavailable(tmp_path: Path) -> None:
    """No node responds any more: the same error as for one server, and in time."""
    alone = Cluster([Server(valkey_binary(), tmp_path, cluster=True)]).start()
    store = RedisStore(alone.url)
    try:
        await store.open()
        assert store.link.is_cluster
        snapshot = await begin(store, "order_1")
    finally:
        alone.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.commit(a_plan(snapshot))
        with pytest.raises(StoreUnavailable):
            await store.lease(64, 1)
    await store.aclose()


async def test_a_slot_without_an_owner_is_unavailable(tmp_path: Path) -> None:
    """Two nodes that redirect to each other: `StoreUnavailable`, since the command is correct."""
    nodes = [Server(valkey_binary(), tmp_path / name, cluster=True) for name in ("one", "two")]
    pair = Cluster(nodes).start()
    store = RedisStore(pair.url, deadline_s=1)
    try:
        await store.open()
        order_id = orders_of(store, 0)[0]
        slot = key_slot(store.keys.order(order_id).encode())
        for node, other in (nodes, nodes[::-1]):
            node.run("FLUSHALL")
            node.run("CLUSTER", "SETSLOT", slot, "NODE", other.run("CLUSTER", "MYID").decode())
        with pytest.raises(StoreUnavailable):
            await store.load(order_id, 1)
    finally:
        await store.aclose()
        pair.kill()


def give(cluster: Cluster, slot: int, owner: Server) -> None:
    """Move a slot and what it holds to another node, as a resharding does."""
    moved: dict[bytes, bytes] = {}
    for node in cluster.nodes:
        for key in node.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
            moved[key] = node.run("DUMP", key)
            node.run("DEL", key)
    name = owner.run("CLUSTER", "MYID").decode()
    # The highest epoch wins: messages about the slot that still arrive have a lower one.
    owner.run("CLUSTER", "BUMPEPOCH")
    for node in (owner, *cluster.nodes):
        node.run("CLUSTER", "SETSLOT", slot, "NODE", name)
    for key, dumped in moved.items():
        owner.run("RESTORE", key, 0, dumped)
