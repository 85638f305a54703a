"""`Reader`: returns stored payments. It needs no gateway and moves no money."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Self

from cfflow.core.arguments import check_payment_id, check_text
from cfflow.core.chart import State
from cfflow.core.order import Snapshot
from cfflow.errors import FlowError, InvalidInput
from cfflow.feed.feed import Feed
from cfflow.feed.protocol import Start
from cfflow.store.catalog import Catalog
from cfflow.store.control import Decision, decision_text, gate_named
from cfflow.store.memory.signs import signs_of
from cfflow.store.orders import Orders
from cfflow.store.protocol import Row, Store
from cfflow.views.find import (
    SCANNED_MAX,
    Found,
    Question,
    cursor_of,
    is_age,
    question_of,
    row_in,
    row_of,
    scan,
    scan_order,
    scanned_to,
)
from cfflow.views.health import MAX_LAG_S, status_of
from cfflow.views.history import HistoryEntry, history_of
from cfflow.views.payment import Payment, payment_of
from cfflow.views.status import Status
from cfflow.views.why import Why, why_of


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
        state: State | str | Iterable[State | str] | None = None,
        flow: str | None = None,
        order_id: str | None = None,
        review: bool | str = False,
        older_than: float | None = None,
        limit: int = 100,
        after: Payment | str | None = None,
        newest_first: bool = False,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        hold_ends_before: datetime | None = None,
        abandoned: bool | None = None,
        cursor: str | None = None,
    ) -> Found:
        """Return payments in the order of their creation, oldest first or `newest_first`.

        `state` (one, or a list of several), `flow`, `order_id`, `abandoned` and `review` (True: an
        open one; or a reason's name) narrow the list. `created_from` belongs to the time,
        `created_before` does not; `older_than` is an age in seconds. `hold_ends_before`: payments
        whose money is held, and whose hold ends before that time. Times are aware datetimes.

        One call reads 10,000 records at most and returns at most `limit` (1 to 10,000) payments,
        perhaps none: while `more` is True, go on with the `cursor` of what it returned and the same
        arguments. No payment comes twice, however many arrive meanwhile, and none is left out whose
        state and reviews stay the same. One that changes is listed if it passes the filters when
        its place is read. `after`, the last payment of a page, goes on like a cursor, for any
        arguments. One that cannot be read is left out: `status` names it.

        Raises `InvalidInput`, also for a cursor that is garbled or belongs to other arguments, and
        `PaymentNotFound` for an `after` that is gone.
        """
        if type(limit) is not int or not 1 <= limit <= SCANNED_MAX:
            raise InvalidInput(f"limit must be a number from 1 to {SCANNED_MAX}")
        question = question_of(
            state=state,
            flow=flow,
            order_id=order_id,
            review=review,
            older_than=older_than,
            newest_first=newest_first,
            created_from=created_from,
            created_before=created_before,
            hold_ends_before=hold_ends_before,
            abandoned=abandoned,
        )
        place = await self._place(question, after, cursor)
        now_ms = self.store.now_ms()
        page = question.page(now_ms)
        look = scan if order_id is None else scan_order
        seen = await look(self.orders, question, page, limit, place)
        end = seen.next_after
        return Found(
            [await self._listed_payment(snapshot) for snapshot in seen.payments],
            scanned_to=scanned_to(page, end, now_ms),
            cursor=None if end is None else cursor_of(question, end),
        )

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
        if not is_age(max_lag_s):
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

    async def _place(
        self, question: Question, after: Payment | str | None, cursor: str | None
    ) -> Row | None:
        """Return the row behind which a list begins, None for its first page."""
        if cursor is not None:
            if after is not None:
                raise InvalidInput("pass after or cursor, not both")
            return row_in(cursor, question)
        return None if after is None else row_of(await self.orders.payment(*place_of(after)))


def place_of(payment: Payment | str) -> tuple[str, int]:
    """Return (order id, n) of a payment or of its id.

    Raises `PaymentNotFound` for a text that is no payment id: no store can have it.
    """
    return check_payment_id(payment.id if isinstance(payment, Payment) else payment)
