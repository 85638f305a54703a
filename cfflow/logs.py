"""structlog, set up so that an event costs microseconds and never shows a secret.

The program's own structlog configuration is used where there is one. Where there is none,
events go to standard error as JSON lines, and nothing global is configured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import msgspec
import structlog

from cfflow.core.plan import Change, Plan
from cfflow.core.record import payment_id


class Log(Protocol):
    """What cfflow needs of a logger; every structlog logger has it."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log an ordinary event."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log an event that a person should see."""


def default_log() -> Log:
    """Return the program's structlog logger, or one that writes JSON lines to stderr."""
    if structlog.is_configured():
        return cast("Log", structlog.get_logger("cfflow"))
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
            duration_ms=round((time.perf_counter() - started_at) * 1000, 3),
        )
    previous = () if change.previous is None else change.previous.reviews
    if record.reviews is previous:
        return
    known = {(review.reason, review.at_ms, review.detail) for review in previous}
    for review in record.open_reviews:
        if (review.reason, review.at_ms, review.detail) not in known:
            log.warning(
                "payment.review", payment_id=name, reason=review.reason, detail=review.detail
            )


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _render(_: Any, level: str, event: MutableMapping[str, Any]) -> bytes:
    """Add level and time and encode: three of structlog's processors in one, for speed."""
    event["level"] = level
    event["timestamp"] = datetime.now(UTC)
    return _encode(event)
