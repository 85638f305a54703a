"""Runs the emulator in its own process, for tests and benchmarks that need a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

import msgspec

from cfflow.emulator.limits import RateLimits, table_of
from cfflow.emulator.records import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, BankOptions
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION, WebhookVersion

# Settings that may be secret: every user of a machine sees the command line of its processes.
CLIENT_SECRET_VARIABLE = "CFFLOW_EMULATOR_CLIENT_SECRET"
WEBHOOK_URL_VARIABLE = "CFFLOW_EMULATOR_WEBHOOK_URL"

START_S = 15.0
STOP_S = 5.0


class Announcement(msgspec.Struct):
    """The JSON line that an emulator process prints once it listens."""

    base_url: str
    client_id: str


class EmulatorProcess:
    """An emulator in another OS process. It ends when this process ends, even by a crash.

    A context manager, blocking or async. client_id, client_secret, options, seed, port,
    rate_limits, webhook_url and webhook_version: as in `serve`. After `start`, `base_url` is
    the URL of the gateway (`http://127.0.0.1:port/pg`) and `admin_url` that of the
    emulator's own API. The process gets the secret and the webhook URL in its environment, not
    on its command line, which every user of the machine can read.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        client_id: str = DEFAULT_CLIENT_ID,
        client_secret: str = DEFAULT_CLIENT_SECRET,
        options: BankOptions | None = None,
        seed: int = 0,
        rate_limits: RateLimits | None = None,
        webhook_url: str | None = None,
        webhook_version: WebhookVersion = NEWEST_WEBHOOK_VERSION,
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.base_url = ""
        self.admin_url = ""
        self._command = [sys.executable, "-m", "cfflow.emulator", "--until-stdin-ends", "--json"]
        self._command += ["--port", str(port), "--seed", str(seed)]
        self._command += ["--client-id", client_id]
        if options is not None:
            self._command += ["--options", msgspec.json.encode(options).decode()]
        if rate_limits is not None:
            table = msgspec.json.encode(table_of(rate_limits)).decode()
            self._command += ["--rate-limits", table]
        self._command += ["--webhook-version", webhook_version]
        self._secrets = {
            CLIENT_SECRET_VARIABLE: client_secret,
            WEBHOOK_URL_VARIABLE: webhook_url or "",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises `RuntimeError` if the process does not run."""
        if self._process is None:
            raise RuntimeError("the emulator process does not run")
        return self._process.pid

    def start(self) -> Self:
        """Start the process and wait until it listens. Raises `RuntimeError` if it does not."""
        # The pipe to its standard input closes when this process dies, and that ends it.
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._secrets},
        )
        self._process = process
        timeout = threading.Timer(START_S, process.kill)
        timeout.start()
        try:
            line = process.stdout.readline() if process.stdout else b""
        finally:
            timeout.cancel()
        if not line:
            self.stop()
            raise RuntimeError("the emulator process ended before it listened")
        self.base_url = msgspec.json.decode(line, type=Announcement).base_url
        self.admin_url = self.base_url.removesuffix("/pg") + "/_emulator"
        return self

    def stop(self) -> int | None:
        """End the process and return its exit status: 0 for a clean end, None if it never ran."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)
