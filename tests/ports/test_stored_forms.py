"""What earlier versions stored must load, and a new form needs a new version.

The first of them is tests/ports/stored/0.2.0.json.
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
            assert payment[: len(was)] == was, name
        assert now == then, name


def test_this_version_writes_what_it_has_written_before() -> None:
    """Who changes the stored form raises the version, and keeps the bytes of both."""
    stored = json.loads(path_of(cfflow.__version__).read_text())
    assert json.loads(msgspec.json.encode(written())) == stored
