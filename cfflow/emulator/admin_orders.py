"""The emulator's own calls about one order: the auditor's view, and the customer's acts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cfflow.emulator import replies, wire
from cfflow.emulator.bank import Bank
from cfflow.emulator.records import Attempt, Order, Status
from cfflow.emulator.refusals import Refused
from cfflow.emulator.replies import PREFIX, reply
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION

# What somebody else than the merchant does to a payment, and what becomes of it.
ACTS: Mapping[str, Status] = MappingProxyType(
    {
        "approve": "SUCCESS",
        "decline": "FAILED",
        "drop": "USER_DROPPED",
        "cancel": "CANCELLED",
        "release": "VOID",
        "flag": "FLAGGED",
    }
)


class Act(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /_emulator/payments/{cf_payment_id}/{act}, if there is one."""

    error_code: str | None = None


def routes() -> list[Route]:
    """Every route about one order or one payment."""
    return [
        Route(f"{PREFIX}/orders/{{order_id}}", order, methods=["GET"]),
        Route(f"{PREFIX}/payments/{{cf_payment_id}}/{{act}}", act, methods=["POST"]),
    ]


async def order(request: Request) -> Response:
    """All that is known of the orders of this id: attempts, effects, webhooks."""
    state = request.app.state
    bank: Bank = state.bank
    now = state.clock.now()
    bank.advance(now)
    order_id = request.path_params["order_id"]
    found = [_order(each, now) for each in _named(bank, order_id)]
    if not found:
        return replies.refusal(LookupError(f"no account has an order {order_id}"), 404)
    webhooks = [each for each in state.webhooks if each.order_id == order_id]
    return reply(
        {
            "orders": found,
            "ledger": [wire.ledger_entry(entry) for entry in bank.ledger_of(order_id)],
            "webhooks": [replies.delivery(each) for each in webhooks],
        }
    )


async def act(request: Request) -> Response:
    """Let the customer, the bank or the gateway decide a payment; its webhooks are sent then."""
    state = request.app.state
    name = request.path_params["act"]
    if name not in ACTS:
        return replies.refusal(LookupError(f"an act is one of {', '.join(ACTS)}"), 404)
    try:
        told = await replies.read(request, Act)
        cf_payment_id, now = request.path_params["cf_payment_id"], state.clock.now()
        attempt = state.bank.force(cf_payment_id, ACTS[name], now, told.error_code)
    except Refused as error:
        return reply({"message": error.message}, error.status)
    except ValueError as error:
        return replies.refusal(error)
    await state.webhooks.deliver()
    return reply(_attempt(attempt))


def _named(bank: Bank, order_id: str) -> list[Order]:
    """The orders of this id, one account's after the other's."""
    paid = {id(attempt.order): attempt.order for attempt in bank.attempts_of(order_id)}
    if paid:
        return list(paid.values())
    return [each for each in bank.latest_orders(sys.maxsize) if each.order_id == order_id]


def _order(found: Order, now: float) -> dict[str, Any]:
    return {
        "order_id": found.order_id,
        "client_id": found.account.client_id,
        "order_status": found.status(now),
        "order_amount": found.amount,
        "order_currency": found.currency,
        "created_at": wire.timestamp(found.created_at),
        "order_expiry_time": wire.timestamp(found.expires_at),
        "attempts": [_attempt(attempt) for attempt in found.attempts],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    until = attempt.hold_until
    return wire.payment(attempt, NEWEST_WEBHOOK_VERSION) | {
        "held": attempt.held,
        "hold_until": None if until is None else wire.timestamp(until),
    }
