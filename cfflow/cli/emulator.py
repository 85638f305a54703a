"""`cfflow emulator`: run a local Cashfree, or control one that runs."""

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

from cfflow.cli.lines import print_lines
from cfflow.cli.terminal import (
    AsJson,
    cell,
    console,
    is_typed,
    print_json,
    refuse_secret,
)
from cfflow.core.printable import printable
from cfflow.errors import CfflowError

app: Final = typer.Typer()
_group: Final = typer.Typer(invoke_without_command=True)
app.add_typer(_group, name="emulator")

_TIME_LIMIT_S: Final = 60.0
#: Never on a command line: every user of the machine can read that.
_SECRET_VARIABLE: Final = "CFFLOW_EMULATOR_CLIENT_SECRET"  # noqa: S105  the name of a variable

Url = Annotated[
    str | None,
    typer.Option(
        envvar="CFFLOW_EMULATOR_URL",
        callback=refuse_secret,
        help="Where it listens; else CASHFREE_ENVIRONMENT, if that is a URL.",
    ),
]
Order = Annotated[str | None, typer.Option("--order", metavar="ID", help="Only this order.")]
Sequence = Literal["as_it_happened", "reversed", "shuffled"]
Version = Literal["2022-09-01", "2023-08-01", "2025-01-01"]


def _refuse_typed(context: typer.Context, parameter: typer.CallbackParam, secret: str) -> str:
    if is_typed(context, parameter):
        raise typer.BadParameter(f"`ps` shows it to others: set {_SECRET_VARIABLE}")
    return secret


Host = Annotated[str, typer.Option(help="Where to listen; whoever reaches it can drive it.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A further name under which it is called."),
]
ClientSecret = Annotated[
    str,
    typer.Option(
        envvar=_SECRET_VARIABLE,
        callback=_refuse_typed,
        help=f"The secret of that id; only as {_SECRET_VARIABLE}.",
    ),
]
WebhookUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="CFFLOW_EMULATOR_WEBHOOK_URL",
        callback=refuse_secret,
        help="Where webhooks go; with a password only as CFFLOW_EMULATOR_WEBHOOK_URL.",
    ),
]


@_group.callback()
def emulator(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 0,
    host: Host = "127.0.0.1",
    allow_host: AllowHost = None,
    client_id: Annotated[str, typer.Option(help="The accepted client id.")] = "cfflow-test-id",
    client_secret: ClientSecret = "cfflow-test-secret",  # noqa: S107  the test credentials are printed in the manual
    rate_limits: Annotated[
        Literal["production", "sandbox"] | None, typer.Option(help="Refuse calls over them.")
    ] = None,
    webhook_url: WebhookUrl = None,
    webhook_version: Annotated[Version, typer.Option(help="Of the webhooks.")] = "2025-01-01",
    chaos: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="CHANCE", help="How likely a call fails, 0 to 1."),
    ] = None,
    chaos_seed: Annotated[int, typer.Option(help="The same seed makes the same faults.")] = 0,
    options: Annotated[
        str, typer.Option(metavar="JSON", help='How its bank behaves: {"confirm_after_s": 60}')
    ] = "{}",
    seed: Annotated[
        int | None,
        typer.Option(help="Of its ids and chances; another one each time if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a local Cashfree until it is stopped; with a command, control one that runs."""
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

    _warn(host)

    def announce(base_url: str) -> None:
        _announce(base_url, client_id, client_secret, as_json=as_json)

    try:
        serve(
            host=host,
            port=port,
            client_id=client_id,
            client_secret=client_secret,
            options=behaviour,
            # Other ids at each start: the store of a payment outlives the emulator, and an id that
            # comes again would look like an attempt of that payment.
            seed=secrets.randbits(31) if seed is None else seed,
            rate_limits=rate_limits,
            webhook_url=webhook_url or None,
            webhook_version=webhook_version,
            chaos=None if chaos is None else Chaos(probability=chaos, seed=chaos_seed),
            allowed_hosts=allow_host or (),
            announce=announce,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--webhook-url") from None
    except OSError as error:
        raise CfflowError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def _warn(host: str) -> None:
    from cfflow.emulator.guard import warning_for  # noqa: PLC0415  the emulator is an extra

    warning = warning_for(host)
    if warning is not None:
        sys.stderr.write(f"{warning}\n")


def _announce(base_url: str, client_id: str, client_secret: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"base_url": base_url, "client_id": client_id, "client_secret": client_secret})
    else:
        print_lines(
            f"A local Cashfree listens on {base_url}",
            "",
            f"export CASHFREE_ENVIRONMENT={base_url}",
            f"export CASHFREE_CLIENT_ID={client_id}",
            f"export CASHFREE_CLIENT_SECRET={client_secret}",
            "",
            "Test card 4111111111111111, any CVV and expiry; the OTP is 111000.",
            f"Orders and their pages: {_root(base_url)}/_emulator/. Ctrl-C stops it.",
        )
    # A program that reads this through a pipe waits for it, and nothing else is printed.
    sys.stdout.flush()


@_group.command()
def fault(
    call: Annotated[
        str | None, typer.Argument(metavar="CALL", help="authorize, pay, ..., or any.")
    ] = None,
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="lost_after, status_before, ...")
    ] = None,
    status: Annotated[int | None, typer.Option(help="The HTTP status of status_*.")] = None,
    delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The delay of delay_* and slow_body.")
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="How often; 0 for ever.")] = 1,
    after: Annotated[int | None, typer.Option(help="How many calls succeed first.")] = None,
    probability: Annotated[
        float | None, typer.Option(metavar="CHANCE", help="How likely a call fails, 0 to 1.")
    ] = None,
    retry: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="The retry time that a 429 names.")
    ] = None,
    code: Annotated[str | None, typer.Option(help="The error's code.")] = None,
    error_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="The error's type.")
    ] = None,
    order: Order = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all rules, and chaos.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make calls fail: `fault authorize lost_after`; without a call, list the rules."""
    if (call is None) != (kind is None):
        raise typer.BadParameter("a fault needs a call and a kind", param_hint="CALL KIND")
    given: dict[str, Any] = {"status": status, "delay_s": delay, "retry_s": retry, "after": after}
    given |= {"probability": probability, "order_id": order, "code": code, "type": error_type}
    rule = {name: value for name, value in given.items() if value is not None}
    rule |= {"call": call, "kind": kind, "count": count or None}
    if clear:
        response = _ask("DELETE", "faults", url)
    elif call is None:
        response = _ask("GET", "faults", url)
    else:
        response = _ask("POST", "faults", url, rule)
    _show_faults(response, as_json=as_json)


@_group.command()
def chaos(
    probability: Annotated[float, typer.Argument(metavar="CHANCE", help="0 to 1, of each call.")],
    seed: Annotated[int, typer.Option(help="The same seed makes the same faults.")] = 0,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only these kinds; may be repeated.")
    ] = None,
    call: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make calls fail by chance; 0 ends it."""
    body: dict[str, Any] = {"kind": "chaos", "probability": probability, "seed": seed}
    body |= {name: value for name, value in (("kinds", kind), ("calls", call)) if value}
    _show_faults(_ask("POST", "faults", url, body), as_json=as_json)


def _show_faults(response: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(response)
        return
    for rule in response["faults"]:
        rest = " ".join(f"{k}={v}" for k, v in rule.items() if k not in {"call", "kind"})
        print_lines(f"{rule['call']} {rule['kind']} {rest}".rstrip())
    if response["chaos"]:
        print_lines(f"chaos: {response['chaos']['probability']:g} of all calls")
    if not response["faults"] and not response["chaos"]:
        print_lines("No faults.")


@_group.command()
def clock(
    advance: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How far to go forward.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="TIME", help="The time to go forward to.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show its clock, or set it forward; all that was due has happened when this returns."""
    if advance is None and to is None:
        response = _ask("GET", "clock", url)
    else:
        jump = {"advance_s": advance, "at": to}
        response = _ask("POST", "clock", url, {k: v for k, v in jump.items() if v is not None})
        _warn_of_clock(response["offset_s"])
    if as_json:
        print_json(response)
    else:
        print_lines(f"{response['now']}, {response['offset_s']:.0f} s ahead")


def _warn_of_clock(offset_s: float) -> None:
    """Say what goes by another clock now: the emulator cannot move a store's."""
    sys.stderr.write(
        f"warning: the emulator is {offset_s:.0f} s ahead of everything that runs in real time."
        " A worker acts on a hold by its store's clock, so the bank releases the hold first."
        " A receiver whose webhook_tolerance_s is less refuses the webhooks as stale:"
        " `cfflow emulator webhooks --timestamps machine`."
        " The fixtures of cfflow's pytest plugin move both clocks: docs/guides/emulator.md, Time.\n"
    )


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
    response = _ask("GET", "ledger", url, query=asked)
    if as_json:
        print_json(response)
        return
    fields = ("at", "effect", "amount", "order_id", "cf_payment_id")
    entries = (entry | {"amount": f"{entry['amount']:.2f}"} for entry in response["ledger"])
    filtered = any(value is not None for value in asked.values())
    nothing = "No such effect in the ledger." if filtered else "The ledger is empty."
    _print_table(fields, entries, nothing)


@_group.command()
def webhooks(
    order: Order = None,
    status: Annotated[str | None, typer.Option(help="Only these: delivered, held, ...")] = None,
    send_to: Annotated[
        str | None,
        typer.Option(metavar="URL", callback=refuse_secret, help="Send them here from now on."),
    ] = None,
    copies: Annotated[int | None, typer.Option(help="How often each event is delivered.")] = None,
    timestamps: Annotated[
        Literal["emulator", "machine"] | None,
        typer.Option(help="Whose clock dates them, after its own was set forward."),
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Hold them back from now on.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Send those that are held.")] = False,
    sequence: Annotated[
        Sequence | None, typer.Option(help="The order of those that are released together.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the webhooks and their deliveries; or set how they are delivered."""
    given = {"url": send_to, "copies": copies, "timestamps": timestamps}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        _ask("PUT", "webhooks/settings", url, changes)
    if hold:
        _ask("POST", "webhooks/hold", url, {})
    if release:
        # `--order` releases the webhooks of one order and keeps the others.
        _ask("POST", "webhooks/release", url, {"which": order, "sequence": sequence})
    query = {"order_id": order, "status": status}
    _show_webhooks(_ask("GET", "webhooks", url, query=query), as_json=as_json)


@_group.command()
def resend(
    which: Annotated[str, typer.Argument(metavar="ID|ORDER", help="One webhook, or an order's.")],
    alter: Annotated[
        str | None, typer.Option(help="Make it wrong: forged, stale, tampered, unsigned, ...")
    ] = None,
    send_to: Annotated[
        str | None,
        typer.Option(metavar="URL", callback=refuse_secret, help="Another known receiver."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send a webhook once more: same body, same key, new signature."""
    body = {"which": which, "alter": alter, "url": send_to}
    _show_webhooks(_ask("POST", "webhooks/resend", url, body), as_json=as_json)


@_group.command()
def reset(url: Url = None, as_json: AsJson = False) -> None:
    """Remove all orders, effects, faults and webhooks; the clock stays as it is."""
    response = _ask("POST", "reset", url)
    if as_json:
        print_json(response)
    else:
        print_lines(f"Empty. It is {response['now']} there.")


def _show_webhooks(response: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(response)
        return
    fields = ("id", "type", "order_id", "status", "attempts", "url")
    rows = (each | {"attempts": _statuses(each["attempts"])} for each in response["webhooks"])
    _print_table(fields, rows, "No webhooks.")


def _statuses(attempts: list[dict[str, Any]]) -> str:
    """Return the status that the receiver returned to each delivery, `-` for none."""
    return " ".join(str(made["status"] or "-") for made in attempts)


def _print_table(fields: tuple[str, ...], rows: Iterable[Mapping[str, Any]], nothing: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in fields:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(cell("" if row[name] is None else row[name]) for name in fields))
    if table.row_count:
        console().print(table)
    else:
        print_lines(nothing)


def _ask(
    method: str,
    path: str,
    url: str | None,
    body: object = None,
    query: Mapping[str, str | None] | None = None,
) -> Any:
    """Return the running emulator's response.

    Raises `CfflowError` when it refuses or none listens.
    """
    root = _root(url or _from_environment())
    asked = {name: value for name, value in (query or {}).items() if value is not None}
    # Plain http needs no certificates: reading the machine's takes half of a command's time.
    certificates = ssl.create_default_context() if root.startswith("https:") else False
    try:
        with httpx.Client(verify=certificates, trust_env=False, timeout=_TIME_LIMIT_S) as http:
            reply = http.request(method, f"{root}/_emulator/{path}", json=body, params=asked)
        content = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise CfflowError(f"no emulator listens on {root}: cfflow emulator starts one") from None
    if reply.status_code == 400:
        raise typer.BadParameter(printable(content["message"]))
    if not reply.is_success:
        raise CfflowError(content.get("message", f"the emulator returned {reply.status_code}"))
    return content


def _from_environment() -> str:
    url = os.environ.get("CASHFREE_ENVIRONMENT", "")
    if not url.startswith(("http://", "https://")):
        raise CfflowError("where does the emulator listen? Give --url, or set CFFLOW_EMULATOR_URL")
    return url


def _root(url: str) -> str:
    return url.rstrip("/").removesuffix("/pg").removesuffix("/_emulator").rstrip("/")
