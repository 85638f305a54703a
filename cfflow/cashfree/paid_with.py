"""What an attempt was paid with, read from the gateway's `payment_method` and `payment_group`.

Nothing here decides about money. What cannot be read is None, and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from cfflow.cashfree import facts
from cfflow.core.observation import masked_card

#: "credit", "credit_card", "credit_card_emi" and so on. A "credit_line" is not a card.
_CARD_KINDS: Final[Mapping[str, str]] = {
    f"{kind}{rest}": kind
    for kind in ("credit", "debit", "prepaid")
    for rest in ("", "_card", " card", "card", "_card_emi", "_emi")
}

_FOUR: Final = re.compile("[0-9]{4}")
_UPI_ID: Final = re.compile(r"([A-Za-z0-9._-]{1,256})@([A-Za-z][A-Za-z0-9.-]{0,63})")

_WITH_CARDS: Final = frozenset({"card", "emi"})


class PaidWith(msgspec.Struct, frozen=True, gc=False):
    """What an attempt was paid with: nothing that pays.

    `method` has the name that a pay takes. `card_kind` is "credit", "debit" or "prepaid".
    `network` is the card's, in the gateway's words. `bank` is the card's, or that of net
    banking. `masked` is the card as `xxxxxx1111`, or the UPI id shortened, `asxxxx@okbank`. None
    stands for what the gateway does not show.
    """

    method: str | None = None
    channel: str | None = None
    last_four: str | None = None
    card_kind: str | None = None
    network: str | None = None
    bank: str | None = None
    masked: str | None = None


def paid_with(found: object, group: str | None) -> PaidWith:
    """Return what was paid with, from an entity's decoded `payment_method` and its group."""
    kind = _card_kind(group)
    if not isinstance(found, dict) or len(found) != 1:
        return PaidWith(card_kind=kind)
    ((given, fields),) = found.items()
    name = method_name(given)
    if not isinstance(fields, dict):
        return PaidWith(name, card_kind=kind)
    number = fields.get("card_number")
    last_four = number[-4:] if isinstance(number, str) and _FOUR.fullmatch(number[-4:]) else None
    return PaidWith(
        name,
        _text(fields.get("channel")),
        last_four,
        # How long a hold lasts depends on it; the group is what most pages show.
        kind or (_card_kind(fields.get("card_type")) if name in _WITH_CARDS else None),
        _text(fields.get("card_network")),
        _text(fields.get("card_bank_name")) or _text(fields.get("netbanking_bank_name")),
        masked_card(last_four) if last_four else _masked_upi(fields.get("upi_id")),
    )


def _masked_upi(upi_id: object) -> str | None:
    """Return a UPI id with the first letters of its name: it may be the customer's phone number.

    None for a text that is none, and for one too long to be one.
    """
    found = _UPI_ID.fullmatch(upi_id) if isinstance(upi_id, str) else None
    if found is None:
        return None
    name, bank = found.groups()
    return f"{name[: min(2, len(name) // 3)]}xxxx@{bank}"


def method_name(given: str) -> str:
    """Return the name that a pay takes for a method; a name that is not known stays as it is."""
    return facts.OTHER_METHOD_NAMES.get(given, given)


def _card_kind(given: object) -> str | None:
    """Return "credit", "debit" or "prepaid"; None for a text that names none of them."""
    return _CARD_KINDS.get(given.lower()) if isinstance(given, str) else None


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None
