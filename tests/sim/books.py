"""Rules that the store must keep after every command that changed it (design.md#invariants).

Reads the stored bytes directly, without the code that wrote them. An order whose bytes are the
same object as before has not changed and is skipped, and so is a payment whose bytes are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

import msgspec
from transitions import MachineError

from cfflow.core.chart import FINAL, HOLDS, OPEN, State, fire
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation, Step
from cfflow.core.order import PAYMENTS_MAX, ForeignMoney
from cfflow.core.record import HISTORY_MAX, TRIGGERS, Entry, EntryKind, Record, payment_id
from cfflow.core.restart import Restart
from cfflow.core.schedule import PAY_MARGIN_MS
from cfflow.store.protocol import StoredOrder
from cfflow.testing import MemoryStore
from tests.core.schedule_model import expected_wake, since_may_change
from tests.sim.beside import own_doubts, why_gated, why_not
from tests.sim.disk import Command
from tests.sim.network import Sent
from tests.sim.origins import Origins
from tests.sim.process import Action
from tests.sim.story import Story, described
from tests.sim.truth import Truth

#: The amount of every order in every world.
ORDER_AMOUNT = Decimal("170.00")

#: A commit is carried out so long after its decision at most: late commands, slow networks.
_WRITTEN_WITHIN_MS = 10_000

_HOLDING = {"authorized", "captured"}
_PROVED_BY = {
    State.AUTHORIZED: _HOLDING,
    State.CAPTURED: {"captured"},
    State.VOIDED: {"voided", "released"},
    State.FAILED: {"failed", "dropped", "cancelled"},
}


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """An order's record as it lies in the store: its payments' bytes, and what the order has."""

    schema: int
    payments: tuple[msgspec.Raw, ...]
    seen_attempt_ids: tuple[str, ...]
    foreign_money: tuple[ForeignMoney, ...]
    verified_in: str
    first_verified_at_ms: int


class Seen(msgspec.Struct, frozen=True):
    """An order as the last look at it found it."""

    stored: StoredOrder
    content: Stored
    actions: dict[int, msgspec.Raw]


_read = msgspec.msgpack.Decoder(Stored).decode
_read_record = msgspec.msgpack.Decoder(Record).decode
_read_actions = msgspec.msgpack.Decoder(dict[int, msgspec.Raw]).decode


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
        #: Every payment as it was stored last, with those that the store has lost or removed.
        self.known: dict[str, Record] = {}
        self.orders: dict[str, Seen] = {}
        self.operations: dict[str, Operation] = {}
        self.secrets: list[bytes] = []
        self.adopted: set[str] = set()
        self.gone: set[str] = set()
        self.rolled_back: set[str] = set()
        self.openers: dict[str, str] = {}
        #: Payments whose attempt was found by a pay that had no time of the gateway's clock.
        self.untimed: set[str] = set()
        self.opened_ms: dict[str, int] = {}
        #: Which call stored a step, and the token of the commit that did it.
        self.stored_by: dict[Action, tuple[str, str]] = {}
        #: Orders that took money and were purged.
        self.paid: set[str] = set()
        #: Every inquiry that was answered, by order, oldest first.
        self.inquiries: dict[str, list[Sent]] = {}
        #: So many commands were carried out.
        self.commands = 0
        #: The orders that the last command has written, notified or removed.
        self.touched: list[str] = []
        #: The histories of the data, oldest first.
        self.histories = [store._restart.history]
        self._opened_at: dict[str, int] = {}
        self._store = store
        self._truth = truth
        self.flow_of = flow_of
        self._story = story
        self._complain = complain
        self._origins = origins
        self._events = 0

    def check(self, command: Command) -> list[str]:
        """Look at everything that a command has changed; return the orders whose record it did."""
        self.commands += 1
        moves, counted, changed = 0, True, []
        self.touched = []
        for order_id, stored in self._store._orders.items():
            was = self.orders.get(order_id)
            if was is not None and was.stored is stored:
                continue
            self.touched.append(order_id)
            if was is not None and was.stored.record is stored.record:
                self.orders[order_id] = msgspec.structs.replace(was, stored=stored)
                continue
            changed.append(order_id)
            new = self._order_changed(command, order_id, was, stored)
            moves, counted = moves + (new or 0), counted and new is not None
        events = len(self._store.events)
        if counted and events - self._events != moves:
            self._complain(f"{moves} news committed, {events - self._events} entries in the feed")
        self._events = events
        if len(self.orders) > len(self._store._orders):
            changed += self._purged()
        return changed

    def notified(self, *, new: bool) -> None:
        """A notification was stored: a new one is in the feed, and it moves nothing."""
        self._events += new

    def restarted(self) -> None:
        """The store has restarted: it continues another history of its data."""
        restart = self._store._restart
        if restart.history in self.histories:
            self._complain("the store restarted, and its history is one that it had before")
        self.histories.append(restart.history)

    @property
    def restart(self) -> Restart:
        """The present history of the data, and since when it is that."""
        return self._store._restart

    def roll_back(self, commands: int) -> None:
        """The store is again as it was after so many commands: continue with what it has now."""
        self.orders = {name: _seen(stored) for name, stored in self._store._orders.items()}
        self.records = {
            payment_id(name, n): _read_record(blob)
            for name, seen in self.orders.items()
            for n, blob in enumerate(seen.content.payments, 1)
        }
        self.known |= self.records
        self.paid &= self._store._markers.keys()
        self.rolled_back |= {key for key, at in self._opened_at.items() if at > commands}
        self._events = len(self._store.events)

    @property
    def last_opened(self) -> int:
        """The number of the command that stored the newest step, 0 without one."""
        return max(self._opened_at.values(), default=0)

    def payments_of(self, order_id: str) -> dict[str, Record]:
        """Return the payments of an order by id, lowest number first."""
        seen = self.orders.get(order_id)
        count = 0 if seen is None else len(seen.content.payments)
        names = (payment_id(order_id, n) for n in range(1, count + 1))
        return {name: self.records[name] for name in names if name in self.records}

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
        record = self.known[name]
        return any(r.acknowledged_at_ms for r in record.reviews) or _by_person(record)

    def order_is_overruled(self, order_id: str) -> bool:
        """Whether a person has decided about any payment of this order."""
        return any(self.overruled(name) for name in self.payments_of(order_id))

    def unowned(self, attempts: Iterable[str]) -> set[str]:
        """Return those attempts that belong to no payment here."""
        return set(attempts) - {record.cf_payment_id for record in self.records.values()}

    def _purged(self) -> list[str]:
        """An order has left the store: all of its payments must have ended long ago."""
        gone = [name for name in self.orders if name not in self._store._orders]
        for order_id in gone:
            payments = self.payments_of(order_id)
            seen = self.orders.pop(order_id)
            if seen.stored.notices:
                self._complain(f"{order_id}: purged while a notification was open")
            taken = any(record.state is State.CAPTURED for record in payments.values())
            if taken:
                self.paid.add(order_id)
            if taken is not (order_id in self._store._markers):
                self._complain(f"{order_id}: purged, and its marker does not show what it took")
            if any(
                member in payments for index in self._store._indexes.values() for member in index
            ):
                self._complain(f"{order_id}: purged, and still in an index")
            for name, record in payments.items():
                del self.records[name]
                self.gone.add(order_id)
                keep_ms = self.flow_of(record.flow).end.retention_s * 1000
                if self._store.now_ms() < record.updated_at_ms + keep_ms or record.open_reviews:
                    self._complain(f"{name}: purged too early")
                if not self.at_end(record):
                    self._complain(f"{name}: purged before its end")
        return gone

    # one order

    def _order_changed(
        self, command: Command, order_id: str, was: Seen | None, stored: StoredOrder
    ) -> int | None:
        """Look at an order that was written; return how many transitions are new."""
        seen = self.orders[order_id] = _seen(stored)
        before = () if was is None else was.content.payments
        if len(seen.content.payments) < len(before):
            self._complain(f"{order_id}: has lost a payment")
        if was is not None and stored.token == was.stored.token:
            self._complain(f"{order_id}: was written, and has the token that it had")
        numbers = [
            n
            for n, blob in enumerate(seen.content.payments, 1)
            if n > len(before) or bytes(blob) != bytes(before[n - 1])
        ]
        known = {n: self.records.get(payment_id(order_id, n)) for n in numbers}
        for n in numbers:
            # All of them first: a rule about one payment looks at the others as they are now.
            name = payment_id(order_id, n)
            self.known[name] = self.records[name] = _read_record(seen.content.payments[n - 1])
        self._check_begun(command, order_id, [n for n in numbers if n > len(before)])
        adopts = self._call(command) == "adopt"
        decisions = len(seen.content.payments) + 1 if adopts else len(numbers)
        moves = []
        for n in numbers:
            name, shown = payment_id(order_id, n), _action_changed(n, was, seen)
            self._check_version(name, known[n], decisions, action_changed=shown)
            moves.append(self._changed(command, name, known[n]))
        for secret in self.secrets:
            if secret in stored.record or secret in stored.actions:
                self._complain(f"{order_id}: the record contains a secret")
        self._check_owners(order_id, seen)
        self._check_two_holds(command, order_id, known)
        self._check_digests(order_id)
        return None if None in moves else sum(new or 0 for new in moves)

    @staticmethod
    def _call(command: Command) -> str:
        return "no call" if command.action is None else command.action.name

    def _check_begun(self, command: Command, order_id: str, numbers: list[int]) -> None:
        """Check that a payment was begun only where no other one stands in its way."""
        if not numbers:
            return
        action = self._call(command)
        if 1 in numbers and order_id in self.paid:
            self._complain(f"{order_id}: begins again by {action}, and it was paid")
        if max(numbers) > PAYMENTS_MAX:
            self._complain(f"{order_id}: has {max(numbers)} payments")
        if action == "adopt":
            for name in (payment_id(order_id, n) for n in numbers):
                if self.records[name].cf_payment_id is None:
                    self._complain(f"{name}: was adopted, and has no attempt")
            return
        if action not in {"start", "replace"} or len(numbers) > 1:
            self._complain(f"{order_id}: {action} began {len(numbers)} payments")
        for name, other in self.payments_of(order_id).items():
            waits = other.state in OPEN and not other.abandoned
            if name != payment_id(order_id, numbers[0]) and (
                waits or other.state is State.CAPTURED
            ):
                self._complain(f"{order_id}: payment {numbers[0]} began beside {name}")

    def _check_owners(self, order_id: str, seen: Seen) -> None:
        """Check that an attempt belongs to one payment at most, and is not foreign then."""
        payments = self.payments_of(order_id).values()
        owned = [record.cf_payment_id for record in payments if record.cf_payment_id]
        if len(owned) > len(set(owned)):
            self._complain(f"{order_id}: two payments own one attempt: {', '.join(owned)}")
        for foreign in seen.content.foreign_money:
            if foreign.cf_payment_id in owned:
                self._complain(f"{order_id}: {foreign.cf_payment_id} is owned and foreign")

    def _check_two_holds(
        self, command: Command, order_id: str, known: dict[int, Record | None]
    ) -> None:
        """Check that the commit which brings a second payment money reviews all that have some.

        A person who resolves a payment has decided about the money already.
        """
        payments = self.payments_of(order_id)
        holding = {name: record for name, record in payments.items() if record.state in HOLDS}
        new = [
            name
            for n, was in known.items()
            if (name := payment_id(order_id, n)) in holding
            and (was is None or was.state not in HOLDS)
        ]
        if not new or len(holding) == 1 or self._call(command) == "resolve":
            return
        for name, record in holding.items():
            if all(review.reason != "two_holds" for review in record.reviews):
                self._complain(f"{name}: has money beside {new[0]}, and no review of it")

    def _check_digests(self, order_id: str) -> None:
        """Check which notifications would be taken for old ones: those of attempts at their end."""
        wanted = sum(
            record.state in FINAL | {State.FAILED} and record.cf_payment_id is not None
            for record in self.payments_of(order_id).values()
        )
        digests = self._store._digests[order_id]
        if len(digests) != 6 * wanted:
            self._complain(f"{order_id}: {wanted} payments have ended, digests: {digests.hex()}")

    # one payment

    def _changed(self, command: Command, name: str, was: Record | None) -> int | None:
        """Look at a payment that was written; return how many transitions are new."""
        record = self.records[name]
        self._story.add_later(command.process.name, described, name, record)
        if record.operation is not None:
            self._check_operation(command, name, record, was)
        self._look_at_owner(name, record, was)
        moves = self._check_history(name, record, was)
        self._check_wake(name, record)
        if was and record.since_at_ms != was.since_at_ms and not since_may_change(was, record):
            self._complain(f"{name}: its wait started again, and nothing had happened")
        self._check_indexes(name, record)
        self._check_truth(name, record)
        self._check_money(name, record, was)
        return moves

    def _check_given_up(self, name: str, before: Operation, operation: Operation) -> None:
        """Check that the lost step, whose place this one takes, was seen to have done nothing."""
        is_pair = {before.step, operation.step} == {Step.CAPTURE, Step.VOID}
        over_at_ms = max(before.deadline_at_ms, before.began_at_ms + PAY_MARGIN_MS)
        unseen = before.not_seen_at_ms is not None and before.not_seen_at_ms >= over_at_ms
        if not is_pair or before.accepted or not unseen:
            self._complain(f"{name}: {operation.step} took the place of {before}")

    def _check_operation(
        self, command: Command, name: str, record: Record, was: Record | None
    ) -> None:
        """Check that nothing bars a step that was opened: no sibling, no restart, no gate."""
        who, operation = command.process.name, record.operation
        before = was.operation if was else None
        if operation and before and operation.step is not before.step:
            self._check_given_up(name, before, operation)
        elif operation and before and operation.began_at_ms != before.began_at_ms:
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
            self._opened_at[operation.key] = self.commands
        if command.action is not None:
            self.stored_by[command.action] = (name, record.token)
        self.operations[operation.key] = operation
        self.opened_ms[operation.key] = record.updated_at_ms
        order_id = name.rpartition(".")[0]
        seen = self.orders[order_id]
        others = [(other, r) for other, r in self.payments_of(order_id).items() if other != name]
        foreign = [f.cf_payment_id for f in seen.content.foreign_money if not f.is_closed]
        reason = (
            own_doubts(operation.step, was or record)
            or why_not(operation.step, others, foreign)
            or why_gated(operation, self._store._gates, who, again=before is not None)
        )
        if reason:
            self._complain(f"{name}: {operation.step} was opened {reason}")
        if seen.stored.stamp != self.histories[-1]:
            self._complain(f"{name}: {operation.step} was opened, its order is not verified")

    def _look_at_owner(self, name: str, record: Record, was: Record | None) -> None:
        """Remember payments whose pay had no time of the gateway's clock.

        Without it an older attempt of the same card looks like the payment's own.
        """
        lost = was.operation if was and was.cf_payment_id is None else None
        if lost and record.cf_payment_id and lost.gateway_at_ms is None:
            self.untimed.add(name)

    def _check_version(
        self, name: str, was: Record | None, decisions: int, *, action_changed: bool
    ) -> None:
        """Check that a change which a caller can see is a version, and that no other one is.

        A commit may hold several `decisions` about one payment.
        """
        record, token = self.records[name], self.orders[name.rpartition(".")[0]].stored.token
        if was is None or action_changed or _differs(was, record):
            before = was.version if was else 0
            if not before < record.version <= before + decisions:
                self._complain(f"{name}: version {record.version} was written after {before}")
            if record.token != token:
                self._complain(f"{name}: has changed, and not the token of its commit")
            if abs(record.updated_at_ms - self._store.now_ms()) > _WRITTEN_WITHIN_MS:
                self._complain(f"{name}: was written now, and shows {record.updated_at_ms}")
        elif (record.version, record.token) != (was.version, was.token):
            self._complain(f"{name}: version {record.version} was written, and nothing changed")

    def _check_history(self, name: str, record: Record, was: Record | None) -> int | None:
        """Check that the history is a path in the chart, ends in the state and only grows.

        Returns how many entries of the feed it is worth; None where a long one was cut.
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
        return sum(entry.kind == EntryKind.TRANSITION for entry in added) + _news(was, record)

    def _check_wake(self, name: str, record: Record) -> None:
        if record.wake_at_ms != expected_wake(record, self.flow_of(record.flow)):
            self._complain(f"{name}: wakes at {record.wake_at_ms}, which is not in the schedule")
        if record.wake_at_ms is None and not self.at_end(record):
            self._complain(f"{name}: is not at its end, and has no wake time")

    def at_end(self, record: Record) -> bool:
        """Whether no worker has to look at this payment again."""
        open_step = record.operation is not None or record.confirming
        watched_ms = record.moved_at_ms + self.flow_of(record.flow).end.late_watch_s * 1000
        late = record.state is State.FAILED and record.asked_at_ms < watched_ms
        awaited = open_step or late or record.pay_given_up_at_ms is not None
        return record.state in FINAL | {State.FAILED} and not awaited

    def _check_indexes(self, name: str, record: Record) -> None:
        """Check that the payment is in the index of its state, and only there."""
        found = {
            index: members[name]
            for index, members in self._store._indexes.items()
            if name in members
        }
        wanted = {record.state.value, *(["review"] if record.open_reviews else [])}
        if found != dict.fromkeys(wanted, record.created_at_ms):
            self._complain(f"{name}: is {record.state}, the indexes have {found}")

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


def _seen(stored: StoredOrder) -> Seen:
    actions = _read_actions(stored.actions) if stored.actions else {}
    return Seen(stored, _read(stored.record), actions)


def _action_changed(n: int, before: Seen | None, now: Seen) -> bool:
    """Whether what the customer has to do next is not what it was."""
    was = None if before is None else before.actions.get(n)
    found = now.actions.get(n)
    return (None if was is None else bytes(was)) != (None if found is None else bytes(found))


def _differs(was: Record, record: Record) -> bool:
    """Whether a caller can see that the payment changed: its state, its money, its step."""
    return (
        was.state is not record.state
        or was.cf_payment_id != record.cf_payment_id
        or (was.amount_held, was.captured_amount) != (record.amount_held, record.captured_amount)
        or was.operation != record.operation
        or was.otp != record.otp
        or was.hold_expires_at_ms != record.hold_expires_at_ms
        or was.failure != record.failure
        or was.reviews != record.reviews
        or was.abandoned is not record.abandoned
        or was.confirming is not record.confirming
    )


def _news(was: Record | None, record: Record) -> int:
    """Return of how many reviews, and of how many holds' ends, the feed has to tell."""
    before = () if was is None else was.reviews
    reviews = sum(review not in before for review in record.reviews)
    return reviews + (_ends_soon(record) and not (was is not None and _ends_soon(was)))


def _ends_soon(record: Record) -> bool:
    """Whether an inquiry has seen the hold in its last day."""
    ends_at_ms = record.hold_expires_at_ms
    held = record.state is State.AUTHORIZED and ends_at_ms is not None
    return held and record.asked_at_ms + 86_400_000 >= (ends_at_ms or 0)


def _by_person(record: Record) -> bool:
    """Whether a person has resolved it: a person may know what no inquiry shows."""
    return any(e.kind == EntryKind.NOTE and "resolved" in e.text for e in record.history)
