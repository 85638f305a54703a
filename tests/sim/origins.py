"""Which step an idempotency key was made for, learned from what the store has committed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cfflow.core.operation import Operation, Step
from cfflow.core.steps import idempotency_key


@dataclass(frozen=True, slots=True)
class Origin:
    """The step that a key was made for."""

    payment_id: str
    step: Step
    sequence: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.payment_id}-{self.step}-{self.sequence}-{self.nonce}"


class Origins:
    """Every key that the store has ever kept. What the store forgets is still known here."""

    def __init__(self) -> None:
        self._known: dict[str, Origin] = {}

    def learn(self, payment_id: str, operation: Operation, nonces: Iterable[str]) -> bool:
        """Take the key of a new operation. False: none of these nonces leads to it."""
        for nonce in nonces:
            origin = Origin(payment_id, operation.step, operation.sequence, nonce)
            if operation.key == idempotency_key(
                payment_id, operation.step, operation.sequence, nonce
            ):
                self._known[operation.key] = origin
                return True
        return False

    def find(self, key: str) -> Origin | None:
        """Return what a key was made for; None where the store never kept an operation of it."""
        return self._known.get(key)
