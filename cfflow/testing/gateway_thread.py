"""Runs the emulator in a thread: one socket for a whole test run, a new bank for each test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, closing, contextmanager
from typing import Any, TypeVar

#: Nothing here takes longer, not even webhooks to a receiver that does not respond.
_TIMEOUT_S = 60.0

_T = TypeVar("_T")


@contextmanager
def running_gateway() -> Iterator[GatewayThread]:
    """Run a gateway on a free port of this machine until the block ends.

    `GatewayThread.emulator` puts an empty bank behind it; before that it serves nothing.
    Raises `ImportError`, which names the extra, where the emulator is not installed.
    """
    # Imported here and not in the thread, so that the caller gets the `ImportError`.
    import cfflow.emulator  # noqa: F401  only to see that it is installed

    thread = GatewayThread()
    try:
        yield thread
    finally:
        thread.stop()


class GatewayThread:
    """A gateway on one port, with a new bank for each test. `running_gateway` makes it.

    Tests may block or have an event loop of their own: all that touches a bank runs on this
    thread's loop, so a bank needs no locks.
    """

    def __init__(self) -> None:

        self.origin = ""
        self._front = _Front()
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._stopping: asyncio.Event
        self._of_this_bank = AsyncExitStack()
        self._thread = threading.Thread(target=self._run, name="cfflow-gateway", daemon=True)
        self._thread.start()
        self._loop = self._started.result(_TIMEOUT_S)

    def emulator(self, *, seed: int = 0, rate_limits: Any = None, **options: Any) -> Any:
        """Put a new, empty bank behind the socket and return its `RunningEmulator`.

        seed, rate_limits: as in `running_emulator`. options: those of `BankOptions`.
        Raises `TypeError` for an unknown option, `ValueError` for a value that is refused.
        """
        return self.wait(lambda: self._replace(seed, rate_limits, options))

    def call(self, act: Callable[[], _T]) -> _T:
        """Run a function on the gateway's loop; return or raise what it does."""

        async def alone() -> _T:
            return act()

        return self.wait(alone)

    def wait(self, begin: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine on the gateway's loop and block until it ends."""
        return self.submit(begin).result(_TIMEOUT_S)

    def submit(self, begin: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Start a coroutine on the gateway's loop and return at once."""
        return asyncio.run_coroutine_threadsafe(begin(), self._loop)

    def stop(self) -> None:
        """Close the socket and end the thread."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        from cfflow.emulator.server import EmulatorServer, bind, origin_of, wait_until_listening

        self._stopping, listens = asyncio.Event(), asyncio.Event()
        with closing(bind("127.0.0.1", 0)) as listener:
            self.origin = origin_of(listener)
            front: Any = self._front
            server = EmulatorServer(front, listens.set)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            await wait_until_listening(listens, task)
            self._started.set_result(asyncio.get_running_loop())
            await self._stopping.wait()
            server.stop()
            await task
            await self._of_this_bank.aclose()

    async def _replace(self, seed: int, rate_limits: Any, options: dict[str, Any]) -> Any:
        from cfflow.emulator import (
            DEFAULT_CLIENT_ID,
            DEFAULT_CLIENT_SECRET,
            Bank,
            BankOptions,
            Faults,
            create_app,
        )
        from cfflow.emulator.server import running_on

        bank = Bank(options=BankOptions(**options), seed=seed)
        app = create_app(bank, faults=Faults(seed), rate_limits=rate_limits)
        # The call that a fault still delays belongs to the last test: end it before the new one.
        self._front.close()
        await self._of_this_bank.aclose()
        await self._of_this_bank.enter_async_context(app.router.lifespan_context(app))
        self._front.app = app
        return running_on(app, self.origin, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)


class _Front:
    """The ASGI app behind the socket: passes each request to the emulator of the running test."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        # Each emulator has a lifespan of its own, which begins and ends with its bank.
        for moment in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{moment}.complete"})

    def close(self) -> None:
        """End the calls that a fault delays."""
        if self.app is not None:
            self.app.close()
