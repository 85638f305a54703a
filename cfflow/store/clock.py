"""The store's time, told between its answers by this machine's monotonic clock.

Leases and wake times never depend on a wall clock. Each answer of the server bounds the
offset between its clock and ours: it was read after we asked and before we heard. The
offset is moved no further than into those bounds, so that a slow answer or a paused
process, whose bounds are wide, changes nothing.
"""

from __future__ import annotations

import time

__all__ = ["ServerClock", "monotonic_ms"]

#: Counts on while a machine sleeps, where the system has such a clock.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic_ms() -> float:
    """Return milliseconds of a clock that never goes back."""
    return time.clock_gettime(_CLOCK) * 1000


class ServerClock:
    """Keeps the offset from our monotonic clock to the server's wall clock, in ms."""

    def __init__(self) -> None:
        self._offset_ms: float | None = None

    def heard(self, server_ms: float, asked_at_ms: float, heard_ms: float) -> None:
        """Take the server's time out of an answer, asked for and heard at our own times."""
        low, high = server_ms - heard_ms, server_ms + 1 - asked_at_ms
        if self._offset_ms is None:
            self._offset_ms = (low + high) / 2
        else:
            self._offset_ms = min(max(self._offset_ms, low), high)

    def now_ms(self) -> int:
        """Return the server's time now; before its first answer, this machine's."""
        if self._offset_ms is None:
            return round(time.time() * 1000)
        return round(monotonic_ms() + self._offset_ms)
