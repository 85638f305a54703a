"""Strategies for spoiled inputs: JSON, TOML, msgpack, texts and bytes, made of good ones.

JSON is edited where it is written: a patch puts in what no encoder would, such as a number
of a hundred thousand digits, a key twice, or half of a character.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, AnyStr, Final, NamedTuple

import msgspec
from hypothesis import strategies as st

__all__ = [
    "Document",
    "mostly",
    "planted_texts",
    "spoiled_bytes",
    "spoiled_json",
    "spoiled_packed",
    "spoiled_text",
    "spoiled_toml",
]

_TOKENS: Final = (
    *(b"null", b"true", b"false", b"{}", b"[]", b'""', b"0", b"-0", b"-0.0", b"-1", b"0.005"),
    *(b"1e999999999", b"-1e999999999", b"1e-999999999", b"1E400", b"123e-2", b"1.00", b"01"),
    *(b"1.", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1e18"),
    *(b".5", b"-9223372036854775809", b"340282366920938463463374607431768211456"),
    *(b"999999999999.999", b"NaN", b"Infinity", b"-Infinity", b'"NaN"', b'"Infinity"'),
    *(b'"1e999999999"', b'"-0"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\x00"'),
    *(b'"\xed\xa0\x80"', b'"\xff"', b'"0001-01-01T00:00:00"', b'"9999-12-31T23:59:59-23:59"'),
    *(b'"2021-02-30T00:00:00"', b'"2021-07-23"', b'"2021-W30-5"', b'"1969-12-31T23:59:59Z"'),
    *(b'"10000-01-01T00:00:00"', b'"2021-07-23T12:15:06.999999999+05:30"', b'"24:00"'),
    *(b'"javascript:alert(1)"', b'"SUCCESS"', b'"FAILED"', b'"PENDING"', b'"VOID"'),
    *(b'"CAPTURE"', b'"NOT_ATTEMPTED"', b'"post"', b'"link"', b'"form"', b'"custom"'),
    *(b'"collect"', b'"qrcode"', b'"RESEND_OTP"', b'"4111111111111111"'),
    *(b'"4111 1111 1111 1111"', b'"12"', b'"99"', b'"\xd9\xa1\xd9\xa2"', b'"../../x"'),
    *(b'"a\\nb"', b'"a\\r\\nx: y"', b'" "', b'"1"', b"1", b"12376123"),
)
#: So large that they show what takes too long or too much memory.
_GIANTS: Final = (
    b"1" * 100_000,
    b"0." + b"3" * 50_000,
    b"1e" + b"9" * 5_000,
    b'"' + b"x" * 200_000 + b'"',
    b'"' + b"1 " * 50_000 + b'"',
    b'"' + b"1" * 5_000 + b'"',
    b"[" * 50_000 + b"]" * 50_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b"[" + b"1," * 20_000 + b"1]",
    b"[" * 600 + b"]" * 600,
    b'{"a":' * 1_100 + b"1" + b"}" * 1_100,
)
_BITS: Final = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\xff", b"\xc3\x28", b"\xed\xa0\x80"),
    *(b"\xf4\x90\x80", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"="),
    *(b"'", b"#", b"-", b"e9", b"\\u", b"\\ud83d", b"null", b"NaN", b"1e999", b"//", b"/*"),
    *(b" ", b"\xc2\x85", b"\xe2\x80\xa8"),
)
_TOML: Final = (
    *("0", "-1", "1", "29", "31", "61", "1.5", "inf", "-inf", "nan"),
    *("0x7fffffffffffffffffffff", "1e999999999", "9" * 5_000, "9" * 30, "true", "false", '""'),
    *('"card"', "[]", "{}", "[[]]", '["card", "card"]', '["upi"]', '["card", 1]', '["gold"]'),
    *("[1, 2]", "[5, 1]", "[0]", "'x'", "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00"),
    *("0000-00-00", "9999-99-99", '"""x"""', '"\\ud800"', '"\\U00110000"', '"\\u0000"'),
    *('"manual"', '"automatic"', '"review"', "{a = 1}", "{digest = 1}", "[{}]", "1_000", "+0"),
    *("-0", "0o17", "604800", "604801", "31536001", "'a\nb'"),
)
_TOML_GIANTS: Final = (
    "[" * 3_000,
    "[" * 400 + "]" * 400,
    "{a=" * 400 + "1" + "}" * 400,
    "[" + "1," * 20_000 + "1]",
    '"' + "x" * 100_000 + '"',
    ".".join("a" * 300) + " = 1",
    ".".join("a" * 8_000) + " = 1",
    "1\n" + ".".join("a" * 190) + " = 1\nb = 1" * 35,
    "1\n[" + ".".join("a" * 190) + "]\n" + "\n".join(f"k{n} = 1" for n in range(1_200)),
    '"' + "\\u0041" * 60 + '"',
    "1" * 100_000,
)
_TOML_LINES: Final = (
    *("[hold]", "[otp]", "[[otp]]", "[pay.pay]", "[a.b.c]", "[]", "[flow", 'name = "x"'),
    *("pay.a = 1", "digest = 'x'", "source = 'x'", "hold.expires_after_s = 60"),
    *("[hold.expires_after_s]", "debit = 60", "a.b = 1", "= 1", "name", "\x00", '"" = 1'),
    *("'a`b' = 1", '"\\u0060" = 1', "name.x = 1", "otp = {}", "otp = 1", "[channels]"),
    *('card = ["link"]', "card = []", "# \x01", "\ufeff"),
)
_CHARACTERS: Final = "._-/\\ \x00\n٣é\ud800\u202e0919aZ%:+'\"1١²"
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, 10**15),
    *(253402300800000, float("nan"), float("inf"), -0.0, "", "x", "captured", "authorized"),
    *("created", "failed", "otp_pending", "nothing", "NaN", "Infinity", "1e999999999", "-1"),
    *("0.001", "1" * 5_000, b"", b"\xff", b"x" * 1_000, [], {}, [[]], {"a": [1]}, {"": None}),
    *([None] * 40, 64, 255, -64, msgspec.msgpack.Ext(1, b"x")),
    *(msgspec.msgpack.Ext(-1, b"\xff" * 12), "x" * 100_000),
)
#: They clear the screen, forge a line, turn the text round, or hide.
_ACTING: Final = (
    *("\x1b[2J\x9b31m", "x\r\nFORGED", "\u202e\u200b", "a\u2028b", "[red]\x07\t", "\U000e0041\x85"),
)
_DEEP: Final = (b"\x91" * 100_000, b"\x81\xa1a" * 50_000, b"\x91" * 700 + b"\xc0")


class Patch(NamedTuple):
    """What stands at `start` to `end` of a text becomes `new`."""

    start: int
    end: int
    new: bytes


class Document:
    """A good JSON text, and where each of its values and members stands."""

    def __init__(self, text: bytes | str) -> None:
        self._written = bytearray()
        self.values: list[tuple[int, int]] = []
        self.members: list[tuple[int, int, int]] = []
        self._write(json.loads(text))
        self.text = bytes(self._written)

    @property
    def keys(self) -> set[bytes]:
        """The keys of all members, as they are written."""
        return {self.text[start:key_end] for start, key_end, _ in self.members}

    def _write(self, value: Any) -> None:
        start = len(self._written)
        if isinstance(value, dict):
            self._write_all(b"{", value.items(), b"}", self._write_member)
        elif isinstance(value, list):
            self._write_all(b"[", value, b"]", self._write)
        else:
            self._written += json.dumps(value).encode()
        self.values.append((start, len(self._written)))

    def _write_all(
        self, opens: bytes, items: Iterable[Any], ends: bytes, write: Callable[[Any], None]
    ) -> None:
        self._written += opens
        for at, item in enumerate(items):
            self._written += b"," if at else b""
            write(item)
        self._written += ends

    def _write_member(self, member: tuple[str, Any]) -> None:
        start = len(self._written)
        self._written += json.dumps(member[0]).encode()
        key_end = len(self._written)
        self._written += b":"
        self._write(member[1])
        self.members.append((start, key_end, len(self._written)))

    def patches(self, tokens: st.SearchStrategy[bytes]) -> st.SearchStrategy[Patch]:
        """Return patches of this text: values replaced or wrapped, members out, twice, renamed."""
        values = st.sampled_from(self.values)
        patches = [
            *[st.builds(lambda at, token: Patch(at[0], at[1], token), values, tokens)] * 3,
            values.map(lambda at: Patch(at[0], at[1], b"[" + self.text[slice(*at)] + b"]")),
            values.map(lambda at: Patch(at[0], at[1], b'{"a":' + self.text[slice(*at)] + b"}")),
        ]
        if self.members:
            members = st.sampled_from(self.members)
            keys = st.sampled_from([b'"x"', b'""', b'"\\ud800"', b"1", *sorted(self.keys)])
            patches += [
                members.map(self._without),
                st.builds(self._twice, members, tokens),
                st.builds(lambda at, key: Patch(at[0], at[1], key), members, keys),
            ]
        return st.one_of(patches)

    def _without(self, member: tuple[int, int, int]) -> Patch:
        start, _, end = member
        if self.text[end : end + 1] == b",":
            return Patch(start, end + 1, b"")
        return Patch(start - (self.text[start - 1 : start] == b","), end, b"")

    def _twice(self, member: tuple[int, int, int], token: bytes) -> Patch:
        start, key_end, end = member
        key, whole = self.text[start:key_end], self.text[start:end]
        return Patch(start, end, whole + b"," + key + b":" + token)


@cache
def spoiled_json(documents: tuple[Document, ...]) -> st.SearchStrategy[bytes]:
    """Return one of the documents after none to four patches, sometimes with spoiled bytes.

    Values of any document may be put in the place of another value.
    """
    found = {document.text[slice(*at)] for document in documents for at in document.values}
    branches = st.sampled_from(sorted(found))
    tokens = st.one_of(_tokens, _tokens, branches)
    spoiled = {
        document.text: st.builds(
            _patched, st.just(document.text), st.lists(document.patches(tokens), max_size=4)
        )
        for document in documents
    }
    whole = st.sampled_from(list(spoiled)).flatmap(spoiled.__getitem__)
    return mostly(whole, whole.flatmap(spoiled_bytes))


def _patched(text: bytes, patches: Iterable[Patch]) -> bytes:
    """Apply patches from the end on; one that overlaps another is left out."""
    limit = len(text)
    for start, end, new in sorted(patches, reverse=True):
        if end <= limit:
            text, limit = text[:start] + new + text[end:], start
    return text


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy that draws from `usual`, and about every eighth time from `rare`."""
    return st.integers(0, 7).flatmap(lambda drawn: rare if drawn == 3 else usual)


def _edited(
    text: AnyStr, pieces: st.SearchStrategy[AnyStr], min_edits: int
) -> st.SearchStrategy[AnyStr]:
    """Return a text after up to three cuts, insertions and replacements."""
    cuts = st.sampled_from((0, 0, 1, 1, 2, 4, 16, 200))
    edit = st.tuples(st.integers(0, len(text)), cuts, pieces)

    def apply(edits: Iterable[tuple[int, int, AnyStr]]) -> AnyStr:
        done = text
        for at, cut, piece in edits:
            done = done[:at] + piece + done[at + cut :]
        return done

    return st.lists(edit, min_size=min_edits, max_size=3).map(apply)


def spoiled_bytes(text: bytes) -> st.SearchStrategy[bytes]:
    """Return bytes after one to three cuts, flips and insertions."""
    return _edited(text, st.sampled_from(_BITS) | st.binary(max_size=1), 1)


def spoiled_text(text: str) -> st.SearchStrategy[str]:
    """Return a text after some edits; half of a surrogate pair may be in it."""
    ends = st.sampled_from(("1", ".1", "999999999999", "0", " ", "\n", text, text * 1_000))
    edited = _edited(text, st.sampled_from(_CHARACTERS) | st.just(""), 0)
    return mostly(edited, ends.map(lambda end: text + end))


def spoiled_toml(text: str) -> st.SearchStrategy[bytes]:
    """Return a TOML text after edits of its lines, sometimes with spoiled bytes."""
    lines = text.split("\n")
    numbers = st.integers(-10, 10**7).map(str)
    values = mostly(st.sampled_from(_TOML) | numbers, st.sampled_from(_TOML_GIANTS))

    def edits(at: int) -> st.SearchStrategy[tuple[int, list[str]]]:
        key, equals, _ = lines[at].partition("=")
        become = [
            *[values.map(lambda value: [f"{key}= {value}"])] * (3 if equals else 0),
            st.sampled_from(([], [lines[at]] * 2)),
            spoiled_text(lines[at]).map(lambda line: [line]),
            st.sampled_from(_TOML_LINES).map(lambda line: [line, lines[at]]),
        ]
        return st.tuples(st.just(at), st.one_of(become))

    def whole(changes: Iterable[tuple[int, list[str]]]) -> bytes:
        changed = dict(changes)
        kept = [line for at in range(len(lines)) for line in changed.get(at, [lines[at]])]
        return "\n".join(kept).encode("utf-8", "surrogatepass")

    edited = st.lists(st.integers(0, len(lines) - 1).flatmap(edits), max_size=3).map(whole)
    return mostly(edited, edited.flatmap(spoiled_bytes))


def spoiled_packed(blob: bytes) -> st.SearchStrategy[bytes]:
    """Return msgpack bytes with one to three of their values changed, or some of their bytes."""
    value = msgspec.msgpack.decode(blob)
    edit = st.tuples(st.sampled_from(list(_paths(value))), st.sampled_from(_EDITS), _values)

    def edited(edits: Iterable[tuple[tuple[Any, ...], str, Any]]) -> bytes:
        done = value
        for path, kind, new in edits:
            done = _with(done, path, kind, new)
        return msgspec.msgpack.encode(done)

    deep = st.builds(
        lambda at, what: blob[:at] + what + blob[at:],
        st.integers(0, len(blob)),
        st.sampled_from(_DEEP),
    )
    changed = st.lists(edit, min_size=1, max_size=3).map(edited)
    return st.one_of(changed, changed, mostly(spoiled_bytes(blob), deep))


def planted_texts(blob: bytes) -> st.SearchStrategy[bytes]:
    """Return msgpack bytes with one to three of their texts replaced by ones that act."""
    value = msgspec.msgpack.decode(blob)
    places = [path for path in _paths(value) if isinstance(_at(value, path), str)]
    edit = st.tuples(st.sampled_from(places), st.sampled_from(_ACTING) | st.text(max_size=20))

    def edited(edits: Iterable[tuple[tuple[Any, ...], str]]) -> bytes:
        done = value
        for path, text in edits:
            done = _with(done, path, "set", text)
        return msgspec.msgpack.encode(done)

    return st.lists(edit, min_size=1, max_size=3).map(edited)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    """Return what a path leads to."""
    for key in path:
        value = value[key]
    return value


_EDITS: Final = ("set", "set", "set", "delete", "append", "repeat")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """Yield the way to every value inside another one."""
    yield path
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        yield from _paths(item, (*path, key))


def _with(value: Any, path: tuple[Any, ...], kind: str, new: Any) -> Any:
    """Return a copy with one edit at the end of a path, or above where the path is gone."""
    if not path or not isinstance(value, dict | list):
        return new
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    key = path[0]
    if key not in (changed if isinstance(changed, dict) else range(len(changed))):
        return new
    if len(path) > 1 or kind == "set":
        changed[key] = _with(changed[key], path[1:], kind, new)
    elif kind == "delete":
        del changed[key]
    elif isinstance(changed, list):
        changed[key : key + 1] = [changed[key]] * 100 if kind == "repeat" else [changed[key], new]
    else:
        changed[key] = [changed[key], new]
    return changed


_values: Final = st.sampled_from(_VALUES)
_tokens: Final = mostly(
    st.sampled_from(_TOKENS),
    st.one_of(
        st.sampled_from(_GIANTS),
        st.integers(-(10**40), 10**40).map(lambda number: str(number).encode()),
        spoiled_text("2021-07-23T12:15:06+05:30").map(
            lambda text: json.dumps(text).encode("utf-8", "surrogatepass")
        ),
    ),
)
