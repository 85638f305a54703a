"""A store in this process's memory, and a clock that stands still until it is moved.

For tests of code that uses cfflow. It keeps the same bytes as the Redis store and passes
the same suite, so that a record which cannot be written fails here too.
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

__all__ = ["FakeClock", "MemoryStore"]

#: A payment that is started within this time of a restart may be one that was lost in it.
_RESTART_MS: Final = 600_000


class FakeClock:
    """A clock that moves only when told to. `now_ms` is milliseconds since the epoch."""

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
    """Keeps payments in memory. Give it a `FakeClock`, or it runs on real time.

    `feed_max`: how many events a partition of the feed keeps for readers yet to come.
    """

    def __init__(self, clock: FakeClock | None = None, *, feed_max: int = 1_000) -> None:
        self.clock = clock
        self.events: list[bytes] = []
        self._orders: dict[str, _Order] = {}
        self._flows: dict[str, bytes] = {}
        self._wakes: dict[str, int] = {}
        self._marks: dict[str, int] = {}
        self._claims = 0
        self._since_ms = 0
        self._offset_ms = time.time() * 1000 - monotonic_ms()
        self._ledger = MemoryLedger(self.now_ms)
        self._feed = MemoryFeed(self.now_ms, feed_max=feed_max)

    def now_ms(self) -> int:
        """Return the clock's time, or the time of day when this was made and counted on since."""
        return self.clock.now_ms if self.clock else round(monotonic_ms() + self._offset_ms)

    def ledger(self) -> MemoryLedger:
        """Return books of the rate budget that go by this store's clock."""
        return self._ledger

    def feed(self) -> MemoryFeed:
        """Return what the feed's readers need."""
        return self._feed

    async def open(self) -> None:
        """Nothing to connect to."""

    async def aclose(self) -> None:
        """Nothing to let go of; the payments stay."""

    async def start(
        self, order_id: str, record: Record, flow: Flow, *, n: int | None = None
    ) -> Started:
        """Begin the order's next payment, or return the one that stands in its way."""
        order = self._orders.setdefault(order_id, _Order([], {}, {}))
        if order.attempts and not order.records:
            raise AlreadyPaid(f"order {order_id} was paid by a payment that has been purged")
        if n is not None and n != len(order.attempts) + 1:
            if n not in order.records:
                raise Conflict(f"order {order_id} has moved: its payment {n} is not the next one")
            return Started("exists", self._snapshot(order_id, n))
        barred = None if n is not None else self._in_the_way(order_id, order)
        if barred is not None:
            return barred
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
        """Return a payment, None where there is none."""
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
        moved = (stored.version, stored.token) != (plan.previous.version, plan.previous.token)
        siblings_with_money = _siblings_with_money(order.attempts, plan)
        unseen = plan.barred_as is None and len(siblings_with_money) > len(
            plan.before.siblings_with_money
        )
        if moved or unseen:
            held = self._snapshot(snapshot.order_id, snapshot.n)
            return Committed(Outcome.CONFLICT, now_ms, held)
        if not plan.verified_after_restart and self._may_be_rolled_back(stored):
            return Committed(Outcome.RESTARTED, now_ms, since_at_ms=self._since_ms)
        barred = _forbidden(order.attempts, plan)
        if barred is not None:
            return Committed(barred[0], now_ms, None, barred[1])
        entered = order.attempts[snapshot.n - 1].state not in HOLDS
        for twin in siblings_with_money if entered else ():
            self._wakes[payment_id(snapshot.order_id, twin)] = now_ms
        kept = self._write(order, plan)
        written = msgspec.structs.replace(snapshot, record=kept, attempts=tuple(order.attempts))
        return Committed(Outcome.OK, now_ms, written)

    def _write(self, order: _Order, plan: Plan) -> Record:
        n, record = plan.snapshot.n, plan.record
        kept = msgspec.structs.replace(record, token=token_urlsafe(8))
        order.records[n] = encode_record(kept)
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
        return kept

    async def notify(self, notification: Notification) -> Notified:
        """Make the payments that a notification is about due now; tell the feed once."""
        now_ms, cf_payment_id = self.now_ms(), notification.cf_payment_id
        reported = notification.reported_state
        order = self._orders.get(notification.order_id) or _Order([], {}, {})
        woken = []
        for n in _concerned(order.attempts, cf_payment_id):
            attempt = order.attempts[n - 1]
            adds_nothing = attempt.cf_payment_id == cf_payment_id and attempt.state == reported
            if not adds_nothing and n in order.records:
                order.notices[n] = _notice(order.notices.get(n), notification, now_ms)
                self._wakes[payment_id(notification.order_id, n)] = now_ms
                woken.append(n)
        self._marks = {mark: until for mark, until in self._marks.items() if until > now_ms}
        new = notification.content_id not in self._marks
        if new:
            self._marks[notification.content_id] = now_ms + DUPLICATE_WINDOW_MS
            entry = encode_notification(notification, now_ms)
            self.events.append(entry)
            self._feed.append(notification.order_id, [entry])
        return Notified(tuple(woken), duplicate=not new)

    async def clear_notifications(self, snapshot: Snapshot, settles_until_at_ms: int) -> Snapshot:
        """Be done with a payment's notifications up to then, without a new version of it."""
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
        """Take due payments, three quarters the newest overdue, one quarter the oldest."""
        now_ms = self.now_ms()
        due = sorted((at, name) for name, at in self._wakes.items() if at <= now_ms)
        oldest = oldest_share(limit, self._claims)
        self._claims += 1
        newest = due[::-1][: limit - oldest]
        chosen = dict.fromkeys(name for _, name in [*newest, *due[:oldest]])
        for name in chosen:
            self._wakes[name] = now_ms + lease_ms
        return [self._by_name(name) for name in chosen]

    async def defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look at a claimed payment at another time, unless somebody has moved it since."""
        found = await self.load(snapshot.order_id, snapshot.n)
        same = found is not None and found.record.token == snapshot.record.token
        if same and snapshot.id in self._wakes:
            self._wakes[snapshot.id] = wake_at_ms

    async def overdue(self) -> Overdue:
        """Return how many payments are due and since when."""
        due = [at_ms for at_ms in self._wakes.values() if at_ms <= self.now_ms()]
        return Overdue(len(due), min(due, default=None))

    async def purge(self, payments: Sequence[Snapshot]) -> bool:
        """Remove an order whose payments are exactly these; False if one has moved."""
        order = self._orders.get(payments[0].order_id)
        if order is None or len(order.attempts) != len(payments):
            return False
        held = [decode_record(order.records[n]).token for n in sorted(order.records)]
        if order.notices or held != [snapshot.record.token for snapshot in payments]:
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
        """Behave as a server that came up again, perhaps without its last commits."""
        self._since_ms = self.now_ms()

    def _may_be_rolled_back(self, record: Record) -> bool:
        anew = record.version == 1 and self._since_ms > 0
        return record.updated_at_ms < self._since_ms + (_RESTART_MS if anew else 0)

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by state, oldest first."""
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
    """Return which payments a notification about this attempt is about, as in cfflow.lua."""
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
    """Return what is noted now; what two say differently, only an inquiry answers."""
    if before is None:
        return Notice(now_ms, new.cf_payment_id, new.reported_state)
    at_ms = max(now_ms, before.at_ms + 1)
    if before.cf_payment_id != new.cf_payment_id:
        return Notice(at_ms, "*")
    same = before.reported_state == new.reported_state
    return Notice(at_ms, new.cf_payment_id, new.reported_state if same else "")


def _forbidden(attempts: Sequence[Attempt], plan: Plan) -> tuple[Outcome, int] | None:
    """Say which other payment of the order stands in the way of this plan."""
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
    """Return the other payments that hold money, where this plan's own does so too."""
    if plan.record.state not in HOLDS:
        return []
    n = plan.snapshot.n
    return [i for i, attempt in enumerate(attempts, 1) if i != n and attempt.state in HOLDS]
