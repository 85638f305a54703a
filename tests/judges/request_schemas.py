"""What a request to the gateway must be, said a second time and without cfflow.

`verdict` takes a request as it came over the wire and returns what is wrong with it. The
schemas are stricter than the gateway's own models: a field that no model names, a null, or
an amount in any form but a JSON number with at most two decimals is wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types

__all__ = ["CALLS", "VERSIONS", "Raw", "call_of", "verdict"]

VERSIONS: Final = ("2022-09-01", "2023-08-01", "2025-01-01", "2026-01-01")

_TEXT: Final = {"type": "string", "minLength": 1}
_WHOLE: Final = {"type": "integer"}
_FLAG: Final = {"type": "boolean"}
_PHONE: Final = {"type": "string", "pattern": r"^[0-9]{10}$"}
_LINK: Final = {"const": "link"}
_EITHER: Final = {"enum": ["link", "post"]}
_MOMENT: Final = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
}
#: In rupees; `multipleOf` of a Decimal is exact because numbers are read as Decimals.
_RUPEES: Final = {"type": "number", "exclusiveMinimum": 0, "multipleOf": Decimal("0.01")}


def _closed(required: str, **fields: Any) -> dict[str, Any]:
    """Return the schema of an object that has these fields, some of them always."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def _one(*choices: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": list(choices)}


_PLAIN: Final = {
    "card_number": {"type": "string", "pattern": r"^[0-9]{12,19}$"},
    "card_holder_name": _TEXT,
    "card_expiry_mm": {"type": "string", "pattern": r"^(0[1-9]|1[0-2])$"},
    "card_expiry_yy": {"type": "string", "pattern": r"^[0-9]{2}$"},
    "card_cvv": {"type": "string", "pattern": r"^[0-9]{3,4}$"},
    "card_alias": _TEXT,
}
_ADDRESS: Final = dict.fromkeys(
    (
        *("address_line_one", "address_line_two", "city", "zip_code"),
        *("country", "country_code", "state", "state_code"),
    ),
    _TEXT,
)
_CARD: Final = _one(
    _closed(
        "channel card_number card_expiry_mm card_expiry_yy card_cvv",
        channel=_EITHER,
        **_PLAIN,
        **_ADDRESS,
        card_bank_name={"enum": ["Kotak", "ICICI", "RBL", "BOB", "Standard Chartered"]},
    ),
    _closed(
        "channel instrument_id", channel=_EITHER, instrument_id=_TEXT, card_cvv=_PLAIN["card_cvv"]
    ),
    _closed(
        "channel card_number cryptogram token_requestor_id",
        channel=_EITHER,
        **_PLAIN,
        cryptogram=_TEXT,
        token_requestor_id=_TEXT,
        token_reference_id=_TEXT,
        token_type={"enum": ["ISSUER_TOKEN", "NETWORK_GC_TOKEN", "ISSUER_GC_TOKEN"]},
        card_display={"type": "string", "pattern": r"^[0-9]{4}$"},
    ),
)
_UPI_ID: Final = {"type": "string", "pattern": r"^[^@\s]+@[^@\s]+$"}
_UPI_EXTRAS: Final = {
    "upi_expiry_minutes": {"type": "number", "minimum": 5, "maximum": 15},
    "upi_redirect_url": _FLAG,
    "authorize_only": _FLAG,
    "authorization": _closed("", approve_by=_MOMENT, start_time=_MOMENT, end_time=_MOMENT),
}
_UPI: Final = _one(
    _closed("channel upi_id", channel={"const": "collect"}, upi_id=_UPI_ID, **_UPI_EXTRAS),
    _closed("channel", channel={"enum": ["link", "qrcode"]}, upi_id=_UPI_ID, **_UPI_EXTRAS),
)
_NETBANKING: Final = _one(
    _closed("channel netbanking_bank_code", channel=_LINK, netbanking_bank_code=_WHOLE),
    _closed(
        "channel netbanking_bank_name",
        channel=_LINK,
        netbanking_bank_name={"type": "string", "pattern": r"^[A-Z]{5}$"},
    ),
)
_EMI: Final = _closed(
    "channel card_number card_expiry_mm card_expiry_yy card_cvv card_bank_name emi_tenure",
    channel=_EITHER,
    **_PLAIN,
    card_bank_name=_TEXT,
    emi_tenure=_WHOLE,
)
_PROVIDED: Final = {"channel": _LINK, "provider": _TEXT, "phone": _PHONE}

#: The methods by the gateway's name; a pay names exactly one of them.
METHODS: Final = {
    "card": _CARD,
    "upi": _UPI,
    "netbanking": _NETBANKING,
    "emi": _EMI,
    "app": _closed("channel provider phone", **_PROVIDED),
    "cardless_emi": _closed("channel provider phone", **_PROVIDED, emi_tenure=_WHOLE),
    "paylater": _closed("channel provider phone", **_PROVIDED),
    "banktransfer": _closed("channel", channel=_LINK),
}
_PAY: Final = _closed(
    "payment_session_id payment_method",
    payment_session_id={"type": "string", "pattern": r"^session_\S+$"},
    payment_method=_closed("", **METHODS) | {"minProperties": 1, "maxProperties": 1},
    save_instrument=_FLAG,
    offer_id=_TEXT,
)
#: The model that is published has `otp` in every request; its page sends none to resend.
_AUTHENTICATE: Final = _one(
    _closed(
        "action otp",
        action={"const": "SUBMIT_OTP"},
        otp={"type": "string", "pattern": r"^[0-9]{4,8}$"},
    ),
    _closed("action", action={"const": "RESEND_OTP"}),
)
_AUTHORIZE: Final = _one(
    _closed("action amount", action={"const": "CAPTURE"}, amount=_RUPEES),
    _closed("action", action={"const": "VOID"}),
)
_CREATE_ORDER: Final = _closed(
    "order_amount order_currency customer_details",
    order_id={"type": "string", "pattern": r"^[A-Za-z0-9_-]{3,45}$"},
    order_amount=_RUPEES,
    order_currency={"type": "string", "pattern": r"^[A-Z]{3}$"},
    customer_details=_closed(
        "customer_id customer_phone",
        customer_id={"type": "string", "minLength": 3, "maxLength": 50},
        customer_phone=_PHONE,
        customer_name={"type": "string", "minLength": 3, "maxLength": 100},
        customer_email={"type": "string", "minLength": 3, "maxLength": 100},
    ),
    order_meta=_closed("", return_url=_TEXT, notify_url=_TEXT, payment_methods=_TEXT),
    order_expiry_time=_MOMENT,
    order_note={"type": "string", "minLength": 3, "maxLength": 200},
    order_tags={"type": "object", "additionalProperties": _TEXT, "maxProperties": 15},
)
_SIMULATE: Final = _closed(
    "entity entity_id entity_simulation",
    entity={"const": "PAYMENTS"},
    entity_id=_TEXT,
    entity_simulation=_closed(
        "payment_status",
        payment_status={"enum": ["SUCCESS", "FAILED", "PENDING", "USER_DROPPED"]},
        payment_error_code=_TEXT,
    ),
)


class Raw(NamedTuple):
    """One request as it came over the wire: header names as they were written."""

    verb: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Call(NamedTuple):
    """One call of the gateway: where, with what, and who must say that it is allowed to.

    `key`: whether an idempotency key must (True), may (None) or must not be sent.
    """

    verb: str
    path: re.Pattern[str]
    credentials: bool
    key: bool | None = False
    body: dict[str, Any] | None = None


def _path(template: str) -> re.Pattern[str]:
    """Return the pattern of a path; a name in braces stands for one segment."""
    return re.compile("/pg" + re.sub(r"\{\w+\}", r"[A-Za-z0-9_-]+", template))


CALLS: Final = {
    "pay": Call("POST", _path("/orders/sessions"), False, True, _PAY),
    "authenticate": Call(
        "POST", _path("/orders/pay/authenticate/{id}"), False, True, _AUTHENTICATE
    ),
    "authorize": Call("POST", _path("/orders/{id}/authorization"), True, True, _AUTHORIZE),
    "create order": Call("POST", _path("/orders"), True, None, _CREATE_ORDER),
    "simulate": Call("POST", _path("/simulate"), True, False, _SIMULATE),
    "fetch one": Call("GET", _path("/orders/{id}/payments/{id}"), True),
    "fetch all": Call("GET", _path("/orders/{id}/payments"), True),
    "fetch order": Call("GET", _path("/orders/{id}"), True),
    "fetch simulation": Call("GET", _path("/simulate/{id}"), True),
}

_FORMS: Final = {
    "x-request-id": re.compile(r"[A-Za-z0-9-]{16,64}"),
    # The reference types it as `string<UUID>`.
    "x-idempotency-key": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "x-client-id": re.compile(r"[\x21-\x7e]+"),
    "x-client-secret": re.compile(r"[\x21-\x7e]+"),
}
_PLUMBING: Final = {"host", "user-agent", "accept", "accept-encoding", "connection"}
_CREDENTIALS: Final = {"x-client-id", "x-client-secret"}
_AMOUNTS: Final = {"order_amount", "amount"}
_TWO_DECIMALS: Final = re.compile(r"\d+(\.\d{1,2})?")


def call_of(sent: Raw) -> str:
    """Return which call a request is, "" for none."""
    for name, call in CALLS.items():
        if call.verb == sent.verb and call.path.fullmatch(sent.target):
            return name
    return ""


def verdict(sent: Raw, secrets: tuple[str, ...] = ()) -> list[str]:
    """Return what is wrong with a request; `secrets` are the account's id and secret."""
    name = call_of(sent)
    if not name:
        return [f"no call of the gateway: {sent.verb} {sent.target}"]
    call = CALLS[name]
    wrong = [*_wrong_headers(call, sent), *_wrong_body(call, sent)]
    text = f"{sent.verb} {sent.target} {sent.headers} {sent.body!r}"
    if not call.credentials and any(secret in text for secret in secrets):
        wrong.append("the account's credentials are in a call that carries none")
    return wrong


def _wrong_headers(call: Call, sent: Raw) -> Iterator[str]:
    counted = Counter(name.lower() for name, _ in sent.headers)
    headers = {name.lower(): value for name, value in sent.headers}
    yield from (f"{name} comes {times} times" for name, times in counted.items() if times > 1)
    wanted = {"x-api-version", "x-request-id"} | (_CREDENTIALS if call.credentials else set())
    wanted |= {"x-idempotency-key"} if call.key else set()
    wanted |= {"content-type", "content-length"} if call.body else set()
    allowed = wanted | _PLUMBING | ({"x-idempotency-key"} if call.key is None else set())
    # Some clients say that a GET has a body of no bytes.
    allowed |= {"content-length"} if headers.get("content-length") == "0" else set()
    yield from (f"{name} is missing" for name in sorted(wanted - headers.keys()))
    yield from (f"{name} does not belong here" for name in sorted(headers.keys() - allowed))
    if headers.get("x-api-version", VERSIONS[0]) not in VERSIONS:
        yield "x-api-version is no version of the API"
    if headers.get("content-type", "application/json") != "application/json":
        yield "content-type is not JSON"
    if headers.get("content-length", str(len(sent.body))) != str(len(sent.body)):
        yield "content-length is not the body's"
    for name, form in _FORMS.items():
        if name in headers and not form.fullmatch(headers[name]):
            yield f"{name} is out of form"


class _Number(Decimal):
    """A number that still knows how it was written."""

    written = ""


def _number(text: str) -> _Number:
    number = _Number(text)
    number.written = text
    return number


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _wrong_body(call: Call, sent: Raw) -> Iterator[str]:
    if call.body is None:
        if sent.body:
            yield "a body does not belong here"
        return
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        repeated.extend([name for name, _ in pairs] if len(found) < len(pairs) else ())
        return found

    try:
        body = json.loads(
            sent.body.decode(),
            parse_float=_number,
            parse_constant=_no_number,
            object_pairs_hook=once,
        )
    except ValueError as error:
        yield f"the body is not JSON: {error}"
        return
    if repeated:
        yield f"one of {', '.join(repeated)} comes twice"
    for broken in Draft202012Validator(call.body).iter_errors(body):
        yield f"{broken.json_path}: {broken.message}"
    for name in _AMOUNTS & body.keys():
        if not _TWO_DECIMALS.fullmatch(getattr(body[name], "written", str(body[name]))):
            yield f"$.{name} is not written as rupees and paise"
