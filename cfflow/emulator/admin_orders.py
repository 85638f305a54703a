"""The emulator's own API for one order: everything about it, and forced payment statuses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cfflow.emulator import admin_http, wire
from cfflow.emulator.admin_http import PREFIX, json_response
from cfflow.emulator.bank import Bank
from cfflow.emulator.records import Attempt, Order, Status
from cfflow.emulator.refusals import Refused
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION

# The acts of a customer, a bank or the gateway on a payment, and the status of each.
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
    """The optional body of POST /_emulator/payments/{cf_payment_id}/{act}."""

    error_code: str | None = None


def routes() -> list[Route]:
    """Return the routes for one order and one payment."""
    return [
        Route(f"{PREFIX}/orders/{{order_id}}", order, methods=["GET"]),
        Route(f"{PREFIX}/payments/{{cf_payment_id}}/{{act}}", act, methods=["POST"]),
    ]


async def order(request: Request) -> Response:
    """Respond with the orders of this id: attempts, effects and webhooks."""
    state = request.app.state
    bank: Bank = state.bank
    now_s = state.clock.now()
    bank.advance(now_s)
    order_id = request.path_params["order_id"]
    found = [_order(each, now_s) for each in _named(bank, order_id)]
    if not found:
        return admin_http.error_response(LookupError(f"no account has an order {order_id}"), 404)
    webhooks = [each for each in state.webhooks if each.order_id == order_id]
    return json_response(
        {
            "orders": found,
            "ledger": [wire.ledger_entry(entry) for entry in bank.ledger_of(order_id)],
            "webhooks": [admin_http.delivery_json(each) for each in webhooks],
        }
    )


async def act(request: Request) -> Response:
    """Decide a payment as its customer, its bank or the gateway, and attempt its webhooks."""
    state = request.app.state
    name = request.path_params["act"]
    if name not in ACTS:
        return admin_http.error_response(LookupError(f"an act is one of {', '.join(ACTS)}"), 404)
    try:
        body = await admin_http.read_json(request, Act)
        cf_payment_id, now_s = request.path_params["cf_payment_id"], state.clock.now()
        attempt = state.bank.force(cf_payment_id, ACTS[name], now_s, body.error_code)
    except Refused as error:
        return json_response({"message": error.message}, error.status)
    except ValueError as error:
        return admin_http.error_response(error)
    await state.webhooks.deliver()
    return json_response(_attempt(attempt))


def _named(bank: Bank, order_id: str) -> list[Order]:
    """Return the orders of this id; different accounts may use the same id."""
    paid = {id(attempt.order): attempt.order for attempt in bank.attempts_of(order_id)}
    if paid:
        return list(paid.values())
    return [each for each in bank.latest_orders(sys.maxsize) if each.order_id == order_id]


def _order(found: Order, now_s: float) -> dict[str, Any]:
    return {
        "order_id": found.order_id,
        "client_id": found.account.client_id,
        "order_status": found.status(now_s),
        "order_amount": found.amount,
        "order_currency": found.currency,
        "created_at": wire.timestamp(found.created_at_s),
        "order_expiry_time": wire.timestamp(found.expires_at_s),
        "attempts": [_attempt(attempt) for attempt in found.attempts],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    until = attempt.hold_ends_at_s
    return wire.payment(attempt, NEWEST_WEBHOOK_VERSION) | {
        "held": attempt.held,
        "hold_until": None if until is None else wire.timestamp(until),
    }
