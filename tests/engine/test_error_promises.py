"""What an error promises: it has its payment, and the same call may be made again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

import cfflow
from cfflow import CfflowError, Conflict, Payment, State
from cfflow.cashfree.gateway import same_order
from tests.engine.shop import OTP, Shop, card


async def with_retries(
    shop: Shop, step: Callable[..., Awaitable[Payment]], payment: Payment, *args: Any
) -> Payment:
    """The loop of the guide (errors.md#try-again), with a clock that need not be waited for."""
    for _ in range(3):
        try:
            return await step(payment, *args)
        except CfflowError as error:
            if not error.safe_to_retry:
                raise
            payment = error.payment or payment
            shop.pass_time(getattr(error, "retry_after_s", 1.0))
    return await step(payment, *args)


async def test_the_loop_of_the_guide_ends_every_step_after_a_rate_limit(shop: Shop) -> None:
    """The refused call has closed its operation, so the payment has a new version."""
    order_id, session = await shop.order(hold=True)
    payment = await shop.cashier.start("preauth", order_id=order_id, amount="170.00")
    shop.fault("pay", "status_before", status=429)
    payment = await with_retries(shop, shop.cashier.pay, payment, session, card())
    shop.fault("authenticate", "status_before", status=429)
    payment = await with_retries(shop, shop.cashier.submit_otp, payment, OTP)
    shop.fault("authorize", "status_before", status=429)
    payment = await with_retries(shop, shop.cashier.capture, payment)
    assert payment.state is State.CAPTURED
    assert shop.effects(order_id).count("captured") == 1


async def test_the_same_call_with_the_old_payment_is_a_conflict(shop: Shop) -> None:
    """It might be the same button, pressed twice."""
    held = await shop.held()
    shop.fault("authorize", "status_before", status=429)
    with pytest.raises(cfflow.RateLimited) as limited:
        await shop.cashier.capture(held)
    assert limited.value.payment is not None
    with pytest.raises(Conflict):
        await shop.cashier.capture(held)
    assert (await shop.cashier.capture(limited.value.payment)).state is State.CAPTURED


@pytest.mark.parametrize("as_id", [False, True], ids=["payment", "id"])
@pytest.mark.parametrize(
    "fails",
    [
        lambda shop, p: shop.cashier.pay(p, "session_of_another", card()),
        lambda shop, p: shop.cashier.submit_otp(p, "111111"),
        lambda shop, p: shop.cashier.resend_otp(p),
        lambda shop, p: shop.cashier.leave_otp(p),
        lambda shop, p: shop.cashier.capture(p, "999999.00"),
        lambda shop, p: shop.cashier.acknowledge(p, "late_pay", actor="ann", note="seen"),
        lambda shop, p: shop.cashier.resolve(p, "captured", actor="ann", note="seen"),
        lambda shop, p: shop.cashier.void(p, expected_version=99),
    ],
    ids=["pay", "submit", "resend", "leave", "capture", "acknowledge", "resolve", "version"],
)
async def test_an_error_has_the_payment_that_it_is_about(
    shop: Shop, fails: Callable[[Shop, Any], Awaitable[Payment]], as_id: bool
) -> None:
    """Whatever the reason: the caller goes on from what the payment is now."""
    held = await shop.held()
    with pytest.raises(CfflowError) as raised:
        await fails(shop, held.id if as_id else held)
    assert raised.value.payment is not None
    assert raised.value.payment.id == held.id


async def test_a_closed_gate_and_a_dead_gateway_have_the_payment_too(shop: Shop) -> None:
    """`Paused`, a refused inquiry, and a pay of unknown outcome."""
    payment, session = await shop.at_otp()
    shop.fault("fetch_payment", "status_before", status=503)
    with pytest.raises(cfflow.GatewayUnavailable) as dead:
        await shop.cashier.refresh(payment)
    order_id, session = await shop.order()
    created = await shop.cashier.start("native_otp", order_id=order_id)
    await shop.cashier.pause("pay", actor="ann", note="bank is down")
    with pytest.raises(cfflow.Paused) as paused:
        await shop.cashier.pay(created, session, card())
    await shop.cashier.resume("pay", actor="ann", note="it is back")
    shop.fault("pay", "lost_after")
    with pytest.raises(cfflow.OutcomeUnknown) as unknown:
        await shop.cashier.pay(created, session, card())
    for raised, known in ((dead, payment), (paused, created), (unknown, created)):
        assert raised.value.payment is not None
        assert raised.value.payment.id == known.id


# an order that exists already

CUSTOMER = {"customer_id": "c_1", "customer_phone": "9898989898"}


async def test_create_order_may_be_made_again_after_a_lost_answer(shop: Shop) -> None:
    """The one order is returned, with the session that pays it."""
    gateway = shop.cashier.gateway
    shop.fault("create_order", "lost_after")
    with pytest.raises(cfflow.GatewayUnavailable) as lost:
        await gateway.create_order("170.00", CUSTOMER, order_id="order_twice")
    assert lost.value.safe_to_retry
    made = await gateway.create_order("170.00", CUSTOMER, order_id="order_twice")
    assert made.payment_session_id == (await gateway.fetch_order("order_twice")).payment_session_id
    # Another process, which uses a key of its own or none.
    again = await gateway.create_order("170.00", CUSTOMER, order_id="order_twice", key="another")
    assert again.payment_session_id == made.payment_session_id


@pytest.mark.parametrize(
    ("amount", "customer", "field"),
    [
        ("171.00", CUSTOMER, "amount"),
        ("170.00", CUSTOMER | {"customer_id": "c_2"}, "customer_id"),
        ("170.00", CUSTOMER | {"customer_phone": "9898989899"}, "customer_phone"),
    ],
)
async def test_an_order_of_this_id_that_differs_is_a_conflict(
    shop: Shop, amount: str, customer: dict[str, str], field: str
) -> None:
    """Two carts have the same number: neither may be paid for the other."""
    gateway = shop.cashier.gateway
    await gateway.create_order("170.00", CUSTOMER, order_id="order_taken")
    with pytest.raises(Conflict, match=field):
        await gateway.create_order(amount, customer, order_id="order_taken")


def test_an_order_without_a_session_is_a_conflict() -> None:
    """It is paid or has expired, so there is nothing to pay it with."""
    found = cfflow.FetchedOrder(
        order_id="order_1",
        order_status="PAID",
        order_amount=Decimal("170.0"),
        order_currency="INR",
        customer_details=cfflow.Customer(customer_id="c_1", customer_phone="+919898989898"),
    )
    wanted = {"order_id": "order_1", "order_amount": Decimal("170.00"), "order_currency": "INR"}
    with pytest.raises(Conflict, match="takes no payment any more: PAID"):
        same_order(found, wanted | {"customer_details": CUSTOMER})
