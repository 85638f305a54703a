"""JSON Schemas that requests and responses share, and a small check of values against one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import reduce
from types import NoneType
from typing import Any

Schema = dict[str, Any]
Predicate = Callable[[object], bool]

NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
SOME_TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": ["boolean", "null"]}
AMOUNT: Schema = {"type": "number", "exclusiveMinimum": 0}
ORDER_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{3,45}$"}
CUSTOMER_ID: Schema = {"type": "string", "minLength": 3, "maxLength": 50}
PHONE: Schema = {"type": "string", "pattern": "^[0-9]{10}$"}
CURRENCY: Schema = {"type": "string", "pattern": "^[A-Z]{3}$"}
BANK_CODE: Schema = {"type": "integer", "minimum": 1000, "maximum": 9999}
LINK: Schema = {"const": "link"}
CARD_CHANNEL: Schema = {"type": "string", "enum": ["link", "post"]}
UPI_CHANNEL: Schema = {"type": "string", "enum": ["link", "collect", "qrcode"]}

# What a decoded JSON body holds for each type of a schema. A bool is an int in Python, so
# `_has_type` tests for it first.
_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, Decimal),
    # `dict` first: an isinstance check with an abstract class is slow.
    "object": (dict, Mapping),
    "null": (NoneType,),
}


def optional_text(low: int = 0, high: int = 1000) -> Schema:
    """Return the schema of a text of `low` to `high` characters, or null."""
    return {"type": ["string", "null"], "minLength": low, "maxLength": high}


def matcher(schema: Schema) -> Predicate:
    """Return a function that tests whether a decoded JSON value matches the schema.

    It knows the keywords that single fields use, and the values of an object's
    `additionalProperties`. It ignores `properties` and `required`: the fields inside an
    object have checks and error codes of their own.
    """
    if "anyOf" in schema:
        choices = [matcher(each) for each in schema["anyOf"]]
        return lambda value: any(matches(value) for matches in choices)
    if "const" in schema:
        return lambda value: bool(value == schema["const"])
    tests = [_has_type(schema["type"])]
    if "enum" in schema:
        tests.append(lambda value: value in schema["enum"])
    if "pattern" in schema:
        # `fullmatch`, because `$` alone would let a trailing newline pass.
        pattern = re.compile(schema["pattern"])
        tests.append(lambda value: not isinstance(value, str) or bool(pattern.fullmatch(value)))
    if "minLength" in schema or "maxLength" in schema:
        tests.append(_has_length(schema.get("minLength", 0), schema.get("maxLength")))
    if "minimum" in schema:
        tests.append(_is_between(schema["minimum"], schema["maximum"]))
    if "additionalProperties" in schema:
        tests.append(_has_values(schema["additionalProperties"], schema["maxProperties"]))
    return reduce(_both, tests)


def _both(first: Predicate, second: Predicate) -> Predicate:
    return lambda value: first(value) and second(value)


def _has_type(names: str | Collection[str]) -> Predicate:
    names = [names] if isinstance(names, str) else names
    permits_bool = "boolean" in names
    types = tuple(kind for name in names if name != "boolean" for kind in _PYTHON_TYPES[name])

    def test(value: object) -> bool:
        return permits_bool if isinstance(value, bool) else isinstance(value, types)

    return test


def _has_length(low: int, high: int | None) -> Predicate:
    def test(value: object) -> bool:
        if not isinstance(value, str):
            return True
        return low <= len(value) and (high is None or len(value) <= high)

    return test


def _is_between(low: int, high: int) -> Predicate:
    return lambda value: not isinstance(value, int | Decimal) or low <= value <= high


def _has_values(schema: Schema, most: int) -> Predicate:
    matches = matcher(schema)

    def test(value: object) -> bool:
        if not isinstance(value, Mapping):
            return True
        return len(value) <= most and all(matches(each) for each in value.values())

    return test
