"""Orders in a store: read, committed by plans, and shared by the tasks of one process.

Two tasks of one process that work on one order would lose a race at every commit: 2.2 tries a
commit with 16 tasks, against 1.0 with a lock and the newest copy in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from secrets import token_urlsafe
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from cfflow.core.chart import State
from cfflow.core.order import REVIEW_INDEX, SCHEMA, Order, Snapshot
from cfflow.core.plan import Plan, under_token
from cfflow.core.record import Record, split_id
from cfflow.core.restart import Restart
from cfflow.errors import PaymentNotFound, StoreError
from cfflow.store.codec import commit_of, decode_order, removal_of
from cfflow.store.protocol import Committed, Outcome, Store, StoredOrder, Window

_TOKEN_B: Final = 6


class Written(msgspec.Struct, frozen=True):
    """The result of a plan's commit.

    `plan`: the plan under its token. `order`: the order as it is now, with `APPLIED` and
    `CONFLICT`.
    """

    outcome: Outcome
    plan: Plan
    order: Order
    restart: Restart = Restart("")
    marker: str = ""
    replicated: bool = True


class Shared:
    """The newest copy of an order that this process has, and the lock of its tasks."""

    def __init__(self) -> None:
        self.lock: Final = asyncio.Lock()
        self.newest: Order | None = None


class Page(msgspec.Struct, frozen=True):
    """Which payments to list: by state and time of creation, oldest first.

    `review`: only those with an open review. Both ends of the time belong to it.
    """

    states: tuple[State, ...] = tuple(State)
    review: bool = False
    from_at_ms: int = 0
    to_at_ms: int | None = None
    limit: int = 100

    def has(self, record: Record) -> bool:
        """Return whether a payment belongs on this page, regardless of the limit."""
        from_then = self.from_at_ms <= record.created_at_ms
        in_time = from_then and (self.to_at_ms is None or record.created_at_ms <= self.to_at_ms)
        wanted = bool(record.open_reviews) if self.review else True
        return in_time and wanted and record.state in self.states


class Orders:
    """The orders of one store, as plans and decoded records."""

    def __init__(self, store: Store) -> None:
        self.store: Final = store
        self._shared: WeakValueDictionary[str, Shared] = WeakValueDictionary()

    async def load(self, order_id: str) -> Order | None:
        """Return an order, None if there is none."""
        found = await self.store.read([order_id])
        return decode_order(found[0]) if found else None

    async def payment(self, order_id: str, n: int) -> Snapshot:
        """Return a payment. Raises `PaymentNotFound`."""
        order = await self.load(order_id)
        if order is None or not order.has(n):
            raise PaymentNotFound(f"there is no payment {order_id}.{n}")
        return order.payment(n)

    def shared(self, order_id: str) -> Shared:
        """Return what the tasks of this process share of an order, for as long as one keeps it."""
        return self._shared.setdefault(order_id, Shared())

    async def commit(self, plan: Plan, *, lease: str = "") -> Written:
        """Write a plan under a new token. Raises `StoreError` for an order of a newer cfflow."""
        if plan.before.schema > SCHEMA:
            raise StoreError(f"{plan.after.id} was written by a newer cfflow: it is read-only here")
        plan = under_token(plan, token_urlsafe(_TOKEN_B))
        committed = await self.store.commit(commit_of(plan, lease=lease))
        return _written(plan, committed)

    async def remove(self, order: Order) -> bool:
        """Purge an order; False if it has changed or a notification came since it was read."""
        outcome = (await self.store.commit(removal_of(order))).outcome
        return outcome in {Outcome.APPLIED, Outcome.GONE}

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by index, oldest first.

        An order that cannot be read is set aside and left out: it must hide no other one.
        """
        indexes = tuple(state.value for state in page.states)
        narrowed = page.review and len(indexes) < len(State)
        window = Window(
            (REVIEW_INDEX,) if page.review and not narrowed else indexes,
            page.from_at_ms,
            page.to_at_ms,
            REVIEW_INDEX if narrowed else "",
            page.limit,
        )
        places = [split_id(member) for member, _ in await self.store.find(window)]
        wanted = list(dict.fromkeys(place for place in places if place is not None))
        stored = await self.store.read([*dict.fromkeys(order_id for order_id, _ in wanted)])
        orders = {one.id: order for one in stored if (order := await self._readable(one))}
        found = [
            orders[order_id].payment(n)
            for order_id, n in wanted
            if order_id in orders and orders[order_id].has(n)
        ]
        # Between the two round trips a payment may have left the page.
        found = [payment for payment in found if page.has(payment.record)]
        return sorted(found, key=lambda payment: (payment.record.created_at_ms, payment.id))

    async def _readable(self, stored: StoredOrder) -> Order | None:
        """Return an order all of whose payments decode; set it aside and return None otherwise.

        One of a newer version is only left out: that version can read it.
        """
        order = None
        try:
            order = decode_order(stored)
            order.all_payments  # noqa: B018  decodes all of it
        except StoreError:
            if order is None or order.schema <= SCHEMA:
                await self.store.set_aside(stored.id)
            return None
        return order


def _written(plan: Plan, committed: Committed) -> Written:
    order = plan.after if committed.stored is None else decode_order(committed.stored)
    if plan.verified and committed.outcome is Outcome.APPLIED:
        order = msgspec.structs.replace(order, stamp=plan.verified)
    return Written(
        committed.outcome,
        plan,
        order,
        committed.restart,
        committed.marker,
        committed.replicated,
    )
