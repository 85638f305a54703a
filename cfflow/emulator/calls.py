"""The gateway's calls (gateway.md#calls): the route of each, and its handler at the bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cfflow.emulator import wire
from cfflow.emulator.bank import Bank
from cfflow.emulator.records import Account
from cfflow.emulator.refusals import Refused, not_found, unauthenticated
from cfflow.emulator.request_fields import AUTHENTICATE, SIMULATE

# A session or a payment id is enough to pay or to submit an OTP (gateway.md#hosts).
WITHOUT_CREDENTIALS = frozenset({"pay", "authenticate"})
# The calls that honour an idempotency key (gateway.md#idempotency).
WITH_IDEMPOTENCY = frozenset({"create_order", "authorize", "simulate", "pay", "authenticate"})


@dataclass(frozen=True, slots=True)
class Incoming:
    """One call. ids: the variable parts of its path, in order."""

    call: str
    ids: tuple[str, ...]
    version: str
    account: Account | None
    body: Mapping[str, Any]
    base_url: str

    @property
    def merchant(self) -> Account:
        """The account that calls. Raises `Refused` (401) if there is none."""
        if self.account is None:
            raise unauthenticated()
        return self.account


def route(method: str, path: str) -> tuple[str, tuple[str, ...]]:
    """Return the call and the ids of a method and a path below /pg. Raises `Refused` (404)."""
    parts = path.strip("/").split("/")
    found = None
    if method == "GET":
        found = _get(parts)
    elif method == "POST":
        found = _post(parts)
    elif method == "PATCH":
        found = _patch(parts)
    if found is None:
        raise not_found("request_failed", "no call of the gateway has this address")
    return found


def _get(parts: list[str]) -> tuple[str, tuple[str, ...]] | None:
    match parts:
        case ("orders", order):
            return "fetch_order", (order,)
        case ("orders", order, "payments"):
            return "fetch_payments", (order,)
        case ("orders", order, "payments", payment):
            return "fetch_payment", (order, payment)
        case ("simulate", simulation):
            return "fetch_simulation", (simulation,)
    return None


def _post(parts: list[str]) -> tuple[str, tuple[str, ...]] | None:
    match parts:
        case ("orders",):
            return "create_order", ()
        case ("orders", "sessions"):
            return "pay", ()
        case ("orders", "pay", "authenticate", payment):
            return "authenticate", (payment,)
        case ("orders", order, "authorization"):
            return "authorize", (order,)
        case ("simulate",):
            return "simulate", ()
    return None


def _patch(parts: list[str]) -> tuple[str, tuple[str, ...]] | None:
    match parts:
        case ("orders", order):
            return "terminate_order", (order,)
    return None


def order_of(bank: Bank, incoming: Incoming) -> str | None:
    """Return the order id of a call, or None if it names no known order."""
    body = incoming.body
    match incoming.call:
        case "create_order":
            order_id = body.get("order_id")
            return order_id if isinstance(order_id, str) else None
        case "pay":
            return bank.order_id_of_session(body.get("payment_session_id"))
        case "authenticate":
            return bank.order_id_of_payment(incoming.ids[0])
        case "simulate":
            return bank.order_id_of_payment(body.get("entity_id"))
        case "fetch_simulation":
            return None
    return incoming.ids[0]


def perform(bank: Bank, incoming: Incoming, now_s: float) -> tuple[int, bytes]:
    """Carry out a call and return its status and JSON. It never raises `Refused`."""
    try:
        return 200, wire.encode(_HANDLERS[incoming.call](bank, incoming, now_s))
    except Refused as refusal:
        return refusal.status, refusal_body(refusal)


def refusal_body(refusal: Refused) -> bytes:
    """Return the JSON of a refusal."""
    return wire.encode(wire.error(refusal.code, refusal.message, refusal.type, refusal.help))


def _create_order(bank: Bank, incoming: Incoming, now_s: float) -> object:
    order = bank.create_order(incoming.merchant, incoming.body, now_s)
    return wire.order(order, bank.session_of(order), incoming.version, now_s)


def _fetch_order(bank: Bank, incoming: Incoming, now_s: float) -> object:
    order = bank.fetch_order(incoming.merchant, incoming.ids[0], now_s)
    return wire.order(order, bank.session_of(order), incoming.version, now_s)


def _terminate_order(bank: Bank, incoming: Incoming, now_s: float) -> object:
    status = incoming.body.get("order_status")
    order = bank.terminate_order(incoming.merchant, incoming.ids[0], status, now_s)
    return wire.order(order, bank.session_of(order), incoming.version, now_s)


def _pay(bank: Bank, incoming: Incoming, now_s: float) -> object:
    body = incoming.body
    attempt = bank.pay(
        body.get("payment_session_id"),
        body.get("payment_method"),
        now_s,
        save_instrument=body.get("save_instrument"),
        offer_id=body.get("offer_id"),
    )
    return wire.pay_response(attempt, incoming.version, incoming.base_url)


def _authenticate(bank: Bank, incoming: Incoming, now_s: float) -> object:
    payment = incoming.ids[0]
    if AUTHENTICATE["action"].read(incoming.body) == "SUBMIT_OTP":
        result = bank.submit_otp(payment, incoming.body.get("otp"), now_s)
    else:
        result = bank.resend_otp(payment, now_s)
    return wire.otp_response(result, incoming.version)


def _authorize(bank: Bank, incoming: Incoming, now_s: float) -> object:
    action, amount = incoming.body.get("action"), incoming.body.get("amount")
    attempt = bank.authorize(incoming.merchant, incoming.ids[0], action, amount, now_s)
    return wire.payment(attempt, incoming.version)


def _fetch_payment(bank: Bank, incoming: Incoming, now_s: float) -> object:
    order_id, payment = incoming.ids
    attempt = bank.fetch_payment(incoming.merchant, order_id, payment, now_s)
    return wire.payment(attempt, incoming.version)


def _fetch_payments(bank: Bank, incoming: Incoming, now_s: float) -> object:
    attempts = bank.fetch_payments(incoming.merchant, incoming.ids[0], now_s)
    return [wire.payment(attempt, incoming.version) for attempt in attempts]


def _simulate(bank: Bank, incoming: Incoming, now_s: float) -> object:
    body = incoming.body
    SIMULATE["entity"].read(body)
    forced = SIMULATE["entity_simulation"].read(body)
    status, error = forced.get("payment_status"), forced.get("payment_error_code")
    done = bank.simulate(incoming.merchant, body.get("entity_id"), status, error, now_s)
    return wire.simulation(done)


def _fetch_simulation(bank: Bank, incoming: Incoming, now_s: float) -> object:
    return wire.simulation(bank.fetch_simulation(incoming.merchant, incoming.ids[0], now_s))


_HANDLERS: Mapping[str, Callable[[Bank, Incoming, float], object]] = {
    "create_order": _create_order,
    "fetch_order": _fetch_order,
    "terminate_order": _terminate_order,
    "pay": _pay,
    "authenticate": _authenticate,
    "authorize": _authorize,
    "fetch_payment": _fetch_payment,
    "fetch_payments": _fetch_payments,
    "simulate": _simulate,
    "fetch_simulation": _fetch_simulation,
}
