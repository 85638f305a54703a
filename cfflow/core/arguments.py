"""Checks of what a caller passes, made before anything is stored or sent."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast

import msgspec

from cfflow.cashfree import facts
from cfflow.core.bounds import ACTOR_MAX, PERSON_TEXT_MAX
from cfflow.core.money import amount_of
from cfflow.core.printable import has_controls
from cfflow.core.record import split_id
from cfflow.errors import InvalidAmount, InvalidInput, PaymentNotFound

ORDER_ID: Final = re.compile(facts.ORDER_ID_PATTERN)
_OTP: Final = re.compile(rf"[0-9]{{{facts.OTP_DIGITS_MIN},{facts.OTP_DIGITS_MAX}}}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_NAME: Final = re.compile(r"[a-z][a-z_-]{0,40}")
_ATTEMPT_ID: Final = re.compile(facts.CF_PAYMENT_ID_PATTERN)
_ID_MAX: Final = 10**64
_KEY: Final = re.compile(r"[\x21-\x7e]{0,255}")
_TIMEOUT_MAX_S: Final = 600
_METADATA_MAX_B: Final = 2048
_METADATA_DEPTH_MAX: Final = 16
#: Half of a character: it cannot be encoded, and an encoder's own error would quote its neighbours.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TEXT_MAX: Final = 500


class LeftOut(Enum):
    """The type of an argument's default that no caller can pass by mistake, as None can be."""

    LEFT_OUT = "left out"

    def __repr__(self) -> str:
        return "<left out>"


LEFT_OUT: Final = LeftOut.LEFT_OUT


def shown_name(name: object) -> str:
    """Return a name for an error's text, if it can only be a misspelt one: it may be a secret."""
    harmless = isinstance(name, str) and _NAME.fullmatch(name)
    return repr(name) if harmless else "of this name"


def check_version(expected_version: object) -> int | None:
    """Return a version that the caller expects, None where it expects none."""
    if expected_version is not None and type(expected_version) is not int:
        raise InvalidInput("expected_version must be a payment's version, a number")
    return expected_version


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
            f"order_id must be {facts.ORDER_ID_MIN} to {facts.ORDER_ID_MAX} letters, digits, '_'"
            " or '-'"
        )
    return order_id


def check_payment_id(payment_id: object) -> tuple[str, int]:
    """Return (order id, n) of a payment id.

    An ill-formed id cannot be in the store: raise `PaymentNotFound`.
    """
    place = split_id(payment_id) if isinstance(payment_id, str) else None
    if place is None or not ORDER_ID.fullmatch(place[0]):
        raise PaymentNotFound("this is no payment id; one looks like order_8123.1")
    return place


def check_text(name: str, text: object) -> str:
    """Return what a person wrote about a decision. It goes into the history, so it is required.

    It is one line: with a line break in it, it could forge a line of the history, and what it
    says would have to be changed to be shown.
    """
    shown = text.strip() if isinstance(text, str) else ""
    if not 0 < len(shown) <= PERSON_TEXT_MAX:
        raise InvalidInput(
            f"{name} must not be empty, and has {PERSON_TEXT_MAX} characters at most"
        )
    if has_controls(shown):
        raise InvalidInput(f"{name} is one line of text, without control characters")
    return shown


def check_actor(actor: object) -> str:
    """Return who wants a step, "" where the caller names nobody. The history keeps it."""
    if actor is None:
        return ""
    shown = actor.strip() if isinstance(actor, str) else ""
    if not 0 < len(shown) <= ACTOR_MAX or has_controls(shown) or _SURROGATE.search(shown):
        raise InvalidInput(f"actor must be one line of at most {ACTOR_MAX} characters")
    return shown


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


def check_attempt_id(cf_payment_id: object) -> str:
    """Return the gateway's id of an attempt as text; older API versions return a number."""
    if type(cf_payment_id) is int:
        cf_payment_id = str(cf_payment_id) if abs(cf_payment_id) < _ID_MAX else ""
    if not isinstance(cf_payment_id, str) or not _ATTEMPT_ID.fullmatch(cf_payment_id):
        raise InvalidInput("cf_payment_id must be the id of an attempt, such as 5114912345678")
    return cf_payment_id


def check_timeout(timeout_s: object) -> float | None:
    """Return a time limit in seconds, None where the caller passed none."""
    if timeout_s is None:
        return None
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < cast("float", timeout_s) <= _TIMEOUT_MAX_S:
        raise InvalidInput(f"timeout_s must be a number of seconds, at most {_TIMEOUT_MAX_S}")
    return cast("float", timeout_s)


def check_key(key: object) -> str:
    """Return an idempotency key, "" for none."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidInput("key must be a text that a header can carry, such as a UUID")
    return key


def check_currency(currency: object) -> str:
    """Return a currency code of three capital letters."""
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise InvalidInput("currency must be a code of three capital letters, like INR")
    return currency


def check_metadata(metadata: object) -> dict[str, Any] | None:
    """Return a deep copy of the caller's own data, small enough to be stored inside the record.

    Plain JSON data only: what is stored must be the same when it is read, by any program.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise InvalidInput("metadata must be a dict")
    copied = _Plain().copy(metadata, _METADATA_DEPTH_MAX)
    if len(msgspec.msgpack.encode(copied)) > _METADATA_MAX_B:
        raise InvalidInput(f"metadata must have {_METADATA_MAX_B} bytes at most")
    return cast("dict[str, Any]", copied) or None


class _Plain:
    """Copies plain JSON data. It counts the parts: a list may be inside itself, or many times."""

    def __init__(self) -> None:
        self._parts = 0

    def copy(self, value: object, depth: int) -> object:
        """Return a copy, at most so deep; raises `InvalidInput` without the value in it."""
        self._parts += 1
        if self._parts > _METADATA_MAX_B:
            raise InvalidInput(f"metadata must have {_METADATA_MAX_B} bytes at most")
        if isinstance(value, (dict, list, tuple)) and not depth:
            raise InvalidInput(f"metadata must be {_METADATA_DEPTH_MAX} levels deep at most")
        if type(value) is dict:
            return {_key(key): self.copy(held, depth - 1) for key, held in value.items()}
        if type(value) in {list, tuple}:
            return [self.copy(held, depth - 1) for held in cast("list[object]", value)]
        if not _is_plain(value):
            raise InvalidInput("metadata must be plain data: strings, numbers, lists, dicts")
        return value


def _key(key: object) -> str:
    if type(key) is not str or not _is_plain(key) or not key.isprintable():
        raise InvalidInput("metadata must have strings as keys, without control characters")
    return key


def _is_plain(value: object) -> bool:
    if type(value) is str:
        return len(value) <= _METADATA_MAX_B and not _SURROGATE.search(value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is float:
        return abs(value) < float("inf")
    return value is None or type(value) is bool
