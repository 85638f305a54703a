"""The store's time, computed between its replies from this machine's monotonic clock.

Leases and wake times never depend on a wall clock of this machine. Each reply of the server
bounds the offset between its clock and ours: the server read its clock after we sent the call
and before we received the reply. The offset moves only as far as these bounds demand. So a
slow reply or a paused process, whose bounds are wide, changes nothing.
"""

from __future__ import annotations

import time

#: Also counts while a machine is suspended, where the system has such a clock.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic_ms() -> float:
    """Return milliseconds of a clock that never goes back."""
    return time.clock_gettime(_CLOCK) * 1000


class ServerClock:
    """Keeps the offset from our monotonic clock to the server's wall clock, in ms."""

    def __init__(self) -> None:
        self._offset_ms: float | None = None

    def adjust(self, server_at_ms: float, asked_at_ms: float, received_at_ms: float) -> None:
        """Take the server's time from a reply; the other two are of our monotonic clock."""
        # The server gives whole milliseconds: its clock may have been almost one further.
        low, high = server_at_ms - received_at_ms, server_at_ms + 1 - asked_at_ms
        if self._offset_ms is None:
            self._offset_ms = (low + high) / 2
        else:
            self._offset_ms = min(max(self._offset_ms, low), high)

    def now_ms(self) -> int:
        """Return the server's time now; before its first reply, this machine's."""
        if self._offset_ms is None:
            return round(time.time() * 1000)
        return round(monotonic_ms() + self._offset_ms)
