"""A restart with many open operations, at a gateway that enforces its limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import cfflow
from cfflow import State, Worker
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation, Step
from cfflow.core.record import OtpTurn
from cfflow.core.steps import create
from cfflow.emulator import RunningEmulator, running_emulator
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders
from cfflow.store.protocol import Store
from cfflow.testing import FakeClock, MemoryStore
from tests.engine.shop import CUSTOMER, OTP, Events, begun, rewritten

#: More calls than the gateway allows in a minute.
OPEN = 160
#: The gateway's own limits of calls per minute in production.
LIMITS = {"fetch_payment": 130, "fetch_payments": 100, "fetch_order": 400}
#: How often the checkout asks, in seconds of a clock that only the test moves.
STEP_S = 2.0

CARD = {
    "card": {
        "channel": "post",
        "card_number": "4111111111111111",
        "card_expiry_mm": "12",
        "card_expiry_yy": "31",
        "card_cvv": "123",
    }
}


def sold(emulator: RunningEmulator, order_id: str) -> str:
    """Let the bank take the money of an order, as if by a process that died; return the attempt."""
    bank, now = emulator.bank, emulator.clock.now()
    account = bank.account(emulator.client_id, emulator.client_secret)
    assert account is not None
    body: dict[str, Any] = {
        "order_id": order_id,
        "order_amount": 170,
        "order_currency": "INR",
        "customer_details": CUSTOMER,
    }
    order = bank.create_order(account, body, now)
    attempt = bank.pay(bank.session_of(order), CARD, now)
    bank.submit_otp(attempt.cf_payment_id, OTP, now)
    return str(attempt.cf_payment_id)


async def interrupted(store: Store, flow: Flow, order_id: str, attempt: str, age_s: int) -> None:
    """Write a payment whose OTP was on its way when its process died."""
    then_ms = store.now_ms() - age_s * 1000
    record = create(flow, then_ms, nonce="n0", currency="INR", amount=None, metadata=None)
    orders = Orders(store)
    held = await begun(orders, order_id, record, flow)
    operation = Operation(
        step=Step.SUBMIT_OTP,
        sequence=2,
        key="k",
        began_at_ms=then_ms,
        deadline_at_ms=then_ms + 10_000,
    )
    await rewritten(
        orders,
        held,
        state=State.OTP_PENDING,
        cf_payment_id=attempt,
        operation=operation,
        sequence=2,
        otp=OtpTurn(expires_at_ms=then_ms + 300_000, sent_at_ms=then_ms),
        wake_at_ms=then_ms + 11_000,
    )


async def test_a_restart_reconciles_at_the_budgets_rate_without_one_429() -> None:
    """Two workers and a busy checkout share the account, and the gateway refuses no call."""
    clock, flow = FakeClock(), Catalog().named("native_otp")
    store = MemoryStore(clock)
    async with running_emulator(rate_limits=LIMITS) as emulator:
        settings: dict[str, Any] = {
            "client_id": emulator.client_id,
            "client_secret": emulator.client_secret,
            "environment": emulator.base_url,
            "store": store,
            "limits": LIMITS,
            "log": Events(),
        }
        async with cfflow.connect(**settings) as one, cfflow.connect(**settings) as two:
            for i in range(OPEN):
                attempt = sold(emulator, order_id := f"order_{i:04d}")
                await interrupted(store, flow, order_id, attempt, age_s=60 + i)
            workers = [Worker(one), Worker(two)]
            took_s = 0.0
            while await one.find(state="otp_pending", limit=1):
                assert took_s < 300, "the workers do not come to an end"
                took_s += STEP_S
                clock.advance(STEP_S)
                emulator.clock.advance(STEP_S)
                # The checkout asks meanwhile, and is never held back.
                await two.refresh("order_0000.1")
                reports = [await worker.run_once() for worker in workers]
            states = [(await one.get(f"order_{i:04d}.1")).state for i in range(OPEN)]
        assert sum(emulator.limits.refused.values()) == 0
    assert set(states) == {State.CAPTURED}
    assert sum(report.errors for report in reports) == 0
    # The workers get less than seven tenths of the limit, so a minute is not enough for all.
    assert took_s > 60


@pytest.mark.parametrize("runs_once", [True, False])
async def test_each_inquiry_of_a_worker_takes_a_permit(runs_once: bool) -> None:
    """Orders that need another inquiry than was assumed when they were leased: some must wait."""
    clock, events = FakeClock(), Events()
    async with (
        running_emulator() as emulator,
        cfflow.connect(
            client_id=emulator.client_id,
            client_secret=emulator.client_secret,
            environment=emulator.base_url,
            store=MemoryStore(clock),
            limits={"fetch_order": 10},
            log=events,
        ) as cashier,
    ):
        for i in range(8):
            await cashier.start("native_otp", order_id=f"order_{i:04d}", amount="170")
        clock.advance(90_000)
        worker = Worker(cashier)
        if runs_once:
            await worker.run_once()
        else:
            running = asyncio.create_task(worker.run(signals=False))
            async with asyncio.timeout(20):
                while len(events.named("gateway.call") + events.named("gateway.held_back")) < 8:
                    await asyncio.sleep(0.01)
            worker.stop()
            await running
    assert len(events.named("gateway.call") + events.named("gateway.held_back")) == 8
    assert len(events.named("gateway.held_back")) > 0
