"""The payments of one order beside each other: which situation of one bars which step of another.

Pay, capture and void name the order and not the attempt, and two attempts of one order can
both take the customer's money. So a step is not begun while another payment of the order
could make it the second one. The table below is the only place with this rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from cfflow.core.chart import HOLDS, State
from cfflow.core.operation import Step
from cfflow.core.record import Attempt, Record, Snapshot, step_bit
from cfflow.core.reviews import Effect, ReviewReason, effect_of

#: The steps after which the customer's money may be gone.
TAKES_MONEY: Final = frozenset({Step.PAY, Step.SUBMIT_OTP})

#: The steps that name the order only: the gateway chooses the attempt (gateway.md#authorize).
AUTHORIZES: Final = frozenset({Step.CAPTURE, Step.VOID})

_ALIVE: Final = frozenset({State.INITIATED, State.OTP_PENDING})


class Situation(NamedTuple):
    """One row of the table: a situation of a payment, and the steps that it bars to the others."""

    name: str
    applies: Callable[[Record], bool]
    bars: frozenset[Step]


def _has_open(record: Record, *steps: Step) -> bool:
    return record.operation is not None and record.operation.step in steps


SITUATIONS: Final = (
    Situation("holds or took money", lambda r: r.state in HOLDS, frozenset(Step)),
    Situation("has a pay open", lambda r: _has_open(r, Step.PAY), TAKES_MONEY | AUTHORIZES),
    Situation("has an OTP on its way", lambda r: _has_open(r, Step.SUBMIT_OTP), AUTHORIZES),
    Situation("has a capture or void open", lambda r: _has_open(r, *AUTHORIZES), TAKES_MONEY),
    Situation("has an attempt that is not over", lambda r: r.state in _ALIVE, AUTHORIZES),
    Situation("has a review that must be closed first", lambda r: r.blocks_pay, TAKES_MONEY),
)


def attempt_of(record: Record) -> Attempt:
    """Return what the order's entry has of a payment with this record."""
    barred = {step for row in SITUATIONS if row.applies(record) for step in row.bars}
    return Attempt(
        record.state,
        record.cf_payment_id or "",
        record.abandoned,
        record.blocks_pay,
        record.pay_given_up_at_ms or 0,
        sum(step_bit(step) for step in barred),
    )


def why_barred(snapshot: Snapshot, step: Step) -> str | None:
    """Return why this step must not be begun now, beside the order's other money; None if it may.

    Its own open reviews count, and what the order's entry has of the other payments. A sibling
    that holds money is not looked at here: the store refuses that step, and the refusal opens a
    review.
    """
    open_reasons = [review.reason for review in snapshot.record.open_reviews]
    reasons = [reason for reason in open_reasons if Effect.BLOCKS_PAY in effect_of(reason)]
    if reasons and step in TAKES_MONEY:
        return f"review {reasons[0]} must be closed first: the customer might pay twice"
    if ReviewReason.TWO_HOLDS in reasons and step in AUTHORIZES:
        return f"{step} names the order only, and two of its attempts hold money: see two_holds"
    for n, attempt in snapshot.others:
        if attempt.state not in HOLDS and _bars(attempt, step):
            return f"{step} waits for {snapshot.order_id}.{n}, which {_situation(attempt)}"
    return None


def _bars(attempt: Attempt, step: Step) -> bool:
    """Whether this entry bars a step; one of an older version has no bits yet."""
    if attempt.bars & step_bit(step):
        return True
    alive = attempt.state in _ALIVE and step in AUTHORIZES
    return alive or (attempt.blocks and step in TAKES_MONEY)


def _situation(attempt: Attempt) -> str:
    if attempt.blocks:
        return "has a review that must be closed first"
    if attempt.state in _ALIVE:
        return "has an attempt that is not over"
    return "has a step open"
