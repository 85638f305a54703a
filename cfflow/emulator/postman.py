"""Carries the webhooks that are due to their receivers, while the gateway goes on answering."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx

from cfflow.emulator.letters import letter
from cfflow.emulator.outbox import Errand, Outbox


class Postman:
    """Makes the attempts of an outbox, one URL beside the other.

    tick: lets happen what is due by now and tells the time. next_due_at: when something
    happens next. ahead_s: how much earlier than the emulator's the timestamps are to be.
    """

    def __init__(
        self,
        outbox: Outbox,
        tick: Callable[[], float],
        next_due_at: Callable[[], float],
        ahead_s: Callable[[], float],
    ) -> None:
        # When the postman wakes up by himself: nothing that is due later need wake him.
        self.sleeps_until = float("-inf")
        self._outbox = outbox
        self._tick = tick
        self._next_due_at = next_due_at
        self._ahead_s = ahead_s
        self._round = asyncio.Lock()
        self._called = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """Something may be due earlier than was known; from any thread."""
        if self._loop is not None and self.sleeps_until > float("-inf"):
            self.sleeps_until = float("-inf")
            self._loop.call_soon_threadsafe(self._called.set)

    async def run(self) -> None:
        """Deliver what becomes due, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._called.clear()
                await self.deliver()
                self.sleeps_until = self._next_due_at()
                pause_s = self.sleeps_until - self._tick()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._called.wait(), max(0.0, pause_s))
        finally:
            self._loop = None

    async def deliver(self) -> None:
        """Return when everything that is due by now was attempted, by this call or another."""
        async with self._round:
            now = self._tick()
            while errands := self._outbox.take_due(now):
                await self._carry(errands)

    async def _carry(self, errands: list[Errand]) -> None:
        """Each URL's attempts one after the other, so that their order can be seen there."""
        by_url: dict[str, list[Errand]] = {}
        for errand in errands:
            by_url.setdefault(errand.delivery.url or "", []).append(errand)
        context = _context(secure=any(url.startswith("https:") for url in by_url))
        # A proxy of this machine has no say in what the emulator tells a local receiver.
        async with (
            httpx.AsyncClient(verify=context, timeout=None, trust_env=False) as http,  # noqa: S113  the attempt as a whole has a time limit
            asyncio.TaskGroup() as tasks,
        ):
            for bag in by_url.values():
                queue = iter(bag)
                for _ in range(self._outbox.settings.at_once):
                    tasks.create_task(self._walk(http, queue))

    async def _walk(self, http: httpx.AsyncClient, queue: Iterator[Errand]) -> None:
        for errand in queue:
            await self._attempt(http, errand)

    async def _attempt(self, http: httpx.AsyncClient, errand: Errand) -> None:
        limit_s = self._outbox.settings.time_limit_s
        url, headers, body = letter(errand, self._ahead_s())
        status, error = None, None
        try:
            async with (
                asyncio.timeout(limit_s),
                http.stream("POST", url, headers=headers, content=body) as answer,
            ):
                status = answer.status_code
        except TimeoutError:
            error = f"no answer within {limit_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        self._outbox.settle(errand, status, error)


def _context(*, secure: bool) -> ssl.SSLContext:
    """Reading the machine's certificates takes 20 ms, which only https:// is worth."""
    return ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
