"""The gateway's calls as an OpenAPI 3.1 document: every request and every response.

It is complete, for contract tests: no response has a status, header or field that is not in
it. Only the responses of fault rules are not part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cfflow.emulator.openapi_responses import error, ref, responses
from cfflow.emulator.request_fields import ORDER_CODES, PAY_CODES, REQUESTS
from cfflow.emulator.schemas import Schema
from cfflow.emulator.versions import VERSIONS

__all__ = ["CALLS", "Call", "document"]

INVALID = "invalid_request_error"
REQUEST_CODES = frozenset({"request_invalid", "version_missing", "version_invalid"})

_HEADERS: Mapping[str, Schema] = {
    "x-request-id": {"required": True, "schema": {"type": "string", "minLength": 1}},
    "x-ratelimit-limit": {"schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "x-ratelimit-remaining": {"schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "x-ratelimit-retry": {"schema": {"type": "string", "pattern": "^[0-9]+$"}},
    "x-ratelimit-type": {"schema": {"type": "string", "enum": ["app_id", "ip"]}},
}
# The OpenAPI links: where a call's response has what the next call needs.
_LINKS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "create_order": {
        name: {"order_id": "$response.body#/order_id"}
        for name in ("fetch_order", "terminate_order", "authorize", "fetch_payments")
    },
    "pay": {"authenticate": {"cf_payment_id": "$response.body#/cf_payment_id"}},
    "fetch_payments": {
        "fetch_payment": {
            "order_id": "$request.path.order_id",
            "cf_payment_id": "$response.body#/0/cf_payment_id",
        },
    },
    "simulate": {"fetch_simulation": {"simulation_id": "$response.body#/simulation_id"}},
}
_REPLAYED: Schema = {"schema": {"type": "string", "const": "true"}}


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its route, request and response, and the codes of its errors.

    keyed: it may replay a stored response by an idempotency key; a call that needs no
    credentials does so only if the caller sends some.
    """

    name: str
    method: str
    path: str
    summary: str
    response: str
    request: str | None = None
    invalid: Collection[str] = ()
    unknown: Collection[str] = ()
    conflict: Collection[str] = ()
    credentials: bool = True
    limited: bool = False
    keyed: bool = False


CALLS: tuple[Call, ...] = (
    Call(
        "create_order",
        "post",
        "/orders",
        "Create an order; its payment_session_id lets a customer pay.",
        "Order",
        "CreateOrderRequest",
        invalid=ORDER_CODES,
        conflict=("order_already_exists",),
        limited=True,
        keyed=True,
    ),
    Call(
        "fetch_order",
        "get",
        "/orders/{order_id}",
        "One order of this account.",
        "Order",
        unknown=("order_not_found",),
        limited=True,
    ),
    Call(
        "terminate_order",
        "patch",
        "/orders/{order_id}",
        "Let the order take no new payment.",
        "Order",
        "TerminateOrderRequest",
        invalid=("order_inactive",),
        unknown=("order_not_found",),
    ),
    Call(
        "pay",
        "post",
        "/orders/sessions",
        "Begin one attempt to pay the order of a session.",
        "PayAnswer",
        "PayRequest",
        invalid=PAY_CODES,
        unknown=("orderpay_not_found",),
        credentials=False,
        limited=True,
        keyed=True,
    ),
    Call(
        "authenticate",
        "post",
        "/orders/pay/authenticate/{cf_payment_id}",
        "Submit the customer's one-time password, or send it again.",
        "OtpAnswer",
        "OtpRequest",
        unknown=("payment_not_found",),
        credentials=False,
        keyed=True,
    ),
    Call(
        "authorize",
        "post",
        "/orders/{order_id}/authorization",
        "Capture or void the order's hold, once.",
        "Payment",
        "AuthorizeRequest",
        invalid=("order_amount_invalid",),
        unknown=("order_not_found",),
        keyed=True,
    ),
    Call(
        "fetch_payments",
        "get",
        "/orders/{order_id}/payments",
        "Every attempt of the order, oldest first.",
        "Payments",
        unknown=("order_not_found",),
        limited=True,
    ),
    Call(
        "fetch_payment",
        "get",
        "/orders/{order_id}/payments/{cf_payment_id}",
        "One attempt of the order.",
        "Payment",
        unknown=("order_not_found", "payment_not_found"),
        limited=True,
    ),
    Call(
        "simulate",
        "post",
        "/simulate",
        "Force the status of an attempt.",
        "Simulation",
        "SimulateRequest",
        unknown=("payment_not_found",),
        keyed=True,
    ),
    Call(
        "fetch_simulation",
        "get",
        "/simulate/{simulation_id}",
        "A simulation made before.",
        "Simulation",
        unknown=("simulation_not_found",),
    ),
)


def document(version: str | None = None) -> dict[str, Any]:
    """Return the whole document.

    version: the API version of its ids and fields; without one it covers all versions.
    Raises `ValueError` for an unknown version.
    """
    if version is not None and version not in VERSIONS:
        raise ValueError(f"there is no API version {version}, only {', '.join(sorted(VERSIONS))}")
    paths: dict[str, Any] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call, version)
    return {
        "openapi": "3.1.0",
        "info": {"title": "A local Cashfree", "version": version or max(VERSIONS)},
        "servers": [{"url": "/pg"}],
        "paths": paths,
        "components": {
            "schemas": {**responses(version), **REQUESTS},
            "securitySchemes": {name: _key(name) for name in ("x-client-id", "x-client-secret")},
        },
    }


def _key(header: str) -> Schema:
    return {"type": "apiKey", "in": "header", "name": header}


def _operation(call: Call, version: str | None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "parameters": _parameters(call, version),
        "responses": _responses(call),
        "security": [{"x-client-id": [], "x-client-secret": []}] if call.credentials else [],
    }
    if call.request is not None:
        content = {"application/json": {"schema": ref(call.request)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(call: Call, version: str | None) -> list[dict[str, Any]]:
    versions = sorted(VERSIONS) if version is None else [version]
    inside = [part[1:-1] for part in call.path.split("/") if part.startswith("{")]
    text: Schema = {"type": "string", "minLength": 1}
    ids = [{"name": name, "in": "path", "required": True, "schema": text} for name in inside]
    headers = [
        _header("x-api-version", {"type": "string", "enum": versions}, required=True),
        _header("x-request-id", {"type": "string"}),
    ]
    if call.keyed:
        headers.append(_header("x-idempotency-key", {"type": "string"}))
    return ids + headers


def _header(name: str, schema: Schema, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema}


def _responses(call: Call) -> dict[str, Any]:
    codes = {*REQUEST_CODES, *call.invalid}
    types = {INVALID, "feature_not_enabled"} if call.name == "pay" else {INVALID}
    found = {
        "200": _response("Done.", ref(call.response), call),
        "400": _response("Refused; nothing was done.", error(types, codes), call),
        "413": _response("The body is over a mebibyte.", _failed(INVALID), call),
    }
    if call.name in _LINKS:
        links = _LINKS[call.name].items()
        found["200"]["links"] = {name: {"operationId": name, "parameters": p} for name, p in links}
    if call.credentials:
        found["401"] = _response(
            "The credentials are missing or wrong.", _failed("authentication_error"), call
        )
    if call.unknown:
        found["404"] = _response("It does not exist.", error({INVALID}, call.unknown), call)
    if call.conflict:
        found["409"] = _response("It exists already.", error({INVALID}, call.conflict), call)
    if call.keyed:
        reused = error({"idempotency_error"}, {"request_invalid"})
        found["422"] = _response("The key belongs to another body.", reused, call)
    if call.limited:
        found["429"] = _response("Too many calls.", _failed("rate_limit_error"), call)
    return dict(sorted(found.items()))


def _failed(type_: str) -> Schema:
    return error({type_}, {"request_failed"})


def _response(description: str, schema: Schema, call: Call) -> dict[str, Any]:
    headers = {**_HEADERS, "x-idempotency-replayed": _REPLAYED} if call.keyed else {**_HEADERS}
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }
