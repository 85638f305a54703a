"""Which attempts of an order no payment owns yet, and which payment gets each of them.

For a store that was lost or rolled back: `adopt` rebuilds an order's payments from the gateway's
list of its attempts. Nothing is invented: what an attempt itself shows decides what its payment is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cfflow.cashfree import facts
from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.observation import Observation
from cfflow.core.record import Record, Snapshot
from cfflow.core.steps import create
from cfflow.errors import InvalidInput


def unowned(attempts: Iterable[Observation], known: Iterable[Snapshot]) -> list[Observation]:
    """Return the attempts that no payment owns, in the order in which they began."""
    owned = {payment.record.cf_payment_id for payment in known}
    lost = [a for a in attempts if a.cf_payment_id and a.cf_payment_id not in owned]
    return sorted(lost, key=lambda attempt: attempt.began_at_ms or attempt.paid_at_ms or 0)


def flow_for(attempt: Observation, flows: Sequence[Flow]) -> Flow:
    """Return the first flow that takes an attempt's method; the first of all if none is shown.

    Raises `InvalidInput`: under a flow that was never meant for it, the wrong things would
    happen to its hold.
    """
    if attempt.method is None or attempt.method not in facts.METHODS:
        return flows[0]
    for flow in flows:
        if attempt.method in flow.methods:
            return flow
    names = ", ".join(flow.name for flow in flows)
    raise InvalidInput(
        f"attempt {attempt.cf_payment_id} was paid by {attempt.method}, which {names} does not"
        " take: name a flow that does, beside it"
    )


def takes(payment: Snapshot, flow: Flow, attempt: Observation) -> bool:
    """Return whether a payment was started and never paid, and its flow takes this attempt."""
    record = payment.record
    unused = record.cf_payment_id is None and record.operation is None and not record.abandoned
    fits = attempt.method is None or attempt.method in flow.methods
    return record.state is State.CREATED and unused and fits


def begun(attempt: Observation, flow: Flow, now_ms: int, nonce: str) -> Record:
    """Return a new payment's record, as old as the attempt is by the gateway's own time."""
    return create(
        flow,
        now_ms,
        nonce=nonce,
        currency=attempt.currency or "INR",
        amount=None,
        metadata=None,
        created_at_ms=min(attempt.began_at_ms or attempt.paid_at_ms or now_ms, now_ms),
    )
