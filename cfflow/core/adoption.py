"""Which attempts of an order no payment owns yet, and which payment gets each of them.

For a store that was lost or rolled back: `adopt` rebuilds an order's payments from the gateway's
list of its attempts, in one plan. Nothing is invented: what an attempt itself shows decides what
its payment is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from cfflow.cashfree import facts
from cfflow.core.authors import CALLER, Author
from cfflow.core.chart import State
from cfflow.core.decide import Adopted, decide
from cfflow.core.flow import Flow
from cfflow.core.observation import Observation, prove
from cfflow.core.order import PAYMENTS_MAX, Order, Snapshot
from cfflow.core.plan import Plan, joined
from cfflow.core.record import Record
from cfflow.core.steps import begin_payment, create
from cfflow.errors import InvalidInput, TooManyPayments


class Adoption(msgspec.Struct, frozen=True):
    """What `adopt` does to an order, in one plan, and how many attempts it left out.

    Only attempts that failed are left out, of an order that has more than one may have payments.
    """

    plan: Plan
    left_out: int


def adopt(
    order: Order,
    attempts: Iterable[Observation],
    rules: Sequence[Flow],
    own_flows: Mapping[int, Flow],
    *,
    asked_at_ms: int,
    now_ms: int,
    nonce: Callable[[], str],
    author: Author = CALLER,
) -> Adoption:
    """Return the plan that gives every attempt without a payment one of its own.

    `rules` are the flows for attempts of payments that begin, `own_flows` those of the order's
    payments by number. Raises `InvalidInput` for a method that none of the flows takes, and
    `TooManyPayments` where attempts with money would be left out.
    """
    before = order
    lost = _unowned(attempts, order)
    # All flows are chosen before anything is planned: one attempt that none takes stops it.
    chosen = [(attempt, flow_for(attempt, rules)) for attempt in lost]
    flows, plans, left_out = dict(own_flows), list[Plan](), 0
    for attempt, flow in chosen:
        n = _unpaid(order, flows, attempt)
        if n is None and len(order.payments) >= PAYMENTS_MAX:
            if prove(attempt).state is not State.FAILED:
                raise TooManyPayments(f"order {order.id} has more attempts than payments may be")
            left_out += 1
            continue
        if n is None:
            plans.append(begin_payment(order, _begun(attempt, flow, now_ms, nonce()), flow))
            order = plans[-1].after
            n = len(order.payments)
            flows[n] = flow
        event = Adopted(attempt, asked_at_ms, nonce())
        plans.append(decide(order.payment(n), event, flows[n], now_ms, author))
        order = plans[-1].after
    return Adoption(joined([Plan(before=before, after=before), *plans]), left_out)


def _unowned(attempts: Iterable[Observation], order: Order) -> list[Observation]:
    """Return the attempts that no payment owns, in the order in which they began.

    If there are more than the order has room for, those that failed come last.
    """
    owned = {payment.cf_payment_id for payment in order.siblings.values()}
    lost = [a for a in attempts if a.cf_payment_id and a.cf_payment_id not in owned]
    lost.sort(key=lambda attempt: attempt.began_at_ms or attempt.paid_at_ms or 0)
    if len(order.payments) + len(lost) > PAYMENTS_MAX:
        lost.sort(key=lambda attempt: prove(attempt).state is State.FAILED)
    return lost


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


def _unpaid(order: Order, flows: Mapping[int, Flow], attempt: Observation) -> int | None:
    """Return a payment that was started and never paid, and whose flow takes this attempt.

    One that began after the flows were read is left to the customer who began it.
    """
    read = (payment for payment in order.all_payments if payment.n in flows)
    fitting = (payment.n for payment in read if _takes(payment, flows[payment.n], attempt))
    return next(fitting, None)


def _takes(payment: Snapshot, flow: Flow, attempt: Observation) -> bool:
    record = payment.record
    unused = record.cf_payment_id is None and record.operation is None and not record.abandoned
    fits = attempt.method is None or attempt.method in flow.methods
    return record.state is State.CREATED and unused and fits


def _begun(attempt: Observation, flow: Flow, now_ms: int, nonce: str) -> Record:
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
