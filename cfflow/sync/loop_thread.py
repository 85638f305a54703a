"""A thread with an event loop, on which an async orchestrator runs the calls of other threads.

Three rules keep this safe:

- No call goes to a loop that is about to end. Calls are passed under a lock, and `is_ending` is
  set under the same lock.
- A caller that stops waiting (Ctrl-C, a signal handler that raises) cancels its call. The call's
  operation stays open, as after a crash.
- A forked child never uses a connection of its parent: its first call opens its own.
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

#: How long `close` waits for running calls: longer than a call may take.
CLOSE_S: Final = 30.0

CLOSED: Final = "this orchestrator was closed: connect again"

_R = TypeVar("_R")
_T = TypeVar("_T")
Call = Callable[[_T], Coroutine[Any, Any, _R]]
#: Ends a call that would run for ever, such as a worker's `run`. Runs on the call's loop.
Stop = Callable[[asyncio.Task[Any]], object]


class LoopThread:
    """One thread, its event loop, and the async orchestrator that is opened and closed there."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.orchestrator: Final = orchestrator
        self.is_ending = False
        self.failure: BaseException | None = None
        self._lock = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closing: asyncio.Future[float] = self._loop.create_future()
        #: The running calls, each with its `Stop` if it would run for ever.
        self._tasks: dict[asyncio.Task[Any], Stop | None] = {}
        self._futures: set[Future[Any]] = set()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._thread_main, name="cfflow", daemon=True)
        self._thread.start()

    def submit(self, target: _T, call: Call[_T, _R], stop: Stop | None = None) -> Future[_R] | None:
        """Run a call on the loop; return its future, or None when the loop is about to end.

        `stop` ends a call that would run for ever.
        """
        with self._lock:
            if self.is_ending:
                return None
            # The call runs in a copy of this thread's context, so its log events have the
            # context variables that the caller has bound.
            future = asyncio.run_coroutine_threadsafe(self._run(target, call, stop), self._loop)
            self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def close(self, limit_s: float) -> None:
        """Wait up to `limit_s` seconds for running calls, close the connections, end the thread."""
        self._end(limit_s)
        try:
            self._ended.result()
        except BaseException:
            # Ctrl-C while waiting: cancel the calls that still run, and end at once.
            self.run_soon(self._cancel_all)
            raise
        finally:
            self._thread.join()

    def run_soon(self, callback: Callable[[], object]) -> None:
        """Run this on the loop; takes no lock, so that a signal handler may call it."""
        with contextlib.suppress(RuntimeError):
            # The loop has ended, and with it the calls that the callback is about.
            self._loop.call_soon_threadsafe(callback)

    def _end(self, limit_s: float) -> None:
        """Take no more calls. Those passed before are on the loop, and `_serve` waits for them."""

        def close() -> None:
            if not self._closing.done():
                self._closing.set_result(limit_s)

        with self._lock:
            self.is_ending = True
            self.run_soon(close)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _thread_main(self) -> None:
        try:
            # The runner also cancels other tasks and ends the threads that resolve host names.
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  raised again by close
            self._cancel_waiting()
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _cancel_waiting(self) -> None:
        """Cancel all futures: after a SystemExit in a log, say, no call would ever return."""
        with self._lock:
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
                self._cancel_all()
                await asyncio.wait(self._tasks)
        finally:
            await self.orchestrator.aclose()

    async def _open(self) -> None:
        """Connect. If that fails, the error is raised in every waiting call, and the loop ends."""
        try:
            await self.orchestrator.__aenter__()
        except BaseException as error:  # noqa: BLE001  raised again in the waiting calls
            self.failure = error
            self._opened.set_exception(error)
            # Read it: if no call waits any more, asyncio would log it as never retrieved.
            self._opened.exception()
            self._end(CLOSE_S)
        else:
            self._opened.set_result(None)

    async def _run(self, target: _T, call: Call[_T, _R], stop: Stop | None) -> _R:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks[task] = stop
        try:
            await asyncio.shield(self._opened)
            return await call(target)
        finally:
            del self._tasks[task]


def result_of(future: Future[_R]) -> _R:
    """Wait for a call and return its result or raise its error. An interrupted wait cancels it."""
    try:
        return future.result()
    except CancelledError:
        raise OutcomeUnknown(
            "closed during the call, which may have been sent: `refresh` asks the gateway"
        ) from None
    except BaseException:
        future.cancel()
        raise
    finally:
        # The error's traceback refers to this frame. A reference back would be a cycle, which
        # keeps the frame, and with it the arguments, until the next garbage collection.
        del future


def refuse_on_a_loop() -> None:
    """Raise `ConfigError` on a thread whose loop runs: a call would block all its tasks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        "cfflow.sync was called inside a running event loop, which it would block;"
        " use `async with cfflow.connect(...)` there"
    )


class ProcessLoop:
    """The loop's thread of this process: started by the first call, again in a forked child.

    `make` makes the orchestrator, which has the client secret. `is_own`: the orchestrator has a
    store of its own, so that a forked child may make another one.
    """

    def __init__(self, make: Sealed[Callable[[], Orchestrator]], *, is_own: bool) -> None:
        self._make = make
        # Made at once, so that a wrong setting is an error where it was given.
        self._next: Orchestrator | None = make.reveal()()
        self._is_own = is_own
        self._pid = os.getpid()
        self._thread: LoopThread | None = None
        self._lock = threading.RLock()
        self._closed = False
        _ALL.add(self)

    def submit(
        self, call: Call[Orchestrator, _R], stop: Stop | None = None
    ) -> tuple[LoopThread, Future[_R]]:
        """Pass a call to the loop; return its thread and its future."""
        while True:
            thread = self.current()
            future = thread.submit(thread.orchestrator, call, stop)
            if future is not None:
                return thread, future
            if thread.failure is not None:
                raise thread.failure

    def build(self, make: Callable[[Orchestrator], _T]) -> tuple[LoopThread, _T]:
        """Run `make` on the loop; return the loop's thread and the result, which belongs to it."""

        async def call(orchestrator: Orchestrator) -> _T:
            return make(orchestrator)

        refuse_on_a_loop()
        thread, future = self.submit(call)
        return thread, result_of(future)

    def current(self) -> LoopThread:
        """Return the loop's thread; start a new one if there is none or it could not connect."""
        if self._pid != os.getpid():
            # Some servers fork without running Python's fork handlers, as uWSGI does by default.
            self.forget_parent()
        with self._lock:
            if self._closed:
                raise ConfigError(CLOSED)
            if self._thread is None:
                atexit.register(self.close)
            if self._thread is None or self._thread.is_ending:
                made, self._next = self._next, None
                self._thread = LoopThread(made or self._make.reveal()())
            return self._thread

    def close(self, limit_s: float = CLOSE_S) -> None:
        """End the loop's thread and take no more calls."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.close(limit_s)
            self._thread = None
            atexit.unregister(self.close)

    def forget_parent(self) -> None:
        """Forget the parent's loop: called in a forked child, where this is the only thread."""
        self._pid, self._lock = os.getpid(), threading.RLock()
        if self._thread is not None:
            # Kept for ever: a connection that is collected writes to the parent's socket.
            _OF_PARENTS.append(self._thread)
            self._thread = None
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
    for loop in list(_ALL):
        loop.forget_parent()


os.register_at_fork(after_in_child=_after_fork)
