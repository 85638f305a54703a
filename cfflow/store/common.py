"""What every store does in the same way, for stores that are written in Python.

The Redis store does the same in its script. `cfflow.testing.StoreConformance` tests both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cfflow.core.order import EVERY_ATTEMPT
from cfflow.core.restart import NOT_VERIFIED, Restart
from cfflow.store.protocol import BEGUN_ANEW_MS, NOTICES_MAX, Commit, Notification, StoredOrder

_DIGEST_B: Final = 6


def stamp_of(held: StoredOrder | None, commit: Commit, restart: Restart, now_ms: int) -> str | None:
    """Return the stamp that a commit writes, None where its order must be verified first.

    `held` is the order as it is stored, None for one that begins.
    """
    history, since_at_ms = restart.history, restart.since_at_ms
    begun_anew = since_at_ms > 0 and now_ms < since_at_ms + BEGUN_ANEW_MS
    stamp = held.stamp if held else NOT_VERIFIED if begun_anew else history
    proven_in = commit.verified or (stamp if commit.opens else history)
    return (commit.verified or stamp) if proven_in == history else None


def has_digest(digests: bytes, digest: bytes) -> bool:
    """Whether this digest is one of an order's: the notification reports nothing new."""
    return any(digests[i : i + _DIGEST_B] == digest for i in range(0, len(digests), _DIGEST_B))


def notices_left(held: StoredOrder | None, commit: Commit) -> dict[str, str]:
    """Return the notifications that a commit leaves: it removes those that it lists, unchanged."""
    notices = {} if held is None else held.notices
    return {
        attempt: text for attempt, text in notices.items() if commit.answered.get(attempt) != text
    }


def notices_with(
    notices: Mapping[str, str], notification: Notification, number: int
) -> dict[str, str]:
    """Return an order's notifications after one more, which has this number.

    One is kept for each attempt, without a state if an open one reports another: only an inquiry
    finds out which is right. Beyond `NOTICES_MAX` attempts one stands for all.
    """
    attempt, state = notification.cf_payment_id, notification.reported_state
    if attempt not in notices and len(notices) >= NOTICES_MAX:
        attempt, state = EVERY_ATTEMPT, ""
    before = notices.get(attempt, f":{state}").partition(":")[2]
    return {**notices, attempt: f"{number}:{state if before == state else ''}"}
