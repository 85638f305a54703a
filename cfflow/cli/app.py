"""The command line: arguments and printing only.

Exit status: 0 done, 1 refused or failed, 2 wrong usage; of `status` 1: a person must look, 2: it
could not look.
"""

from __future__ import annotations

import sys
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from cfflow import HistoryEntry, Payment, Why, __version__
from cfflow.cashfree import facts
from cfflow.cli import emulator as cli_emulator
from cfflow.cli import feed as cli_feed
from cfflow.cli import listing as cli_listing
from cfflow.cli import operator as cli_operator
from cfflow.cli import store as cli_store
from cfflow.cli import worker as cli_worker
from cfflow.cli.doctor import examine
from cfflow.cli.lines import print_lines, run_to_end
from cfflow.cli.terminal import (
    AsJson,
    FlowFiles,
    PaymentId,
    RedisUrl,
    cell,
    console,
    print_json,
    wait,
)
from cfflow.connecting import open_reader
from cfflow.core.flow import Examined
from cfflow.core.mistakes import Mistake
from cfflow.store.catalog import Catalog, examine_flow
from cfflow.views.finding import Finding
from cfflow.views.graph import mermaid

app: Final = typer.Typer(
    name="cfflow",
    help="Drives Cashfree payments as state machines in Redis, and never loses one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_emulator.app)
app.add_typer(cli_worker.app)
app.add_typer(cli_operator.app)
app.add_typer(cli_feed.app)
app.add_typer(cli_store.app)
app.add_typer(cli_listing.app)


def run() -> None:
    """Run the command line. An error of the tree is one line on standard error, no traceback."""
    errors = Console(stderr=True, soft_wrap=True)
    run_to_end(app, lambda line: errors.print(cell(line, style="red")))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cfflow {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Drives Cashfree payments as state machines in Redis, and never loses one."""


@app.command()
def demo() -> None:
    """Show what cfflow does: an OTP sale, holds, and a crash in the middle of a capture."""
    from cfflow.demo.scenes import play

    sys.exit(play(Console(highlight=False)))


@app.command()
def show(payment_id: PaymentId, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show one payment."""

    async def read() -> Payment:
        async with open_reader(redis_url) as reader:
            return await reader.get(payment_id)

    payment = wait(read())
    if as_json:
        print_json(payment.as_dict())
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in payment.as_dict().items():
        if value not in (None, (), {}, []):
            grid.add_row(cell(name, style="bold"), cell(_as_text(value)))
    console().print(grid)


@app.command()
def why(
    payment_id: PaymentId,
    redis_url: RedisUrl = None,
    ist: Annotated[bool, typer.Option("--ist", help="Times in Indian time, not in UTC.")] = False,
    as_json: AsJson = False,
) -> None:
    """Explain a payment: what happened, what is open, what may be called now."""

    async def read() -> Why:
        async with open_reader(redis_url) as reader:
            return await reader.why(payment_id)

    explained = wait(read())
    if as_json:
        print_json(msgspec.to_builtins(explained))
    else:
        print_lines(*explained.text(facts.IST if ist else UTC).split("\n"))


@app.command()
def graph(
    flow: Annotated[
        str | None, typer.Argument(help="A flow's name; the whole chart if none.")
    ] = None,
    payment: Annotated[
        str | None, typer.Option("--payment", metavar="ID", help="Number the path that it walked.")
    ] = None,
    flows: FlowFiles = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print the chart as a Mermaid diagram."""
    rules = None if flow is None else Catalog(flows or ()).named(flow)

    async def read(payment_id: str) -> tuple[HistoryEntry, ...]:
        async with open_reader(redis_url) as reader:
            return await reader.history(payment_id)

    diagram = mermaid(rules, () if payment is None else wait(read(payment)))
    if as_json:
        print_json({"format": "mermaid", "diagram": diagram})
    else:
        print_lines(*diagram.split("\n"))


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FLOW.toml...", help="Flow files.")],
    as_json: AsJson = False,
) -> None:
    """Check flow files. Each mistake names the file, the key, what is wrong and what is allowed."""
    examined = _with_same_names([(_name_of(file), examine_flow(file)) for file in files])
    if as_json:
        print_json([_finding(name, found) for name, found in examined])
    else:
        for name, found in examined:
            print_lines(*(f"{name}: {mistake}" for mistake in found.mistakes))
            print_lines(*(f"{name}: warning: {warning}" for warning in found.warnings))
            if found.flow is not None:
                print_lines(f"{name}: ok, flow {found.flow.name}")
    if any(found.flow is None for _, found in examined):
        raise typer.Exit(1)


def _with_same_names(examined: list[tuple[str, Examined]]) -> list[tuple[str, Examined]]:
    """Return what was found, with a warning for each flow whose name another file has too."""
    first: dict[str, str] = {}
    found = []
    for file, each in examined:
        other = file if each.flow is None else first.setdefault(each.flow.name, file)
        same = Mistake("name", f"{other} has it too", "one in each file that a process loads")
        warnings = each.warnings if other == file else (*each.warnings, same)
        found.append((file, msgspec.structs.replace(each, warnings=warnings)))
    return found


def _name_of(file: Path) -> str:
    # A name that is no UTF-8 is one that JSON cannot hold.
    return str(file).encode(errors="backslashreplace").decode()


def _finding(file: str, found: Examined) -> dict[str, Any]:
    flow = found.flow
    return {
        "file": file,
        "name": None if flow is None else flow.name,
        "digest": None if flow is None else flow.digest,
        "errors": msgspec.to_builtins(found.mistakes),
        "warnings": msgspec.to_builtins(found.warnings),
    }


@app.command()
def doctor(
    min_replicas: Annotated[
        int, typer.Option(min=0, metavar="N", help="The min_replicas of your processes.")
    ] = 0,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Examine settings, store and gateway, and report what could lose a payment."""
    findings = wait(examine(redis_url, min_replicas=min_replicas))
    if as_json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        console().print(_diagnosis(findings))
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def _diagnosis(findings: list[Finding]) -> Table:
    verdicts = {"good": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "bold red")}
    grid = Table.grid(padding=(0, 2))
    for finding in findings:
        verdict, style = verdicts[finding.verdict]
        grid.add_row(cell(verdict, style=style), cell(finding.subject), cell(finding.detail))
    return grid


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
