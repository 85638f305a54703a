"""`adopt`: an order's payments, rebuilt from the gateway's own list of attempts.

For a Redis that was lost or rolled back. Nothing is invented: each payment is begun empty
and claims one attempt that no other payment knows, and the attempt's own words decide what
it is. Cut off anywhere, it is simply called again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from cfflow._core.chart import State
from cfflow._core.decide import Adopted
from cfflow._core.flow import METHODS, Flow
from cfflow._core.observation import Call, Observation
from cfflow._core.record import Snapshot, Step
from cfflow._core.steps import create
from cfflow._ports.wire import observe_entity
from cfflow.engine import Engine
from cfflow.errors import Conflict, InvalidInput

__all__ = ["adopt_order"]


async def adopt_order(engine: Engine, order_id: str, flows: Sequence[Flow]) -> list[Snapshot]:
    """Return all payments of an order, after every attempt of it belongs to one.

    `flows` are for payments that have to be begun: each attempt gets the first one that takes
    its method. Raises `InvalidInput` where none does, before anything is written, and
    `GatewayError` when the gateway does not answer. No money moves.
    """
    known = [await _caught_up(engine, found) for found in await engine.reader.of_order(order_id)]
    asked_ms = engine.store.now_ms()
    found = await engine.gateway.fetch_payments(order_id)
    attempts = [observe_entity(entity, Call.FETCH_PAYMENTS) for entity in found]
    chosen = [(attempt, _flow_for(attempt, flows)) for attempt in _unclaimed(attempts, known)]
    for attempt, flow in chosen:
        empty = await _waiting(engine, known, attempt)
        if empty is None:
            empty = await _begun(engine, order_id, len(known) + 1, flow, attempt)
            known.append(empty)
        rules = await engine.reader.flow_of(empty)
        event = Adopted(attempt, asked_ms, secrets.token_hex(4))
        known[empty.n - 1] = await engine.settle(empty, event, rules)
    return known


def _flow_for(attempt: Observation, flows: Sequence[Flow]) -> Flow:
    """Return the first flow that takes an attempt's method; the first of all if none is shown.

    Raises `InvalidInput`: under a flow that was never meant for it, the wrong things would
    happen to its hold.
    """
    if attempt.method is None or attempt.method not in METHODS:
        return flows[0]
    for flow in flows:
        if attempt.method in flow.methods:
            return flow
    names = ", ".join(flow.name for flow in flows)
    raise InvalidInput(
        f"attempt {attempt.cf_payment_id} was paid by {attempt.method}, which {names} does not"
        " take: name a flow that does, beside it"
    )


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


async def _waiting(
    engine: Engine, known: Iterable[Snapshot], attempt: Observation
) -> Snapshot | None:
    """Return a payment that was started and never paid, and whose flow takes this attempt."""
    for payment in known:
        record = payment.record
        empty = record.cf_payment_id is None and record.operation is None
        if record.state is State.CREATED and empty and not record.abandoned:
            flow = await engine.reader.flow_of(payment)
            if attempt.method is None or attempt.method in flow.methods:
                return payment
    return None


async def _begun(
    engine: Engine, order_id: str, n: int, flow: Flow, attempt: Observation
) -> Snapshot:
    """Begin a payment as old as its attempt is, by the gateway's own time of it."""
    now_ms = engine.store.now_ms()
    record = create(
        flow,
        now_ms,
        nonce=secrets.token_hex(4),
        currency=attempt.currency or "INR",
        amount=None,
        metadata=None,
        created_ms=min(attempt.began_ms or attempt.paid_ms or now_ms, now_ms),
    )
    return (await engine.store.start(order_id, record, flow, n=n)).snapshot
