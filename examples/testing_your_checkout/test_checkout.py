"""Tests of a shop's payment code, against a gateway that runs beside them.

pip install 'cfflow[emulator]' pytest pytest-asyncio
pytest examples/testing_your_checkout
"""

from __future__ import annotations

import pytest
from checkout import confirm, reserve, sell, text

from cfflow import Card, NetBanking, Orchestrator, State, Worker, show
from cfflow.testing import LocalCashfree

pytestmark = pytest.mark.asyncio

CARD = Card(
    card_number="4111111111111111",
    card_holder_name="Asha Rao",
    card_expiry_mm="12",
    card_expiry_yy="31",
    card_cvv="123",
)


async def test_a_sale_takes_the_money_once(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """Five lines: an order, a card, the OTP, and the bank's ledger."""
    order = cashfree.create_order("170.00")
    payment = await sell(orchestrator, *order, CARD)
    assert await confirm(orchestrator, payment.id, "111000") == "Thank you."
    assert (await orchestrator.get(payment.id)).state is State.CAPTURED
    assert cashfree.ledger.effects(order.order_id) == ["attempt_created", "captured"]


async def test_a_wrong_otp_may_be_typed_again(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """A wrong OTP uses up a try and takes nothing."""
    order = cashfree.create_order("170.00")
    payment = await sell(orchestrator, *order, CARD)
    answer = await confirm(orchestrator, payment.id, "999999")
    assert answer == "The OTP, please: 2 tries left."
    assert cashfree.ledger.effects(order.order_id) == ["attempt_created"]


async def test_after_five_minutes_the_page_asks_for_no_otp(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """One clock for the bank and cfflow: both have ended the OTP page, and no worker was needed."""
    order = cashfree.create_order("170.00")
    payment = await sell(orchestrator, *order, CARD)
    assert isinstance(payment.customer_view, show.EnterOtp)

    cashfree.clock.advance(301)

    payment = await orchestrator.get(payment.id)
    assert payment.customer_view == show.StartAgain(replace=True)
    assert text(payment) == "How do you want to pay?"


async def test_a_worker_finds_the_outcome_of_a_lost_answer(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """The money moved and the response was lost: exactly one capture, and no second OTP."""
    order = cashfree.create_order("170.00")
    payment = await sell(orchestrator, *order, CARD)
    cashfree.faults.add("authenticate", "lost_after")
    answer = await confirm(orchestrator, payment.id, "111000")
    assert answer == "We are waiting for your bank to confirm."

    cashfree.clock.advance(60)
    await Worker(orchestrator).run_once()

    assert (await orchestrator.get(payment.id)).state is State.CAPTURED
    assert cashfree.ledger.effects(order.order_id).count("captured") == 1


async def test_a_webhook_about_a_customer_who_paid_on_the_bank_s_page(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """The webhook makes the payment due, and a worker's inquiry finds the money."""
    order = cashfree.create_order("170.00")
    bank = NetBanking(netbanking_bank_code=3333)
    payment = await orchestrator.start("redirect", order_id=order.order_id)
    payment = await orchestrator.pay(payment, order.payment_session_id, bank)
    cashfree.approve(order.order_id)

    (webhook,) = cashfree.webhooks.of(order.order_id)
    await orchestrator.on_webhook(webhook.headers, webhook.body)
    await Worker(orchestrator).run_once()

    assert (await orchestrator.get(payment.id)).state is State.CAPTURED


async def test_a_hold_without_a_capture_ends(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """After a week the bank gives the money back, and the payment is voided."""
    order = cashfree.create_order("5000.00", hold=True)
    payment = await reserve(orchestrator, *order, CARD)
    await confirm(orchestrator, payment.id, "111000")

    cashfree.clock.advance(7 * 86400)
    await Worker(orchestrator).run_once()

    assert (await orchestrator.get(payment.id)).state is State.VOIDED
    assert cashfree.ledger.effects(order.order_id)[1:] == ["authorized", "released"]
