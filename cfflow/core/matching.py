"""Whether an attempt in the gateway's list can be the attempt of a pay whose answer was lost.

What was frozen with the operation is compared with what the gateway shows. Differences that the
gateway makes by itself do not count: fees and offers change the amount paid but not the
order's, other pages name a method differently, and digits may be missing. Any other difference
makes an attempt doubtful, and never rules it out. Only proof does
(design.md#which-attempt-is-ours).
"""

from __future__ import annotations

from typing import Final

from cfflow.cashfree import facts
from cfflow.core.observation import Observation
from cfflow.core.operation import Operation

#: An EMI is paid by card, and some pages show it as one.
_BY_CARD: Final = frozenset({"card", "emi"})


def is_older(operation: Operation, observation: Observation) -> bool:
    """Whether the gateway's own clock proves that this attempt began before the pay.

    No other clock counts: the store's may be wrong by any amount. Without the gateway's time of
    the pay, or a time of the attempt, age proves nothing.
    """
    if operation.gateway_at_ms is None or observation.began_at_ms is None:
        return False
    latest_at_ms = observation.began_at_ms + facts.TIME_RESOLUTION_MS + facts.CLOCK_SPREAD_MS
    return latest_at_ms < operation.gateway_at_ms


def matches(operation: Operation, observation: Observation) -> bool:
    """Whether this attempt agrees with the pay in all that both sides show.

    An attempt whose status could not be read does not agree.
    """
    return (
        observation.payment_status is not None
        and _same_method(operation.method, observation.method)
        and _same(operation.channel, observation.channel)
        and _same_amount(operation, observation)
        and _same(operation.last_four, observation.last_four)
    )


def _same(ours: str | None, theirs: str | None) -> bool:
    return ours is None or theirs is None or ours == theirs


def _same_method(ours: str | None, theirs: str | None) -> bool:
    return _same(ours, theirs) or {ours, theirs} == _BY_CARD


def _same_amount(operation: Operation, observation: Observation) -> bool:
    """Fees and offers change what is paid, so the order's own amount counts too."""
    shown = {observation.payment_amount, observation.order_amount} - {None}
    return operation.amount is None or not shown or operation.amount in shown
