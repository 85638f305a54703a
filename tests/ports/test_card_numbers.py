"""A card number in the gateway's texts is not kept, however its digits are written."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow.cashfree.texts import short, without_card_numbers, word

NUMBER = "4576238912771450"

SEPARATORS = (
    *(" ", "  ", "-", ".", ". ", "_", "/", ",", ":", "*", "\n", "\t", "\xa0", "\u2009", "\u3000"),
    *("\u200b", "\u200d", "\u2060", "\ufeff", "\xad", "\u202e", "\u0301", "\ufe0f\u20e3"),
    *("\u3164", "\u2011", "\u2013", "\u30fb", "\x00", "\x1b", "(", ") ", "\U000e0020", " - "),
)

#: The digits of every script, and those in circles, raised, and of full width.
SCRIPTS = [
    [chr(zero + n) for n in range(10)]
    for zero in range(0x110000)
    if unicodedata.category(chr(zero)) == "Nd" and unicodedata.decimal(chr(zero)) == 0
] + [list("⓪①②③④⑤⑥⑦⑧⑨"), list("⁰¹²³⁴⁵⁶⁷⁸⁹"), list("〇一二三四五六七八九")]

gaps = st.lists(st.sampled_from(SEPARATORS), max_size=3).map("".join)
around = st.text("abcxyz ,.;:-", max_size=20)


def digits_of(text: str) -> str:
    """Return the digits in a text, of whatever script, as ASCII."""
    values = [unicodedata.numeric(char, -1.0) for char in text]
    return "".join(f"{value:.0f}" for value in values if value in range(10))


@st.composite
def written(draw: st.DrawFn) -> str:
    """Return a card number in any digits, with anything between them."""
    number = draw(st.sampled_from([NUMBER, NUMBER[:13], NUMBER + "123"]))
    script = draw(st.sampled_from(SCRIPTS))
    digits = [draw(st.sampled_from([n, script[int(n)]])) for n in number]
    same = draw(st.none() | gaps)
    return "".join(
        f"{digit}{draw(gaps) if same is None else same if at % 4 == 3 else ''}"
        for at, digit in enumerate(digits)
    )


@settings(deadline=None)
@given(before=around, planted=written(), after=around)
def test_a_number_is_hidden_whatever_stands_between_its_digits(
    before: str, planted: str, after: str
) -> None:
    """None of its digits is left."""
    for keep in (without_card_numbers, short, lambda text: word(text) or ""):
        assert digits_of(keep(f"{before}{planted}{after}")) == ""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("declined by the issuer", "declined by the issuer"),
        ("call 1800 123 4567 today", "call 1800 123 4567 today"),
        ("at 2022-08-03 16:09:51 IST", "at xxxx IST"),
        ("order_8123 of 170.00 INR", "order_8123 of 170.00 INR"),
        ("card xxxxxx1111", "card xxxxxx1111"),
        ("2022-08-03T16:09:51", "2022-08-03T16:09:51"),
        (f"card {NUMBER}, sorry", "card xxxx, sorry"),
        (f"{NUMBER} and {NUMBER[::-1]}", "xxxx and xxxx"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 12", "\u0939\u093f\u0928\u094d\u0926\u0940 12"),
    ],
)
def test_the_rest_of_a_text_stays(text: str, kept: str) -> None:
    """Letters end a number, and twelve digits are no card. A time looks like one."""
    assert without_card_numbers(text) == kept


#: What a pattern could be slow at: runs that are just too short, long gaps, and other scripts.
UNITS = {
    "one digit": "1",
    "digits with dots": "1.",
    "digits far apart": "1" + "." * 90_000,
    "twelve digits": "1" * 12 + "a",
    "twelve digits with spaces": "1 " * 12 + "a",
    "twelve digits far apart": ("1" + "." * 80_000) * 12 + "a",
    "dots": ".",
    "letters": "a",
    "no width": "\u200b",
    "digits with no width between": "1\u200b",
    "another script": "\u0661",
    "circles": "①" * 12 + "x",
    "accents": "é1",
}


@pytest.mark.parametrize("name", UNITS)
def test_a_text_of_a_megabyte_takes_no_time(name: str) -> None:
    """The time grows with the length: a hostile text stops no payment."""
    unit = UNITS[name]
    text = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    began_s = time.process_time()
    without_card_numbers(text)
    assert time.process_time() - began_s < 1
    assert len(short(text)) <= 200


def test_a_text_of_every_character_is_read() -> None:
    """Also halves of a surrogate pair, which the decoder replaces before."""
    text = "".join(map(chr, range(0x10000)))
    assert "0123456789" in without_card_numbers(text)[:200]
