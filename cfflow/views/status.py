"""`Status`: how the store as a whole is doing, and what a person must look at."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from cfflow.core.plan import Gate
from cfflow.store.control import StoreIdentity


class StoreDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided about the whole store: who, why and when."""

    what: str
    actor: str
    note: str
    at: datetime


class FailingInquiry(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of inquiry that fails in one worker.

    `call`: the gateway's call. `error`: the class of the last error, or `NotFound`. `times`: how
    often it failed since the last answer, the first time at `since`, the last time at `at`.
    """

    worker: str
    call: str
    error: str
    times: int
    since: datetime
    at: datetime


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The last sign of life of a worker; counts are since it started.

    `state`: `working`; `silent`, it has not reported for 30 s and was not stopped; or `stopped`.
    """

    name: str
    host: str
    pid: int
    state: Literal["working", "silent", "stopped"]
    seen_at: datetime
    seen_s: float
    leased: int
    progressed: int
    errors: int
    purged: int


class BudgetUse(msgspec.Struct, frozen=True, kw_only=True):
    """The rate budget of one call: calls of the last minute, of how many (None: not known).

    `blocked_until`: the gateway takes none until then; None: it takes them.
    """

    used: int
    limit: int | None
    blocked_until: datetime | None


class Concern(msgspec.Struct, frozen=True):
    """One thing that a person must look at: what it is about, what is wrong, what to do next."""

    about: str
    detail: str
    advice: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the store as a whole, and in `attention` what a person must look at.

    `payments`: how many there are in each state. `due`: orders that wait for a worker now.
    `put_back`: orders that were due and failed, or had to wait; they are looked at again later.
    `lag_s`: for how many seconds the oldest of both has been due. `reviewed`: payments with an open
    review; `reviews`: how many of them by reason, the first 1,000 counted. `failing`: inquiries
    that fail now. `workers`: those of the last day, newest first; `knows_workers`: False for a
    store that does not keep the signs of other processes. `budget`: by call. `paused`: the
    steps that a person has stopped, by gate. `store`: whose it is. `unreadable`: what cannot be
    read, at most 1,000 names: orders that were set aside, members of an index that have no order,
    and keys that another program has written. `decisions`: the last ones, newest first.
    """

    payments: dict[str, int]
    due: int
    put_back: int
    lag_s: float
    reviewed: int
    reviews: dict[str, int]
    failing: tuple[FailingInquiry, ...]
    workers: tuple[WorkerSeen, ...]
    knows_workers: bool
    budget: dict[str, BudgetUse]
    paused: dict[str, StoreDecision]
    store: StoreIdentity
    unreadable: tuple[str, ...]
    decisions: tuple[StoreDecision, ...]
    attention: tuple[Concern, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether no person must look."""
        return not self.attention

    @property
    def is_unattended(self) -> bool:
        """Whether orders wait, and no worker works; False where workers are not known."""
        works = any(worker.state == "working" for worker in self.workers)
        return self.knows_workers and not works and self.due + self.put_back > 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON: `is_healthy`, all fields, and every gate."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        closed = data.pop("paused")
        gates = {gate.value: closed.get(gate.value) for gate in Gate}
        return {
            "is_healthy": self.is_healthy,
            **data,
            "gates": {name: {"is_open": by is None, "closed": by} for name, by in gates.items()},
        }
