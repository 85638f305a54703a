"""The payment code of a shop: what the tests beside it are about."""

from __future__ import annotations

from contextlib import suppress

from cfflow import Card, Orchestrator, OutcomeUnknown, Payment, show


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
    with suppress(OutcomeUnknown):  # the view says then that the bank is asked
        await cashier.submit_otp(payment_id, otp)
    return text(await cashier.get(payment_id))


def text(payment: Payment) -> str:
    """Return the text of a payment's page."""
    match payment.customer_view:
        case show.Paid() | show.OnHold():
            return "Thank you."
        case show.EnterOtp(submits_left=left):
            return f"The OTP, please: {left} tries left."
        case show.Wait(why=why):
            return why
        case show.StartAgain():
            return "How do you want to pay?"
        case _:
            return "Go on at your bank, or choose another way to pay."
