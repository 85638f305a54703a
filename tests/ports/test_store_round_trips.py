"""How many round trips a sale takes, counted by the server: every command is one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest

import cfflow
from cfflow import Card, Orchestrator
from cfflow.emulator import running_emulator
from cfflow.store.redis.keys import PARTITIONS
from cfflow.store.redis.store import RedisStore
from tests.engine.signing import event, signed
from tests.ports.servers import Monitor, Server

CARD = Card(
    card_number="4111111111111111",
    card_holder_name="Test",
    card_expiry_mm="12",
    card_expiry_yy="30",
    card_cvv="123",
)
SCRIPT = "evalsha"


@pytest.fixture
async def orchestrator(redis_url: str) -> AsyncIterator[Orchestrator]:
    """An orchestrator on an empty server, its scripts loaded, and a local gateway."""
    async with (
        running_emulator() as gateway,
        cfflow.connect(
            redis_url=redis_url,
            client_id="cfflow-test-id",
            client_secret="cfflow-test-secret",
            environment=gateway.base_url,
        ) as opened,
    ):
        # Both scripts, whatever other tests have done with this server.
        await opened.status()
        yield opened


@pytest.fixture
def monitor(orchestrator: Orchestrator, valkey_server: Server) -> Iterator[Monitor]:
    """Everything that is sent to the server from now on."""
    watching = Monitor(valkey_server)
    yield watching
    watching.close()


async def new_order(orchestrator: Orchestrator, **tags: str) -> tuple[str, str]:
    """Create an order at the gateway; return its id and its session."""
    order_id = f"order_{time.time_ns()}"
    order = await orchestrator.gateway.create_order(
        "170.00",
        {"customer_id": "customer_1", "customer_phone": "9898989898"},
        order_id=order_id,
        order_tags=tags,
    )
    assert order.payment_session_id is not None
    return order_id, order.payment_session_id


async def test_a_native_otp_sale_is_five_commits(
    orchestrator: Orchestrator, monitor: Monitor
) -> None:
    """Start 1, pay 2, submit 2: the operation before each call, and the outcome after it."""
    order_id, session = await new_order(orchestrator)
    assert monitor.seen() == []
    payment = await orchestrator.start("native_otp", order_id=order_id, amount="170")
    assert monitor.seen() == [SCRIPT]
    payment = await orchestrator.pay(payment, session, CARD)
    assert monitor.seen() == [SCRIPT] * 2
    payment = await orchestrator.submit_otp(payment, "111000")
    assert monitor.seen() == [SCRIPT] * 2
    assert payment.state == "captured"


async def test_a_notification_is_one_round_trip(
    orchestrator: Orchestrator, monitor: Monitor
) -> None:
    """Wake time, feed entry and duplicate check are one script, and nothing is read before it."""
    payment = await orchestrator.start("native_otp", order_id=f"order_{time.time_ns()}")
    monitor.seen()
    body = event(payment.order_id, "77")
    headers = signed(body, orchestrator.store.now_ms(), x_idempotency_key="k1")
    assert (await orchestrator.on_webhook(headers, body)).payment_ids == (payment.id,)
    assert monitor.seen() == [SCRIPT]


async def test_a_step_by_id_reads_once_more(orchestrator: Orchestrator, monitor: Monitor) -> None:
    """A step on an id, not on a payment, takes three round trips: read, write, write."""
    order_id, session = await new_order(orchestrator)
    payment = await orchestrator.start("native_otp", order_id=order_id)
    assert monitor.seen() == [SCRIPT]
    await orchestrator.pay(payment.id, session, CARD)
    assert monitor.seen() == [SCRIPT] * 3
    await orchestrator.submit_otp(payment.id, "111000")
    assert monitor.seen() == [SCRIPT] * 3


async def test_a_hold_and_its_capture_are_seven_commits(
    orchestrator: Orchestrator, monitor: Monitor
) -> None:
    """The capture takes two, like any other step."""
    order_id, session = await new_order(orchestrator, cfflow_preauth="true")
    payment = await orchestrator.start("preauth", order_id=order_id)
    payment = await orchestrator.pay(payment, session, CARD)
    payment = await orchestrator.submit_otp(payment, "111000")
    assert payment.state == "authorized"
    assert monitor.seen() == [SCRIPT] * 5
    payment = await orchestrator.capture(payment, "100.50")
    assert payment.state == "captured"
    assert monitor.seen() == [SCRIPT] * 2


async def test_starting_again_is_one_round_trip(
    orchestrator: Orchestrator, monitor: Monitor
) -> None:
    """A second start takes one round trip too."""
    order_id, _ = await new_order(orchestrator)
    await orchestrator.start("native_otp", order_id=order_id)
    await orchestrator.start("native_otp", order_id=order_id)
    assert monitor.seen() == [SCRIPT] * 2


async def test_starting_the_next_payment_is_two_round_trips(
    orchestrator: Orchestrator, monitor: Monitor
) -> None:
    """The first shows that the order has payments, the second adds one."""
    order_id, session = await new_order(orchestrator)
    first = await orchestrator.start("native_otp", order_id=order_id)
    await orchestrator.abandon(first)
    monitor.seen()
    second = await orchestrator.start("native_otp", order_id=order_id)
    assert (second.id, monitor.seen()) == (f"{order_id}.2", [SCRIPT] * 2)
    await orchestrator.pay(second, session, CARD)
    assert monitor.seen() == [SCRIPT] * 2


async def test_a_read_is_one_round_trip(orchestrator: Orchestrator, monitor: Monitor) -> None:
    """`get` takes one round trip."""
    order_id, _ = await new_order(orchestrator)
    payment = await orchestrator.start("native_otp", order_id=order_id)
    monitor.seen()
    await orchestrator.get(payment.id)
    assert monitor.seen() == [SCRIPT]


async def test_a_lease_takes_one_script_for_all_partitions_of_a_server(
    redis_url: str, monitor: Monitor
) -> None:
    """Only a cluster needs one for each partition."""
    store = RedisStore(redis_url)
    await store.open()
    monitor.seen()
    await store.lease(64, 1_000)
    assert monitor.seen() == [SCRIPT]
    await store.aclose()


async def test_opening_takes_two_round_trips(redis_url: str, monitor: Monitor) -> None:
    """For the kind of server, the number of partitions, whose store it is, and the time."""
    store = RedisStore(redis_url)
    await store.open()
    assert monitor.seen() == ["info", SCRIPT]
    await store.aclose()


async def test_a_workers_look_at_an_order_is_two_round_trips(
    orchestrator: Orchestrator, monitor: Monitor
) -> None:
    """One for the lease of all that is due, and one commit for what the inquiry showed."""
    order_id, session = await new_order(orchestrator)
    payment = await orchestrator.start("native_otp", order_id=order_id)
    payment = await orchestrator.pay(payment, session, CARD)
    body = event(order_id, payment.cf_payment_id)
    worker = cfflow.Worker(orchestrator)
    monitor.seen()
    await orchestrator.on_webhook(signed(body, orchestrator.store.now_ms()), body)
    assert monitor.seen() == [SCRIPT]
    await worker.run_once()
    # `run_once` ends with one sign of life, and a report, which asks all partitions at once.
    sign, report = SCRIPT, [SCRIPT] * PARTITIONS
    assert monitor.seen() == [SCRIPT, SCRIPT, sign, *report]
