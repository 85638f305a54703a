"""An event loop on virtual time: nothing really waits, and the schedule is drawn from a seed.

Among the callbacks that are ready the next one is drawn at random; when none is ready, time
jumps to the next timer. Virtual days take no real time. The same seed runs the same callbacks
in the same order on every machine.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context
from itertools import count
from random import Random
from typing import Any, TypeVar, TypeVarTuple

from cfflow.testing import FakeClock

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Deadlock(Exception):
    """A task waits, and no callback or timer is left that could wake it."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs coroutines on time that only it moves; `clock` is moved along, in ms."""

    def __init__(self, rng: Random, clock: FakeClock) -> None:
        super().__init__()
        self.steps = 0
        self.halted = False
        self.on_task: Callable[[asyncio.Task[Any]], None] = _ignored
        self.on_error: Callable[[str], None] = _ignored
        self._draw = rng.random
        self._clock = clock
        self._began_ms = clock.now_ms
        self._now_s = 0.0
        self._runnable: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = count()

    def time(self) -> float:
        return self._now_s

    @property
    def next_timer_s(self) -> float | None:
        """When the next timer is due that was not cancelled."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._runnable.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def create_task(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(*args, loop=self, **kwargs)
        self.on_task(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.on_error(f"{context.get('message')}: {context.get('exception')!r}")

    def run(self, main: Coroutine[Any, Any, _T]) -> _T | None:
        """Run until `main` has ended; None when the loop was halted before."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not (task.done() or self.halted):
                if not self._runnable:
                    self._jump()
                self._run_one()
            return task.result() if task.done() else None
        finally:
            asyncio._set_running_loop(None)

    def drain(self) -> None:
        """Run what is ready without moving time: let cancelled tasks end."""
        asyncio._set_running_loop(self)
        try:
            while self._runnable:
                self._run_one()
        finally:
            asyncio._set_running_loop(None)

    def _run_one(self) -> None:
        ready = self._runnable
        drawn = int(self._draw() * len(ready))
        handle, ready[drawn] = ready[drawn], ready[-1]
        ready.pop()
        self.steps += 1
        if not handle._cancelled:
            handle._run()

    def _jump(self) -> None:
        """Go to the next timer, and make everything ready that is due then."""
        due_s = self.next_timer_s
        if due_s is None:
            raise Deadlock("every task waits, and no timer is left")
        if due_s > self._now_s:
            self._now_s = due_s
            self._clock.now_ms = self._began_ms + round(due_s * 1000)
        while self._timers and self._timers[0][0] <= self._now_s:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                self._runnable.append(timer)


def _ignored(_: object) -> None:
    """Ignore a task or an error while the loop has no owner."""
