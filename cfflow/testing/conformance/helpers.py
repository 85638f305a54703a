"""Helpers of the suite for stores: commits of plain bytes, and calls that must succeed."""

from __future__ import annotations

import hashlib
from secrets import token_urlsafe
from typing import Any, Final

import msgspec

from cfflow.store.protocol import (
    Commit,
    Committed,
    Leased,
    Notification,
    Outcome,
    Store,
    StoredOrder,
    Window,
)

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60_000

#: A lease that ends while a test waits `SHORT_S`.
SHORT_MS: Final = 500
SHORT_S: Final = 0.7


def new_token() -> str:
    """Return a token that no other commit has."""
    return token_urlsafe(6)


def digest_of(text: str) -> bytes:
    """Return a digest as long as those of a commit."""
    return hashlib.sha256(text.encode()).digest()[:6]


def beginning(order_id: str = "order_1", **fields: Any) -> Commit:
    """Return a commit that begins an order."""
    commit = Commit(order_id=order_id, expected="", token=new_token(), record=b"it began")
    return msgspec.structs.replace(commit, **fields)


def following(order: StoredOrder, **fields: Any) -> Commit:
    """Return a commit that was decided on this order."""
    commit = beginning(order.id, expected=order.token, record=b"it went on")
    return msgspec.structs.replace(commit, **fields)


def removing(order: StoredOrder, **fields: Any) -> Commit:
    """Return a commit that removes this order."""
    return following(order, **{"record": None, "token": "", **fields})


async def begin(store: Store, order_id: str = "order_1", **fields: Any) -> StoredOrder:
    """Begin an order, and return it as it is stored."""
    return await applied(store, beginning(order_id, **fields))


async def due(store: Store, order_id: str = "order_1", **fields: Any) -> StoredOrder:
    """Begin an order that has been due for a second, and return it."""
    return await begin(store, order_id, wake_at_ms=store.now_ms() - SECOND_MS, **fields)


async def changed(store: Store, order: StoredOrder, **fields: Any) -> StoredOrder:
    """Commit to an order, and return it as it is stored now."""
    return await applied(store, following(order, **fields))


async def applied(store: Store, commit: Commit) -> StoredOrder:
    """Commit, which must succeed, and return the order as it is stored now."""
    await outcome_is(Outcome.APPLIED, store, commit)
    return await stored(store, commit.order_id)


async def removed(store: Store, order: StoredOrder, **fields: Any) -> None:
    """Remove an order, which must succeed."""
    await outcome_is(Outcome.APPLIED, store, removing(order, **fields))


async def outcome_is(outcome: Outcome, store: Store, commit: Commit) -> Committed:
    """Commit, which must end like this, and return the result."""
    committed = await store.commit(commit)
    assert committed.outcome is outcome
    return committed


async def stored(store: Store, order_id: str = "order_1") -> StoredOrder:
    """Return an order that exists."""
    (order,) = await store.read([order_id])
    return order


async def due_count(store: Store) -> int:
    """Return how many orders are due now."""
    return (await store.overdue()).count


async def members(store: Store, *indexes: str, **window: Any) -> list[str]:
    """Return the members of these indexes, lowest score first."""
    return [member for member, _ in await store.find(Window(indexes, **window))]


def ids(leased: Leased) -> list[str]:
    """Return the ids of leased orders."""
    return sorted(order.id for order, _ in leased.orders)


def a_notification(attempt: str = "77", state: str = "", **fields: Any) -> Notification:
    """Return a notification about an attempt of order_1; each has a content of its own."""
    given = {"type": "A_WEBHOOK", "content_id": new_token(), "order_id": "order_1"}
    return Notification(cf_payment_id=attempt, reported_state=state, **{**given, **fields})
