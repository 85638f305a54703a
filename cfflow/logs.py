"""Where events go, from which level on, and how one is written: microseconds, and no secret.

`connect(log=...)` takes a logger. Without one the target decides: standard error, standard output
or the standard library's `logging`. Where nothing names a target, the program's own structlog
configuration is used, else events go to standard error as JSON lines. Nothing of structlog's or
logging's is configured here, but for the logger of `transitions` (`quiet_transitions`).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TextIO, cast

import msgspec
import structlog

from cfflow.core.news import reviews_changed
from cfflow.core.plan import Change, Plan
from cfflow.core.printable import safe_json
from cfflow.core.record import payment_id
from cfflow.errors import ConfigError

LEVEL_VARIABLE: Final = "CFFLOW_LOG_LEVEL"
TARGET_VARIABLE: Final = "CFFLOW_LOG_TARGET"

#: The logger of the standard library that the target `logging` writes to.
LOGGER: Final = "cfflow"
TARGETS: Final = ("stderr", "stdout", "logging")
LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}

#: From the line that emits an event to the standard library: `GuardedLog.info`,
#: `GuardedLog._write`, `_Standard.info`, and the library's own.
_FRAMES: Final = 4


_Level = Literal["info", "warning"]


class Log(Protocol):
    """What cfflow needs of a logger; every structlog logger has it."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log an ordinary event."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log an event that a person should see."""


class GuardedLog:
    """Passes events from a level on to a logger, whatever it is, and never raises.

    A disk that is full or a pipe whose reader is gone must not end a payment whose call was
    sent. `lost` counts the events that could not be written; the first one that can be written
    again is preceded by a warning `log.lost`. `least` is a level of `logging`: what is below it
    is dropped.
    """

    def __init__(self, log: Log, least: int = logging.INFO) -> None:
        self._logger = log
        self._lines = log if isinstance(log, _Lines) else None
        # A structlog logger is not asked: it would be built anew for the question alone.
        self._asked = log if isinstance(log, _Standard | _Silent) else None
        self._least = least
        self._unsaid = 0
        self.lost = 0

    def is_on(self, level: int = logging.INFO) -> bool:
        """Whether an event of this level is written: asked before its fields are gathered."""
        if level < self._least:
            return False
        try:
            return self._asked is None or self._asked.is_on(level)
        except Exception:  # noqa: BLE001  as in `_write`, which counts what is lost
            return True

    def info(self, event: str, **fields: Any) -> None:
        """Log an ordinary event."""
        if self._least <= logging.INFO:
            self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that a person should see."""
        if self._least <= logging.WARNING:
            self._write("warning", event, fields)

    def _write(self, level: _Level, event: str, fields: dict[str, Any]) -> None:
        try:
            if self._unsaid:
                self._logger.warning("log.lost", events=self._unsaid)
                self._unsaid = 0
            if self._lines is not None:
                self._lines.write(level, event, fields)
            elif level == "info":
                self._logger.info(event, **fields)
            else:
                self._logger.warning(event, **fields)
        except Exception:  # noqa: BLE001  whatever a logger raises, the payment goes on
            self.lost += 1
            self._unsaid += 1


class _Standard:
    """Writes events to a logger of the standard library: the event, and its fields as JSON.

    A record has the two as `cfflow_event` and `cfflow_fields` too, for a handler that writes
    fields of its own. It has no error and no traceback: a frame could show a secret.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def is_on(self, level: int) -> bool:
        """Whether the logger writes events of this level."""
        return self._logger.isEnabledFor(level)

    def info(self, event: str, **fields: Any) -> None:
        """Log an ordinary event."""
        if self.is_on(logging.INFO):
            extra = {"cfflow_event": event, "cfflow_fields": fields}
            line = _Fields(fields)
            self._logger.info("%s %s", event, line, extra=extra, stacklevel=_FRAMES)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that a person should see."""
        if self.is_on(logging.WARNING):
            extra = {"cfflow_event": event, "cfflow_fields": fields}
            line = _Fields(fields)
            self._logger.warning("%s %s", event, line, extra=extra, stacklevel=_FRAMES)


class _Fields(dict[str, Any]):
    """The fields of an event: JSON as text, made only where a handler writes it."""

    def __str__(self) -> str:
        return _line(dict(self)).decode()


class _Lines:
    """Writes each event as one line of JSON, with its level and the time."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write

    def info(self, event: str, **fields: Any) -> None:
        """Log an ordinary event."""
        self.write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that a person should see."""
        self.write("warning", event, fields)

    def write(self, level: _Level, event: str, fields: dict[str, Any]) -> None:
        """Log an event. It writes into `fields`, which belong to this call alone."""
        fields["event"] = event
        fields["level"] = level
        fields["timestamp"] = datetime.now(UTC)
        self._write(_line(fields))


class _Chosen:
    """What `log_to` has chosen for this process; None: the environment decides."""

    target: str | None = None
    level: str | int | None = None


def log_to(target: str | None, *, level: str | int | None = None) -> None:
    """Send the events of all orchestrators that are made from now on to a target.

    `target`: `logging` (the standard library's logger `cfflow`, with your handlers and levels),
    `stderr` or `stdout` (JSON lines); None undoes an earlier choice. `level`: events below it are
    dropped: `DEBUG`, `INFO` (the default), `WARNING`, `ERROR`, `CRITICAL`, or a number of
    `logging`'s. An argument of `connect` counts more, CFFLOW_LOG_TARGET and CFFLOW_LOG_LEVEL
    count less. Raises `ConfigError` for what is none of these. No money moves.
    """
    _check_target("target", target)
    if level is not None:
        _level_of("level", level)
    _Chosen.target, _Chosen.level = target, level


def guarded(
    log: object | None, *, target: str | None = None, level: str | int | None = None
) -> GuardedLog:
    """Return a log that never raises, over a structlog logger or one of the standard library.

    Without a log: the one of the target. What is None comes from `log_to`, then from the
    environment. Raises `ConfigError` for what is no logger, no target or no level.
    """
    if isinstance(log, GuardedLog):
        return log
    return GuardedLog(_logger(log, target), _least(level))


def _logger(log: object | None, target: str | None) -> Log:
    _check_target("log_target", target)
    if log is None:
        return target_log(target)
    if target is not None:
        raise ConfigError("give log or log_target, not both")
    if isinstance(log, logging.Logger | logging.LoggerAdapter):
        return _Standard(log)
    if not all(callable(getattr(log, name, None)) for name in ("info", "warning")):
        raise ConfigError(f"log must be a logger, not a {type(log).__name__}")
    return cast("Log", log)


def chosen_target(target: str | None = None) -> str | None:
    """Return the given target, else the one of `log_to`, else the environment's, else None."""
    if target or _Chosen.target:
        return target or _Chosen.target
    found = os.environ.get(TARGET_VARIABLE) or None
    _check_target(TARGET_VARIABLE, found)
    return found


def target_log(target: str | None = None) -> Log:
    """Return the logger of a target; of none: the program's structlog, or JSON lines on stderr."""
    target = chosen_target(target)
    if target == "logging":
        return _Standard(logging.getLogger(LOGGER))
    if target is None and structlog.is_configured():
        return cast("Log", structlog.get_logger(LOGGER))
    return stream_log(sys.stdout if target == "stdout" else sys.stderr)


def stream_log(stream: TextIO | None) -> Log:
    """Return a logger that writes JSON lines to a stream; it drops them where there is none."""
    if stream is None:
        # The program was started without one.
        return silent_log()
    if (buffer := getattr(stream, "buffer", None)) is not None:
        return _Lines(structlog.BytesLogger(buffer).msg)
    # In a notebook, a test, or under Celery a text stream without bytes stands in its place.
    write = structlog.WriteLogger(stream).msg
    return _Lines(lambda line: write(line.decode()))


def _check_target(name: str, target: object) -> None:
    if target is not None and not (isinstance(target, str) and target in TARGETS):
        raise ConfigError(f"{name} must be one of {', '.join(TARGETS)}")


def _least(level: str | int | None) -> int:
    """Return the level that is given, else the one of `log_to`, the environment's, or INFO."""
    if level is not None:
        return _level_of("log_level", level)
    if _Chosen.level is not None:
        return _level_of("level", _Chosen.level)
    return _level_of(LEVEL_VARIABLE, os.environ.get(LEVEL_VARIABLE) or "INFO")


def _level_of(name: str, level: object) -> int:
    """Return a level as a number; `name` is the argument or variable that an error names."""
    found = LEVELS.get(level.upper()) if isinstance(level, str) else level
    if type(found) is not int:
        raise ConfigError(f"{name} must be one of {', '.join(LEVELS)}")
    return found


def quiet_transitions() -> None:
    """Keep the INFO lines of `transitions`, several for each step, out of the program's log.

    Only where the program has configured nothing of that logger: it has no level and no handler
    of its own. A level that is set later counts, too.
    """
    parent, its_own = logging.getLogger("transitions"), logging.getLogger("transitions.core")
    handlers = [*parent.handlers, *its_own.handlers]
    if parent.level or any(type(handler) is not logging.NullHandler for handler in handlers):
        return
    parent.setLevel(logging.WARNING)


quiet_transitions()


class _Silent:
    def is_on(self, level: int) -> bool:  # noqa: ARG002  no event of any level is written
        """Whether an event of this level is written: none is."""
        return False

    def info(self, event: str, **fields: Any) -> None:
        """Drop an event."""

    def warning(self, event: str, **fields: Any) -> None:
        """Drop a warning."""


def silent_log() -> Log:
    """Return a logger that drops everything: for programs whose output is their result."""
    return _Silent()


def log_commit(log: GuardedLog, plan: Plan, started_at: float) -> None:
    """Log a committed plan: one event per transition, and a warning for each new review.

    `started_at` is the `time.perf_counter` of when the step began.
    """
    if not log.is_on(logging.WARNING):
        return
    for change in plan.changes:
        if change.walked and log.is_on(logging.INFO):
            _log_transitions(log, plan.after.id, change, started_at)
        _log_reviews(log, plan.after.id, change)


def _log_transitions(log: Log, order_id: str, change: Change, started_at: float) -> None:
    record, name = change.record, payment_id(order_id, change.n)
    duration_ms = round((time.perf_counter() - started_at) * 1000, 3)
    for walked in change.walked:
        # A logger gets plain texts: `repr`, which some write, would show the members of an enum.
        log.info(
            "payment.transition",
            payment_id=name,
            order_id=order_id,
            cf_payment_id=record.cf_payment_id,
            flow=record.flow,
            from_state=str(walked.from_state),
            to_state=str(walked.to_state),
            trigger=str(walked.trigger),
            step=walked.step,
            observation=walked.proof,
            version=record.version,
            request_id=walked.request_id,
            cause=str(walked.author.cause),
            actor=walked.author.actor,
            duration_ms=duration_ms,
        )


def _log_reviews(log: Log, order_id: str, change: Change) -> None:
    for news in reviews_changed(change):
        if news.is_open:
            review = news.review
            log.warning(
                "payment.review",
                payment_id=payment_id(order_id, change.n),
                reason=review.reason,
                detail=review.detail,
            )


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _line(fields: dict[str, Any]) -> bytes:
    """Return fields as JSON in which nothing acts on the terminal that may show it."""
    line = _encode(fields)
    # JSON escapes control characters of ASCII; DEL is the one that it does not.
    return line if line.isascii() and b"\x7f" not in line else safe_json(line.decode()).encode()
