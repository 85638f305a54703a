"""What a create-order request must hold, read into an order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cfflow.emulator import checks
from cfflow.emulator.records import Account, BankOptions, Order
from cfflow.emulator.refusals import invalid

TAGS_MAX = 15

_CURRENCY = re.compile(r"[A-Z]{3}")
_CUSTOMER_FIELDS = (
    "customer_id",
    "customer_name",
    "customer_email",
    "customer_phone",
    "customer_uid",
)


def read_order(
    body: Mapping[str, Any],
    *,
    account: Account,
    number: int,
    generated_id: str,
    options: BankOptions,
    now: float,
) -> Order:
    """The order of a create-order body. Raises `Refused` (400) on a field that is wrong."""
    amount = checks.rupees(
        body.get("order_amount"), code="order_amount_invalid", name="order_amount"
    )
    return Order(
        number=number,
        order_id=generated_id
        if body.get("order_id") is None
        else checks.order_id(body["order_id"]),
        account=account,
        amount=amount,
        currency=_currency(body.get("order_currency", "INR")),
        created_at=now,
        expires_at=_expiry(body.get("order_expiry_time"), now, options),
        customer=_customer(body.get("customer_details")),
        tags=_tags(body.get("order_tags")),
        note=body["order_note"] if isinstance(body.get("order_note"), str) else None,
        meta=body["order_meta"] if isinstance(body.get("order_meta"), Mapping) else None,
    )


def _customer(value: object) -> dict[str, Any]:
    code = "customer_details_invalid"
    details = checks.mapping(value, code=code, name="customer_details")
    customer_id = checks.text(details.get("customer_id"), code=code, name="customer_id")
    if not 3 <= len(customer_id) <= 50:
        raise invalid(code, "customer_id : should be 3 to 50 characters")
    checks.phone(details.get("customer_phone"), name="customer_phone")
    return {name: details.get(name) for name in _CUSTOMER_FIELDS}


def _currency(value: object) -> str:
    if not isinstance(value, str) or _CURRENCY.fullmatch(value) is None:
        raise invalid("order_currency_invalid", "order_currency : should be three letters")
    return value


def _expiry(value: object, now: float, options: BankOptions) -> float:
    if value is None:
        return now + options.order_s
    expires_at = checks.moment(value, code="order_expiry_time_invalid", name="order_expiry_time")
    if expires_at <= now:
        raise invalid("order_expiry_time_invalid", "order_expiry_time : should lie ahead")
    return expires_at


def _tags(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    code = "order_tags_invalid"
    tags = checks.mapping(value, code=code, name="order_tags")
    if len(tags) > TAGS_MAX or not all(isinstance(tag, str) for tag in tags.values()):
        raise invalid(code, f"order_tags : should be at most {TAGS_MAX} texts")
    return dict(tags)
