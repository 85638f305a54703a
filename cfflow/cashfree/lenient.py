"""Decoding of answers in which only some fields decide.

The gateway changes the type of fields without notice (gateway.md#values). An answer must not
become useless because `auth_id` is a number today. But a status or an amount of another type must
not be ignored either: the payment would seem to be where it is not.

So each field of a struct is one of two kinds. A field whose type is `Decides[...]` may change what
cfflow does about money: the id, the status, the amounts. When it has another type than declared,
the whole answer does not decode. Every other field is only shown or logged. When it has another
type than declared, it keeps its default, and the rest of the answer is read.

Usual JSON is decoded in one fast pass. Only where that fails, the answer is read a second time,
field by field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin

import msgspec

_T = TypeVar("_T")

_DECIDES: Final = msgspec.Meta(extra={"decides": True})

#: The type of a field that decides: `status: Decides[str | None] = None`. Other types of JSON in
#: its place make the whole answer undecodable.
Decides = Annotated[_T, _DECIDES]

#: What decoding raises for bytes that do not have the form that was asked for.
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)

#: The gateway sends these in place of an optional object that is not there.
_ABSENT: Final = frozenset({b"null", b"[]", b"{}", b'""'})
_BLANKS: Final = b" \t\r\n"

#: Each escape of a JSON text: a pair of surrogates, one without its partner, and all others.
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..|\\.", re.DOTALL
)
_LONE_B: Final = len(rb"\ud83d")

_Read = Callable[[bytes | msgspec.Raw], Any]

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Field(NamedTuple):
    """How one field of a struct is read: its name here, its key in JSON, its own decoder."""

    name: str
    key: str
    read: _Read
    decides: bool
    required: bool


def decoder(kind: type[_T]) -> Callable[[bytes], _T]:
    """Return a function that decodes a struct or a list of structs.

    It raises one of `UNREADABLE` for bytes that are not such JSON, or in which a field that
    decides has another type or is required and missing. In a list such an entry becomes what
    its method `with_ids_only` returns, which raises `ValueError` where it has no id either.
    """
    at_once = msgspec.json.Decoder(kind).decode

    def decode(body: bytes) -> _T:
        try:
            return at_once(body)
        except UNREADABLE:
            found: _T = _reader(kind)(without_lone_surrogates(body))
            return found

    return decode


def without_lone_surrogates(body: bytes) -> bytes:
    """Return JSON in which the replacement character stands for each half of a pair.

    Half a pair is left where a text was cut inside an emoji. It is valid JSON, but msgspec
    refuses the whole body because of it.
    """
    return _ESCAPE.sub(lambda found: rb"\ufffd" if len(found[0]) == _LONE_B else found[0], body)


def _reader(kind: Any) -> _Read:
    """Return the function that reads a struct or a list of structs field by field."""
    if get_origin(kind) is list:
        return partial(_read_list, *get_args(kind))
    return partial(_read_struct, kind)


def _read_list(kind: Any, body: bytes | msgspec.Raw) -> list[Any]:
    return [_read_entry(kind, entry) for entry in _list(body)]


def _read_entry(kind: Any, entry: msgspec.Raw) -> Any:
    found = _object(entry)
    try:
        return _built(kind, found)
    except UNREADABLE:
        # One entry that cannot be read must not hide the others.
        return _built(kind, found, strict=False).with_ids_only()


def _read_struct(kind: Any, body: bytes | msgspec.Raw) -> Any:
    return _built(kind, _object(body))


def _read_inner(kind: Any, body: msgspec.Raw) -> Any:
    """Return a struct inside another one, None where an empty value stands for it."""
    if bytes(body).translate(None, _BLANKS) in _ABSENT:
        return None
    return _read_struct(kind, body)


def _built(kind: Any, found: Mapping[str, msgspec.Raw], *, strict: bool = True) -> Any:
    """Return a struct of these fields, without those that have another type.

    `strict`: a field that decides and has another type raises one of `UNREADABLE`.
    """
    values: dict[str, Any] = {}
    for field in _fields(kind):
        if field.key not in found:
            if field.required:
                raise ValueError(f"{field.key} is missing")
            continue
        try:
            values[field.name] = field.read(found[field.key])
        except UNREADABLE:
            if strict and field.decides:
                raise
    return kind(**values)


@cache
def _fields(kind: Any) -> tuple[_Field, ...]:
    """Return how the fields of a struct are read; made when the first unusual answer comes."""
    return tuple(
        _Field(
            field.name,
            field.encode_name,
            _field_reader(field.type),
            _DECIDES in getattr(field.type, "__metadata__", ()),
            field.required,
        )
        for field in msgspec.structs.fields(kind)
    )


def _field_reader(annotation: Any) -> _Read:
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    for part in get_args(plain):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return partial(_read_inner, part)
    return msgspec.json.Decoder(plain).decode
