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


class Timers:
    """Actions waiting for their due time; nobody's clock, the caller says what time it is.

    They run in the order they are due, each with its own due time, so advancing by a week
    at once gives the same history as advancing second by second.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = count()

    def after(self, delay_s: float, now_s: float, action: Action) -> None:
        """Run `action` `delay_s` seconds after `now`: at once when there is no delay."""
        if delay_s <= 0:
            action(now_s)
        else:
            heapq.heappush(self._heap, (now_s + delay_s, next(self._sequence), action))

    def run(self, now_s: float) -> None:
        """Run everything that is due at `now`."""
        while self._heap and self._heap[0][0] <= now_s:
            due_at_s, _, action = heapq.heappop(self._heap)
            action(due_at_s)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._heap.clear()

    @property
    def next_at_s(self) -> float | None:
        """When the next action is due (seconds since the epoch), if any waits."""
        return self._heap[0][0] if self._heap else None
