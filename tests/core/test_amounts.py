"""Amounts that callers pass: one strict text form, exact decimals, and only InvalidAmount."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfflow.core.money import amount_of
from cfflow.errors import InvalidAmount

FORM = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]{1,2})?")

RIGHT: list[tuple[object, str]] = [
    (1, "1.00"),
    (999_999_999_999, "999999999999.00"),
    ("0.01", "0.01"),
    ("0.5", "0.50"),
    ("0.50", "0.50"),
    ("1", "1.00"),
    ("7.5", "7.50"),
    ("1000", "1000.00"),
    ("4200.5", "4200.50"),
    ("100.00", "100.00"),
    ("999999999999.99", "999999999999.99"),
    (Decimal("7.5"), "7.50"),
    (Decimal("4.2E+3"), "4200.00"),
    (Decimal("1.000"), "1.00"),
]

WRONG_TEXTS = [
    "",
    " ",
    "0",
    "0.0",
    "0.00",
    "-1",
    "+1",
    "-0",
    " 1",
    "1 ",
    "\n5\n",
    "5\n",
    "5\r",
    "5\x00",
    "1 000",
    "1_000",
    "1,000",
    "4200,50",
    "1e3",
    "1E3",
    "1e-7",
    "1e999999",
    "0x10",
    "\u0967\u0966\u0966",
    "\uff11",
    "1\u0660",
    "\u00b2",
    ".5",
    "5.",
    ".",
    "1..2",
    "1.2.3",
    "007",
    "00",
    "00.50",
    "0.001",
    "10.011",
    "1.000",
    "nan",
    "sNaN",
    "inf",
    "-inf",
    "Infinity",
    "ten",
    "\u20b9100",
    "1000000000000",
    "9" * 100_000,
    "\ud800",
]


class Word(StrEnum):
    """A text that is not an amount, as a member of an enum."""

    TEN = "ten"


class Size(IntEnum):
    """A number as a member of an enum."""

    LARGE = 42


class Masked(str):
    """An object whose `str()` is an amount."""

    __slots__ = ()

    def __str__(self) -> str:
        return "10"


class Bad:
    """An object whose `str()` raises an error."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


WRONG_OBJECTS: list[object] = [
    None,
    True,
    False,
    1.5,
    float("nan"),
    1j,
    b"1",
    [],
    {"amount": "1"},
    object(),
    int,
    Bad(),
    Mock(spec=str),
    Mock(spec=Decimal),
    Word.TEN,
    Masked("ten"),
    0,
    -1,
    10**12,
    10**5000,
    -(10**5000),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("Infinity"),
    Decimal("-Infinity"),
    Decimal("-0.01"),
    Decimal("-0"),
    Decimal("0.001"),
    Decimal("10.011"),
    Decimal("1e999999"),
    Decimal("1e-999999"),
    Decimal("1" * 5000),
]


def named(values: list[Any]) -> list[str]:
    """Return a name for each value; the `str()` of some values fails."""
    return [f"{type(value).__name__}{n}" for n, value in enumerate(values)]


@pytest.mark.parametrize(("value", "exact"), RIGHT)
def test_an_amount_has_exactly_two_decimals(value: object, exact: str) -> None:
    """Ints, strings and decimals give exact decimals."""
    assert str(amount_of(value)) == exact


def test_a_member_of_an_int_enum_is_its_number() -> None:
    """The result is a plain Decimal."""
    assert str(amount_of(Size.LARGE)) == "42.00"


@pytest.mark.parametrize("text", WRONG_TEXTS, ids=named(WRONG_TEXTS))
def test_a_text_of_any_other_form_is_refused(text: str) -> None:
    """No sign, space, underscore, exponent, other script, bare point or needless zero."""
    with pytest.raises(InvalidAmount) as refused:
        amount_of(text)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize("value", WRONG_OBJECTS, ids=named(WRONG_OBJECTS))
def test_what_is_no_amount_is_refused(value: object) -> None:
    """Any object is an InvalidAmount and no other error, however it behaves."""
    with pytest.raises(InvalidAmount) as refused:
        amount_of(value)
    assert len(str(refused.value)) < 100


@given(
    st.one_of(
        st.text(),
        st.from_regex(FORM, fullmatch=True),
        st.text(alphabet="0123456789.+-_eE ,\n\u0967\u0660\uff11", max_size=8),
    )
)
def test_a_text_is_refused_or_is_its_own_number(text: str) -> None:
    """An accepted text has the one form, and its value is the number that it shows."""
    try:
        amount = amount_of(text)
    except InvalidAmount:
        in_form = FORM.fullmatch(text)
        assert not in_form or not 0 < Decimal(text) < 10**12
        return
    assert FORM.fullmatch(text)
    assert text.isascii()
    assert amount == Decimal(text)
    assert amount.as_tuple().exponent == -2
