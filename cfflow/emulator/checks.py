"""Checks of single fields, shared by orders, payment methods and captures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from cfflow.emulator.refusals import invalid

IST = timezone(timedelta(hours=5, minutes=30))
PAISA = Decimal("0.01")
# Above this no amount is meant seriously, and quantizing a huge exponent would fail.
AMOUNT_LIMIT = Decimal(10) ** 12
# Outside these years a time may not survive the way into Indian time and back.
YEAR_MIN, YEAR_MAX = 1971, 9000

_ORDER_ID = re.compile(r"[A-Za-z0-9_-]{3,45}")
_PHONE = re.compile(r"[0-9]{10}")


def rupees(value: object, *, code: str, name: str) -> Decimal:
    """An amount as sent (a JSON number) to exact rupees, or a 400 with `code`.

    Zero, negative, three decimals, text and booleans are refused.
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise invalid(code, f"{name} : should be a number")
    amount = Decimal(value)
    if not 0 < amount < AMOUNT_LIMIT:
        raise invalid(code, f"{name} : should be above zero")
    exact = amount.quantize(PAISA)
    if exact != amount:
        raise invalid(code, f"{name} : should have at most two decimals")
    return exact


def mapping(value: object, *, code: str, name: str) -> Mapping[str, Any]:
    """A JSON object, or a 400."""
    if not isinstance(value, Mapping):
        raise invalid(code, f"{name} : should be an object")
    return value


def text(value: object, *, code: str, name: str) -> str:
    """A text that is not empty, or a 400."""
    if not isinstance(value, str) or not value:
        raise invalid(code, f"{name} : should be a text")
    return value


def optional_text(value: object, *, code: str, name: str, low: int = 0, high: int = 1000) -> str:
    """A text of `low` to `high` characters, empty for none at all, or a 400."""
    if value is None:
        return ""
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise invalid(code, f"{name} : should be a text of {low} to {high} characters")
    return value


def flag(value: object, *, name: str) -> bool:
    """True, or False for false or nothing, or a 400 `request_invalid`."""
    if value is not None and not isinstance(value, bool):
        raise invalid("request_invalid", f"{name} : should be true or false")
    return bool(value)


def channel(fields: Mapping[str, Any], *allowed: str) -> str:
    """The channel of a payment method, or a 400."""
    found = fields.get("channel")
    if found is None or found == "":
        raise invalid("channel_missing", "channel : is missing in the request")
    if found not in allowed:
        raise invalid("channel_invalid", f"channel : should be one of {', '.join(allowed)}")
    return str(found)


def phone(value: object, *, name: str) -> str:
    """Ten digits, or a 400 `phone_invalid`."""
    if not isinstance(value, str) or _PHONE.fullmatch(value) is None:
        raise invalid("phone_invalid", f"{name} : should be 10 digits")
    return value


def order_id(value: object) -> str:
    """An order id of the gateway's form, or a 400 `order_id_invalid`."""
    if not isinstance(value, str) or _ORDER_ID.fullmatch(value) is None:
        raise invalid("order_id_invalid", "order_id : should be 3 to 45 of A-Z, a-z, 0-9, _ and -")
    return value


def moment(value: object, *, code: str, name: str) -> float:
    """An ISO 8601 time as seconds since the epoch; without an offset it is Indian time."""
    try:
        parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        parsed = None
    if parsed is None or not YEAR_MIN <= parsed.year <= YEAR_MAX:
        raise invalid(code, f"{name} : should be an ISO 8601 time")
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=IST)).timestamp()
