"""`python -m bench.seeded_bank COUNT`: an emulator whose bank has so many captured sales already.

Order i is `order_<i>`; its one attempt was accepted and its money taken. Prints its base
URL and the attempts' ids as one line of JSON, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import msgspec

from cfflow.emulator import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, running_emulator
from cfflow.emulator.bank import Bank

__all__ = ["Seeded", "order_of"]

_CUSTOMER: Final = {"customer_id": "asha", "customer_phone": "9898989898"}
_CARD: Final = {
    "channel": "post",
    "card_number": "4111111111111111",
    "card_expiry_mm": "12",
    "card_expiry_yy": "31",
    "card_cvv": "123",
}


class Seeded(msgspec.Struct, frozen=True):
    """What the process prints once it listens."""

    base_url: str
    attempts: list[str]


def order_of(number: int) -> str:
    """Return the id of the i-th order."""
    return f"order_{number:08d}"


def _sell(bank: Bank, count: int, now: float) -> list[str]:
    account = bank.account(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
    if account is None:
        raise RuntimeError("the emulator has no such account")
    attempts = []
    for number in range(count):
        body = {
            "order_id": order_of(number),
            "order_amount": 170,
            "order_currency": "INR",
            "customer_details": _CUSTOMER,
        }
        order = bank.create_order(account, body, now)
        attempt = bank.pay(bank.session_of(order), {"card": _CARD}, now)
        bank.submit_otp(attempt.cf_payment_id, "111000", now)
        attempts.append(str(attempt.cf_payment_id))
    return attempts


async def _serve(count: int) -> None:
    async with running_emulator() as emulator:
        attempts = _sell(emulator.bank, count, emulator.clock.now())
        line = msgspec.json.encode(Seeded(emulator.base_url, attempts))
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        await asyncio.to_thread(sys.stdin.buffer.read)
        print(emulator.bank.calls["fetch_payment"], flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
