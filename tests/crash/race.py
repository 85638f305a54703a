"""A race: many tasks of many processes press the same buttons of one payment at once.

A barrier in Redis stops every process until all have read the payment. Then half of the tasks
act on the payment that was read, and half on its id, as a page that was reloaded does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

from cfflow import CfflowError, Orchestrator, Payment
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import OTP, card

__all__ = ["race"]

_Button = Callable[[Orchestrator, Payment | str, str], Awaitable[Payment]]

#: The buttons: each takes a payment or its id, and the order's session.
_BUTTONS: Final[dict[str, _Button]] = {
    "pay": lambda till, payment, session: till.pay(payment, session, card()),
    "submit_otp": lambda till, payment, _: till.submit_otp(payment, OTP),
    "capture": lambda till, payment, _: till.capture(payment),
    "void": lambda till, payment, _: till.void(payment),
    "start": lambda till, payment, _: till.start("native_otp", order_id=_order_of(payment)),
}


async def race(
    till: Orchestrator,
    payment_id: str,
    buttons: Sequence[str],
    *,
    session: str,
    tasks: int,
    processes: int,
) -> Counter[str]:
    """Press the buttons with so many tasks, once so many processes are ready; count the ends."""
    presses = [_BUTTONS[buttons[n // 2 % len(buttons)]] for n in range(tasks)]
    held: Payment | str = payment_id if "start" in buttons else await till.get(payment_id)
    await _barrier(cast("RedisStore", till.store), processes)
    ends = await asyncio.gather(
        *(press(till, (held, payment_id)[n % 2], session) for n, press in enumerate(presses)),
        return_exceptions=True,
    )
    return Counter(_name_of(end) for end in ends)


async def _barrier(store: RedisStore, processes: int) -> None:
    await store.link.command("INCR", "ready")
    while int(await store.link.command("GET", "ready")) < processes:
        await asyncio.sleep(0)


def _name_of(end: Payment | BaseException) -> str:
    if isinstance(end, CfflowError):
        return type(end).__name__
    if isinstance(end, BaseException):
        raise end
    return end.id


def _order_of(payment: Payment | str) -> str:
    return payment.order_id if isinstance(payment, Payment) else payment.rpartition(".")[0]
