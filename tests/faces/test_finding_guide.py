"""The recipes of docs/guides/finding.md, run as they stand on a store with payments in it."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from cfflow.views.find import SCANNED_MAX
from tests.faces.faces_kit import CFFLOW, LIMIT_S, ROOT, Till, environment

pytestmark = pytest.mark.timeout(240)

PAGE = (ROOT / "docs" / "guides" / "finding.md").read_text()


def recipe(heading: str, language: str) -> str:
    """Return the block of a language under a heading; there is one."""
    (section,) = re.findall(rf"^## {heading}.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Return a recipe with each of these replaced, which must be in it."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def run(till: Till, folder: Path, *command: str) -> str:
    """Run a recipe with the store's settings, in an empty folder; return what it prints."""
    settings = environment(**till.settings)
    settings["PATH"] = f"{CFFLOW.parent}:{settings['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def python(till: Till, folder: Path, program: str) -> str:
    """Run a program of the page."""
    return run(till, folder, sys.executable, "-W", "error", "-c", program)


def test_the_night_job_prints_the_holds_that_end_soon(till: Till, tmp_path: Path) -> None:
    """The store has one hold: it ends within a month, and not within a day."""
    program = recipe("Every night", "python")
    assert python(till, tmp_path, program) == ""
    shown = python(till, tmp_path, changed(program, ("hours=24", "days=31")))
    assert re.fullmatch(r"held\.1 500\.00 INR \S+ \S+\n", shown)


def test_the_payments_of_yesterday_become_csv(till: Till, tmp_path: Path) -> None:
    """Yesterday has none. A day later this day is yesterday, and has its two captures."""
    script = recipe("Every morning", "sh")
    header = "id,order_id,cf_payment_id,state,"
    later = changed(script, ("date -d today", "date -d tomorrow"), ("-d yesterday", "-d today"))
    for text, orders in ((script, []), (later, ["tea", "room"])):
        run(till, tmp_path, "sh", "-e", "-c", text)
        lines = (tmp_path / "captures.csv").read_text()
        assert lines.startswith(header)
        assert [row["order_id"] for row in csv.DictReader(io.StringIO(lines))] == orders


def test_the_captures_of_yesterday_become_csv(till: Till, tmp_path: Path) -> None:
    """By the time of the capture, with the amount that was taken."""
    program = recipe("Every morning", "python")
    assert len(python(till, tmp_path, program).splitlines()) == 1
    now = "datetime.now(IST)"
    later = changed(program, (now, f"({now} + timedelta(days=1))"))
    shown = python(till, tmp_path, later)
    rows = [*csv.DictReader(io.StringIO(shown))]
    assert [(row["payment"], row["captured_amount"]) for row in rows] == [
        ("tea.1", "170.00"),
        ("room.1", "420.50"),
    ]
    assert all(datetime.fromisoformat(row["captured_at"]).utcoffset() for row in rows)


def test_the_page_names_the_bound_of_a_call() -> None:
    """Whoever pages relies on it."""
    assert f"One call reads {SCANNED_MAX:,} records at most" in PAGE
