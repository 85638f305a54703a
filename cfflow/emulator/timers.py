"""Things that happen by themselves when their time has come."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[float], None]


class Timers:
    """Actions waiting for their due time; nobody's clock, the caller says what time it is.

    They run in the order they are due, each with its own due time, so advancing by a week
    at once gives the same history as advancing second by second.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = count()

    def after(self, delay_s: float, now: float, action: Action) -> None:
        """Run `action` `delay_s` seconds after `now`: at once when there is no delay."""
        if delay_s <= 0:
            action(now)
        else:
            heapq.heappush(self._heap, (now + delay_s, next(self._sequence), action))

    def run(self, now: float) -> None:
        """Run everything that is due at `now`."""
        while self._heap and self._heap[0][0] <= now:
            due_at, _, action = heapq.heappop(self._heap)
            action(due_at)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._heap.clear()

    @property
    def next_at(self) -> float | None:
        """When the next action is due (seconds since the epoch), if any waits."""
        return self._heap[0][0] if self._heap else None
