"""The log of a simulated world, line by line: the same seed gives the same story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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
