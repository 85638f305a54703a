"""`cfflow list`: its options, its pages, its CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from subprocess import CompletedProcess
from typing import Any, Final

import pytest

from cfflow.cli.listing import _csv_cell
from tests.faces.faces_kit import Till, run
from tests.faces.test_cli import NOWHERE, ORDERS, refused

pytestmark = pytest.mark.timeout(240)

IST: Final = timezone(timedelta(hours=5, minutes=30))
NEWEST: Final = ORDERS[::-1]


def orders_of(done: CompletedProcess[str]) -> list[str]:
    """Return the orders that `--json` has listed."""
    assert done.returncode == 0, done.stderr
    return [payment["order_id"] for payment in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("options", "orders"),
    [
        (["--oldest-first"], ORDERS),
        (["--state", "captured"], ["room", "tea"]),
        (["--state", "captured", "--state", "failed"], ["broken", "room", "tea"]),
        (["--flow", "preauth"], ["car", "room", "held"]),
        (["--order", "tea"], ["tea"]),
        (["--order", "nobody"], []),
        (["--review"], []),
        (["--reason", "no_answer"], []),
        (["--abandoned"], []),
        (["--not-abandoned"], NEWEST),
        (["--older-than", "86400"], []),
        (["--older-than", "0"], NEWEST),
        (["--hold-ends-before", "2001-01-01"], []),
        (["--hold-ends-before", "2999-12-31T00:00Z"], ["held"]),
        (["--limit", "2"], ["broken", "car"]),
        (["--limit", "2", "--after", "held.1"], ["waits", "tea"]),
        (["--limit", "2", "--after", "tea.1", "--oldest-first"], ["waits", "held"]),
        (["--state", "captured", "--flow", "preauth"], ["room"]),
    ],
    ids=" ".join,
)
def test_list_narrows(till: Till, options: list[str], orders: list[str]) -> None:
    """Each option leaves out what it should, alone and together."""
    assert orders_of(till.run("list", *options, "--json")) == orders


def test_a_time_without_an_offset_is_indian_time(till: Till) -> None:
    """A date alone is the beginning of that day in India."""
    first = datetime.fromisoformat(till.json("list", "--oldest-first")[0]["created_at"])
    last = datetime.now(UTC)
    for when, is_before in ((first, True), (last, False)):
        bare = when.astimezone(IST).replace(tzinfo=None).isoformat()
        for text in (bare, when.isoformat(), when.isoformat().replace("+00:00", "Z")):
            listed = orders_of(till.run("list", "--created-from", text, "--json"))
            assert listed == (NEWEST if is_before else [])
            listed = orders_of(till.run("list", "--created-before", text, "--json"))
            assert listed == ([] if is_before else NEWEST)
    day = first.astimezone(IST).date()
    within = ["--created-from", f"{day}", "--created-before", f"{day + timedelta(days=2)}"]
    assert orders_of(till.run("list", *within, "--json")) == NEWEST


@pytest.mark.parametrize(
    "arguments",
    [
        ["--created-from", "yesterday"],
        ["--created-before", "27.11.2026"],
        ["--hold-ends-before", "2026-11-31"],
        ["--json", "--csv"],
    ],
    ids=" ".join,
)
def test_wrong_usage_of_list_ends_with_two(arguments: list[str]) -> None:
    """Before the store is asked."""
    refused(run("list", *arguments, **NOWHERE), "Usage: cfflow", status=2)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--cursor", "garbled"], "cursor"),
        (["--reason", "no_money"], "no_answer"),
        (["--after", "tea.1", "--cursor", "x"], "not both"),
    ],
    ids=str,
)
def test_what_find_refuses_ends_with_one(till: Till, arguments: list[str], word: str) -> None:
    """In one line on standard error."""
    refused(till.run("list", *arguments), word)


def pages(till: Till, *options: str) -> Iterator[CompletedProcess[str]]:
    """Yield the pages of a list, each gone on with as the one before says."""
    go_on: list[str] = []
    while True:
        done = till.run("list", *options, *go_on)
        yield done
        go_on = re.findall(r"--cursor=\S+$", done.stderr.strip())
        if not go_on:
            return


@pytest.mark.parametrize("direction", [[], ["--oldest-first"]], ids=str)
def test_a_list_says_that_there_are_more_and_how_to_go_on(till: Till, direction: list[str]) -> None:
    """On standard error, whatever is printed; the last page says nothing."""
    wanted = ORDERS if direction else NEWEST
    found = [*pages(till, "--limit", "3", "--json", *direction)]
    assert [order for page in found for order in orders_of(page)] == wanted
    assert [page.stderr == "" for page in found] == [False, False, True]
    assert "created after" in found[0].stderr if direction else "created before" in found[0].stderr
    assert re.search(r" \d{4}-\d\d-\d\dT\S+\+05:30\.\n", found[0].stderr)
    tables = [*pages(till, "--limit", "3", *direction)]
    assert [line.split()[0] for page in tables for line in page.stdout.splitlines()] == [
        word
        for first in (0, 3, 6)
        for word in ("PAYMENT", *(f"{order}.1" for order in wanted[first : first + 3]))
    ]


def test_a_page_without_payments_is_not_the_end(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at as much as one call may, and says so."""
    monkeypatch.setattr("cfflow.views.find.SCANNED_MAX", 2)
    done = till.run("list", "--flow", "upi")
    assert (done.returncode, done.stdout) == (0, "No payments in what was looked at.\n")
    assert "--cursor=" in done.stderr
    *_, last = pages(till, "--flow", "upi")
    assert last.stdout.split()[7:9] == ["new.1", "created"]


def test_csv_has_a_line_of_names_and_one_for_each_payment(till: Till) -> None:
    """Money as it is, times in Indian time, no sign where nothing is known."""
    done = till.spawn("list", "--csv", "--oldest-first")
    assert done.returncode == 0
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [row["order_id"] for row in rows] == ORDERS
    assert "\r" not in done.stdout
    room = rows[ORDERS.index("room")]
    assert (room["id"], room["state"], room["flow"]) == ("room.1", "captured", "preauth")
    assert (room["amount"], room["captured_amount"]) == ("500.00", "420.50")
    assert room["created_at"].endswith("+05:30")
    assert room["captured_at"].endswith("+05:30")
    assert (room["method"], room["abandoned"]) == ("card", "false")
    assert (rows[0]["cf_payment_id"], rows[0]["hold_expires_at"], rows[0]["review"]) == ("", "", "")
    assert rows[ORDERS.index("broken")]["failure"] != ""
    empty = till.run("list", "--csv", "--review").stdout
    assert empty == done.stdout.splitlines(keepends=True)[0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("-1.1", "'-1.1"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("@SUM(1)", "'@SUM(1)"),
        (" =1", "' =1"),
        ("\u00a0=1", "'\u00a0=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("a\nb", "a\\nb"),
        ("a-1=2", "a-1=2"),
        (("no_answer", "=x"), "no_answer =x"),
        (None, ""),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999+00:00"),
    ],
)
def test_no_cell_is_a_formula_or_more_than_one_line(value: Any, shown: str) -> None:
    """Ids are merchants' texts, and what stands in Redis may be anybody's."""
    assert _csv_cell(value) == shown


def test_a_cell_with_a_comma_or_a_quote_is_quoted(till: Till) -> None:
    """By the rules that every reader of CSV knows."""
    from contextlib import redirect_stdout

    from cfflow.cli.listing import _print_csv

    class Odd:
        def __getattr__(self, name: str) -> str:
            return 'a,"b"'

    with redirect_stdout(io.StringIO()) as printed:
        _print_csv([Odd()])  # type: ignore[list-item]  # it has every field
    assert [*csv.reader(io.StringIO(printed.getvalue()))][1] == ['a,"b"'] * 19
