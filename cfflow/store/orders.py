"""Orders in a store: read, committed by plans, and shared by the tasks of one process.

Two tasks of one process that work on one order would lose a race at every commit: 2.2 tries a
commit with 16 tasks, against 1.0 with a lock and the newest copy in common.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from cfflow.core.chart import State
from cfflow.core.order import REVIEW_INDEX, SCHEMA, Order, Snapshot
from cfflow.core.plan import Plan, under_token
from cfflow.core.record import Record, split_id
from cfflow.core.restart import Restart
from cfflow.errors import PaymentNotFound, StoreError
from cfflow.store.codec import (
    commit_of,
    decode_order,
    is_of_newer_version,
    readable,
    removal_of,
)
from cfflow.store.protocol import Committed, Outcome, Row, Store, Window

#: A multiple of three, so that its base64 has no padding.
_TOKEN_B: Final = 6

#: So many members that are no payment are set aside by one list: it must not become slow.
_STRAYS_MAX: Final = 16


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
    """Which payments to list: by state and time of creation, oldest or newest first.

    `review`: only those with an open review. Both ends of the time belong to it. `after`: the row
    behind which the page begins, None for the first page.
    """

    states: tuple[State, ...] = tuple(State)
    review: bool = False
    from_at_ms: int = 0
    to_at_ms: int | None = None
    limit: int = 100
    newest_first: bool = False
    after: Row | None = None

    def has(self, record: Record) -> bool:
        """Return whether a payment belongs on this page, regardless of the limit."""
        from_then = self.from_at_ms <= record.created_at_ms
        in_time = from_then and (self.to_at_ms is None or record.created_at_ms <= self.to_at_ms)
        wanted = bool(record.open_reviews) if self.review else True
        return in_time and wanted and record.state in self.states


class Listed(msgspec.Struct, frozen=True):
    """The payments of a page that can be read, each with its row, in the page's order.

    `next_after`: the last row that was looked at, if there are more behind it; None if there are
    none. There may be more although few payments are listed, or none: what cannot be read takes up
    room too.
    """

    found: tuple[tuple[Row, Snapshot], ...]
    next_after: Row | None

    @property
    def payments(self) -> tuple[Snapshot, ...]:
        """The payments alone."""
        return tuple(payment for _, payment in self.found)


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
        found = self._shared.get(order_id)
        return self._shared.setdefault(order_id, Shared()) if found is None else found

    async def commit(self, plan: Plan, *, lease: str = "") -> Written:
        """Write a plan under a new token. Raises `StoreError` for an order of a newer cfflow."""
        if plan.before.schema > SCHEMA:
            raise StoreError(f"{plan.after.id} was written by a newer cfflow: it is read-only here")
        # As `secrets.token_urlsafe` makes it, in one call and not in six.
        plan = under_token(plan, urlsafe_b64encode(os.urandom(_TOKEN_B)).decode())
        committed = await self.store.commit(commit_of(plan, lease=lease))
        return _written(plan, committed)

    async def remove(self, order: Order) -> bool:
        """Purge an order; False if it has changed or a notification came since it was read."""
        outcome = (await self.store.commit(removal_of(order))).outcome
        return outcome in {Outcome.APPLIED, Outcome.GONE}

    async def list(self, page: Page) -> Listed:
        """Return payments by index, at most `page.limit` rows of it.

        An order that cannot be read is set aside and left out: it must hide no other one. So is a
        member of an index that is no payment.
        """
        # One row more is asked for: whether there is one is the only thing that matters of it.
        window = _window(page)
        rows = await self.store.find(window)
        looked_at = rows[: page.limit]
        orders, gone = await self._readable(looked_at)
        found: dict[str, tuple[Row, Snapshot]] = {}
        strays = []
        for row in looked_at:
            place = split_id(row[0])
            order = orders.get(place[0]) if place else None
            if place is None or place[0] in gone or (order and not order.has(place[1])):
                strays.append(row[0])
            # Between the two round trips a payment may have left the page. A damaged index may
            # have one twice.
            elif order and page.has(order.record(place[1])):
                found.setdefault(row[0], (row, order.payment(place[1])))
        await self._set_strays_aside(window, strays)
        last = looked_at[-1] if len(rows) > page.limit else None
        return Listed(tuple(found.values()), last)

    async def _readable(self, rows: Sequence[Row]) -> tuple[dict[str, Order], set[str]]:
        """Return the orders of rows that can be read, and the ids of those that are not there."""
        places = [split_id(member) for member, _ in rows]
        order_ids = list(dict.fromkeys(place[0] for place in places if place is not None))
        stored = {one.id: one for one in await self.store.read(order_ids)}
        orders = {name: order for name, one in stored.items() if (order := readable(one))}
        for one in stored.values():
            if one.id not in orders and not is_of_newer_version(one):
                await self._set_aside(one.id, one.token)
        return orders, {name for name in order_ids if name not in stored}

    async def _set_strays_aside(self, window: Window, strays: Sequence[str]) -> None:
        """Set aside members that are no payment, and are still there: others were purged just now.

        They stay where they are, too: no store knows in which partition.
        """
        if not strays:
            return
        still = {member for member, _ in await self.store.find(window)}
        for member in [member for member in strays if member in still][:_STRAYS_MAX]:
            await self._set_aside(member, "")

    async def _set_aside(self, name: str, token: str) -> None:
        """Set aside what cannot be read; a list shows the others even where that is refused."""
        with contextlib.suppress(StoreError):
            await self.store.set_aside(name, token=token)


def _window(page: Page) -> Window:
    """Return which rows of which indexes a page has, and one row more.

    Of payments with a review there are few, and of those in a state there can be millions: so the
    index of reviews is read, and the states are looked up in the records.
    """
    return Window(
        (REVIEW_INDEX,) if page.review else tuple(state.value for state in page.states),
        page.from_at_ms,
        page.to_at_ms,
        page.limit + 1,
        page.newest_first,
        page.after,
    )


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
