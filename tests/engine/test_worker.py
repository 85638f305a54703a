"""The worker: it asks about what is due, ends holds by the flow, and drops no payment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import cfflow
from cfflow import Payment, State, Worker
from cfflow.emulator import Fault
from tests.engine.shop import OTP, Shop, open_shop, rewritten, until

DAY_S = 86_400

KEEP = """\
name = "{name}"
capture = "manual"
methods = ["card"]

[hold]
expires_after_s = 3600
act_before_expiry_s = 600
on_expiry = "{on_expiry}"

[end]
abandoned_hold = "{abandoned}"
"""


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    """A folder with one flow for each way in which a hold can end."""
    for on_expiry, abandoned in (("void", "void"), ("capture", "review"), ("review", "review")):
        text = KEEP.format(name=f"ends_{on_expiry}", on_expiry=on_expiry, abandoned=abandoned)
        (tmp_path / f"{on_expiry}.toml").write_text(text)
    return tmp_path


@pytest.fixture
async def shop(flows: Path) -> AsyncIterator[Shop]:
    """A merchant with flows whose holds last an hour."""
    async with open_shop(flows=[flows]) as opened:
        yield opened


async def held(shop: Shop, flow: str) -> Payment:
    """Return a payment of this flow whose money the bank holds."""
    order_id, session = await shop.order(hold=True)
    payment = await shop.cashier.start(flow, order_id=order_id)
    payment = await shop.cashier.pay(payment, session, _card())
    return await shop.cashier.submit_otp(payment, OTP)


def _card() -> cfflow.Card:
    return cfflow.Card(
        card_number="4111111111111111", card_expiry_mm="12", card_expiry_yy="31", card_cvv="123"
    )


async def lost(shop: Shop, payment: Payment, kind: str) -> None:
    """Capture a hold and lose the answer."""
    shop.fault("authorize", kind)
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.capture(payment)


async def everything_purged(shop: Shop) -> bool:
    """Return whether no payment is left in the store."""
    return not await shop.cashier.find(limit=1)


# what it does alone


@pytest.mark.parametrize("kind", ["lost_after", "lost_before", "status_before"])
async def test_a_capture_of_unknown_outcome_ends_captured_once(shop: Shop, kind: str) -> None:
    """Whether or not the bank had acted: one capture in its ledger, and no review."""
    payment = await shop.held()
    await lost(shop, payment, kind)
    worker = Worker(shop.cashier)
    for _ in range(3):
        shop.pass_time(15)
        await worker.run_once()
    now = await shop.cashier.get(payment)
    assert (now.state, now.operation, now.review) == (State.CAPTURED, None, ())
    assert shop.effects(payment.order_id).count("captured") == 1


async def test_a_capture_that_reached_the_bank_is_not_sent_again(shop: Shop) -> None:
    """The inquiry finds it: the bank carried out one authorize call in all."""
    payment = await shop.held()
    await lost(shop, payment, "lost_after")
    shop.pass_time(15)
    await Worker(shop.cashier).run_once()
    assert shop.performed("authorize") == 1


async def test_a_lost_pay_is_found_by_the_worker(shop: Shop) -> None:
    """The customer is asked for the OTP although the answer to pay is lost."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170.00")
    shop.fault("pay", "lost_after")
    with pytest.raises(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, _card())
    shop.pass_time(12)
    await Worker(shop.cashier).run_once()
    assert (await shop.cashier.get(payment)).state is State.OTP_PENDING
    assert shop.performed("pay") == 1


async def test_an_otp_page_that_ran_out_ends_the_customers_turn(shop: Shop) -> None:
    """The attempt stays open and gets inquiries; only the next action ends."""
    payment, _ = await shop.at_otp()
    shop.pass_time(301)
    await Worker(shop.cashier).run_once()
    now = await shop.cashier.get(payment)
    assert (now.state, now.next_action) == (State.OTP_PENDING, None)
    snapshot = await shop.cashier.orders.payment(payment.order_id, 1)
    assert snapshot.next_action is None
    assert snapshot.record.wake_at_ms is not None


@pytest.mark.parametrize(
    ("flow", "state", "effect"),
    [("ends_void", State.VOIDED, "voided"), ("ends_capture", State.CAPTURED, "captured")],
)
async def test_a_hold_ends_before_it_lapses_by_its_flow(
    shop: Shop, flow: str, state: State, effect: str
) -> None:
    """Not a second too early, and without a call of the merchant."""
    payment = await held(shop, flow)
    worker = Worker(shop.cashier)
    shop.pass_time(3600 - 600 - 1)
    await worker.run_once()
    assert (await shop.cashier.get(payment)).state is State.AUTHORIZED
    shop.pass_time(2)
    await worker.run_once()
    assert (await shop.cashier.get(payment)).state is state
    assert shop.effects(payment.order_id)[-1] == effect


async def test_a_hold_whose_flow_wants_a_person_is_reviewed_in_time(shop: Shop) -> None:
    """The money stays held, one review opens, and the inquiries go on."""
    payment = await held(shop, "ends_review")
    worker = Worker(shop.cashier)
    for _ in range(4):
        shop.pass_time(3000 if _ == 0 else 20)
        await worker.run_once()
    now = await shop.cashier.get(payment)
    assert (now.state, now.review) == (State.AUTHORIZED, ("hold_ends_soon",))
    assert "voided" not in shop.effects(payment.order_id)


async def test_a_refused_end_of_a_hold_calls_a_person_and_is_not_tried_for_ever(shop: Shop) -> None:
    """One refused void, one review; until a person acknowledges it no other void is sent."""
    payment = await held(shop, "ends_void")
    shop.emulator.faults.add(Fault(call="authorize", kind="status_before", status=400))
    worker = Worker(shop.cashier)
    for _ in range(5):
        shop.pass_time(3000 if _ == 0 else 30)
        await worker.run_once()
    now = await shop.cashier.get(payment)
    assert (now.state, now.review) == (State.AUTHORIZED, ("step_refused",))
    await shop.cashier.acknowledge(payment, "step_refused", actor="asha", note="try again")
    shop.pass_time(300)
    await worker.run_once()
    assert (await shop.cashier.get(payment)).state is State.VOIDED


@pytest.mark.parametrize(
    ("flow", "state", "reviews"),
    [("ends_void", State.VOIDED, ()), ("ends_capture", State.AUTHORIZED, ("hold_ends_soon",))],
)
async def test_an_abandoned_hold_ends_by_its_flow(
    shop: Shop, flow: str, state: State, reviews: Sequence[str]
) -> None:
    """Voided at the schedule's first moment, or reviewed; never captured."""
    payment = await held(shop, flow)
    await shop.cashier.abandon(payment)
    shop.pass_time(6)
    await Worker(shop.cashier).run_once()
    now = await shop.cashier.get(payment)
    assert (now.state, now.review) == (state, reviews)


# what fails


async def test_a_gateway_that_is_down_loses_nothing_and_makes_no_hot_loop(shop: Shop) -> None:
    """Each try is put back with a growing pause; once the gateway answers, the state is true."""
    payment = await shop.held()
    await lost(shop, payment, "lost_after")
    shop.fault("fetch_payments", "lost_before", count=4)
    worker = Worker(shop.cashier)
    shop.pass_time(15)
    reports = [await worker.run_once() for _ in range(5)]
    assert reports[-1].leased == 1
    tried = 0
    while (await shop.cashier.get(payment)).state is not State.CAPTURED:
        shop.pass_time(1)
        await worker.run_once()
        tried += 1
        assert tried < 120
    assert tried > 4
    assert len(shop.events.named("worker.failed")) == 4


async def test_one_payment_that_cannot_be_processed_does_not_block_others(shop: Shop) -> None:
    """Its flow is missing; it is logged with a reason and put back; the other one is handled."""
    broken, fine = await shop.held(), await shop.held()
    for payment in (broken, fine):
        await lost(shop, payment, "lost_after")
    spoilt = await shop.cashier.orders.payment(broken.order_id, 1)
    await rewritten(shop.cashier.orders, spoilt, digest="000000000000")
    shop.pass_time(15)
    worker = Worker(shop.cashier)
    report = await worker.run_once()
    assert (report.leased, report.errors) == (2, 1)
    assert (await shop.cashier.get(fine)).state is State.CAPTURED
    (logged,) = shop.events.named("worker.failed")
    assert logged["payment_id"] == broken.id
    assert "flow" in logged["reason"]
    assert (await worker.run_once()).leased == 2


async def test_a_gateway_that_owes_an_answer_for_too_long_is_reviewed_even_while_down(
    shop: Shop,
) -> None:
    """The flow's limit does not wait until the gateway is back."""
    payment = await shop.held()
    await lost(shop, payment, "lost_after")
    shop.fault("fetch_payments", "lost_before", count=10_000)
    worker = Worker(shop.cashier)
    shop.pass_time(DAY_S + 60)
    await worker.run_once()
    assert "no_answer" in (await shop.cashier.get(payment)).review


async def test_a_failed_payment_is_watched_for_late_money_and_then_left_alone(shop: Shop) -> None:
    """SUCCESS after FAILED revives it with a review; one that stays failed ends its watch."""
    late, never = [(await shop.at_otp())[0] for _ in range(2)]
    for payment in (late, never):
        await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
        await shop.cashier.refresh(payment)
    await shop.cashier.gateway.simulate(late.cf_payment_id or "", "SUCCESS")
    worker = Worker(shop.cashier)
    for _ in range(90):
        shop.pass_time(3600)
        await worker.run_once()
    now = await shop.cashier.get(late)
    assert (now.state, now.review) == (State.CAPTURED, ("late_authorization",))
    snapshot = await shop.cashier.orders.payment(never.order_id, 1)
    assert (snapshot.record.state, snapshot.record.wake_at_ms) == (State.FAILED, None)


async def test_two_payments_of_one_order_that_took_money_are_both_reviewed(shop: Shop) -> None:
    """Each review names both attempts; the first one is woken although it was final."""
    order_id, session = await shop.order()
    first = await shop.cashier.pay(
        await shop.cashier.start("native_otp", order_id=order_id), session, _card()
    )
    first = await shop.cashier.abandon(first)
    second = await shop.cashier.pay(
        await shop.cashier.start("native_otp", order_id=order_id), session, _card()
    )
    for payment in (second, first):
        await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
        await shop.cashier.refresh(payment)
    await Worker(shop.cashier).run_once()
    for payment in (first, second):
        now = await shop.cashier.get(payment)
        assert now.state is State.CAPTURED
        assert "two_holds" in now.review
        text = str(await shop.cashier.why(payment))
        assert (first.cf_payment_id or "?") in text
        assert (second.cf_payment_id or "?") in text


# many workers, and the end of one


async def test_many_workers_share_what_is_due(shop: Shop) -> None:
    """Each payment gets one inquiry, whichever worker leases it."""
    payments = [await shop.held() for _ in range(12)]
    for payment in payments:
        await lost(shop, payment, "lost_after")
    shop.pass_time(15)
    asked = shop.performed("fetch_payments")
    workers = [Worker(shop.cashier, concurrency=3) for _ in range(6)]
    await asyncio.gather(*(worker.run_once() for worker in workers))
    assert shop.performed("fetch_payments") - asked == 12
    for payment in payments:
        assert (await shop.cashier.get(payment)).state is State.CAPTURED


async def test_a_worker_that_is_stopped_finishes_its_inquiry(shop: Shop) -> None:
    """SIGTERM: no new lease, the slow inquiry ends, and its answer is committed."""
    payment = await shop.held()
    await lost(shop, payment, "lost_after")
    shop.pass_time(15)
    shop.fault("fetch_payments", "delay_after", delay_s=0.5)
    asked = shop.performed("fetch_payments")
    running = asyncio.create_task(Worker(shop.cashier, idle_s=0.01).run())
    await until(lambda: shop.performed("fetch_payments") > asked)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        report = await running
    assert (report.leased, report.progressed) == (1, 1)
    assert (await shop.cashier.get(payment)).state is State.CAPTURED


async def test_an_idle_worker_sees_what_falls_due_with_its_next_lease(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leases once per `idle_s`, so it neither spins nor needs a call to wake it up."""
    leases = shop.counted_leases(monkeypatch)
    worker, idle_s = Worker(shop.cashier, idle_s=0.1), 0.1
    began_s = asyncio.get_running_loop().time()
    running = asyncio.create_task(worker.run(signals=False))
    payment = await shop.held()
    await lost(shop, payment, "lost_after")
    await until(lambda: len(leases) >= 3)
    idle = len(leases)
    assert idle <= 1 + (asyncio.get_running_loop().time() - began_s) / idle_s
    shop.pass_time(15)
    await until(lambda: shop.captured(payment))
    # The first may have been under way when the payment fell due.
    assert 1 in leases[idle : idle + 2]
    worker.stop()
    await running


async def test_a_store_that_is_down_stops_no_worker(shop: Shop) -> None:
    """It logs the failure, waits, and goes on when the store is back."""
    payment = await shop.held()
    await lost(shop, payment, "lost_after")
    shop.pass_time(15)
    lease, failing = shop.store.lease, 3

    async def broken(limit: int, lease_ms: int) -> Any:
        nonlocal failing
        failing -= 1
        if failing >= 0:
            raise cfflow.StoreUnavailable("Redis at somewhere cannot be reached")
        return await lease(limit, lease_ms)

    shop.store.lease = broken  # type: ignore[method-assign]  # a store that comes back
    worker = Worker(shop.cashier, idle_s=0.05)
    running = asyncio.create_task(worker.run(signals=False))
    await until(lambda: shop.captured(payment))
    worker.stop()
    report = await running
    assert (report.errors, report.progressed) == (3, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"lease_s": 0.5}, {"lease_s": 86_401}, {"idle_s": 0}, {"idle_s": 2}],
)
async def test_settings_that_make_no_sense_are_refused(shop: Shop, wrong: dict[str, Any]) -> None:
    """At once, and as an error of the package."""
    with pytest.raises(cfflow.ConfigError):
        Worker(shop.cashier, **wrong)


async def test_a_payment_of_an_order_that_the_gateway_does_not_know_ends(shop: Shop) -> None:
    """Started before its order existed, or under other credentials: the inquiries end."""
    payment = await shop.cashier.start("native_otp", order_id="never_was")
    worker = Worker(shop.cashier)
    shop.pass_time(3600)
    await worker.run_once()
    assert (await shop.cashier.get(payment)).state is State.CREATED
    shop.pass_time(DAY_S)
    await worker.run_once()
    assert (await shop.cashier.get(payment)).state is State.FAILED


async def test_what_ended_long_ago_is_purged_while_the_worker_runs(shop: Shop) -> None:
    """Page after page, however many there are."""
    for _ in range(3):
        payment, _session = await shop.at_otp()
        await shop.cashier.submit_otp(payment, OTP)
    shop.pass_time(91 * DAY_S)
    worker = Worker(shop.cashier)
    running = asyncio.create_task(worker.run(signals=False))
    await until(lambda: everything_purged(shop))
    worker.stop()
    assert (await running).purged == 3
    with pytest.raises(cfflow.AlreadyPaid):
        await shop.cashier.start("native_otp", order_id=payment.order_id)


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_hold_whose_end_is_answered_without_effect_is_tried_ever_more_rarely(
    shop: Shop, status: int
) -> None:
    """Wrong credentials or a rate limit: some tries in half an hour, not hundreds."""
    await held(shop, "ends_void")
    fault = Fault(call="authorize", kind="status_before", status=status, count=10_000)
    shop.emulator.faults.add(fault)
    worker = Worker(shop.cashier)
    shop.pass_time(3000)
    before = shop.emulator.app.state.received["authorize"]
    for _ in range(90):
        shop.pass_time(10)
        await worker.run_once()
    assert 1 <= shop.emulator.app.state.received["authorize"] - before <= 40


async def test_a_failed_payment_that_cannot_be_asked_about_ends_with_its_watch(shop: Shop) -> None:
    """The gateway has lost the order: its late watch still ends."""
    payment, _ = await shop.at_otp()
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
    await shop.cashier.refresh(payment)
    fault = Fault(call="fetch_payment", kind="status_before", status=404, count=10_000)
    shop.emulator.faults.add(fault)
    worker = Worker(shop.cashier)
    for _ in range(5):
        shop.pass_time(DAY_S)
        await worker.run_once()
    snapshot = await shop.cashier.orders.payment(payment.order_id, 1)
    assert snapshot.record.wake_at_ms is None
