"""Payment methods: reads the method of a pay request (gateway.md#methods).

A method is validated before an attempt is created, so a refused one leaves no attempt. The
result is a `Method`, without data that must not be kept. Cards are in `cards`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from cfflow.emulator.cards import Fields, Terms, read_card, read_emi
from cfflow.emulator.records import BankOptions, Mandate, Method, Script
from cfflow.emulator.refusals import invalid, not_enabled
from cfflow.emulator.request_fields import (
    BANKTRANSFER,
    MANDATE,
    METHODS,
    NETBANKING,
    PAY,
    UPI,
)

# The first two are test ids of the gateway, the others belong to the emulator.
UPI_SCRIPTS: Mapping[str, Script] = {
    "testsuccess@gocash": "approve",
    "testfailure@gocash": "decline",
    "testdropped@gocash": "leave",
    "testlate@gocash": "late",
    "testpending@gocash": "never",
}
# Well formed, but no bank has this id.
UPI_UNKNOWN = "testinvalid@gocash"
BANKS: Mapping[int, tuple[str, str]] = {
    3010: ("DCBBR", "DCB Bank"),
    3333: ("TESTR", "Test Bank"),
}
MANDATE_S = 7 * 86400.0
APPROVE_S = 300.0
UPI_EXPIRY_MINUTES = 5.0


def read_method(payment_method: object, terms: Terms) -> Method:
    """Return the validated payment method of a pay request.

    It must name exactly one method, and the account must have it enabled. Raises `Refused`
    (400) with the gateway's code.
    """
    named = PAY["payment_method"].check(payment_method)
    present = [name for name, value in named.items() if value is not None]
    if len(present) != 1:
        raise invalid("payment_method_invalid", "payment_method : should name one method")
    reader = READERS.get(present[0])
    if reader is None:
        raise invalid("payment_method_unsupported", "payment_method : is not supported")
    if present[0] in terms.options.methods_not_enabled:
        raise not_enabled("payment_method : is not enabled for this account")
    fields = named[present[0]]
    if not isinstance(fields, Mapping):
        message = f"payment_method.{present[0]} : should be an object"
        raise invalid("payment_method_invalid", message)
    return reader(fields, terms)


# --- UPI -------------------------------------------------------------------------------


def _upi(fields: Fields, terms: Terms) -> Method:
    channel = UPI["channel"].read(fields)
    shown: dict[str, Any] = {"channel": channel}
    if channel == "collect":
        shown["upi_id"] = _upi_id(fields)
    minutes = float(UPI["upi_expiry_minutes"].read(fields) or UPI_EXPIRY_MINUTES)
    mandate = _mandate(fields, terms.now_s) if UPI["authorize_only"].read(fields) else None
    script = UPI_SCRIPTS.get(shown.get("upi_id", ""))
    deadline_at_s = mandate.approve_by_s if mandate else terms.now_s + minutes * 60
    return Method("upi", channel, "custom", "upi", {"upi": shown}, script, mandate, deadline_at_s)


def _upi_id(fields: Fields) -> str:
    upi_id: str = UPI["upi_id"].read(fields)
    if upi_id == UPI_UNKNOWN:
        raise UPI["upi_id"].error()
    return upi_id


def _mandate(fields: Fields, now_s: float) -> Mandate:
    times = UPI["authorization"].check(fields.get("authorization") or {})
    approve_by_s, start, end = (field.read(times) for field in MANDATE)
    start = now_s if start is None else start
    mandate = Mandate(
        now_s + APPROVE_S if approve_by_s is None else approve_by_s,
        start,
        start + MANDATE_S if end is None else end,
    )
    if mandate.end_at_s <= max(mandate.start_at_s, now_s):
        raise MANDATE["end_time"].error("should lie ahead, after start_time")
    if mandate.approve_by_s <= now_s:
        raise MANDATE["approve_by"].error("should lie ahead")
    return mandate


# --- methods that redirect the customer ------------------------------------------------


def _netbanking(fields: Fields, terms: Terms) -> Method:
    NETBANKING["channel"].read(fields)
    code, name = fields.get("netbanking_bank_code"), fields.get("netbanking_bank_name")
    if code is None and name is not None:
        NETBANKING["netbanking_bank_name"].check(name)
        code = next((number for number, bank in BANKS.items() if bank[0] == name), 3333)
    code = NETBANKING["netbanking_bank_code"].check(code)
    title = BANKS[code][1] if code in BANKS else f"Bank {code}"
    shown = {"channel": "link", "netbanking_bank_code": code, "netbanking_bank_name": title}
    return _redirected("netbanking", "net_banking", shown, terms.options)


def _provided(name: str, group: str) -> Callable[[Fields, Terms], Method]:
    """Return the reader of a method with a provider and a phone number."""
    shape = METHODS[name]

    def read(fields: Fields, terms: Terms) -> Method:
        shown = {field: shape[field].read(fields) for field in ("channel", "provider", "phone")}
        if name == "cardless_emi":
            shape["emi_tenure"].read_optional(fields)
        return _redirected(name, group, shown, terms.options)

    return read


def _redirected(name: str, group: str, shown: Fields, options: BankOptions) -> Method:
    action: Literal["form", "link"] = "form" if name in options.form_methods else "link"
    return Method(name, "link", action, group, {name: shown})


def _banktransfer(fields: Fields, terms: Terms) -> Method:
    BANKTRANSFER["channel"].read(fields)
    shown = {"channel": "link", "banktransfer_bank_name": "BANK_TRANSFER"}
    return Method("banktransfer", "link", "custom", "bank_transfer", {"banktransfer": shown})


READERS: Mapping[str, Callable[[Fields, Terms], Method]] = {
    "card": read_card,
    "emi": read_emi,
    "upi": _upi,
    "netbanking": _netbanking,
    "app": _provided("app", "wallet"),
    "cardless_emi": _provided("cardless_emi", "cardless_emi"),
    "paylater": _provided("paylater", "pay_later"),
    "banktransfer": _banktransfer,
}
