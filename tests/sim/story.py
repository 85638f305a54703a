"""The log of a simulated world, line by line: the same seed gives the same story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cfflow.core.record import Record


class Story:
    """A log in virtual time. `clock` returns seconds since the world began."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines: list[tuple[float, str, Callable[..., str], tuple[Any, ...]]] = []

    def add(self, who: str, what: str) -> None:
        """Add a line."""
        self._lines.append((self._clock(), who, str, (what,)))

    def add_later(self, who: str, text: Callable[..., str], *about: Any) -> None:
        """Add a line whose text is made when the story is told: most stories never are.

        `about` must not change any more.
        """
        self._lines.append((self._clock(), who, text, about))

    def lines(self) -> tuple[str, ...]:
        """Return the story, numbered."""
        return tuple(
            f"{number:4} {at_s:12.3f} {who:<9} {text(*about)}"
            for number, (at_s, who, text, about) in enumerate(self._lines, 1)
        )


def described(name: str, record: Record) -> str:
    """Return what a commit made of a payment, as a line of the story."""
    parts = [f"commits {name} v{record.version} {record.state}"]
    operation = record.operation
    if operation is not None:
        accepted = " accepted" if operation.accepted else ""
        parts.append(f"{operation.step} #{operation.sequence} open{accepted}")
    if record.cf_payment_id:
        parts.append(record.cf_payment_id)
    if record.abandoned:
        parts.append("abandoned")
    reviews = [review.reason for review in record.open_reviews]
    if reviews:
        parts.append(f"review: {', '.join(reviews)}")
    wake = (
        "never"
        if record.wake_at_ms is None
        else f"in {(record.wake_at_ms - record.updated_at_ms) / 1000:.1f} s"
    )
    return ", ".join([*parts, f"wakes {wake}"])
