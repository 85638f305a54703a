"""The fields of every request body of the gateway: one table for validation and OpenAPI.

The schemas permit unknown fields, because the gateway ignores them (gateway.md#methods).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cfflow.emulator import schemas
from cfflow.emulator.fields import AmountField, Field, Shape, TimeField, codes
from cfflow.emulator.schemas import Schema, optional_text

SIMULATED_STATUSES = ("SUCCESS", "FAILED", "PENDING", "USER_DROPPED")
# The names in `order_meta.payment_methods`, and the payment groups that each permits.
PAYMENT_METHODS: Mapping[str, frozenset[str]] = {
    "cc": frozenset({"credit_card"}),
    "ccc": frozenset({"credit_card"}),
    "dc": frozenset({"debit_card"}),
    "ppc": frozenset({"prepaid_card"}),
    "emi": frozenset({"credit_card_emi", "debit_card_emi"}),
    "ccemi": frozenset({"credit_card_emi"}),
    "dcemi": frozenset({"debit_card_emi"}),
    "cardlessemi": frozenset({"cardless_emi"}),
    "nb": frozenset({"net_banking"}),
    "upi": frozenset({"upi"}),
    "app": frozenset({"wallet"}),
    "paylater": frozenset({"pay_later"}),
    "banktransfer": frozenset({"bank_transfer"}),
    "paypal": frozenset(),
    "applepay": frozenset(),
}
EMI_BANKS = (
    *("amex", "au", "axis", "bob", "citi", "fed", "hdfc", "hsbc", "icici", "kotak", "rbl"),
    *("sbi", "standard chartered", "yes"),
)
WALLETS = (
    *("airtel", "amazon", "freecharge", "gpay", "jio", "jiomoney", "mobikwik", "ola", "paytm"),
    "phonepe",
)
CARDLESS_EMI = (
    *("bharatx", "cashe", "flexmoney", "hdfc", "icici", "idfc", "kotak", "snapmint"),
    "zestmoney",
)
PAY_LATER = (
    *("flexipay", "freechargepaylater", "kotak", "lazypay", "olapostpaid", "simpl"),
    "zestmoney",
)


def _one_of(name: str, values: Collection[str], code: str = "request_invalid") -> Field:
    schema: Schema = {"type": "string", "enum": list(values)}
    return Field(name, schema, code, f"should be {' or '.join(values)}")


def _time(name: str, code: str, label: str | None = None) -> Field:
    schema: Schema = {
        "type": ["string", "null"],
        "pattern": r"^[2-8]\d{3}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}",
        "description": "ISO 8601, ahead of now; Indian time without an offset",
    }
    return TimeField(name, schema, code, "should be an ISO 8601 time", label=label)


def _optional_text(name: str, code: str, low: int = 0, high: int = 1000) -> Field:
    problem = f"should be a text of {low} to {high} characters"
    return Field(name, optional_text(low, high), code, problem)


def _flag(name: str) -> Field:
    return Field(name, schemas.FLAG, "request_invalid", "should be true or false")


def _object(name: str, code: str, shape: Shape, *, optional: bool = False) -> Field:
    schema = shape.schema(["object", "null"] if optional else "object")
    return Field(name, schema, code, "should be an object")


# --- orders ----------------------------------------------------------------------------

CUSTOMER = Shape(
    (
        Field(
            "customer_id",
            schemas.CUSTOMER_ID,
            "customer_details_invalid",
            "should be a text of 3 to 50 characters",
        ),
        Field("customer_phone", schemas.PHONE, "phone_invalid", "should be 10 digits"),
        _optional_text("customer_name", "customer_details_invalid", 3, 100),
        _optional_text("customer_email", "customer_details_invalid", 3, 100),
        _optional_text("customer_uid", "customer_details_invalid", 0, 100),
        _optional_text("customer_bank_account_number", "customer_details_invalid", 3, 20),
        _optional_text("customer_bank_ifsc", "customer_details_invalid", 0, 20),
    ),
    required=("customer_id", "customer_phone"),
)
ORDER_META = Shape(
    (
        _optional_text("return_url", "return_url_invalid", high=250),
        _optional_text("notify_url", "notify_url_invalid", high=250),
        Field(
            "payment_methods",
            optional_text() | {"description": f"some of {', '.join(PAYMENT_METHODS)}"},
            "payment_methods_invalid",
            f"should be some of {', '.join(PAYMENT_METHODS)}",
        ),
    )
)
CREATE_ORDER = Shape(
    (
        Field(
            "order_id",
            {"anyOf": [schemas.ORDER_ID, schemas.NULL]},
            "order_id_invalid",
            "should be 3 to 45 of A-Z, a-z, 0-9, _ and -",
        ),
        # An order costs a rupee at least (gateway.md#test-data).
        AmountField(
            "order_amount",
            {"type": "number", "minimum": 1, "multipleOf": 0.01},
            "order_amount_invalid",
            "should be an amount",
        ),
        Field(
            "order_currency",
            schemas.CURRENCY,
            "order_currency_invalid",
            "should be three letters",
            "order_currency_missing",
            blank_is_absent=False,
        ),
        _object("customer_details", "customer_details_invalid", CUSTOMER),
        _time("order_expiry_time", "order_expiry_time_invalid"),
        _optional_text("order_note", "order_note_invalid", 3, 200),
        Field(
            "order_tags",
            {
                "type": ["object", "null"],
                "maxProperties": 15,
                "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 255},
            },
            "order_tags_invalid",
            "should be an object of at most 15 texts of 1 to 255 characters",
        ),
        _object("order_meta", "order_meta_invalid", ORDER_META, optional=True),
    ),
    required=("order_amount", "order_currency", "customer_details"),
)
TERMINATE_ORDER = Shape(
    (Field("order_status", {"const": "TERMINATED"}, "request_invalid", "should be TERMINATED"),),
    required=("order_status",),
)

# --- payment methods -------------------------------------------------------------------


def _channel(schema: Schema, problem: str) -> Field:
    return Field("channel", schema, "channel_invalid", problem, "channel_missing")


_CARD_CHANNEL = _channel(schemas.CARD_CHANNEL, "should be one of link, post")
_LINK_CHANNEL = _channel(schemas.LINK, "should be one of link")
# The optional texts of a card. They are checked and never kept.
CARD_TEXTS = tuple(
    _optional_text(name, "payment_method_invalid")
    for name in (
        *("card_holder_name", "card_alias", "card_bank_name", "token_reference_id", "token_type"),
        # A card from abroad may have to bring its customer's address.
        *("address_line_one", "address_line_two", "city", "zip_code", "country", "country_code"),
        *("state", "state_code"),
    )
)


def _digits(name: str, pattern: str, problem: str, missing_code: str | None = None) -> Field:
    schema: Schema = {"type": "string", "pattern": pattern}
    return Field(name, schema, f"{name}_invalid", problem, missing_code)


_CARD_DIGITS = (
    Field(
        "card_number",
        {
            "type": "string",
            "pattern": "^[0-9]{12,19}$",
            "description": "with a right check digit",
            "examples": ["4111111111111111"],
        },
        "card_number_invalid",
        "is not a card number",
    ),
    _digits("card_expiry_mm", "^(0[1-9]|1[0-2])$", "should be 01 to 12"),
    _digits("card_expiry_yy", "^[0-9]{2}$", "should be two digits"),
    Field(
        "card_cvv",
        {"type": "string", "pattern": "^[0-9]{3,4}$"},
        "card_cvv_invalid",
        "should be three or four digits",
        "card_cvv_missing",
    ),
)
_PLAIN_CARD = tuple(field.name for field in _CARD_DIGITS)
_TENURE = Field(
    "emi_tenure",
    {"type": "integer", "minimum": 1, "maximum": 120},
    "emi_tenure_invalid",
    "should be a number of months",
    "emi_tenure_missing",
    blank_is_absent=False,
)
CARD = Shape(
    (
        _CARD_CHANNEL,
        *_CARD_DIGITS,
        *CARD_TEXTS,
        Field("instrument_id", schemas.SOME_TEXT, "instrument_id_invalid", "should be a text"),
        Field("cryptogram", schemas.SOME_TEXT, "cryptogram_invalid", "should be a text"),
        Field(
            "token_requestor_id",
            schemas.SOME_TEXT,
            "token_requestor_id_missing",
            "should be a text",
        ),
        _digits("card_display", "^[0-9]{4}$", "should be four digits"),
    ),
    required=("channel",),
    any_of=(
        ("instrument_id",),
        _PLAIN_CARD,
        ("cryptogram", "token_requestor_id", "card_display", *_PLAIN_CARD[:3]),
    ),
)
EMI = Shape(
    (
        _CARD_CHANNEL,
        *_CARD_DIGITS,
        *(text for text in CARD_TEXTS if text.name != "card_bank_name"),
        Field(
            "card_bank_name",
            {"type": "string", "enum": list(EMI_BANKS)},
            "card_bank_name_invalid",
            "gives no instalments",
            "card_bank_name_missing",
            ignore_case=True,
        ),
        _TENURE,
    ),
    required=("channel", *_PLAIN_CARD, "card_bank_name", "emi_tenure"),
)
MANDATE = Shape(
    tuple(
        _time(name, "authorization_invalid", f"authorization.{name}")
        for name in ("approve_by", "start_time", "end_time")
    )
)
UPI = Shape(
    (
        _channel(schemas.UPI_CHANNEL, "should be one of collect, link, qrcode"),
        Field(
            "upi_id",
            {
                "type": "string",
                "pattern": "^[A-Za-z0-9._-]{2,256}@[A-Za-z0-9.-]{2,64}$",
                "description": "needed by collect",
            },
            "upi_id_invalid",
            "is not a UPI id",
            "upi_id_missing",
        ),
        Field(
            "upi_expiry_minutes",
            {"type": ["number", "null"], "minimum": 5, "maximum": 15},
            "upi_expiry_minutes_invalid",
            "should be 5 to 15",
        ),
        _flag("authorize_only"),
        _object("authorization", "authorization_invalid", MANDATE, optional=True),
    ),
    required=("channel",),
)
NETBANKING = Shape(
    (
        _LINK_CHANNEL,
        Field(
            "netbanking_bank_code",
            schemas.BANK_CODE,
            "netbanking_bank_code_invalid",
            "is not a bank code",
        ),
        Field(
            "netbanking_bank_name",
            {"type": "string", "pattern": "^[A-Z]{5}$"},
            "netbanking_bank_code_invalid",
            "is not the name of a bank",
        ),
    ),
    required=("channel",),
)
BANKTRANSFER = Shape((_LINK_CHANNEL,), required=("channel",))


def _provided(providers: Collection[str], *more: Field) -> Shape:
    """Return the shape of a method that needs a provider and a phone number."""
    schema: Schema = {"type": "string", "enum": list(providers)}
    provider = Field("provider", schema, "payment_method_unsupported", "is not supported")
    phone = Field("phone", schemas.PHONE, "phone_invalid", "should be 10 digits")
    return Shape((_LINK_CHANNEL, provider, phone, *more), ("channel", "provider", "phone"))


METHODS: Mapping[str, Shape] = {
    "card": CARD,
    "upi": UPI,
    "netbanking": NETBANKING,
    "app": _provided(WALLETS),
    "emi": EMI,
    "cardless_emi": _provided(CARDLESS_EMI, _TENURE),
    "paylater": _provided(PAY_LATER),
    "banktransfer": BANKTRANSFER,
}


def _method_schema(name: str, shape: Shape) -> Schema:
    return {"type": "object", "properties": {name: shape.schema()}, "required": [name]}


# --- the other calls -------------------------------------------------------------------

PAY = Shape(
    (
        Field("payment_session_id", schemas.TEXT, "request_invalid", "should be a text"),
        Field(
            "payment_method",
            {"type": "object", "oneOf": [_method_schema(*each) for each in METHODS.items()]},
            "payment_method_invalid",
            "should be an object",
        ),
        _flag("save_instrument"),
        Field(
            "offer_id",
            {"type": ["string", "null"], "minLength": 1},
            "offer_id_invalid",
            "should be a text",
        ),
    ),
    required=("payment_session_id", "payment_method"),
)
AUTHENTICATE = Shape(
    (
        _one_of("action", ("SUBMIT_OTP", "RESEND_OTP")),
        Field("otp", schemas.SOME_TEXT, "request_invalid", "is missing in the request"),
    ),
    required=("action",),
)
AUTHORIZE = Shape(
    (
        _one_of("action", ("CAPTURE", "VOID")),
        AmountField("amount", schemas.AMOUNT, "order_amount_invalid", "should be an amount"),
    ),
    required=("action",),
)
FORCED_STATUS = Shape(
    (
        Field(
            "payment_status",
            {"type": "string", "enum": list(SIMULATED_STATUSES)},
            "request_invalid",
            "is not one to simulate",
        ),
        Field(
            "payment_error_code",
            {"type": ["string", "null"]},
            "request_invalid",
            "should be a text",
        ),
    ),
    required=("payment_status",),
)
SIMULATE = Shape(
    (
        Field("entity", {"const": "PAYMENTS"}, "request_invalid", "only PAYMENTS can be simulated"),
        Field("entity_id", schemas.TEXT, "request_invalid", "should be a text"),
        _object("entity_simulation", "request_invalid", FORCED_STATUS),
    ),
    required=("entity", "entity_id", "entity_simulation"),
)
# By the names of the OpenAPI document.
REQUESTS: Mapping[str, Schema] = {
    "CreateOrderRequest": CREATE_ORDER.schema(),
    "TerminateOrderRequest": TERMINATE_ORDER.schema(),
    "PayRequest": PAY.schema(),
    "OtpRequest": AUTHENTICATE.schema(),
    "AuthorizeRequest": AUTHORIZE.schema(),
    "SimulateRequest": SIMULATE.schema(),
}
ORDER_CODES = frozenset(codes((CREATE_ORDER, CUSTOMER, ORDER_META)))
PAY_CODES = frozenset(
    codes((PAY, MANDATE, *METHODS.values())) | {"card_unsupported", "order_inactive"}
)
