"""Counts the stages of a step, and kills the process at the stage of its job.

The store and the transport work as usual. Around each write and each call they check whether
the process must die there. It sends itself a real SIGKILL: nothing is closed, flushed or sent
after it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from typing import Any, Final, Literal, TypeVar

import httpx
import msgspec

from cfflow.cashfree.transport import GatewayTransport
from cfflow.emulator import calls
from cfflow.store.protocol import Commit, Committed, Leased, StoredOrder
from cfflow.store.redis.store import RedisStore

__all__ = ["SLOW_S", "Doom", "DoomedStore", "DoomedTransport", "Side", "Stages"]

_T = TypeVar("_T")

Side = Literal["before", "sent", "late", "acted", "after"]

#: How long a slow bank waits before it acts; in real seconds.
SLOW_S: Final = 0.3

#: What the bank does with a call whose sender is dead by then, and how late it does it.
_FAULTS: Final[dict[Side, tuple[str, float]]] = {
    "sent": ("delay_before", 0.1),
    "late": ("delay_before", SLOW_S),
    "acted": ("delay_after", 1.0),
}
_LOOK_S: Final = 0.002


class Doom(msgspec.Struct, frozen=True):
    """Where a process dies: at its n-th stage, and on which side of it.

    before: nothing was sent. after: it is done, and no code of the process has the result yet.
    For a call also: sent, the bank has it and has not acted; late, the same with a slow bank;
    acted, the bank has acted and not answered.
    """

    stage: int
    side: Side


class Stages:
    """Counts the stages of one process and kills it at its doom."""

    def __init__(self, doom: Doom | None) -> None:
        self.doom: Final = doom
        self.seen: list[str] = []

    def begin(self, what: str) -> int:
        """Count one more write or call and return its number."""
        self.seen.append(what)
        self.reach(len(self.seen) - 1, "before")
        return len(self.seen) - 1

    def reach(self, stage: int, side: Side) -> None:
        """Kill the process if its doom is here."""
        if self.doom == Doom(stage, side):
            os.kill(os.getpid(), signal.SIGKILL)

    def fault(self, stage: int) -> dict[str, Any] | None:
        """Return the bank's fault rule, if the process must die while the bank has the call."""
        if self.doom is None or self.doom.stage != stage or self.doom.side not in _FAULTS:
            return None
        kind, delay_s = _FAULTS[self.doom.side]
        return {"call": "any", "kind": kind, "delay_s": delay_s}


class DoomedStore(RedisStore):
    """The store in Redis, of a process that dies on one side of one of its writes."""

    stages = Stages(None)

    async def commit(self, commit: Commit) -> Committed:
        """Write a commit; the one with which an order begins is a stage by its own name."""
        what = "commit" if commit.expected else "start"
        return await self._write(what, super().commit(commit))

    async def lease(self, limit: int, lease_ms: int) -> Leased:
        """Take due orders."""
        return await self._write("lease", super().lease(limit, lease_ms))

    async def defer(
        self,
        order_id: str,
        wake_at_ms: int,
        *,
        token: str,
        lease: str = "",
        since_at_ms: int | None = None,
    ) -> StoredOrder | None:
        """Put an order back."""
        deferring = super().defer(
            order_id, wake_at_ms, token=token, lease=lease, since_at_ms=since_at_ms
        )
        return await self._write("defer", deferring)

    async def _write(self, what: str, write: Awaitable[_T]) -> _T:
        stage = self.stages.begin(what)
        written = await write
        self.stages.reach(stage, "after")
        return written


class DoomedTransport(httpx.AsyncBaseTransport):
    """Sends over `inner`, and dies on one side of one of its calls."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, stages: Stages, admin_url: str, order_id: str
    ) -> None:
        self._inner = inner
        self._stages = stages
        self._admin_url = admin_url
        self._order_id = order_id

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; if the process must die while the bank has it, wait for that moment."""
        call, _ = calls.route(request.method, request.url.path.removeprefix("/pg"))
        stage = self._stages.begin(call)
        fault = self._stages.fault(stage)
        if fault is not None:
            await self._die_while_the_bank_has_it(request, fault)
        answer = await self._inner.handle_async_request(request)
        self._stages.reach(stage, "after")
        return answer

    async def _die_while_the_bank_has_it(
        self, request: httpx.Request, fault: dict[str, Any]
    ) -> None:
        sockets = GatewayTransport(self._admin_url)
        async with httpx.AsyncClient(base_url=self._admin_url, transport=sockets) as admin:
            await admin.post("/faults", json=fault | {"order_id": self._order_id})
            sent = asyncio.ensure_future(self._inner.handle_async_request(request))
            # A rule that is used up is a call that has arrived.
            while self._order_id in (await admin.get("/faults")).text and not sent.done():
                await asyncio.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)
