"""The gateway's texts as they may be kept: without card numbers, and of limited length."""

from __future__ import annotations

import re
from typing import Final

from cfflow.core.bounds import TEXT_MAX, WORD_MAX

_CARD_DIGITS_MIN: Final = 13

#: Thirteen digits or more, with anything between them that is neither a letter nor a digit. Each
#: part takes all that it can and gives nothing back, so the time grows with the length alone.
_CARD_NUMBER: Final = re.compile(rf"[0-9](?:[^0-9A-Za-z]*+[0-9]){{{_CARD_DIGITS_MIN - 1},}}+")

_DIGIT: Final = re.compile("[0-9]")

#: Letters by Unicode's count, of which nothing is shown.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0")


def without_card_numbers(text: str) -> str:
    """Return a text in which no number is as long as a card's.

    Digits of every script count, circled and raised ones too, and whatever stands between them
    except letters: spaces of all widths, dots, hyphens, characters without a width. A longer
    number, and a date with its time, is hidden too: the text is for people.
    """
    if len(text) < _CARD_DIGITS_MIN or (text.isascii() and not _DIGIT.search(text)):
        return text
    shape = text if text.isascii() else _shape(text)
    parts, end = [], 0
    for found in _CARD_NUMBER.finditer(shape):
        parts += [text[end : found.start()], "xxxx"]
        end = found.end()
    return "".join([*parts, text[end:]]) if parts else text


def _shape(text: str) -> str:
    """Return a text of the same length in ASCII: what is a digit, a letter, or neither."""
    others = {ord(char): _kind(char) for char in set(text) if not char.isascii()}
    return text.translate(others)


def _kind(char: str) -> str:
    if char.isnumeric():
        return "0"
    return "a" if char.isalnum() and char not in _FILLERS else " "


def short(text: str | None, limit: int = TEXT_MAX) -> str:
    """Return a text for people as it is kept: no card number, and its first characters."""
    # Masked as a whole before it is cut: half of a number would not look like one.
    return without_card_numbers(text or "")[:limit]


def word(text: str | None, limit: int = WORD_MAX) -> str | None:
    """Return one of the gateway's words as it is kept; one of unusual length is cut."""
    if text is None or len(text) < min(_CARD_DIGITS_MIN, limit):
        # Most words: shorter than a card number and than the limit.
        return text
    return without_card_numbers(text)[:limit]
