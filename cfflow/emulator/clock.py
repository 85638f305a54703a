"""The emulator's clock: real seconds, plus whatever a test skipped."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the epoch that never go back, whatever happens to the machine's clock."""

    def __init__(self) -> None:
        self._start = time.time() - time.monotonic()
        self.offset_s = 0.0

    def now(self) -> float:
        """The emulator's time, in seconds since the epoch."""
        return self._start + time.monotonic() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Skip `seconds`. Raises `ValueError` when they are negative or not finite."""
        if not 0 <= seconds < float("inf"):
            raise ValueError("a clock only goes forward")
        self.offset_s += seconds
