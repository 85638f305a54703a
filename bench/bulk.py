"""A store that is filled fast: orders that begin are written with plain commands.

The script takes ten times as long in the server, so a million orders would take longer to write
than everything else to measure. What lies in the server then is the same: a test compares the two.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bench.lean import LeanRedis
from cfflow.store.protocol import Commit, Committed, Outcome
from cfflow.store.redis.replies import value_of
from cfflow.store.redis.store import RedisStore

__all__ = ["BulkStore"]


class BulkStore(RedisStore):
    """Begins orders without a look at what is there: for ids that the store does not have.

    The first order of each partition goes through the script, which stores the flow and gives the
    order its stamp. So does each commit with events, which the script counts.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._stamps: Final[dict[tuple[object, ...], bytes]] = {}
        self._plain: LeanRedis | None = None

    async def open(self) -> None:
        """Connect."""
        await super().open()
        self._plain = LeanRedis(self.link.url)
        await self._plain.open()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._plain is not None:
            await self._plain.aclose()
        await super().aclose()

    async def commit(self, commit: Commit) -> Committed:
        """Write the order, its wake time and its indexes."""
        place = (self.keys.partition(commit.order_id), *commit.flows)
        stamp = self._stamps.get(place)
        if self._plain is None or stamp is None or commit.events or commit.expected:
            committed = await super().commit(commit)
            if stamp is None and not commit.expected:
                self._stamps[place] = (await self.read([commit.order_id]))[0].stamp.encode()
            return committed
        await self._begin(self._plain, commit, stamp)
        return Committed(Outcome.APPLIED, self.now_ms())

    def _begin(self, plain: LeanRedis, commit: Commit, stamp: bytes) -> asyncio.Future[Any]:
        """Write the order; the future is that of the last command."""
        keys, order_id = self.keys, commit.order_id
        partition = keys.partition(order_id)
        if commit.wake_at_ms is not None:
            plain.execute_command("ZADD", keys.wake(partition), commit.wake_at_ms, order_id)
        for change in commit.index:
            key = keys.index(partition, change.index)
            plain.execute_command("ZADD", key, change.score, change.member)
        value = stamp + value_of(commit.token, commit.digests, commit.record or b"")
        return plain.execute_command("SET", keys.order(order_id), value)
