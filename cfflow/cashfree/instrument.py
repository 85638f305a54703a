"""What an attempt was paid with, read from the gateway's `payment_method` and `payment_group`.

Nothing here decides about money. What cannot be read is None, and never an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cfflow.cashfree import facts

__all__ = ["Instrument", "card_kind", "instrument", "method_name"]

#: "credit", "credit_card", "credit_card_emi" and so on; a "credit_line" is no card.
_CARD_KINDS: Final[Mapping[str, str]] = {
    f"{kind}{rest}": kind
    for kind in ("credit", "debit", "prepaid")
    for rest in ("", "_card", " card", "card", "_card_emi", "_emi")
}

_WITH_CARDS: Final = frozenset({"card", "emi"})


class Instrument(NamedTuple):
    """The method's own name, the channel, the last four digits and the kind of the card."""

    method: str | None = None
    channel: str | None = None
    last_four: str | None = None
    card_kind: str | None = None


def instrument(method: Mapping[str, Any], group: str | None) -> Instrument:
    """Return what was paid with, from an entity's `payment_method` and `payment_group`."""
    by_group = card_kind(group)
    if len(method) != 1:
        return Instrument(card_kind=by_group)
    given, fields = next(iter(method.items()))
    name = method_name(given)
    if not isinstance(fields, dict):
        return Instrument(name, card_kind=by_group)
    channel, number = fields.get("channel"), fields.get("card_number")
    return Instrument(
        name,
        channel if isinstance(channel, str) else None,
        number[-4:] if isinstance(number, str) and number[-4:].isdigit() else None,
        by_group or (card_kind(fields.get("card_type")) if name in _WITH_CARDS else None),
    )


def method_name(given: str) -> str:
    """Return the name of a method that a pay takes; a name that is not known stays as it is."""
    return facts.OTHER_METHOD_NAMES.get(given, given)


def card_kind(given: object) -> str | None:
    """Return "credit", "debit" or "prepaid"; None for what names none of them."""
    return _CARD_KINDS.get(given.lower()) if isinstance(given, str) else None
