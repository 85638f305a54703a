"""What happens to the money when a call goes wrong (design.md#a-step), crash by crash."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

import cfflow
from cfflow import (
    AskOtp,
    Conflict,
    GatewayAuthError,
    GatewayRejected,
    GatewayUnavailable,
    IllegalStep,
    InvalidAmount,
    OtpLimit,
    OutcomeUnknown,
    RateLimited,
    State,
    StoreUnavailable,
)
from cfflow.core.schedule import PAY_MARGIN_MS
from cfflow.store.protocol import Commit, Committed
from cfflow.testing import FakeClock, MemoryStore
from tests.engine.shop import OTP, Shop, card, open_shop, until
from tests.errors_kit import payment_in

LOST = ["lost_after", "status_after", "html", "garbage"]
NEVER_DONE = ["lost_before", "status_before"]


@pytest.mark.parametrize("kind", LOST)
async def test_a_capture_whose_answer_is_lost_is_found_and_not_repeated(
    shop: Shop, kind: str
) -> None:
    """The bank captured, the answer is lost: unknown at first, then captured by one inquiry."""
    held = await shop.held()
    shop.fault("authorize", kind)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.cashier.capture(held)
    assert unknown.value.money_may_have_moved
    left = payment_in(unknown.value)
    assert left.operation is not None and left.operation.step == "capture"
    found = await shop.cashier.refresh(held)
    assert (found.state, found.operation) == (State.CAPTURED, None)
    assert shop.effects(found.order_id).count("captured") == 1


@pytest.mark.parametrize("kind", NEVER_DONE)
async def test_a_capture_that_never_arrived_is_sent_again_under_its_key(
    shop: Shop, kind: str
) -> None:
    """Called again: an inquiry first, then the same key and body, and one effect."""
    held = await shop.held()
    shop.fault("authorize", kind)
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(held, "100")
    still = await shop.cashier.refresh(held)
    assert still.state is State.AUTHORIZED
    assert still.operation is not None
    captured = await shop.cashier.capture(still, "100")
    assert captured.captured_amount == Decimal("100.00")
    assert shop.effects(captured.order_id).count("captured") == 1
    sequences = [e.what for e in await shop.cashier.history(captured) if e.kind == "operation"]
    assert sequences[-1] == still.operation.step + f" #{still.operation.sequence}"


async def test_another_step_waits_until_an_open_one_is_decided(shop: Shop) -> None:
    """A void behind a capture of unknown outcome is not sent: both could be executed."""
    held = await shop.held()
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(held)
    sent = shop.performed("authorize")
    with pytest.raises(OutcomeUnknown, match="capture"):
        await shop.cashier.void(held.id)
    assert shop.performed("authorize") == sent


async def test_a_lost_pay_is_found_by_what_was_frozen(shop: Shop) -> None:
    """The payment takes the attempt; its OTP page is inferred, without the bank's address."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170")
    shop.fault("pay", "lost_after")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    found = await shop.cashier.refresh(payment)
    assert found.state is State.OTP_PENDING
    assert found.next_action == AskOtp(redirect_to_bank=None)
    with pytest.raises(IllegalStep):
        await shop.cashier.leave_otp(found)
    assert (await shop.cashier.submit_otp(found, OTP)).state is State.CAPTURED
    assert shop.performed("pay") == 1


async def test_a_pay_that_never_arrived_takes_two_inquiries_a_margin_apart(shop: Shop) -> None:
    """One "no attempt" proves nothing: the request may still be on its way."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170")
    shop.fault("pay", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    assert (await shop.cashier.refresh(payment)).operation is not None
    shop.pass_time(10)
    first = await shop.cashier.refresh(payment)
    assert first.operation is not None
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(first, session, card())
    assert shop.performed("pay") == 0
    shop.pass_time(PAY_MARGIN_MS / 1000)
    free = await shop.cashier.refresh(first)
    assert (free.state, free.operation) == (State.CREATED, None)
    again = await shop.cashier.pay(free, session, card())
    assert again.state is State.OTP_PENDING


async def test_a_lost_otp_answer_is_asked_for(shop: Shop) -> None:
    """The bank took the OTP and the money: the inquiry shows it."""
    payment, _ = await shop.at_otp()
    shop.fault("authenticate", "lost_after")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.submit_otp(payment, OTP)
    assert (await shop.cashier.refresh(payment)).state is State.CAPTURED
    assert shop.performed("authenticate") == 1


async def test_a_lost_otp_that_changed_nothing_counts_as_a_try(shop: Shop) -> None:
    """It is unknown whether the bank counted the try, so cfflow counts it."""
    payment, _ = await shop.at_otp()
    shop.fault("authenticate", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.submit_otp(payment, OTP)
    again = await shop.cashier.refresh(payment)
    assert again.otp is not None
    assert (again.operation, again.otp.submits_left) == (None, 2)
    assert (await shop.cashier.submit_otp(again, OTP)).state is State.CAPTURED


async def test_the_money_is_not_lost_when_only_the_fetch_after_the_otp_fails(shop: Shop) -> None:
    """The OTP was accepted; until the money is seen the customer has nothing to type."""
    payment, _ = await shop.at_otp()
    shop.fault("fetch_payment", "lost_before")
    accepted = await shop.cashier.submit_otp(payment, OTP)
    assert (accepted.state, accepted.next_action, accepted.otp) == (State.OTP_PENDING, None, None)
    with pytest.raises(IllegalStep):
        await shop.cashier.submit_otp(accepted, OTP)
    assert (await shop.cashier.refresh(accepted)).state is State.CAPTURED


async def test_a_step_on_its_way_is_left_alone(shop: Shop) -> None:
    """Within its time limit an open operation gets no inquiry and no second step."""
    held = await shop.held()
    shop.fault("authorize", "delay_before", delay_s=0.4)
    slow = asyncio.create_task(shop.cashier.capture(held))
    await until(lambda: shop.received("authorize"))
    asked = shop.performed("fetch_payment")
    unchanged = await shop.cashier.refresh(held)
    assert unchanged.operation is not None
    with pytest.raises(Conflict):
        await shop.cashier.capture(unchanged)
    assert shop.performed("fetch_payment") == asked
    assert not slow.done(), "the call came back too early for this test"
    assert (await slow).state is State.CAPTURED


async def test_a_gateway_that_hangs_is_given_up_at_the_time_limit(tmp_path: Any) -> None:
    """The flow's timeout_s ends the call; its effect is unknown."""
    flow = tmp_path / "hasty.toml"
    flow.write_text(
        'name = "hasty"\ncapture = "manual"\nmethods = ["card"]\n[pay]\ntimeout_s = 0.3\n'
    )
    async with open_shop(flows=[flow]) as shop:
        held = await shop.held(flow="hasty")
        shop.fault("authorize", "delay_after", delay_s=5)
        began = asyncio.get_running_loop().time()
        with pytest.raises(OutcomeUnknown):
            await shop.cashier.capture(held)
        assert asyncio.get_running_loop().time() - began < 2
        assert (await shop.cashier.refresh(held)).state is State.CAPTURED


async def test_a_cancelled_step_leaves_its_operation_open(shop: Shop) -> None:
    """A client that disconnects is handled like a crash."""
    held = await shop.held()
    shop.fault("authorize", "delay_after", delay_s=5)
    step = asyncio.create_task(shop.cashier.capture(held))
    await until(lambda: shop.performed("authorize"))
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    left = await shop.cashier.get(held)
    assert left.operation is not None
    shop.pass_time(11)
    assert (await shop.cashier.refresh(left)).state is State.CAPTURED


async def test_a_refused_pay_leaves_the_payment_ready(shop: Shop) -> None:
    """The error has the gateway's code and message; no operation stays open."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    with pytest.raises(GatewayRejected) as refused:
        await shop.cashier.pay(payment, session, card("1234567890123456"))
    assert refused.value.code == "card_number_invalid"
    assert "1234567890123456" not in str(refused.value)
    assert (payment_in(refused.value).state, payment_in(refused.value).operation) == (
        State.CREATED,
        None,
    )
    assert (await shop.cashier.pay(payment_in(refused.value), session, card())).cf_payment_id


async def test_a_rate_limit_has_no_effect_and_has_the_time_to_try_again(shop: Shop) -> None:
    """429 comes before the effect: the operation closes, the caller waits."""
    held = await shop.held()
    shop.fault("authorize", "status_before", status=429)
    with pytest.raises(RateLimited) as limited:
        await shop.cashier.capture(held)
    assert limited.value.retry_after_s == 60
    assert limited.value.safe_to_retry
    assert payment_in(limited.value).operation is None
    assert (await shop.cashier.capture(payment_in(limited.value))).state is State.CAPTURED


async def test_wrong_credentials_change_nothing(shop: Shop) -> None:
    """401 is about the configuration: the payment stays as it was."""
    held = await shop.held()
    async with open_shop_on(shop, client_secret="a-wrong-client-secret") as misconfigured:
        with pytest.raises(GatewayAuthError):
            await misconfigured.capture(held)
    assert (await shop.cashier.capture(held.id)).state is State.CAPTURED


async def test_a_gateway_that_is_not_there_was_not_sent_anything(shop: Shop) -> None:
    """Connection refused: the operation closes and the step may be repeated at once."""
    held = await shop.held()
    async with open_shop_on(shop, environment="http://127.0.0.1:9/pg") as misconfigured:
        with pytest.raises(GatewayUnavailable) as absent:
            await misconfigured.capture(held)
    assert not absent.value.money_may_have_moved
    assert payment_in(absent.value).operation is None
    assert (await shop.cashier.capture(payment_in(absent.value))).state is State.CAPTURED


async def test_a_step_that_the_gateway_has_already_processed_is_fetched_first(shop: Shop) -> None:
    """The error is "already processed", with the true state of the payment."""
    payment, _ = await shop.at_otp()
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "SUCCESS")
    with pytest.raises(GatewayRejected) as refused:
        await shop.cashier.submit_otp(payment, OTP)
    assert refused.value.fetch_first
    assert payment_in(refused.value).state is State.CAPTURED


def open_shop_on(shop: Shop, **changes: str) -> cfflow.Orchestrator:
    """Return another orchestrator on the same store, configured otherwise."""
    given = {
        "client_id": shop.emulator.client_id,
        "client_secret": shop.emulator.client_secret,
        "environment": shop.emulator.base_url,
    } | changes
    return cfflow.connect(store=shop.store, log=shop.events, **given)  # type: ignore[arg-type]  # settings are text


class PausedStore(MemoryStore):
    """A store whose process sleeps after each commit while the clock runs on."""

    pause_s = 0.0

    async def commit(self, commit: Commit) -> Committed:
        """Commit, then let time pass."""
        committed = await super().commit(commit)
        if self.clock is not None:
            self.clock.advance(self.pause_s)
        return committed


async def test_a_process_that_was_paused_does_not_send() -> None:
    """More than two seconds after its commit, another process may have given the step up."""
    clock = FakeClock()
    store = PausedStore(clock)
    async with open_shop(store=store, clock=clock) as shop:
        held = await shop.held()
        store.pause_s = 3
        with pytest.raises(GatewayUnavailable, match="not sent"):
            await shop.cashier.capture(held)
        store.pause_s = 0
        assert shop.performed("authorize") == 0
        assert (await shop.cashier.get(held)).operation is None


class DyingStore(MemoryStore):
    """A store that fails before the n-th commit from now."""

    dies_in = 0

    async def commit(self, commit: Commit) -> Committed:
        """Commit, or fail."""
        if self.dies_in:
            self.dies_in -= 1
            if not self.dies_in:
                raise StoreUnavailable("the store is down")
        return await super().commit(commit)


async def test_a_store_that_fails_before_the_step_stops_it() -> None:
    """A step that is not stored is not sent."""
    clock = FakeClock()
    store = DyingStore(clock)
    async with open_shop(store=store, clock=clock) as shop:
        held = await shop.held()
        store.dies_in = 1
        with pytest.raises(StoreUnavailable) as down:
            await shop.cashier.capture(held)
        assert not down.value.money_may_have_moved
        assert shop.performed("authorize") == 0


async def test_a_store_that_fails_after_the_call_leaves_the_operation_open() -> None:
    """The money moved and could not be stored: the error reports it, an inquiry finds it."""
    clock = FakeClock()
    store = DyingStore(clock)
    async with open_shop(store=store, clock=clock) as shop:
        held = await shop.held()
        store.dies_in = 2
        with pytest.raises(StoreUnavailable) as down:
            await shop.cashier.capture(held)
        assert down.value.money_may_have_moved
        shop.pass_time(11)
        assert (await shop.cashier.refresh(held)).state is State.CAPTURED
        assert shop.effects(held.order_id).count("captured") == 1


async def test_the_fourth_otp_is_not_sent(shop: Shop) -> None:
    """Past the limit the customer's turn is over; only an inquiry ends the attempt."""
    payment, _ = await shop.at_otp()
    for _ in range(3):
        payment = await shop.cashier.submit_otp(payment, "999999")
    assert payment.state is State.FAILED
    with pytest.raises(IllegalStep):
        await shop.cashier.submit_otp(payment, OTP)
    assert shop.performed("authenticate") == 3


async def test_an_expired_otp_page_takes_no_otp(shop: Shop) -> None:
    """The page's five minutes are the flow's own clock; the attempt itself stays open."""
    payment, _ = await shop.at_otp()
    shop.clock.advance(300)
    with pytest.raises(OtpLimit, match="expired"):
        await shop.cashier.submit_otp(payment, OTP)
    assert (await shop.cashier.get(payment)).state is State.OTP_PENDING
    assert shop.performed("authenticate") == 0


async def test_a_resend_too_early_gets_the_time_of_the_next_one(shop: Shop) -> None:
    """Thirty seconds between two sendings, two resends at the most."""
    payment, _ = await shop.at_otp()
    with pytest.raises(OtpLimit) as early:
        await shop.cashier.resend_otp(payment)
    assert payment.otp is not None
    assert early.value.retry_at == payment.otp.resend_at
    for _ in range(2):
        shop.pass_time(30)
        payment = await shop.cashier.resend_otp(payment)
    shop.pass_time(30)
    with pytest.raises(OtpLimit, match="resends"):
        await shop.cashier.resend_otp(payment)


async def test_two_holds_of_one_order_are_not_captured_blindly(shop: Shop) -> None:
    """Capture names the order: with two holds it is unknown which one it takes."""
    first, session = await shop.at_otp(flow="preauth")
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "FAILED")
    failed = await shop.cashier.refresh(first)
    second = await shop.cashier.start("preauth", order_id=first.order_id, amount="170")
    second = await shop.cashier.pay(second, session, card())
    second = await shop.cashier.submit_otp(second, OTP)
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "SUCCESS")
    revived = await shop.cashier.refresh(failed)
    assert revived.state is State.AUTHORIZED
    assert "late_authorization" in revived.review
    assert "two_holds" in revived.review
    with pytest.raises(Conflict) as overtaken:
        await shop.cashier.capture(second)
    assert "two_holds" in payment_in(overtaken.value).review
    for payment in (revived, payment_in(overtaken.value)):
        with pytest.raises(IllegalStep, match=r"waits for|two_holds"):
            await shop.cashier.capture(payment)
    assert shop.performed("authorize") == 0


async def test_an_order_that_closed_unpaid_fails_its_payment(shop: Shop) -> None:
    """created → failed needs the gateway's answer: the order has expired and is unpaid."""
    order_id, _ = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    assert await shop.cashier.refresh(payment) == payment
    shop.pass_time(31 * 86_400)
    assert (await shop.cashier.refresh(payment)).state is State.FAILED


async def test_a_stored_error_does_not_block_a_capture_for_ever(shop: Shop) -> None:
    """The gateway repeats a stored 500 under its key: the next try goes under a new one."""
    held = await shop.held()
    shop.fault("authorize", "status_stored")
    with pytest.raises(OutcomeUnknown) as first:
        await shop.cashier.capture(held)
    assert not first.value.replayed
    with pytest.raises(OutcomeUnknown) as again:
        await shop.cashier.capture(payment_in(first.value))
    assert again.value.replayed
    captured = await shop.cashier.capture(payment_in(again.value))
    assert captured.state is State.CAPTURED
    assert shop.effects(captured.order_id).count("captured") == 1


async def test_a_refused_resend_is_no_proof_about_the_first_call(shop: Shop) -> None:
    """The second call was refused while the first one acted: an inquiry decides."""
    held = await shop.held()
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown) as lost:
        await shop.cashier.capture(held)
    shop.fault("authorize", "status_after", status=400)
    with pytest.raises(GatewayRejected) as refused:
        await shop.cashier.capture(payment_in(lost.value))
    assert payment_in(refused.value).state is State.CAPTURED
    assert shop.effects(held.order_id).count("captured") == 1


async def test_a_resend_that_is_refused_with_the_hold_untouched_closes_the_step(
    shop: Shop,
) -> None:
    """Neither call acted: the operation closes and the caller may decide again."""
    held = await shop.held()
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown) as lost:
        await shop.cashier.capture(held)
    shop.fault("authorize", "status_before", status=400)
    with pytest.raises(GatewayRejected) as early:
        await shop.cashier.capture(payment_in(lost.value))
    assert payment_in(early.value).operation is not None
    shop.pass_time(30)
    shop.fault("authorize", "status_before", status=400)
    with pytest.raises(GatewayRejected) as refused:
        await shop.cashier.capture(payment_in(early.value))
    after = payment_in(refused.value)
    assert (after.state, after.operation) == (State.AUTHORIZED, None)
    assert (await shop.cashier.void(after)).state is State.VOIDED


async def test_only_the_same_capture_can_be_sent_again(shop: Shop) -> None:
    """Another amount under the same key would be another request: refused, nothing is sent."""
    held = await shop.held()
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown) as lost:
        await shop.cashier.capture(held, "100")
    with pytest.raises(InvalidAmount, match="still open"):
        await shop.cashier.capture(payment_in(lost.value), "50")
    with pytest.raises(InvalidAmount, match="leave the argument out"):
        await shop.cashier.capture(payment_in(lost.value), None)  # type: ignore[arg-type]  # the point
    assert shop.effects(held.order_id).count("captured") == 0


async def test_a_resend_goes_under_the_version_that_was_frozen(shop: Shop) -> None:
    """A process with another API version repeats the call as it was, byte for byte."""
    held = await shop.held()
    shop.fault("authorize", "lost_after")
    async with open_shop_on(shop, api_version="2022-09-01") as older:
        with pytest.raises(OutcomeUnknown):
            await older.capture(held, "100")
    opened = await shop.cashier.orders.payment(held.order_id, 1)
    assert opened.record.operation is not None
    assert opened.record.operation.api_version == "2022-09-01"
    assert opened.record.operation.body == b'{"action":"CAPTURE","amount":100.00}'


async def test_a_paused_resend_proves_nothing_about_the_first_call() -> None:
    """It was not sent this time; the first call's effect is still unknown, so no void starts."""
    clock = FakeClock()
    store = PausedStore(clock)
    async with open_shop(store=store, clock=clock) as shop:
        held = await shop.held()
        shop.fault("authorize", "lost_before")
        with pytest.raises(OutcomeUnknown) as lost:
            await shop.cashier.capture(held)
        store.pause_s = 3
        with pytest.raises(GatewayUnavailable, match="not sent"):
            await shop.cashier.capture(payment_in(lost.value))
        store.pause_s = 0
        assert (await shop.cashier.get(held)).operation is not None
        with pytest.raises((OutcomeUnknown, Conflict)):
            await shop.cashier.void(held.id)


async def test_no_step_starts_beside_a_sibling_that_took_money(shop: Shop) -> None:
    """The order is paid by its first attempt: the second attempt's OTP is not sent."""
    first, session = await shop.at_otp()
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "FAILED")
    failed = await shop.cashier.refresh(first)
    second = await shop.cashier.start("native_otp", order_id=first.order_id, amount="170")
    second = await shop.cashier.pay(second, session, card())
    await shop.cashier.gateway.simulate(first.cf_payment_id or "", "SUCCESS")
    assert (await shop.cashier.refresh(failed)).state is State.CAPTURED
    with pytest.raises(IllegalStep, match="holds or took money") as refused:
        await shop.cashier.submit_otp(second, OTP)
    assert payment_in(refused.value).review == ()
    assert shop.performed("authenticate") == 0


async def test_a_capture_that_took_another_attempt_is_reported_at_once(shop: Shop) -> None:
    """The order has a hold that is not ours: the answer names it, and a review opens."""
    payment, session = await shop.at_otp(flow="preauth")
    other = await shop.cashier.gateway.pay(session, card())
    held = await shop.cashier.submit_otp(payment, OTP)
    await shop.cashier.gateway.authenticate(str(other.cf_payment_id), OTP)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.cashier.capture(held)
    assert payment_in(unknown.value).review == ("other_attempt",)
    asked = shop.performed("authorize")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(payment_in(unknown.value))
    assert shop.performed("authorize") == asked


async def test_an_attempt_that_arrives_after_its_pay_was_given_up_calls_a_person(
    shop: Shop,
) -> None:
    """Two pays were requested and both reached the bank: the one that was given up is reported."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id, amount="170")
    shop.fault("pay", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    for seconds in (10, 15):
        shop.pass_time(seconds)
        payment = await shop.cashier.refresh(payment)
    assert payment.operation is None
    second = await shop.cashier.pay(payment, session, card())
    late = await shop.cashier.gateway.pay(session, card())
    paid = await shop.cashier.submit_otp(second, OTP)
    assert paid.state is State.CAPTURED
    seen = await shop.cashier.refresh(paid)
    assert seen.review == ("unclaimed_money",)
    assert str(late.cf_payment_id) in str(await shop.cashier.why(seen))


async def test_why_names_the_way_out_of_a_capture_that_did_not_arrive(shop: Shop) -> None:
    """The open step shows its amount, and `why` explains that the same call repeats it."""
    held = await shop.held()
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(held, "42.50")
    asked = await shop.cashier.refresh(held)
    assert asked.operation is not None
    assert asked.operation.amount == Decimal("42.50")
    why = await shop.cashier.why(asked)
    assert "capture" in why.allowed
    assert "of 42.50" in str(why)
    assert (await shop.cashier.capture(asked)).captured_amount == Decimal("42.50")
