"""Sends the webhooks that are due, while the emulator goes on serving calls."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx

from cfflow.emulator.webhook_outbox import Outbox, PendingAttempt
from cfflow.emulator.webhook_requests import webhook_request


class WebhookSender:
    """Makes the attempts of an outbox; different URLs get theirs at the same time.

    tick: runs what is due by now and returns the time. next_due_at_s: when something is due
    next. earlier_s: how far timestamps are put before the emulator's time.
    """

    def __init__(
        self,
        outbox: Outbox,
        tick: Callable[[], float],
        next_due_at_s: Callable[[], float],
        earlier_s: Callable[[], float],
    ) -> None:
        # When the sender wakes up without a call of `wake`.
        self.wakes_at_s = float("-inf")
        self._outbox = outbox
        self._tick = tick
        self._next_due_at_s = next_due_at_s
        self._earlier_s = earlier_s
        self._round = asyncio.Lock()
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """Look again for due attempts. Safe to call from any thread."""
        if self._loop is not None and self.wakes_at_s > float("-inf"):
            self.wakes_at_s = float("-inf")
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Deliver what becomes due, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._woken.clear()
                await self.deliver()
                self.wakes_at_s = self._next_due_at_s()
                pause_s = self.wakes_at_s - self._tick()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, pause_s)):
                        await self._woken.wait()
        finally:
            self._loop = None

    async def deliver(self) -> None:
        """Return when everything that is due by now has been attempted, here or elsewhere."""
        async with self._round:
            now_s = self._tick()
            while due := self._outbox.take_due(now_s):
                await self._send_all(due)

    async def _send_all(self, due: list[PendingAttempt]) -> None:
        """Send each URL's attempts in sequence, so that a receiver sees their order."""
        by_url: dict[str, list[PendingAttempt]] = {}
        for pending in due:
            by_url.setdefault(pending.delivery.url or "", []).append(pending)
        context = _context(secure=any(url.startswith("https:") for url in by_url))
        # Receivers are local: a proxy setting of this machine must not apply to them.
        async with (
            httpx.AsyncClient(verify=context, timeout=None, trust_env=False) as http,  # noqa: S113  the attempt as a whole has a time limit
            asyncio.TaskGroup() as tasks,
        ):
            for queued in by_url.values():
                queue = iter(queued)
                for _ in range(self._outbox.settings.at_once):
                    tasks.create_task(self._send_queue(http, queue))

    async def _send_queue(self, http: httpx.AsyncClient, queue: Iterator[PendingAttempt]) -> None:
        for pending in queue:
            await self._send(http, pending)

    async def _send(self, http: httpx.AsyncClient, pending: PendingAttempt) -> None:
        limit_s = self._outbox.settings.time_limit_s
        url, headers, body = webhook_request(pending, self._earlier_s())
        status, error = None, None
        try:
            async with (
                asyncio.timeout(limit_s),
                http.stream("POST", url, headers=headers, content=body) as response,
            ):
                status = response.status_code
        except TimeoutError:
            error = f"no answer within {limit_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        self._outbox.record_result(pending, status, error)


def _context(*, secure: bool) -> ssl.SSLContext:
    """Return a TLS context. Certificates are read only for https://, because that takes 20 ms."""
    return ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
