"""`adopt`: an order's payments, rebuilt from the gateway's own list of attempts.

For a Redis that was lost or rolled back. Nothing is invented: each payment is begun empty
and claims one attempt that no other payment knows, and the attempt's own words decide what
it is. Cut off anywhere, it is simply called again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from cfflow._core.chart import State
from cfflow._core.decide import Adopted
from cfflow._core.flow import Flow
from cfflow._core.observation import Call, Observation
from cfflow._core.record import Snapshot, Step
from cfflow._core.steps import create
from cfflow._ports.wire import observe_entity
from cfflow.engine import Engine
from cfflow.errors import Conflict

__all__ = ["adopt_order"]


async def adopt_order(engine: Engine, order_id: str, flow: Flow) -> list[Snapshot]:
    """Return all payments of an order, after every attempt of it belongs to one.

    `flow` is for payments that have to be begun. Raises `GatewayError` when the gateway
    does not answer, and leaves what it has done so far; no money moves.
    """
    known = [await _caught_up(engine, found) for found in await engine.reader.of_order(order_id)]
    asked_ms = engine.store.now_ms()
    found = await engine.gateway.fetch_payments(order_id)
    attempts = [observe_entity(entity, Call.FETCH_PAYMENTS) for entity in found]
    for attempt in _unclaimed(attempts, known):
        empty = next((payment for payment in known if _waits_for_attempt(payment)), None)
        if empty is None:
            empty = await _begun(engine, order_id, len(known) + 1, flow, attempt.currency)
            known.append(empty)
        rules = await engine.reader.flow_of(empty)
        event = Adopted(attempt, asked_ms, secrets.token_hex(4))
        known[empty.n - 1] = await engine.settle(empty, event, rules)
    return known


async def _caught_up(engine: Engine, snapshot: Snapshot) -> Snapshot:
    """Ask about a payment that is here, with a fresh nonce: its last steps may be lost.

    Raises `Conflict` while a pay of it is open: which attempt is its own must be known first.
    """
    if snapshot.record.cf_payment_id or snapshot.record.operation:
        snapshot = await engine.assure(snapshot, await engine.reader.flow_of(snapshot))
    operation = snapshot.record.operation
    if operation is not None and operation.step is Step.PAY:
        raise Conflict(f"{snapshot.id}: a pay is open; refresh finds its attempt, or resolve it")
    return snapshot


def _unclaimed(attempts: Iterable[Observation], known: Iterable[Snapshot]) -> list[Observation]:
    """Return the attempts that no payment has claimed, in the order in which they began."""
    claimed = {payment.record.cf_payment_id for payment in known}
    lost = [a for a in attempts if a.cf_payment_id and a.cf_payment_id not in claimed]
    return sorted(lost, key=lambda attempt: attempt.began_ms or attempt.paid_ms or 0)


def _waits_for_attempt(payment: Snapshot) -> bool:
    record = payment.record
    empty = record.cf_payment_id is None and record.operation is None
    return record.state is State.CREATED and empty and not record.abandoned


async def _begun(
    engine: Engine, order_id: str, n: int, flow: Flow, currency: str | None
) -> Snapshot:
    record = create(
        flow,
        engine.store.now_ms(),
        nonce=secrets.token_hex(4),
        currency=currency or "INR",
        amount=None,
        metadata=None,
    )
    return (await engine.store.start(order_id, record, flow, n=n)).snapshot
