"""The fixtures of the pytest plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

import cfflow
from cfflow import Card, Orchestrator, State, Worker
from cfflow.testing import LocalCashfree, MemoryStore
from cfflow.testing.plugin import STORES
from tests.judges.receiver import Receiver, receiving

CARD = Card(
    card_number="4111111111111111",
    card_holder_name="Asha Rao",
    card_expiry_mm="12",
    card_expiry_yy="31",
    card_cvv="123",
)


@pytest.fixture(params=STORES)
def _each_store(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.cfflow(store=request.param))


each_store = pytest.mark.usefixtures("_each_store")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks go."""
    with receiving() as server:
        yield server


async def otp_page(orchestrator: Orchestrator, order: Any, flow: str = "native_otp") -> Any:
    """Return a payment that waits for its OTP."""
    payment = await orchestrator.start(flow, order_id=order.order_id)
    return await orchestrator.pay(payment, order.payment_session_id, CARD)


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_begins_with_an_empty_bank(turn: int, cashfree: LocalCashfree) -> None:
    """The same order id is new each time, and the ledger is empty."""
    assert cashfree.create_order(1, order_id="order_of_this_test").order_id == "order_of_this_test"
    assert list(cashfree.ledger) == []


def test_the_gateway_is_reached_over_http(cashfree: LocalCashfree) -> None:
    """A checkout in any language finds the order that the test has created."""
    order = cashfree.create_order("170.50")
    credentials = {"x-client-id": cashfree.client_id, "x-client-secret": cashfree.client_secret}
    response = httpx.get(
        f"{cashfree.base_url}/orders/{order.order_id}",
        headers=credentials | {"x-api-version": "2025-01-01"},
    )
    assert response.json()["payment_session_id"] == order.payment_session_id


def test_an_order_that_the_gateway_refuses_is_a_value_error(cashfree: LocalCashfree) -> None:
    """With the gateway's own error code, as a checkout gets it."""
    with pytest.raises(ValueError, match="order_amount_invalid"):
        cashfree.create_order("-1")


def test_a_fault_that_does_not_exist_is_a_value_error(cashfree: LocalCashfree) -> None:
    """With a misspelt kind a test would prove nothing."""
    with pytest.raises(ValueError, match="kind"):
        cashfree.faults.add("pay", "lost_afterwards")


def test_many_threads_may_use_the_gateway_at_once(cashfree: LocalCashfree) -> None:
    """All that touches the bank happens on the gateway's own thread."""
    with ThreadPoolExecutor(8) as pool:
        orders = pool.map(cashfree.create_order, ["170.00"] * 64)
    assert len({order.order_id for order in orders}) == 64


@each_store
async def test_a_marker_chooses_the_store(
    request: pytest.FixtureRequest, orchestrator: Orchestrator
) -> None:
    """In memory, or on a real server."""
    in_memory = isinstance(orchestrator.store, MemoryStore)
    assert in_memory is (request.node.get_closest_marker("cfflow").kwargs["store"] == "memory")


@pytest.mark.cashfree(otp="222222", otp_settles_after_s=5)
async def test_a_marker_changes_how_the_bank_behaves(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """Another OTP, and money that moves five seconds after it."""
    order = cashfree.create_order("170.00")
    await orchestrator.submit_otp(await otp_page(orchestrator, order), "222222")
    assert cashfree.ledger.effects(order.order_id) == ["attempt_created"]
    cashfree.clock.advance(5)
    assert cashfree.ledger.effects(order.order_id) == ["attempt_created", "captured"]


@each_store
async def test_time_is_skipped_for_bank_and_store_at_once(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """An OTP page that expired at the bank has expired in the payment too."""
    payment = await otp_page(orchestrator, cashfree.create_order("170.00"))
    cashfree.clock.advance(301)
    with pytest.raises(cfflow.OtpLimit):
        await orchestrator.submit_otp(payment, "111000")
    assert abs(orchestrator.store.now_ms() / 1000 - cashfree.clock.now_s()) < 0.05


@each_store
async def test_a_worker_finds_what_is_due_after_the_time_skipped(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """A lost pay gets its inquiry after the time limit, and not before."""
    order = cashfree.create_order("170.00")
    cashfree.faults.add("pay", "lost_after")
    with pytest.raises(cfflow.OutcomeUnknown):
        await otp_page(orchestrator, order)
    reports = [await Worker(orchestrator).run_once()]
    cashfree.clock.advance(60)
    reports.append(await Worker(orchestrator).run_once())
    assert [report.progressed for report in reports] == [0, 1]
    assert cashfree.ledger.effects(order.order_id) == ["attempt_created"]


@pytest.mark.parametrize(
    ("act", "state"),
    [("approve", State.CAPTURED), ("decline", State.FAILED), ("leave", State.FAILED)],
)
async def test_a_customer_decides_elsewhere(
    act: str, state: State, cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """At the bank's page or in an app; an inquiry finds the result."""
    order = cashfree.create_order("170.00")
    payment = await orchestrator.start("upi", order_id=order.order_id)
    upi = cfflow.UPI(channel="link")
    payment = await orchestrator.pay(payment, order.payment_session_id, upi)
    getattr(cashfree, act)(order.order_id)
    assert (await orchestrator.refresh(payment)).state is state


def test_without_a_waiting_payment_there_is_nothing_to_approve(cashfree: LocalCashfree) -> None:
    """An order without a payment has no customer who could approve."""
    with pytest.raises(LookupError, match="waits for its customer"):
        cashfree.approve(cashfree.create_order(10).order_id)


def test_a_webhook_arrives_where_it_was_sent_to(
    cashfree: LocalCashfree, receiver: Receiver
) -> None:
    """`deliver` returns after the receiver has it, with the bytes that `of` returns."""
    cashfree.webhooks.send_to(receiver.url)
    order = cashfree.create_order("170.00")
    pay_by_upi(cashfree, order.payment_session_id)
    cashfree.webhooks.deliver()
    (webhook,) = cashfree.webhooks.of(order.order_id)
    assert receiver.kept.get_nowait().body == webhook.body


async def test_a_receiver_on_the_test_s_own_loop_is_reached(cashfree: LocalCashfree) -> None:
    """Awaiting `delivered` leaves the loop free to receive it."""
    received = asyncio.Event()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received.set()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        cashfree.webhooks.send_to(f"http://127.0.0.1:{port}/hook")
        order = cashfree.create_order("170.00")
        await asyncio.to_thread(pay_by_upi, cashfree, order.payment_session_id)
        await cashfree.webhooks.delivered()
        assert received.is_set()


def pay_by_upi(cashfree: LocalCashfree, session: str) -> None:
    """Pay an order by the test customer who approves at once."""
    upi = {"channel": "collect", "upi_id": "testsuccess@gocash"}
    body = {"payment_session_id": session, "payment_method": {"upi": upi}}
    version = {"x-api-version": "2025-01-01"}
    response = httpx.post(f"{cashfree.base_url}/orders/sessions", headers=version, json=body)
    assert response.status_code == 200, response.text


@each_store
def test_a_blocking_test_has_the_same(cashfree: LocalCashfree, sync_orchestrator: Any) -> None:
    """`cfflow.sync`, its store on the gateway's clock too."""
    order = cashfree.create_order("5000.00", hold=True)
    payment = sync_orchestrator.start("preauth", order_id=order.order_id)
    payment = sync_orchestrator.pay(payment, order.payment_session_id, CARD)
    payment = sync_orchestrator.submit_otp(payment, "111000")
    assert payment.state is State.AUTHORIZED
    cashfree.clock.advance(7 * 86400)
    assert sync_orchestrator.refresh(payment).state is State.VOIDED


async def test_the_ledger_has_amounts_and_times(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """The captured part of a hold, and the time by the gateway's clock."""
    order = cashfree.create_order("5000.00", hold=True)
    payment = await otp_page(orchestrator, order, "preauth")
    payment = await orchestrator.submit_otp(payment, "111000")
    cashfree.clock.advance(3600)
    await orchestrator.capture(payment, "4200.50")
    captured = cashfree.ledger.of(order.order_id)[-1]
    assert (captured.effect, captured.amount) == ("captured", Decimal("4200.50"))
    assert abs((cashfree.clock.now - captured.at).total_seconds()) < 5
