"""The rate budget on real calls: against an emulator that refuses what is over its limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest

import cfflow
from cfflow import ConfigError, Orchestrator, RateLimited
from cfflow.cashfree import facts
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.transport import GatewayTransport
from cfflow.core.observation import Call
from cfflow.emulator import RunningEmulator, running_emulator
from cfflow.errors import GatewayError
from cfflow.limits.budget import Budget, LimitHeaders
from cfflow.limits.transport import BudgetTransport
from cfflow.store.memory.ledger import MemoryLedger
from cfflow.store.protocol import Store
from cfflow.testing import FakeClock, MemoryStore
from tests.engine.shop import CUSTOMER, Events, card
from tests.errors_kit import payment_in
from tests.ports.gateway_kit import Reply, a_gateway, answer

ORDER_ID = "order_8123"
LOCAL = "http://127.0.0.1:8000"


@dataclass
class Till:
    """An orchestrator on a gateway with limits; our clock and the bank's go together."""

    cashier: Orchestrator
    emulator: RunningEmulator
    clock: FakeClock
    events: Events

    async def ask(self) -> bool:
        """Ask for the order, and return whether that was permitted."""
        try:
            await self.cashier.gateway.fetch_order(ORDER_ID)
        except RateLimited:
            return False
        return True

    def pass_time(self, seconds: float) -> None:
        """Move both clocks."""
        self.clock.advance(seconds)
        self.emulator.clock.advance(seconds)

    @property
    def sent(self) -> int:
        """How often the gateway was asked, refused or not."""
        limits = self.emulator.limits
        return self.emulator.bank.calls.get("fetch_order", 0) + limits.refused["fetch_order"]


@asynccontextmanager
async def a_till(
    enforced: Mapping[str, int], limits: Mapping[str, int | None] | None = None
) -> AsyncIterator[Till]:
    """A till whose gateway enforces limits and whose budget has them."""
    clock, events = FakeClock(), Events()
    async with running_emulator(rate_limits=enforced) as emulator:
        cashier = cashier_of(emulator, MemoryStore(clock), events, limits)
        async with cashier:
            await cashier.gateway.create_order("170.00", CUSTOMER, order_id=ORDER_ID)
            yield Till(cashier, emulator, clock, events)


def cashier_of(
    emulator: RunningEmulator,
    store: Store,
    events: Events,
    limits: Mapping[str, int | None] | None = None,
) -> Orchestrator:
    """Return an orchestrator on this gateway and store."""
    return cfflow.connect(
        store=store,
        client_id=emulator.client_id,
        client_secret=emulator.client_secret,
        environment=emulator.base_url,
        limits=limits,
        log=events,
    )


async def work(till: Till, most: int = 50) -> int:
    """Ask as a worker asks, for as long as there are permits; return how often."""
    asked = 0
    with till.cashier.budget.background():
        while room := await till.cashier.budget.room(Call.FETCH_ORDER, most):
            asked += sum(await asyncio.gather(*(till.ask() for _ in range(room))))
    return asked


async def test_a_backlog_is_asked_about_at_the_budget_s_rate_without_one_429() -> None:
    """300 inquiries at 60 a minute, while the checkout makes calls of its own."""
    chance, called, seconds = random.Random(7), 0, 0
    async with a_till({"fetch_order": 60}, {"fetch_order": 60}) as till:
        while called < 300:
            till.pass_time(1)
            seconds += 1
            if chance.random() < 0.2:
                assert await till.ask()
            called += await work(till)
        assert till.emulator.limits.refused.total() == 0
    # Workers get 42 in 65 s at the most, and less for what the checkout takes.
    assert 420 < seconds < 600


async def test_a_limit_that_the_gateway_lowers_is_kept_from_its_first_answer() -> None:
    """We assume 600 a minute, and the gateway enforces 30."""
    async with a_till({"fetch_order": 30}, {"fetch_order": 600}) as till:
        assert await till.ask()
        for _ in range(120):
            await work(till)
            till.pass_time(1)
        assert till.emulator.limits.refused.total() == 0
        assert till.cashier.budget.limits[Call.FETCH_ORDER] == 30


async def test_workers_leave_what_another_system_calls_on_the_same_account() -> None:
    """40 of 60 were called by a system that reports nothing here; the answers show them."""
    async with a_till({"fetch_order": 60}, {"fetch_order": 60}) as till:
        other_system = cashier_of(till.emulator, MemoryStore(FakeClock()), till.events)
        async with other_system:
            for _ in range(40):
                await other_system.gateway.fetch_order(ORDER_ID)
        assert await till.ask()
        for _ in range(50):
            await work(till)
            till.pass_time(1)
        assert till.emulator.limits.refused.total() == 0


async def test_a_429_holds_back_what_follows_and_nothing_is_sent() -> None:
    """The gateway's seconds are passed on; when they are over, calls go out again."""
    async with a_till({"fetch_order": 5}) as till:
        assert [await till.ask() for _ in range(5)] == [True] * 5
        for waited_s in (0, 20):
            till.pass_time(waited_s)
            with pytest.raises(RateLimited) as held:
                await till.cashier.gateway.fetch_order(ORDER_ID)
            assert held.value.retry_after_s == pytest.approx(60 - waited_s, abs=1.5)
            assert held.value.code == "rate_budget"
        assert till.sent == 5
        till.pass_time(41)
        assert await till.ask()


async def test_a_refused_pay_is_rate_limited_and_never_unknown() -> None:
    """Refused there or held back here: the payment is as it was, and can be paid later."""
    async with a_till({"pay": 1}) as till:
        await pay(till, "order_1")
        for order_id in ("order_2", "order_3"):
            with pytest.raises(RateLimited) as refused:
                await pay(till, order_id)
            assert payment_in(refused.value).state == "created"
            assert payment_in(refused.value).operation is None
        till.pass_time(61)
        assert (await pay(till, "order_2")).state == "otp_pending"


async def pay(till: Till, order_id: str) -> cfflow.Payment:
    """Pay an order as far as its OTP."""
    made = await till.cashier.gateway.create_order("170.00", CUSTOMER)
    payment = await till.cashier.start("native_otp", order_id=order_id)
    return await till.cashier.pay(payment, made.payment_session_id, card())


async def test_a_worker_that_forgets_to_ask_sends_nothing() -> None:
    """Without a permit a call in the background is answered here."""
    async with a_till({"fetch_order": 60}, {"fetch_order": 60}) as till:
        with till.cashier.budget.background():
            assert not await till.ask()
        assert till.sent == 0


async def test_callers_are_sent_while_workers_wait() -> None:
    """The checkout has its calls even when the workers' share is used up."""
    async with a_till({"fetch_order": 60}, {"fetch_order": 60}) as till:
        for _ in range(65):
            await work(till)
            till.pass_time(1)
        assert await work(till) < 5
        assert [await till.ask() for _ in range(18)] == [True] * 18


async def test_connect_refuses_limits_that_make_no_sense() -> None:
    """Before anything is opened or sent."""
    given = {"client_id": "id", "client_secret": "a-secret-of-the-tests", "environment": "sandbox"}
    with pytest.raises(ConfigError, match="limits"):
        cfflow.connect(store=MemoryStore(), **given, limits={"refund": 5})  # type: ignore[arg-type]  # settings are text


async def test_connect_gives_a_budget_its_limits() -> None:
    """The environment's, and over them the ones that are given."""
    cashier = cfflow.connect(
        store=MemoryStore(),
        client_id="id",
        client_secret="a-secret-of-the-tests",
        environment="sandbox",
        limits={"fetch_payment": 90},
    )
    assert cashier.budget.limits[Call.FETCH_PAYMENT] == 90
    assert cashier.budget.limits[Call.FETCH_ORDER] == 60


# headers, one by one

WHOLE = {
    "x-ratelimit-limit": "200",
    "x-ratelimit-remaining": "199",
    "x-ratelimit-retry": "0",
    "x-ratelimit-type": "app_id",
}
UPPER = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "49"}


def a_client(inner: httpx.AsyncBaseTransport, budget: Budget, base_url: str) -> GatewayClient:
    """Return a client whose calls the budget sees before `inner` does."""
    return GatewayClient(
        BudgetTransport(inner, budget),
        client_id="TEST_ID",
        client_secret="a-secret-of-the-tests",
        environment=base_url,
    )


async def budget_after(reply: Reply, call: Call = Call.FETCH_ORDER) -> Budget:
    """Make one call that is answered like this, and return what the budget made of it."""
    budget = Budget({call: 100}, MemoryLedger())
    async with a_gateway(reply) as gateway:
        sockets = GatewayTransport(gateway.base_url)
        with suppress(GatewayError):
            async with a_client(sockets, budget, gateway.base_url) as client:
                await client.fetch_order(ORDER_ID)
    return budget


@pytest.mark.parametrize(
    ("headers", "limit"),
    [
        ({}, 100),
        (WHOLE, 100),
        (WHOLE | {"x-ratelimit-limit": "40"}, 40),
        (UPPER, 50),
        (WHOLE | {"x-ratelimit-limit": "0"}, 100),
        (WHOLE | {"x-ratelimit-limit": "-4"}, 100),
        (WHOLE | {"x-ratelimit-limit": "many"}, 100),
        (WHOLE | {"x-ratelimit-limit": "9" * 5000}, 100),
    ],
    ids=["none", "higher", "lower", "other case", "zero", "negative", "word", "endless"],
)
async def test_a_limit_in_the_answer_counts_when_it_is_lower(
    headers: dict[str, str], limit: int
) -> None:
    """Whatever else stands there changes nothing."""
    budget = await budget_after(answer(200, {}, **headers))
    assert budget.limits == {Call.FETCH_ORDER: limit}


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (200, WHOLE, 0),
        (200, WHOLE | {"x-ratelimit-remaining": "0", "x-ratelimit-retry": "7"}, 7),
        (200, {"x-ratelimit-remaining": "0"}, 60),
        (429, WHOLE | {"x-ratelimit-retry": "7"}, 7),
        (429, WHOLE | {"x-ratelimit-retry": "2.5"}, 2.5),
        (429, {"Retry-After": "9"}, 9),
        (429, {"X-RateLimit-Reset": "11"}, 11),
        (429, WHOLE | {"X-RateLimit-Reset": "11", "x-ratelimit-retry": "7"}, 7),
        (429, WHOLE | {"X-RateLimit-Reset": "11", "x-ratelimit-retry": "soon"}, 11),
        (429, {"x-ratelimit-limit": "40", "X-RateLimit-Reset": "11"}, 11),
        (429, {"x-ratelimit-reset": "1790000000", "retry-after": "9"}, 9),
        (429, {"x-ratelimit-reset": "-1"}, 60),
        (200, {"x-ratelimit-remaining": "0", "X-RateLimit-Reset": "11"}, 11),
        (200, {"x-ratelimit-remaining": "5", "x-ratelimit-reset": "11"}, 0),
        (429, {}, 60),
        (429, {"x-ratelimit-retry": "soon"}, 60),
        (429, {"x-ratelimit-retry": "nan"}, 60),
        (429, {"x-ratelimit-retry": "-3"}, 60),
        (429, {"x-ratelimit-retry": "86400"}, 60),
        (503, WHOLE, 0),
    ],
)
async def test_an_answer_has_the_time_in_which_no_call_is_made(
    status: int, headers: dict[str, str], wait_s: float
) -> None:
    """A 429, or nothing remaining: its seconds, or sixty."""
    budget = await budget_after(answer(status, {}, **headers))
    assert budget.wait_s(Call.FETCH_ORDER) == pytest.approx(wait_s, abs=0.5)


CALLS: dict[Call, Callable[[GatewayClient], Awaitable[object]]] = {
    Call.PAY: lambda client: client.pay("session_1", card()),
    Call.AUTHENTICATE: lambda client: client.authenticate("12", "111000"),
    Call.AUTHORIZE: lambda client: client.authorize("order_1", b"{}"),
    Call.FETCH_PAYMENT: lambda client: client.fetch_payment("order_1", "12"),
    Call.FETCH_PAYMENTS: lambda client: client.fetch_payments("order_1"),
    Call.FETCH_ORDER: lambda client: client.fetch_order("order_1"),
    Call.CREATE_ORDER: lambda client: client.create_order(100, CUSTOMER),
    Call.SIMULATE: lambda client: client.simulate("12", "SUCCESS"),
    Call.FETCH_SIMULATION: lambda client: client.fetch_simulation("12"),
}


@pytest.mark.parametrize("call", list(Call))
async def test_each_call_that_has_a_limit_is_held_back_by_its_own(call: Call) -> None:
    """Each class is held back for a time of its own, by which it is known here."""
    limited_calls = [Call(name) for name in facts.RATE_LIMITS["production"]]
    budget = Budget(dict.fromkeys(limited_calls, 100), MemoryLedger())
    waits_s = {limited: 60.0 * minutes for minutes, limited in enumerate(limited_calls, 1)}
    for limited, wait_s in waits_s.items():
        budget.apply_limit_headers(limited, LimitHeaders(wait_s=wait_s, by_address=True))
    sent: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(400)

    inner = httpx.MockTransport(refuse)
    async with a_client(inner, budget, LOCAL) as client:
        with pytest.raises(GatewayError) as caught:
            await CALLS[call](client)
    held_s = caught.value.retry_after_s if isinstance(caught.value, RateLimited) else None
    assert held_s == pytest.approx(waits_s[call], abs=0.5) if call in waits_s else held_s is None
    assert len(sent) == (0 if call in waits_s else 1)
