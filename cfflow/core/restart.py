"""When an order is verified after the store restarted, and may have lost its last commits.

A server that restarts or fails over may come back without the newest commits. The call of a lost
commit may still be on its way then, so an inquiry proves that nothing was lost only if it was
asked a call's whole time limit and a margin after the restart was seen; where a pay is open or
may be lost, two of them, a margin apart (design.md#restart).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from cfflow.core.chart import HOLDS, State
from cfflow.core.flow import Flow
from cfflow.core.operation import Step
from cfflow.core.order import Order, standing_payment
from cfflow.core.schedule import PAY_MARGIN_MS

#: Stands for no history of the server's data: an order that was never verified.
NOT_VERIFIED: Final = "????????"


class Restart(msgspec.Struct, frozen=True):
    """The present history of the server's data, and since when the store has seen it.

    `history` is empty where the right to ask for it is missing: then nothing is verified.
    """

    history: str
    since_at_ms: int = 0

    def concerns(self, order: Order) -> bool:
        """Whether this order may have lost commits: it was not verified in this history."""
        return self.history not in {"", order.stamp}


def ready_at_ms(order: Order, restart: Restart, flows: Iterable[Flow]) -> int:
    """Return from when on an inquiry counts as verification, or as the first of two."""
    limits_ms = [round(flow.pay.timeout_s * 1000) for flow in flows]
    ready_ms = restart.since_at_ms + max(limits_ms, default=0) + PAY_MARGIN_MS
    if _was_asked_once(order, restart):
        return max(ready_ms, order.first_verified_at_ms + PAY_MARGIN_MS)
    return ready_ms


def verifies(order: Order, restart: Restart) -> bool:
    """Whether the next inquiry is enough: no pay can be lost, or the first of two was asked."""
    return _was_asked_once(order, restart) or not _may_have_lost_pay(order)


def asked_once(order: Order, restart: Restart, asked_at_ms: int) -> Order:
    """Return the order with the time of the first of its two verifying inquiries."""
    return msgspec.structs.replace(
        order, verified_in=restart.history, first_verified_at_ms=asked_at_ms
    )


def _was_asked_once(order: Order, restart: Restart) -> bool:
    return order.first_verified_at_ms > 0 and order.verified_in == restart.history


def _may_have_lost_pay(order: Order) -> bool:
    """Whether a pay is open, or one may have begun in the lost time."""
    return _was_free(order) or any(
        (payment.state is State.CREATED and not payment.abandoned)
        or (payment.operation is not None and payment.operation.step is Step.PAY)
        for payment in order.siblings.values()
    )


def _was_free(order: Order) -> bool:
    """Whether another payment may have been started and paid, and both are lost."""
    has_money = any(payment.state in HOLDS for payment in order.siblings.values())
    return standing_payment(order) is None and not has_money
