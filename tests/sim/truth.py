"""What really happened at the bank, read from its ledger as it grows."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from cfflow.emulator import Bank
from cfflow.emulator.records import Attempt

#: When every world begins, in milliseconds since the epoch.
EPOCH_MS = 1_760_000_000_000

#: The owner of an attempt that no payment of the simulation has made.
FOREIGN = "another system"


#: The state that the last effect on an attempt proves.
_STATES = {
    "captured": "captured",
    "voided": "voided",
    "released": "voided",
    "authorized": "authorized",
}


def world_s(at_ms: float) -> float:
    """Return milliseconds since the epoch as seconds since the world began."""
    return (at_ms - EPOCH_MS) / 1000


class Truth:
    """Effects by attempt, oldest first; the owner of each attempt; the captured amounts."""

    def __init__(
        self, bank: Bank, now: Callable[[], float], complain: Callable[[str], None]
    ) -> None:
        self.effects: dict[str, list[str]] = {}
        self.owners: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.captured: dict[str, Decimal] = {}
        self.began_s: dict[str, float] = {}
        self.money_s: dict[str, float] = {}
        self._bank = bank
        self._now = now
        self._complain = complain
        self._seen = 0

    def catch_up(self, owner: str = FOREIGN, key: str = "") -> list[str]:
        """Read the new lines of the ledger; new attempts belong to `owner`."""
        self._bank.advance(self._now())
        begun = []
        for entry in self._bank.ledger[self._seen :]:
            name = entry.cf_payment_id
            if entry.effect == "attempt_created":
                begun.append(name)
                self.owners[name], self.keys[name] = owner, key
                self.began_s[name] = world_s(entry.at * 1000)
            if entry.effect in {"authorized", "captured"}:
                self.money_s.setdefault(name, world_s(entry.at * 1000))
            elif entry.effect in {"voided", "released"}:
                self.money_s.pop(name, None)
            if entry.effect == "captured":
                self.captured[name] = entry.amount
            self._add(name, entry.effect)
        self._seen = len(self._bank.ledger)
        return begun

    def attempts(self, order_id: str) -> list[Attempt]:
        """Return every attempt of an order, foreign ones too."""
        return self._bank.attempts_of(order_id)

    def verdict(self, payment_id: str) -> tuple[str, Decimal | None]:
        """Return a payment's state in the bank's books, and the captured amount."""
        names = [name for name, owner in self.owners.items() if owner == payment_id]
        for name in names:
            last = self.effects[name][-1]
            if last in _STATES:
                return _STATES[last], self.captured.get(name) if last == "captured" else None
        return "failed", None

    def _add(self, name: str, effect: str) -> None:
        known = self.effects.setdefault(name, [])
        known.append(effect)
        if known.count("captured") > 1:
            self._complain(f"the bank captured attempt {name} twice")
        if "captured" in known and {"voided", "released"} & set(known):
            self._complain(f"the bank captured and gave back attempt {name}")
