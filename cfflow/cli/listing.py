"""`cfflow list`: payments as a table for people, as JSON for programs, as CSV for spreadsheets.

Standard output has the payments and nothing else. That there are more, and how to see them, goes to
standard error.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from cfflow import Failure, Found, OpenOperation, Payment, State
from cfflow.cashfree.facts import IST
from cfflow.cli.lines import print_lines
from cfflow.cli.terminal import (
    AsJson,
    RedisUrl,
    cell,
    console,
    print_json,
    wait,
)
from cfflow.connecting import open_reader
from cfflow.core.printable import printable

app: Final = typer.Typer()

_STYLES: Final = {
    "captured": "green",
    "voided": "cyan",
    "failed": "red",
    "authorized": "yellow",
    "otp_pending": "magenta",
}

#: The columns of a CSV: fields of `Payment`, in this order. A new one comes at the end.
_COLUMNS: Final = (
    "id",
    "order_id",
    "cf_payment_id",
    "state",
    "flow",
    "amount",
    "currency",
    "captured_amount",
    "hold_expires_at",
    "operation",
    "review",
    "failure",
    "created_at",
    "updated_at",
    "authorized_at",
    "captured_at",
    "method",
    "bank_reference",
    "abandoned",
)

#: What makes a spreadsheet calculate a cell instead of showing it, in wide forms too.
_FORMULA: Final = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def _time(text: str) -> datetime:
    """Return a time of the command line; one without an offset is Indian time."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "a time looks like 2026-11-27, 2026-11-27T18:00 or 2026-11-27T18:00+05:30"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=IST)


def _time_option(what: str) -> Any:
    return typer.Option(parser=_time, metavar="TIME", help=what)


_States = Annotated[
    list[State] | None, typer.Option(help="Only this state; may be given several times.")
]
_Flow = Annotated[str | None, typer.Option(help="Only this flow.")]
_Order = Annotated[str | None, typer.Option(help="Only this order.")]
_Review = Annotated[bool, typer.Option("--review", help="Only payments with an open review.")]
_Reason = Annotated[
    str | None, typer.Option(metavar="REVIEW", help="Only with an open review of this reason.")
]
_Abandoned = Annotated[
    bool | None, typer.Option("--abandoned/--not-abandoned", help="Only those, or the others.")
]
_From = Annotated[datetime | None, _time_option("Only created at this time or after it.")]
_Before = Annotated[datetime | None, _time_option("Only created before this time.")]
_OlderThan = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Only payments of this age.")
]
_HoldEnds = Annotated[datetime | None, _time_option("Only holds that end before this time.")]
_OldestFirst = Annotated[
    bool, typer.Option("--oldest-first", help="Begin with the oldest, not the newest.")
]
_Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")]
_Cursor = Annotated[
    str | None, typer.Option(help="Continue where a list ended, with the same options.")
]
_After = Annotated[str | None, typer.Option(metavar="ID", help="Continue after this payment.")]
_AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")]


@app.command(name="list")
def list_(
    state: _States = None,
    flow: _Flow = None,
    order: _Order = None,
    review: _Review = False,
    reason: _Reason = None,
    abandoned: _Abandoned = None,
    created_from: _From = None,
    created_before: _Before = None,
    older_than: _OlderThan = None,
    hold_ends_before: _HoldEnds = None,
    oldest_first: _OldestFirst = False,
    limit: _Limit = 50,
    cursor: _Cursor = None,
    after: _After = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
    as_csv: _AsCsv = False,
) -> None:
    """List payments, the newest first. A TIME without an offset is Indian time (IST)."""
    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both")

    async def read() -> Found:
        async with open_reader(redis_url) as reader:
            return await reader.find(
                state=state or None,
                flow=flow,
                order_id=order,
                review=review if reason is None else reason,
                abandoned=abandoned,
                created_from=created_from,
                created_before=created_before,
                older_than=older_than,
                hold_ends_before=hold_ends_before,
                newest_first=not oldest_first,
                limit=limit,
                cursor=cursor,
                after=after,
            )

    found = wait(read())
    if as_json:
        print_json([payment.as_dict() for payment in found])
    elif as_csv:
        _print_csv(found)
    else:
        _print_table(found)
    if found.more:
        _print_more(found, oldest_first=oldest_first)


def _print_table(found: Found) -> None:
    if found:
        console().print(_table(found))
    else:
        print_lines("No payments in what was looked at." if found.more else "No payments.")


def _print_more(found: Found, *, oldest_first: bool) -> None:
    """Print to standard error that there are more, up to where was looked, and how to go on."""
    side, place = ("after", "up to") if oldest_first else ("before", "back to")
    sys.stderr.write(
        f"There may be more, created {side} what is shown: this looked {place}"
        f" {_shown_time(found.scanned_to)}.\n"
        f"Go on with the same options and: --cursor={found.cursor}\n"
    )


def _print_csv(payments: Sequence[Payment]) -> None:
    """Print a line of names, and one line for each payment."""
    # Lines end as all others that these commands print: a CR would be a control character.
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for payment in payments:
        writer.writerow([_csv_cell(getattr(payment, name)) for name in _COLUMNS])


def _csv_cell(value: object) -> str:
    """Return a value as one line of text that no spreadsheet takes for a formula."""
    text = printable(_csv_text(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _csv_text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case datetime():
            return _shown_time(value)
        case tuple():
            return " ".join(map(str, value))
        case OpenOperation():
            return value.step.value
        case Failure():
            return value.code or ""
    return str(value)


def _shown_time(when: datetime) -> str:
    """Return a time in Indian time, with its offset."""
    try:
        return when.astimezone(IST).isoformat(timespec="milliseconds")
    except OverflowError:
        # The last hours that a datetime can represent have no Indian time.
        return when.isoformat(timespec="milliseconds")


def _table(payments: Sequence[Payment]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("PAYMENT", "STATE", "AMOUNT", "FLOW", "AGE", "OPEN", "REVIEW"):
        table.add_column(name, justify="right" if name in {"AMOUNT", "AGE"} else "left")
    for payment in payments:
        table.add_row(
            cell(payment.id, overflow="fold"),
            cell(payment.state.value, style=_STYLES.get(payment.state.value, "")),
            cell(payment.money),
            cell(payment.flow),
            _age(payment.created_at),
            "" if payment.operation is None else payment.operation.step.value,
            cell(", ".join(payment.review), style="red"),
        )
    return table


def _age(since: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
