"""`cfflow worker`: the process that does what is due, and the log that it prints."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, TextIO

import msgspec
import typer

from cfflow.cli.terminal import AsJson, FlowFiles, RedisUrl, print_json_line, print_lines
from cfflow.connect import connect
from cfflow.logs import LEVEL_VARIABLE, TARGET_VARIABLE, GuardedLog, guarded
from cfflow.worker import Report, Worker

app = typer.Typer()


class _LineLog:
    """A log that prints one line for each event: text for people, JSON for programs."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json

    def info(self, event: str, **fields: Any) -> None:
        """Write an ordinary event. Gateway calls are left out of the text: there are too many."""
        if self._as_json or event != "gateway.call":
            self._write(event, "info", fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write an event that a person should see."""
        self._write(event, "warning", fields)

    def _write(self, event: str, level: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        if self._as_json:
            line = {"event": event, "level": level, "timestamp": now, **fields}
            print_json_line(line, self._stream)
        else:
            text = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
            print_lines(f"{now:%H:%M:%S} {event:<20} {text}", to=self._stream)
        self._stream.flush()


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
    log = _log(log_target, log_level, as_json=as_json)
    limits = dict(_limit(text) for text in limit or ())

    async def work() -> Report:
        async with connect(
            redis_url=redis_url, flows=flows or (), limits=limits, log=log
        ) as orchestrator:
            due_worker = Worker(
                orchestrator, concurrency=concurrency, lease_s=lease, report_s=report, log=log
            )
            log.info("worker.started", concurrency=concurrency, lease_s=lease)
            return await (due_worker.run_once() if once else due_worker.run())

    log.info("worker.stopped", **msgspec.structs.asdict(asyncio.run(work())))


def _log(target: str | None, level: str | None, *, as_json: bool) -> GuardedLog:
    """Return the log that the options name. Raises `ConfigError` for one that there is not."""
    if target == "logging":
        # Does nothing where a plugin of Python's start has set up handlers.
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
    if target not in {None, "stdout", "stderr"}:
        return guarded(None, target=target, level=level)
    stream = sys.stderr if target == "stderr" else sys.stdout
    return guarded(_LineLog(stream, as_json=as_json), level=level)


def _limit(text: str) -> tuple[str, int | None]:
    """Return (call, limit) of a text such as `pay=260`, None for `pay=none`: no limit of ours.

    `connect` refuses a call that has no limit.
    """
    call, _, number = text.partition("=")
    if number != "none" and not (number.isascii() and number.isdigit()):
        raise typer.BadParameter(f"{text!r} is not like fetch_payment=260", param_hint="--limit")
    return call, None if number == "none" else int(number)
