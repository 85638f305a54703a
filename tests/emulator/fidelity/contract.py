"""Checks every response of the emulator against its OpenAPI document, in the request's version."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import httpx
from jsonschema import (  # type: ignore[import-untyped]  # it ships no types
    Draft202012Validator,
    ValidationError,
)

from cfflow.emulator.openapi import CALLS, Call, document
from cfflow.emulator.versions import VERSIONS

__all__ = ["ValidationError", "call_of", "check"]

#: The error of a path that no call has.
NOT_A_CALL = {"code": "request_failed", "type": "invalid_request_error"}


async def check(response: httpx.Response) -> None:
    """Raise `AssertionError` for a response that the document does not have."""
    path = response.request.url.path.removeprefix("/pg")
    if path == response.request.url.path:
        return
    await response.aread()
    call = call_of(response.request.method, path)
    if call is None:
        body = response.json()
        assert response.status_code == 404 and body == {**body, **NOT_A_CALL}, body
        return
    version = response.request.headers.get("x-api-version")
    shown = _responses(call, version if version in VERSIONS else None)
    assert str(response.status_code) in shown, f"{call.name} responded with {response.status_code}"
    _check_one(response, shown[str(response.status_code)])


def call_of(method: str, path: str) -> Call | None:
    """Return the call with this method and path below /pg."""
    return next((c for c in CALLS if c.method.upper() == method and _is_at(c.path, path)), None)


def _is_at(template: str, path: str) -> bool:
    # A fixed path comes before one with a variable part of the same length.
    if path == "/orders/sessions":
        return template == path
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


def _check_one(response: httpx.Response, shown: dict[str, Any]) -> None:
    headers = {name for name, header in shown["headers"].items() if header.get("required")}
    assert headers <= set(response.headers)
    for name, header in shown["headers"].items():
        if name in response.headers:
            _validator(json.dumps(header["schema"]), None).validate(response.headers[name])
    unknown = {name for name in response.headers if name.startswith("x-")} - set(shown["headers"])
    assert not unknown, unknown
    assert response.headers["content-type"] == "application/json"
    schema = shown["content"]["application/json"]["schema"]
    version = response.request.headers.get("x-api-version")
    recorded = version if version in VERSIONS else None
    _validator(json.dumps(schema), recorded).validate(response.json())


@cache
def _document(version: str | None) -> dict[str, Any]:
    return document(version)


def _responses(call: Call, version: str | None) -> dict[str, Any]:
    found: dict[str, Any] = _document(version)["paths"][call.path][call.method]["responses"]
    return found


@cache
def _validator(schema: str, version: str | None) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": _document(version)["components"]}
    return Draft202012Validator(whole)
