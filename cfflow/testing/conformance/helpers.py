"""Helpers of the suite for stores: records, plans, and calls that must succeed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from cfflow.core.actions import AskOtp, NextAction
from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Plan, Walked
from cfflow.core.flow import parse
from cfflow.core.operation import Step
from cfflow.core.record import Record, Snapshot
from cfflow.core.steps import create
from cfflow.store.protocol import Committed, Outcome, Page, Store

FLOW: Final = parse(b'name = "conformance"\nmethods = ["card"]\n')


async def begin(store: Store, order_id: str) -> Snapshot:
    """Start an order's next payment, and return it."""
    started = await store.start(order_id, a_record(store), FLOW)
    assert started.outcome == "ok"
    return started.snapshot


async def due(store: Store, order_id: str, wake_at_ms: int) -> Snapshot:
    """Start a payment with this wake time."""
    return await written(store, await begin(store, order_id), wake_at_ms=wake_at_ms)


async def written(store: Store, snapshot: Snapshot, **changes: Any) -> Snapshot:
    """Commit changes of the record, which must succeed; return the payment as it is stored."""
    committed: Committed = await store.commit(a_plan(snapshot, **changes))
    assert committed.outcome is Outcome.OK
    assert committed.snapshot is not None
    return committed.snapshot


async def ids(store: Store, *states: State, **window: Any) -> list[str]:
    """Return the ids of a page: of these states, or of all if none is given."""
    found = await store.list(Page(states=states or tuple(State), **window))
    return [snapshot.id for snapshot in found]


def a_record(store: Store, *, amount: Decimal | None = None, **fields: Any) -> Record:
    """Return the first record of a payment, at the store's time, with these fields changed."""
    metadata = fields.pop("metadata", None)
    record = create(
        FLOW, store.now_ms(), nonce="n0", currency="INR", amount=amount, metadata=metadata
    )
    return msgspec.structs.replace(record, **fields)


_SAME: Final = AskOtp("the action stays as it was")


def a_plan(
    snapshot: Snapshot,
    *,
    action: NextAction | None = _SAME,
    walked: tuple[Walked, ...] = (),
    opens: bool = False,
    verified_after_restart: bool = False,
    beside: Step | None = None,
    **fields: Any,
) -> Plan:
    """Return a plan that changes these fields of the record."""
    record = msgspec.structs.replace(
        snapshot.record, version=snapshot.record.version + 1, token="", **fields
    )
    shown = snapshot.next_action if action is _SAME else action
    return Plan(
        snapshot=msgspec.structs.replace(snapshot, record=record, next_action=shown),
        before=snapshot,
        walked=walked,
        action_changed=shown != snapshot.next_action,
        opens=opens,
        verified_after_restart=verified_after_restart,
        beside=beside,
    )


def walked_edge(trigger: Trigger, source: State, target: State) -> Walked:
    """Return one walked edge."""
    return Walked(trigger, source, target, "conformance")


def first_edge(trigger: Trigger) -> tuple[Walked, ...]:
    """Return the walk out of `created`."""
    return (walked_edge(trigger, State.CREATED, State.INITIATED),)


def without_token(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot whose record can be compared with a plan's."""
    record = msgspec.structs.replace(snapshot.record, token="")
    return msgspec.structs.replace(snapshot, record=record)
