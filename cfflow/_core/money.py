"""Amounts: exact decimals with two places, never a float."""

from __future__ import annotations

from decimal import (
    ROUND_HALF_DOWN,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    InvalidOperation,
)
from typing import Final

from cfflow.errors import InvalidAmount

__all__ = ["PAISA", "amount_of", "without_noise"]

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


def without_noise(amount: Decimal) -> Decimal:
    """Return an amount of the gateway's with two decimals, without the noise of a float.

    `1098.0000000000002` is 1098.00: the nearest paisa, which is less than half a paisa away.
    An exact tie has no nearest one and stays as it is: it is a different amount. So does
    what is no amount of money at all.
    """
    if not amount.is_finite() or amount.adjusted() > _AMOUNT_MAX.adjusted():
        return amount
    nearest = amount.quantize(PAISA, ROUND_HALF_EVEN, _EXACT)
    if nearest == amount:
        return nearest
    # Compared, not subtracted: a difference would be rounded itself.
    up = amount.quantize(PAISA, ROUND_HALF_UP, _EXACT)
    down = amount.quantize(PAISA, ROUND_HALF_DOWN, _EXACT)
    return nearest if up == down else amount
