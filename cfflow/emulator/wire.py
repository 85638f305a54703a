"""The bank's records as the gateway's JSON, in one API version (gateway.md#hosts).

Version 2022-09-01 has payment and order numbers as JSON numbers, later versions as strings.
Amounts are JSON numbers with two decimals, times ISO 8601 in Indian time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from cfflow.emulator.clock import IST
from cfflow.emulator.records import Attempt, LedgerEntry, Order, OtpResult, Simulation
from cfflow.emulator.versions import OLDEST_VERSION

Json = dict[str, Any]

encode = msgspec.json.Encoder(decimal_format="number").encode

FORM = "application/x-www-form-urlencoded"
UPI_APPS = {
    "bhim": "bhim://upi/pay",
    "default": "upi://pay",
    "gpay": "tez://upi/pay",
    "paytm": "paytmmp://upi/pay",
    "phonepe": "phonepe://pay",
}
# One white pixel in the format of a QR image; there is nothing to scan.
QR_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mP8/x8A"
    "AwMCAO+ip1sAAAAASUVORK5CYII="
)


def pay_response(attempt: Attempt, version: str, base_url: str) -> Json:
    """Return the response to a pay: its `action` and the data of the customer's next step."""
    method = attempt.method
    return {
        # The gateway's schema has no value for card EMI in this field; it is a card.
        "payment_method": "card" if method.name == "emi" else method.name,
        "channel": method.channel,
        "action": method.action,
        "cf_payment_id": number(attempt.cf_payment_id, version),
        "payment_amount": attempt.amount,
        "data": _pay_data(attempt, base_url),
    }


def _pay_data(attempt: Attempt, base_url: str) -> Json:
    method = attempt.method
    if method.action == "post":
        way_out = f"{base_url}/view/redirecttobank/{attempt.page_token}"
        return _data() | {"redirect_to_bank": way_out}
    if method.action == "custom":
        return _data(payload=_custom_payload(attempt, base_url))
    page = f"{base_url}/view/gateway/{attempt.page_token}"
    payload = {"name": method.name}
    if method.action == "form":
        payload["PaReq"] = attempt.page_token
    return _data(page, payload, FORM, "post")


def _data(
    url: str | None = None,
    payload: Json | None = None,
    content_type: str | None = None,
    method: str | None = None,
) -> Json:
    return {"url": url, "payload": payload, "content_type": content_type, "method": method}


def _custom_payload(attempt: Attempt, base_url: str) -> Json:
    if attempt.method.name == "banktransfer":
        return {
            "account_number": f"9{attempt.cf_payment_id:015d}",
            "ifsc": "TEST0000001",
            "beneficiary_name": "cfflow emulator",
        }
    if attempt.method.channel == "collect":
        return {}
    if attempt.method.channel == "qrcode":
        return {"qrcode": QR_IMAGE}
    query = urlencode({"pa": "cfflow@gocash", "tr": attempt.cf_payment_id, "am": attempt.amount})
    links = {app: f"{address}?{query}&cu=INR" for app, address in UPI_APPS.items()}
    return links | {"web": f"{base_url}/view/gateway/{attempt.page_token}"}


def payment(attempt: Attempt, version: str) -> Json:
    """Return the payment entity of fetch and authorize."""
    order = attempt.order
    entity: Json = {
        "cf_payment_id": number(attempt.cf_payment_id, version),
        "order_id": order.order_id,
        "entity": "payment",
        "payment_currency": order.currency,
        "error_details": _error_details(attempt),
        "order_amount": order.amount,
        "is_captured": _is_captured(attempt),
        "payment_group": attempt.method.group,
        "authorization": _authorization(attempt, version),
        "payment_method": _shown(attempt),
        "payment_amount": attempt.amount,
        "payment_time": timestamp(attempt.created_at_s),
        "payment_completion_time": _optional_timestamp(attempt.completed_at_s),
        "payment_status": attempt.status,
        "payment_message": attempt.message,
        "bank_reference": attempt.bank_reference,
        "auth_id": attempt.bank_reference and f"A{attempt.bank_reference[:6]}",
    }
    if version != OLDEST_VERSION:
        entity["order_currency"] = order.currency
        entity["payment_gateway_details"] = {"gateway_name": "CASHFREE"}
    return entity


def _shown(attempt: Attempt) -> Mapping[str, Any]:
    """Return the method as it is shown, with the id of a card that this payment saved."""
    shown = attempt.method.shown
    if attempt.instrument_id is None or not attempt.succeeded:
        return shown
    return {
        name: {**fields, "instrument_id": attempt.instrument_id} for name, fields in shown.items()
    }


def _is_captured(attempt: Attempt) -> bool:
    # True for a failed sale too, as on the gateway's reference page: alone, it proves nothing
    # (gateway.md#fetch).
    return attempt.captured_amount is not None or (attempt.status == "FAILED" and not attempt.holds)


def _error_details(attempt: Attempt) -> Json | None:
    failure = attempt.failure
    if failure is None:
        return None
    return {
        "error_code": failure.code,
        "error_description": failure.description,
        "error_reason": failure.reason,
        "error_source": failure.source,
        "error_code_raw": failure.raw_code,
        "error_description_raw": failure.raw_description,
    }


def _authorization(attempt: Attempt, version: str) -> Json | None:
    action, mandate = attempt.hold_action, attempt.method.mandate
    if action is None and mandate is None:
        return None
    return {
        "action": action and action.action,
        "status": action and action.status,
        "captured_amount": action and action.amount,
        "start_time": mandate and timestamp(mandate.start_at_s),
        "end_time": mandate and timestamp(mandate.end_at_s),
        "approve_by": mandate and timestamp(mandate.approve_by_s),
        "action_reference": action and action.reference,
        "action_time": action and _action_time(action.at_s, version),
    }


def _action_time(at_s: float, version: str) -> str:
    # The reference page's example lacks the offset only here (gateway.md#late-money).
    text = timestamp(at_s)
    return text.removesuffix("+05:30") if version == OLDEST_VERSION else text


def otp_response(result: OtpResult, version: str) -> Json:
    """Return the response to a submitted or resent OTP."""
    return {
        "cf_payment_id": number(result.attempt.cf_payment_id, version),
        "authenticate_status": result.status,
        "action": result.action,
        "payment_message": result.message,
    }


def order(found: Order, session_id: str, version: str, now_s: float) -> Json:
    """Return the order entity. It includes the session, which is a secret."""
    return {
        "cf_order_id": number(found.number, version),
        "order_id": found.order_id,
        "entity": "order",
        "order_currency": found.currency,
        "order_amount": found.amount,
        "order_status": found.status(now_s),
        "payment_session_id": session_id,
        "order_expiry_time": timestamp(found.expires_at_s),
        "order_note": found.note,
        "created_at": timestamp(found.created_at_s),
        "order_splits": [],
        "customer_details": found.customer,
        "order_meta": found.meta,
        "order_tags": found.tags,
    }


def simulation(done: Simulation) -> Json:
    """Return the entity of simulate and its fetch."""
    forced = {
        "payment_status": done.payment_status,
        "payment_error_code": done.payment_error_code,
    }
    return {
        "simulation_id": done.simulation_id,
        "entity": "PAYMENTS",
        "entity_id": done.cf_payment_id,
        "entity_simulation": forced,
    }


def ledger_entry(entry: LedgerEntry) -> Json:
    """Return one effect for the ledger of the emulator's own API."""
    return {
        "effect": entry.effect,
        "order_id": entry.order_id,
        "cf_payment_id": entry.cf_payment_id,
        "amount": entry.amount,
        "at": timestamp(entry.at),
    }


def error(code: str, message: str, type_: str, help_: str | None = None) -> Json:
    """Return the body of an error (gateway.md#errors)."""
    body = {"message": message, "code": code, "type": type_}
    return body if help_ is None else {**body, "help": help_}


def number(value: int, version: str) -> int | str:
    """Return one of the gateway's ids: a number in the oldest version, a string in later ones."""
    return value if version == OLDEST_VERSION else str(value)


def timestamp(at_s: float) -> str:
    """Return seconds since the epoch as ISO 8601 in Indian time, to the second."""
    return datetime.fromtimestamp(at_s, IST).isoformat(timespec="seconds")


def _optional_timestamp(at_s: float | None) -> str | None:
    return None if at_s is None else timestamp(at_s)
