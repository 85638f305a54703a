"""A sale with the bank's OTP typed on your own page; here the page is this terminal.

Settings come from the environment. To run it without an account:

    cfflow emulator --port 8000      # in another terminal; it prints what to export
    export CFFLOW_REDIS_URL=embedded:./payments
    python examples/headless_otp.py

The sandbox's OTP, and the emulator's, is 111000. Type a wrong one first.
"""

from __future__ import annotations

import asyncio

import cfflow
from cfflow import Card, Payment, show

CUSTOMER = {"customer_id": "asha_rao", "customer_phone": "9898989898"}


async def ask(page: show.EnterOtp) -> str:
    """Ask the customer for the OTP, as a page would."""
    # A thread could not be interrupted; nothing else runs in this program while it waits.
    return input(f"OTP ({page.submits_left} tries left): ").strip()  # noqa: ASYNC250  see above


async def checkout(cashier: cfflow.Orchestrator) -> Payment:
    """Take one payment from the order to the money."""
    order = await cashier.gateway.create_order("170.00", CUSTOMER)
    payment = await cashier.start("native_otp", order_id=order.order_id, amount="170.00")
    card = Card(
        card_number="4111111111111111",
        card_holder_name="Asha Rao",
        card_expiry_mm="12",
        card_expiry_yy="31",
        card_cvv="123",
    )
    payment = await cashier.pay(payment, order.payment_session_id, card)
    while isinstance(page := payment.customer_view, show.EnterOtp):
        try:
            payment = await cashier.submit_otp(payment, await ask(page))
        except cfflow.InvalidInput as mistake:
            print(mistake)
        except cfflow.OutcomeUnknown:
            # The answer was lost, not the money: ask the gateway what it did.
            payment = await cashier.refresh(payment)
    if isinstance(page, show.GoToBank):
        print(f"This bank wants its own page: {page.url}")
    return payment


async def main() -> None:
    """Take one payment and print what happened to it."""
    async with cfflow.connect() as cashier:
        payment = await checkout(cashier)
        print(await cashier.why(payment))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except EOFError:
        raise SystemExit("no OTP was typed; the payment waits in otp_pending") from None
    except cfflow.CfflowError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
