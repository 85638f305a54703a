"""A store that the benchmarks fill fast has what the store's own commits write."""

from __future__ import annotations

import msgspec
from redis import Redis

from bench.bulk import BulkStore
from cfflow.core.order import Order
from cfflow.core.plan import under_token
from cfflow.core.steps import begin_payment, create
from cfflow.store.catalog import Catalog
from cfflow.store.codec import commit_of
from cfflow.store.redis.store import RedisStore


async def filled(store: RedisStore, url: str) -> dict[bytes, object]:
    """Write 200 orders, half of them due some time; return all keys that are left."""
    flow = Catalog().named("native_otp")
    await store.open()
    for number in range(200):
        record = create(flow, 1_000, nonce="00000000", currency="INR", amount=None, metadata=None)
        record = msgspec.structs.replace(record, wake_at_ms=2_000 if number % 2 else None)
        plan = begin_payment(Order(id=f"order_{number}"), record, flow)
        await store.commit(commit_of(under_token(plan, f"{number:08d}")))
    await store.aclose()
    with Redis.from_url(url) as client:
        keys = [key for key in client.scan_iter() if not key.endswith((b":run", b"meta"))]
        return {key: read(client, key) for key in keys}


def read(client: Redis, key: bytes) -> object:
    """Return all that a key has; the stamp of an order is another one in each store."""
    match client.type(key):
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"hash":
            return client.hgetall(key)
        case b"string":
            return client.getrange(key, 8, -1)
    raise AssertionError(key)


async def test_a_store_that_is_filled_fast_has_what_the_script_writes(redis_url: str) -> None:
    """Else the scale run and the leases would be measured on a store that no commit makes."""
    with Redis.from_url(redis_url) as client:
        by_script = await filled(RedisStore(redis_url), redis_url)
        client.flushall()
        by_hand = await filled(BulkStore(redis_url), redis_url)
    assert len(by_script) > 200
    assert by_hand == by_script
