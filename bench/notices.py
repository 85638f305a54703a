"""How quickly a notification is acknowledged, and how long after it a worker has asked.

Acknowledging: bodies of the size that the gateway's have, signed and different each time, one
after another on a server that keeps a payment for each. Asking: a worker that is asleep, a
bank in a process of its own; from the acknowledgement to the committed answer.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import statistics
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import cfflow
from bench.places import Account, embedded_valkey
from cfflow import UPI, Orchestrator, Payment, State, Worker
from cfflow.emulator import DEFAULT_CLIENT_SECRET
from cfflow.logs import silent_log

__all__ = ["Notified", "measure"]

_CUSTOMER: Final = {"customer_id": "bench_1", "customer_phone": "9898989898"}
_WAITS_S_MAX: Final = 5.0
#: So long a worker with nothing to do sleeps; a notification comes at any moment of it.
_SLEEP_S: Final = 0.37
#: Real bodies have two to four kilobytes.
_FILLING: Final = "x" * 2_000


class Notified(NamedTuple):
    """Milliseconds: to acknowledge a notification, and from then until a worker has asked."""

    notifications: int
    p50_ms: float
    p99_ms: float
    asked_p50_ms: float
    asked_max_ms: float


async def measure(notifications: int, asked: int, emulator: Account) -> Notified:
    """Hand in so many notifications, and wait for the worker after a few more."""
    async with (
        embedded_valkey() as url,
        cfflow.connect(
            redis_url=url,
            environment=emulator.base_url,
            client_id=emulator.client_id,
            client_secret=emulator.client_secret,
            log=silent_log(),
        ) as orchestrator,
    ):
        payments = [await _by_upi(orchestrator, number) for number in range(asked)]
        took_ms = [await _acknowledged(orchestrator, payments, n) for n in range(notifications)]
        waits_ms = await _asked(orchestrator, payments)
    cuts = statistics.quantiles(took_ms, n=100)
    return Notified(
        notifications,
        statistics.median(took_ms),
        cuts[98],
        statistics.median(waits_ms),
        max(waits_ms),
    )


async def _by_upi(orchestrator: Orchestrator, number: int) -> Payment:
    order_id = f"bench_{number}"
    order = await orchestrator.gateway.create_order("170.00", _CUSTOMER, order_id=order_id)
    payment = await orchestrator.start("upi", order_id=order_id)
    method = UPI(channel="collect", upi_id="somebody@gocash")
    return await orchestrator.pay(payment, order.payment_session_id, method)


async def _acknowledged(
    orchestrator: Orchestrator, payments: Sequence[Payment], number: int
) -> float:
    headers, body = _signed(orchestrator, payments[number % len(payments)], "PENDING", number)
    began_s = time.perf_counter()
    await orchestrator.on_webhook(headers, body)
    return (time.perf_counter() - began_s) * 1000


async def _asked(orchestrator: Orchestrator, payments: Sequence[Payment]) -> list[float]:
    """Let the bank take each payment's money, notify, and wait until it is captured."""
    worker = Worker(orchestrator)
    working = asyncio.create_task(worker.run(signals=False))
    waits_ms = []
    for payment in payments:
        await asyncio.sleep(_SLEEP_S)
        await orchestrator.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
        await orchestrator.on_webhook(*_signed(orchestrator, payment, "SUCCESS", 0))
        waits_ms.append(await _captured_after(orchestrator, payment))
    worker.stop()
    await working
    return waits_ms


async def _captured_after(orchestrator: Orchestrator, payment: Payment) -> float:
    began_s = time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < _WAITS_S_MAX:
        if (await orchestrator.get(payment.id)).state is State.CAPTURED:
            return took_s * 1000
        await asyncio.sleep(0.001)
    raise RuntimeError(f"{payment.id} was not asked about in {_WAITS_S_MAX} s")


def _signed(
    orchestrator: Orchestrator, payment: Payment, status: str, number: int
) -> tuple[dict[str, str], bytes]:
    about = {
        "order": {"order_id": payment.order_id, "order_amount": 170.0, "order_tags": _FILLING},
        "payment": {"cf_payment_id": payment.cf_payment_id, "payment_status": status, "n": number},
    }
    body = json.dumps({"type": "PAYMENT_SUCCESS_WEBHOOK", "data": about}).encode()
    stamp = str(orchestrator.store.now_ms())
    digest = hmac.digest(DEFAULT_CLIENT_SECRET.encode(), stamp.encode() + body, "sha256")
    return {
        "x-webhook-signature": base64.b64encode(digest).decode(),
        "x-webhook-timestamp": stamp,
    }, body
