"""One thread with one event loop, on which an async orchestrator lives, and calls handed to it.

Three rules keep this safe. Nothing is handed to a loop that is about to end: who ends it
says so under the lock under which calls are handed over. Whoever stops waiting, by Ctrl-C or
another signal, cancels the call: a crash like any other, its operation stays open. And a
forked child never touches what its parent had open: it opens its own with its first call.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, NoReturn, TypeVar, cast

from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError, OutcomeUnknown
from cfflow.orchestrator import Orchestrator

__all__ = [
    "CLOSED",
    "CLOSE_S",
    "Call",
    "LoopThread",
    "ProcessLoop",
    "Stop",
    "refuse_on_a_loop",
    "waited",
]

#: How long `close` waits for calls in hand: longer than a call may take.
CLOSE_S: Final = 30.0

CLOSED: Final = "this orchestrator was closed: connect again"

_R = TypeVar("_R")
_T = TypeVar("_T")
Call = Callable[[_T], Coroutine[Any, Any, _R]]
#: How a call that would go on for ever is told to end; run on its loop.
Stop = Callable[[asyncio.Task[Any]], object]


class LoopThread:
    """One thread, its event loop, and the async orchestrator that is opened and closed there."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.orchestrator: Final = orchestrator
        self.is_ending = False
        self.failure: BaseException | None = None
        self._gate = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closing: asyncio.Future[float] = self._loop.create_future()
        #: What is in hand, and how it is told to end where it would go on for ever.
        self._tasks: dict[asyncio.Task[Any], Stop | None] = {}
        self._futures: set[Future[Any]] = set()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, name="cfflow", daemon=True)
        self._thread.start()

    def submit(self, target: _T, call: Call[_T, _R], stop: Stop | None = None) -> Future[_R] | None:
        """Hand a call over; None when this line takes no more. `stop` ends an endless one."""
        with self._gate:
            if self.is_ending:
                return None
            # It runs in a copy of this thread's context, so its log events carry what the
            # caller has bound.
            future = asyncio.run_coroutine_threadsafe(self._held(target, call, stop), self._loop)
            self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def close(self, limit_s: float) -> None:
        """Wait for what is in hand, close the connections, end the thread."""
        self._end(limit_s)
        try:
            self._ended.result()
        except BaseException:
            # Nobody has the patience any more: what is still in hand is cut off.
            self.tell(self._cut)
            raise
        finally:
            self._thread.join()

    def tell(self, callback: Callable[[], object]) -> None:
        """Run this on the loop; takes no lock, so that a signal handler may call it."""
        with contextlib.suppress(RuntimeError):
            # The loop may have ended meanwhile, and with it what was to be told.
            self._loop.call_soon_threadsafe(callback)

    def _end(self, limit_s: float) -> None:
        """Take no more calls. Those taken were handed over before this, so they are known."""

        def close() -> None:
            if not self._closing.done():
                self._closing.set_result(limit_s)

        with self._gate:
            self.is_ending = True
            self.tell(close)

    def _cut(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _live(self) -> None:
        try:
            # It also cancels what else runs there, and ends the threads that looked up names.
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  raised again by close
            self._refuse()
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _refuse(self) -> None:
        """Leave nobody waiting for a loop that was broken off, as by a SystemExit in a log."""
        with self._gate:
            self.is_ending = True
        for future in list(self._futures):
            future.cancel()

    async def _serve(self) -> None:
        try:
            await self._open()
            limit_s = await self._closing
            for task, stop in self._tasks.items():
                if stop is not None:
                    stop(task)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=limit_s)
            while self._tasks:
                self._cut()
                await asyncio.wait(self._tasks)
        finally:
            await self.orchestrator.aclose()

    async def _open(self) -> None:
        """Connect. If that fails, everybody who waits hears it and the line ends."""
        try:
            await self.orchestrator.__aenter__()
        except BaseException as error:  # noqa: BLE001  raised again in those who wait
            self.failure = error
            self._opened.set_exception(error)
            # Also read here: perhaps nobody waits any more.
            self._opened.exception()
            self._end(CLOSE_S)
        else:
            self._opened.set_result(None)

    async def _held(self, target: _T, call: Call[_T, _R], stop: Stop | None) -> _R:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks[task] = stop
        try:
            await asyncio.shield(self._opened)
            return await call(target)
        finally:
            del self._tasks[task]


def waited(future: Future[_R]) -> _R:
    """Return what a call returns or raise what it raises; whoever stops waiting cancels it."""
    try:
        return future.result()
    except CancelledError:
        raise OutcomeUnknown(
            "closed while the call was in hand; nobody knows what it did: `refresh` asks"
        ) from None
    except BaseException:
        future.cancel()
        raise
    finally:
        # An error knows this frame, and must not be known by it.
        del future


def refuse_on_a_loop() -> None:
    """A call that blocks a running loop would stop every task on it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "cfflow.sync was called inside a running event loop, which it would block;"
        " use `async with cfflow.connect(...)` there"
    )


class ProcessLoop:
    """The line of this process: opened by its first call, anew in a forked child."""

    def __init__(self, make: Sealed[Callable[[], Orchestrator]], *, is_own: bool) -> None:
        self._make = make
        # Made here too, so that a wrong setting is told where it was given.
        self._next: Orchestrator | None = make.reveal()()
        self._is_own = is_own
        self._pid = os.getpid()
        self._line: LoopThread | None = None
        self._lock = threading.RLock()
        self._closed = False
        _ALL.add(self)

    def submit(
        self, call: Call[Orchestrator, _R], stop: Stop | None = None
    ) -> tuple[LoopThread, Future[_R]]:
        """Hand a call over; return on which line it is."""
        while True:
            line = self.current()
            future = line.submit(line.orchestrator, call, stop)
            if future is not None:
                return line, future
            if line.failure is not None:
                raise line.failure

    def made(self, make: Callable[[Orchestrator], _T]) -> tuple[LoopThread, _T]:
        """Return what is made of the async orchestrator, and the line it belongs to."""

        async def call(twin: Orchestrator) -> _T:
            return make(twin)

        refuse_on_a_loop()
        line, future = self.submit(call)
        return line, waited(future)

    def current(self) -> LoopThread:
        """Return this process's line, a new one where there is none or it could not connect."""
        if self._pid != os.getpid():
            # Not every server that forks tells Python so; uWSGI has to be asked to.
            self.forget_parent()
        with self._lock:
            if self._closed:
                raise ConfigError(CLOSED)
            if self._line is None:
                atexit.register(self.close)
            if self._line is None or self._line.is_ending:
                made, self._next = self._next, None
                self._line = LoopThread(made or self._make.reveal()())
            return self._line

    def close(self, limit_s: float = CLOSE_S) -> None:
        """End this process's line, and take no more calls."""
        with self._lock:
            self._closed = True
            line = self._line
        if line is not None:
            line.close(limit_s)
            self._line = None
            atexit.unregister(self.close)

    def forget_parent(self) -> None:
        """Leave to the parent what is the parent's: called in a forked child, alone there."""
        self._pid, self._lock = os.getpid(), threading.RLock()
        if self._line is not None:
            # Never collected: a connection that is would speak to the parent's server.
            _OF_PARENTS.append(self._line)
            self._line = None
            if not self._is_own:
                self._make = Sealed(_refuse_fork)


_ALL: Final[weakref.WeakSet[ProcessLoop]] = weakref.WeakSet()
_OF_PARENTS: Final[list[LoopThread]] = []


def _refuse_fork() -> NoReturn:
    raise ConfigError(
        "the `store` that was given to cfflow.sync.connect was open when this process was forked,"
        " and two processes cannot share it: give a redis_url, or connect after the fork"
    )


def _after_fork() -> None:
    for lines in list(_ALL):
        lines.forget_parent()


os.register_at_fork(after_in_child=_after_fork)
