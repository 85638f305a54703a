"""Orders: reads a create-order request, and checks what an order permits."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from cfflow.emulator.fields import PAISA
from cfflow.emulator.records import Account, BankOptions, Method, Order
from cfflow.emulator.refusals import invalid
from cfflow.emulator.request_fields import (
    CREATE_ORDER,
    CUSTOMER,
    ORDER_META,
    PAY,
    PAYMENT_METHODS,
)

# The least amount of an order; an offer never reduces a payment below it.
AMOUNT_MIN = Decimal("1.00")


def read_order(
    body: Mapping[str, Any],
    *,
    account: Account,
    number: int,
    generated_id: str,
    options: BankOptions,
    now_s: float,
) -> Order:
    """Return the order of a create-order body. Raises `Refused` (400) for a wrong field."""
    # In the order of the fields, so that the first wrong one is reported.
    amount = CREATE_ORDER["order_amount"].read(body)
    order_id = CREATE_ORDER["order_id"].read(body)
    currency = CREATE_ORDER["order_currency"].read(body)
    expires_at_s = _expiry(body, now_s, options)
    customer = _customer(CREATE_ORDER["customer_details"].read(body))
    tags = CREATE_ORDER["order_tags"].read(body)
    note = CREATE_ORDER["order_note"].read(body)
    return Order(
        number=number,
        order_id=generated_id if order_id is None else order_id,
        account=account,
        amount=amount,
        currency=currency,
        created_at_s=now_s,
        expires_at_s=expires_at_s,
        customer=customer,
        tags=None if tags is None else dict(tags),
        note=note,
        meta=_meta(CREATE_ORDER["order_meta"].read(body) or {}),
    )


def check_permitted(order: Order, method: Method) -> None:
    """Raise `Refused` (400) for a method that is not in the order's `payment_methods`."""
    named = (order.meta or {}).get("payment_methods")
    if named and not any(method.group in PAYMENT_METHODS[name] for name in _names(named)):
        raise invalid("payment_method_unsupported", "payment_method : is not one of the order's")


def read_offer(offer_id: object, order: Order, options: BankOptions) -> tuple[str | None, Decimal]:
    """Return the offer that a pay names, and the rupees that remain to be paid."""
    if offer_id is None:
        return None, order.amount
    named: str = PAY["offer_id"].check(offer_id)
    off = Decimal(options.offers.get(named, 0)).quantize(PAISA)
    return named, min(order.amount, max(order.amount - off, AMOUNT_MIN))


def _customer(details: Mapping[str, Any]) -> dict[str, Any]:
    read = {field.name: field.read(details) for field in CUSTOMER}
    return {name: text or None for name, text in read.items()}


def _meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "return_url": _url(meta, "return_url"),
        "notify_url": _url(meta, "notify_url"),
        "payment_methods": _payment_methods(meta),
    }


def _url(meta: Mapping[str, Any], name: str) -> str | None:
    url: str = ORDER_META[name].read(meta) or ""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ORDER_META[name].error("should be a URL") from None
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ORDER_META[name].error("should be an http or https URL")
    return url or None


def _payment_methods(meta: Mapping[str, Any]) -> str | None:
    field = ORDER_META["payment_methods"]
    named: str = field.read(meta) or ""
    if not all(name in PAYMENT_METHODS for name in _names(named)):
        raise field.error()
    return named or None


def _names(payment_methods: str) -> list[str]:
    return [name.strip() for name in payment_methods.split(",") if name.strip()]


def _expiry(body: Mapping[str, Any], now_s: float, options: BankOptions) -> float:
    field = CREATE_ORDER["order_expiry_time"]
    expires_at_s: float | None = field.read(body)
    if expires_at_s is None:
        return now_s + options.order_s
    if expires_at_s <= now_s:
        raise field.error("should lie ahead")
    return expires_at_s
