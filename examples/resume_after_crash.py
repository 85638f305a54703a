"""A checkout process is killed while it submits the OTP; the next one shows the customer the end.

Settings come from the environment, as for headless_otp.py; against the emulator:

    cfflow emulator --port 8000      # in another terminal; it prints what to export
    export CFFLOW_REDIS_URL=embedded:./payments
    python examples/resume_after_crash.py

The first process is this program once more. Where exactly SIGKILL ends it is chance:
before the OTP was sent, on its way, or after the money moved. The second one finds out.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

import cfflow
from cfflow import Card, Payment, State, Worker

CUSTOMER = {"customer_id": "asha_rao", "customer_phone": "9898989898"}

#: The text of the customer's page, by state.
PAGES = {
    State.CREATED: "Not paid yet: please choose how to pay.",
    State.INITIATED: "Your bank is working on it. Please wait.",
    State.OTP_PENDING: "Please type the OTP that your bank has sent you.",
    State.AUTHORIZED: "Your bank has set the money aside.",
    State.CAPTURED: "Paid. Thank you!",
    State.VOIDED: "Cancelled: nothing was taken.",
    State.FAILED: "The bank declined, no money was taken. You can try again.",
}


def page(payment: Payment) -> str:
    """Return the text for the customer now. It never promises more than is proven."""
    if payment.operation is not None:
        return "We are asking your bank whether it went through. Please do not pay again."
    return PAGES[payment.state]


async def checkout(order_id: str, session: str) -> None:
    """Pay an order with a card and its OTP: the process that will not live to see the end."""
    async with cfflow.connect() as cashier:
        payment = await cashier.start("native_otp", order_id=order_id)
        card = Card(
            card_number="4111111111111111",
            card_expiry_mm="12",
            card_expiry_yy="31",
            card_cvv="123",
        )
        payment = await cashier.pay(payment, session, card)
        print("submitting the OTP ...", flush=True)
        await cashier.submit_otp(payment, "111000")
        await asyncio.sleep(60)


async def crash(order_id: str, session: str) -> None:
    """Run the checkout in a process of its own and kill it while it submits the OTP."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, order_id, session, stdout=subprocess.PIPE
    )
    line = await child.stdout.readline() if child.stdout else b""
    print(f"first process:  {line.decode().strip()}")
    await asyncio.sleep(0.005)
    child.kill()
    await child.wait()
    print("first process:  killed with SIGKILL")


async def resume(cashier: cfflow.Orchestrator, order_id: str) -> Payment:
    """Find the payment and show its page until nothing is open any more."""
    (payment,) = await cashier.find(order_id=order_id)
    print(f"second process: {page(payment)}")
    # In a shop this is `cfflow worker`, a process of its own that is always there.
    worker = Worker(cashier)
    working = asyncio.create_task(worker.run())
    while payment.operation is not None:
        await asyncio.sleep(0.2)
        payment = await cashier.get(payment)
    worker.stop()
    await working
    print(f"second process: {page(payment)}")
    return payment


async def main() -> None:
    """Play both processes."""
    async with cfflow.connect() as cashier:
        order = await cashier.gateway.create_order("170.00", CUSTOMER)
        await crash(order.order_id, order.payment_session_id)
        payment = await resume(cashier, order.order_id)
        print(await cashier.why(payment))


if __name__ == "__main__":
    try:
        asyncio.run(checkout(*sys.argv[1:]) if len(sys.argv) == 3 else main())
    except cfflow.CfflowError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
