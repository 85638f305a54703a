"""Every field of a body, at every depth, and every form that JSON can have in its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["FORMS", "MISSING", "Path", "changed", "paths_of"]

#: Where a value stands in a body: names of fields, and places in lists.
Path = tuple[str | int, ...]

#: In place of a value: the field is not there at all.
MISSING: Final = object()

#: One value of every form, by its JSON text.
FORMS: Final[dict[str, Any]] = {
    "null": None,
    "true": True,
    "0": 0,
    "16381": 16381,
    "-1": -1,
    "1.5": 1.5,
    '""': "",
    '"text"': "text",
    "[]": [],
    "[1]": [1],
    "{}": {},
    '{"a":1}': {"a": 1},
    "missing": MISSING,
}


def paths_of(body: Any, at: Path = ()) -> Iterator[Path]:
    """Yield where each value of a body stands, the body as a whole left out."""
    inside: Any = body.items() if isinstance(body, dict) else ()
    for key, value in enumerate(body) if isinstance(body, list) else inside:
        yield (*at, key)
        yield from paths_of(value, (*at, key))


def changed(body: Any, path: Path, value: Any) -> Any:
    """Return a copy of a body with another value at this place, or with none."""
    whole = json.loads(json.dumps(body))
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole
