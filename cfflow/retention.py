"""Retention: orders whose payments ended long ago leave the store, a few at a time.

No key has a time to live: a payment goes only after all payments of its order are at their
end, for longer than their flows keep them, and with no review open. An order that took
money leaves a small mark, so that nobody pays it again.
"""

from __future__ import annotations

from typing import Final

from cfflow._core.chart import FINAL, State
from cfflow._core.record import Snapshot
from cfflow._ports.store import Page
from cfflow.reader import Reader

__all__ = ["Retention"]

_ENDS: Final = (*FINAL, State.FAILED)


class Retention:
    """Walks through the ended payments, oldest first, round and round."""

    def __init__(self, reader: Reader) -> None:
        self._reader: Final = reader
        self._from_ms = 0
        self._wider = 1

    async def purge_some(self, limit: int = 200) -> int:
        """Look at so many ended payments and return how many orders were removed."""
        reader = self._reader
        to_ms = reader.store.now_ms() - reader.flows.retention_min_s() * 1000
        page = Page(_ENDS, from_ms=self._from_ms, to_ms=to_ms, limit=limit * self._wider)
        found = await reader.store.list(page)
        last_ms = found[-1].record.created_ms if len(found) == page.limit else 0
        # A page of one millisecond is followed by a wider one: behind it nothing is passed over.
        self._wider = self._wider * 2 if 0 < last_ms == self._from_ms else 1
        self._from_ms = last_ms
        orders = dict.fromkeys(snapshot.order_id for snapshot in found)
        return sum([await self._purge(order_id) for order_id in orders])

    async def _purge(self, order_id: str) -> bool:
        payments = await self._reader.of_order(order_id)
        if not payments or not all([await self._is_over(payment) for payment in payments]):
            return False
        return await self._reader.store.purge(payments)

    async def _is_over(self, payment: Snapshot) -> bool:
        record = payment.record
        if record.state not in _ENDS or record.wake_ms is not None or record.open_reviews:
            return False
        retention_s = (await self._reader.flow_of(payment)).end.retention_s
        return self._reader.store.now_ms() >= record.updated_ms + retention_s * 1000
