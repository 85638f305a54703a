"""Rules that the store must keep after every command that changed it (design.md#invariants).

Reads the stored bytes directly, without the code that wrote them. A payment whose bytes are
the same object as before has not changed and is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from transitions import MachineError

from cfflow.core.chart import FINAL, HOLDS, State, fire
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation
from cfflow.core.record import HISTORY_MAX, TRIGGERS, Entry, EntryKind, Record, Snapshot, payment_id
from cfflow.store.protocol import decode_record
from cfflow.testing import MemoryStore
from tests.core.schedule_model import expected_wake, since_may_change
from tests.sim.beside import why_not
from tests.sim.origins import Origin, Origins
from tests.sim.story import Story
from tests.sim.truth import Truth

#: The amount of every order in every world.
ORDER_AMOUNT = Decimal("170.00")

_HOLDING = {"authorized", "captured"}
_PROVED_BY = {
    State.AUTHORIZED: _HOLDING,
    State.CAPTURED: {"captured"},
    State.VOIDED: {"voided", "released"},
    State.FAILED: {"failed", "dropped", "cancelled"},
}


class Books:
    """Follows every payment in the store; `complain` is called for every broken rule."""

    def __init__(
        self,
        store: MemoryStore,
        truth: Truth,
        flow_of: Callable[[str], Flow],
        story: Story,
        complain: Callable[[str], None],
        origins: Origins,
    ) -> None:
        self.records: dict[str, Record] = {}
        self.operations: dict[str, Operation] = {}
        self.secrets: list[bytes] = []
        self.adopted: set[str] = set()
        self.gone: set[str] = set()
        self.rolled_back: set[str] = set()
        self.openers: dict[str, str] = {}
        #: Payments whose attempt was found by a pay that had no time of the gateway's clock.
        self.untimed: set[str] = set()
        self.opened_ms: dict[str, int] = {}
        self._store = store
        self._truth = truth
        self.flow_of = flow_of
        self._story = story
        self._complain = complain
        self._origins = origins
        self._blobs: dict[str, bytes] = {}
        self._leases: dict[str, tuple[int, int]] = {}
        self._events = 0

    def check(self, who: str) -> None:
        """Look at everything that the last command has changed."""
        moves, counted = 0, True
        for order_id, order in self._store._orders.items():
            for n, blob in order.records.items():
                name = payment_id(order_id, n)
                if self._blobs.get(name) is not blob:
                    self._blobs[name] = blob
                    new = self._changed(who, name, blob)
                    moves, counted = moves + (new or 0), counted and new is not None
        events = len(self._store.events)
        if counted and events - self._events != moves:
            self._complain(
                f"{moves} transitions committed, {events - self._events} events in the feed"
            )
        self._events = events
        self._end_leases()

    def notified(self, *, new: bool) -> None:
        """A notification was stored: a new one is in the feed, and it moves nothing."""
        self._events += new

    def roll_back(self) -> None:
        """The store has lost its last commits: continue with what it holds now."""
        store = self._store._orders.items()
        blobs = {payment_id(o, n): b for o, order in store for n, b in order.records.items()}
        known = {name: decode_record(blob) for name, blob in blobs.items()}
        for key in self.operations:
            origin = self._origins.find(key)
            past = None if origin is None else known.get(origin.payment_id)
            if origin is None or past is None or not _has_operation(past, origin):
                self.rolled_back.add(key)
        self.records, self._blobs, self._leases = known, blobs, {}
        self._events = len(self._store.events)

    def purged(self, payments: Sequence[Snapshot]) -> None:
        """An order has left the store: all of its payments must have ended long ago."""
        now_ms = self._store.now_ms()
        for snapshot in payments:
            record = self.records.pop(snapshot.id)
            self._blobs.pop(snapshot.id)
            self.gone.add(snapshot.order_id)
            keep_ms = self.flow_of(record.flow).end.retention_s * 1000
            if now_ms < record.updated_at_ms + keep_ms or record.open_reviews:
                self._complain(f"{snapshot.id}: purged too early")
            if not self.at_end(record):
                self._complain(f"{snapshot.id}: purged before its end")

    def openers_of(self, name: str, step: str) -> list[str]:
        """Return the names of the processes that opened steps of this kind on a payment."""
        found = {key: self._origins.find(key) for key in self.openers}
        return [
            self.openers[key]
            for key, origin in found.items()
            if origin and (origin.payment_id, origin.step) == (name, step)
        ]

    def overruled(self, name: str) -> bool:
        """Whether a person has closed a review of this payment or resolved it."""
        record = self.records[name]
        return any(r.acknowledged_at_ms for r in record.reviews) or _by_person(record)

    def order_is_overruled(self, order_id: str) -> bool:
        """Whether a person has decided about any payment of this order."""
        names = [name for name in self.records if name.rpartition(".")[0] == order_id]
        return any(self.overruled(name) for name in names)

    def unowned(self, attempts: Iterable[str]) -> set[str]:
        """Return those attempts that belong to no payment here."""
        return set(attempts) - {record.cf_payment_id for record in self.records.values()}

    def leased(self, ids: list[str], until_ms: int) -> None:
        """A worker leased payments: until then no other worker may lease them."""
        now_ms = self._store.now_ms()
        for name in ids:
            taken_until_ms, _ = self._leases.get(name, (0, 0))
            if taken_until_ms > now_ms:
                self._complain(f"{name} was leased while another worker had it")
            self._leases[name] = (until_ms, self._store._wakes.get(name, 0))

    def _end_leases(self) -> None:
        """A lease ends when the payment gets another wake time."""
        for name, (_, index) in list(self._leases.items()):
            if self._store._wakes.get(name, 0) != index:
                del self._leases[name]

    def _changed(self, who: str, name: str, blob: bytes) -> int | None:
        record, was = decode_record(blob), self.records.get(name)
        self.records[name] = record
        self._story.add(who, f"commits {name} {_described(record)}")
        if record.operation is not None:
            self._check_operation(who, name, record, was)
        for secret in self.secrets:
            if secret in blob:
                self._complain(f"{name}: the record contains a secret")
        self._look_at_owner(name, record, was)
        self._check_version(name, record, was)
        moves = self._check_history(name, record, was)
        self._check_wake(name, record)
        if was and record.since_at_ms != was.since_at_ms and not since_may_change(was, record):
            self._complain(f"{name}: its wait started again, and nothing had happened")
        self._check_order(name, record)
        self._check_truth(name, record)
        self._check_money(name, record, was)
        return moves

    def _check_operation(self, who: str, name: str, record: Record, was: Record | None) -> None:
        """Check that no other payment of the order bars a step that was opened."""
        operation = record.operation
        before = was.operation if was else None
        if operation and before and operation.began_at_ms != before.began_at_ms:
            self._complain(f"{name}: the open {operation.step} began a second time")
        if operation is None or (
            before and before.sends == operation.sends and before.key == operation.key
        ):
            return
        if operation.key not in self.operations:
            self.openers[operation.key] = who
            nonces = {record.nonce} | ({was.nonce} if was else set())
            if not self._origins.learn(name, operation, nonces):
                self._complain(f"{name}: the key of {operation.step} is not made from its name")
        self.operations[operation.key] = operation
        self.opened_ms[operation.key] = record.updated_at_ms
        order_id = name.rpartition(".")[0]
        others = [
            (other, known)
            for other, known in self.records.items()
            if other.rpartition(".")[0] == order_id and other != name
        ]
        reason = why_not(operation.step, was or record, others)
        if reason:
            self._complain(f"{name}: {operation.step} was opened {reason}")

    def _look_at_owner(self, name: str, record: Record, was: Record | None) -> None:
        """Remember payments whose pay had no time of the gateway's clock.

        Without it an older attempt of the same card looks like the payment's own.
        """
        lost = was.operation if was and was.cf_payment_id is None else None
        if lost and record.cf_payment_id and lost.gateway_at_ms is None:
            self.untimed.add(name)

    def _check_version(self, name: str, record: Record, was: Record | None) -> None:
        wanted = was.version + 1 if was else 1
        if record.version != wanted:
            self._complain(f"{name}: version {record.version} was written, {wanted} comes next")

    def _check_history(self, name: str, record: Record, was: Record | None) -> int | None:
        """Check that the history is a path in the chart, ends in the state and only grows.

        Returns how many transitions are new; None where a long one was cut.
        """
        state = record.history_from or State.CREATED
        try:
            for entry in record.history:
                if entry.kind == EntryKind.TRANSITION:
                    state = fire(state, TRIGGERS[entry.code])
        except MachineError:
            self._complain(f"{name}: its history is not a path in the chart")
        if state is not record.state:
            self._complain(f"{name}: is {record.state}, its history ends in {state}")
        before: tuple[Entry, ...] = was.history if was else ()
        if record.history[: len(before)] != before:
            if len(record.history) < HISTORY_MAX:
                self._complain(f"{name}: its history was rewritten")
            return None
        added = record.history[len(before) :]
        return sum(entry.kind == EntryKind.TRANSITION for entry in added)

    def _check_wake(self, name: str, record: Record) -> None:
        indexed = self._store._wakes.get(name)
        flow = self.flow_of(record.flow)
        if record.wake_at_ms != expected_wake(record, flow):
            self._complain(f"{name}: wakes at {record.wake_at_ms}, which is not in the schedule")
        if record.wake_at_ms is None and not self.at_end(record):
            self._complain(f"{name}: is not at its end, and has no wake time")
        order_id, _, n = name.rpartition(".")
        notified = int(n) in self._store._orders[order_id].notices
        # A commit must not delay a notification that no inquiry has settled: it stays due.
        wanted = {self._store.now_ms()} if notified else {record.wake_at_ms}
        if indexed not in wanted:
            self._complain(f"{name}: wakes at {record.wake_at_ms}, its index has {indexed}")

    def at_end(self, record: Record) -> bool:
        """Whether no worker has to look at this payment again."""
        open_step = record.operation is not None or record.confirming
        watched_ms = record.moved_at_ms + self.flow_of(record.flow).end.late_watch_s * 1000
        late = record.state is State.FAILED and record.asked_at_ms < watched_ms
        awaited = open_step or late or record.pay_given_up_at_ms is not None
        return record.state in FINAL | {State.FAILED} and not awaited

    def _check_order(self, name: str, record: Record) -> None:
        order_id, _, n = name.rpartition(".")
        attempt = self._store._orders[order_id].attempts[int(n) - 1]
        entry = (attempt.state, attempt.cf_payment_id, attempt.abandoned)
        if entry != (record.state, record.cf_payment_id or "", record.abandoned):
            self._complain(f"{name}: the order's entry {entry} is not the record's")

    def _check_truth(self, name: str, record: Record) -> None:
        """Check that the bank has done what the payment's state needs."""
        cf_payment_id, state = record.cf_payment_id, record.state
        if _by_person(record):
            return
        if cf_payment_id is None:
            if state not in {State.CREATED, State.FAILED}:
                self._complain(f"{name}: is {state} without an attempt")
            return
        effects = self._truth.effects.get(cf_payment_id)
        if effects is None:
            self._complain(f"{name}: attempt {cf_payment_id} does not exist")
            return
        wanted = _PROVED_BY.get(state)
        if wanted and not wanted & set(effects):
            self._complain(f"{name}: is {state}, the bank has only {', '.join(effects)}")
        owner = self._truth.owners.get(cf_payment_id, "")
        # After `adopt` a payment may own any attempt of its order. A person who resolves a payment
        # before its pay has arrived leaves that attempt to another payment.
        given = owner in self.records and _by_person(self.records[owner])
        adopted = name.rpartition(".")[0] in self.adopted
        if owner != name and not (record.open_reviews or adopted or given or name in self.untimed):
            self._complain(f"{name}: attempt {cf_payment_id} belongs to {owner}")

    def _check_money(self, name: str, record: Record, was: Record | None) -> None:
        differs = record.amount not in {None, ORDER_AMOUNT}
        reviewed = any(review.reason == "order_amount_differs" for review in record.reviews)
        if differs and record.state in HOLDS and not (reviewed or _by_person(record)):
            self._complain(f"{name}: start was given {record.amount}, and no review is open")
        held, taken = record.amount_held, record.captured_amount
        if taken is not None and (taken < 0 or (held is not None and taken > held)):
            self._complain(f"{name}: captured {taken} of {held}")
        if was and was.captured_amount not in {None, taken}:
            self._complain(f"{name}: captured_amount {was.captured_amount} became {taken}")
        truth = self._truth.captured.get(record.cf_payment_id or "", Decimal(0))
        if record.state is State.CAPTURED and not _by_person(record) and taken != truth:
            self._complain(f"{name}: has captured {taken}, the bank took {truth}")
        if was and was.state in FINAL and record.state is not was.state:
            self._complain(f"{name}: left {was.state} for {record.state}")


def _has_operation(record: Record, origin: Origin) -> bool:
    """Whether a record was written after the operation of this key was opened."""
    return origin.sequence <= record.sequence and origin.nonce == record.nonce


def _by_person(record: Record) -> bool:
    """Whether a person has resolved it: a person may know what no inquiry shows."""
    return any(e.kind == EntryKind.NOTE and "resolved" in e.text for e in record.history)


def _described(record: Record) -> str:
    parts = [f"v{record.version} {record.state}"]
    operation = record.operation
    if operation is not None:
        accepted = " accepted" if operation.accepted else ""
        parts.append(f"{operation.step} #{operation.sequence} open{accepted}")
    if record.cf_payment_id:
        parts.append(record.cf_payment_id)
    if record.abandoned:
        parts.append("abandoned")
    reviews = [review.reason for review in record.open_reviews]
    if reviews:
        parts.append(f"review: {', '.join(reviews)}")
    wake = (
        "never"
        if record.wake_at_ms is None
        else f"in {(record.wake_at_ms - record.updated_at_ms) / 1000:.1f} s"
    )
    return ", ".join([*parts, f"wakes {wake}"])
