"""Stores of orders: the protocol, and what a store of your own needs.

A store keeps bytes under names and has no rule about payments. `Store` and `Ledger` are what one
must do, `cfflow.testing.StoreConformance` is the suite that tests it, and
docs/guides/your-own-store.md builds one on SQLite.
"""

from __future__ import annotations

from cfflow.core.restart import NOT_VERIFIED, Restart
from cfflow.errors import Paused, StoreError, StoreReplaced, StoreUnavailable
from cfflow.feed.groups import entries_to_keep
from cfflow.feed.protocol import FeedLog, Reply, Request
from cfflow.limits.ledger import Balance, Entry, Ledger, Use
from cfflow.store.codec import encode_notification
from cfflow.store.common import has_digest, notices_left, notices_with, stamp_of
from cfflow.store.control import paused
from cfflow.store.protocol import (
    BEGUN_ANEW_MS,
    DUPLICATE_WINDOW_MS,
    NOTICES_MAX,
    PAID_MARKER_MS,
    PUT_BACK_INDEX,
    UNREADABLE_INDEX,
    Commit,
    Committed,
    IndexChange,
    Leased,
    Notification,
    Notified,
    Outcome,
    Overdue,
    Row,
    Store,
    StoredOrder,
    Window,
    oldest_share,
)
from cfflow.store.signs import Failing, Sign, Signs

__all__ = [
    "BEGUN_ANEW_MS",
    "DUPLICATE_WINDOW_MS",
    "NOTICES_MAX",
    "NOT_VERIFIED",
    "PAID_MARKER_MS",
    "PUT_BACK_INDEX",
    "UNREADABLE_INDEX",
    "Balance",
    "Commit",
    "Committed",
    "Entry",
    "Failing",
    "FeedLog",
    "IndexChange",
    "Leased",
    "Ledger",
    "Notification",
    "Notified",
    "Outcome",
    "Overdue",
    "Paused",
    "Reply",
    "Request",
    "Restart",
    "Row",
    "Sign",
    "Signs",
    "Store",
    "StoreError",
    "StoreReplaced",
    "StoreUnavailable",
    "StoredOrder",
    "Use",
    "Window",
    "encode_notification",
    "entries_to_keep",
    "has_digest",
    "notices_left",
    "notices_with",
    "oldest_share",
    "paused",
    "stamp_of",
]
