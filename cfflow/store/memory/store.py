"""A store in this process's memory, and a clock that a test moves.

For tests of code that uses cfflow. It keeps the same bytes as the Redis store and passes the
same suite, so that a record which cannot be encoded fails here too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from secrets import token_urlsafe
from typing import Final

import msgspec

from cfflow.core.chart import HOLDS, OPEN, State
from cfflow.core.draft import Plan
from cfflow.core.flow import Flow
from cfflow.core.record import (
    SCHEMA,
    Attempt,
    Notice,
    Record,
    Snapshot,
    payment_id,
    step_bit,
)
from cfflow.core.siblings import attempt_of
from cfflow.errors import AlreadyPaid, Conflict
from cfflow.store.clock import monotonic_ms
from cfflow.store.memory.feed import MemoryFeed
from cfflow.store.memory.ledger import MemoryLedger
from cfflow.store.protocol import (
    ACTION_MAX_B,
    DUPLICATE_WINDOW_MS,
    Committed,
    Notification,
    Notified,
    Outcome,
    Overdue,
    Page,
    Started,
    decode_action,
    decode_record,
    encode_action,
    encode_events,
    encode_notification,
    encode_record,
    oldest_share,
)

#: A payment that is started within this time after a restart may be one that was lost in it.
_RESTART_MS: Final = 600_000


class FakeClock:
    """A clock that moves only by `advance`. `now_ms` is milliseconds since the epoch."""

    def __init__(self, now_ms: int = 1_760_000_000_000) -> None:
        self.now_ms = now_ms

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now_ms += round(seconds * 1000)


class _Order(msgspec.Struct):
    attempts: list[Attempt]
    records: dict[int, bytes]
    actions: dict[int, bytes]
    notices: dict[int, Notice] = {}


class MemoryStore:
    """Keeps payments in memory. With a `FakeClock` a test moves its time, otherwise it is real.

    `feed_max`: how many entries a partition of the feed keeps for groups that do not exist yet.
    """

    def __init__(self, clock: FakeClock | None = None, *, feed_max: int = 1_000) -> None:
        self.clock = clock
        self.events: list[bytes] = []
        self._orders: dict[str, _Order] = {}
        self._flows: dict[str, bytes] = {}
        self._wakes: dict[str, int] = {}
        self._seen_until_at_ms: dict[str, int] = {}
        self._lease_turns = 0
        self._since_ms = 0
        self._offset_ms = time.time() * 1000 - monotonic_ms()
        self._ledger = MemoryLedger(self.now_ms)
        self._feed = MemoryFeed(self.now_ms, feed_max=feed_max)

    def now_ms(self) -> int:
        """Return the clock's time; without one, the time of day, which never goes back."""
        return self.clock.now_ms if self.clock else round(monotonic_ms() + self._offset_ms)

    def ledger(self) -> MemoryLedger:
        """Return the rate budget's ledger, on this store's clock."""
        return self._ledger

    def feed(self) -> MemoryFeed:
        """Return the part of the store that feed consumers use."""
        return self._feed

    async def open(self) -> None:
        """Do nothing: there is no connection."""

    async def aclose(self) -> None:
        """Do nothing: the payments stay."""

    async def start(
        self, order_id: str, record: Record, flow: Flow, *, n: int | None = None
    ) -> Started:
        """Store the order's next payment, or return the one that stands in its way."""
        order = self._orders.setdefault(order_id, _Order([], {}, {}))
        if order.attempts and not order.records:
            raise AlreadyPaid(f"order {order_id} was paid by a payment that has been purged")
        if n is not None and n != len(order.attempts) + 1:
            if n not in order.records:
                raise Conflict(f"order {order_id} has moved: its payment {n} is not the next one")
            return Started("exists", self._snapshot(order_id, n))
        existing = None if n is not None else self._in_the_way(order_id, order)
        if existing is not None:
            return existing
        n = len(order.attempts) + 1
        order.attempts.append(Attempt(State.CREATED))
        order.records[n] = encode_record(msgspec.structs.replace(record, token=token_urlsafe(8)))
        self._flows.setdefault(flow.digest, flow.source)
        self._index_wake(payment_id(order_id, n), record.wake_at_ms)
        return Started("ok", self._snapshot(order_id, n))

    def _in_the_way(self, order_id: str, order: _Order) -> Started | None:
        for n, attempt in enumerate(order.attempts, 1):
            if attempt.state in OPEN and not attempt.abandoned:
                return Started("open", self._snapshot(order_id, n))
            if attempt.state is State.CAPTURED:
                return Started("paid", self._snapshot(order_id, n))
        return None

    async def load(self, order_id: str, n: int) -> Snapshot | None:
        """Return a payment, None if there is none."""
        order = self._orders.get(order_id)
        return self._snapshot(order_id, n) if order and n in order.records else None

    async def commit(self, plan: Plan) -> Committed:
        """Write a plan over the version that it was decided on."""
        snapshot, now_ms = plan.snapshot, self.now_ms()
        order = self._orders.get(snapshot.order_id)
        if order is None or snapshot.n not in order.records:
            return Committed(Outcome.GONE, now_ms)
        stored = decode_record(order.records[snapshot.n])
        if stored.schema > SCHEMA:
            return Committed(Outcome.SCHEMA, now_ms)
        changed = (stored.version, stored.token) != (plan.previous.version, plan.previous.token)
        siblings_with_money = _siblings_with_money(order.attempts, plan)
        unseen = plan.barred_as is None and len(siblings_with_money) > len(
            plan.before.siblings_with_money
        )
        if changed or unseen:
            newest = self._snapshot(snapshot.order_id, snapshot.n)
            return Committed(Outcome.CONFLICT, now_ms, newest)
        if not plan.verified_after_restart and self._may_be_rolled_back(stored):
            return Committed(Outcome.RESTARTED, now_ms, since_at_ms=self._since_ms)
        barred = _forbidden(order.attempts, plan)
        if barred is not None:
            return Committed(barred[0], now_ms, None, barred[1])
        gets_money = order.attempts[snapshot.n - 1].state not in HOLDS
        for sibling in siblings_with_money if gets_money else ():
            self._wakes[payment_id(snapshot.order_id, sibling)] = now_ms
        stored = self._write(order, plan)
        written = msgspec.structs.replace(snapshot, record=stored, attempts=tuple(order.attempts))
        return Committed(Outcome.OK, now_ms, written)

    def _write(self, order: _Order, plan: Plan) -> Record:
        n, record = plan.snapshot.n, plan.record
        stored = msgspec.structs.replace(record, token=token_urlsafe(8))
        order.records[n] = encode_record(stored)
        order.attempts[n - 1] = attempt_of(record)
        if plan.action_changed:
            action = plan.snapshot.next_action
            blob = b"" if action is None else encode_action(action)
            order.actions[n] = blob if len(blob) <= ACTION_MAX_B else b""
        notice = order.notices.get(n)
        if (
            notice
            and notice.at_ms > plan.settles_until_at_ms
            and not notice.adds_nothing_to(record)
        ):
            self._index_wake(plan.snapshot.id, self.now_ms())
        else:
            order.notices.pop(n, None)
            self._index_wake(plan.snapshot.id, record.wake_at_ms)
        events = encode_events(plan)
        self.events.extend(events)
        self._feed.append(plan.snapshot.order_id, events)
        return stored

    async def notify(self, notification: Notification) -> Notified:
        """Make the payments that a notification concerns due now, and write it into the feed."""
        now_ms, cf_payment_id = self.now_ms(), notification.cf_payment_id
        reported = notification.reported_state
        order = self._orders.get(notification.order_id) or _Order([], {}, {})
        due = []
        for n in _concerned(order.attempts, cf_payment_id):
            attempt = order.attempts[n - 1]
            adds_nothing = attempt.cf_payment_id == cf_payment_id and attempt.state == reported
            if not adds_nothing and n in order.records:
                order.notices[n] = _notice(order.notices.get(n), notification, now_ms)
                self._wakes[payment_id(notification.order_id, n)] = now_ms
                due.append(n)
        seen = {name: at_ms for name, at_ms in self._seen_until_at_ms.items() if at_ms > now_ms}
        self._seen_until_at_ms = seen
        new = notification.content_id not in seen
        if new:
            seen[notification.content_id] = now_ms + DUPLICATE_WINDOW_MS
            entry = encode_notification(notification, now_ms)
            self.events.append(entry)
            self._feed.append(notification.order_id, [entry])
        return Notified(tuple(due), duplicate=not new)

    async def clear_notifications(self, snapshot: Snapshot, settles_until_at_ms: int) -> Snapshot:
        """Remove a payment's open notification up to then, without a new version of it."""
        order = self._orders.get(snapshot.order_id)
        notice = order.notices.get(snapshot.n) if order else None
        if order and notice and notice.at_ms <= settles_until_at_ms:
            same = decode_record(order.records[snapshot.n]).token == snapshot.record.token
            if same:
                del order.notices[snapshot.n]
                self._index_wake(snapshot.id, snapshot.record.wake_at_ms)
        return msgspec.structs.replace(snapshot, notice=None)

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began."""
        return self._flows.get(digest)

    async def lease(self, limit: int, lease_ms: int) -> Sequence[Snapshot]:
        """Take due payments: three quarters of those that became due last, one of the oldest."""
        now_ms = self.now_ms()
        due = sorted((at, name) for name, at in self._wakes.items() if at <= now_ms)
        oldest = oldest_share(limit, self._lease_turns)
        self._lease_turns += 1
        newest = due[::-1][: limit - oldest]
        chosen = dict.fromkeys(name for _, name in [*newest, *due[:oldest]])
        for name in chosen:
            self._wakes[name] = now_ms + lease_ms
        return [self._by_name(name) for name in chosen]

    async def defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Give a leased payment another wake time, unless it has changed since it was leased."""
        found = await self.load(snapshot.order_id, snapshot.n)
        same = found is not None and found.record.token == snapshot.record.token
        if same and snapshot.id in self._wakes:
            self._wakes[snapshot.id] = wake_at_ms

    async def overdue(self) -> Overdue:
        """Return how many payments are due and since when."""
        due = [at_ms for at_ms in self._wakes.values() if at_ms <= self.now_ms()]
        return Overdue(len(due), min(due, default=None))

    async def purge(self, payments: Sequence[Snapshot]) -> bool:
        """Remove an order whose payments are exactly these; False if one has changed."""
        order = self._orders.get(payments[0].order_id)
        if order is None or len(order.attempts) != len(payments):
            return False
        tokens = [decode_record(order.records[n]).token for n in sorted(order.records)]
        if order.notices or tokens != [snapshot.record.token for snapshot in payments]:
            return False
        order.records.clear()
        order.actions.clear()
        order.notices.clear()
        if all(attempt.state is not State.CAPTURED for attempt in order.attempts):
            del self._orders[payments[0].order_id]
        for snapshot in payments:
            self._wakes.pop(snapshot.id, None)
        return True

    def restarted(self) -> None:
        """Behave like a server that restarted, and may have lost its last commits."""
        self._since_ms = self.now_ms()

    def _may_be_rolled_back(self, record: Record) -> bool:
        started_again = record.version == 1 and self._since_ms > 0
        return record.updated_at_ms < self._since_ms + (_RESTART_MS if started_again else 0)

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by index, oldest first."""
        found = [
            self._snapshot(order_id, n)
            for order_id, order in self._orders.items()
            for n in order.records
        ]
        found = [snapshot for snapshot in found if page.has(snapshot.record)]
        found.sort(key=lambda snapshot: (snapshot.record.created_at_ms, snapshot.id))
        return found[: page.limit]

    def _snapshot(self, order_id: str, n: int) -> Snapshot:
        order = self._orders[order_id]
        action = decode_action(order.actions.get(n))
        record = decode_record(order.records[n])
        notice = order.notices.get(n)
        return Snapshot(order_id, n, record, action, tuple(order.attempts), notice)

    def _by_name(self, name: str) -> Snapshot:
        order_id, _, n = name.rpartition(".")
        return self._snapshot(order_id, int(n))

    def _index_wake(self, name: str, wake_at_ms: int | None) -> None:
        if wake_at_ms is None:
            self._wakes.pop(name, None)
        else:
            self._wakes[name] = wake_at_ms


def _concerned(attempts: Sequence[Attempt], cf_payment_id: str) -> Sequence[int]:
    """Return which payments a notification about this attempt concerns, as in script.lua."""
    waiting: list[int] = []
    if not cf_payment_id:
        return waiting
    for n, attempt in enumerate(attempts, 1):
        if attempt.cf_payment_id == cf_payment_id:
            return [n]
        unpaid = attempt.state is State.CREATED and not attempt.cf_payment_id
        if unpaid or attempt.state in HOLDS:
            waiting.append(n)
    return waiting or [len(attempts)][: len(attempts)]


def _notice(before: Notice | None, new: Notification, now_ms: int) -> Notice:
    """Return the open notification after a new one; without a state if the two contradict."""
    if before is None:
        return Notice(now_ms, new.cf_payment_id, new.reported_state)
    at_ms = max(now_ms, before.at_ms + 1)
    if before.cf_payment_id != new.cf_payment_id:
        return Notice(at_ms, "*")
    same = before.reported_state == new.reported_state
    return Notice(at_ms, new.cf_payment_id, new.reported_state if same else "")


def _forbidden(attempts: Sequence[Attempt], plan: Plan) -> tuple[Outcome, int] | None:
    """Return why the plan is refused, and because of which other payment; None if it is not."""
    opened = 0 if plan.barred_as is None else step_bit(plan.barred_as)
    for other, attempt in enumerate(attempts, 1):
        if other == plan.snapshot.n:
            continue
        if attempt.cf_payment_id and attempt.cf_payment_id == plan.record.cf_payment_id:
            return Outcome.OWNED, other
        if opened and attempt.state in HOLDS:
            return Outcome.HOLDER, other
        if attempt.bars & opened:
            return Outcome.BLOCKED, other
    return None


def _siblings_with_money(attempts: Sequence[Attempt], plan: Plan) -> list[int]:
    """Return the siblings that hold or took money, if the plan's payment does so too."""
    if plan.record.state not in HOLDS:
        return []
    n = plan.snapshot.n
    return [i for i, attempt in enumerate(attempts, 1) if i != n and attempt.state in HOLDS]
