"""Money that arrives late or twice, or is returned.

gateway.md#late-money
"""

from __future__ import annotations

import pytest

from tests.emulator.emulator_kit import DAY_S, card, upi
from tests.emulator.fidelity.desk import Desk, open_desk, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_order_takes_attempts_until_one_succeeds(desk: Desk) -> None:
    """`failed` is about an attempt, never about the order."""
    order = await desk.order()
    for upi_id in ("testfailure@gocash", "testdropped@gocash", "testsuccess@gocash"):
        assert await desk.status(order) == "ACTIVE"
        await desk.pay(order, upi(upi_id))
    statuses = [payment["payment_status"] for payment in await desk.payments(order)]
    assert statuses == ["FAILED", "USER_DROPPED", "SUCCESS"]
    assert await desk.status(order) == "PAID"


@pytest.mark.parametrize("before", ["PENDING", "FAILED", "USER_DROPPED"])
async def test_a_bank_can_authorize_late(desk: Desk, before: str) -> None:
    """PENDING, and even FAILED, can become SUCCESS."""
    order, cf_payment_id = await desk.attempt(card("link"))
    await desk.simulate(cf_payment_id, before)
    assert (await desk.payment(order))["payment_status"] == before
    await desk.simulate(cf_payment_id, "SUCCESS")
    assert (await desk.payment(order))["payment_status"] == "SUCCESS"
    assert await desk.status(order) == "PAID"


async def test_a_test_id_succeeds_late(desk: Desk) -> None:
    """`testlate@gocash` fails, and succeeds a minute later."""
    order, _ = await desk.attempt(upi("testlate@gocash"))
    before = await desk.payment(order)
    desk.advance(60)
    after = await desk.payment(order)
    assert (before["payment_status"], after["payment_status"]) == ("FAILED", "SUCCESS")
    assert before["error_details"] and after["error_details"] is None
    assert await desk.ledger(order) == ["attempt_created", "failed", "captured"]


async def test_the_delay_of_late_money_is_an_option() -> None:
    """It can be two days."""
    async with open_desk(late_after_s=2 * DAY_S) as desk:
        order, _ = await desk.attempt(upi("testlate@gocash"))
        desk.advance(2 * DAY_S - 5)
        before = (await desk.payment(order))["payment_status"]
        desk.advance(5)
        after = (await desk.payment(order))["payment_status"]
    assert (before, after) == ("FAILED", "SUCCESS")


@pytest.mark.parametrize(
    ("otp", "effects"), [(True, ["cancelled", "reversed"]), (False, ["cancelled"])]
)
async def test_an_attempt_past_the_time_limit_is_cancelled_and_reversed(
    otp: bool, effects: list[str]
) -> None:
    """It stays CANCELLED, and money that the bank takes later is returned."""
    async with open_desk(closes_after_s=900, otp_settles_after_s=1000) as desk:
        order, cf_payment_id = await desk.attempt()
        if otp:
            await desk.submit(cf_payment_id)
        desk.advance(900)
        closed = await desk.payment(order)
        desk.advance(1000)
        later = await desk.payment(order)
        ledger = await desk.ledger(order)
        status = await desk.status(order)
    assert (closed["payment_status"], later["payment_status"]) == ("CANCELLED", "CANCELLED")
    assert ledger == ["attempt_created", *effects]
    assert status == "ACTIVE"


async def test_a_cancelled_payment_stays_cancelled(desk: Desk) -> None:
    """A simulated SUCCESS is reversed once; any other status is refused."""
    order, cf_payment_id = await desk.attempt(card("link"))
    desk.emulator.bank.force(cf_payment_id, "CANCELLED", desk.now)
    for status in ("SUCCESS", "SUCCESS", "FAILED", "PENDING"):
        await desk.simulate(cf_payment_id, status)
    assert (await desk.payment(order))["payment_status"] == "CANCELLED"
    assert await desk.ledger(order) == ["attempt_created", "cancelled", "reversed"]


async def test_an_expired_order_can_become_paid(desk: Desk) -> None:
    """An attempt that began before the expiry may pay it; no new one may start."""
    order, cf_payment_id = await desk.attempt(card("link"))
    desk.advance(31 * DAY_S)
    expired = await desk.status(order)
    refused = await desk.pay(order)
    await desk.simulate(cf_payment_id, "SUCCESS")
    assert (expired, await desk.status(order)) == ("EXPIRED", "PAID")
    assert refusal(refused)[:2] == (400, "order_inactive")


async def test_a_customer_can_pay_twice(desk: Desk) -> None:
    """Both attempts take money."""
    order = await desk.order()
    ids = [(await desk.pay(order)).json()["cf_payment_id"] for _ in range(2)]
    for cf_payment_id in ids:
        await desk.submit(cf_payment_id)
    assert (await desk.ledger(order)).count("captured") == 2


async def test_another_system_may_pay_an_order(desk: Desk) -> None:
    """Any caller with the session can pay, for example a hosted page."""
    order = await desk.order()
    await desk.pay(order)
    await desk.pay_in("2022-09-01", order, upi("anyone@bank"))
    groups = [payment["payment_group"] for payment in await desk.payments(order)]
    assert groups == ["credit_card", "upi"]


@pytest.mark.parametrize(("minutes", "lives_s"), [(None, 300), (5, 300), (15, 900)])
async def test_a_collect_request_expires(desk: Desk, minutes: int | None, lives_s: float) -> None:
    """It fails after `upi_expiry_minutes`, by default five."""
    method = upi("anyone@bank", **({} if minutes is None else {"upi_expiry_minutes": minutes}))
    order, _ = await desk.attempt(method)
    desk.advance(lives_s - 5)
    before = (await desk.payment(order))["payment_status"]
    desk.advance(5)
    after = await desk.payment(order)
    assert (before, after["payment_status"]) == ("PENDING", "FAILED")
    assert after["error_details"]["error_reason"] == "upi_collect_expired"


async def test_a_collect_of_testpending_stays_pending(desk: Desk) -> None:
    """`testpending@gocash` has no time limit."""
    order, _ = await desk.attempt(upi("testpending@gocash"))
    desk.advance(DAY_S)
    assert (await desk.payment(order))["payment_status"] == "PENDING"


@pytest.mark.parametrize(
    ("upi_id", "status"),
    [
        ("testsuccess@gocash", "SUCCESS"),
        ("testfailure@gocash", "FAILED"),
        ("testdropped@gocash", "USER_DROPPED"),
    ],
)
async def test_a_test_customer_can_act_later(upi_id: str, status: str) -> None:
    """With the option, the test ids act after a while."""
    async with open_desk(upi_approves_after_s=20) as desk:
        order, _ = await desk.attempt(upi(upi_id))
        before = (await desk.payment(order))["payment_status"]
        desk.advance(20)
        after = (await desk.payment(order))["payment_status"]
    assert (before, after) == ("PENDING", status)


async def test_a_customer_can_be_made_to_approve(desk: Desk) -> None:
    """`simulate` approves within the time of the collect."""
    order, cf_payment_id = await desk.attempt(upi("anyone@bank"))
    desk.advance(200)
    await desk.simulate(cf_payment_id, "SUCCESS")
    desk.advance(200)
    assert await desk.ledger(order) == ["attempt_created", "captured"]
