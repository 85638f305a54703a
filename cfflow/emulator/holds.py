"""Holds: which payments become one, which one an authorize means, and what it may take."""

from __future__ import annotations

from decimal import Decimal

from cfflow.emulator.records import Attempt, Method, Order
from cfflow.emulator.refusals import invalid
from cfflow.emulator.request_fields import AUTHORIZE

PREAUTH_TAG = "cfflow_preauth"
# With this note the gateway's sandbox treats an order as pre-authorised.
PREAUTH_NOTE = "preauth_transaction"


def becomes_hold(order: Order, method: Method) -> bool:
    """Whether success means a hold: a mandate always, a card by account or by order."""
    if method.mandate is not None:
        return True
    tagged = (order.tags or {}).get(PREAUTH_TAG) == "true" or order.note == PREAUTH_NOTE
    return method.name == "card" and (order.account.preauth or tagged)


def held_attempt(order: Order) -> Attempt:
    """The latest hold of the order: with several, nobody can say which one is meant.

    Raises `Refused` (400) when it holds nothing, or nothing any more.
    """
    for attempt in reversed(order.attempts):
        if attempt.held:
            return attempt
    if any(attempt.hold_action or attempt.status == "VOID" for attempt in order.attempts):
        raise invalid("request_invalid", "Transaction is already processed")
    raise invalid("request_invalid", "The order has no authorized payment")


def capturable(attempt: Attempt, amount: object, now_s: float) -> Decimal:
    """The rupees that a capture asks for.

    Raises `Refused` (400) for no amount at all, for more than is held, and for a mandate
    whose time has not begun.
    """
    taken: Decimal = AUTHORIZE["amount"].check(amount)
    if taken > attempt.amount:
        raise AUTHORIZE["amount"].error("is more than the bank holds")
    mandate = attempt.method.mandate
    if mandate is not None and now_s < mandate.start_at_s:
        raise invalid("request_invalid", "The mandate has not begun yet")
    return taken
