"""`cfflow emulator`: run a local Cashfree, or steer one that runs."""

from __future__ import annotations

import os
import secrets
import ssl
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import httpx
import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cfflow.cli.terminal import AsJson, console, print_json
from cfflow.errors import CfflowError

__all__ = ["app"]

app: Final = typer.Typer()
_group: Final = typer.Typer(invoke_without_command=True)
app.add_typer(_group, name="emulator")

_TIME_LIMIT_S: Final = 60.0

Url = Annotated[
    str | None,
    typer.Option(
        envvar="CFFLOW_EMULATOR_URL",
        help="Where it listens; else CASHFREE_ENVIRONMENT is taken, if that is a URL.",
    ),
]
Order = Annotated[str | None, typer.Option("--order", metavar="ID", help="Only this order.")]
Sequence = Literal["as_it_happened", "reversed", "shuffled"]
Version = Literal["2022-09-01", "2023-08-01", "2025-01-01"]


@_group.callback()
def emulator(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    client_id: Annotated[str, typer.Option(help="Which client id it knows.")] = "cfflow-test-id",
    client_secret: Annotated[
        str, typer.Option(help="The secret of that id.")
    ] = "cfflow-test-secret",  # noqa: S107  the test credentials are printed in the manual
    rate_limits: Annotated[
        Literal["production", "sandbox"] | None, typer.Option(help="Refuse calls as these do.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where webhooks go.")
    ] = None,
    webhook_version: Annotated[Version, typer.Option(help="Of the webhooks.")] = "2025-01-01",
    chaos: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="CHANCE", help="How likely a call meets a fault."),
    ] = None,
    chaos_seed: Annotated[int, typer.Option(help="The same seed, the same faults.")] = 0,
    options: Annotated[
        str, typer.Option(metavar="JSON", help='How its bank behaves: {"confirm_after_s": 60}')
    ] = "{}",
    seed: Annotated[
        int | None, typer.Option(help="Of its ids and chances; another one each time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a local Cashfree until it is stopped; or, with a command, steer one that runs."""
    if context.invoked_subcommand is not None:
        return
    try:
        from cfflow.emulator import (  # noqa: PLC0415  the emulator is an extra
            BankOptions,
            Chaos,
            serve,
        )
    except ImportError as missing:
        raise CfflowError(str(missing)) from None
    try:
        behaviour = msgspec.json.decode(options, type=BankOptions)
    except msgspec.DecodeError as error:
        raise typer.BadParameter(str(error), param_hint="--options") from None

    def announce(base_url: str) -> None:
        _announce(base_url, client_id, client_secret, as_json=as_json)

    try:
        serve(
            host=host,
            port=port,
            client_id=client_id,
            client_secret=client_secret,
            options=behaviour,
            # Other ids at each start: a store that outlives the emulator must not meet them again.
            seed=secrets.randbits(31) if seed is None else seed,
            rate_limits=rate_limits,
            webhook_url=webhook_url,
            webhook_version=webhook_version,
            chaos=None if chaos is None else Chaos(probability=chaos, seed=chaos_seed),
            announce=announce,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--webhook-url") from None
    except OSError as error:
        raise CfflowError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def _announce(base_url: str, client_id: str, client_secret: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"base_url": base_url, "client_id": client_id, "client_secret": client_secret})
    else:
        _say(
            f"A local Cashfree listens on {base_url}\n",
            f"export CASHFREE_ENVIRONMENT={base_url}",
            f"export CASHFREE_CLIENT_ID={client_id}",
            f"export CASHFREE_CLIENT_SECRET={client_secret}\n",
            "Test card 4111111111111111, any CVV and expiry; the OTP is 111000.",
            f"Orders and their pages: {_root(base_url)}/_emulator/. Ctrl-C stops it.",
        )
    # Whoever reads this through a pipe waits for it, and it is all that will come.
    sys.stdout.flush()


@_group.command()
def fault(
    call: Annotated[
        str | None, typer.Argument(metavar="CALL", help="authorize, pay, ..., or any.")
    ] = None,
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="lost_after, status_before, ...")
    ] = None,
    status: Annotated[int | None, typer.Option(help="HTTP status of status_*.")] = None,
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of delay_* and slow_body.")
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="How often; 0 for ever.")] = 1,
    after: Annotated[int | None, typer.Option(help="So many calls pass first.")] = None,
    probability: Annotated[
        float | None, typer.Option(metavar="CHANCE", help="How likely a call is struck.")
    ] = None,
    retry: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="What a 429 says of when to come again.")
    ] = None,
    code: Annotated[str | None, typer.Option(help="The error's code.")] = None,
    error_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="The error's type.")
    ] = None,
    order: Order = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget every rule, and chaos.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let calls fail: `fault authorize lost_after`; without a call, list the rules that wait."""
    if (call is None) != (kind is None):
        raise typer.BadParameter("a fault needs a call and a kind", param_hint="CALL KIND")
    given: dict[str, Any] = {"status": status, "delay_s": delay, "retry_s": retry, "after": after}
    given |= {"probability": probability, "order_id": order, "code": code, "type": error_type}
    rule = {name: value for name, value in given.items() if value is not None}
    rule |= {"call": call, "kind": kind, "count": count or None}
    if clear:
        told = _ask("DELETE", "faults", url)
    elif call is None:
        told = _ask("GET", "faults", url)
    else:
        told = _ask("POST", "faults", url, rule)
    _show_faults(told, as_json=as_json)


@_group.command()
def chaos(
    probability: Annotated[float, typer.Argument(metavar="CHANCE", help="0 to 1, of each call.")],
    seed: Annotated[int, typer.Option(help="The same seed, the same faults.")] = 0,
    kind: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    call: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Let calls fail by chance; 0 ends it."""
    body: dict[str, Any] = {"kind": "chaos", "probability": probability, "seed": seed}
    body |= {name: value for name, value in (("kinds", kind), ("calls", call)) if value}
    _show_faults(_ask("POST", "faults", url, body), as_json=as_json)


def _show_faults(told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    for rule in told["faults"]:
        rest = " ".join(f"{k}={v}" for k, v in rule.items() if k not in {"call", "kind"})
        _say(f"{rule['call']} {rule['kind']} {rest}".rstrip())
    if told["chaos"]:
        _say(f"chaos: {told['chaos']['probability']:g} of all calls")
    if not told["faults"] and not told["chaos"]:
        _say("No faults wait.")


@_group.command()
def clock(
    advance: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Skip so many seconds.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="TIME", help="Go on to this moment.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show its clock, or set it forward; what was due has happened when this returns."""
    if advance is None and to is None:
        told = _ask("GET", "clock", url)
    else:
        jump = {"advance_s": advance, "at": to}
        told = _ask("POST", "clock", url, {k: v for k, v in jump.items() if v is not None})
    if as_json:
        print_json(told)
    else:
        _say(f"{told['now']}, {told['offset_s']:.0f} s ahead")


@_group.command()
def ledger(
    order: Order = None,
    payment: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this cf_payment_id.")
    ] = None,
    effect: Annotated[str | None, typer.Option(help="Only this effect: captured, ...")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Not before this.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List every effect on money, oldest first."""
    asked = {"order_id": order, "cf_payment_id": payment, "effect": effect, "since": since}
    told = _ask("GET", "ledger", url, query=asked)
    if as_json:
        print_json(told)
        return
    fields = ("at", "effect", "amount", "order_id", "cf_payment_id")
    entries = (entry | {"amount": f"{entry['amount']:.2f}"} for entry in told["ledger"])
    filtered = any(value is not None for value in asked.values())
    nothing = "No such effect in the ledger." if filtered else "The ledger is empty."
    _print_table(fields, entries, nothing)


@_group.command()
def webhooks(
    order: Order = None,
    status: Annotated[str | None, typer.Option(help="Only these: delivered, held, ...")] = None,
    send_to: Annotated[
        str | None, typer.Option(metavar="URL", help="Where they go from now on.")
    ] = None,
    copies: Annotated[int | None, typer.Option(help="Deliver every event so often.")] = None,
    timestamps: Annotated[
        Literal["emulator", "machine"] | None,
        typer.Option(help="Whose clock they tell, once its own was set forward."),
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep them back from now on.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Let go what is held.")] = False,
    sequence: Annotated[
        Sequence | None, typer.Option(help="In which order, when released together.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the webhooks and what became of them; or say how they are to be delivered."""
    given = {"url": send_to, "copies": copies, "timestamps": timestamps}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        _ask("PUT", "webhooks/settings", url, changes)
    if hold:
        _ask("POST", "webhooks/hold", url, {})
    if release:
        # One order's may go while the others stay.
        _ask("POST", "webhooks/release", url, {"which": order, "sequence": sequence})
    query = {"order_id": order, "status": status}
    _show_webhooks(_ask("GET", "webhooks", url, query=query), as_json=as_json)


@_group.command()
def resend(
    which: Annotated[str, typer.Argument(metavar="ID|ORDER", help="One webhook, or an order's.")],
    alter: Annotated[
        str | None, typer.Option(help="Make it wrong: forged, stale, tampered, unsigned, ...")
    ] = None,
    send_to: Annotated[str | None, typer.Option(metavar="URL", help="Another receiver.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send a webhook once more: the same body, the same key, a fresh signature."""
    body = {"which": which, "alter": alter, "url": send_to}
    _show_webhooks(_ask("POST", "webhooks/resend", url, body), as_json=as_json)


@_group.command()
def reset(url: Url = None, as_json: AsJson = False) -> None:
    """Forget every order, effect, fault and webhook; the clock stays where it is."""
    told = _ask("POST", "reset", url)
    if as_json:
        print_json(told)
    else:
        _say(f"Empty. It is {told['now']} there.")


def _show_webhooks(told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(told)
        return
    fields = ("id", "type", "order_id", "status", "attempts", "url")
    rows = (each | {"attempts": _answers(each["attempts"])} for each in told["webhooks"])
    _print_table(fields, rows, "No webhooks.")


def _answers(attempts: list[dict[str, Any]]) -> str:
    """What a receiver answered, attempt by attempt."""
    return " ".join(str(made["status"] or "-") for made in attempts)


def _print_table(fields: tuple[str, ...], rows: Iterable[Mapping[str, Any]], nothing: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in fields:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in fields))
    if table.row_count:
        console().print(table)
    else:
        _say(nothing)


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _ask(
    method: str,
    path: str,
    url: str | None,
    body: object = None,
    query: Mapping[str, str | None] | None = None,
) -> Any:
    """What the running emulator answers; `CfflowError` when it refuses, or none listens."""
    root = _root(url or _from_environment())
    asked = {name: value for name, value in (query or {}).items() if value is not None}
    try:
        with httpx.Client(verify=_context(root), trust_env=False, timeout=_TIME_LIMIT_S) as http:
            answer = http.request(method, f"{root}/_emulator/{path}", json=body, params=asked)
        told = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise CfflowError(f"no emulator listens on {root}: cfflow emulator starts one") from None
    if answer.status_code == 400:
        raise typer.BadParameter(told["message"])
    if not answer.is_success:
        raise CfflowError(told.get("message", f"the emulator answered {answer.status_code}"))
    return told


def _context(root: str) -> ssl.SSLContext:
    """Reading the machine's certificates is half of a command's time, and http:// needs none."""
    if root.startswith("https:"):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _from_environment() -> str:
    url = os.environ.get("CASHFREE_ENVIRONMENT", "")
    if not url.startswith(("http://", "https://")):
        raise CfflowError("where does the emulator listen? Say --url, or set CFFLOW_EMULATOR_URL")
    return url


def _root(url: str) -> str:
    return url.rstrip("/").removesuffix("/pg").removesuffix("/_emulator").rstrip("/")
