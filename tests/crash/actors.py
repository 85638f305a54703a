"""The processes of the chaos: drivers with impatient customers, and workers; each may be killed.

A driver keeps no state: the next driver finds its payments in the store and continues them.
It appends each payment that it read to a file, so that the auditor can find out whether a
commit was lost after a process had seen it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

import cfflow
from cfflow import (
    CfflowError,
    Orchestrator,
    Payment,
    State,
    Worker,
)
from cfflow.logs import silent_log
from tests.crash.till import no_limits
from tests.engine.shop import CUSTOMER, OTP, card

__all__ = ["FLOWS", "Place", "Seen", "drive", "work"]

#: Short limits and polls, so that payments begin and end within a minute.
FLOWS: Final = {
    "chaos_sale": """\
name = "chaos_sale"
capture = "automatic"
methods = ["card"]

[pay]
timeout_s = 0.8

[otp]
expires_after_s = 30

[poll]
after_s = [1, 2, 5]
""",
    "chaos_hold": """\
name = "chaos_hold"
capture = "manual"
methods = ["card"]

[pay]
timeout_s = 0.8

[otp]
expires_after_s = 30

[poll]
after_s = [1, 2, 5]
""",
}

_CUSTOMERS: Final = 4
_PRESSES_MAX: Final = 20
_LEASE_S: Final = 3.0
_LOOK_S: Final = 0.2

_OVER: Final = frozenset({State.CAPTURED, State.VOIDED, State.FAILED})


_Step = Callable[[Payment | str], Awaitable[Payment]]


class Place(msgspec.Struct, frozen=True):
    """The addresses, credentials and folders that a process needs."""

    redis_url: str
    base_url: str
    client_id: str
    client_secret: str
    flows: str
    folder: str

    def connect(self) -> Orchestrator:
        """Return an orchestrator on it; other tests cover the gateway's rate limits."""
        return cfflow.connect(
            redis_url=self.redis_url,
            environment=self.base_url,
            client_id=self.client_id,
            client_secret=self.client_secret,
            flows=[self.flows],
            limits=no_limits,
            log=silent_log(),
        )


class Seen(msgspec.Struct, frozen=True):
    """A payment as a driver read it: the store had this version at that time."""

    payment_id: str
    version: int
    state: State


class _Driver:
    """One process of the merchant: its customers pay, wait, press twice and come back."""

    def __init__(self, till: Orchestrator, name: str, diary: int) -> None:
        self._till = till
        self._name = name
        self._diary = diary
        self._random = random.Random(name)
        self._orders = 0

    async def customer(self) -> None:
        """Serve one customer after another: new ones, and ones that come back."""
        while True:
            try:
                comes_back = self._random.random() < 0.3
                payment = await (self._old() if comes_back else self._new())
                if payment is not None:
                    await self._serve(payment)
            except CfflowError:
                await asyncio.sleep(self._random.uniform(0.05, 0.2))

    async def _new(self) -> Payment:
        self._orders += 1
        order_id = f"{self._name}-{self._orders}"
        hold = self._random.random() < 0.5
        tags = {"cfflow_preauth": "true"} if hold else None
        amount = f"{self._random.randrange(100, 100_000) / 100:.2f}"
        await self._till.gateway.create_order(amount, CUSTOMER, order_id=order_id, order_tags=tags)
        flow = "chaos_hold" if hold else "chaos_sale"
        return self._record(await self._till.start(flow, order_id=order_id, amount=amount))

    async def _old(self) -> Payment | None:
        """Return a payment that another process began; that process may be dead."""
        state = self._random.choice([State.CREATED, State.OTP_PENDING, State.AUTHORIZED])
        found = await self._till.find(state=state, limit=50)
        return self._random.choice(found) if found else None

    async def _serve(self, payment: Payment) -> None:
        for _ in range(_PRESSES_MAX):
            if payment.state in _OVER or self._random.random() < 0.02:
                return
            try:
                payment = self._record(await self._press(payment))
            except CfflowError as trouble:
                payment = trouble.payment or payment
                await asyncio.sleep(self._random.uniform(0.02, 0.3))
                payment = await self._refreshed(payment)

    async def _refreshed(self, payment: Payment) -> Payment:
        try:
            return self._record(await self._till.refresh(payment))
        except CfflowError:
            return payment

    async def _press(self, payment: Payment) -> Payment:
        """Do what the page shows, sometimes twice at once, sometimes with the id alone."""
        step = await self._next(payment)
        if self._random.random() < 0.2:
            return await _one_of(step(payment), step(payment))
        return await step(payment.id if self._random.random() < 0.2 else payment)

    async def _next(self, payment: Payment) -> _Step:
        till = self._till
        if payment.operation is not None:
            return till.refresh
        if payment.state is State.CREATED:
            order = await till.gateway.fetch_order(payment.order_id)
            session = order.payment_session_id
            assert session is not None
            return lambda one: till.pay(one, session, card())
        if payment.state is State.OTP_PENDING:
            otp = "999999" if self._random.random() < 0.15 else OTP
            return lambda one: till.submit_otp(one, otp)
        if payment.state is State.AUTHORIZED and payment.flow == "chaos_hold":
            return self._random.choice([till.capture, till.void])
        return till.refresh

    def _record(self, payment: Payment) -> Payment:
        """Append the payment to the diary: the file survives the death of this process."""
        seen = Seen(payment.id, payment.version, payment.state)
        os.write(self._diary, msgspec.json.encode(seen) + b"\n")
        return payment


async def _one_of(*presses: Awaitable[Payment]) -> Payment:
    """Return the result of one of two simultaneous presses; raise an error if both failed."""
    ends = await asyncio.gather(*presses, return_exceptions=True)
    done = [end for end in ends if not isinstance(end, BaseException)]
    if not done:
        raise next(end for end in ends if isinstance(end, BaseException))
    return done[0]


def drive(place: Place, name: str) -> None:
    """Run a driver until this process is killed."""
    asyncio.run(_drive(place, name))


async def _drive(place: Place, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    diary = os.open(Path(place.folder) / f"{name}.seen", flags)
    async with AsyncExitStack() as stack:
        driver = _Driver(await _connected(place, stack), name, diary)
        async with asyncio.TaskGroup() as group:
            group.create_task(_end_with_parent())
            for _ in range(_CUSTOMERS):
                group.create_task(driver.customer())


def work(place: Place, _: str) -> None:
    """Run a worker until this process is killed."""
    asyncio.run(_work(place))


async def _work(place: Place) -> None:
    async with AsyncExitStack() as stack:
        worker = Worker(await _connected(place, stack), lease_s=_LEASE_S, idle_s=0.1)
        orphaned = asyncio.create_task(_end_with_parent())
        await worker.run()
        orphaned.cancel()


async def _connected(place: Place, stack: AsyncExitStack) -> Orchestrator:
    """Return a connected orchestrator; wait while the store is down."""
    while True:
        try:
            return await stack.enter_async_context(place.connect())
        except CfflowError:
            await asyncio.sleep(0.1)


async def _end_with_parent() -> None:
    """End this process when its parent ends, so that no process is left over."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(_LOOK_S)
    os._exit(1)
