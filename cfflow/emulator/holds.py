"""Holds: which payments become holds, which hold an authorize means, and its limits.

gateway.md#authorize, gateway.md#holds
"""

from __future__ import annotations

from decimal import Decimal

from cfflow.emulator.records import Attempt, Method, Order
from cfflow.emulator.refusals import invalid
from cfflow.emulator.request_fields import AUTHORIZE

PREAUTH_TAG = "cfflow_preauth"
# With this `order_note` the sandbox treats an order as pre-authorized (gateway.md#holds).
PREAUTH_NOTE = "preauth_transaction"


def becomes_hold(order: Order, method: Method) -> bool:
    """Return whether success means a hold: always for a mandate; for a card by its order."""
    if method.mandate is not None:
        return True
    tagged = (order.tags or {}).get(PREAUTH_TAG) == "true" or order.note == PREAUTH_NOTE
    return method.name == "card" and (order.account.preauth or tagged)


def held_attempt(order: Order) -> Attempt:
    """Return the latest hold of the order.

    The call names only the order, so with several holds the gateway has to pick one. Raises
    `Refused` (400) if nothing is held.
    """
    for attempt in reversed(order.attempts):
        if attempt.held:
            return attempt
    if any(attempt.hold_action or attempt.status == "VOID" for attempt in order.attempts):
        raise invalid("request_invalid", "Transaction is already processed")
    raise invalid("request_invalid", "The order has no authorized payment")


def capturable(attempt: Attempt, amount: object, now_s: float) -> Decimal:
    """Return the rupees to capture.

    Raises `Refused` (400) for a missing or wrong amount, for more than is held, and for a
    mandate before its start time.
    """
    taken: Decimal = AUTHORIZE["amount"].check(amount)
    if taken > attempt.amount:
        raise AUTHORIZE["amount"].error("is more than the bank holds")
    mandate = attempt.method.mandate
    if mandate is not None and now_s < mandate.start_at_s:
        raise invalid("request_invalid", "The mandate has not begun yet")
    return taken
