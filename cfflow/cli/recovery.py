"""The commands that keep payments going: the worker, and a person's word."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from cfflow.cli.terminal import (
    AsJson,
    FlowFiles,
    PaymentId,
    RedisUrl,
    console,
    plain,
    print_json,
    wait,
)
from cfflow.connect import connect
from cfflow.core.arguments import LEFT_OUT
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.views.payment import Payment
from cfflow.worker import Report, Worker

__all__ = ["app"]

app = typer.Typer()

Actor = Annotated[str, typer.Option(help="Who decides; kept in the history.")]
Note = Annotated[str, typer.Option(help="Why; kept in the history.")]


class _Lines:
    """A log that writes each event as a line: for people, or as JSON for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def info(self, event: str, **fields: Any) -> None:
        """Write an ordinary event; of the gateway's calls only programs hear."""
        if self._as_json or event != "gateway.call":
            self._write(event, "info", fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write an event that somebody should see."""
        self._write(event, "warning", fields)

    def _write(self, event: str, level: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        if self._as_json:
            told = {"event": event, "level": level, "timestamp": now, **fields}
            line = msgspec.json.encode(told, enc_hook=str).decode()
        else:
            said = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
            line = f"{now:%H:%M:%S} {event:<20} {said}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@app.command()
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="How many payments at once.")] = 64,
    lease: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long a claimed payment is ours.")
    ] = 60.0,
    report: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How often to report.")
    ] = 10.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="CALL=N", help="Calls a minute of your account, fetch_payment=260."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Claim once, and end.")] = False,
    flows: FlowFiles = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Wake payments that are due until SIGTERM or Ctrl-C: ask, poll, keep time limits.

    Any number of workers may run, on any number of machines.
    """
    log = _Lines(as_json=as_json)
    limits = dict(_limit(text) for text in limit or ())

    async def work() -> Report:
        async with connect(
            redis_url=redis_url, flows=flows or (), limits=limits, log=log
        ) as orchestrator:
            tending = Worker(
                orchestrator, concurrency=concurrency, lease_s=lease, report_s=report, log=log
            )
            log.info("worker.started", concurrency=concurrency, lease_s=lease)
            return await (tending.run_once() if once else tending.run())

    log.info("worker.stopped", **msgspec.structs.asdict(asyncio.run(work())))


def _limit(text: str) -> tuple[str, int | None]:
    """Return a call and its limit; `none` is without one. Which calls there are `connect` knows."""
    call, _, number = text.partition("=")
    if number != "none" and not (number.isascii() and number.isdigit()):
        raise typer.BadParameter(f"{text!r} is not like fetch_payment=260", param_hint="--limit")
    return call, None if number == "none" else int(number)


@app.command()
def adopt(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="An order's id, order_8123")],
    flow: Annotated[
        list[str],
        typer.Option(help="A flow for attempts that no payment here knows; one for each method."),
    ],
    flows: FlowFiles = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild an order's payments from the gateway, after Redis was lost or rolled back."""

    async def work() -> list[Payment]:
        async with connect(
            redis_url=redis_url, flows=flows or (), log=silent_log()
        ) as orchestrator:
            return await orchestrator.adopt(order_id, flow=flow)

    payments = wait(work())
    if as_json:
        print_json([plain(payment) for payment in payments])
    for payment in () if as_json else payments:
        _say(payment)
    if not (payments or as_json):
        console().print(f"The gateway knows no attempt of {order_id}.")


@app.command()
def abandon(payment_id: PaymentId, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Free the order for another payment; this one is watched to its end."""
    _decide(redis_url, lambda orchestrator: orchestrator.abandon(payment_id), as_json=as_json)


@app.command()
def acknowledge(
    payment_id: PaymentId,
    reason: Annotated[str, typer.Argument(metavar="REASON", help="The review's name.")],
    actor: Actor,
    note: Note,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Close one open review by name; the payment stays as it is."""
    _decide(
        redis_url,
        lambda orchestrator: orchestrator.acknowledge(payment_id, reason, actor=actor, note=note),
        as_json=as_json,
    )


@app.command()
def resolve(
    payment_id: PaymentId,
    state: Annotated[str, typer.Argument(metavar="STATE", help="Where the payment is.")],
    actor: Actor,
    note: Note,
    amount: Annotated[
        str | None, typer.Option(help="What was captured, in rupees; left out: the whole hold.")
    ] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take your word for where a payment is, while a review is open on it; moves no money."""
    _decide(
        redis_url,
        lambda orchestrator: orchestrator.resolve(
            payment_id,
            state,
            amount=LEFT_OUT if amount is None else amount,
            actor=actor,
            note=note,
        ),
        as_json=as_json,
    )


def _decide(
    redis_url: str | None,
    word: Callable[[Orchestrator], Awaitable[Payment]],
    *,
    as_json: bool,
) -> None:
    async def work() -> Payment:
        async with connect(redis_url=redis_url, log=silent_log()) as orchestrator:
            return await word(orchestrator)

    payment = wait(work())
    if as_json:
        print_json(plain(payment))
    else:
        _say(payment)


def _say(payment: Payment) -> None:
    parts = [payment.id, "is", payment.state.value]
    if payment.money:
        parts.append(payment.money)
    if payment.review:
        parts.append(f"(review: {', '.join(payment.review)})")
    console().print(Text(" ".join(parts)))
