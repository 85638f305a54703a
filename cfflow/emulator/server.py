"""The emulator on a socket: blocking in this process, or as a task on a running loop."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
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
# Longer than any client keeps an idle connection, so that the emulator never closes one
# in a caller's face unless a fault rule says so.
KEEP_ALIVE_S = 300
SHUTDOWN_S = 2
# uvicorn refreshes its date header every tenth tick.
TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class RunningEmulator:
    """An emulator on the running event loop: where it listens, and its parts to play with."""

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
        """Skip time: what was due meanwhile has happened, and its webhooks were attempted."""
        self.clock.advance(seconds)
        await self.app.deliver()

    async def deliver(self) -> None:
        """Return when every webhook that is due by now was attempted."""
        await self.app.deliver()


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process by the signal.

    `listening` is called once callers can connect; `stop` ends it without a tick's delay.
    """

    def __init__(self, app: EmulatorApp, listening: Callable[[], None]) -> None:
        super().__init__(_config(app))
        self._app = app
        self._listening = listening
        self._stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._listening()

    async def main_loop(self) -> None:
        for tick in itertools.count():
            if await self.on_tick(tick):
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close()
        await super().shutdown(sockets=sockets)

    def stop(self) -> None:
        """End in order; to be called on the server's own event loop."""
        self.should_exit = True
        self._stopping.set()


class ServerSettings(TypedDict, total=False):
    """What `serve` and `running_emulator` take besides an address.

    client_id, client_secret: replace those of the first account. options, seed: how the
    bank behaves, and the seed of its ids. rate_limits: as in `create_app`. webhook_url: where
    the webhooks of orders without a `notify_url` go. webhook_version: of their bodies and
    headers. chaos: random faults.
    """

    client_id: str
    client_secret: str
    options: BankOptions | None
    seed: int
    rate_limits: RateLimits | None
    webhook_url: str | None
    webhook_version: WebhookVersion
    chaos: Chaos | None


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
    app = _create_app(**settings)
    listener = _bind(host, port)
    base_url = f"{_origin(listener)}/pg"

    def listening() -> None:
        if announce is not None:
            announce(base_url)

    server = _Server(app, listening)
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
    app = _create_app(**settings)
    listener = _bind(host, port)
    ready = asyncio.Event()
    server = _Server(app, ready.set)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _either(ready, task)
        client_id = settings.get("client_id", DEFAULT_CLIENT_ID)
        client_secret = settings.get("client_secret", DEFAULT_CLIENT_SECRET)
        yield _running(app, _origin(listener), client_id, client_secret)
    finally:
        server.stop()
        await task
        listener.close()


def _create_app(
    *,
    client_id: str = DEFAULT_CLIENT_ID,
    client_secret: str = DEFAULT_CLIENT_SECRET,
    options: BankOptions | None = None,
    seed: int = 0,
    rate_limits: RateLimits | None = None,
    webhook_url: str | None = None,
    webhook_version: WebhookVersion = NEWEST_WEBHOOK_VERSION,
    chaos: Chaos | None = None,
) -> EmulatorApp:
    """Return the app for `ServerSettings`. Raises `ValueError` for invalid ones."""
    bank = Bank(accounts=accounts(client_id, client_secret), options=options, seed=seed)
    faults = Faults(seed)
    faults.chaos = chaos
    webhooks = {"url": webhook_url, "version": webhook_version}
    app = create_app(bank, faults=faults, rate_limits=rate_limits, webhooks=webhooks)
    app.state.webhooks.secret = client_secret
    return app


def accounts(client_id: str, client_secret: str) -> tuple[Account, ...]:
    """The default accounts, the first of them under these credentials."""
    return (Account(client_id, client_secret), *DEFAULT_ACCOUNTS[1:])


def _running(app: EmulatorApp, origin: str, client_id: str, secret: str) -> RunningEmulator:
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


async def _either(ready: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait until it listens; a server that died instead raises here."""
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
        lifespan="on",  # the webhooks are delivered for as long as it runs
        # Whatever the host program logs stays as it is; only real errors are told.
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,  # the app dates its answers by the emulator's own clock
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket: from here on the port is ours, and callers are not refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, every
    # answer of two writes waits 40 ms for the caller's delayed acknowledgement.
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


def _origin(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_at_stdin_end(server: uvicorn.Server) -> None:
    # Below Python's own buffer: its lock, held by a waiting thread, aborts the exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server in order; outside the main thread, leave them."""
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
