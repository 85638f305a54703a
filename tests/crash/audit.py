"""The auditor: compares the bank's ledger and the store of an order with design.md#invariants.

It reads the stored bytes and the ledger, and uses neither the engine nor its log. It returns
one sentence for each broken rule; no sentence means that nothing is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

import httpx
import msgspec
from transitions import MachineError

from cfflow.core.chart import FINAL, HOLDS, State, fire
from cfflow.core.order import REVIEW_INDEX, Snapshot
from cfflow.core.record import TRIGGERS, EntryKind, Record
from cfflow.store.orders import Orders
from cfflow.store.redis.store import RedisStore

__all__ = ["Bank", "Kept", "Order", "findings", "kept_of", "lost", "on_its_way"]

_MONEY: Final = {"authorized", "captured"}
#: What the bank must have done before a payment may be in a state.
_PROVED_BY: Final = {
    State.AUTHORIZED: _MONEY,
    State.CAPTURED: {"captured"},
    State.VOIDED: {"voided", "released"},
    State.FAILED: {"failed", "dropped", "cancelled", "reversed"},
}
#: The states that a payment may have when this is the last effect on its attempt.
_STANDS: Final = {
    "attempt_created": {State.INITIATED, State.OTP_PENDING},
    "authorized": {State.AUTHORIZED},
    "captured": {State.CAPTURED},
    "voided": {State.VOIDED},
    "released": {State.VOIDED},
    "failed": {State.FAILED},
    "dropped": {State.FAILED},
    "cancelled": {State.FAILED},
    "reversed": {State.FAILED},
}


class Line(msgspec.Struct, frozen=True):
    """One line of the bank's ledger."""

    effect: str
    order_id: str
    cf_payment_id: str
    amount: Decimal


class Calls(msgspec.Struct, frozen=True):
    """How often each call arrived, and how often the bank carried it out."""

    received: dict[str, int]
    performed: dict[str, int]


class Bank(msgspec.Struct, frozen=True):
    """The books of the bank."""

    ledger: list[Line]
    calls: Calls

    @classmethod
    def of(cls, admin: httpx.Client, order_id: str | None = None) -> Bank:
        """Return the books as they are now, of one order or of all."""
        params = {} if order_id is None else {"order_id": order_id}
        answer = admin.get("/ledger", params=params, timeout=30)
        return msgspec.json.decode(answer.content, type=cls)

    def orders(self) -> dict[str, list[Line]]:
        """Return the lines of each order, oldest first."""
        found: dict[str, list[Line]] = {}
        for line in self.ledger:
            found.setdefault(line.order_id, []).append(line)
        return found


class Kept(msgspec.Struct, frozen=True):
    """A payment as the store keeps it: record, indexes, events, and when its order is due."""

    snapshot: Snapshot
    wake_at_ms: int | None
    states: frozenset[State]
    reviewed: bool
    transitions: tuple[tuple[str, str], ...]

    @property
    def record(self) -> Record:
        """The record."""
        return self.snapshot.record


async def kept_of(store: RedisStore, order_id: str) -> list[Kept]:
    """Return everything that the store keeps of an order."""
    order = await Orders(store).load(order_id)
    transitions = await _transitions(store, order_id)
    payments = () if order is None else order.all_payments
    return [await _kept(store, payment, transitions) for payment in payments]


async def _kept(
    store: RedisStore, snapshot: Snapshot, transitions: Mapping[str, list[tuple[str, str]]]
) -> Kept:
    keys, place = store.keys, store.keys.partition(snapshot.order_id)
    score = await store.link.command("ZSCORE", keys.wake(place), snapshot.order_id)
    states = [
        state
        for state in State
        if await store.link.command("ZSCORE", keys.index(place, state.value), snapshot.id)
        is not None
    ]
    review = await store.link.command("ZSCORE", keys.index(place, REVIEW_INDEX), snapshot.id)
    wake_at_ms = None if score is None else int(float(score))
    events = tuple(transitions.get(snapshot.id, ()))
    return Kept(snapshot, wake_at_ms, frozenset(states), review is not None, events)


async def _transitions(store: RedisStore, order_id: str) -> dict[str, list[tuple[str, str]]]:
    """Return the transitions in the feed of the order's partition, by payment."""
    events = store.keys.events(store.keys.partition(order_id))
    transitions: dict[str, list[tuple[str, str]]] = {}
    for _, fields in await store.link.command("XRANGE", events, "-", "+"):
        blob = fields[1] if isinstance(fields, list) else fields[b"e"]
        event = msgspec.msgpack.decode(blob)
        if event.get("kind", "transition") == "transition":
            transitions.setdefault(event["payment_id"], []).append(
                (event["from_state"], event["to_state"])
            )
    return transitions


class Order(msgspec.Struct, frozen=True):
    """One order: the store's payments and the bank's lines."""

    payments: Sequence[Kept]
    lines: Sequence[Line]

    @property
    def attempts(self) -> dict[str, list[Line]]:
        """The bank's lines by attempt."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.cf_payment_id, []).append(line)
        return found

    @property
    def reviewed(self) -> bool:
        """Whether a payment of this order has an open review."""
        return any(kept.record.open_reviews for kept in self.payments)


def findings(order: Order) -> list[str]:
    """Return the broken rules among those that hold at every moment."""
    found = [*_twice(order)]
    for kept in order.payments:
        found += _of_record(kept)
        found += _of_indexes(kept)
        found += _ahead(kept, order.attempts)
    return found


def lost(order: Order) -> list[str]:
    """Return the broken rules among those that hold once every worker is done: no lost money."""
    owned = {kept.record.cf_payment_id: kept for kept in order.payments}
    found = []
    for name, lines in order.attempts.items():
        kept = owned.get(name)
        if kept is None and not order.reviewed:
            found.append(f"attempt {name} ({_effects(lines)}) belongs to no payment")
        if kept is not None and not kept.record.open_reviews:
            found += _differs(kept, lines)
    for kept in order.payments:
        if on_its_way(kept.record) and not kept.record.open_reviews:
            found.append(f"{kept.snapshot.id}: a step is still open, and no review is open")
    return found


def on_its_way(record: Record) -> bool:
    """Return whether cfflow or the bank has not decided something yet."""
    return record.operation is not None or record.confirming


def _at_end(record: Record) -> bool:
    """Return whether no worker has to look at a payment again."""
    return not on_its_way(record) and record.state in FINAL | {State.FAILED}


def _twice(order: Order) -> Iterator[str]:
    """Yield double effects: two captures, a capture and a void, two attempts with money."""
    with_money = []
    for name, lines in order.attempts.items():
        times = Counter(line.effect for line in lines)
        if times["captured"] > 1:
            yield f"the bank captured attempt {name} {times['captured']} times"
        if times["captured"] and times["voided"] + times["released"]:
            yield f"the bank captured and gave back attempt {name}"
        if times["authorized"] + times["captured"] and not times["voided"] + times["released"]:
            with_money.append(name)
    if len(with_money) > 1 and not order.reviewed:
        yield f"attempts {', '.join(with_money)} have the money of one order"
    owners = Counter(kept.record.cf_payment_id for kept in order.payments)
    for attempt, times_owned in owners.items():
        if attempt is not None and times_owned > 1:
            yield f"{times_owned} payments own attempt {attempt}"


def _of_record(kept: Kept) -> Iterator[str]:
    """Yield a history that is not a path, amounts that do not fit, events that are missing."""
    record, name = kept.record, kept.snapshot.id
    state, walked = record.history_from or State.CREATED, []
    try:
        for line in record.history:
            if line.kind == EntryKind.TRANSITION:
                before, state = state, fire(state, TRIGGERS[line.code])
                walked.append((before.value, state.value))
    except MachineError:
        yield f"{name}: its history is not a path in the chart"
    if state is not record.state:
        yield f"{name}: is {record.state}, its history ends in {state}"
    if record.history_from is None and tuple(walked) != kept.transitions:
        yield f"{name}: walked {walked}, and the feed has {kept.transitions}"
    taken, held = record.captured_amount, record.amount_held
    if taken is not None and not 0 <= taken <= (taken if held is None else held):
        yield f"{name}: captured {taken} of {held}"


def _of_indexes(kept: Kept) -> Iterator[str]:
    """Yield a missing wake time and each index that differs from the record."""
    record, name = kept.record, kept.snapshot.id
    if record.wake_at_ms is None and not _at_end(record):
        yield f"{name}: is {record.state}, and has no wake time"
    wake_at_ms = kept.snapshot.order.wake_at_ms
    if (kept.wake_at_ms is None) is not (wake_at_ms is None and not kept.snapshot.order.notices):
        yield f"{name}: its order wakes at {wake_at_ms}, the index has {kept.wake_at_ms}"
    if kept.states != {record.state}:
        yield f"{name}: is {record.state}, and listed as {', '.join(sorted(kept.states))}"
    if kept.reviewed is not bool(record.open_reviews):
        yield f"{name}: reviews {record.open_reviews}, listed {kept.reviewed}"


def _ahead(kept: Kept, attempts: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    """Yield a state for which the bank has not done what it needs."""
    record, name = kept.record, kept.snapshot.id
    lines = attempts.get(record.cf_payment_id or "", ())
    effects = {line.effect for line in lines}
    if record.cf_payment_id is not None and not lines:
        yield f"{name}: attempt {record.cf_payment_id} does not exist"
    if record.cf_payment_id is None and record.state not in {State.CREATED, State.FAILED}:
        yield f"{name}: is {record.state} without an attempt"
    wanted = _PROVED_BY.get(record.state)
    if wanted and record.cf_payment_id and not wanted & effects:
        yield f"{name}: is {record.state}, the bank has only {_effects(lines)}"
    taken = sum((line.amount for line in lines if line.effect == "captured"), Decimal(0))
    if record.state is State.CAPTURED and record.captured_amount != taken:
        yield f"{name}: has captured {record.captured_amount}, the bank took {taken}"


def _differs(kept: Kept, lines: Sequence[Line]) -> Iterator[str]:
    record = kept.record
    if record.state not in _STANDS[lines[-1].effect]:
        yield f"{kept.snapshot.id}: is {record.state}, the bank has {_effects(lines)}"
    if record.state in HOLDS and record.amount_held != lines[0].amount:
        yield f"{kept.snapshot.id}: holds {record.amount_held}, the bank {lines[0].amount}"


def _effects(lines: Iterable[Line]) -> str:
    return ", ".join(line.effect for line in lines) or "nothing"
