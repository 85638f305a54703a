"""The responses of the gateway's calls as JSON Schemas.

They permit no other fields, so that a contract test finds a field that is not documented.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import get_args

from cfflow.emulator.records import OrderStatus, Status
from cfflow.emulator.request_fields import PAYMENT_METHODS, SIMULATED_STATUSES
from cfflow.emulator.schemas import (
    AMOUNT,
    BANK_CODE,
    CARD_CHANNEL,
    CURRENCY,
    CUSTOMER_ID,
    LINK,
    NULL,
    ORDER_ID,
    PHONE,
    SOME_TEXT,
    TEXT,
    UPI_CHANNEL,
    Schema,
)
from cfflow.emulator.versions import OLDEST_VERSION
from cfflow.emulator.wire import FORM

# Every payment group of the gateway, also those that the emulator never uses.
GROUPS = sorted({group for groups in PAYMENT_METHODS.values() for group in groups})
TIME: Schema = {
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+05:30$",
    "description": "ISO 8601 in Indian time",
}
URL: Schema = {"type": "string", "pattern": "^https?://"}


def responses(version: str | None) -> dict[str, Schema]:
    """Return every response schema by name, for one API version or for all of them."""
    number = _number(version)
    return {
        "Order": _order(number),
        "PayAnswer": {"oneOf": [_pay_response(number, action) for action in _PAY_DATA]},
        "OtpAnswer": _otp_response(number),
        "Payment": _payment(number, version),
        "Payments": {"type": "array", "items": ref("Payment")},
        "Simulation": _simulation(),
    }


def ref(name: str) -> Schema:
    """Return a reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: Mapping[str, Schema], optional: Collection[str] = ()) -> Schema:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def error(types: Collection[str], codes: Collection[str] = ()) -> Schema:
    """Return the schema of an error body with one of these types and codes."""
    code = {"type": "string", "enum": sorted(codes)} if codes else SOME_TEXT
    kind = {"type": "string", "enum": sorted(types)}
    return closed(
        {"message": SOME_TEXT, "code": code, "type": kind, "help": SOME_TEXT}, optional=("help",)
    )


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _number(version: str | None) -> Schema:
    """Return the schema of a gateway id: a number in the oldest version, digits in later ones."""
    as_number: Schema = {"type": "integer", "minimum": 1}
    as_text: Schema = {"type": "string", "pattern": "^[0-9]+$"}
    if version is None:
        return {"anyOf": [as_number, as_text]}
    return as_number if version == OLDEST_VERSION else as_text


# --- schemas ---------------------------------------------------------------------------


def _order(number: Schema) -> Schema:
    texts = ("customer_name", "customer_email", "customer_uid")
    bank = ("customer_bank_account_number", "customer_bank_ifsc")
    customer = {
        "customer_id": CUSTOMER_ID,
        "customer_phone": PHONE,
        **{name: _nullable(TEXT) for name in (*texts, *bank)},
    }
    meta = {
        "return_url": _nullable(URL),
        "notify_url": _nullable(URL),
        "payment_methods": _nullable(TEXT),
    }
    return closed(
        {
            "cf_order_id": number,
            "order_id": ORDER_ID,
            "entity": {"const": "order"},
            "order_currency": CURRENCY,
            "order_amount": AMOUNT,
            "order_status": {"type": "string", "enum": list(get_args(OrderStatus))},
            "payment_session_id": {"type": "string", "pattern": "^session_"},
            "order_expiry_time": TIME,
            "order_note": _nullable(TEXT),
            "created_at": TIME,
            "order_splits": {"type": "array", "maxItems": 0},
            "customer_details": closed(customer),
            "order_meta": closed(meta),
            "order_tags": _nullable({"type": "object", "additionalProperties": TEXT}),
        }
    )


_NO_PAGE = {"url": NULL, "content_type": NULL, "method": NULL}
_PAGE = {"url": URL, "content_type": {"const": FORM}, "method": {"const": "post"}}
_UPI_LINKS = ("bhim", "default", "gpay", "paytm", "phonepe", "web")
_PAYLOADS: list[Schema] = [
    closed({}),
    closed({"qrcode": {"type": "string", "pattern": "^data:image/"}}),
    closed(dict.fromkeys(_UPI_LINKS, SOME_TEXT)),
    closed(dict.fromkeys(("account_number", "ifsc", "beneficiary_name"), SOME_TEXT)),
]
# `data` of a pay response by its action: what the customer's next step needs.
_PAY_DATA: Mapping[str, Schema] = {
    "post": closed({**_NO_PAGE, "payload": NULL, "redirect_to_bank": URL}),
    "link": closed({**_PAGE, "payload": closed({"name": SOME_TEXT})}),
    "form": closed({**_PAGE, "payload": closed({"name": SOME_TEXT, "PaReq": SOME_TEXT})}),
    "custom": closed({**_NO_PAGE, "payload": {"oneOf": _PAYLOADS}}),
}


def _pay_response(number: Schema, action: str) -> Schema:
    methods = ("netbanking", "card", "upi", "app", "cardless_emi", "paylater", "banktransfer")
    return closed(
        {
            "payment_method": {"type": "string", "enum": list(methods)},
            "channel": {"type": "string", "enum": ["link", "collect", "qrcode", "post"]},
            "action": {"const": action},
            "cf_payment_id": number,
            "payment_amount": AMOUNT,
            "data": _PAY_DATA[action],
        }
    )


def _otp_response(number: Schema) -> Schema:
    return closed(
        {
            "cf_payment_id": number,
            "authenticate_status": {"type": "string", "enum": ["SUCCESS", "FAILED"]},
            "action": {"type": "string", "enum": ["SUBMIT_OTP", "RESEND_OTP"]},
            "payment_message": SOME_TEXT,
        }
    )


def _payment(number: Schema, version: str | None) -> Schema:
    later = {
        "order_currency": SOME_TEXT,
        "payment_gateway_details": closed({"gateway_name": SOME_TEXT}),
    }
    fields = {
        "cf_payment_id": number,
        "order_id": ORDER_ID,
        "entity": {"const": "payment"},
        "payment_currency": SOME_TEXT,
        "error_details": _nullable(_error_details()),
        "order_amount": AMOUNT,
        "is_captured": {"type": "boolean"},
        "payment_group": {"type": "string", "enum": GROUPS},
        "authorization": _nullable(_authorization(version)),
        "payment_method": {"oneOf": [closed({name: shown}) for name, shown in _SHOWN.items()]},
        "payment_amount": AMOUNT,
        "payment_time": TIME,
        "payment_completion_time": _nullable(TIME),
        "payment_status": {"type": "string", "enum": list(get_args(Status))},
        "payment_message": SOME_TEXT,
        "bank_reference": _nullable(SOME_TEXT),
        "auth_id": _nullable(SOME_TEXT),
    }
    if version == OLDEST_VERSION:
        return closed(fields)
    return closed({**fields, **later}, optional=later if version is None else ())


def _error_details() -> Schema:
    names = ("error_code", "error_description", "error_reason", "error_source")
    raw = ("error_code_raw", "error_description_raw")
    return closed(dict.fromkeys((*names, *raw), TEXT))


def _authorization(version: str | None) -> Schema:
    bare = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\+05:30)?$"}
    acted = TIME if version not in (None, OLDEST_VERSION) else bare
    return closed(
        {
            "action": {"enum": ["CAPTURE", "VOID", None]},
            "status": {"enum": ["PENDING", "SUCCESS", None]},
            "captured_amount": _nullable(AMOUNT),
            "start_time": _nullable(TIME),
            "end_time": _nullable(TIME),
            "approve_by": _nullable(TIME),
            "action_reference": _nullable(SOME_TEXT),
            "action_time": _nullable(acted),
        }
    )


_MASKED = {"type": "string", "pattern": "^x{6}[0-9]{4}$"}
_CARD_SHOWN: Mapping[str, Schema] = {
    "channel": CARD_CHANNEL,
    "card_number": _MASKED,
    "card_network": {"type": "string", "enum": ["visa", "mastercard", "rupay", "amex"]},
    "card_type": {"type": "string", "enum": ["credit_card", "debit_card"]},
    "card_country": SOME_TEXT,
    "card_bank_name": SOME_TEXT,
}
_PROVIDED = closed({"channel": LINK, "provider": SOME_TEXT, "phone": PHONE})
# `payment_method` of a payment entity.
_SHOWN: Mapping[str, Schema] = {
    "card": closed({**_CARD_SHOWN, "instrument_id": SOME_TEXT}, optional=("instrument_id",)),
    "emi": closed({**_CARD_SHOWN, "emi_tenure": {"type": "integer", "minimum": 1}}),
    "upi": closed(
        {"channel": UPI_CHANNEL, "upi_id": SOME_TEXT},
        optional=("upi_id",),
    ),
    "netbanking": closed(
        {
            "channel": LINK,
            "netbanking_bank_code": BANK_CODE,
            "netbanking_bank_name": SOME_TEXT,
        }
    ),
    "app": _PROVIDED,
    "cardless_emi": _PROVIDED,
    "paylater": _PROVIDED,
    "banktransfer": closed({"channel": LINK, "banktransfer_bank_name": SOME_TEXT}),
}


def _simulation() -> Schema:
    forced = {
        "payment_status": {"type": "string", "enum": list(SIMULATED_STATUSES)},
        "payment_error_code": _nullable(TEXT),
    }
    return closed(
        {
            "simulation_id": SOME_TEXT,
            "entity": {"const": "PAYMENTS"},
            "entity_id": {"type": "string", "pattern": "^[0-9]+$"},
            "entity_simulation": closed(forced),
        }
    )
