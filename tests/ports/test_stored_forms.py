"""What earlier versions stored must load, and a new form needs a new version.

The first is tests/ports/stored/0.2.0.json; tests/ports/stored/0.3.0.json came with the details of
an attempt and with who caused what.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

import cfflow
from tests.ports.stored_forms import FOLDER, loaded, path_of, shown, written

VERSIONS = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", VERSIONS, ids=[path.stem for path in VERSIONS])
def test_what_a_version_stored_loads_and_shows_the_same(path: Path) -> None:
    """Fields may have been appended since; what was stored is what is shown."""
    for name, form in json.loads(path.read_text()).items():
        now = json.loads(msgspec.json.encode(shown(loaded(form))))
        then = form["shows"]
        for was, payment in zip(then.pop("payments"), now.pop("payments"), strict=True):
            assert _begins_as(payment, was), name
        assert now == then, name


def _begins_as(now: object, then: object) -> bool:
    """Return whether a value is what it was, with fields appended at most, at any depth."""
    if not isinstance(now, list) or not isinstance(then, list):
        return now == then
    pairs = zip(now, then, strict=False)
    return len(now) >= len(then) and all(_begins_as(new, old) for new, old in pairs)


def test_this_version_writes_what_it_has_written_before() -> None:
    """Who changes the stored form raises the version, and keeps the bytes of both."""
    stored = json.loads(path_of(cfflow.__version__).read_text())
    assert json.loads(msgspec.json.encode(written())) == stored
