"""Ids that look random and are not: the same seed gives the same ids in the same order."""

from __future__ import annotations

import base64
import hashlib
from itertools import count
from uuid import UUID


class Ids:
    """Every id that a bank hands out, drawn from `seed`.

    Two banks with one seed that see the same calls answer the same ids, so a failed run
    can be replayed. The ids are guessable to whoever knows the seed: test money only.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._payments = count(1_000_000_001 + abs(seed) % 1_000 * 1_000_000_000)
        self._orders = count(1)
        self._references = count(1)

    def cf_payment_id(self) -> int:
        """The next payment id; one bank never repeats one."""
        return next(self._payments)

    def order_number(self) -> int:
        """The next order number, which session and generated order id derive from."""
        return next(self._orders)

    def reference(self) -> str:
        """The next reference of the bank behind the gateway."""
        return f"{self._number('reference', next(self._references)) % 10**18:018d}"

    def session(self, order_number: int) -> str:
        """The `payment_session_id` of an order, worked out again whenever it is asked for."""
        return f"session_{self._text('session', order_number, 64)}payment"

    def order_id(self, order_number: int) -> str:
        """An order id for a merchant who named none."""
        return f"order_{self._text('order', order_number, 18)}"

    def page_token(self, cf_payment_id: int) -> str:
        """The secret part of the address of a payment's page."""
        return self._text("page", cf_payment_id, 40)

    def instrument_id(self, cf_payment_id: int) -> str:
        """The id of the card that this payment saved."""
        return str(UUID(int=self._number("instrument", cf_payment_id), version=4))

    def simulation_id(self, number: int) -> str:
        """The id of a simulation."""
        return f"sim_{self._text('simulation', number, 24)}"

    def _text(self, kind: str, number: int, size: int) -> str:
        return base64.urlsafe_b64encode(self._digest(kind, number, size)).decode().rstrip("=")

    def _number(self, kind: str, number: int) -> int:
        return int.from_bytes(self._digest(kind, number, 16), "big")

    def _digest(self, kind: str, number: int, size: int) -> bytes:
        source = f"{self._seed}:{kind}:{number}".encode()
        return hashlib.blake2b(source, digest_size=size).digest()


def fingerprint(secret: str) -> bytes:
    """What is kept of a session: enough to recognise it, too little to use it."""
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=16).digest()
