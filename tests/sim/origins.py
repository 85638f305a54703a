"""The step of each idempotency key, taken from what the store has committed."""

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
    """Every key that the store has ever kept, even if the store has lost it since."""

    def __init__(self) -> None:
        self._found: dict[str, Origin] = {}

    def learn(self, payment_id: str, operation: Operation, nonces: Iterable[str]) -> bool:
        """Take the key of a new operation. Return False if none of these nonces gives that key."""
        for nonce in nonces:
            origin = Origin(payment_id, operation.step, operation.sequence, nonce)
            if operation.key == idempotency_key(
                payment_id, operation.step, operation.sequence, nonce
            ):
                self._found[operation.key] = origin
                return True
        return False

    def find(self, key: str) -> Origin | None:
        """Return the step of a key; None if the store never kept an operation with it."""
        return self._found.get(key)
