"""The blocking versions of the async classes: each call by its name, run on the loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, cast

from cfflow.cashfree.gateway import Gateway as AsyncGateway
from cfflow.connecting import connect as connect_async
from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError, OutcomeUnknown
from cfflow.feed.feed import Feed as AsyncFeed
from cfflow.feed.feed import FeedItem
from cfflow.orchestrator import Orchestrator as AsyncOrchestrator
from cfflow.sync.loop_thread import (
    CLOSE_S,
    CLOSED,
    Call,
    LoopThread,
    ProcessLoop,
    Stop,
    refuse_on_a_loop,
    result_of,
)
from cfflow.worker import Report
from cfflow.worker import Worker as AsyncWorker

_P = ParamSpec("_P")
_F = TypeVar("_F", bound=FeedItem | None)
_R = TypeVar("_R")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class _BlockingVersion(ABC, Generic[_T_co]):
    """Base of the blocking version of an object that lives on an event loop's thread."""

    @abstractmethod
    def _submit(self, call: Call[_T_co, _R], stop: Stop | None = None) -> Future[_R]:
        """Pass a call of the async object to its loop."""

    def _do(self, call: Call[_T_co, _R], stop: Stop | None = None) -> _R:
        refuse_on_a_loop()
        return result_of(self._submit(call, stop))


def _blocking(
    call: Callable[Concatenate[_T, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[_BlockingVersion[_T], _P], _R]:
    """Return the blocking version of a coroutine method: same arguments, same docstring."""

    @functools.wraps(call)
    def wait(self: _BlockingVersion[_T], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Sealed: a crash report of these frames must not show a card or an OTP.
        given = Sealed((args, kwargs))
        del args, kwargs
        return self._do(lambda target: call(target, *given.reveal()[0], **given.reveal()[1]))

    return wait


class Gateway(_BlockingVersion[AsyncGateway]):
    """The gateway's own calls, blocking; an orchestrator's `gateway`."""

    def __init__(self, loop: ProcessLoop) -> None:
        self._loop = loop

    pay = _blocking(AsyncGateway.pay)
    pay_with = _blocking(AsyncGateway.pay_with)
    authenticate = _blocking(AsyncGateway.authenticate)
    authorize = _blocking(AsyncGateway.authorize)
    fetch_payment = _blocking(AsyncGateway.fetch_payment)
    fetch_payments = _blocking(AsyncGateway.fetch_payments)
    create_order = _blocking(
        AsyncGateway.create_order  # type: ignore[arg-type]  # a field might be named `self`
    )
    fetch_order = _blocking(AsyncGateway.fetch_order)
    simulate = _blocking(AsyncGateway.simulate)
    fetch_simulation = _blocking(AsyncGateway.fetch_simulation)

    def _submit(self, call: Call[AsyncGateway, _R], stop: Stop | None = None) -> Future[_R]:
        return self._loop.submit(lambda orchestrator: call(orchestrator.gateway), stop)[1]


class _OfOneThread(_BlockingVersion[_T]):
    """Base of an object that belongs to one loop's thread: it survives neither close nor fork."""

    def __init__(self, loop: ProcessLoop, thread: LoopThread, target: _T) -> None:
        self._loop, self._thread, self._target = loop, thread, target

    def _submit(self, call: Call[_T, _R], stop: Stop | None = None) -> Future[_R]:
        future = None
        if self._loop.current() is self._thread:
            future = self._thread.submit(self._target, call, stop)
        if future is None:
            raise ConfigError("this was made before a fork: make a new one in this process")
        return future


def _blocking_take(take: Call[AsyncFeed, _F]) -> Callable[[Feed], _F]:
    """Return the blocking version of a method that returns the next item.

    An item that arrives when its caller is interrupted is kept for the next call: if it were
    dropped, the next `ack` would cover an event that no caller has seen.
    """

    @functools.wraps(take)
    def took(self: Feed, /) -> _F:
        async def keep(feed: AsyncFeed) -> None:
            if self._found is None:
                self._found = await take(feed)

        try:
            self._do(keep, asyncio.Task.cancel)
        except OutcomeUnknown:
            raise ConfigError(CLOSED) from None
        found, self._found = self._found, None
        return cast("_F", found)

    return took


class Feed(_OfOneThread[AsyncFeed]):
    """One consumer of a group; made by `events`, used with `with` and `for`.

    As `cfflow.Feed`. One thread reads it, `ack` may be called from other threads. `for` waits for
    the next event, `poll` does not. An event that arrives when its reader is interrupted is the
    next one.
    """

    #: The item that the async feed returned and no caller has received.
    _found: FeedItem | None = None

    @property
    def group(self) -> str:
        """The group's name."""
        return self._target.group

    @property
    def consumer(self) -> str:
        """The name of this consumer."""
        return self._target.consumer

    @property
    def consumers(self) -> tuple[str, ...]:
        """The living consumers of the group, this one included, as of the last look."""
        return self._target.consumers

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that this consumer holds, as of the last look."""
        return self._target.partitions

    def __enter__(self) -> Self:
        self._do(AsyncFeed.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        # After the orchestrator was closed there is no loop to leave on: the leases run out.
        with contextlib.suppress(ConfigError):
            self._do(AsyncFeed.__aexit__)

    def __iter__(self) -> Self:
        return self

    __next__ = _blocking_take(AsyncFeed.__anext__)
    poll = _blocking_take(AsyncFeed.poll)
    ack = _blocking(AsyncFeed.ack)
    forget = _blocking(AsyncFeed.forget)


def _blocking_events(
    call: Callable[Concatenate[AsyncOrchestrator, _P], AsyncFeed],
) -> Callable[Concatenate[Orchestrator, _P], Feed]:
    """Return the blocking version of the method that makes a feed."""

    @functools.wraps(call)
    def events(self: Orchestrator, /, *args: _P.args, **kwargs: _P.kwargs) -> Feed:
        made = self._loop.build(lambda target: call(target, *args, **kwargs))
        return Feed(self._loop, *made)

    events.__doc__ = (call.__doc__ or "").replace("`async with`", "`with` and `for`")
    return events


class Orchestrator(_BlockingVersion[AsyncOrchestrator]):
    """Drives payments, blocking; made by `connect`, used from any number of threads.

    Every call of `cfflow.Orchestrator` is here by its name, with its arguments and its errors.
    With `with` it connects at once; without, its first call connects, and it is closed when
    the program ends. In a forked process the first call connects anew.
    """

    def __init__(self, loop: ProcessLoop) -> None:
        self._loop = loop

    def __enter__(self) -> Self:
        refuse_on_a_loop()
        try:
            self._do(_connect_only)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, limit_s: float = CLOSE_S) -> None:
        """Wait up to `limit_s` seconds for running calls, then close the connections.

        A call that takes longer is cancelled, and its caller gets `OutcomeUnknown`. Its operation
        stays open, as after a crash, and the next process finds it. A second close does nothing.
        """
        self._loop.close(limit_s)

    @property
    def gateway(self) -> Gateway:
        """The gateway's own calls, blocking."""
        return Gateway(self._loop)

    start = _blocking(AsyncOrchestrator.start)
    pay = _blocking(AsyncOrchestrator.pay)
    submit_otp = _blocking(AsyncOrchestrator.submit_otp)
    resend_otp = _blocking(AsyncOrchestrator.resend_otp)
    leave_otp = _blocking(AsyncOrchestrator.leave_otp)
    capture = _blocking(AsyncOrchestrator.capture)
    void = _blocking(AsyncOrchestrator.void)
    refresh = _blocking(AsyncOrchestrator.refresh)
    adopt = _blocking(AsyncOrchestrator.adopt)
    abandon = _blocking(AsyncOrchestrator.abandon)
    acknowledge = _blocking(AsyncOrchestrator.acknowledge)
    resolve = _blocking(AsyncOrchestrator.resolve)
    get = _blocking(AsyncOrchestrator.get)
    find = _blocking(AsyncOrchestrator.find)
    history = _blocking(AsyncOrchestrator.history)
    why = _blocking(AsyncOrchestrator.why)
    status = _blocking(AsyncOrchestrator.status)
    pause = _blocking(AsyncOrchestrator.pause)
    resume = _blocking(AsyncOrchestrator.resume)
    on_webhook = _blocking(AsyncOrchestrator.on_webhook)
    events = _blocking_events(AsyncOrchestrator.events)

    def _submit(self, call: Call[AsyncOrchestrator, _R], stop: Stop | None = None) -> Future[_R]:
        return self._loop.submit(call, stop)[1]


def _with_options(
    kind: Callable[Concatenate[AsyncOrchestrator, _P], AsyncWorker],
) -> Callable[
    [Callable[[Worker, Orchestrator, Callable[[AsyncOrchestrator], AsyncWorker]], None]],
    Callable[Concatenate[Worker, Orchestrator, _P], None],
]:
    """Give a constructor the options of the async worker's, so that both have one signature."""

    def decorate(
        init: Callable[[Worker, Orchestrator, Callable[[AsyncOrchestrator], AsyncWorker]], None],
    ) -> Callable[Concatenate[Worker, Orchestrator, _P], None]:
        @functools.wraps(kind.__init__)
        def options(
            self: Worker, orchestrator: Orchestrator, /, *args: _P.args, **kwargs: _P.kwargs
        ) -> None:
            init(self, orchestrator, lambda target: kind(target, *args, **kwargs))

        return options

    return decorate


class Worker(_OfOneThread[AsyncWorker]):
    """Does what is due for the payments of an orchestrator's store, in a script of yours.

    It has the arguments of `cfflow.Worker`. The command `cfflow worker` does the same in a
    process of its own.
    """

    @_with_options(AsyncWorker)
    def __init__(
        self, orchestrator: Orchestrator, make: Callable[[AsyncOrchestrator], AsyncWorker]
    ) -> None:
        loop = orchestrator._loop  # noqa: SLF001  both are of this module
        super().__init__(loop, *loop.build(make))

    run_once = _blocking(AsyncWorker.run_once)
    report = _blocking(AsyncWorker.report)

    def run(self, *, signals: bool = True) -> Report:
        """Work until `stop` is called, or SIGTERM or SIGINT comes; return the last report.

        Payments that it has begun are finished first. Python delivers signals to the main thread
        only; `signals=False` leaves them to your program. Closing the orchestrator ends it too.
        """

        async def run(worker: AsyncWorker) -> Report:
            return await worker.run(signals=False)

        with self._stop_on_signals() if signals else contextlib.nullcontext():
            return self._do(run, lambda _: self._target.stop())

    def stop(self) -> None:
        """Lease no more payments; `run` ends once those that it has begun are done."""
        self._thread.run_soon(self._target.stop)

    @contextlib.contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT while this runs, if this is the main thread.

        Python permits signal handlers in the main thread only.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None: the handler before was not set by Python, and cannot be restored from here.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _blocking_connect(call: Callable[_P, AsyncOrchestrator]) -> Callable[_P, Orchestrator]:
    """Return `connect` with the same settings."""

    @functools.wraps(call)
    def connect(*args: _P.args, **kwargs: _P.kwargs) -> Orchestrator:
        # What the caller made cannot be made anew in another process.
        is_own = kwargs.get("store") is None and kwargs.get("transport") is None
        make: Sealed[Callable[[], AsyncOrchestrator]]
        make = Sealed(functools.partial(call, *args, **kwargs))
        del args, kwargs
        return Orchestrator(ProcessLoop(make, is_own=is_own))

    connect.__doc__ = _CONNECT
    return connect


async def _connect_only(_: AsyncOrchestrator) -> None:
    """Do nothing. To submit it opens the loop's thread, and with it the connections."""


_CONNECT: Final = """Return an orchestrator whose calls block; settings as for `cfflow.connect`.

    With `with` it connects at once and closes at the end of the block. Without, its first call
    connects, and it is closed when the program ends: for a module of a web application.

    Raises one `ConfigError` that names everything that is missing. No money moves.
    """

connect = _blocking_connect(connect_async)
