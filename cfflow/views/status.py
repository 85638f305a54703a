"""`Status`: how the store as a whole is doing, for people."""

from __future__ import annotations

from datetime import datetime

import msgspec

from cfflow.core.times import moment
from cfflow.errors import StoreError
from cfflow.store.codec import readable
from cfflow.store.control import decision_of
from cfflow.store.protocol import UNREADABLE_INDEX, Overdue, Store, Window

_COUNTED_MAX = 1_000
_DECISIONS_MAX = 10
_TEXT_MAX = 200


class StoreDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided about the whole store: who, why and when."""

    what: str
    actor: str
    note: str
    at: datetime


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the store as a whole.

    `due`: orders that wait for a worker now; `lag_s`: for how many seconds the oldest of them.
    `paused`: the steps that a person has stopped, by gate. `unreadable`: what cannot be read, at
    most 1,000 names: orders that were set aside, members of an index that have no order, and keys
    that another program has written. `decisions`: the last ones, newest first.
    """

    due: int
    lag_s: float
    paused: dict[str, StoreDecision]
    unreadable: tuple[str, ...]
    decisions: tuple[StoreDecision, ...]


async def status_of(store: Store) -> Status:
    """Read the status of a store that is open. Raises `StoreError`."""
    overdue = await store.overdue()
    since_at_ms = store.now_ms() if overdue.since_at_ms is None else overdue.since_at_ms
    lag_ms = max(0, store.now_ms() - since_at_ms) if overdue.count else 0
    return Status(
        due=overdue.count,
        lag_s=lag_ms / 1000,
        paused={gate: _shown(by) for gate, by in (await store.gates()).items()},
        unreadable=await _unreadable(store, overdue),
        decisions=tuple(_shown(text) for text in await store.decisions(_DECISIONS_MAX)),
    )


async def _unreadable(store: Store, overdue: Overdue) -> tuple[str, ...]:
    """Return what cannot be read now, without the orders that a person has repaired since."""
    aside = await store.find(Window((UNREADABLE_INDEX,), limit=_COUNTED_MAX))
    names = [name for name, _ in aside]
    repaired = {one.id for one in await store.read(names) if readable(one)}
    return (*overdue.damaged, *[name for name in names if name not in repaired])


def _shown(text: str) -> StoreDecision:
    """Return a decision as it is shown; one that does not decode must not hide the others."""
    try:
        decision = decision_of(text)
    except StoreError:
        return StoreDecision(what="?", actor="?", note=text[:_TEXT_MAX], at=moment(0))
    return StoreDecision(
        what=decision.what, actor=decision.actor, note=decision.note, at=moment(decision.at_ms)
    )
