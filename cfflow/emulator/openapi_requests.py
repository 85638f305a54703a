"""What the gateway's calls take, as JSON Schemas.

All of them are open, because the gateway ignores what it does not know; they name what is
looked at, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cfflow.emulator.bank import SIMULATED_STATUSES
from cfflow.emulator.cards import ADDRESS, EMI_BANKS, TENURE_MONTHS_MAX
from cfflow.emulator.methods import CARDLESS_EMI, PAY_LATER, WALLETS
from cfflow.emulator.openapi_answers import (
    AMOUNT,
    LINK,
    NULL,
    ORDER_ID,
    PHONE,
    SOME_TEXT,
    TEXT,
    Schema,
)
from cfflow.emulator.orders import PAYMENT_METHODS, TAGS_MAX, URL_CHARACTERS_MAX

ISO_TIME: Schema = {
    "type": ["string", "null"],
    "pattern": r"^[2-8]\d{3}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}",
    "description": "ISO 8601, ahead of now; Indian time without an offset",
}


def _takes(required: Collection[str], properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _text_or_none(low: int = 0, high: int = 1000) -> Schema:
    return {"type": ["string", "null"], "minLength": low, "maxLength": high}


_TENURE: Schema = {"type": "integer", "minimum": 1, "maximum": TENURE_MONTHS_MAX}
_FLAG: Schema = {"type": ["boolean", "null"]}
_CARD_NUMBER: Schema = {
    "type": "string",
    "pattern": "^[0-9]{12,19}$",
    "description": "with a right check digit",
    "examples": ["4111111111111111"],
}
_CARD_FIELDS: Mapping[str, Schema] = {
    "channel": {"type": "string", "enum": ["link", "post"]},
    "card_number": _CARD_NUMBER,
    "card_holder_name": _text_or_none(),
    "card_expiry_mm": {"type": "string", "pattern": "^(0[1-9]|1[0-2])$"},
    "card_expiry_yy": {"type": "string", "pattern": "^[0-9]{2}$"},
    "card_cvv": {"type": "string", "pattern": "^[0-9]{3,4}$"},
    "card_alias": _text_or_none(),
}
_PLAIN_CARD = ("card_number", "card_expiry_mm", "card_expiry_yy", "card_cvv")
_CARD: Schema = {
    "type": "object",
    "required": ["channel"],
    "properties": {
        **_CARD_FIELDS,
        "instrument_id": SOME_TEXT,
        "cryptogram": SOME_TEXT,
        "token_requestor_id": SOME_TEXT,
        "card_display": {"type": "string", "pattern": "^[0-9]{4}$"},
        **{name: _text_or_none() for name in ADDRESS},
    },
    "anyOf": [
        {"required": ["instrument_id"]},
        {"required": list(_PLAIN_CARD)},
        {"required": ["cryptogram", "token_requestor_id", "card_display", *_PLAIN_CARD[:3]]},
    ],
}
_UPI = _takes(
    ("channel",),
    {
        "channel": {"type": "string", "enum": ["link", "collect", "qrcode"]},
        "upi_id": {"type": "string", "description": "needed by collect"},
        "upi_expiry_minutes": {"type": ["number", "null"], "minimum": 5, "maximum": 15},
        "authorize_only": _FLAG,
        "authorization": {
            "type": ["object", "null"],
            "properties": dict.fromkeys(("approve_by", "start_time", "end_time"), ISO_TIME),
        },
    },
)


def _provider(providers: Collection[str], **more: Schema) -> Schema:
    named = {"type": "string", "enum": sorted(providers)}
    return _takes(
        ("channel", "provider", "phone"),
        {"channel": LINK, "provider": named, "phone": PHONE, **more},
    )


_METHODS: Mapping[str, Schema] = {
    "card": _CARD,
    "upi": _UPI,
    "netbanking": _takes(
        ("channel",),
        {
            "channel": LINK,
            "netbanking_bank_code": {"type": "integer", "minimum": 1000, "maximum": 9999},
            "netbanking_bank_name": {"type": "string", "pattern": "^[A-Z]{5}$"},
        },
    ),
    "app": _provider(WALLETS),
    "emi": _takes(
        ("channel", *_PLAIN_CARD, "card_bank_name", "emi_tenure"),
        {
            **_CARD_FIELDS,
            "card_bank_name": {"type": "string", "enum": sorted(EMI_BANKS)},
            "emi_tenure": _TENURE,
        },
    ),
    "cardless_emi": _provider(CARDLESS_EMI, emi_tenure=_TENURE),
    "paylater": _provider(PAY_LATER),
    "banktransfer": _takes(("channel",), {"channel": LINK}),
}
REQUESTS: Mapping[str, Schema] = {
    "CreateOrderRequest": _takes(
        ("order_amount", "order_currency", "customer_details"),
        {
            "order_id": {"anyOf": [ORDER_ID, NULL]},
            "order_amount": {"type": "number", "minimum": 1, "multipleOf": 0.01},
            "order_currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "customer_details": _takes(
                ("customer_id", "customer_phone"),
                {
                    "customer_id": {"type": "string", "minLength": 3, "maxLength": 50},
                    "customer_phone": PHONE,
                    "customer_name": _text_or_none(3, 100),
                    "customer_email": _text_or_none(3, 100),
                },
            ),
            "order_expiry_time": ISO_TIME,
            "order_note": _text_or_none(3, 200),
            "order_tags": {
                "type": ["object", "null"],
                "maxProperties": TAGS_MAX,
                "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 255},
            },
            "order_meta": {
                "type": ["object", "null"],
                "properties": {
                    "return_url": _text_or_none(high=URL_CHARACTERS_MAX),
                    "notify_url": _text_or_none(high=URL_CHARACTERS_MAX),
                    "payment_methods": {
                        "type": ["string", "null"],
                        "description": f"some of {', '.join(PAYMENT_METHODS)}",
                    },
                },
            },
        },
    ),
    "TerminateOrderRequest": _takes(("order_status",), {"order_status": {"const": "TERMINATED"}}),
    "PayRequest": _takes(
        ("payment_session_id", "payment_method"),
        {
            "payment_session_id": TEXT,
            "payment_method": {
                "oneOf": [_takes((name,), {name: fields}) for name, fields in _METHODS.items()]
            },
            "save_instrument": _FLAG,
            "offer_id": {"type": ["string", "null"], "minLength": 1},
        },
    ),
    "OtpRequest": _takes(
        ("action",), {"action": {"type": "string", "enum": ["SUBMIT_OTP", "RESEND_OTP"]}}
    ),
    "AuthorizeRequest": _takes(
        ("action",), {"action": {"type": "string", "enum": ["CAPTURE", "VOID"]}, "amount": AMOUNT}
    ),
    "SimulateRequest": _takes(
        ("entity", "entity_id", "entity_simulation"),
        {
            "entity": {"const": "PAYMENTS"},
            "entity_id": {"type": "string"},
            "entity_simulation": _takes(
                ("payment_status",),
                {
                    "payment_status": {"type": "string", "enum": list(SIMULATED_STATUSES)},
                    "payment_error_code": _text_or_none(),
                },
            ),
        },
    ),
}
