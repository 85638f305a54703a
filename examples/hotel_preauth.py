"""A hotel: hold money at check-in, take what was used at check-out, release the rest.

Settings come from the environment, as for headless_otp.py; against the emulator:

    cfflow emulator --port 8000      # in another terminal; it prints what to export
    export CFFLOW_REDIS_URL=embedded:./payments
    python examples/hotel_preauth.py

In Cashfree's sandbox the same order note makes a hold, but only over channel `link`: give the
card `channel="link"`, send the guest to `payment.customer_view.url` instead of submitting an
OTP, and `refresh` the payment afterwards.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

import cfflow
from cfflow import Card, Payment

CUSTOMER = {"customer_id": "asha_rao", "customer_phone": "9898989898"}

#: The sandbox and the emulator hold money for orders with this note. A production account
#: has pre-authorization switched on and needs none.
HOLD = "preauth_transaction"


async def check_in(desk: cfflow.Orchestrator, deposit: Decimal) -> Payment:
    """Hold a deposit on the guest's card."""
    order = await desk.gateway.create_order(deposit, CUSTOMER, order_note=HOLD)
    payment = await desk.start("preauth", order_id=order.order_id, amount=deposit)
    card = Card(
        card_number="4576238912771450",
        card_holder_name="Asha Rao",
        card_expiry_mm="12",
        card_expiry_yy="31",
        card_cvv="123",
    )
    payment = await desk.pay(payment, order.payment_session_id, card)
    return await desk.submit_otp(payment, "111000")


async def check_out(desk: cfflow.Orchestrator, payment: Payment, bill: Decimal) -> Payment:
    """Take the bill, or release everything when there is nothing to pay."""
    try:
        # Compared with 0: a bill that is missing by mistake must not release the money.
        return await (desk.void(payment) if bill == 0 else desk.capture(payment, bill))
    except cfflow.OutcomeUnknown:
        # The bank may have acted: ask. What it did not do, the same call repeats later.
        return await desk.refresh(payment)


async def main() -> None:
    """Let two guests in and out: one pays in part, one cancels."""
    async with cfflow.connect() as desk:
        stayed = await check_in(desk, Decimal("5000.00"))
        print(f"{stayed.id}: {stayed.amount} held until {stayed.hold_expires_at:%d %B %H:%M} UTC")
        stayed = await check_out(desk, stayed, Decimal("4200.50"))
        print(f"{stayed.id}: {stayed.captured_amount} {stayed.state}")

        cancelled = await check_in(desk, Decimal("5000.00"))
        cancelled = await check_out(desk, cancelled, Decimal(0))
        print(f"{cancelled.id}: {cancelled.state}, nothing taken")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except cfflow.CfflowError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
