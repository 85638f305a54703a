"""Payment methods: what the gateway accepts of each, and how each of them answers.

Validation happens before an attempt exists, so a refused method leaves no trace. What
comes out is a `Method`, without anything that must not be kept. Cards are in `cards`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal

from cfflow.emulator import checks
from cfflow.emulator.cards import Fields, Terms, read_card, read_emi, tenure
from cfflow.emulator.records import BankOptions, Mandate, Method, Script
from cfflow.emulator.refusals import Refused, invalid, not_enabled

# The first two are the gateway's own; the others are ours, of the same form.
UPI_SCRIPTS: Mapping[str, Script] = {
    "testsuccess@gocash": "approve",
    "testfailure@gocash": "decline",
    "testdropped@gocash": "leave",
    "testlate@gocash": "late",
    "testpending@gocash": "never",
}
# Well formed, and known to no bank.
UPI_UNKNOWN = "testinvalid@gocash"
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
UPI_EXPIRY_MINUTES = 5.0

_UPI_ID = re.compile(r"[A-Za-z0-9._-]{2,256}@[A-Za-z0-9.-]{2,64}")
_BANK_NAME = re.compile(r"[A-Z]{5}")


def read_method(payment_method: object, terms: Terms) -> Method:
    """The payment method of a pay request, validated.

    Raises `Refused` (400) with the gateway's code. Exactly one method must be named, and
    the account must be allowed to use it.
    """
    named = checks.mapping(payment_method, code="payment_method_invalid", name="payment_method")
    present = [name for name, value in named.items() if value is not None]
    if len(present) != 1:
        raise invalid("payment_method_invalid", "payment_method : should name one method")
    reader = READERS.get(present[0])
    if reader is None:
        raise invalid("payment_method_unsupported", "payment_method : is not supported")
    if present[0] in terms.options.methods_not_enabled:
        raise not_enabled("payment_method : is not enabled for this account")
    fields = checks.mapping(
        named[present[0]], code="payment_method_invalid", name=f"payment_method.{present[0]}"
    )
    return reader(fields, terms)


# --- UPI -------------------------------------------------------------------------------


def _upi(fields: Fields, terms: Terms) -> Method:
    channel = checks.channel(fields, "collect", "link", "qrcode")
    shown: dict[str, Any] = {"channel": channel}
    if channel == "collect":
        shown["upi_id"] = _upi_id(fields)
    minutes = _upi_expiry_minutes(fields)
    mandate = None
    if checks.flag(fields.get("authorize_only"), name="authorize_only"):
        mandate = _mandate(fields, terms.now)
    script = UPI_SCRIPTS.get(shown.get("upi_id", ""))
    answer_by = mandate.approve_by if mandate else terms.now + minutes * 60
    return Method("upi", channel, "custom", "upi", {"upi": shown}, script, mandate, answer_by)


def _upi_id(fields: Fields) -> str:
    upi_id = fields.get("upi_id")
    if upi_id is None or upi_id == "":
        raise invalid("upi_id_missing", "upi_id : is missing in the request")
    well_formed = isinstance(upi_id, str) and _UPI_ID.fullmatch(upi_id) is not None
    if not well_formed or upi_id == UPI_UNKNOWN:
        raise invalid("upi_id_invalid", "upi_id : is not a UPI id")
    return str(upi_id)


def _upi_expiry_minutes(fields: Fields) -> float:
    minutes = fields.get("upi_expiry_minutes")
    if minutes is None:
        return UPI_EXPIRY_MINUTES
    number = isinstance(minutes, int | Decimal) and not isinstance(minutes, bool)
    if not number or not 5 <= minutes <= 15:
        raise invalid("upi_expiry_minutes_invalid", "upi_expiry_minutes : should be 5 to 15")
    return float(minutes)


def _mandate(fields: Fields, now: float) -> Mandate:
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
    if mandate.approve_by <= now:
        raise invalid(code, "authorization.approve_by : should lie ahead")
    return mandate


# --- everything that leaves the merchant's page ----------------------------------------


def _netbanking(fields: Fields, terms: Terms) -> Method:
    checks.channel(fields, "link")
    code, name = fields.get("netbanking_bank_code"), fields.get("netbanking_bank_name")
    if code is None and name is not None:
        if not isinstance(name, str) or _BANK_NAME.fullmatch(name) is None:
            raise _bank_invalid()
        code = next((number for number, bank in BANKS.items() if bank[0] == name), 3333)
    if isinstance(code, bool) or not isinstance(code, int) or not 1000 <= code <= 9999:
        raise _bank_invalid()
    title = BANKS[code][1] if code in BANKS else f"Bank {code}"
    shown = {"channel": "link", "netbanking_bank_code": code, "netbanking_bank_name": title}
    return _leaves("netbanking", "net_banking", shown, terms.options)


def _bank_invalid() -> Refused:
    return invalid("netbanking_bank_code_invalid", "netbanking_bank_code : is not a bank code")


def _provided(
    name: str, group: str, providers: frozenset[str]
) -> Callable[[Fields, Terms], Method]:
    """The reader of a method that is a provider and a phone number."""

    def read(fields: Fields, terms: Terms) -> Method:
        checks.channel(fields, "link")
        provider = fields.get("provider")
        if not isinstance(provider, str) or provider not in providers:
            raise invalid("payment_method_unsupported", "provider : is not supported")
        number = checks.phone(fields.get("phone"), name="phone")
        shown: dict[str, Any] = {"channel": "link", "provider": provider, "phone": number}
        if name == "cardless_emi" and fields.get("emi_tenure") is not None:
            tenure(fields)
        return _leaves(name, group, shown, terms.options)

    return read


def _leaves(name: str, group: str, shown: Fields, options: BankOptions) -> Method:
    action: Literal["form", "link"] = "form" if name in options.form_methods else "link"
    return Method(name, "link", action, group, {name: shown})


def _banktransfer(fields: Fields, terms: Terms) -> Method:
    checks.channel(fields, "link")
    shown = {"channel": "link", "banktransfer_bank_name": "BANK_TRANSFER"}
    return Method("banktransfer", "link", "custom", "bank_transfer", {"banktransfer": shown})


READERS: Mapping[str, Callable[[Fields, Terms], Method]] = {
    "card": read_card,
    "emi": read_emi,
    "upi": _upi,
    "netbanking": _netbanking,
    "app": _provided("app", "wallet", WALLETS),
    "cardless_emi": _provided("cardless_emi", "cardless_emi", CARDLESS_EMI),
    "paylater": _provided("paylater", "pay_later", PAY_LATER),
    "banktransfer": _banktransfer,
}
