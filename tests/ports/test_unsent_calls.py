"""What was sent and what was not, as the log and the errors show it.

A `gateway.call` is a request that the gateway may have seen. A call that ended in this process has
another event, without a status and without a request id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

import cfflow
from cfflow import CfflowError, GatewayError, GatewayUnavailable, Paused, RateLimited
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.transport import GatewayTransport
from cfflow.core.observation import Call
from cfflow.errors import IllegalStep
from cfflow.limits.budget import Budget, LimitHeaders
from cfflow.limits.transport import BudgetTransport
from cfflow.store.memory.ledger import MemoryLedger
from cfflow.store.protocol import Commit, Committed
from cfflow.testing import FakeClock, MemoryStore
from tests.engine.shop import Shop, card, open_shop
from tests.ports.gateway_kit import KeptLog, RawGateway, Reply, a_gateway, answer, hang, reset
from tests.ports.servers import free_port


@asynccontextmanager
async def a_desk(
    gateway: RawGateway, *, base_url: str = "", connections: int = 8, timeout_s: float = 5.0
) -> AsyncIterator[tuple[GatewayClient, Budget, KeptLog]]:
    """A client behind a budget, as `connect` makes both, and the log that it writes."""
    log, budget = KeptLog(), Budget({Call.FETCH_ORDER: 100}, MemoryLedger())
    url = base_url or gateway.base_url
    client = GatewayClient(
        BudgetTransport(GatewayTransport(url, max_connections=connections), budget),
        client_id="TEST_ID",
        client_secret="a-secret-of-the-tests",
        environment=url,
        timeout_s=timeout_s,
        log=log,
    )
    async with client:
        yield client, budget, log


def only(log: KeptLog) -> dict[str, Any]:
    """Return the one event that was written."""
    (event,) = log.events
    return event


# nothing was sent


async def in_the_gateway_s_pause(gateway: RawGateway) -> tuple[KeptLog, CfflowError]:
    """A call in the time in which the gateway takes none."""
    async with a_desk(gateway) as (client, budget, log):
        budget.apply_limit_headers(Call.FETCH_ORDER, LimitHeaders(wait_s=30.0))
        return log, await refused(client.fetch_order("order_1"))


async def without_a_permit(gateway: RawGateway) -> tuple[KeptLog, CfflowError]:
    """A worker's call that asked for no room."""
    async with a_desk(gateway) as (client, budget, log):
        with budget.background():
            return log, await refused(client.fetch_order("order_1"))


async def on_a_closed_client(gateway: RawGateway) -> tuple[KeptLog, CfflowError]:
    """A call after the end."""
    async with a_desk(gateway) as (client, _, log):
        await client.aclose()
        return log, await refused(client.pay("session_1", card()))


async def where_nobody_listens(gateway: RawGateway) -> tuple[KeptLog, CfflowError]:
    """A connection that is refused."""
    nobody = f"http://127.0.0.1:{free_port()}/pg"
    async with a_desk(gateway, base_url=nobody) as (client, _, log):
        return log, await refused(client.pay("session_1", card()))


async def without_a_free_connection(gateway: RawGateway) -> tuple[KeptLog, CfflowError]:
    """Another call has the only connection, and keeps it."""
    gateway.reply = hang
    async with a_desk(gateway, connections=1, timeout_s=0.3) as (client, _, log):
        first = asyncio.create_task(client.fetch_payment("order_1", "1", timeout_s=20))
        await gateway.asked.wait()
        error = await refused(client.pay("session_1", card()))
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        gateway.requests.clear()
        return log, error


async def refused(call: Awaitable[object]) -> CfflowError:
    """Make a call that must fail and return its error."""
    with pytest.raises(CfflowError) as caught:
        await call
    return caught.value


Unsent = Callable[[RawGateway], Awaitable[tuple[KeptLog, CfflowError]]]
UNSENT: dict[Unsent, str] = {
    in_the_gateway_s_pause: "gateway.held_back",
    without_a_permit: "gateway.held_back",
    on_a_closed_client: "gateway.not_sent",
    where_nobody_listens: "gateway.not_sent",
    without_a_free_connection: "gateway.not_sent",
}


@pytest.mark.parametrize("make", UNSENT, ids=lambda make: make.__name__)
async def test_a_call_of_which_nothing_was_sent_is_no_gateway_call(make: Unsent) -> None:
    """Neither in the log nor in its error: no status, no request id, nothing at the gateway."""
    async with a_gateway(answer(200, {})) as gateway:
        log, error = await make(gateway)
        assert gateway.requests == []
    event = only(log)
    assert event["event"] == UNSENT[make]
    assert not {"status", "request_id", "outcome"} & event.keys()
    assert isinstance(error, GatewayError)
    assert not error.was_sent
    assert (error.status, error.request_id, error.money_may_have_moved) == (None, "", False)


async def test_a_call_that_is_held_back_says_for_how_long() -> None:
    """The same seconds in the log and in the error."""
    async with a_gateway(answer(200, {})) as gateway:
        log, error = await in_the_gateway_s_pause(gateway)
    assert isinstance(error, RateLimited)
    assert error.code == "rate_budget"
    assert only(log) == {
        "event": "gateway.held_back",
        "call": "fetch_order",
        "wait_s": round(error.retry_after_s, 3),
    }
    assert error.retry_after_s == pytest.approx(30, abs=1)


async def test_a_call_without_a_connection_says_why() -> None:
    """The text of the error, which has the kind of failure and no address."""
    async with a_gateway(answer(200, {})) as gateway:
        log, error = await where_nobody_listens(gateway)
    assert isinstance(error, GatewayUnavailable)
    assert only(log)["reason"] == error.message
    assert "ConnectError" in error.message


# something may have been sent


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (answer(200, b"{"), 200),
        (answer(429, {}, x_ratelimit_retry="0"), 429),
        (answer(429, {"code": "rate_budget"}, x_request_id="theirs"), 429),
        (answer(400, {"code": "order_inactive"}), 400),
        (answer(503, b"<html>"), 503),
        (reset, None),
        (hang, None),
    ],
    ids=["undecodable", "429", "429 in our words", "400", "503", "reset", "timeout"],
)
async def test_a_call_that_may_have_been_sent_is_a_gateway_call(
    reply: Reply, status: int | None
) -> None:
    """With the id that support finds it by: the gateway's, or the one that we sent."""
    async with (
        a_gateway(reply) as gateway,
        a_desk(gateway, timeout_s=0.5) as (client, _, log),
    ):
        error = await refused(client.pay("session_1", card()))
        sent = gateway.sent
    event = only(log)
    assert (event["event"], event["status"]) == ("gateway.call", status)
    assert event["outcome"] == type(error).__name__
    assert event["request_id"] in {sent.headers["x-request-id"], "theirs"}
    assert getattr(error, "was_sent", True)


@pytest.mark.parametrize("error", [httpx.ReadError, httpx.WriteError, RuntimeError, TimeoutError])
async def test_a_failure_that_proves_nothing_counts_as_sent(error: type[Exception]) -> None:
    """Only what is sure not to have left this process is told so."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise error("broken")

    log = KeptLog()
    client = GatewayClient(
        httpx.MockTransport(fail),
        client_id="TEST_ID",
        client_secret="a-secret-of-the-tests",
        environment="http://127.0.0.1:9",
        log=log,
    )
    await refused(client.pay("session_1", card()))
    assert only(log)["event"] == "gateway.call"


# steps that a payment's own rules keep here


class LateStore(MemoryStore):
    """A store after whose commit the process is stopped for so long."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.pause_s = 0.0

    async def commit(self, commit: Commit) -> Committed:
        """Commit, and let time pass."""
        done = await super().commit(commit)
        pause_s, self.pause_s = self.pause_s, 0.0
        clock = self.clock
        assert isinstance(clock, FakeClock)
        clock.advance(pause_s)
        return done


async def events_of(shop: Shop, step: Awaitable[object]) -> tuple[set[str], CfflowError]:
    """Take a step that is refused; return the names of the events that it wrote."""
    shop.events.kept.clear()
    error = await refused(step)
    return {name for name, _ in shop.events.kept}, error


async def test_a_step_behind_a_closed_gate_is_no_gateway_call() -> None:
    """A person has stopped it before anything was sent, and it is not logged as a call."""
    async with open_shop() as shop:
        order_id, session = await shop.order()
        payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
        await shop.cashier.pause("pay", actor="asha", note="incident 4711")
        received = shop.received("pay")
        names, error = await events_of(shop, shop.cashier.pay(payment, session, card()))
        assert isinstance(error, Paused)
        assert not {name for name in names if name.startswith("gateway.")}
        assert shop.received("pay") == received


async def test_a_step_that_is_not_permitted_is_no_gateway_call() -> None:
    """Nothing is sent for it, so nothing is logged as sent."""
    async with open_shop() as shop:
        payment, session = await shop.at_otp()
        names, error = await events_of(shop, shop.cashier.pay(payment, session, card()))
        assert isinstance(error, IllegalStep)
        assert names == set()


async def test_a_step_that_comes_too_late_to_be_sent_has_its_own_event() -> None:
    """The process stood still between the commit and the call."""
    clock = FakeClock()
    store = LateStore(clock)
    async with open_shop(store=store, clock=clock) as shop:
        order_id, session = await shop.order()
        payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
        store.pause_s = 5.0
        names, error = await events_of(shop, shop.cashier.pay(payment, session, card()))
        assert isinstance(error, cfflow.GatewayUnavailable)
        assert not error.was_sent
        assert names == {"payment.not_sent"}
        assert shop.events.named("payment.not_sent") == [
            {"payment_id": payment.id, "step": "pay", "reason": "paused"}
        ]
        assert shop.received("pay") == 0
