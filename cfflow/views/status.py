"""`Status`: how the store as a whole is doing, for people."""

from __future__ import annotations

from datetime import datetime

import msgspec

from cfflow.core.times import moment
from cfflow.errors import StoreError
from cfflow.store.codec import decode_order
from cfflow.store.control import decision_of
from cfflow.store.protocol import UNREADABLE_INDEX, Store, StoredOrder, Window

_COUNTED_MAX = 1_000
_DECISIONS_MAX = 10


class StoreDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided about the whole store: who, why and when."""

    what: str
    actor: str
    note: str
    at: datetime


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the store as a whole.

    `due`: orders that wait for a worker now; `lag_s`: for how many seconds the oldest of them.
    `paused`: the steps that a person has stopped, by gate. `unreadable`: the ids of orders that
    cannot be read and were set aside, at most 1,000. `decisions`: the last ones, newest first.
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
        unreadable=await _unreadable(store),
        decisions=tuple(_shown(text) for text in await store.decisions(_DECISIONS_MAX)),
    )


async def _unreadable(store: Store) -> tuple[str, ...]:
    """Return the orders that were set aside and are still there, and still cannot be read."""
    aside = await store.find(Window((UNREADABLE_INDEX,), limit=_COUNTED_MAX))
    stored = await store.read([order_id for order_id, _ in aside])
    return tuple(one.id for one in stored if not _decodes(one))


def _decodes(stored: StoredOrder) -> bool:
    try:
        decode_order(stored).all_payments  # noqa: B018  decodes all of it
    except StoreError:
        return False
    return True


def _shown(text: str) -> StoreDecision:
    decision = decision_of(text)
    return StoreDecision(
        what=decision.what, actor=decision.actor, note=decision.note, at=moment(decision.at_ms)
    )
