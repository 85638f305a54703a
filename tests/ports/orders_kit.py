"""Orders in a store, without an engine: begin a payment, change a record, read the order back."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cfflow.core.chart import State, Trigger
from cfflow.core.flow import parse
from cfflow.core.order import Order
from cfflow.core.plan import Change, Gate, Plan, Walked
from cfflow.core.record import Record
from cfflow.core.steps import begin_payment, create
from cfflow.store.orders import Orders
from cfflow.store.protocol import Leased, Outcome

FLOW: Final = parse(b'name = "ports"\nmethods = ["card"]\n')

#: The walk out of `created`: one event in the feed.
EDGE: Final = (Walked(Trigger.INITIATE, State.CREATED, State.INITIATED, "test"),)


def a_record(orders: Orders, **fields: Any) -> Record:
    """Return the first record of a payment, at the store's time, with these fields changed."""
    now_ms = orders.store.now_ms()
    record = create(FLOW, now_ms, nonce="n0", currency="INR", amount=None, metadata=None)
    return msgspec.structs.replace(record, **fields)


async def begin(orders: Orders, order_id: str = "order_1", **fields: Any) -> Order:
    """Start an order's next payment, with these fields of its record; return the order."""
    order = await orders.load(order_id) or Order(id=order_id)
    return await applied(orders, begin_payment(order, a_record(orders, **fields), FLOW))


async def changed(
    orders: Orders, order: Order, n: int | None = None, *, lease: str = "", **fields: Any
) -> Order:
    """Commit a change of one payment, which must succeed; return the order."""
    return await applied(orders, a_plan(order, n, **fields), lease=lease)


async def verified(orders: Orders, order: Order) -> Order:
    """Verify an order after a restart, before which it takes no step; return the order."""
    refused = await orders.commit(a_plan(order, opens=True))
    assert refused.outcome is Outcome.RESTARTED
    assert refused.restart.concerns(order)
    return await changed(orders, order, verified=refused.restart.history)


async def applied(orders: Orders, plan: Plan, *, lease: str = "") -> Order:
    """Commit a plan, which must succeed; return the order."""
    written = await orders.commit(plan, lease=lease)
    assert written.outcome is Outcome.APPLIED
    return written.order


async def loaded(orders: Orders, order_id: str = "order_1") -> Order:
    """Return an order that is stored."""
    order = await orders.load(order_id)
    assert order is not None
    return order


def a_plan(
    order: Order,
    n: int | None = None,
    *,
    walked: tuple[Walked, ...] = (),
    opens: bool = False,
    gate: Gate | None = None,
    verified: str = "",
    **fields: Any,
) -> Plan:
    """Return a plan that changes these fields of one payment, the newest if none is named.

    It is a new version of the payment, unless the fields name the version that it has.
    """
    held = order.payment(n or len(order.payments))
    record = msgspec.structs.replace(held.record, **{"version": held.record.version + 1, **fields})
    payments = list(order.payments)
    payments[held.n - 1] = record
    return Plan(
        before=order,
        after=msgspec.structs.replace(order, payments=tuple(payments)),
        changes=(Change(held.n, held.record, record, walked),),
        opens=opens,
        gate=gate,
        verified=verified,
    )


def contents(order: Order) -> dict[str, Any]:
    """Return all that a store keeps of an order, decoded, so that it can be compared.

    Without the stamp: a commit's reply does not have it.
    """
    fields: dict[str, Any] = msgspec.structs.asdict(order)
    del fields["stamp"]
    return fields | {"payments": [payment.record for payment in order.all_payments]}


def ids(leased: Leased) -> list[str]:
    """Return the ids of leased orders."""
    return sorted(stored.id for stored, _ in leased.orders)
