"""A clock for tests, which moves only when it is told to."""

from __future__ import annotations


class FakeClock:
    """A clock that moves only by `advance`. `now_ms` is milliseconds since the epoch."""

    def __init__(self, now_ms: int = 1_760_000_000_000) -> None:
        self.now_ms = now_ms

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now_ms += round(seconds * 1000)
