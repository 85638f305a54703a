"""All mistakes of a table of settings at once, in plain words: key, what is wrong, what is allowed.

A decoder stops at the first value that it cannot use. Whoever corrects a file wants to see all of
them, and what may stand there instead, so each value is tried by itself here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from cfflow.core.printable import printable

#: A value or a key of the file is shown up to this length.
_SHOWN_MAX: Final = 40
#: So many entries of a list are shown.
_ENTRIES_MAX: Final = 5


class Mistake(msgspec.Struct, frozen=True):
    """One thing to correct. `key` is empty for the whole text; `allowed` where nothing is."""

    key: str
    wrong: str
    allowed: str = ""

    def __str__(self) -> str:
        """Return one line: `otp.submits_max: 9 is not allowed; allowed: a whole number ...`."""
        start = f"{self.key}: " if self.key else ""
        end = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{start}{self.wrong}{end}"


def sift(
    document: Mapping[str, Any],
    kind: type[msgspec.Struct],
    *,
    hidden: Collection[str] = (),
    within: str = "",
) -> tuple[dict[str, Any], list[Mistake]]:
    """Return what of a table can be used, and every mistake in it.

    `kind` says which keys there are and what each may be; `hidden` are fields that no file has,
    `within` is the table's own key with a dot.
    """
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind) if f.name not in hidden}
    usable: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, value in document.items():
        key = f"{within}{_cut(printable(name))}"
        field = fields.get(name)
        table = None if field is None else _table_in(field.type)
        if field is None:
            mistakes.append(Mistake(key, "unknown key", ", ".join(fields)))
        elif table is not None and isinstance(value, dict):
            usable[name], inner = sift(value, table, within=f"{key}.")
            mistakes += inner
        elif _fits(value, field.type):
            usable[name] = value
        else:
            mistakes.append(Mistake(key, _wrong(value, field.type), allowed(field.type)))
    for name, field in fields.items():
        if field.required and name not in document:
            mistakes.append(Mistake(f"{within}{name}", "is missing", allowed(field.type)))
    return usable, mistakes


def allowed(kind: Any) -> str:
    """Return in words what a value of this type may be."""
    base, limits = _limits_of(kind)
    parts = [part for part in get_args(base) if part is not type(None)]
    if limits.description:
        return limits.description
    if get_origin(base) is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(map(shown, parts))
    if get_origin(base) is tuple:
        most = f" to {limits.max_length}" if limits.max_length else " or more"
        return f"a list of {limits.min_length or 0}{most} entries, each {allowed(parts[0])}"
    if parts:
        return ", or ".join(allowed(part) for part in parts)
    if base in {int, float}:
        number = "a whole number" if base is int else "a number"
        return f"{number} from {limits.ge} to {limits.le}"
    if base is str:
        return f"a text of at most {limits.max_length} characters"
    names = (field.encode_name for field in msgspec.structs.fields(base))
    return f"a table with any of {', '.join(names)}"


def shown(value: Any) -> str:
    """Return a value as TOML writes it, cut where it is long; a list or a table by its kind."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, str):
        return f'"{_cut(printable(value))}"'
    return str(value).lower() if isinstance(value, bool) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _wrong(value: Any, kind: Any) -> str:
    """Return what is wrong with a value: of a list, the entries that cannot be used."""
    base, _ = _limits_of(kind)
    lists = [part for part in (base, *get_args(base)) if get_origin(_limits_of(part)[0]) is tuple]
    if not (lists and isinstance(value, list)):
        return f"{shown(value)} is not allowed"
    entry = get_args(_limits_of(lists[0])[0])[0]
    bad = list(dict.fromkeys(shown(each) for each in value if not _fits(each, entry)))
    if not bad:
        return f"a list of {len(value)} entries is not allowed"
    more = f" and {len(bad) - _ENTRIES_MAX} more" if len(bad) > _ENTRIES_MAX else ""
    return f"{', '.join(bad[:_ENTRIES_MAX])}{more} is not allowed"


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _limits_of(kind: Any) -> tuple[Any, msgspec.Meta]:
    """Return a type without its limits, and the limits; empty ones if it has none."""
    if get_origin(kind) is not Annotated:
        return kind, msgspec.Meta()
    base, *notes = get_args(kind)
    return base, _first_meta(notes)


def _first_meta(notes: Iterable[Any]) -> msgspec.Meta:
    return next((note for note in notes if isinstance(note, msgspec.Meta)), msgspec.Meta())


def _table_in(kind: Any) -> type[msgspec.Struct] | None:
    """Return the table that a value of this type may be, None if it may be none."""
    kinds = (kind, *get_args(kind))
    tables = (each for each in kinds if isinstance(each, type) and issubclass(each, msgspec.Struct))
    return next(tables, None)
