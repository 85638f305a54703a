"""Removes orders that are over, once all of their flows keep them no longer."""

from __future__ import annotations

from typing import Final

from cfflow.core.order import ENDS, Order, may_be_purged
from cfflow.errors import FlowError
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import Row


class Retention:
    """Removes orders whose payments ended long ago, a few at a time.

    No key has a time to live: an order goes only after all of its payments are at their end for
    longer than their flows keep them, with no review open. One that took money leaves a marker,
    so that it is not paid again.
    """

    def __init__(self, orders: Orders, flows: Catalog) -> None:
        self._orders: Final = orders
        self._flows: Final = flows
        self._after: Row | None = None

    async def purge_some(self, limit: int = 200) -> int:
        """Look at the next `limit` ended payments and return how many orders were removed."""
        now_ms = self._orders.store.now_ms()
        to_at_ms = now_ms - self._flows.retention_min_s() * 1000
        page = Page(ENDS, to_at_ms=to_at_ms, limit=limit, after=self._after)
        found = await self._orders.list(page)
        self._after = found.next_after
        orders = {payment.order_id: payment.order for payment in found.payments}
        return sum([await self._purge(order) for order in orders.values()])

    async def _purge(self, order: Order) -> bool:
        """Remove an order that is over; one whose flow is gone stays, and holds up no other one."""
        store = self._orders.store
        try:
            kept_s = {
                payment.n: (await self._flows.flow_of(payment, store)).end.retention_s
                for payment in order.all_payments
            }
        except FlowError:
            return False
        return may_be_purged(order, kept_s, store.now_ms()) and await self._orders.remove(order)
