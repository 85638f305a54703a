"""Ids that look random but come from a seed: the same seed gives the same ids in order."""

from __future__ import annotations

import base64
import hashlib
from itertools import count
from uuid import UUID


class Ids:
    """Every id that a bank issues, derived from `seed`.

    Two banks with the same seed and the same calls issue the same ids, so a failed run can
    be replayed. Anyone who has the seed can compute the ids, which is fine for test money.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._payments = count(1_000_000_001 + abs(seed) % 1_000 * 1_000_000_000)
        self._orders = count(1)
        self._references = count(1)

    def cf_payment_id(self) -> int:
        """Return the next payment id; one bank never repeats one."""
        return next(self._payments)

    def order_number(self) -> int:
        """Return the next order number; session and generated order id derive from it."""
        return next(self._orders)

    def reference(self) -> str:
        """Return the next reference of the bank behind the gateway."""
        return f"{self._number('reference', next(self._references)) % 10**18:018d}"

    def session(self, order_number: int) -> str:
        """Return the `payment_session_id` of an order. It is computed, and so never stored."""
        return f"session_{self._text('session', order_number, 64)}payment"

    def order_id(self, order_number: int) -> str:
        """Return an order id for a request without one."""
        return f"order_{self._text('order', order_number, 18)}"

    def page_token(self, cf_payment_id: int) -> str:
        """Return the secret part of the URL of a payment's page."""
        return self._text("page", cf_payment_id, 40)

    def instrument_id(self, cf_payment_id: int) -> str:
        """Return the id of the card that this payment saved."""
        return str(UUID(int=self._number("instrument", cf_payment_id), version=4))

    def simulation_id(self, number: int) -> str:
        """Return the id of a simulation."""
        return f"sim_{self._text('simulation', number, 24)}"

    def _text(self, kind: str, number: int, size: int) -> str:
        return base64.urlsafe_b64encode(self._digest(kind, number, size)).decode().rstrip("=")

    def _number(self, kind: str, number: int) -> int:
        return int.from_bytes(self._digest(kind, number, 16), "big")

    def _digest(self, kind: str, number: int, size: int) -> bytes:
        source = f"{self._seed}:{kind}:{number}".encode()
        return hashlib.blake2b(source, digest_size=size).digest()


def fingerprint(secret: str) -> bytes:
    """Return a digest of a session: enough to recognise it, not enough to use it."""
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=16).digest()
