"""Inquiries: calls that change nothing. The answer to one becomes an event for the core."""

from __future__ import annotations

from typing import Final

from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.texts import word
from cfflow.cashfree.wire import named_order, observe_entity, timestamp_ms
from cfflow.core.bounds import CURRENCY_MAX
from cfflow.core.decide import Event, Inquired, NotFound, OrderSeen
from cfflow.core.due import Ask, Look, settled_by
from cfflow.core.money import without_noise
from cfflow.core.observation import Call
from cfflow.core.order import Notice, Order
from cfflow.errors import GatewayRejected

#: The gateway's call behind each inquiry; each has a rate limit of its own.
CALLS = {
    Ask.PAYMENT: Call.FETCH_PAYMENT,
    Ask.PAYMENTS: Call.FETCH_PAYMENTS,
    Ask.ORDER: Call.FETCH_ORDER,
}


_NOT_FOUND: Final = 404


async def ask(
    gateway: Gateway, order: Order, look: Look, *, timeout_s: float, asked_at_ms: int
) -> Event | None:
    """Make one inquiry about an order and return its event; None where there is nothing to ask.

    `asked_at_ms` is the store's time now: an answer is as old as its question. A 404 is an answer
    too: the gateway does not have the order or the attempt. Raises `GatewayError` when there is
    no answer. An inquiry moves no money.
    """
    answered = settled_by(order, look)
    try:
        return await _ask(gateway, order, look, timeout_s, asked_at_ms, answered)
    except GatewayRejected as refusal:
        if refusal.status != _NOT_FOUND:
            raise
    if look.what is Ask.ORDER:
        return OrderSeen("NOT_FOUND", asked_at_ms, answered=answered)
    return NotFound(asked_at_ms, answered)


async def _ask(
    gateway: Gateway,
    order: Order,
    look: Look,
    timeout_s: float,
    asked_at_ms: int,
    answered: tuple[Notice, ...],
) -> Event | None:
    ours = order.siblings[look.payments[0]].cf_payment_id
    if look.what is Ask.PAYMENT and ours is not None:
        entity = await gateway.fetch_payment(order.id, ours, timeout_s=timeout_s)
        one = observe_entity(entity, Call.FETCH_PAYMENT)
        return Inquired((one,), asked_at_ms, answered=answered)
    if look.what is Ask.PAYMENTS:
        found = await gateway.fetch_payments(order.id, timeout_s=timeout_s)
        seen = tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in found)
        return Inquired(seen, asked_at_ms, everything=True, answered=answered)
    if look.what is Ask.ORDER:
        fetched = await gateway.fetch_order(order.id, timeout_s=timeout_s)
        amount = fetched.order_amount
        return OrderSeen(
            word(fetched.order_status) or "",
            asked_at_ms,
            timestamp_ms(fetched.order_expiry_time),
            answered,
            named_order(fetched.order_id),
            None if amount is None else without_noise(amount),
            word(fetched.order_currency, CURRENCY_MAX),
        )
    return None
