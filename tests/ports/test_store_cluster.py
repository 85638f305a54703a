"""The store on a real cluster of three masters: one node per commit, one round trip per node."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.crc import key_slot

from cfflow.core.chart import State
from cfflow.errors import StoreReplaced, StoreUnavailable
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import Outcome
from cfflow.store.redis.store import RedisStore
from tests.ports.orders_kit import a_plan, begin, changed, ids, loaded, verified
from tests.ports.servers import Cluster, Server, valkey_binary


@pytest.fixture
def url(cluster_url: str) -> str:
    """A plain URL of one node of an empty cluster."""
    return cluster_url


def three_masters(folder: Path, *options: str) -> Cluster:
    """Return a cluster of one test alone."""
    folders = [folder / f"node{i}" for i in range(3)]
    return Cluster([Server(valkey_binary(), path, *options, cluster=True) for path in folders])


def orders_of(store: RedisStore, node: int) -> list[str]:
    """Return orders that live on this node: the slots are shared in equal parts."""
    names = [f"order_{i}" for i in range(60)]
    return [name for name in names if master_of(store.keys.order(name)) == node]


def master_of(key: str) -> int:
    """Return the number of the master that has this key in a cluster of three."""
    return key_slot(key.encode()) * 3 >> 14


async def test_the_partitions_are_shared_by_all_masters(
    orders: Orders, store: RedisStore, cluster: Cluster
) -> None:
    """Of 60 orders every master keeps a good part, and each whole."""
    for i in range(60):
        await begin(orders, f"order_{i}")
    for number, node in enumerate(cluster.nodes):
        kept = node.run("KEYS", "*:o:*")
        assert len(kept) == len(orders_of(store, number)) >= 10
    assert len((await orders.list(Page())).payments) == 60


async def test_a_lease_is_one_round_trip_per_node(
    orders: Orders, store: RedisStore, trips: list[str]
) -> None:
    """All 64 partitions are asked in three round trips, one for each master."""
    for i in range(30):
        await changed(orders, await begin(orders, f"order_{i}"), wake_at_ms=1)
    # From now on every node has the script.
    await store.lease(64, 0)
    trips.clear()
    assert len(ids(await store.lease(640, 60_000))) == 30
    assert len(trips) == len(set(trips)) == 3


async def test_a_page_is_two_round_trips_per_node(orders: Orders, trips: list[str]) -> None:
    """The indexes of all 64 partitions, and then the orders that they name."""
    for i in range(30):
        await begin(orders, f"order_{i}")
    trips.clear()
    assert len((await orders.list(Page())).payments) == 30
    assert sorted(trips) == sorted([*set(trips)] * 2)
    assert len(set(trips)) == 3


async def test_a_slot_that_has_moved_is_found(
    orders: Orders, store: RedisStore, cluster: Cluster
) -> None:
    """Commits and leases go to the new owner, and an inquiry precedes the next step."""
    order_id = orders_of(store, 0)[0]
    slot = key_slot(store.keys.order(order_id).encode())
    old, new = cluster.nodes[0], cluster.nodes[1]
    give(cluster, slot, new)
    try:
        order = await begin(orders, order_id)
        assert (await orders.commit(a_plan(order, opens=True))).outcome is Outcome.RESTARTED
        order = await verified(orders, order)
        await changed(orders, order, state=State.INITIATED, wake_at_ms=1, opens=True)
        fresh = RedisStore(cluster.url)
        await fresh.open()
        assert ids(await fresh.lease(64, 60_000)) == [order_id]
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
        await begin(Orders(other), order_id, wake_at_ms=1)
        await other.aclose()
        assert ids(await store.lease(64, 60_000)) == [order_id]
    finally:
        new.run("FLUSHALL")
        give(cluster, slot, old)


async def test_a_master_that_comes_back_is_used_again(tmp_path: Path) -> None:
    """Killed: `StoreUnavailable` in time, for leases too. Restarted: all goes on by itself."""
    own = three_masters(tmp_path, "--appendonly", "yes").start()
    store, node = RedisStore(own.url), own.nodes[1]
    orders = Orders(store)
    try:
        await store.open()
        order_id = orders_of(store, 1)[0]
        order = await begin(orders, order_id)
        node.kill()
        with pytest.raises(StoreUnavailable):
            await store.lease(64, 1)
        with pytest.raises(StoreUnavailable):
            await orders.load(order_id)
        node.start()
        own.wait()
        assert ids(await store.lease(64, 1)) == []
        order = await verified(orders, await loaded(orders, order_id))
        await changed(orders, order, opens=True)
    finally:
        await store.aclose()
        own.kill()


@pytest.mark.parametrize("has_meta", [False, True])
async def test_a_master_that_comes_back_without_its_data_begins_no_order(
    tmp_path: Path, has_meta: bool
) -> None:
    """Its orders may have been paid: they are refused, and those of other masters go on."""
    own = three_masters(tmp_path).start()
    store = RedisStore(own.url)
    orders = Orders(store)
    number = (master_of(store.keys.meta) + (not has_meta)) % 3
    node = own.nodes[number]
    try:
        await store.open()
        lost, kept = orders_of(store, number)[0], orders_of(store, (number + 1) % 3)[0]
        order = await begin(orders, lost)
        node.restart()
        own.wait()
        with pytest.raises(StoreReplaced):
            await begin(orders, lost)
        with pytest.raises(StoreReplaced):
            await orders.commit(a_plan(order, opens=True))
        assert ids(await store.lease(64, 1)) == []
        again = RedisStore(own.url)
        await again.open()
        with pytest.raises(StoreReplaced):
            await begin(Orders(again), lost)
        await changed(Orders(again), await begin(Orders(again), kept), opens=True)
        await again.aclose()
        await changed(orders, await loaded(orders, kept), opens=True)
    finally:
        await store.aclose()
        own.kill()


async def test_a_cluster_that_is_down_is_unavailable(tmp_path: Path) -> None:
    """No node responds any more: the same error as for one server, and in time."""
    alone = Cluster([Server(valkey_binary(), tmp_path, cluster=True)]).start()
    store = RedisStore(alone.url)
    orders = Orders(store)
    try:
        await store.open()
        assert store.link.is_cluster
        order = await begin(orders)
    finally:
        alone.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await orders.commit(a_plan(order))
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
            await Orders(store).load(order_id)
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
