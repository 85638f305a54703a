"""Checks of what a caller passes, made before anything is stored or sent."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import Enum
from typing import Any, Final

import msgspec

from cfflow.cashfree import facts
from cfflow.core.money import amount_of
from cfflow.core.record import split_id
from cfflow.errors import InvalidAmount, InvalidInput, PaymentNotFound

ORDER_ID: Final = re.compile(facts.ORDER_ID_PATTERN)
_OTP: Final = re.compile(rf"[0-9]{{{facts.OTP_DIGITS_MIN},{facts.OTP_DIGITS_MAX}}}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_METADATA_MAX_B: Final = 2048
_TEXT_MAX: Final = 500


class LeftOut(Enum):
    """The type of an argument's default that no caller can pass by mistake, as None can be."""

    LEFT_OUT = "left out"

    def __repr__(self) -> str:
        return "<left out>"


LEFT_OUT: Final = LeftOut.LEFT_OUT


def check_amount(amount: object) -> Decimal | None:
    """Return an amount that the caller passed, None where it was left out: all of it.

    None is refused: a form returns it for a field whose name is misspelt, and the whole hold
    would be taken instead of the bill.
    """
    if amount is LEFT_OUT:
        return None
    if amount is None:
        raise InvalidAmount("amount is None; leave the argument out to mean the whole hold")
    return amount_of(amount)


def check_order_id(order_id: object) -> str:
    """Return an order id; raises `InvalidInput` for one that the gateway would refuse."""
    if not isinstance(order_id, str) or not ORDER_ID.fullmatch(order_id):
        raise InvalidInput(
            f"order_id {str(order_id)[:60]!r} must be {facts.ORDER_ID_MIN} to"
            f" {facts.ORDER_ID_MAX} letters, digits, '_' or '-'"
        )
    return order_id


def check_payment_id(payment_id: object) -> tuple[str, int]:
    """Return (order id, n) of a payment id.

    An ill-formed id cannot be in the store: raise `PaymentNotFound`.
    """
    place = split_id(payment_id) if isinstance(payment_id, str) else None
    if place is None or not ORDER_ID.fullmatch(place[0]):
        raise PaymentNotFound(
            f"{str(payment_id)[:60]!r} is no payment id; one looks like order_8123.1"
        )
    return place


def check_text(name: str, text: object) -> str:
    """Return what a person wrote about a decision. It goes into the history, so it is required."""
    if not isinstance(text, str) or not text.strip() or len(text) > _TEXT_MAX:
        raise InvalidInput(f"{name} must not be empty, and has {_TEXT_MAX} characters at most")
    return text.strip()


def check_otp(otp: object) -> str:
    """Return an OTP of 4 to 8 digits. The error never repeats what was typed."""
    if not isinstance(otp, str) or not _OTP.fullmatch(otp):
        del otp
        raise InvalidInput(
            f"the OTP must be a string of {facts.OTP_DIGITS_MIN} to {facts.OTP_DIGITS_MAX} digits"
        )
    return otp


def check_session(payment_session_id: object) -> str:
    """Return a payment_session_id. The error never repeats it: it is a bearer secret."""
    given = isinstance(payment_session_id, str) and payment_session_id.strip()
    if not given or len(str(payment_session_id)) > facts.SESSION_ID_MAX:
        del payment_session_id, given
        raise InvalidInput("payment_session_id is empty or no session id; create the order first")
    return str(payment_session_id)


def check_currency(currency: object) -> str:
    """Return a currency code of three capital letters."""
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise InvalidInput(f"currency {str(currency)[:20]!r} must be a code like INR")
    return currency


def check_metadata(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the caller's own data, small enough to be stored inside the record."""
    if not metadata:
        return None
    if not isinstance(metadata, dict):
        raise InvalidInput("metadata must be a dict")
    try:
        size = len(msgspec.msgpack.encode(metadata))
        plain = all(isinstance(key, str) for key in metadata)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput("metadata must be plain data: strings, numbers, lists, dicts") from None
    if not plain or size > _METADATA_MAX_B:
        raise InvalidInput(f"metadata must have string keys and {_METADATA_MAX_B} bytes at most")
    return dict(metadata)
