"""`Reader`: returns stored payments. It needs no gateway and moves no money."""

from __future__ import annotations

from typing import Final, Self, cast

import msgspec

from cfflow.core.arguments import check_order_id, check_payment_id, check_text, shown_name
from cfflow.core.chart import State
from cfflow.core.order import Snapshot
from cfflow.errors import FlowError, InvalidInput
from cfflow.feed.feed import Feed
from cfflow.feed.protocol import Start
from cfflow.store.catalog import Catalog
from cfflow.store.control import Decision, decision_text, gate_named
from cfflow.store.memory.signs import signs_of
from cfflow.store.orders import Orders, Page
from cfflow.store.protocol import Store
from cfflow.views.health import MAX_LAG_S, status_of
from cfflow.views.history import HistoryEntry, history_of
from cfflow.views.payment import Payment, payment_of
from cfflow.views.status import Status
from cfflow.views.why import Why, why_of

_LIST_MAX: Final = 10_000
_AGE_MAX_S: Final = 10**10


class Reader:
    """Reads payments out of a store. Use it with `async with`, which connects."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.store: Final = store
        self.orders: Final = Orders(store)
        self.flows: Final = catalog
        self.signs: Final = signs_of(store)

    async def __aenter__(self) -> Self:
        await self.store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection to the store."""
        await self.store.aclose()

    async def get(self, payment_id: Payment | str) -> Payment:
        """Return a payment as it is stored. Raises `PaymentNotFound`."""
        return await self.shown(await self.orders.payment(*place_of(payment_id)))

    async def find(
        self,
        *,
        state: State | str | None = None,
        flow: str | None = None,
        order_id: str | None = None,
        review: bool = False,
        older_than: float | None = None,
        limit: int = 100,
        after: Payment | str | None = None,
    ) -> list[Payment]:
        """Return payments, oldest first. One that cannot be read is left out: `status` names it.

        `state`, `flow`, `order_id` and `review` (an open one) narrow the list; `older_than`
        is an age in seconds; `after` is the last payment of the page before. `limit` is 1 to
        10,000. Raises `InvalidInput`, and `PaymentNotFound` for an `after` that is gone.
        """
        if type(limit) is not int or not 1 <= limit <= _LIST_MAX:
            raise InvalidInput(f"limit must be a number from 1 to {_LIST_MAX}")
        if older_than is not None and not _is_age(older_than):
            raise InvalidInput("older_than must be an age in seconds")
        if type(review) is not bool:
            raise InvalidInput("review must be True (an open review) or False")
        if flow is not None and not isinstance(flow, str):
            raise InvalidInput("flow must be the name of a flow")
        to_at_ms = None if older_than is None else self.store.now_ms() - round(older_than * 1000)
        states = tuple(State) if state is None else (state_named(state),)
        page = Page(states, review, 0, to_at_ms, max(limit, 100))
        last = (0, "")
        if after is not None:
            place = await self.orders.payment(*place_of(after))
            last = (place.record.created_at_ms, place.id)
        if order_id is None:
            found = await self._listed(page, last, flow, limit)
        else:
            found = await self._of_order(check_order_id(order_id), page, last, flow)
        return [await self._listed_payment(snapshot) for snapshot in found[:limit]]

    async def history(self, payment_id: Payment | str) -> tuple[HistoryEntry, ...]:
        """Return what happened to a payment: transitions, operations, reviews, in order.

        Raises `PaymentNotFound`.
        """
        return history_of(await self.orders.payment(*place_of(payment_id)))

    async def why(self, payment_id: Payment | str) -> Why:
        """Explain a payment: what each answer proved, what is open, what may be called now.

        Raises `PaymentNotFound`.
        """
        snapshot = await self.orders.payment(*place_of(payment_id))
        return why_of(snapshot, await self.flows.flow_of(snapshot, self.store), self.store.now_ms())

    async def status(self, *, max_lag_s: float = MAX_LAG_S) -> Status:
        """Return how the store as a whole is doing; `attention` has what a person must look at.

        A health endpoint serves it: `as_dict()`, with 503 unless `is_healthy`. `max_lag_s`: for so
        many seconds an order may be due until it counts as late. It reads only: nothing is written
        and no money moves. Raises `InvalidInput`, `StoreUnavailable`.
        """
        if not _is_age(max_lag_s):
            raise InvalidInput("max_lag_s must be a number of seconds, 0 or more")
        return await status_of(self.store, self.signs, max_lag_s=max_lag_s)

    async def pause(self, gate: str, *, actor: str, note: str) -> Status:
        """Stop one kind of step for all orders, in every process, from the next commit on.

        `gate`: `pay`, `auto` (the worker's own captures and voids) or `resend` (a capture or
        void of unknown outcome, sent again). Such a step raises `Paused`, and nothing is sent.
        Steps that are on their way end as usual. `actor` and `note` are kept. Moves no money.
        Raises `InvalidInput` for another gate, `StoreUnavailable`.
        """
        await self._decide_gate("pause", gate, actor, note)
        return await self.status()

    async def resume(self, gate: str, *, actor: str, note: str) -> Status:
        """Let a kind of step go on that was paused. `actor` and `note` are kept.

        Raises `InvalidInput` for another gate, `StoreUnavailable`. Moves no money.
        """
        await self._decide_gate("resume", gate, actor, note)
        return await self.status()

    async def _decide_gate(self, what: str, gate: str, actor: str, note: str) -> None:
        name = gate_named(gate)
        decision = Decision(
            what=f"{what} {name}",
            actor=check_text("actor", actor),
            note=check_text("note", note),
            at_ms=self.store.now_ms(),
        )
        text = decision_text(decision)
        await self.store.record_decision(text)
        await self.store.set_gate(name, text if what == "pause" else "")

    def events(
        self,
        group: str,
        *,
        consumer: str | None = None,
        start: Start = "oldest",
        lease_s: float = 30.0,
        batch: int = 100,
        idle_s: float = 0.5,
    ) -> Feed:
        """Return the feed of committed transitions, to be read with `async with`.

        A new `group` begins at the oldest event that is kept, or with `start="now"` at the
        next one. `consumer` names one of the group's readers; after a restart it gets its
        partitions back under the same name. A handler has half of `lease_s` (seconds) for one
        event. `batch`: how many events of a partition are fetched at once; `idle_s`: how many
        seconds to wait when there are none. Raises `InvalidInput`. Reading moves no money.
        """
        return Feed(
            self.store,
            group,
            consumer=consumer,
            start=start,
            lease_s=lease_s,
            batch=batch,
            idle_s=idle_s,
        )

    async def shown(self, snapshot: Snapshot) -> Payment:
        """Return the payment that a snapshot shows."""
        return payment_of(
            snapshot, await self.flows.flow_of(snapshot, self.store), self.store.now_ms()
        )

    async def _listed_payment(self, snapshot: Snapshot) -> Payment:
        """Return a payment of a list: a flow that is gone must not hide all the others."""
        try:
            return await self.shown(snapshot)
        except FlowError:
            return payment_of(snapshot, None, self.store.now_ms())

    async def _of_order(
        self, order_id: str, page: Page, last: tuple[int, str], flow: str | None
    ) -> list[Snapshot]:
        order = await self.orders.load(order_id)
        found = () if order is None else order.all_payments
        return [s for s in found if page.has(s.record) and _behind(s, last, flow)]

    async def _listed(
        self, page: Page, last: tuple[int, str], flow: str | None, limit: int
    ) -> list[Snapshot]:
        """Read pages until enough payments pass the filters that no index has."""
        found: list[Snapshot] = []
        from_at_ms: int | None = last[0]
        while len(found) < limit and from_at_ms is not None:
            page = msgspec.structs.replace(page, from_at_ms=from_at_ms)
            read = await self.orders.list(page)
            found.extend(s for s in read.payments if _behind(s, last, flow))
            last = max([last, *map(_order, read.payments)])
            if read.next_at_ms == from_at_ms:
                # More members of one millisecond than a page holds: take a larger page.
                page = msgspec.structs.replace(page, limit=page.limit * 2)
            from_at_ms = read.next_at_ms
        return found


def _is_age(value: object) -> bool:
    return type(value) in {int, float} and 0 <= cast("float", value) < _AGE_MAX_S


def _order(snapshot: Snapshot) -> tuple[int, str]:
    return snapshot.record.created_at_ms, snapshot.id


def _behind(snapshot: Snapshot, last: tuple[int, str], flow: str | None) -> bool:
    return _order(snapshot) > last and flow in (None, snapshot.record.flow)


def place_of(payment: Payment | str) -> tuple[str, int]:
    """Return (order id, n) of a payment or of its id.

    Raises `PaymentNotFound` for a text that is no payment id: no store can have it.
    """
    return check_payment_id(payment.id if isinstance(payment, Payment) else payment)


def state_named(state: State | str) -> State:
    """Return a state by its name; raises `InvalidInput` for an unknown name."""
    try:
        return State(state if isinstance(state, str) else "")
    except ValueError:
        known = ", ".join(State)
        text = f"there is no state {shown_name(state)}; the states are {known}"
        raise InvalidInput(text) from None
