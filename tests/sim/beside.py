"""A hand-written table: which state of one payment bars which step of a sibling."""

from __future__ import annotations

from cfflow.core.chart import HOLDS, State
from cfflow.core.operation import Step
from cfflow.core.record import Record

_MONEY_REVIEWS = {"ambiguous_attempt", "unclaimed_money", "two_holds"}
_TAKES = {Step.PAY, Step.SUBMIT_OTP}
_NAMES_ORDER = {Step.CAPTURE, Step.VOID}


def open_money_reviews(record: Record) -> list[str]:
    """Return the open reviews about money that the customer may have paid twice."""
    return [r.reason for r in record.open_reviews if r.reason in _MONEY_REVIEWS]


def why_not(step: Step, own: Record, others: list[tuple[str, Record]]) -> str:
    """Return why this step must not be opened now, "" where it may."""
    reviews = open_money_reviews(own)
    if step in _TAKES and reviews:
        return f"although review {reviews[0]} is open"
    if step in _NAMES_ORDER and "two_holds" in reviews:
        return "although two attempts hold money"
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
