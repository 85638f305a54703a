"""The payment methods that `pay` takes, with the gateway's own field names (gateway.md#methods).

`repr` shows the kind, the channel and a card's last four digits, and never what PCI or
privacy hides: numbers, CVVs, cryptograms, names, UPI ids, phones.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.wire import json_body
from cfflow.core.flow import Flow
from cfflow.core.sealed import Sealed, sealed
from cfflow.core.steps import Instrument
from cfflow.errors import InvalidInput

_FOUR = 4

#: The fields that are sealed when a method is made: nothing writes them but a request's body.
SEALED = frozenset(
    {
        "card_cvv",
        "card_expiry_mm",
        "card_expiry_yy",
        "card_holder_name",
        "card_number",
        "cryptogram",
        "instrument_id",
        "phone",
        "upi_id",
    }
)

#: A secret text: as the caller passes it, and as the method keeps it.
Secret = str | Sealed[str]


def _revealed(value: Any) -> Any:
    return value.reveal() if isinstance(value, Sealed) else value


@cache
def _sealed_names(kind: type[PaymentMethod]) -> tuple[str, ...]:
    return tuple(sorted(SEALED & set(kind.__struct_fields__)))


class PaymentMethod(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all methods: a set of the gateway's fields under the gateway's name.

    Numbers, CVVs, names, UPI ids and phones are sealed as soon as it is made: no log, pickle or
    encoder writes them. `card.card_number.reveal()` returns one.
    """

    gateway_name: ClassVar[str] = ""

    def body(self) -> dict[str, Any]:
        """Return the request's `payment_method`: the fields that were given, and the channel.

        The gateway needs a channel. One that was left out is the method's usual one here.
        Where there is a flow, `with_channel` has put in the flow's before.
        """
        fields = msgspec.structs.asdict(self)
        if "channel" in fields:
            fields["channel"] = self._channel()
        given = {
            name: _revealed(value) for name, value in fields.items() if _revealed(value) is not None
        }
        return {self.gateway_name: given}

    def instrument(self) -> Instrument:
        """Return what may be stored of it: method, channel, last four digits.

        A network token has other digits than its card, and the gateway may show either later.
        So a token's digits are not stored: they would rule out our own attempt.
        """
        is_token = getattr(self, "cryptogram", None) or getattr(self, "token_requestor_id", None)
        digits = None if is_token else self.last_four()
        return Instrument(self.gateway_name, self._channel(), digits)

    def _channel(self) -> str | None:
        """Return the channel that is sent: only None is left out, an empty text is a mistake."""
        if "channel" not in self.__struct_fields__:
            return None
        given: str | None = getattr(self, "channel", None)
        usual = facts.CHANNELS.get(self.gateway_name, (None,))[0]
        return usual if given is None else given

    def last_four(self) -> str | None:
        """Return a card's last four digits, None where there is no card number."""
        return None

    def __post_init__(self) -> None:
        for name in _sealed_names(type(self)):
            given = sealed(getattr(self, name))
            if given.reveal() is None:
                continue
            # Sealed before it is looked at: an error's frames would show it.
            msgspec.structs.force_setattr(self, name, given)
            if not isinstance(given.reveal(), str):
                raise InvalidInput(f"{name} must be a string")
        if not isinstance(getattr(self, "card_display", None), str | None):
            raise InvalidInput("card_display must be a string")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # rich and structlog's tracebacks use this one, and msgspec's own shows every field.
        digits = self.last_four()
        shown = [("channel", getattr(self, "channel", None))]
        return [*shown, ("card_number", f"xxxxxx{digits}")] if digits else shown


class _CardFields(PaymentMethod, frozen=True, kw_only=True):
    card_number: Secret | None = None
    card_holder_name: Secret | None = None
    card_expiry_mm: Secret | None = None
    card_expiry_yy: Secret | None = None
    card_cvv: Secret | None = None
    card_alias: str | None = None

    def last_four(self) -> str | None:
        shown = Sealed(getattr(self, "card_display", None) or _revealed(self.card_number) or "")
        return shown.reveal()[-_FOUR:] if len(shown.reveal()) >= _FOUR else None


class Card(_CardFields, frozen=True, kw_only=True):
    """A card by number, or by network token (with `cryptogram` and `token_requestor_id`).

    `channel="post"` asks for native OTP on your own page, which is best effort: the
    answer may still be a redirect. `channel="link"` asks for the bank's page. Left out, it
    is the first one of the payment's flow; a call of the gateway's own client sends `post`.
    The address fields are for international cards.
    """

    gateway_name: ClassVar[str] = "card"

    channel: Literal["link", "post"] | None = None
    cryptogram: Secret | None = None
    token_requestor_id: str | None = None
    token_reference_id: str | None = None
    token_type: str | None = None
    card_display: str | None = None
    card_bank_name: str | None = None
    address_line_one: str | None = None
    address_line_two: str | None = None
    city: str | None = None
    zip_code: str | None = None
    country: str | None = None
    country_code: str | None = None
    state: str | None = None
    state_code: str | None = None


class SavedCard(PaymentMethod, frozen=True, kw_only=True):
    """A card that was saved at the gateway, by its `instrument_id`; `channel` as for `Card`."""

    gateway_name: ClassVar[str] = "card"

    instrument_id: Secret
    card_cvv: Secret | None = None
    channel: Literal["link", "post"] | None = None


class CardEMI(_CardFields, frozen=True, kw_only=True):
    """A card payment in `emi_tenure` monthly instalments at the card's bank.

    `channel` left out is the first one of the payment's flow; without a flow, `link`.
    """

    gateway_name: ClassVar[str] = "emi"

    card_bank_name: str
    emi_tenure: int
    channel: Literal["link", "post"] | None = None


class UPIAuthorization(msgspec.Struct, frozen=True, omit_defaults=True):
    """The terms of a one-time mandate, over any channel; times are ISO 8601 with an offset."""

    approve_by: str | None = None
    start_time: str | None = None
    end_time: str | None = None


class UPI(PaymentMethod, frozen=True, kw_only=True):
    """UPI: `collect` asks the owner of `upi_id`, `link` opens an app, `qrcode` is scanned.

    `upi_expiry_minutes` is 5 to 15. `authorize_only` makes a one-time mandate that holds the
    money, over any of the three; `authorization` has its terms.
    """

    gateway_name: ClassVar[str] = "upi"

    channel: Literal["collect", "link", "qrcode"]
    upi_id: Secret | None = None
    upi_redirect_url: bool | None = None
    upi_expiry_minutes: int | None = None
    authorize_only: bool | None = None
    authorization: UPIAuthorization | None = None


class NetBanking(PaymentMethod, frozen=True, kw_only=True):
    """Net banking, by the bank's code or its name."""

    gateway_name: ClassVar[str] = "netbanking"

    netbanking_bank_code: int | None = None
    netbanking_bank_name: str | None = None
    channel: Literal["link"] | None = None


class Wallet(PaymentMethod, frozen=True, kw_only=True):
    """A wallet app, by provider and the customer's phone."""

    gateway_name: ClassVar[str] = "app"

    provider: str
    phone: Secret
    channel: str | None = None


class CardlessEMI(PaymentMethod, frozen=True, kw_only=True):
    """Instalments without a card."""

    gateway_name: ClassVar[str] = "cardless_emi"

    provider: str
    phone: Secret
    emi_tenure: int | None = None
    channel: Literal["link"] | None = None


class PayLater(PaymentMethod, frozen=True, kw_only=True):
    """Pay later with a provider, by the customer's phone."""

    gateway_name: ClassVar[str] = "paylater"

    provider: str
    phone: Secret
    channel: Literal["link"] | None = None


class BankTransfer(PaymentMethod, frozen=True, kw_only=True):
    """A transfer to an account that the answer names."""

    gateway_name: ClassVar[str] = "banktransfer"

    channel: Literal["link"] | None = None


def method_in(given: Sealed[PaymentMethod]) -> PaymentMethod:
    """Return what a caller passed as method, sealed: raises `InvalidInput` where it is none."""
    if not isinstance(given.reveal(), PaymentMethod):
        raise InvalidInput("method must be one of cfflow's, such as Card or UPI")
    return given.reveal()


def with_channel(method: PaymentMethod, flow: Flow) -> PaymentMethod:
    """Return the method with the flow's own channel, where the caller left the channel out."""
    channels = flow.channels_of(method.gateway_name)
    if not channels or getattr(method, "channel", "") is not None:
        return method
    return msgspec.structs.replace(method, channel=channels[0])


def pay_body(
    session: Sealed[str],
    method: PaymentMethod,
    *,
    save_instrument: bool | None = None,
    offer_id: str | None = None,
) -> Sealed[bytes]:
    """Return the body of a pay, sealed; raises `InvalidInput` for a value that JSON cannot hold.

    Made before the operation is stored: a body that cannot be sent must not block a payment.
    """
    return json_body(
        Sealed(
            {
                "payment_session_id": session.reveal(),
                "payment_method": method.body(),
                "save_instrument": save_instrument,
                "offer_id": offer_id,
            }
        )
    )
