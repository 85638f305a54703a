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

from cfflow.core.actions import ApproveInApp, SubmitForm
from cfflow.core.printable import printable, safe_json
from cfflow.store.redis.url import has_secret
from cfflow.views.payment import Payment

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


def plain(payment: Payment) -> dict[str, Any]:
    """Return a payment as plain data, for JSON."""
    action = payment.next_action
    if isinstance(action, SubmitForm):
        action = msgspec.structs.replace(action, fields=_json_values(action.fields))
    if isinstance(action, ApproveInApp):
        action = msgspec.structs.replace(action, payload=_json_values(action.payload))
    metadata = _json_values(payment.metadata)
    shown = msgspec.structs.replace(payment, next_action=action, metadata=metadata)
    data: dict[str, Any] = msgspec.to_builtins(shown)
    if payment.failure is not None:
        # msgspec writes this struct as an array, as it is stored. JSON gets the names.
        data["failure"] = msgspec.structs.asdict(payment.failure)
    return data


def _json_values(value: Any) -> Any:
    """Return stored data that JSON can hold: msgpack has more kinds of keys and values."""
    if isinstance(value, dict):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(item) for item in value]
    return value if isinstance(value, str | int | float | bytes | None) else str(value)


def print_json(data: object) -> None:
    """Print data for programs."""
    print(safe_json(msgspec.json.format(msgspec.json.encode(data)).decode()))


def print_json_line(data: object) -> None:
    """Print data for programs as one line."""
    line = msgspec.json.encode(data, enc_hook=str).decode()
    sys.stdout.write(f"{safe_json(line)}\n")


def print_lines(*lines: str) -> None:
    """Print lines for people, each as one line whatever is in it."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def cell(value: object, style: str = "", overflow: Literal["fold"] | None = None) -> Text:
    """Return a text for a table or a line of the console: one line, and no markup in it."""
    return Text(printable(str(value)), style=style, overflow=overflow)


def console() -> Console:
    """Return a console. Piped into another program it is 160 columns wide, so rows stay whole."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def wait(work: Coroutine[Any, Any, _R]) -> _R:
    """Run one command's work to its end and return its result."""
    return asyncio.run(work)
