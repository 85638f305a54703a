"""The log of a simulated world, line by line: the same seed gives the same story."""

from __future__ import annotations

from collections.abc import Callable


class Story:
    """A log in virtual time. `clock` returns seconds since the world began."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines: list[tuple[float, str, str]] = []

    def add(self, who: str, what: str) -> None:
        """Add a line."""
        self._lines.append((self._clock(), who, what))

    def lines(self) -> tuple[str, ...]:
        """Return the story, numbered."""
        return tuple(
            f"{number:4} {at_s:12.3f} {who:<9} {what}"
            for number, (at_s, who, what) in enumerate(self._lines, 1)
        )
