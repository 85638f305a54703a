"""Good inputs to begin with: answers and stored bytes of real runs, and the shipped flows.

The runs go through the engine, the client and the emulator in one process. Clocks stand
still and random names are replaced, so that a seed spoils the same bytes on every machine.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from cfflow import UPI, BankTransfer, Card, NetBanking, PayLater, Payment, UPIAuthorization, Wallet
from cfflow.cashfree.client import GatewayClient
from cfflow.core.chart import State
from cfflow.core.order import Order
from cfflow.core.plan import Plan
from cfflow.core.record import Record
from cfflow.emulator import DEFAULT_CLIENT_ID, Account, Bank, BankOptions, Clock, create_app
from cfflow.errors import CfflowError
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.store.catalog import Catalog
from cfflow.store.codec import commit_of, decode_order
from cfflow.store.protocol import Window
from cfflow.testing import FakeClock, MemoryStore
from tests.fuzz.inputs import Document
from tests.ports.test_wire import DECLINED, PAID, TAKEN, WRONG_OTP

__all__ = ["Corpus", "Swap", "corpus"]

NOW_MS: Final = 1_760_000_000_000
CARD_NUMBER: Final = "4706131211212123"
CVV: Final = "9047"
OTP: Final = "739105"
CLIENT_SECRET: Final = "cfsk_fuzz_51c0ffee9d"
CUSTOMER: Final = {"customer_id": "customer_7", "customer_phone": "9908734801"}
CARD: Final = Card(
    channel="post",
    card_number=CARD_NUMBER,
    card_holder_name="Test",
    card_expiry_mm="12",
    card_expiry_yy="31",
    card_cvv=CVV,
)
MANDATE: Final = UPI(
    channel="collect",
    upi_id="testsuccess@gocash",
    authorize_only=True,
    authorization=UPIAuthorization(end_time="2025-10-20T18:04:34+05:30"),
)
#: A payment that has just begun.
RECORD: Final = Record(
    flow="upi", digest="", nonce="0a1b2c3d", currency="INR", created_at_ms=1, updated_at_ms=1
)
#: Read once: a catalog of its own would cost each input more than the input itself.
CATALOG: Final = Catalog()
FLOWS: Final = Path(__file__).parents[2] / "flows"

ERROR: Final = {
    "message": f"card {CARD_NUMBER} with {CVV} and {OTP} declined: {CLIENT_SECRET}",
    "help": "https://docs.cashfree.com",
    "code": "request_invalid",
    "type": "invalid_request_error",
}


class Swap(httpx.AsyncBaseTransport):
    """A gateway in this process: it answers what it is told, or what the emulator says."""

    def __init__(self, app: Any = None) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b"{}"
        self.answered: list[bytes] = []
        self._emulator = None if app is None else httpx.ASGITransport(app=app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        if self._emulator is None:
            return httpx.Response(self.status, headers=self.headers, content=self.body)
        response = await self._emulator.handle_async_request(request)
        self.answered.append(await response.aread())
        return response


class StillClock(Clock):
    """The emulator's clock, moved by hand only."""

    def now(self) -> float:
        """Return the time that was set, in seconds since the epoch."""
        return NOW_MS / 1000 + self.offset_s


def client(transport: httpx.AsyncBaseTransport) -> GatewayClient:
    """Return the engine's client on a transport of one's own."""
    return GatewayClient(
        transport,
        client_id=DEFAULT_CLIENT_ID,
        client_secret=CLIENT_SECRET,
        environment="http://127.0.0.1:9/pg",
        log=silent_log(),
    )


@dataclass
class Corpus:
    """What the runs left behind, in the order in which it came."""

    answers: list[bytes] = field(default_factory=list)
    orders: list[bytes] = field(default_factory=list)
    actions: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    flows: list[str] = field(default_factory=list)

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """The gateway's answers, with the places that can be spoiled."""
        return tuple(Document(answer) for answer in self.answers)


@cache
def corpus() -> Corpus:
    """Return the good inputs; made once in a process."""
    found = Corpus()
    asyncio.run(_fill(found))
    found.flows = [path.read_text() for path in sorted(FLOWS.glob("*.toml"))]
    for example in (TAKEN, DECLINED, PAID, WRONG_OTP, ERROR, [TAKEN, DECLINED]):
        found.answers.append(json.dumps(example).encode())
    found.answers = list(dict.fromkeys(found.answers))
    return found


async def _fill(found: Corpus) -> None:
    clock, store = StillClock(), MemoryStore(FakeClock(NOW_MS))
    # A bank that takes its time leaves captures open, frozen requests and all.
    merchant = Account(DEFAULT_CLIENT_ID, CLIENT_SECRET)
    bank = Bank(accounts=(merchant,), options=BankOptions(confirm_after_s=60.0))
    gateway = Swap(create_app(bank, clock=clock))
    async with Orchestrator(store, client(gateway), log=silent_log()) as cashier:
        await _runs(cashier, clock)
        names = await store.find(Window(tuple(State), limit=1000))
        for order_id in dict.fromkeys(name.rpartition(".")[0] for name, _ in names):
            (stored,) = await store.read([order_id])
            _keep(found, decode_order(stored))
    found.events = [_told(event) for event in store.events]
    found.answers = gateway.answered


def _keep(found: Corpus, order: Order) -> None:
    payments = tuple(settled(payment.record) for payment in order.all_payments)
    after = msgspec.structs.replace(order, payments=payments)
    commit = commit_of(Plan(before=Order(id=order.id), after=after))
    assert commit.record is not None
    found.orders.append(commit.record)
    if commit.actions:
        found.actions.append(commit.actions)


def _told(event: bytes) -> bytes:
    """Return an entry of the feed without the random name of its call."""
    fields = msgspec.msgpack.decode(event)
    return msgspec.msgpack.encode(fields | {"request_id": "r" * len(fields["request_id"])})


def settled(record: Record) -> Record:
    """Return a record whose random names are always the same."""
    operation = record.operation
    if operation is not None:
        operation = msgspec.structs.replace(operation, key="k" * len(operation.key))
    # Wake times are scattered by the nonce.
    wake_at_ms = None if record.wake_at_ms is None else record.updated_at_ms + 5_000
    return msgspec.structs.replace(
        record, token="t" * 11, nonce="0a1b2c3d", wake_at_ms=wake_at_ms, operation=operation
    )


async def _runs(cashier: Orchestrator, clock: Clock) -> None:
    """Pay in every way there is, as far as it goes."""
    methods = (
        ("native_otp", CARD),
        ("preauth", CARD),
        ("redirect", NetBanking(netbanking_bank_code=3333)),
        ("redirect", Wallet(provider="phonepe", phone="9908734801")),
        ("redirect", PayLater(provider="lazypay", phone="9908734801")),
        ("redirect", BankTransfer()),
        ("upi", UPI(channel="collect", upi_id="testsuccess@gocash")),
        ("upi", UPI(channel="collect", upi_id="testfailure@gocash")),
        ("upi", UPI(channel="qrcode")),
        ("upi", UPI(channel="link")),
        ("upi_mandate", MANDATE),
    )
    for number, (flow, method) in enumerate(methods):
        order_id = f"order_{number:02d}"
        payment = await _paid(cashier, order_id, flow, method)
        if payment.next_action is not None and payment.state == "otp_pending":
            await _typed(cashier, payment, clock)
        clock.advance(1)
        await _tolerant(cashier.refresh(payment.id))
        await _tolerant(cashier.gateway.fetch_payments(order_id))
        await _tolerant(cashier.gateway.fetch_order(order_id))
    await _held(cashier)


async def _paid(cashier: Orchestrator, order_id: str, flow: str, method: Any) -> Payment:
    hold = {"cfflow_preauth": "true"} if flow == "preauth" else None
    made = await cashier.gateway.create_order(
        "170.00", CUSTOMER, order_id=order_id, order_tags=hold
    )
    payment = await cashier.start(
        flow, order_id=order_id, amount="170.00", metadata={"cart": 7, "lines": ["a", {"b": 1.5}]}
    )
    return await cashier.pay(payment, made.payment_session_id, method)


async def _typed(cashier: Orchestrator, payment: Payment, clock: Clock) -> None:
    payment = await cashier.submit_otp(payment, "000000")
    if payment.flow == "preauth":
        await cashier.submit_otp(payment, "111000")


async def _held(cashier: Orchestrator) -> None:
    await cashier.capture("order_01.1", Decimal("100.00"))
    await _tolerant(cashier.void("order_10.1"))
    payment = (await cashier.find(order_id="order_00"))[0]
    attempt = payment.cf_payment_id or ""
    simulated = await cashier.gateway.simulate(attempt, "FAILED")
    await cashier.gateway.fetch_simulation(str(simulated.simulation_id))
    await cashier.refresh(payment.id)
    await _tolerant(cashier.gateway.fetch_order("order_none"))
    await _tolerant(cashier.gateway.authenticate(attempt, OTP))


async def _tolerant(call: Any) -> None:
    try:
        await call
    except CfflowError:
        # The gateway's refusal is an answer too, and it has been kept.
        return
