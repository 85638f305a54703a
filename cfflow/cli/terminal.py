"""What the commands share: options, and how they print.

Every command writes through here. What it prints came from others: a note, the gateway's text, an
id out of Redis. So no control character of it reaches the terminal, and no line break of it makes
a line (core/printable.py).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from cfflow.core.printable import printable, safe_json
from cfflow.errors import CfflowError
from cfflow.store.redis.url import has_secret

_R = TypeVar("_R")


def is_typed(context: typer.Context, parameter: typer.CallbackParam) -> bool:
    """Return whether an option's value is on the command line, which other users can read."""
    source = context.get_parameter_source(parameter.name or "")
    return source is not None and source.name == "COMMANDLINE"


def refuse_secret(
    context: typer.Context, parameter: typer.CallbackParam, url: str | None
) -> str | None:
    """Return an option's URL. Exits with 2 if it has a password and is on the command line."""
    if url is not None and has_secret(url) and is_typed(context, parameter):
        raise typer.BadParameter(f"`ps` shows its password to others: {_instead(parameter)}")
    return url


def _instead(parameter: typer.CallbackParam) -> str:
    variable = parameter.envvar
    return f"set {variable}" if isinstance(variable, str) else "use a URL without one"


RedisUrl = Annotated[
    str | None,
    typer.Option(
        envvar="CFFLOW_REDIS_URL",
        callback=refuse_secret,
        help="redis://, rediss://, unix://, embedded:DIR; with a password only as CFFLOW_REDIS_URL",
    ),
]
FlowFiles = Annotated[
    list[Path] | None, typer.Option("--flows", help="Your own flow files or folders.")
]
Actor = Annotated[str, typer.Option(help="Who decides; kept in the history.")]
Note = Annotated[str, typer.Option(help="Why; kept in the history.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PaymentId = Annotated[str, typer.Argument(metavar="ID", help="A payment's id, order_8123.1")]


def print_json(data: object) -> None:
    """Print data for programs."""
    print(safe_json(msgspec.json.format(msgspec.json.encode(data)).decode()))


def cell(value: object, style: str = "", overflow: Literal["fold"] | None = None) -> Text:
    """Return a text for a table or a line of the console: one line, and no markup in it."""
    return Text(printable(str(value)), style=style, overflow=overflow)


def console() -> Console:
    """Return a console. Piped into another program it is 160 columns wide, so rows stay whole."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def print_error(error: CfflowError) -> None:
    """Print an error of the tree as one line on standard error."""
    Console(stderr=True, soft_wrap=True).print(cell(f"cfflow: {error}", style="red"))


def wait(work: Coroutine[Any, Any, _R]) -> _R:
    """Run one command's work to its end and return its result."""
    return asyncio.run(work)
