"""What the commands share: options, and how they print."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console

from cfflow.views.payment import Payment

_R = TypeVar("_R")

RedisUrl = Annotated[
    str | None,
    typer.Option(envvar="CFFLOW_REDIS_URL", help="redis://, rediss://, unix://, embedded:DIR"),
]
FlowFiles = Annotated[
    list[Path] | None, typer.Option("--flows", help="Your own flow files or folders.")
]
Actor = Annotated[str, typer.Option(help="Who decides; kept in the history.")]
Note = Annotated[str, typer.Option(help="Why; kept in the history.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PaymentId = Annotated[str, typer.Argument(metavar="ID", help="A payment's id, order_8123.1")]


def plain(payment: Payment) -> dict[str, Any]:
    """Return a payment as plain data, for JSON."""
    data: dict[str, Any] = msgspec.to_builtins(payment)
    if payment.failure is not None:
        # msgspec writes this struct as an array, as it is stored. JSON gets the names.
        data["failure"] = msgspec.structs.asdict(payment.failure)
    return data


def print_json(data: object) -> None:
    """Print data for programs."""
    print(msgspec.json.format(msgspec.json.encode(data)).decode())


def console() -> Console:
    """Return a console. Piped into another program it is 160 columns wide, so rows stay whole."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def wait(work: Coroutine[Any, Any, _R]) -> _R:
    """Run one command's work to its end and return its result."""
    return asyncio.run(work)
