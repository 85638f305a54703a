"""Amounts: exact decimals with two places, never a float."""

from __future__ import annotations

import re
from decimal import (
    ROUND_HALF_DOWN,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
)
from typing import Final

from cfflow.errors import InvalidAmount

PAISA: Final = Decimal("0.01")
_TIE: Final = Decimal("0.001")

#: More digits than any payment has; it also keeps a huge exponent out of quantize().
_EXACT: Final = Context(prec=28)
_AMOUNT_MAX: Final = Decimal(10) ** 12
_EXPONENT_MAX: Final = _AMOUNT_MAX.adjusted()

#: The one form of an amount that is passed as text: "1000", "4200.5", "0.50". `Decimal` alone
#: would take "1_000", "1e3", "\n5\n" and digits of other scripts, which are typing mistakes.
_TEXT: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]{1,2})?")
#: No amount below the limit is longer as text, or has more bits as an int.
_TEXT_MAX: Final = len("999999999999.99")
_BITS_MAX: Final = 40


def amount_of(value: object, *, name: str = "amount") -> Decimal:
    """Return an amount in rupees (major units) with exactly two decimals.

    Takes a Decimal, an int, or a string of ASCII digits with at most one point and two
    decimals: "1000", "4200.5", "0.50". A float is refused: 0.1 + 0.2 is not 0.30.
    Raises `InvalidAmount` for any other object, zero, negative, non-finite, three decimals.
    """
    amount = _decimal_of(value, name)
    if not amount.is_finite() or not 0 < amount < _AMOUNT_MAX:
        raise InvalidAmount(f"{name} must be more than 0 and less than {_AMOUNT_MAX}")
    exact = amount.quantize(PAISA, context=_EXACT)
    if exact != amount:
        raise InvalidAmount(f"{name} has at most two decimals")
    return exact


def _decimal_of(value: object, name: str) -> Decimal:
    """Return the number that was passed, exactly. Its real type decides, not what it shows."""
    kind = type(value)
    if issubclass(kind, str):
        # A subclass of str may show itself as another text than it is.
        text = str.__str__(value)
        if not _TEXT.fullmatch(text):
            raise InvalidAmount(f'{name} must be written like "1000" or "4200.50"')
        return Decimal(text) if len(text) <= _TEXT_MAX else _AMOUNT_MAX
    if issubclass(kind, Decimal):
        return Decimal(value)  # type: ignore[arg-type]  # its type was looked at above
    if issubclass(kind, int) and kind is not bool:
        number = int.__int__(value)  # type: ignore[arg-type]  # as above
        return Decimal(number) if number.bit_length() <= _BITS_MAX else _AMOUNT_MAX
    raise InvalidAmount(f"{name} must be a Decimal, an int or a string, not {kind.__name__}")


def without_noise(amount: Decimal) -> Decimal:
    """Return an amount of the gateway's with two decimals, without the noise of a float.

    `1098.0000000000002` is 1098.00: the nearest paisa, which is less than half a paisa away.
    An exact tie has no nearest paisa and stays as it is, with three decimals: it is a different
    amount. A number that cannot be an amount of money is returned as it came.
    """
    if not amount.is_finite() or amount.adjusted() > _EXPONENT_MAX:
        return amount
    nearest = amount.quantize(PAISA, ROUND_HALF_EVEN, _EXACT)
    if nearest == amount:
        return nearest
    # Compared, not subtracted: a difference would be rounded itself.
    up = amount.quantize(PAISA, ROUND_HALF_UP, _EXACT)
    down = amount.quantize(PAISA, ROUND_HALF_DOWN, _EXACT)
    # However many zeros the gateway wrote behind the tie: the amount is stored.
    return nearest if up == down else amount.quantize(_TIE, context=_EXACT)
