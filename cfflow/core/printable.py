"""Text as it may be written to a terminal or a log: what acts or hides is shown as an escape.

A note, an id or a gateway's message can contain a control character that clears the screen, a
line break that forges a line, or a character that changes the direction of the text after it.
"""

from __future__ import annotations

import re
from typing import Final

#: Spaces of other widths. Python does not count them as printable, and they do no harm.
_SPACES: Final = re.compile(r"[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")

#: Printable by Python's count, and nothing is shown of them: joiners, fillers, variation selectors.
_INVISIBLE: Final = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

#: What no line of text that a person writes needs: control characters, line breaks, and changes
#: of direction that last. Halves of a surrogate pair cannot be stored.
_CONTROLS: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_LATIN: Final = 0x100
_BASIC: Final = 0x10000


def has_controls(text: str) -> bool:
    """Whether a text has a control character, a line break or a lasting change of direction.

    Joiners are none of these: the scripts of India and emoji need them.
    """
    return _CONTROLS.search(text) is not None


def printable(text: str) -> str:
    r"""Return a text as one line in which nothing acts: a control character becomes `\x1b`.

    Line breaks, changes of direction and characters without a width are escaped too.
    """
    if text.isprintable() and text.isascii():
        return text
    return "".join(char if _is_shown(char) else _escape(char) for char in text)


def safe_json(text: str) -> str:
    r"""Return a JSON text with the same value, in which what acts or hides is written `\u001b`.

    An encoder escapes only what JSON requires. Line breaks between the values stay.
    """
    return "".join(char if char == "\n" or _is_shown(char) else _json(char) for char in text)


def _is_shown(char: str) -> bool:
    if char.isprintable():
        return char.isascii() or not _INVISIBLE.match(char)
    return _SPACES.match(char) is not None


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[char]
    if code < _LATIN:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _BASIC else f"\\U{code:08x}"


def _json(char: str) -> str:
    """Return JSON's own escape, which is two halves of a pair for a code above 16 bits."""
    code = ord(char)
    if code < _BASIC:
        return f"\\u{code:04x}"
    high, low = divmod(code - _BASIC, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
