"""A store in this process's memory. It keeps the same bytes as the Redis store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe

import msgspec

from cfflow.core.restart import Restart
from cfflow.store.clock import monotonic_ms
from cfflow.store.codec import encode_notification
from cfflow.store.common import has_digest, notices_left, notices_with, stamp_of
from cfflow.store.control import paused
from cfflow.store.memory.clock import FakeClock
from cfflow.store.memory.control import MemoryControl
from cfflow.store.memory.feed import MemoryFeed
from cfflow.store.memory.ledger import MemoryLedger
from cfflow.store.memory.signs import MemorySigns
from cfflow.store.protocol import (
    DUPLICATE_WINDOW_MS,
    PAID_MARKER_MS,
    PUT_BACK_INDEX,
    UNREADABLE_INDEX,
    Commit,
    Committed,
    Leased,
    Notification,
    Notified,
    Outcome,
    Overdue,
    Row,
    StoredOrder,
    Window,
    oldest_share,
)


class MemoryStore(MemoryControl):
    """Keeps orders in memory. With a `FakeClock` a test moves its time, otherwise it is real.

    `feed_max`: how many entries a partition of the feed keeps for groups that do not exist yet.
    """

    def __init__(self, clock: FakeClock | None = None, *, feed_max: int = 1_000) -> None:
        super().__init__()
        self.clock = clock
        self.events: list[bytes] = []
        self._orders: dict[str, StoredOrder] = {}
        self._digests: dict[str, bytes] = {}
        self._markers: dict[str, tuple[str, int]] = {}
        self._flows: dict[str, bytes] = {}
        self._wakes: dict[str, int] = {}
        self._leases: dict[str, tuple[str, int]] = {}
        self._indexes: dict[str, dict[str, int]] = {}
        self._seen_until_at_ms: dict[str, int] = {}
        self._notices = self._lease_turns = 0
        self._restart = Restart(token_urlsafe(6))
        self._offset_ms = time.time() * 1000 - monotonic_ms()
        self._ledger = MemoryLedger(self.now_ms)
        self._signs = MemorySigns(self.now_ms)
        self._feed = MemoryFeed(self.now_ms, feed_max=feed_max)

    def now_ms(self) -> int:
        """Return the clock's time; without one, the time of day, which never goes back."""
        return self.clock.now_ms if self.clock else round(monotonic_ms() + self._offset_ms)

    def ledger(self) -> MemoryLedger:
        """Return the rate budget's ledger, on this store's clock."""
        return self._ledger

    def signs(self) -> MemorySigns:
        """Return the workers' signs of life, on this store's clock."""
        return self._signs

    def feed(self) -> MemoryFeed:
        """Return the part of the store that feed consumers use."""
        return self._feed

    async def open(self) -> None:
        """Do nothing: there is no connection."""

    async def aclose(self) -> None:
        """Do nothing: the orders stay."""

    def restarted(self) -> None:
        """Behave like a server that restarted, and may have lost its last commits."""
        self._restart = Restart(token_urlsafe(6), self.now_ms())

    async def read(self, order_ids: Sequence[str]) -> Sequence[StoredOrder]:
        """Return those of these orders that exist."""
        return [self._orders[name] for name in order_ids if name in self._orders]

    async def commit(self, commit: Commit) -> Committed:
        """Write an order over the token that the commit was decided on."""
        now_ms, name = self.now_ms(), commit.order_id
        held, marker = self._orders.get(name), self._marker(name)
        if held is not None and commit.record is not None and held.token == commit.token:
            return Committed(Outcome.APPLIED, now_ms)
        if held is None and (commit.expected or commit.record is None or marker):
            return Committed(Outcome.GONE, now_ms, marker=marker)
        if held is not None and held.token != commit.expected:
            return Committed(Outcome.CONFLICT, now_ms, held)
        if commit.gate in self._gates:
            raise paused(commit.gate, self._gates[commit.gate])
        stamp = stamp_of(held, commit, self._restart, now_ms)
        if stamp is None:
            return Committed(Outcome.RESTARTED, now_ms, restart=self._restart)
        if held is not None and commit.record is None and held.notices:
            return Committed(Outcome.CONFLICT, now_ms, held)
        self._write(held, commit, stamp)
        return Committed(Outcome.APPLIED, now_ms)

    @property
    def _put_back(self) -> dict[str, int]:
        return self._indexes.setdefault(PUT_BACK_INDEX, {})

    def _marker(self, name: str) -> str:
        marker, until_at_ms = self._markers.get(name, ("", 0))
        return marker if self.now_ms() < until_at_ms else ""

    def _write(self, held: StoredOrder | None, commit: Commit, stamp: str) -> None:
        name = commit.order_id
        notices = notices_left(held, commit)
        due_at_ms = self.now_ms() if notices else commit.wake_at_ms
        self._wake(name, due_at_ms, commit.lease)
        self._put_back.pop(name, None)
        if commit.record is None:
            del self._orders[name], self._digests[name]
            self._leases.pop(name, None)
        else:
            kept = held.actions if held else b""
            actions = kept if commit.actions is None else commit.actions
            self._orders[name] = StoredOrder(
                name, stamp, commit.token, commit.record, actions, notices
            )
            self._digests[name] = commit.digests
        if commit.marker:
            self._markers[name] = commit.marker, self.now_ms() + PAID_MARKER_MS
        self._flows.update(commit.flows)
        for change in commit.index:
            members = self._indexes.setdefault(change.index, {})
            members.pop(change.member, None)
            if change.score is not None:
                members[change.member] = change.score
        self.events.extend(commit.events)
        self._feed.append(name, commit.events)

    def _wake(self, name: str, due_at_ms: int | None, lease: str) -> None:
        """Make an order due, but not before the end of another worker's lease."""
        holder, until_at_ms = self._leases.get(name, ("", 0))
        if holder == lease or until_at_ms <= self.now_ms():
            self._leases.pop(name, None)
            until_at_ms = 0
        if due_at_ms is None:
            self._wakes.pop(name, None)
        else:
            self._wakes[name] = max(due_at_ms, until_at_ms)

    async def notify(self, notification: Notification, digest: bytes) -> Notified:
        """Add a notification to its order, and write it into the feed."""
        now_ms, name = self.now_ms(), notification.order_id
        held = self._orders.get(name)
        known = has_digest(self._digests.get(name, b""), digest)
        is_news = held is not None and notification.cf_payment_id != "" and not known
        if held is not None and is_news:
            self._notices += 1
            notices = notices_with(held.notices, notification, self._notices)
            held = self._orders[name] = msgspec.structs.replace(held, notices=notices)
            self._wake(name, now_ms, "")
        seen = {name: at_ms for name, at_ms in self._seen_until_at_ms.items() if at_ms > now_ms}
        self._seen_until_at_ms = seen
        new = notification.content_id not in seen
        if new:
            seen[notification.content_id] = now_ms + DUPLICATE_WINDOW_MS
            entry = encode_notification(notification, now_ms)
            self.events.append(entry)
            self._feed.append(notification.order_id, [entry])
        return Notified(held, is_news, duplicate=not new)

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began."""
        return self._flows.get(digest)

    async def lease(self, limit: int, lease_ms: int) -> Leased:
        """Take due orders: three quarters of those that became due last, one of the oldest."""
        now_ms = self.now_ms()
        due = sorted((at, name) for name, at in self._wakes.items() if at <= now_ms)
        oldest = oldest_share(limit, self._lease_turns)
        self._lease_turns += 1
        lease, until_at_ms = token_urlsafe(6), now_ms + lease_ms
        found = []
        unreadable = []
        for _, name in dict.fromkeys([*due[::-1][: limit - oldest], *due[:oldest]]):
            if name not in self._orders:
                unreadable.append(name)
                await self.set_aside(name, token="")
                continue
            self._wakes[name], self._leases[name] = until_at_ms, (lease, until_at_ms)
            found.append(msgspec.structs.replace(self._orders[name], lease=lease))
        orders = tuple((order, self._restart) for order in found)
        return Leased(orders, tuple(unreadable), until_at_ms)

    async def defer(
        self,
        order_id: str,
        wake_at_ms: int,
        *,
        token: str,
        lease: str = "",
        since_at_ms: int | None = None,
    ) -> StoredOrder | None:
        """End this lease of an order, and make the order due at another time."""
        held = self._orders.get(order_id)
        if held is None or held.token != token:
            return held
        if since_at_ms is None:
            self._put_back.pop(order_id, None)
        if order_id in self._wakes:
            self._wake(order_id, wake_at_ms, lease)
            if since_at_ms is not None:
                earlier = self._put_back.get(order_id, since_at_ms)
                self._put_back[order_id] = min(earlier, since_at_ms)
        return None

    async def set_aside(self, order_id: str, *, token: str) -> None:
        """Take an order that cannot be read out of the wake index, into `unreadable`."""
        held = self._orders.get(order_id)
        if token != (held.token if held else ""):
            return
        self._wakes.pop(order_id, None)
        self._leases.pop(order_id, None)
        self._indexes.setdefault(UNREADABLE_INDEX, {})[order_id] = self.now_ms()

    async def overdue(self) -> Overdue:
        """Return how many orders are due or put back, and since when."""
        due = [at_ms for at_ms in self._wakes.values() if at_ms <= self.now_ms()]
        back = [at_ms for name, at_ms in self._put_back.items() if name in self._wakes]
        return Overdue(len(due), min([*due, *back], default=None), put_back=len(back))

    async def count(self, indexes: Sequence[str]) -> Mapping[str, int]:
        """Return how many members each of these indexes has."""
        return {name: len(self._indexes.get(name, {})) for name in indexes}

    async def find(self, window: Window) -> Sequence[Row]:
        """Return members of indexes with their scores, in the order of the window."""
        to_at_ms = float("inf") if window.to_at_ms is None else window.to_at_ms
        places = sorted(
            (
                (score, member)
                for index in window.indexes
                for member, score in self._indexes.get(index, {}).items()
                if window.from_at_ms <= score <= to_at_ms
            ),
            reverse=window.highest_first,
        )
        if window.after is not None:
            after = window.after[::-1]
            places = [
                place
                for place in places
                if (place < after if window.highest_first else place > after)
            ]
        return [(member, score) for score, member in places[: window.limit]]
