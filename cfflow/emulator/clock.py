"""The clock of the emulator, which a test can move forward, and actions with a due time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from datetime import timedelta, timezone
from itertools import count

IST = timezone(timedelta(hours=5, minutes=30))

Action = Callable[[float], None]


class Clock:
    """Seconds since the epoch. It never goes back, even if the machine's clock does."""

    def __init__(self) -> None:
        self._start = time.time() - time.monotonic()
        self.offset_s = 0.0
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> float:
        """Return the emulator's time, in seconds since the epoch."""
        return self._start + time.monotonic() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Skip `seconds`. Raises `ValueError` if they are negative or not finite."""
        if not 0 <= seconds < float("inf"):
            raise ValueError("a clock only goes forward")
        self.offset_s += seconds
        for listener in self._listeners:
            listener()

    def advance_to(self, at_s: float) -> None:
        """Skip to `at_s` (seconds since the epoch). Raises `ValueError` if it has passed."""
        self.advance(at_s - self.now())

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each skip of time."""
        self._listeners.append(listener)


class Timers:
    """Actions with a due time. It has no clock: the caller passes the time.

    Actions run in the order of their due times, and each gets its own due time. So a skip of
    a week gives the same history as a skip of each second.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = count()

    def after(self, delay_s: float, now_s: float, action: Action) -> None:
        """Run `action` `delay_s` seconds after `now_s`; at once if there is no delay."""
        if delay_s <= 0:
            action(now_s)
        else:
            heapq.heappush(self._heap, (now_s + delay_s, next(self._sequence), action))

    def run(self, now_s: float) -> None:
        """Run everything that is due at `now_s`."""
        while self._heap and self._heap[0][0] <= now_s:
            due_at_s, _, action = heapq.heappop(self._heap)
            action(due_at_s)

    def clear(self) -> None:
        """Remove every action."""
        self._heap.clear()

    @property
    def next_at_s(self) -> float | None:
        """When the next action is due (seconds since the epoch), or None."""
        return self._heap[0][0] if self._heap else None
