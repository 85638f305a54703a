"""Cards: by number, by network token, in instalments, or saved before.

Number, CVV, expiry and cryptogram are checked and not kept: only the last four digits of a
card leave this module (gateway.md#secrets).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cfflow.emulator.records import Attempt, BankOptions, Method, Order
from cfflow.emulator.refusals import invalid
from cfflow.emulator.request_fields import CARD, CARD_TEXTS, EMI

Fields = Mapping[str, Any]

# The gateway's test cards with network and type (gateway.md#test-data). The type decides the
# payment group.
TEST_CARDS: Mapping[str, tuple[str, str]] = {
    "4111111111111111": ("visa", "credit_card"),
    "4706131211212123": ("visa", "debit_card"),
    "4576238912771450": ("visa", "credit_card"),
    "5409162669381034": ("mastercard", "debit_card"),
    "5105105105105100": ("mastercard", "credit_card"),
    "6074825972083818": ("rupay", "debit_card"),
}
# Card networks by the first digits. Cards of other networks are refused.
NETWORKS: Mapping[str, str] = {
    "2": "mastercard",
    "34": "amex",
    "37": "amex",
    "4": "visa",
    "5": "mastercard",
    "6": "rupay",
    "81": "rupay",
    "82": "rupay",
}


@dataclass(slots=True)
class SavedCards:
    """Saved cards by instrument id. A card can be used once its payment has succeeded."""

    _saved_by: dict[str, Attempt] = field(default_factory=dict)

    def save(self, attempt: Attempt, instrument_id: str) -> None:
        """Save the card of this attempt for its customer, for use if the attempt succeeds."""
        if attempt.method.name == "card" and attempt.instrument_id is None:
            attempt.instrument_id = instrument_id
            self._saved_by[instrument_id] = attempt

    def find(self, order: Order, instrument_id: str) -> Method | None:
        """Return the card with this id, if the customer of this order has saved it."""
        attempt = self._saved_by.get(instrument_id)
        if attempt is None or not attempt.succeeded:
            return None
        return attempt.method if _customer(attempt.order) == _customer(order) else None


def _customer(order: Order) -> tuple[str, object]:
    return order.account.client_id, order.customer["customer_id"]


def _none_saved(instrument_id: str) -> Method | None:
    del instrument_id
    return None


class Terms(NamedTuple):
    """What the readers of methods need besides the fields.

    now_s: seconds since the epoch. saved: finds a saved card of this customer by its id.
    """

    options: BankOptions
    now_s: float
    saved: Callable[[str], Method | None] = _none_saved


def read_card(fields: Fields, terms: Terms) -> Method:
    """Read a card: saved, by network token, or by number. Raises `Refused` (400)."""
    channel = CARD["channel"].read(fields)
    _check_texts(fields)
    if fields.get("instrument_id"):
        return _saved(fields, channel, terms)
    number, shown = _network_token(fields) if fields.get("cryptogram") else _plain(fields)
    network, kind = card_kind(number)
    shown = {"channel": channel, **shown, "card_network": network, "card_type": kind}
    native = has_native_otp(number, terms.options)
    return _method("card", channel, kind, _with_bank(shown), native_otp=native)


def read_emi(fields: Fields, terms: Terms) -> Method:
    """Read a card payment in monthly instalments. Raises `Refused` (400)."""
    channel = EMI["channel"].read(fields)
    _check_texts(fields)
    number, shown = _plain(fields)
    bank = EMI["card_bank_name"].read(fields)
    network, kind = card_kind(number)
    shown = {"channel": channel, **shown, "card_network": network, "card_type": kind}
    shown |= {"card_bank_name": bank, "emi_tenure": EMI["emi_tenure"].read(fields)}
    native = has_native_otp(number, terms.options)
    return _method("emi", channel, f"{kind}_emi", _with_bank(shown), native_otp=native)


def _saved(fields: Fields, channel: str, terms: Terms) -> Method:
    """Read a saved card. An id that was not saved here stands for the first test card."""
    CARD["card_cvv"].read_optional(fields)
    instrument = CARD["instrument_id"].read(fields)
    saved = terms.saved(instrument)
    if saved is None:
        shown = _with_bank(
            {"card_number": "xxxxxx1111", "card_network": "visa", "card_type": "credit_card"}
        )
        kind, native = "credit_card", True
    else:
        shown, kind, native = dict(saved.shown["card"]), saved.group, saved.native_otp
    shown |= {"channel": channel, "instrument_id": instrument}
    return _method("card", channel, kind, shown, native_otp=native)


def _method(name: str, channel: str, group: str, shown: Fields, *, native_otp: bool) -> Method:
    # Native OTP is best effort: a bank without it gets `link` (gateway.md#pay-action).
    action: Literal["post", "link"] = "post" if channel == "post" and native_otp else "link"
    return Method(name, channel, action, group, {name: shown}, native_otp=native_otp)


def _plain(fields: Fields) -> tuple[str, dict[str, Any]]:
    number = _number(fields)
    _check_expiry(fields)
    CARD["card_cvv"].read(fields)
    return number, {"card_number": mask(number)}


def _network_token(fields: Fields) -> tuple[str, dict[str, Any]]:
    CARD["cryptogram"].read(fields)
    number = _number(fields)
    _check_expiry(fields)
    CARD["token_requestor_id"].read(fields)
    return number, {"card_number": mask(CARD["card_display"].read(fields))}


def _number(fields: Fields) -> str:
    number: str = CARD["card_number"].read(fields)
    if not luhn(number):
        raise CARD["card_number"].error()
    if _network(number) is None:
        raise invalid("card_unsupported", "card_number : is of a network that is not supported")
    return number


def _check_expiry(fields: Fields) -> None:
    # Only the format is checked: the gateway's own examples have years in the past.
    CARD["card_expiry_mm"].read(fields)
    CARD["card_expiry_yy"].read(fields)


def _check_texts(fields: Fields) -> None:
    for text in CARD_TEXTS:
        if text.name in fields:
            text.read(fields)


def has_native_otp(number: str, options: BankOptions) -> bool:
    """Return whether the bank of this card supports native OTP."""
    return number[:6] not in options.bins_without_otp


def _with_bank(shown: dict[str, Any]) -> dict[str, Any]:
    return {"card_country": "IN", "card_bank_name": "TEST Bank", **shown}


def _network(number: str) -> str | None:
    return NETWORKS.get(number[:2]) or NETWORKS.get(number[:1])


def card_kind(number: str) -> tuple[str, str]:
    """Return network and type of a card. A card that is no test card is a credit card."""
    return TEST_CARDS.get(number) or (_network(number) or "visa", "credit_card")


def mask(number: str) -> str:
    """Return the masked card number, the only form in which it is kept."""
    return f"xxxxxx{number[-4:]}"


def luhn(number: str) -> bool:
    """Return whether the check digit of a card number is right."""
    doubled = (int(digit) * 2 for digit in number[-2::-2])
    total = sum(int(digit) for digit in number[-1::-2])
    return (total + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0
