"""What `cfflow worker` does, and its log. It needs no extra: a plain install runs workers too.

With the extra `cli`, cli/worker.py reads the command line. Without it, `main` does: the same
options, the same work, the same signals.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec

from cfflow.cli.lines import print_json_line, print_lines, run_to_end
from cfflow.connecting import connect
from cfflow.logs import LEVEL_VARIABLE, TARGET_VARIABLE, GuardedLog, guarded
from cfflow.store.redis.url import has_secret
from cfflow.worker import Report, Worker


class LineLog:
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


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a worker's process; times in seconds.

    `redis_url` is the environment's if it is None, as the other settings are.
    """

    concurrency: int = 64
    lease: float = 60.0
    report: float = 10.0
    limit: tuple[str, ...] = ()
    once: bool = False
    log_level: str | None = None
    log_target: str | None = None
    flows: tuple[Path, ...] = ()
    redis_url: str | None = None
    as_json: bool = False


def do_work(options: Work) -> None:
    """Do what is due until SIGTERM or SIGINT, or once, and log it.

    Raises `ValueError` for a limit that is none, and what `connect` and the store raise.
    """
    log = _log(options.log_target, options.log_level, as_json=options.as_json)
    limits = dict(map(limit_of, options.limit))

    async def work() -> Report:
        async with connect(
            redis_url=options.redis_url, flows=options.flows, limits=limits, log=log
        ) as orchestrator:
            due_worker = Worker(
                orchestrator,
                concurrency=options.concurrency,
                lease_s=options.lease,
                report_s=options.report,
                log=log,
            )
            log.info("worker.started", concurrency=options.concurrency, lease_s=options.lease)
            return await (due_worker.run_once() if options.once else due_worker.run())

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
    return guarded(LineLog(stream, as_json=as_json), level=level)


def limit_of(text: str) -> tuple[str, int | None]:
    """Return (call, limit) of a text such as `pay=260`, None for `pay=none`: no limit of ours.

    Raises `ValueError` for another form. `connect` refuses a call that has no limit.
    """
    call, _, number = text.partition("=")
    if number != "none" and not (number.isascii() and number.isdigit()):
        raise ValueError(f"{text!r} is not like fetch_payment=260")
    return call, None if number == "none" else int(number)


def main(arguments: Sequence[str]) -> None:
    """Run a worker by these arguments, where the extra that reads command lines is missing."""
    wanted = work_of(arguments)
    run_to_end(lambda: do_work(wanted), lambda line: sys.stderr.write(f"{line}\n"))


def work_of(arguments: Sequence[str]) -> Work:
    """Return the work that these arguments want. Exits with 2 for wrong usage."""
    parser = worker_parser()
    options = parser.parse_args(arguments)
    if has_secret(options.redis_url or ""):
        parser.error("--redis-url: `ps` shows its password to others: set CFFLOW_REDIS_URL")
    try:
        for text in options.limit:
            limit_of(text)
    except ValueError as error:
        parser.error(f"--limit: {error}")
    return msgspec.convert(vars(options), Work)


def worker_parser() -> argparse.ArgumentParser:
    """Return the reader of a worker's options without the extra `cli`."""
    parser = argparse.ArgumentParser(
        prog="cfflow worker",
        description="Do what is due, until SIGTERM or Ctrl-C.",
        epilog="Settings come from the environment. cfflow[cli] brings all other commands.",
        allow_abbrev=False,
    )
    given = Work()
    parser.add_argument("--concurrency", type=int, default=given.concurrency)
    parser.add_argument("--lease", type=float, default=given.lease, metavar="SECONDS")
    parser.add_argument("--report", type=float, default=given.report, metavar="SECONDS")
    parser.add_argument("--limit", action="append", default=[], metavar="CALL=N")
    parser.add_argument("--once", action="store_true")
    parser.add_argument(
        "--log-level", metavar="LEVEL", default=os.environ.get(LEVEL_VARIABLE) or None
    )
    parser.add_argument(
        "--log-target", metavar="TARGET", default=os.environ.get(TARGET_VARIABLE) or None
    )
    parser.add_argument("--flows", action="append", default=[], type=Path, metavar="PATH")
    parser.add_argument("--redis-url", metavar="URL")
    parser.add_argument("--json", action="store_true", dest="as_json")
    return parser
