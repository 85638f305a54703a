"""The payment code of a shop: what the tests beside it are about."""

from __future__ import annotations

from cfflow import Card, Orchestrator, OutcomeUnknown, Payment, State


async def sell(cashier: Orchestrator, order_id: str, session: str, card: Card) -> Payment:
    """Begin a sale: the bank sends its OTP, or wants its own page."""
    payment = await cashier.start("native_otp", order_id=order_id)
    return await cashier.pay(payment, session, card)


async def reserve(cashier: Orchestrator, order_id: str, session: str, card: Card) -> Payment:
    """Begin to hold money, to be captured when the guest leaves."""
    payment = await cashier.start("preauth", order_id=order_id)
    return await cashier.pay(payment, session, card)


async def confirm(cashier: Orchestrator, payment_id: str, otp: str) -> str:
    """Submit what the customer typed; return the next text of the page."""
    try:
        payment = await cashier.submit_otp(payment_id, otp)
    except OutcomeUnknown:
        return "We are asking your bank."
    if payment.state in {State.CAPTURED, State.AUTHORIZED}:
        return "Thank you."
    left = payment.otp.submits_left if payment.otp else 0
    return f"That was not it: {left} tries left."
