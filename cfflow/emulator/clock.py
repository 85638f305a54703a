"""The emulator's clock: real seconds, plus whatever a test skipped."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta, timezone

IST = timezone(timedelta(hours=5, minutes=30))


class Clock:
    """Seconds since the epoch that never go back, whatever happens to the machine's clock."""

    def __init__(self) -> None:
        self._start = time.time() - time.monotonic()
        self.offset_s = 0.0
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> float:
        """The emulator's time, in seconds since the epoch."""
        return self._start + time.monotonic() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Skip `seconds`. Raises `ValueError` when they are negative or not finite."""
        if not 0 <= seconds < float("inf"):
            raise ValueError("a clock only goes forward")
        self.offset_s += seconds
        for listener in self._listeners:
            listener()

    def advance_to(self, at: float) -> None:
        """Go on to `at` (seconds since the epoch). Raises `ValueError` when that is over."""
        self.advance(at - self.now())

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this whenever time was skipped."""
        self._listeners.append(listener)
