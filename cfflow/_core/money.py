"""Amounts: exact decimals with two places, never a float."""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation
from typing import Final

from cfflow.errors import InvalidAmount

__all__ = ["PAISA", "amount_of"]

PAISA: Final = Decimal("0.01")

#: More digits than any payment has; it also keeps a hostile exponent out of quantize().
_EXACT: Final = Context(prec=28)
_AMOUNT_MAX: Final = Decimal(10) ** 12


def amount_of(value: object, *, name: str = "amount") -> Decimal:
    """Return an amount in rupees (major units) with exactly two decimals.

    Takes a Decimal, an int or a decimal string. A float is refused: 0.1 + 0.2 is not 0.30.
    Raises `InvalidAmount` for zero, negative, non-finite, more than two decimals.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        kind = type(value).__name__
        raise InvalidAmount(f"{name} must be a Decimal, an int or a string, not {kind}")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise InvalidAmount(f"{name} {value!r} is not a decimal number") from None
    if not amount.is_finite() or not 0 < amount < _AMOUNT_MAX:
        raise InvalidAmount(f"{name} must be more than 0 and less than {_AMOUNT_MAX}, got {amount}")
    exact = amount.quantize(PAISA, context=_EXACT)
    if exact != amount:
        raise InvalidAmount(f"{name} has at most two decimals, got {value}")
    return exact
