"""How bad a world is: the permitted faults, how often they happen, and what each one does.

Every seed switches some kinds of faults off (swarm testing): rare sequences happen in
worlds where no other fault comes in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import httpx

#: What can happen to one request to the gateway.
NETWORK_FAULTS = (
    "late_answer",
    "late_arrival",
    "stuck",
    "lost_before",
    "lost_after",
    "refused",
    "unreachable",
    "twice",
    "error_before",
    "error_after",
    "error_stored",
    "page",
    "garbage",
    "busy",
    "rejected",
    "stale",
    "mixed",
)

#: What can happen to one command to the store.
DISK_FAULTS = ("slow", "lost_before", "lost_after", "resent", "late")

#: The share of kinds that a seed permits, and how often they may happen on network and disk.
_USUAL = (0.5, (0.0, 0.1, 0.3, 0.5), (0.0, 0.03, 0.1))

_SERVER_ERRORS = (500, 502, 503, 504)
_REJECTIONS = (
    (400, "request_failed", "refused"),
    (400, "request_invalid", "Transaction is already processed"),
    (400, "order_inactive", "the order is not active"),
    (401, "request_failed", "client id or secret not accepted"),
    (404, "orderpay_not_found", "not found"),
    (409, "request_failed", "a sibling is known"),
    (422, "request_invalid", "this key belongs to another body"),
)


@dataclass(slots=True)
class Fate:
    """What happens to one request: when it arrives, and what its sender gets and when."""

    name: str
    arrives: tuple[float, ...] = ()
    answered_by: int = 0
    answer_after_s: float | None = None
    breaks_after_s: float | None = None
    error: type[httpx.TransportError] = httpx.ReadError
    spoil: str = ""
    status: int = 0
    code: str = ""
    message: str = ""


class Weather:
    """Draws the fate of every message; `calm` makes everything arrive.

    In `rough` weather a few kinds of faults strike again and again: `faults`, or drawn ones.
    """

    def __init__(
        self, rng: Random, *, rough: bool = False, faults: tuple[str, ...] | None = None
    ) -> None:
        self.calm = False
        self._rng = rng
        self.latency_s = rng.choice((0.005, 0.05, 0.4))
        share, strong, weak = (0.3, (0.4, 0.5), (0.1,)) if rough else _USUAL
        drawn = tuple(kind for kind in NETWORK_FAULTS if rng.random() < share)
        self.network = drawn if faults is None else faults
        self.disk = tuple(kind for kind in DISK_FAULTS if rng.random() < 0.5)
        self.p_network = rng.choice(strong) if self.network else 0.0
        self.p_disk = rng.choice(weak) if self.disk else 0.0
        self.p_death = rng.choice((0.0, 0.004, 0.02))
        self.skew_ms = rng.choice((0, 0, 5, 40))
        self._fates: dict[str, Callable[[float, bool], Fate]] = {
            "late_answer": self._late_answer,
            "late_arrival": self._late_arrival,
            "stuck": self._stuck,
            "lost_before": self._lost_before,
            "lost_after": self._lost_after,
            "refused": self._refused,
            "unreachable": self._unreachable,
            "twice": self._twice,
            "error_before": self._error_before,
            "error_after": self._error_after,
            "error_stored": self._error_stored,
            "page": self._page,
            "garbage": self._garbage,
            "busy": self._busy,
            "rejected": self._rejected,
            "stale": self._stale,
            "mixed": self._mixed,
        }

    def pause_s(self) -> float:
        """Return how long a message is on its way."""
        return self._rng.expovariate(1 / self.latency_s)

    def fate(self, call: str, limit_s: float) -> Fate:
        """Return what happens to a request whose sender waits for `limit_s`."""
        rng = self._rng
        if self.calm or rng.random() >= self.p_network:
            return Fate("", (self.pause_s(),), answer_after_s=self.pause_s())
        kind = rng.choice(self.network)
        fate = self._fates[kind](limit_s, call == "pay")
        fate.name = kind
        return fate

    def disk_fault(self) -> str:
        """Return what happens to a command to the store, "" for nothing."""
        if self.calm or self._rng.random() >= self.p_disk:
            return ""
        return self._rng.choice(self.disk)

    def strikes(self) -> bool:
        """Return whether the process dies at this point."""
        return not self.calm and self._rng.random() < self.p_death

    def _late_answer(self, limit_s: float, _pay: bool) -> Fate:
        # Just before the limit is the worst case: another process inquires at the same time.
        late = self._rng.choice((self._rng.uniform(0.3, 2.5), self._rng.uniform(0.85, 1.0)))
        return Fate("", (self.pause_s(),), answer_after_s=limit_s * late)

    def _late_arrival(self, limit_s: float, _pay: bool) -> Fate:
        up_s = limit_s * self._rng.uniform(0.3, 2.5)
        return Fate("", (up_s,), answer_after_s=self.pause_s())

    def _stuck(self, limit_s: float, _pay: bool) -> Fate:
        """The request waits in a queue and arrives after its sender's time limit."""
        return Fate("", (limit_s + self._rng.uniform(5, 120),), answer_after_s=self.pause_s())

    def _broken(self) -> float | None:
        """When the connection breaks; None for silence, which the time limit ends."""
        return self.pause_s() + self.pause_s() if self._rng.random() < 0.5 else None

    def _lost_before(self, _limit_s: float, _pay: bool) -> Fate:
        return Fate("", breaks_after_s=self._broken())

    def _lost_after(self, _limit_s: float, _pay: bool) -> Fate:
        return Fate("", (self.pause_s(),), breaks_after_s=self._broken())

    def _refused(self, _limit_s: float, _pay: bool) -> Fate:
        return Fate("", breaks_after_s=self.pause_s(), error=httpx.ConnectError)

    def _unreachable(self, limit_s: float, _pay: bool) -> Fate:
        return Fate("", breaks_after_s=limit_s, error=httpx.ConnectTimeout)

    def _twice(self, _limit_s: float, pay: bool) -> Fate:
        """A proxy sends it again; not a pay, as its two attempts could not be distinguished."""
        if pay:
            return self._lost_after(_limit_s, pay)
        up_s = self.pause_s()
        again_s = up_s + self._rng.choice((self.pause_s(), self._rng.uniform(0, 60)))
        answered_by = self._rng.choice((0, 0, 1))
        return Fate("", (up_s, again_s), answered_by, answer_after_s=self.pause_s())

    def _error_before(self, _limit_s: float, _pay: bool) -> Fate:
        status = self._rng.choice(_SERVER_ERRORS)
        return Fate("", answer_after_s=self.pause_s(), spoil="instead", status=status)

    def _error_after(self, _limit_s: float, _pay: bool) -> Fate:
        status = self._rng.choice(_SERVER_ERRORS)
        up_s = self.pause_s()
        return Fate("", (up_s,), answer_after_s=self.pause_s(), spoil="status", status=status)

    def _error_stored(self, _limit_s: float, _pay: bool) -> Fate:
        status = self._rng.choice((500, 502, 503))
        up_s = self.pause_s()
        return Fate("", (up_s,), answer_after_s=self.pause_s(), spoil="stored", status=status)

    def _page(self, _limit_s: float, _pay: bool) -> Fate:
        status = self._rng.choice((200, 200, 502))
        up_s = self.pause_s()
        return Fate("", (up_s,), answer_after_s=self.pause_s(), spoil="page", status=status)

    def _garbage(self, _limit_s: float, _pay: bool) -> Fate:
        return Fate("", (self.pause_s(),), answer_after_s=self.pause_s(), spoil="half", status=200)

    def _busy(self, _limit_s: float, _pay: bool) -> Fate:
        return Fate("", answer_after_s=self.pause_s(), spoil="instead", status=429)

    def _rejected(self, _limit_s: float, _pay: bool) -> Fate:
        status, code, message = self._rng.choice(_REJECTIONS)
        return Fate(
            "",
            answer_after_s=self.pause_s(),
            spoil="instead",
            status=status,
            code=code,
            message=message,
        )

    def _stale(self, _limit_s: float, _pay: bool) -> Fate:
        """Another server of the gateway answers, with an older state of the attempt."""
        return Fate("", (self.pause_s(),), answer_after_s=self.pause_s(), spoil="stale")

    def _mixed(self, _limit_s: float, _pay: bool) -> Fate:
        """The answers of two orders are exchanged on the way: this one is about another order."""
        return Fate("", (self.pause_s(),), answer_after_s=self.pause_s(), spoil="mixed")
