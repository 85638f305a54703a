"""Reads the status of a store: for `cfflow status`, a health endpoint and `doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from cfflow.core.chart import State
from cfflow.core.observation import Call
from cfflow.core.order import REVIEW_INDEX
from cfflow.core.record import split_id
from cfflow.core.times import moment
from cfflow.errors import StoreError, StoreReplaced
from cfflow.limits.budget import limits_of
from cfflow.store.codec import readable
from cfflow.store.control import decision_of, identity_of
from cfflow.store.memory.ledger import ledger_of
from cfflow.store.protocol import UNREADABLE_INDEX, Overdue, Store, Window
from cfflow.store.signs import Failing, Sign, Signs
from cfflow.views.concerns import concerns
from cfflow.views.status import BudgetUse, FailingInquiry, Status, StoreDecision, WorkerSeen

#: For how long an order may be due until a person should look, in seconds.
MAX_LAG_S: Final = 120.0

_COUNTED_MAX: Final = 1_000
_DECISIONS_MAX: Final = 10
_TEXT_MAX: Final = 200
#: A worker reports every few seconds: one that is silent for so long is gone.
_SILENT_MS: Final = 30_000


async def status_of(store: Store, signs: Signs, *, max_lag_s: float = MAX_LAG_S) -> Status:
    """Read the status of a store that is open. Raises `StoreError`."""
    overdue = await store.overdue()
    counts = await store.count([*State, REVIEW_INDEX])
    seen, identity = await signs.all(), await identity_of(store)
    workers = [_worker(sign, store.now_ms()) for sign in seen]
    working = [s for s, w in zip(seen, workers, strict=True) if w.state == "working"]
    found = Status(
        payments={state.value: counts[state] for state in State},
        due=overdue.count,
        put_back=overdue.put_back,
        lag_s=overdue.lag_ms(store.now_ms()) / 1000,
        reviewed=counts[REVIEW_INDEX],
        reviews=await _reviews(store) if counts[REVIEW_INDEX] else {},
        failing=tuple(_failing(sign, each) for sign in working for each in sign.failing),
        workers=tuple(workers),
        knows_workers=signs.is_shared,
        budget=await _budget(store, working, identity.environment),
        paused={gate: _shown(by) for gate, by in (await store.gates()).items()},
        store=identity,
        unreadable=await _unreadable(store, overdue),
        decisions=tuple(_shown(text) for text in await store.decisions(_DECISIONS_MAX)),
    )
    return msgspec.structs.replace(found, attention=concerns(found, max_lag_s))


def _worker(sign: Sign, now_ms: int) -> WorkerSeen:
    silent_ms = max(0, now_ms - sign.at_ms)
    state: Literal["working", "silent", "stopped"] = (
        "stopped" if sign.has_stopped else "silent" if silent_ms > _SILENT_MS else "working"
    )
    return WorkerSeen(
        name=sign.name,
        host=sign.host,
        pid=sign.pid,
        state=state,
        seen_at=moment(sign.at_ms),
        seen_s=silent_ms / 1000,
        leased=sign.leased,
        progressed=sign.progressed,
        errors=sign.errors,
        purged=sign.purged,
    )


def _failing(sign: Sign, failing: Failing) -> FailingInquiry:
    return FailingInquiry(
        worker=sign.name,
        call=failing.call,
        error=failing.error,
        times=failing.times,
        since=moment(failing.since_at_ms),
        at=moment(failing.at_ms),
    )


async def _reviews(store: Store) -> dict[str, int]:
    """Return how many payments have an open review of each reason, the first 1,000 counted."""
    found = await store.find(Window((REVIEW_INDEX,), limit=_COUNTED_MAX))
    places = [place for member, _ in found if (place := split_id(member)) is not None]
    try:
        stored = await store.read([*dict.fromkeys(order_id for order_id, _ in places)])
    except StoreReplaced:
        return {}
    orders = {one.id: order for one in stored if (order := readable(one)) is not None}
    reasons = Counter(
        review.reason
        for order_id, n in places
        if order_id in orders and orders[order_id].has(n)
        for review in orders[order_id].record(n).open_reviews
    )
    return {str(reason): count for reason, count in sorted(reasons.items())}


async def _budget(store: Store, working: Sequence[Sign], environment: str) -> dict[str, BudgetUse]:
    """Return the rate budget of each call: a worker's own limit, else the environment's."""
    ledger, usual = ledger_of(store), _usual_limits(environment)
    found = {}
    for call in limits_of("production"):
        kept = [sign.limits[call] for sign in working if call in sign.limits]
        use = await ledger.use(call)
        found[call.value] = BudgetUse(
            used=use.used,
            limit=min(kept, default=usual.get(call)),
            blocked_until=moment(use.blocked_until_ms) if use.blocked_until_ms else None,
        )
    return found


def _usual_limits(environment: str) -> Mapping[Call, int | None]:
    return limits_of(environment) if environment in {"sandbox", "production"} else {}


async def _unreadable(store: Store, overdue: Overdue) -> tuple[str, ...]:
    """Return what cannot be read now, without the orders that a person has repaired since."""
    aside = await store.find(Window((UNREADABLE_INDEX,), limit=_COUNTED_MAX))
    names = [name for name, _ in aside]
    try:
        repaired = {one.id for one in await store.read(names) if readable(one)}
    except StoreReplaced:
        repaired = set()
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
