"""Serves the emulator on a socket: blocking, or as a task of a running event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Literal, TypedDict, Unpack

import uvicorn

from cfflow.emulator.app import EmulatorApp, create_app
from cfflow.emulator.bank import Bank
from cfflow.emulator.clock import Clock
from cfflow.emulator.faults import Chaos, Faults
from cfflow.emulator.limits import Limits, RateLimits
from cfflow.emulator.records import (
    DEFAULT_ACCOUNTS,
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    Account,
    BankOptions,
)
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION, WebhookVersion
from cfflow.emulator.webhooks import Webhooks

BACKLOG = 2048
# Longer than any client keeps an idle connection: the emulator must not close one just as a
# client reuses it, unless a fault rule asks for that.
KEEP_ALIVE_S = 300
SHUTDOWN_S = 2
# uvicorn refreshes its date header every tenth tick.
TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class RunningEmulator:
    """An emulator on the running event loop: its addresses and its parts."""

    base_url: str
    admin_url: str
    client_id: str
    client_secret: str
    app: EmulatorApp
    bank: Bank
    faults: Faults
    clock: Clock
    limits: Limits
    webhooks: Webhooks

    async def advance(self, seconds: float) -> None:
        """Skip time, run what was due in between, and attempt its webhooks."""
        self.clock.advance(seconds)
        await self.app.deliver()

    async def deliver(self) -> None:
        """Return when every webhook that is due by now has been attempted."""
        await self.app.deliver()


class EmulatorServer(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process by the signal.

    It calls `listening` once clients can connect. `stop` ends it without a tick's delay.
    """

    def __init__(self, app: EmulatorApp, listening: Callable[[], None]) -> None:
        super().__init__(_config(app))
        self._app = app
        self._listening = listening
        self._stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers of the process as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then call `listening`."""
        await super().startup(sockets=sockets)
        self._listening()

    async def main_loop(self) -> None:
        """Tick until `stop` is called."""
        for tick in itertools.count():
            if await self.on_tick(tick):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Release the calls that a fault delays, then shut down."""
        self._app.close()
        await super().shutdown(sockets=sockets)

    def stop(self) -> None:
        """Stop the server cleanly. Call it on the server's own event loop."""
        self.should_exit = True
        self._stopping.set()


class ServerSettings(TypedDict, total=False):
    """What `serve` and `running_emulator` take besides an address.

    client_id, client_secret: replace those of the first account. options, seed: how the
    bank behaves, and the seed of its ids. rate_limits: as in `create_app`. webhook_url: where
    the webhooks of orders without a `notify_url` go. webhook_version: of their bodies and
    headers. chaos: random faults. allowed_hosts: further names and addresses under which it may
    be called; those of loopback and where it listens always work.
    """

    client_id: str
    client_secret: str
    options: BankOptions | None
    seed: int
    rate_limits: RateLimits | None
    webhook_url: str | None
    webhook_version: WebhookVersion
    chaos: Chaos | None
    allowed_hosts: Sequence[str]


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    announce: Callable[[str], None] | None = None,
    until_stdin_ends: bool = False,
    **settings: Unpack[ServerSettings],
) -> None:
    """Run the emulator in this process until SIGTERM or SIGINT, then return.

    port: 0 picks a free one. announce: called with the base URL (`http://host:port/pg`) once
    it listens. until_stdin_ends: also stop when standard input closes, so that a child
    process ends with its parent. settings: see `ServerSettings`.
    Raises, before anything runs, `OSError` when it cannot listen on the address and
    `ValueError` for invalid rate limits or an invalid URL.
    """
    app = _create_app(host, **settings)
    listener = bind(host, port)
    base_url = f"{origin_of(listener)}/pg"

    def listening() -> None:
        if announce is not None:
            announce(base_url)

    server = EmulatorServer(app, listening)
    if until_stdin_ends:
        threading.Thread(target=_stop_at_stdin_end, args=(server,), daemon=True).start()
    with listener, _stopped_by_signals(server):
        server.run(sockets=[listener])


@asynccontextmanager
async def running_emulator(
    *, host: str = "127.0.0.1", port: int = 0, **settings: Unpack[ServerSettings]
) -> AsyncIterator[RunningEmulator]:
    """Serve the emulator on a real socket, as a task of the running event loop.

    Takes the address and settings that `serve` takes, and raises what it raises.
    """
    app = _create_app(host, **settings)
    listener = bind(host, port)
    ready = asyncio.Event()
    server = EmulatorServer(app, ready.set)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await wait_until_listening(ready, task)
        client_id = settings.get("client_id", DEFAULT_CLIENT_ID)
        client_secret = settings.get("client_secret", DEFAULT_CLIENT_SECRET)
        yield running_on(app, origin_of(listener), client_id, client_secret)
    finally:
        server.stop()
        await task
        listener.close()


def _create_app(
    host: str,
    *,
    client_id: str = DEFAULT_CLIENT_ID,
    client_secret: str = DEFAULT_CLIENT_SECRET,
    options: BankOptions | None = None,
    seed: int = 0,
    rate_limits: RateLimits | None = None,
    webhook_url: str | None = None,
    webhook_version: WebhookVersion = NEWEST_WEBHOOK_VERSION,
    chaos: Chaos | None = None,
    allowed_hosts: Sequence[str] = (),
) -> EmulatorApp:
    """Return the app for `ServerSettings`, for a socket on `host`.

    Raises `ValueError` for invalid ones.
    """
    bank = Bank(accounts=accounts(client_id, client_secret), options=options, seed=seed)
    faults = Faults(seed)
    faults.chaos = chaos
    webhooks = {"url": webhook_url, "version": webhook_version}
    app = create_app(
        bank,
        faults=faults,
        rate_limits=rate_limits,
        webhooks=webhooks,
        allowed_hosts=(host, *allowed_hosts),
    )
    app.state.webhooks.secret = client_secret
    return app


def accounts(client_id: str, client_secret: str) -> tuple[Account, ...]:
    """Return the default accounts, the first one with these credentials."""
    return (Account(client_id, client_secret), *DEFAULT_ACCOUNTS[1:])


def running_on(app: EmulatorApp, origin: str, client_id: str, secret: str) -> RunningEmulator:
    """Return the handle of an app that is served at `origin`."""
    state = app.state
    return RunningEmulator(
        base_url=f"{origin}/pg",
        admin_url=f"{origin}/_emulator",
        client_id=client_id,
        client_secret=secret,
        app=app,
        bank=state.bank,
        faults=state.faults,
        clock=state.clock,
        limits=state.limits,
        webhooks=state.webhooks,
    )


async def wait_until_listening(ready: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait until the server listens. Raises what ended it before that."""
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
        raise RuntimeError("the emulator stopped before it listened")


def _config(app: EmulatorApp) -> uvicorn.Config:
    http: Literal["httptools", "h11"] = "httptools" if _importable("httptools") else "h11"
    return uvicorn.Config(
        app,
        http=http,
        loop="uvloop" if _importable("uvloop") else "asyncio",
        ws="none",
        lifespan="on",  # the app's lifespan delivers the webhooks
        # Leave the logging of the host program alone, and log only errors.
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,  # the app sets it from the emulator's clock
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `OSError` when the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is given. With it on, every
    # response of two writes waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def origin_of(listener: socket.socket) -> str:
    """Return the `http://host:port` of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_at_stdin_end(server: uvicorn.Server) -> None:
    # Read the file descriptor: `sys.stdin` holds a lock while it waits, and Python aborts at
    # exit if a thread still holds it.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Stop the server at SIGTERM and SIGINT. Only the main thread can set signal handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
