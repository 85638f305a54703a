"""A hand-written table: what bars a step. Own reviews, siblings, foreign money, closed gates."""

from __future__ import annotations

from collections.abc import Collection

from cfflow.core.chart import HOLDS, State
from cfflow.core.operation import Operation, Step
from cfflow.core.record import Record
from tests.sim.process import WORKERS

_MONEY_REVIEWS = {"ambiguous_attempt", "unclaimed_money", "two_holds"}
_TAKES = {Step.PAY, Step.SUBMIT_OTP}
_NAMES_ORDER = {Step.CAPTURE, Step.VOID}


def open_money_reviews(record: Record) -> list[str]:
    """Return the open reviews about money that the customer may have paid twice."""
    return [r.reason for r in record.open_reviews if r.reason in _MONEY_REVIEWS]


def own_doubts(step: Step, own: Record) -> str:
    """Return which open review of the payment itself bars this step, "" where none does."""
    reviews = open_money_reviews(own)
    if step in _TAKES and reviews:
        return f"although review {reviews[0]} is open"
    if step in _NAMES_ORDER and "two_holds" in reviews:
        return "although two attempts hold money"
    return ""


def why_not(step: Step, others: list[tuple[str, Record]], foreign: Collection[str]) -> str:
    """Return why this step must not be opened beside the order's other money, "" where it may.

    `foreign` are attempts of the order that no payment owns, that have money, and about which no
    person has decided.
    """
    if foreign and step in _TAKES | _NAMES_ORDER:
        return f"beside the foreign money of {', '.join(foreign)}"
    for name, other in others:
        opened = None if other.operation is None else other.operation.step
        alive = other.state in {State.INITIATED, State.OTP_PENDING}
        if other.state in HOLDS:
            return f"beside {name}, which is {other.state}"
        if step in _TAKES and (opened in {Step.PAY, *_NAMES_ORDER} or open_money_reviews(other)):
            return f"beside {name}, whose money is not known"
        if step in _NAMES_ORDER and (alive or opened in _TAKES):
            return f"beside {name}, whose attempt is not over"
    return ""


def why_gated(operation: Operation, gates: Collection[str], who: str, *, again: bool) -> str:
    """Return which closed gate bars this step, "" where none does.

    `again`: the step was open before, and is sent once more.
    """
    if again:
        gate = "resend"
    elif operation.step is Step.PAY:
        gate = "pay"
    else:
        gate = "auto" if who.startswith(WORKERS) and operation.step in _NAMES_ORDER else ""
    return f"although the gate {gate} is closed" if gate in gates else ""
