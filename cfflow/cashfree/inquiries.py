"""Inquiries: calls that change nothing. The answer to one becomes an event for the core."""

from __future__ import annotations

from typing import Final

from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.wire import observe_entity, timestamp_ms
from cfflow.core.decide import Event, Inquired, NotFound, OrderSeen
from cfflow.core.due import Ask
from cfflow.core.flow import Flow
from cfflow.core.observation import Call
from cfflow.core.record import Snapshot
from cfflow.errors import GatewayRejected

#: The gateway's call behind each inquiry; each has a rate limit of its own.
CALLS = {
    Ask.PAYMENT: Call.FETCH_PAYMENT,
    Ask.PAYMENTS: Call.FETCH_PAYMENTS,
    Ask.ORDER: Call.FETCH_ORDER,
}


_NOT_FOUND: Final = 404


def _settles_until_at_ms(snapshot: Snapshot, what: Ask) -> int:
    """Return the time of the notification that this inquiry settles, 0 if it settles none."""
    notice, record = snapshot.notice, snapshot.record
    if notice is None:
        return 0
    lost = record.operation is not None or record.pay_given_up_at_ms is not None
    right = {
        Ask.PAYMENTS: True,
        Ask.PAYMENT: notice.is_about(record),
        Ask.ORDER: record.cf_payment_id is None and not lost,
    }
    return notice.at_ms if right.get(what) else 0


async def ask(
    gateway: Gateway, snapshot: Snapshot, what: Ask, flow: Flow, asked_at_ms: int
) -> Event | None:
    """Make one inquiry about a payment and return its event; None where there is nothing to ask.

    `asked_at_ms` is the store's time now: an answer is as old as its question. A 404 is an answer
    too: the gateway does not have the order or the attempt. Raises `GatewayError` when there is
    no answer. An inquiry moves no money.
    """
    notice_at_ms = _settles_until_at_ms(snapshot, what)
    try:
        return await _ask(gateway, snapshot, what, flow, asked_at_ms, notice_at_ms)
    except GatewayRejected as refusal:
        if refusal.status != _NOT_FOUND:
            raise
    if what is Ask.ORDER:
        return OrderSeen("NOT_FOUND", asked_at_ms, notice_at_ms=notice_at_ms)
    return NotFound(asked_at_ms, notice_at_ms)


async def _ask(
    gateway: Gateway,
    snapshot: Snapshot,
    what: Ask,
    flow: Flow,
    asked_at_ms: int,
    notice_at_ms: int,
) -> Event | None:
    limit_s = flow.pay.timeout_s
    order_id, ours = snapshot.order_id, snapshot.record.cf_payment_id
    if what is Ask.PAYMENT and ours is not None:
        entity = await gateway.fetch_payment(order_id, ours, timeout_s=limit_s)
        one = observe_entity(entity, Call.FETCH_PAYMENT)
        return Inquired((one,), asked_at_ms, notice_at_ms=notice_at_ms)
    if what is Ask.PAYMENTS:
        found = await gateway.fetch_payments(order_id, timeout_s=limit_s)
        seen = tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in found)
        return Inquired(seen, asked_at_ms, everything=True, notice_at_ms=notice_at_ms)
    if what is Ask.ORDER:
        order = await gateway.fetch_order(order_id, timeout_s=limit_s)
        return OrderSeen(
            order.order_status or "",
            asked_at_ms,
            timestamp_ms(order.order_expiry_time),
            notice_at_ms,
            order.order_id,
            order.order_amount,
            order.order_currency,
        )
    return None
