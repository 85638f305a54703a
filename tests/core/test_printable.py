"""What others wrote, as it is shown: one line, nothing in it acts, and nothing of it is hidden."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow import InvalidInput
from cfflow.core.arguments import check_text
from cfflow.core.bounds import PERSON_TEXT_MAX
from cfflow.core.printable import printable, safe_json

#: Each with how it is shown.
ESCAPED = {
    "\x1b[2J": "\\x1b[2J",
    "\x9b31m": "\\x9b31m",
    "\x07": "\\x07",
    "\x7f": "\\x7f",
    "a\nb": "a\\nb",
    "a\r\nb": "a\\r\\nb",
    "\t": "\\t",
    "\u2028": "\\u2028",
    "\u202eabc": "\\u202eabc",
    "\u2066": "\\u2066",
    "\u200b": "\\u200b",
    "\u200d": "\\u200d",
    "\ufeff": "\\ufeff",
    "\xad": "\\xad",
    "\u3164": "\\u3164",
    "\ufe0f": "\\ufe0f",
    "\ud800": "\\ud800",
    "\U000e0041": "\\U000e0041",
}
PLAIN = ["", "order_8123.1", "Café \u0939\u093f\u0928\u094d\u0926\u0940", "₹ 4,200.50", "a\xa0b"]

texts = st.text(st.characters(codec=None)) | st.sampled_from([*ESCAPED, *PLAIN])


def acts(char: str) -> bool:
    """Say whether a terminal does something with a character, or shows nothing of it."""
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize("text", ESCAPED)
def test_what_acts_or_hides_is_shown_as_an_escape(text: str) -> None:
    """Also what forges a line, and what changes the direction of the text after it."""
    assert printable(text) == ESCAPED[text]


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_text_is_shown_as_it_is(text: str) -> None:
    """In every script."""
    assert printable(text) == text


@given(text=texts)
def test_no_text_acts_once_it_is_printable(text: str) -> None:
    """And a printable text stays as it is: to make it so twice changes nothing."""
    shown = printable(text)
    assert [char for char in shown if acts(char)] == []
    assert printable(shown) == shown
    shown.encode()


@settings(max_examples=50, deadline=None)
@given(value=st.recursive(texts, lambda inner: st.dictionaries(texts, inner) | st.lists(inner)))
def test_json_keeps_its_value_and_nothing_in_it_acts(value: Any) -> None:
    """Whatever a string in it contains, halves of a pair too."""
    text = safe_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(text) == json.loads(json.dumps(value))
    assert [char for char in text if char != "\n" and acts(char)] == []


@pytest.mark.parametrize("name", ["actor", "note"])
@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "two\r\nlines",
        "a\ttab",
        "\x1b[2J",
        "a\x00b",
        "a\x9bb",
        "a\x7fb",
        "a\u2028b",
        "a\u202eb",
        "a\u2067b",
        "a\ud800b",
        "",
        " \n ",
        "x" * (PERSON_TEXT_MAX + 1),
        7,
        None,
    ],
)
def test_what_a_person_writes_is_one_line_of_text(name: str, text: Any) -> None:
    """A control character in it is refused: it is stored for good and shown to others."""
    with pytest.raises(InvalidInput, match=name):
        check_text(name, text)


@pytest.mark.parametrize(
    "text", ["asha@example.com", "\u0915\u094d\u200d\u0937", "ok \u2764\ufe0f", "x" * 500]
)
def test_what_scripts_and_emoji_need_is_accepted(text: str) -> None:
    """Joiners are part of the scripts of India."""
    assert check_text("note", f" {text}\n") == text
