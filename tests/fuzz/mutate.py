"""Ways to spoil an input: JSON trees, TOML lines, texts and bytes, all drawn from one `Random`.

A JSON tree here is made of tokens as they are written, so that an edit can put in what no
encoder would: a number of a hundred thousand digits, a key twice, half of a character.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final

__all__ = ["Arr", "Node", "Obj", "spoil_bytes", "spoil_text", "spoil_toml", "spoil_tree", "tree_of"]


class Obj(list[tuple[bytes, "Node"]]):
    """A JSON object; a key may come twice."""


class Arr(list["Node"]):
    """A JSON array."""


#: A token is a number, a string, true, false or null, as it is written.
Node = Obj | Arr | bytes

_TOKENS: Final = (
    *(b"null", b"true", b"false", b"{}", b"[]", b'""', b"0", b"-0", b"-0.0", b"-1", b"0.005"),
    *(b"1e999999999", b"-1e999999999", b"1e-999999999", b"1E400", b"123e-2", b"1.00", b"01", b"1."),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1e18", b".5"),
    *(b"-9223372036854775809", b"340282366920938463463374607431768211456", b"999999999999.999"),
    *(b"NaN", b"Infinity", b"-Infinity", b'"NaN"', b'"Infinity"', b'"1e999999999"', b'"-0"'),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\x00"', b'"\xed\xa0\x80"', b'"\xff"'),
    *(b'"0001-01-01T00:00:00"', b'"9999-12-31T23:59:59-23:59"', b'"2021-02-30T00:00:00"'),
    *(b'"2021-07-23"', b'"2021-W30-5"', b'"1969-12-31T23:59:59Z"', b'"10000-01-01T00:00:00"'),
    *(b'"2021-07-23T12:15:06.999999999+05:30"', b'"24:00"', b'"javascript:alert(1)"'),
    *(b'"SUCCESS"', b'"FAILED"', b'"PENDING"', b'"VOID"', b'"CAPTURE"', b'"NOT_ATTEMPTED"'),
    *(b'"post"', b'"link"', b'"form"', b'"custom"', b'"collect"', b'"qrcode"', b'"RESEND_OTP"'),
    *(b'"4111111111111111"', b'"4111 1111 1111 1111"', b'"12"', b'"99"', b'"\xd9\xa1\xd9\xa2"'),
    *(b'"../../x"', b'"a\\nb"', b'"a\\r\\nx: y"', b'" "', b'"1"', b"1", b"12376123"),
)
#: Too costly to be drawn as often as the others.
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
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80",
    ),
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\n",
        b"\r\n",
        b"=",
        b"'",
        b"#",
        b"-",
        b"e9",
    ),
    *(
        b"\\u",
        b"\\ud83d",
        b"null",
        b"NaN",
        b"1e999",
        b"//",
        b"/*",
        b" ",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
    ),
)
_TOML: Final = (
    *("0", "-1", "1", "29", "31", "61", "1.5", "inf", "-inf", "nan", "0x7fffffffffffffffffffff"),
    *("1e999999999", "9" * 5_000, "9" * 30, "true", "false", '""', '"card"', "[]", "{}", "[[]]"),
    *('["card", "card"]', '["upi"]', '["card", 1]', '["gold"]', "[1, 2]", "[5, 1]", "[0]", "'x'"),
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "0000-00-00", "9999-99-99", '"""x"""'),
    *('"\\ud800"', '"\\U00110000"', '"\\u0000"', '"manual"', '"automatic"', '"review"', "{a = 1}"),
    *(
        "{digest = 1}",
        "[{}]",
        "1_000",
        "+0",
        "-0",
        "0o17",
        "604800",
        "604801",
        "31536001",
        "'a\nb'",
    ),
)
_TOML_GIANTS: Final = (
    "[" * 3_000,
    "[" * 400 + "]" * 400,
    "{a=" * 400 + "1" + "}" * 400,
    "[" + "1," * 20_000 + "1]",
    '"' + "x" * 100_000 + '"',
    ".".join("a" * 300) + " = 1",
    "1" * 100_000,
)
_TOML_LINES: Final = (
    *(
        "[hold]",
        "[otp]",
        "[[otp]]",
        "[pay.pay]",
        "[a.b.c]",
        "[]",
        "[flow",
        'name = "x"',
        "pay.a = 1",
    ),
    *(
        "digest = 'x'",
        "source = 'x'",
        "hold.expires_after_s = 60",
        "[hold.expires_after_s]",
        "debit = 60",
        "a.b = 1",
        "= 1",
        "name",
        "\x00",
    ),
    *(
        '"" = 1',
        "'a`b' = 1",
        '"\\u0060" = 1',
        "name.x = 1",
        "otp = {}",
        "otp = 1",
        "[channels]",
        'card = ["link"]',
        "card = []",
        "# \x01",
        "\ufeff",
    ),
)
_CHARACTERS: Final = "._-/\\ \x00\n٣é\ud800\u202e0919aZ%:+'\"1١²"


def tree_of(text: bytes | str) -> Node:
    """Return a JSON text as a tree of tokens."""
    found = json.loads(text, object_pairs_hook=_Pairs, parse_float=_Number, parse_int=_Number)
    return _node(found)


class _Pairs(list[tuple[str, Any]]):
    pass


class _Number(str):
    __slots__ = ()


def _node(value: Any) -> Node:
    if isinstance(value, _Pairs):
        return Obj((json.dumps(key).encode(), _node(item)) for key, item in value)
    if isinstance(value, list):
        return Arr(_node(item) for item in value)
    return value.encode() if isinstance(value, _Number) else json.dumps(value).encode()


def _write(node: Node, into: list[bytes]) -> None:
    if isinstance(node, bytes):
        into.append(node)
    elif isinstance(node, Obj):
        into.append(b"{")
        for at, (key, value) in enumerate(node):
            into.append((b"," if at else b"") + key + b":")
            _write(value, into)
        into.append(b"}")
    else:
        into.append(b"[")
        for at, item in enumerate(node):
            if at:
                into.append(b",")
            _write(item, into)
        into.append(b"]")


def text_of(tree: Node) -> bytes:
    """Return the bytes of a tree."""
    parts: list[bytes] = []
    _write(tree, parts)
    return b"".join(parts)


def spoil_tree(tree: Node, rng: Random, others: tuple[Node, ...] = ()) -> bytes:
    """Return the bytes of a tree after none to four edits, and now and then of bytes too.

    `others` are trees to take branches from.
    """
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        tree = _edited(tree, rng, others)
    text = text_of(tree)
    return spoil_bytes(text, rng) if rng.random() < 0.15 else text


def _edited(node: Node, rng: Random, others: tuple[Node, ...]) -> Node:
    """Return a copy of the node with one edit somewhere in it; what is not edited is shared."""
    if isinstance(node, bytes) or not node or rng.random() < 0.08:
        return _replaced(node, rng, others)
    at = rng.randrange(len(node))
    if isinstance(node, Arr):
        return _edited_array(node, at, rng, others)
    key, value = node[at]
    chosen = rng.random()
    pairs = Obj(node)
    if chosen < 0.66:
        pairs[at] = key, _edited(value, rng, others)
    elif chosen < 0.76:
        del pairs[at]
    elif chosen < 0.84:
        pairs.insert(rng.randrange(len(pairs) + 1), (key, _token(rng)))
    elif chosen < 0.90:
        pairs[at] = rng.choice((b'"x"', b'""', key[:-1] + b's"', b'"\\ud800"', b"1")), value
    else:
        other = rng.randrange(len(node))
        pairs[at], pairs[other] = (key, node[other][1]), (node[other][0], value)
    return pairs


def _edited_array(node: Arr, at: int, rng: Random, others: tuple[Node, ...]) -> Node:
    items, chosen = Arr(node), rng.random()
    if chosen < 0.7:
        items[at] = _edited(node[at], rng, others)
    elif chosen < 0.8:
        del items[at]
    elif chosen < 0.9:
        items.append(node[at])
    else:
        items.insert(at, _token(rng))
    return items


def _replaced(node: Node, rng: Random, others: tuple[Node, ...]) -> Node:
    chosen = rng.random()
    if chosen < 0.75:
        return _token(rng)
    if chosen < 0.85:
        return Arr([node])
    if chosen < 0.93 or not others:
        return Obj([(b'"a"', node)])
    return rng.choice(others)


def _token(rng: Random) -> bytes:
    chosen = rng.random()
    if chosen < 0.008:
        return rng.choice(_GIANTS)
    if chosen < 0.85:
        return rng.choice(_TOKENS)
    if chosen < 0.92:
        return str(rng.randrange(-(10 ** rng.randrange(1, 40)), 10**20)).encode()
    return json.dumps(spoil_text("2021-07-23T12:15:06+05:30", rng)).encode("utf-8", "surrogatepass")


def spoil_bytes(text: bytes, rng: Random) -> bytes:
    """Return the bytes after one to three cuts, flips, doublings and insertions."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, chosen = rng.randrange(len(text) + 1), rng.random()
        to = min(len(text), at + rng.choice((1, 1, 2, 4, 16, 200)))
        if chosen < 0.3:
            text = text[:at] + bytes((rng.randrange(256),)) + text[at + 1 :]
        elif chosen < 0.6:
            text = text[:at] + rng.choice(_BITS) + text[at:]
        elif chosen < 0.75:
            text = text[:at] + text[to:]
        elif chosen < 0.85:
            text = text[:to] + text[at:to] + text[to:]
        else:
            text = text[:at] if chosen < 0.95 else rng.choice(_BITS) + text
    return text


def spoil_text(text: str, rng: Random) -> str:
    """Return a text after some edits; half of a surrogate pair may be in it."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at, chosen = rng.randrange(len(text) + 1), rng.random()
        if chosen < 0.4:
            text = text[:at] + rng.choice(_CHARACTERS) + text[at:]
        elif chosen < 0.6:
            text = text[:at] + text[at + 1 :]
        elif chosen < 0.8:
            text = text[:at] + rng.choice(_CHARACTERS) + text[at + 1 :]
        elif chosen < 0.99:
            text += rng.choice(("1", ".1", "999999999999", "0", " ", "\n"))
        else:
            text *= rng.choice((2, 1_000))
    return text


def spoil_toml(text: str, rng: Random) -> bytes:
    """Return a TOML text after edits of its lines, and now and then of its bytes."""
    lines = text.split("\n")
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at, chosen = rng.randrange(len(lines)), rng.random()
        key, equals, _ = lines[at].partition("=")
        if chosen < 0.5 and equals:
            lines[at] = f"{key}= {_toml_value(rng)}"
        elif chosen < 0.6:
            del lines[at]
        elif chosen < 0.7:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif chosen < 0.8:
            lines[at] = spoil_text(lines[at], rng)
        else:
            lines.insert(at, rng.choice(_TOML_LINES))
        lines = lines or [""]
    whole = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoil_bytes(whole, rng) if rng.random() < 0.2 else whole


def _toml_value(rng: Random) -> str:
    chosen = rng.random()
    if chosen < 0.01:
        return rng.choice(_TOML_GIANTS)
    return rng.choice(_TOML) if chosen < 0.9 else str(rng.randrange(-10, 10**7))
