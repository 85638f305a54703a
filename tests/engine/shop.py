"""A merchant for the engine's tests: a running emulator, a store, an orchestrator, orders."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

import cfflow
from cfflow import Card, Orchestrator, Payment, State
from cfflow.core.flow import Flow
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Change, Plan
from cfflow.core.record import Record
from cfflow.core.steps import begin_payment
from cfflow.emulator import BankOptions, Fault, RunningEmulator, running_emulator
from cfflow.store.orders import Orders
from cfflow.store.protocol import Leased, Outcome, Store
from cfflow.testing import FakeClock, MemoryStore

CUSTOMER = {"customer_id": "cust_1", "customer_phone": "9898989898"}
OTP = "111000"


class Events:
    """A log that keeps all events and warnings."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep an event."""
        self.kept.append((event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Keep a warning."""
        self.kept.append((event, fields))

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of all events of one name."""
        return [fields for name, fields in self.kept if name == event]


def card(number: str = "4111111111111111", channel: Literal["link", "post"] = "post") -> Card:
    """Return a test card."""
    return Card(
        card_number=number,
        card_holder_name="Test",
        card_expiry_mm="12",
        card_expiry_yy="31",
        card_cvv="123",
        channel=channel,
    )


class Shop:
    """What a test needs of a merchant: orders, payments up to a state, the bank's ledger."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        emulator: RunningEmulator,
        clock: FakeClock,
        store: Store,
        events: Events,
    ) -> None:
        self.cashier = orchestrator
        self.emulator = emulator
        self.clock = clock
        self.store = store
        self.events = events
        self._orders = 0

    def pass_time(self, seconds: float) -> None:
        """Move our clock and the bank's."""
        self.clock.advance(seconds)
        self.emulator.clock.advance(seconds)

    async def order(self, amount: str = "170.00", *, hold: bool = False) -> tuple[str, str]:
        """Create an order; return its id and its payment_session_id."""
        self._orders += 1
        order_id = f"order_{self._orders}"
        tags = {"cfflow_preauth": "true"} if hold else None
        made = await self.cashier.gateway.create_order(
            amount, CUSTOMER, order_id=order_id, order_tags=tags
        )
        return order_id, made.payment_session_id

    async def at_otp(
        self, amount: str = "170.00", flow: str = "native_otp", *, hold: bool = False
    ) -> tuple[Payment, str]:
        """Return a payment whose customer is asked for the OTP, and its session."""
        order_id, session = await self.order(amount, hold=hold or flow == "preauth")
        payment = await self.cashier.start(flow, order_id=order_id, amount=amount)
        return await self.cashier.pay(payment, session, card()), session

    async def held(self, amount: str = "170.00", flow: str = "preauth") -> Payment:
        """Return a payment whose money the bank holds."""
        payment, _ = await self.at_otp(amount, flow, hold=True)
        return await self.cashier.submit_otp(payment, OTP)

    def fault(self, call: Any, kind: Any, **rest: Any) -> None:
        """Make the next such call fail in this way."""
        self.emulator.faults.add(Fault(call=call, kind=kind, **rest))

    def effects(self, order_id: str) -> list[str]:
        """Return the ledger of the bank for an order."""
        return [entry.effect for entry in self.emulator.bank.ledger_of(order_id)]

    def performed(self, call: str) -> int:
        """Return how often the bank carried out a call."""
        return self.emulator.bank.calls.get(call, 0)

    def received(self, call: str) -> int:
        """Return how often a call arrived at the gateway, carried out or not."""
        count: int = self.emulator.app.state.received[call]
        return count

    async def captured(self, payment: Payment) -> bool:
        """Return whether the payment is captured by now."""
        return (await self.cashier.get(payment.id)).state is State.CAPTURED

    def counted_leases(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return a list to which each lease from now on adds how many orders it returned."""
        counts: list[int] = []
        lease = self.store.lease

        async def counting(limit: int, lease_ms: int) -> Leased:
            leased = await lease(limit, lease_ms)
            counts.append(len(leased.orders))
            return leased

        monkeypatch.setattr(self.store, "lease", counting)
        return counts


async def rewritten(orders: Orders, held: Snapshot, **changes: Any) -> Snapshot:
    """Write a payment whose record has these changes, whatever led to them."""
    record = msgspec.structs.replace(held.record, version=held.record.version + 1, **changes)
    payments = list(held.order.payments)
    payments[held.n - 1] = record
    after = msgspec.structs.replace(held.order, payments=tuple(payments))
    change = Change(held.n, held.record, record)
    written = await orders.commit(Plan(before=held.order, after=after, changes=(change,)))
    assert written.outcome is Outcome.APPLIED
    return written.order.payment(held.n)


async def begun(orders: Orders, order_id: str, record: Record, flow: Flow) -> Snapshot:
    """Write the first payment of an order with this record."""
    written = await orders.commit(begin_payment(Order(id=order_id), record, flow))
    assert written.outcome is Outcome.APPLIED
    return written.plan.snapshot


async def until(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    """Wait until a condition, sync or async, holds. Fails after `limit_s` real seconds."""
    async with asyncio.timeout(limit_s):
        while not (await found if inspect.isawaitable(found := condition()) else found):
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_shop(
    *,
    store: Store | None = None,
    clock: FakeClock | None = None,
    options: BankOptions | None = None,
    flows: Iterable[Path] = (),
    **settings: Any,
) -> AsyncIterator[Shop]:
    """Open a shop on a store in memory, or on the one that is given."""
    clock = clock or FakeClock()
    chosen = store or MemoryStore(clock)
    events = Events()
    async with running_emulator(options=options) as emulator:
        given = {
            "client_id": emulator.client_id,
            "client_secret": emulator.client_secret,
            "environment": emulator.base_url,
        } | settings
        given.setdefault("log", events)
        connected = cfflow.connect(store=chosen, flows=flows, **given)
        async with connected as orchestrator:
            yield Shop(orchestrator, emulator, clock, chosen, events)
