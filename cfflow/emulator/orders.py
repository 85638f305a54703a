"""What a create-order request must hold, read into an order, and what it permits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from cfflow.emulator import checks
from cfflow.emulator.records import Account, BankOptions, Method, Order
from cfflow.emulator.refusals import invalid

TAGS_MAX = 15
URL_CHARACTERS_MAX = 250
# An order costs a rupee at least, and an offer never makes a payment cheaper than that.
AMOUNT_MIN = Decimal("1.00")
# What `order_meta.payment_methods` may name, and the payment groups that each admits.
PAYMENT_METHODS: Mapping[str, frozenset[str]] = {
    "cc": frozenset({"credit_card"}),
    "ccc": frozenset({"credit_card"}),
    "dc": frozenset({"debit_card"}),
    "ppc": frozenset({"prepaid_card"}),
    "emi": frozenset({"credit_card_emi", "debit_card_emi"}),
    "ccemi": frozenset({"credit_card_emi"}),
    "dcemi": frozenset({"debit_card_emi"}),
    "cardlessemi": frozenset({"cardless_emi"}),
    "nb": frozenset({"net_banking"}),
    "upi": frozenset({"upi"}),
    "app": frozenset({"wallet"}),
    "paylater": frozenset({"pay_later"}),
    "banktransfer": frozenset({"bank_transfer"}),
    "paypal": frozenset(),
    "applepay": frozenset(),
}

_CURRENCY = re.compile(r"[A-Z]{3}")
# Optional texts of a customer: the fewest and the most characters.
_CUSTOMER_TEXTS = {
    "customer_name": (3, 100),
    "customer_email": (3, 100),
    "customer_uid": (0, 100),
    "customer_bank_account_number": (3, 20),
    "customer_bank_ifsc": (0, 20),
}


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
    if amount < AMOUNT_MIN:
        raise invalid("order_amount_invalid", f"order_amount : should be {AMOUNT_MIN} at least")
    return Order(
        number=number,
        order_id=generated_id
        if body.get("order_id") is None
        else checks.order_id(body["order_id"]),
        account=account,
        amount=amount,
        currency=_currency(body.get("order_currency")),
        created_at=now,
        expires_at=_expiry(body.get("order_expiry_time"), now, options),
        customer=_customer(body.get("customer_details")),
        tags=_tags(body.get("order_tags")),
        note=_note(body.get("order_note")),
        meta=_meta(body.get("order_meta")),
    )


def check_permitted(order: Order, method: Method) -> None:
    """Raise `Refused` (400) for a method that the order's `payment_methods` leave out."""
    named = (order.meta or {}).get("payment_methods")
    if named and not any(method.group in PAYMENT_METHODS[name] for name in _names(named)):
        raise invalid("payment_method_unsupported", "payment_method : is not one of the order's")


def read_offer(offer_id: object, order: Order, options: BankOptions) -> tuple[str | None, Decimal]:
    """The offer that a pay names, and the rupees that are left to pay."""
    if offer_id is None:
        return None, order.amount
    named = checks.text(offer_id, code="offer_id_invalid", name="offer_id")
    off = Decimal(options.offers.get(named, 0)).quantize(checks.PAISA)
    return named, min(order.amount, max(order.amount - off, AMOUNT_MIN))


def _customer(value: object) -> dict[str, Any]:
    code = "customer_details_invalid"
    details = checks.mapping(value, code=code, name="customer_details")
    customer_id = checks.text(details.get("customer_id"), code=code, name="customer_id")
    if not 3 <= len(customer_id) <= 50:
        raise invalid(code, "customer_id : should be 3 to 50 characters")
    number = checks.phone(details.get("customer_phone"), name="customer_phone")
    texts = {
        name: checks.optional_text(details.get(name), code=code, name=name, low=low, high=high)
        for name, (low, high) in _CUSTOMER_TEXTS.items()
    }
    given = {name: text or None for name, text in texts.items()}
    return {"customer_id": customer_id, "customer_phone": number, **given}


def _note(value: object) -> str | None:
    code = "order_note_invalid"
    return checks.optional_text(value, code=code, name="order_note", low=3, high=200) or None


def _meta(value: object) -> dict[str, Any]:
    meta = {} if value is None else value
    meta = checks.mapping(meta, code="order_meta_invalid", name="order_meta")
    return {
        "return_url": _url(meta.get("return_url"), "return_url"),
        "notify_url": _url(meta.get("notify_url"), "notify_url"),
        "payment_methods": _payment_methods(meta.get("payment_methods")),
    }


def _url(value: object, name: str) -> str | None:
    code = f"{name}_invalid"
    url = checks.optional_text(value, code=code, name=name, high=URL_CHARACTERS_MAX)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise invalid(code, f"{name} : should be a URL") from None
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise invalid(code, f"{name} : should be an http or https URL")
    return url or None


def _payment_methods(value: object) -> str | None:
    code = "payment_methods_invalid"
    named = checks.optional_text(value, code=code, name="payment_methods")
    if not all(name in PAYMENT_METHODS for name in _names(named)):
        known = ", ".join(PAYMENT_METHODS)
        raise invalid(code, f"payment_methods : should be some of {known}")
    return named or None


def _names(payment_methods: str) -> list[str]:
    return [name.strip() for name in payment_methods.split(",") if name.strip()]


def _currency(value: object) -> str:
    if value is None:
        raise invalid("order_currency_missing", "order_currency : is missing in the request")
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
    if len(tags) > TAGS_MAX:
        raise invalid(code, f"order_tags : should be at most {TAGS_MAX}")
    for tag in tags.values():
        checks.optional_text(
            "" if tag is None else tag, code=code, name="order_tags", low=1, high=255
        )
    return dict(tags)
