"""structlog, set up so that an event costs microseconds and never shows a secret.

The program's own structlog configuration is used where there is one. Where there is none,
events go to standard error as JSON lines, and nothing global is configured.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import msgspec
import structlog

from cfflow.core.news import reviews_changed
from cfflow.core.plan import Change, Plan
from cfflow.core.printable import safe_json
from cfflow.core.record import payment_id
from cfflow.errors import ConfigError


class Log(Protocol):
    """What cfflow needs of a logger; every structlog logger has it."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log an ordinary event."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log an event that a person should see."""


class GuardedLog:
    """Passes events on to a logger, whatever it is, and never raises.

    A disk that is full or a pipe whose reader is gone must not end a payment whose call was
    sent. `lost` counts the events that could not be written; the first one that can be written
    again is preceded by a warning `log.lost`.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._unsaid = 0
        self.lost = 0

    def info(self, event: str, **fields: Any) -> None:
        """Log an ordinary event."""
        self._write(self._log.info, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that a person should see."""
        self._write(self._log.warning, event, fields)

    def _write(self, write: Callable[..., Any], event: str, fields: dict[str, Any]) -> None:
        try:
            if self._unsaid:
                self._log.warning("log.lost", events=self._unsaid)
                self._unsaid = 0
            write(event, **fields)
        except Exception:  # noqa: BLE001  whatever a logger raises, the payment goes on
            self.lost += 1
            self._unsaid += 1


class _Standard:
    """Writes events to a logger of the standard library: the event, and its fields as JSON."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def info(self, event: str, **fields: Any) -> None:
        """Log an ordinary event."""
        self._logger.info("%s %s", event, _Fields(fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that a person should see."""
        self._logger.warning("%s %s", event, _Fields(fields))


class _Fields(dict[str, Any]):
    """The fields of an event: JSON as text, made only where a handler writes it."""

    def __str__(self) -> str:
        return _line(dict(self)).decode()


def guarded(log: object | None) -> GuardedLog:
    """Return a log that never raises, over a structlog logger or one of the standard library.

    None is the default one. Raises `ConfigError` for what is no logger.
    """
    if isinstance(log, GuardedLog):
        return log
    if log is None:
        return GuardedLog(default_log())
    if isinstance(log, logging.Logger | logging.LoggerAdapter):
        return GuardedLog(_Standard(log))
    if not all(callable(getattr(log, name, None)) for name in ("info", "warning")):
        raise ConfigError(f"log must be a logger, not a {type(log).__name__}")
    return GuardedLog(cast("Log", log))


def default_log() -> Log:
    """Return the program's structlog logger, or one that writes JSON lines to stderr."""
    if structlog.is_configured():
        return cast("Log", structlog.get_logger("cfflow"))
    if sys.stderr is None:
        # The program was started without one.
        return silent_log()
    return cast(
        "Log",
        structlog.wrap_logger(
            structlog.BytesLogger(sys.stderr.buffer),
            processors=[_render],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=True,
        ),
    )


class _Silent:
    def info(self, event: str, **fields: Any) -> None:
        """Drop an event."""

    def warning(self, event: str, **fields: Any) -> None:
        """Drop a warning."""


def silent_log() -> Log:
    """Return a logger that drops everything: for programs whose output is their result."""
    return _Silent()


def log_commit(log: Log, plan: Plan, started_at: float) -> None:
    """Log a committed plan: one event per transition, and a warning for each new review.

    `started_at` is the `time.perf_counter` of when the step began.
    """
    for change in plan.changes:
        _log_change(log, plan.after.id, change, started_at)


def _log_change(log: Log, order_id: str, change: Change, started_at: float) -> None:
    record, name = change.record, payment_id(order_id, change.n)
    for walked in change.walked:
        log.info(
            "payment.transition",
            payment_id=name,
            order_id=order_id,
            cf_payment_id=record.cf_payment_id,
            flow=record.flow,
            from_state=walked.from_state.value,
            to_state=walked.to_state.value,
            trigger=walked.trigger.value,
            step=walked.step,
            observation=walked.proof,
            version=record.version,
            request_id=walked.request_id,
            cause=walked.author.cause.value,
            actor=walked.author.actor,
            duration_ms=round((time.perf_counter() - started_at) * 1000, 3),
        )
    for news in reviews_changed(change):
        if news.is_open:
            review = news.review
            log.warning(
                "payment.review", payment_id=name, reason=review.reason, detail=review.detail
            )


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _render(_: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
    """Add level and time and encode: three of structlog's processors in one, for speed."""
    event["level"] = level
    event["timestamp"] = datetime.now(UTC)
    return _line(event)


def _line(fields: MutableMapping[str, Any]) -> bytes:
    """Return fields as JSON in which nothing acts on the terminal that may show it."""
    line = _encode(fields)
    # JSON escapes control characters of ASCII; DEL is the one that it does not.
    return line if line.isascii() and b"\x7f" not in line else safe_json(line.decode()).encode()
