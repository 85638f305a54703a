"""Webhook events: type, body and signature (gateway.md#webhooks).

The versions differ in the payment: 2022-09-01 has its id as a JSON number, later versions as
a string, and 2025-01-01 adds `international_payment` and `payment_surcharge`. Amounts keep
their two decimals, so that a receiver that encodes the body again, instead of taking its raw
bytes, computes another signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from cfflow.emulator import wire
from cfflow.emulator.records import Attempt, Effect
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION, WebhookVersion

_TYPES: Mapping[Effect, str] = MappingProxyType(
    {
        "authorized": "PAYMENT_SUCCESS_WEBHOOK",
        "captured": "PAYMENT_SUCCESS_WEBHOOK",
        "failed": "PAYMENT_FAILED_WEBHOOK",
        "dropped": "PAYMENT_USER_DROPPED_WEBHOOK",
        "cancelled": "PAYMENT_USER_DROPPED_WEBHOOK",
    }
)
# A webhook's payment has fewer fields than a fetched one; above all it lacks
# `authorization`.
_PAYMENT_FIELDS = (
    "cf_payment_id",
    "payment_status",
    "payment_amount",
    "payment_currency",
    "payment_message",
    "payment_time",
    "bank_reference",
    "auth_id",
    "payment_method",
    "payment_group",
)
# Every payment that ends is copied once, and this is six times as fast as `copy.copy`.
_FIELDS_OF = attrgetter(*(each.name for each in fields(Attempt)))
_CUSTOMER_FIELDS = ("customer_name", "customer_id", "customer_email", "customer_phone")


def event_type_of(effect: Effect, attempt: Attempt) -> str | None:
    """Return the event type for this effect, or None. A capture of a hold has no event."""
    if effect == "captured" and attempt.holds:
        return None
    return _TYPES.get(effect)


@dataclass
class WebhookEvent:
    """One event. Every delivery of it has the same body and the same idempotency key.

    attempt: a copy of the payment at the time of the event, or None for an event that a
    caller made up from `data`. number: counts the events of one emulator. secret: that of
    the order's account.
    """

    type: str
    order_id: str | None
    cf_payment_id: str | None
    at_s: float
    number: int
    version: WebhookVersion
    secret: str = field(repr=False)
    attempt: Attempt | None = field(default=None, repr=False)
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def body(self) -> bytes:
        """The raw bytes, which are sent and signed."""
        data = self.data if self.attempt is None else _data(self.attempt, self.version)
        event = {"data": data, "event_time": wire.timestamp(self.at_s), "type": self.type}
        return wire.encode(event)

    @cached_property
    def idempotency_key(self) -> str:
        """The `x-idempotency-key` of every delivery of this event."""
        source = f"{self.number}:{self.type}:{self.cf_payment_id}:{self.at_s}".encode()
        return base64.b64encode(hashlib.sha256(source).digest()).decode()


def event_of(
    type_: str,
    attempt: Attempt,
    at_s: float,
    number: int,
    version: WebhookVersion,
    *,
    pending: bool = False,
) -> WebhookEvent:
    """Return the event about an attempt in its present state.

    The body is encoded when it is first read. pending: a success is sent with the status
    PENDING, as the gateway sometimes does (gateway.md#webhooks).
    """
    order, copied = attempt.order, Attempt(*_FIELDS_OF(attempt))
    if pending and type_ == _TYPES["captured"]:
        copied.status = "PENDING"
    return WebhookEvent(
        type=type_,
        order_id=order.order_id,
        cf_payment_id=str(attempt.cf_payment_id),
        at_s=at_s,
        number=number,
        version=version,
        secret=order.account.client_secret,
        attempt=copied,
    )


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return base64(HMAC-SHA256(client secret, timestamp + raw body))."""
    digest = hmac.new(secret.encode(), timestamp.encode() + body, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def _data(attempt: Attempt, version: WebhookVersion) -> dict[str, Any]:
    order, entity = attempt.order, wire.payment(attempt, version)
    payment = {name: entity.get(name) for name in _PAYMENT_FIELDS}
    payment["cf_payment_id"] = wire.number(attempt.cf_payment_id, version)
    if version == NEWEST_WEBHOOK_VERSION:
        payment |= {"international_payment": {"international": False}, "payment_surcharge": None}
    data: dict[str, Any] = {
        "order": {
            "order_id": order.order_id,
            "order_amount": order.amount,
            "order_currency": order.currency,
            "order_tags": order.tags,
        },
        "payment": payment,
        "customer_details": {name: order.customer.get(name) for name in _CUSTOMER_FIELDS},
    }
    if entity["error_details"] is not None:
        data["error_details"] = entity["error_details"]
    data["payment_gateway_details"] = {
        "gateway_name": "CASHFREE",
        "gateway_order_id": str(order.number),
        "gateway_payment_id": str(attempt.cf_payment_id),
        "gateway_order_reference_id": None,
        "gateway_status_code": None,
        "gateway_settlement": "CASHFREE",
    }
    data["payment_offers"] = _offers(attempt)
    return data


def _offers(attempt: Attempt) -> list[dict[str, Any]] | None:
    if attempt.offer_id is None:
        return None
    redemption = {
        "redemption_status": "SUCCESS",
        "discount_amount": attempt.order.amount - attempt.amount,
        "cashback_amount": 0,
    }
    return [{"offer_id": attempt.offer_id, "offer_redemption": redemption}]
