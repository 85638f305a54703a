"""What a worker reports of itself: its sign of life, and which inquiries fail.

The signs are for people (`cfflow status`): they show that a worker works, and why it does not get
on. They cost a command every few seconds, and nothing for an order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from cfflow.core.decide import Event, NotFound, OrderSeen
from cfflow.core.observation import Call
from cfflow.errors import GatewayError, RateLimited, StoreError
from cfflow.store.signs import Failing, Sign, Signs

#: How often a worker reports, in seconds.
SIGN_EVERY_S: Final = 5.0
_NAME_B: Final = 3
_HOST_MAX: Final = 80
_COUNTED: Final = ("leased", "progressed", "errors", "purged")


class Inquiries:
    """How the inquiries of one worker went: by kind, the last failure and what came since.

    `now_ms` is the store's clock.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._failing: dict[Call, Failing] = {}

    @property
    def failing(self) -> tuple[Failing, ...]:
        """The kinds of which the last inquiry failed."""
        return tuple(self._failing.values())

    def answered(self, call: Call, event: Event) -> None:
        """Take an answer. "Not found" is a failure: the orders may be another account's."""
        if isinstance(event, NotFound) or _is_unknown_order(event):
            self._count(call, NotFound.__name__)
        else:
            self._failing.pop(call, None)

    @contextlib.contextmanager
    def asked(self, call: Call) -> Iterator[None]:
        """Take what this block raises as a failure."""
        try:
            yield
        except GatewayError as trouble:
            self.failed(call, trouble)
            raise

    def failed(self, call: Call, trouble: GatewayError) -> None:
        """Take a failure. To have been held back by a rate limit is none."""
        if not isinstance(trouble, RateLimited):
            self._count(call, type(trouble).__name__)

    def _count(self, call: Call, error: str) -> None:
        now_ms, last = self._now_ms(), self._failing.get(call)
        self._failing[call] = Failing(
            call=call,
            error=error,
            times=1 if last is None else last.times + 1,
            since_at_ms=now_ms if last is None else last.since_at_ms,
            at_ms=now_ms,
        )


def _is_unknown_order(event: Event) -> bool:
    return isinstance(event, OrderSeen) and event.status == "NOT_FOUND"


class LifeSigns:
    """Writes one worker's signs of life.

    `counts` and `inquiries` are what it does, `limits` the calls per minute that it keeps.
    """

    def __init__(
        self,
        signs: Signs,
        now_ms: Callable[[], int],
        counts: Mapping[str, int],
        limits: Callable[[], Mapping[Call, int | None]],
    ) -> None:
        self.inquiries: Final = Inquiries(now_ms)
        self._signs = signs
        self._now_ms = now_ms
        self._counts = counts
        self._limits = limits
        self._host = socket.gethostname()[:_HOST_MAX]
        self._name = f"{self._host}/{os.getpid()}/{secrets.token_hex(_NAME_B)}"
        self._started_at_ms = 0

    async def keep(self) -> None:
        """Report every few seconds until cancelled."""
        while True:
            await self.send()
            await asyncio.sleep(SIGN_EVERY_S)

    async def send(self, *, has_stopped: bool = False) -> None:
        """Report once. While the store is out of reach nothing is reported: the lease logs that."""
        with contextlib.suppress(StoreError):
            await self._signs.put(self._sign(has_stopped=has_stopped))

    def _sign(self, *, has_stopped: bool) -> Sign:
        self._started_at_ms = self._started_at_ms or self._now_ms()
        done = {name: self._counts.get(name, 0) for name in _COUNTED}
        return Sign(
            name=self._name,
            host=self._host,
            pid=os.getpid(),
            started_at_ms=self._started_at_ms,
            has_stopped=has_stopped,
            failing=self.inquiries.failing,
            limits={c: limit for c, limit in self._limits().items() if limit is not None},
            **done,
        )
