"""What stops steps on a real server: a gate that a person closed, and a store that was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cfflow import IllegalStep, OutcomeUnknown, Payment, State, Worker
from cfflow.errors import Paused, StoreReplaced
from cfflow.store.control import Decision, decision_text
from tests.engine.shop import OTP, Shop, card, until
from tests.engine.signing import event, signed
from tests.ports.orders_kit import begin
from tests.ports.servers import Monitor, Server
from tests.ports.shop_kit import (
    VERIFIED_AFTER_S,
    open_timed_shop,
    pass_time,
    redis_of,
    refused_as_too_early,
)

ALICE = {"actor": "alice", "note": "gateway incident"}

#: A flow whose holds end by themselves after two hours, and whose calls take one second at most.
HASTY = """
name = "hasty"
capture = "manual"
methods = ["card"]
[pay]
timeout_s = 1
[hold]
expires_after_s = 7200
act_before_expiry_s = 3600
on_expiry = "capture"
"""


@pytest.fixture
async def shop(valkey_server: Server, redis_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop whose payments live on an empty server."""
    flow = tmp_path / "hasty.toml"
    flow.write_text(HASTY)
    async with open_timed_shop(redis_url, flows=[flow]) as opened:
        yield opened


async def refused_as_paused(step: Awaitable[object], gate: str) -> None:
    """Make a step that a gate stops; the error has the gate, and who closed it and why."""
    with pytest.raises(Paused) as paused:
        await step
    found = {"actor": paused.value.actor, "note": paused.value.note}
    assert (paused.value.gate, found) == (gate, ALICE)
    assert (paused.value.safe_to_retry, paused.value.money_may_have_moved) == (True, False)


# gates


async def test_a_closed_pay_gate_stops_pays(shop: Shop) -> None:
    """Nothing is sent and nothing is stored of the step; opened, the same call goes on."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    assert (await shop.cashier.pause("pay", **ALICE)).paused.keys() == {"pay"}
    await refused_as_paused(shop.cashier.pay(payment, session, card()), "pay")
    await refused_as_paused(shop.cashier.pay(payment.id, session, card()), "pay")
    assert shop.received("pay") == 0
    assert await shop.cashier.get(payment) == payment
    assert (await shop.cashier.resume("pay", **ALICE)).paused == {}
    paying = await shop.cashier.pay(payment, session, card())
    assert (paying.state, shop.received("pay")) == (State.OTP_PENDING, 1)


async def test_a_closed_gate_stops_every_process_at_once(shop: Shop, redis_url: str) -> None:
    """It is in the store: a process that was started before and one that is started later."""
    async with open_timed_shop(redis_url) as before:
        await shop.cashier.pause("pay", **ALICE)
        async with open_timed_shop(redis_url) as after:
            for i, other in enumerate((before, after)):
                payment = await other.cashier.start("native_otp", order_id=f"order_of_{i}")
                await refused_as_paused(other.cashier.pay(payment, "session_1", card()), "pay")
                assert other.received("pay") == 0


async def test_a_closed_gate_costs_no_round_trip(shop: Shop, valkey_server: Server) -> None:
    """The commit that opens the step is refused itself."""
    payment = await shop.cashier.start("native_otp", order_id="order_1")
    await shop.cashier.pause("pay", **ALICE)
    monitor = Monitor(valkey_server)
    await refused_as_paused(shop.cashier.pay(payment, "session_1", card()), "pay")
    assert monitor.seen() == ["evalsha"]
    monitor.close()


async def test_the_pay_gate_stops_nothing_else(shop: Shop) -> None:
    """Who has begun may end: starts, OTPs, captures and voids go on."""
    paying, _ = await shop.at_otp()
    first, second = await shop.held(flow="hasty"), await shop.held(flow="hasty")
    await shop.cashier.pause("pay", **ALICE)
    assert (await shop.cashier.submit_otp(paying, OTP)).state is State.CAPTURED
    assert (await shop.cashier.capture(first)).state is State.CAPTURED
    assert (await shop.cashier.void(second)).state is State.VOIDED
    assert (await shop.cashier.start("native_otp", order_id="order_more")).version == 1


async def test_a_closed_auto_gate_stops_a_workers_own_voids(
    shop: Shop, valkey_server: Server
) -> None:
    """An abandoned hold waits; opened, the worker releases it."""
    held = await shop.held(flow="hasty")
    await shop.cashier.abandon(held)
    worker = Worker(shop.cashier)
    await shop.cashier.pause("auto", **ALICE)
    await until(lambda: looked_at(worker, shop, valkey_server))
    assert shop.received("authorize") == 0
    stopped = shop.events.named("worker.failed")
    assert {(report["payment_id"], report["error"]) for report in stopped} == {(held.id, "Paused")}
    assert ALICE["note"] in stopped[0]["reason"]
    await shop.cashier.resume("auto", **ALICE)
    await until(lambda: ended(worker, shop, valkey_server, held, State.VOIDED))
    assert shop.effects(held.order_id) == ["attempt_created", "authorized", "voided"]


async def test_a_closed_auto_gate_stops_a_workers_own_captures_and_no_persons(
    shop: Shop, valkey_server: Server
) -> None:
    """A hold that lapses soon waits; a caller's own capture goes on."""
    first, second = await shop.held(flow="hasty"), await shop.held(flow="hasty")
    worker = Worker(shop.cashier)
    await shop.cashier.pause("auto", **ALICE)
    await pass_time(shop, valkey_server, 6_000)
    await until(lambda: looked_at(worker, shop, valkey_server, times=2))
    assert shop.received("authorize") == 0
    held = await shop.cashier.get(first)
    assert (held.state, held.operation) == (State.AUTHORIZED, None)
    assert (await shop.cashier.capture(first.id)).state is State.CAPTURED
    await shop.cashier.resume("auto", **ALICE)
    await until(lambda: ended(worker, shop, valkey_server, second, State.CAPTURED))
    assert shop.received("authorize") == 2


async def test_a_closed_resend_gate_stops_resends(shop: Shop, valkey_server: Server) -> None:
    """A worker's and a person's: the lost capture stays open; opened, it is sent again once."""
    held = await shop.held(flow="hasty")
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(held)
    worker = Worker(shop.cashier)
    await shop.cashier.pause("resend", **ALICE)
    await pass_time(shop, valkey_server, 3)
    await until(lambda: looked_at(worker, shop, valkey_server))
    await refused_as_paused(shop.cashier.capture(held.id), "resend")
    assert shop.received("authorize") == 1
    still = await shop.cashier.get(held)
    assert still.operation is not None
    await shop.cashier.resume("resend", **ALICE)
    await until(lambda: ended(worker, shop, valkey_server, held, State.CAPTURED))
    assert shop.received("authorize") == 2
    assert shop.effects(held.order_id).count("captured") == 1


async def test_the_auto_gate_does_not_stop_resends(shop: Shop, valkey_server: Server) -> None:
    """What a person has asked for is sent again by a worker."""
    held = await shop.held(flow="hasty")
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(held)
    await shop.cashier.pause("auto", **ALICE)
    await pass_time(shop, valkey_server, 3)
    worker = Worker(shop.cashier)
    await until(lambda: ended(worker, shop, valkey_server, held, State.CAPTURED))
    assert shop.received("authorize") == 2


async def looked_at(worker: Worker, shop: Shop, server: Server, times: int = 1) -> bool:
    """Let a worker look at what is due; return whether a gate has stopped it so often."""
    await worker.run_once()
    await pass_time(shop, server, 1)
    stopped = [e for e in shop.events.named("worker.failed") if e["error"] == "Paused"]
    return len(stopped) >= times


async def ended(worker: Worker, shop: Shop, server: Server, payment: Payment, state: State) -> bool:
    """Let a worker look at what is due; return whether the payment is in this state."""
    await worker.run_once()
    await pass_time(shop, server, 1)
    return (await shop.cashier.get(payment)).state is state


# a store that was replaced under a running process


async def test_after_flushall_starts_and_steps_are_refused(
    shop: Shop, valkey_server: Server
) -> None:
    """By payment and by id, for orders that were there and new ones; nothing is sent."""
    cashier = shop.cashier
    order_id, session = await shop.order()
    payment = await cashier.start("native_otp", order_id=order_id, amount="170.00")
    (paying, _), held = await shop.at_otp(), await shop.held(flow="hasty")
    calls = ("pay", "authenticate", "authorize")
    sent = [shop.received(call) for call in calls]
    valkey_server.run("FLUSHALL")
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: cashier.start("native_otp", order_id=order_id, amount="170.00"),
        lambda: cashier.start("native_otp", order_id="order_new"),
        lambda: cashier.pay(payment, session, card()),
        lambda: cashier.pay(payment.id, session, card()),
        lambda: cashier.submit_otp(paying, OTP),
        lambda: cashier.submit_otp(paying.id, OTP),
        lambda: cashier.capture(held),
        lambda: cashier.capture(held.id),
        lambda: cashier.void(held),
        lambda: cashier.abandon(payment),
        lambda: cashier.adopt(held.order_id, flow="hasty"),
    ]
    for step in steps:
        with pytest.raises(StoreReplaced, match="lost whose store") as replaced:
            await step()
        assert not replaced.value.safe_to_retry
        assert not replaced.value.money_may_have_moved
    assert [shop.received(call) for call in calls] == sent
    assert not valkey_server.run("KEYS", "*:o:*")


async def test_a_store_that_another_process_began_anew_is_refused_too(
    shop: Shop, valkey_server: Server, redis_url: str
) -> None:
    """It has the same place and another name; what the other process began is not touched."""
    cashier, held = shop.cashier, await shop.held(flow="hasty")
    old = await cashier.start("native_otp", order_id="order_both")
    valkey_server.run("FLUSHALL")
    async with open_timed_shop(redis_url) as anew:
        new = [
            await anew.cashier.start("native_otp", order_id=order_id)
            for order_id in ("order_both", "order_new")
        ]
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: cashier.start("native_otp", order_id="order_new"),
            lambda: cashier.start("native_otp", order_id="order_both"),
            lambda: cashier.start("native_otp", order_id="order_other"),
            lambda: cashier.pay(new[1].id, "session_1", card()),
            lambda: cashier.pay(old, "session_1", card()),
            lambda: cashier.pay(old.id, "session_1", card()),
            lambda: cashier.capture(held),
            lambda: cashier.capture(held.id),
        ]
        for step in steps:
            with pytest.raises(StoreReplaced, match=redis_of(anew).control.store_id):
                await step()
        assert [await anew.cashier.get(payment) for payment in new] == new
    assert (shop.received("pay"), shop.received("authorize")) == (1, 0)


async def test_a_step_that_is_on_its_way_when_the_store_is_flushed_may_have_moved_money(
    shop: Shop, valkey_server: Server
) -> None:
    """Its answer cannot be stored: the caller must not take it for a step that was not sent."""
    held = await shop.held(flow="hasty")
    shop.fault("authorize", "delay_after", delay_s=0.5)
    step = asyncio.create_task(shop.cashier.capture(held))
    await until(lambda: shop.performed("authorize"))
    valkey_server.run("FLUSHALL")
    with pytest.raises(StoreReplaced) as replaced:
        await step
    assert (replaced.value.money_may_have_moved, replaced.value.safe_to_retry) == (True, False)
    assert shop.effects(held.order_id).count("captured") == 1


async def test_after_flushall_workers_and_notifications_do_no_harm(
    shop: Shop, valkey_server: Server
) -> None:
    """A worker finds nothing, and a notification goes to the feed alone."""
    paying, _ = await shop.at_otp()
    valkey_server.run("FLUSHALL")
    report = await Worker(shop.cashier).run_once()
    assert (report.leased, report.due, report.errors) == (0, 0, 0)
    body = event(paying.order_id, paying.cf_payment_id)
    receipt = await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)
    assert (receipt.order_id, receipt.payment_ids) == (paying.order_id, ())
    with pytest.raises(StoreReplaced):
        await begin(shop.cashier.orders)


async def test_an_order_that_was_lost_is_verified_once_a_person_has_accepted_the_store(
    shop: Shop, valkey_server: Server
) -> None:
    """The running process goes on by itself, and an inquiry finds the attempt of a lost pay."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    await shop.cashier.pay(payment, session, card())
    valkey_server.run("FLUSHALL")
    with pytest.raises(StoreReplaced):
        await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    async with open_timed_shop(valkey_server.url) as accepting:
        decision = Decision(what="accept-store", at_ms=accepting.store.now_ms(), **ALICE)
        await redis_of(accepting).control.accept(decision_text(decision))
    again = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    await refused_as_too_early(shop.cashier.pay(again, session, card()))
    await pass_time(shop, valkey_server, VERIFIED_AFTER_S)
    await refused_as_too_early(shop.cashier.pay(again, session, card()))
    with pytest.raises(IllegalStep, match="unclaimed_money"):
        await shop.cashier.pay(again.id, session, card())
    assert shop.received("pay") == 1
