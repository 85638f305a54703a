"""Payment methods: what the gateway accepts of each, and how each of them answers.

Validation happens before an attempt exists, so a refused method leaves no trace. What
comes out is a `Method`: the card is down to its last four digits, and CVV, expiry and
cryptogram are gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal

from cfflow.emulator import checks
from cfflow.emulator.records import BankOptions, Mandate, Method
from cfflow.emulator.refusals import Refused, invalid

Fields = Mapping[str, Any]

# The gateway's test cards: network and type decide the payment group.
TEST_CARDS: Mapping[str, tuple[str, str]] = {
    "4111111111111111": ("visa", "credit_card"),
    "4706131211212123": ("visa", "debit_card"),
    "4576238912771450": ("visa", "credit_card"),
    "5409162669381034": ("mastercard", "debit_card"),
    "5105105105105100": ("mastercard", "credit_card"),
    "6074825972083818": ("rupay", "debit_card"),
}
NETWORKS: Mapping[str, str] = {"3": "amex", "4": "visa", "5": "mastercard", "6": "rupay"}
UPI_SCRIPTS: Mapping[str, Literal["approve", "decline"]] = {
    "testsuccess@gocash": "approve",
    "testfailure@gocash": "decline",
}
BANKS: Mapping[int, tuple[str, str]] = {
    3010: ("DCBBR", "DCB Bank"),
    3333: ("TESTR", "Test Bank"),
}
WALLETS = frozenset(
    {
        "gpay",
        "phonepe",
        "ola",
        "paytm",
        "amazon",
        "airtel",
        "freecharge",
        "mobikwik",
        "jio",
        "jiomoney",
    }
)
CARDLESS_EMI = frozenset(
    {"flexmoney", "zestmoney", "hdfc", "icici", "cashe", "idfc", "kotak", "snapmint", "bharatx"}
)
PAY_LATER = frozenset(
    {"kotak", "flexipay", "zestmoney", "lazypay", "olapostpaid", "simpl", "freechargepaylater"}
)

MANDATE_S = 7 * 86400.0
APPROVE_S = 300.0

_CARD_NUMBER = re.compile(r"[0-9]{12,19}")
_CVV = re.compile(r"[0-9]{3,4}")
_MONTH = re.compile(r"0[1-9]|1[0-2]")
_YEAR = re.compile(r"[0-9]{2}")
_UPI_ID = re.compile(r"[A-Za-z0-9._-]{2,}@[A-Za-z0-9.-]{2,}")
_BANK_NAME = re.compile(r"[A-Z]{5}")


def read_method(payment_method: object, options: BankOptions, now: float) -> Method:
    """The payment method of a pay request, validated.

    Raises `Refused` (400) with the gateway's code. Exactly one method must be named.
    """
    named = checks.mapping(payment_method, code="payment_method_invalid", name="payment_method")
    present = [name for name, value in named.items() if value is not None]
    if len(present) != 1:
        raise invalid("payment_method_invalid", "payment_method : should name one method")
    reader = READERS.get(present[0])
    if reader is None:
        raise invalid("payment_method_unsupported", "payment_method : is not supported")
    fields = checks.mapping(
        named[present[0]], code="payment_method_invalid", name=f"payment_method.{present[0]}"
    )
    return reader(fields, options, now)


def _channel(fields: Fields, *allowed: str) -> str:
    channel = fields.get("channel")
    if channel is None or channel == "":
        raise invalid("channel_missing", "channel : is missing in the request")
    if channel not in allowed:
        raise invalid("channel_invalid", f"channel : should be one of {', '.join(allowed)}")
    return str(channel)


# --- cards -----------------------------------------------------------------------------


def _card(fields: Fields, options: BankOptions, now: float) -> Method:
    channel = _channel(fields, "link", "post")
    number, shown = _card_identity(fields)
    network, kind = card_kind(number)
    shown = {"channel": channel, **shown, "card_network": network, "card_type": kind}
    action = _card_action(channel, number, options)
    return Method("card", channel, action, kind, {"card": _with_bank(shown)})


def _emi(fields: Fields, options: BankOptions, now: float) -> Method:
    channel = _channel(fields, "link", "post")
    number, shown = _plain_card(fields)
    if not isinstance(fields.get("card_bank_name"), str):
        raise invalid("card_bank_name_missing", "card_bank_name : is missing in the request")
    network, kind = card_kind(number)
    shown = {"channel": channel, **shown, "card_network": network, "card_type": kind}
    shown |= {"card_bank_name": fields["card_bank_name"], "emi_tenure": _tenure(fields)}
    action = _card_action(channel, number, options)
    return Method("emi", channel, action, f"{kind}_emi", {"emi": _with_bank(shown)})


def _card_identity(fields: Fields) -> tuple[str, dict[str, Any]]:
    """The number to look the card up by, and the masked form to keep."""
    if fields.get("instrument_id"):
        _cvv(fields, required=False)
        instrument = checks.text(
            fields["instrument_id"], code="instrument_id_invalid", name="instrument_id"
        )
        return "", {"card_number": "xxxxxx1111", "instrument_id": instrument}
    if fields.get("cryptogram"):
        return _network_token(fields)
    return _plain_card(fields)


def _plain_card(fields: Fields) -> tuple[str, dict[str, Any]]:
    number = _number(fields)
    _expiry(fields)
    _cvv(fields, required=True)
    return number, {"card_number": mask(number)}


def _network_token(fields: Fields) -> tuple[str, dict[str, Any]]:
    number = _number(fields)
    _expiry(fields)
    checks.text(
        fields.get("token_requestor_id"),
        code="token_requestor_id_missing",
        name="token_requestor_id",
    )
    display = fields.get("card_display")
    if not isinstance(display, str) or re.fullmatch(r"[0-9]{4}", display) is None:
        raise invalid("card_display_invalid", "card_display : should be four digits")
    return number, {"card_number": mask(display)}


def _number(fields: Fields) -> str:
    number = fields.get("card_number")
    if isinstance(number, str) and (number in TEST_CARDS or _is_card_number(number)):
        return number
    raise invalid("card_number_invalid", "card_number : is not a card number")


def _is_card_number(number: str) -> bool:
    return _CARD_NUMBER.fullmatch(number) is not None and luhn(number)


def _expiry(fields: Fields) -> None:
    # Only the form is checked: the gateway's own examples carry years that have passed.
    month, year = fields.get("card_expiry_mm"), fields.get("card_expiry_yy")
    if not isinstance(month, str) or _MONTH.fullmatch(month) is None:
        raise invalid("card_expiry_mm_invalid", "card_expiry_mm : should be 01 to 12")
    if not isinstance(year, str) or _YEAR.fullmatch(year) is None:
        raise invalid("card_expiry_yy_invalid", "card_expiry_yy : should be two digits")


def _cvv(fields: Fields, *, required: bool) -> None:
    cvv = fields.get("card_cvv")
    if cvv is None or cvv == "":
        if required:
            raise invalid("card_cvv_missing", "card_cvv : is missing in the request")
    elif not isinstance(cvv, str) or _CVV.fullmatch(cvv) is None:
        raise invalid("card_cvv_invalid", "card_cvv : should be three or four digits")


def _tenure(fields: Fields) -> int:
    tenure = fields.get("emi_tenure")
    if isinstance(tenure, bool) or not isinstance(tenure, int) or tenure <= 0:
        raise invalid("emi_tenure_missing", "emi_tenure : should be a number of months")
    return tenure


def _card_action(channel: str, number: str, options: BankOptions) -> Literal["post", "link"]:
    # Native OTP is best effort: a bank without it answers with its own page.
    if channel == "post" and number[:6] not in options.bins_without_otp:
        return "post"
    return "link"


def _with_bank(shown: dict[str, Any]) -> dict[str, Any]:
    return {"card_country": "IN", "card_bank_name": "TEST Bank", **shown}


def card_kind(number: str) -> tuple[str, str]:
    """Network and type of a card; one that is no test card counts as a credit card."""
    return TEST_CARDS.get(number) or (NETWORKS.get(number[:1], "visa"), "credit_card")


def mask(number: str) -> str:
    """The only form in which a card number is kept."""
    return f"xxxxxx{number[-4:]}"


def luhn(number: str) -> bool:
    """Whether the check digit of a card number is right."""
    doubled = (int(digit) * 2 for digit in number[-2::-2])
    total = sum(int(digit) for digit in number[-1::-2])
    return (total + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


# --- UPI -------------------------------------------------------------------------------


def _upi(fields: Fields, options: BankOptions, now: float) -> Method:
    channel = _channel(fields, "collect", "link", "qrcode")
    shown: dict[str, Any] = {"channel": channel}
    if channel == "collect":
        shown["upi_id"] = _upi_id(fields)
        _upi_expiry(fields)
    mandate = _mandate(fields, channel, now) if fields.get("authorize_only") else None
    script = UPI_SCRIPTS.get(shown.get("upi_id", ""))
    return Method("upi", channel, "custom", "upi", {"upi": shown}, script, mandate)


def _upi_id(fields: Fields) -> str:
    upi_id = fields.get("upi_id")
    if upi_id is None or upi_id == "":
        raise invalid("upi_id_missing", "upi_id : is missing in the request")
    if not isinstance(upi_id, str) or _UPI_ID.fullmatch(upi_id) is None:
        raise invalid("upi_id_invalid", "upi_id : is not a UPI id")
    return upi_id


def _upi_expiry(fields: Fields) -> None:
    minutes = fields.get("upi_expiry_minutes")
    if minutes is None:
        return
    number = isinstance(minutes, int | Decimal) and not isinstance(minutes, bool)
    if not number or not 5 <= minutes <= 15:
        raise invalid("upi_expiry_minutes_invalid", "upi_expiry_minutes : should be 5 to 15")


def _mandate(fields: Fields, channel: str, now: float) -> Mandate:
    if channel != "collect":
        raise invalid("payment_method_unsupported", "authorize_only : needs channel collect")
    code = "authorization_invalid"
    times = checks.mapping(fields.get("authorization") or {}, code=code, name="authorization")
    found = {
        name: checks.moment(times[name], code=code, name=f"authorization.{name}")
        for name in ("approve_by", "start_time", "end_time")
        if times.get(name) is not None
    }
    start = found.get("start_time", now)
    mandate = Mandate(
        found.get("approve_by", now + APPROVE_S), start, found.get("end_time", start + MANDATE_S)
    )
    if mandate.end_at <= max(mandate.start_at, now):
        raise invalid(code, "authorization.end_time : should lie ahead, after start_time")
    return mandate


# --- everything that leaves the merchant's page ----------------------------------------


def _netbanking(fields: Fields, options: BankOptions, now: float) -> Method:
    _channel(fields, "link")
    code, name = fields.get("netbanking_bank_code"), fields.get("netbanking_bank_name")
    if code is None and name is not None:
        if not isinstance(name, str) or _BANK_NAME.fullmatch(name) is None:
            raise _bank_invalid()
        code = next((number for number, bank in BANKS.items() if bank[0] == name), 3333)
    if isinstance(code, bool) or not isinstance(code, int) or not 1000 <= code <= 9999:
        raise _bank_invalid()
    title = BANKS[code][1] if code in BANKS else f"Bank {code}"
    shown = {"channel": "link", "netbanking_bank_code": code, "netbanking_bank_name": title}
    return _leaves("netbanking", "net_banking", shown, options)


def _bank_invalid() -> Refused:
    return invalid("netbanking_bank_code_invalid", "netbanking_bank_code : is not a bank code")


def _provided(
    name: str, group: str, providers: frozenset[str]
) -> Callable[[Fields, BankOptions, float], Method]:
    """The reader of a method that is a provider and a phone number."""

    def read(fields: Fields, options: BankOptions, now: float) -> Method:
        _channel(fields, "link")
        provider = fields.get("provider")
        if not isinstance(provider, str) or provider not in providers:
            raise invalid("payment_method_unsupported", "provider : is not supported")
        number = checks.phone(fields.get("phone"), name="phone")
        shown: dict[str, Any] = {"channel": "link", "provider": provider, "phone": number}
        if name == "cardless_emi" and fields.get("emi_tenure") is not None:
            shown["emi_tenure"] = _tenure(fields)
        return _leaves(name, group, shown, options)

    return read


def _leaves(name: str, group: str, shown: Fields, options: BankOptions) -> Method:
    action: Literal["form", "link"] = "form" if name in options.form_methods else "link"
    return Method(name, "link", action, group, {name: shown})


def _banktransfer(fields: Fields, options: BankOptions, now: float) -> Method:
    _channel(fields, "link")
    shown = {"channel": "link", "banktransfer_bank_name": "BANK_TRANSFER"}
    return Method("banktransfer", "link", "custom", "bank_transfer", {"banktransfer": shown})


READERS: Mapping[str, Callable[[Fields, BankOptions, float], Method]] = {
    "card": _card,
    "emi": _emi,
    "upi": _upi,
    "netbanking": _netbanking,
    "app": _provided("app", "wallet", WALLETS),
    "cardless_emi": _provided("cardless_emi", "cardless_emi", CARDLESS_EMI),
    "paylater": _provided("paylater", "pay_later", PAY_LATER),
    "banktransfer": _banktransfer,
}
