"""`cfflow worker`: the process that does what is due. What it does is in cli/work.py."""

from __future__ import annotations

from typing import Annotated

import typer

from cfflow.cli.terminal import AsJson, FlowFiles, RedisUrl
from cfflow.cli.work import Work, do_work, limit_of
from cfflow.logs import LEVEL_VARIABLE, TARGET_VARIABLE

app = typer.Typer()


def _checked_limits(limits: list[str] | None) -> list[str] | None:
    """Return the limits as they are. Exits with 2 for one that has another form."""
    for text in limits or ():
        try:
            limit_of(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--limit") from None
    return limits


@app.command()
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="How many orders at once.")] = 64,
    lease: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="How long an order is leased to this worker."),
    ] = 60.0,
    report: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How often to report.")
    ] = 10.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CALL=N",
            callback=_checked_limits,
            help="Calls per minute of your account: fetch_payment=260.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do what is due now, once, and end.")
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            envvar=LEVEL_VARIABLE, metavar="LEVEL", help="INFO, or WARNING for what needs a person."
        ),
    ] = None,
    log_target: Annotated[
        str | None,
        typer.Option(
            envvar=TARGET_VARIABLE,
            metavar="TARGET",
            help="stdout (the default), stderr, or logging: Python's own.",
        ),
    ] = None,
    flows: FlowFiles = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Do what is due, until SIGTERM or Ctrl-C: inquiries, time limits, holds that end.

    Any number of workers may run, on any number of machines.
    """
    options = Work(
        concurrency=concurrency,
        lease=lease,
        report=report,
        limit=tuple(limit or ()),
        once=once,
        log_level=log_level,
        log_target=log_target,
        flows=tuple(flows or ()),
        redis_url=redis_url,
        as_json=as_json,
    )
    do_work(options)
