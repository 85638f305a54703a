"""A field of a request body: its JSON Schema, its error code, and the check of its value.

Each `Field` both validates and documents. The readers of request bodies check values with it,
and `openapi` publishes its schema, so that the document cannot differ from the behaviour.
Checks that no schema can express (a card's check digit, a time that must lie ahead) stay with
their readers. The tables are in `request_fields`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from cfflow.emulator import schemas
from cfflow.emulator.clock import IST
from cfflow.emulator.refusals import Refused, invalid
from cfflow.emulator.schemas import Schema

PAISA = Decimal("0.01")
# Quantizing an amount with a huge exponent would fail.
AMOUNT_LIMIT = Decimal(10) ** 12
# Times outside these years may not survive the conversion to Indian time and back.
YEAR_MIN, YEAR_MAX = 1971, 9000


@dataclass(frozen=True)
class Field:
    """One field of a request body.

    schema: what a value must match. code: the error code of a value that does not. problem:
    the text of that error, after the field's name. missing_code: the error code of an absent
    value. Without one, an absent value is checked like any other: it is valid if the schema
    permits null. blank_is_absent: whether "" counts as absent. ignore_case: whether a text
    may be in capitals. label: the name in error texts, if it is not `name`.
    """

    name: str
    schema: Schema
    code: str
    problem: str
    missing_code: str | None = None
    blank_is_absent: bool = True
    ignore_case: bool = False
    label: str | None = None

    @cached_property
    def _matches(self) -> schemas.Predicate:
        return schemas.matcher(self.schema)

    def error(self, problem: str | None = None) -> Refused:
        """Return the error of a wrong value."""
        return invalid(self.code, f"{self.label or self.name} : {problem or self.problem}")

    def check(self, value: object) -> Any:
        """Return the value. Raises `Refused` (400) if it does not match the schema."""
        checked = value.lower() if self.ignore_case and isinstance(value, str) else value
        if not self._matches(checked):
            raise self.error()
        return value

    def read(self, body: Mapping[str, Any]) -> Any:
        """Return the checked value of this field. Raises `Refused` (400)."""
        value = body.get(self.name)
        if self.missing_code is not None and self._is_absent(value):
            raise invalid(self.missing_code, f"{self.name} : is missing in the request")
        return self.check(value)

    def read_optional(self, body: Mapping[str, Any]) -> Any:
        """Return the checked value, or None if the field is absent. Raises `Refused` (400)."""
        value = body.get(self.name)
        return None if self._is_absent(value) else self.check(value)

    def _is_absent(self, value: object) -> bool:
        return value is None or (self.blank_is_absent and value == "")


class AmountField(Field):
    """An amount in rupees: a JSON number above zero with at most two decimals."""

    def check(self, value: object) -> Decimal:
        """Return exact rupees. Raises `Refused` (400), for a text or a boolean too."""
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.error("should be a number")
        amount = Decimal(value)
        if not 0 < amount < AMOUNT_LIMIT:
            raise self.error("should be above zero")
        exact = amount.quantize(PAISA)
        if exact != amount:
            raise self.error("should have at most two decimals")
        low = self.schema.get("minimum", 0)
        if exact < low:
            raise self.error(f"should be {low:.2f} at least")
        return exact


class TimeField(Field):
    """An ISO 8601 time; without an offset it is Indian time. Null means none."""

    def check(self, value: object) -> float | None:
        """Return seconds since the epoch, or None for null. Raises `Refused` (400)."""
        if value is None:
            return None
        try:
            parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            parsed = None
        if parsed is None or not YEAR_MIN <= parsed.year <= YEAR_MAX:
            raise self.error()
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=IST)).timestamp()


@dataclass(frozen=True)
class Shape:
    """The fields of one JSON object in a request.

    required: names of the fields that it must have. any_of: sets of names, of which it must
    have one whole set besides.
    """

    fields: tuple[Field, ...]
    required: tuple[str, ...] = ()
    any_of: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def _by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    def __getitem__(self, name: str) -> Field:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def schema(self, kind: str | list[str] = "object") -> Schema:
        """Return the JSON Schema of the object. kind: its JSON type or types."""
        schema: Schema = {
            "type": kind,
            "properties": {field.name: field.schema for field in self.fields},
        }
        if self.required:
            schema["required"] = list(self.required)
        if self.any_of:
            schema["anyOf"] = [{"required": list(names)} for names in self.any_of]
        return schema


def codes(shapes: Iterable[Shape]) -> set[str]:
    """Return every error code of the fields of these shapes."""
    found = [field for shape in shapes for field in shape]
    return {field.code for field in found} | {
        each.missing_code for each in found if each.missing_code
    }
