"""The rules that every write of an order and every step that is sent must keep.

The rules are written from the design a second time, and read only what was stored: what the code
had in mind plays no part. Each counts how often it was put to the test, since a rule that no life
comes to proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cfflow.core.chart import State
from cfflow.core.decide import Answered, Event, Inquired, OrderSeen
from cfflow.core.due import Ask
from cfflow.core.observation import Observation
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Notice, Order
from cfflow.core.record import Record, Sibling
from cfflow.store.protocol import Commit
from tests.core.core_kit import (
    NATIVE,
    PREAUTH,
    SECOND,
    proven,
    states_walked,
)
from tests.core.order_bank import BEGUN_ANEW_MS, NAMING, Kept, OrderBank, Request, Seen
from tests.core.order_facts import (
    ENDS,
    MONEY,
    OVER_MS,
    attempts_of,
    but_for_review,
    bytes_of,
    holds_money,
    index_of,
    is_sent,
    is_young_pay,
    keeps_order,
    names_of,
    opened_step,
    permits,
    visible,
    walked,
)
from tests.core.schedule_model import expected_wake, since_may_change

FLOWS = {flow.name: flow for flow in (NATIVE, PREAUTH)}
PAYMENTS_MAX = 16
MARGIN_MS = 15 * SECOND

ALIVE = {State.INITIATED, State.OTP_PENDING}
TAKING = {Step.PAY, Step.SUBMIT_OTP}
#: The open reviews beside which the customer may pay twice.
UNRESOLVED = {"ambiguous_attempt", "unclaimed_money", "two_holds"}

#: What the bank calls the ends of an attempt.
_TRUTHS = {"captured": State.CAPTURED, "voided": State.VOIDED, "failed": State.FAILED}


class Guard(StrEnum):
    """What a rule forbids or demands; each must have been put to the test by some life."""

    TAKING_BESIDE_MONEY = "a pay or OTP beside a sibling with money"
    TAKING_BESIDE_PAY = "a pay or OTP beside a sibling's open pay"
    TAKING_BESIDE_CAPTURE = "a pay or OTP beside a sibling's open capture or void"
    TAKING_BESIDE_REVIEW = "a pay or OTP beside a review that must be closed first"
    TAKING_BESIDE_FOREIGN = "a pay or OTP beside a foreign attempt with money"
    NAMING_BESIDE_MONEY = "a capture or void beside a sibling with money"
    NAMING_BESIDE_PAY = "a capture or void beside a sibling's open pay"
    NAMING_BESIDE_OTP = "a capture or void beside a sibling's OTP"
    NAMING_BESIDE_ALIVE = "a capture or void beside a sibling's attempt that is not over"
    NAMING_BESIDE_FOREIGN = "a capture or void beside a foreign attempt with money"
    OTHER_BESIDE_MONEY = "a resend of the OTP beside a sibling with money"
    START_BESIDE_OPEN = "a start beside an open payment"
    START_BESIDE_PAID = "a start of a paid order"
    SEVENTEENTH = "a payment more than an order may have"
    TWO_CALLS = "a pay while another one of the order may be on its way"
    NEW_KEY = "a step under a new key"
    SAME_KEY = "a capture or void again under its key"
    LOST_KEY = "a step whose number was used before the loss"
    UNVERIFIED = "a step on an order that was not verified"
    VERIFIED = "a step after one inquiry"
    VERIFIED_TWICE = "a step after two inquiries"
    REPLANNED = "a plan made again on a newer order"
    UNTOUCHED = "a payment that was not decided on"
    WARNED = "a sibling's review in the commit about another payment"
    BOOKKEEPING = "a change that no caller can see"
    VISIBLE = "a change that a caller can see"
    TWO_WITH_MONEY = "two payments with money"
    SINCE_KEPT = "a wait that goes on"
    SINCE_MOVED = "a wait that begins"
    PROVED = "a state about money that an answer showed"
    ORDER_CLOSED = "a payment that failed because its order is closed"
    FINAL = "a final state that stayed"
    FACTS_KEPT = "an amount that stayed"
    INDEX_LEFT = "a payment that left an index"
    NOTICE_LEFT = "a notification that stayed"
    NOTICE_SETTLED = "a notification that an inquiry settled"
    NOTICE_OLD = "a notification that reports nothing new"
    NOTICE_REFUSED = "a notification that the disk did not add"
    NOTICE_OF_ALL = "a notification that stands for every attempt"
    FOREIGN_SEEN = "a foreign attempt with money in a list"
    FOREIGN_CLOSED = "a foreign attempt that a person has looked at"
    LATE_PAY = "an attempt of a pay that was given up"
    LOST_PAY = "an attempt of a pay that the disk has lost"
    SIBLINGS_ATTEMPT = "an answer with a sibling's attempt"
    HOLD_ONCE = "a second capture or void of one hold"
    ADOPTED = "an attempt that got a payment"
    LEFT_OUT = "an attempt that got none"
    WAKES = "several payments with a wake time"
    LEFT_BEHIND = "an attempt of ours that no payment owns at the end"
    ENDED = "a life that came to its end"


@dataclass(frozen=True)
class Cause:
    """What a write was about: the payments that were decided on, and the events of each.

    `settles` are the notifications that an inquiry may settle.
    """

    what: str
    about: frozenset[int]
    events: Mapping[int, Event] = field(default_factory=dict)
    settles: frozenset[Notice] = frozenset()


@dataclass(frozen=True)
class Write:
    """One write: the disk before and after it, its commit and the time."""

    cause: Cause
    was: Kept
    now: Kept
    commit: Commit
    at_ms: int
    before: Order
    after: Order

    def changed(self) -> Iterator[tuple[int, Record | None, Record]]:
        """Yield each payment's number and its records before and after the write."""
        for n in self.after.siblings:
            yield n, self.before.record(n) if self.before.has(n) else None, self.after.record(n)


class Rules:
    """Checks every write of an order's life and every step that is sent."""

    def __init__(self, bank: OrderBank) -> None:
        self.bank = bank
        self.count: Counter[Guard] = Counter()
        self.asks: dict[str, int] = {}
        self._keys: dict[str, tuple[int, Step, int, bytes]] = {}
        self._effects: Counter[int] = Counter()
        self._on_hold: dict[str, set[int]] = {}
        self._permitted: Counter[str] = Counter()
        self._closed_pays: set[str] = set()
        self._lists_asked: list[int] = []
        self._restarted_at_ms: int | None = None
        self._lost_pays: set[str] = set()

    # before a step

    def obstacles(self, kept: Kept, n: int, step: Step) -> Iterator[Guard]:
        """Yield what forbids this step now, beside the payment's own state."""
        order = kept.order
        taking, naming = step in TAKING, step in NAMING
        for m, other in order.siblings.items():
            if m != n:
                yield from _barred_by(other, taking=taking, naming=naming)
        own = {review.reason for review in order.record(n).open_reviews}
        if taking and own & UNRESOLVED:
            yield Guard.TAKING_BESIDE_REVIEW
        if naming and "two_holds" in own:
            yield Guard.NAMING_BESIDE_MONEY
        owned = {payment.cf_payment_id for payment in order.siblings.values()}
        if (taking or naming) and kept.seen.foreign - kept.seen.closed - owned:
            yield Guard.TAKING_BESIDE_FOREIGN if taking else Guard.NAMING_BESIDE_FOREIGN

    def tries(self, kept: Kept, n: int, step: Step, calls: Iterable[Request], at_ms: int) -> None:
        """Count what stands in the way of a step that the payment by itself would permit."""
        if permits(kept.order.record(n), step):
            self.count.update(self.obstacles(kept, n, step))
            if step is Step.PAY:
                self.count[Guard.TWO_CALLS] += any(is_young_pay(call, at_ms) for call in calls)

    def tries_again(self, kept: Kept, n: int, step: Step) -> None:
        """Count what stands in the way of an open step that is sent again."""
        self.count.update(self.obstacles(kept, n, step))

    def tries_start(self, order: Order) -> None:
        """Count what stands in the way of the next payment."""
        for payment in order.siblings.values():
            self.count[Guard.START_BESIDE_PAID] += payment.state is State.CAPTURED
            self.count[Guard.START_BESIDE_OPEN] += keeps_order(payment)

    def sends(
        self,
        request: Request,
        order: Order,
        calls: Iterable[Request],
        *,
        again: str,
        by_worker: bool,
    ) -> None:
        """A step is sent, perhaps again: no other pay of the order may be on its way with it."""
        operation = request.operation
        self.asks[operation.key] = self.asks[again] if again else len(self.asks)
        if operation.step in NAMING and not again and not by_worker:
            self._permitted[str(request.cf_payment_id)] += 1
        for call in calls if operation.step is Step.PAY else ():
            # One that a person closed, or whose attempt was found, counts no more.
            is_found = order.has(call.n) and order.siblings[call.n].cf_payment_id is not None
            is_over = is_found or call.operation.key in self._closed_pays
            young = is_young_pay(call, request.sent_at_ms)
            assert is_over or not young, "two pays of one order are on their way"

    def acted(self, request: Request) -> None:
        """A step had an effect: each was asked for once, and a hold ends once."""
        operation = request.operation
        ask = self.asks[operation.key]
        self._effects[ask] += 1
        assert self._effects[ask] == 1, f"{operation.step} was executed twice"
        if operation.step in NAMING:
            hold = str(request.cf_payment_id)
            asked = self._on_hold.setdefault(hold, set())
            asked.add(ask)
            self.count[Guard.HOLD_ONCE] += len(asked) > 1
            allowed = max(1, self._permitted[hold])
            assert len(asked) <= allowed, "a capture or void that was not asked for"

    def restarted(self, kept: Kept, at_ms: int) -> None:
        """The disk has restarted, and has lost the steps whose keys it does not have."""
        self._restarted_at_ms = at_ms
        self._lists_asked.clear()
        pays = {key for key, used in self._keys.items() if used[1] is Step.PAY}
        self._lost_pays = pays - kept.seen.keys - kept.seen.settled

    def ended(self, kept: Kept) -> None:
        """Check at the end that what is stored is what the bank has, or that a review is open."""
        self.count[Guard.ENDED] += 1
        order, owners = kept.order, {}
        for n in order.siblings:
            record = order.record(n)
            owners[record.cf_payment_id] = n
            known = self.bank.attempts.get(str(record.cf_payment_id))
            watched_ms = FLOWS[record.flow].end.late_watch_s * SECOND
            seen_until_at_ms = max(record.asked_at_ms, record.moved_at_ms + watched_ms)
            in_time = known is not None and known.since_at_ms < seen_until_at_ms
            if known is not None and in_time and not record.reviews:
                assert _TRUTHS.get(known.truth) == record.state
        for name, key in self.bank.keys.items():
            # What the disk has lost, and what a person has decided on, nothing needs to show.
            if name in owners or key not in kept.seen.keys or key in self._closed_pays:
                continue
            if order.siblings[self._keys[key][0]].cf_payment_id is None:
                self.count[Guard.LEFT_BEHIND] += 1
                has_money = self.bank.attempts[name].truth in {"held", "captured"}
                assert not has_money or any(s.reviews for s in order.siblings.values())

    # after a write

    def check(self, write: Write) -> Seen:
        """Fail where a write breaks a rule; return what it has shown."""
        self._check_order(write)
        for n, was, record in write.changed():
            self._check_version(write, n, was, record)
            if was is None or record != was:
                self._check_payment(write, n, was, record)
            if was is not None and n not in write.cause.about:
                self._check_untouched(write, n, was, record)
        self._check_two_with_money(write)
        self._check_notices(write)
        self._check_opening(write)
        self._check_own_attempts(write)
        self._begin_anew(write)
        seen = write.was.seen
        return Seen(
            foreign=seen.foreign | self._foreign(write),
            closed=seen.closed | self._closed(write),
            keys=seen.keys | self._new_keys(write),
            settled=seen.settled | (self._lost_pays if write.commit.verified else set()),
        )

    def _begin_anew(self, write: Write) -> None:
        """Forget the restart for an order that begins long after it, as the store does."""
        over_at_ms = (self._restarted_at_ms or 0) + BEGUN_ANEW_MS
        if not write.before.payments and write.at_ms >= over_at_ms:
            self._restarted_at_ms = None

    def _new_keys(self, write: Write) -> set[str]:
        """Return the keys of the steps that are open after a write."""
        operations = [record.operation for _, _, record in write.changed()]
        return {operation.key for operation in operations if operation is not None}

    def _check_order(self, write: Write) -> None:
        """Check what holds for the order as a whole."""
        before, after, commit = write.before, write.after, write.commit
        assert len(before.payments) <= len(after.payments) <= PAYMENTS_MAX
        assert after.token == commit.token != before.token
        owned = [s.cf_payment_id for s in after.siblings.values() if s.cf_payment_id is not None]
        assert len(owned) == len(set(owned)), "two payments own one attempt"
        pays = [s for s in after.siblings.values() if opened_step(s) is Step.PAY]
        assert len(pays) <= 1, "two pays are open"
        if write.cause.what == "start":
            assert not any(map(keeps_order, before.siblings.values()))
            assert State.CAPTURED not in {s.state for s in before.siblings.values()}
        wakes = [s.wake_at_ms for s in after.siblings.values() if s.wake_at_ms is not None]
        self.count[Guard.WAKES] += len(wakes) > 1
        assert commit.wake_at_ms == min(wakes, default=None)
        left = write.was.index.keys() - write.now.index.keys()
        self.count[Guard.INDEX_LEFT] += bool(left)
        assert write.now.index == index_of(after)

    def _check_version(self, write: Write, n: int, was: Record | None, record: Record) -> None:
        """Check that version and token change with what a caller can see, and only then."""
        if was is None:
            assert write.cause.what in {"start", "adopt", "inherited"}
            assert record.token == write.commit.token
            return
        same_action = write.before.actions.get(n) == write.after.actions.get(n)
        if visible(was) != visible(record) or not same_action:
            self.count[Guard.VISIBLE] += 1
            assert record.version > was.version
            assert record.token == write.commit.token
            assert record.updated_at_ms == write.at_ms
        else:
            self.count[Guard.BOOKKEEPING] += record != was
            assert (record.version, record.token) == (was.version, was.token)
            assert record.updated_at_ms == was.updated_at_ms

    def _check_payment(self, write: Write, n: int, was: Record | None, record: Record) -> None:
        """Check a payment that was changed: its path, its facts, its wait and its proof."""
        begins = State.CREATED if was is None else was.state
        assert walked(write.commit, n, begins) == record.state
        assert states_walked(record)[-1] == record.state
        assert record.wake_at_ms == expected_wake(record, FLOWS[record.flow])
        if was is None:
            return
        self._check_facts(was, record)
        moved = record.since_at_ms != was.since_at_ms
        self.count[Guard.SINCE_MOVED if moved else Guard.SINCE_KEPT] += 1
        assert not moved or since_may_change(was, record)
        if record.state is not was.state and record.state in ENDS | MONEY:
            self._check_proof(write.cause, n, was, record)

    def _check_facts(self, was: Record, record: Record) -> None:
        """Check that nothing about money goes back or is forgotten."""
        if was.state in {State.CAPTURED, State.VOIDED}:
            self.count[Guard.FINAL] += 1
            assert record.state is was.state
        if was.cf_payment_id is not None:
            assert record.cf_payment_id == was.cf_payment_id
        if was.captured_amount is not None:
            self.count[Guard.FACTS_KEPT] += 1
            assert record.captured_amount == was.captured_amount
        if was.state in ENDS | MONEY and was.amount_held is not None:
            assert record.amount_held == was.amount_held
        if record.captured_amount is not None:
            assert record.state is State.CAPTURED
            assert record.amount_held is None or record.captured_amount <= record.amount_held
        assert record.sequence >= was.sequence

    def _check_proof(self, cause: Cause, n: int, was: Record, record: Record) -> None:
        """Check that an answer of the gateway, or a person, put the payment where it is."""
        event = cause.events.get(n)
        if cause.what in {"person", "adopt"}:
            return
        if isinstance(event, OrderSeen):
            self.count[Guard.ORDER_CLOSED] += 1
            assert (was.state, record.state) == (State.CREATED, State.FAILED)
            assert event.status in {"EXPIRED", "TERMINATED", "PAID", "NOT_FOUND"}
            assert was.operation is None
            return
        assert isinstance(event, Answered | Inquired)
        shown = [o for o in event.observations if o.cf_payment_id == record.cf_payment_id]
        self.count[Guard.PROVED] += 1
        assert record.state in {proven(o)[1] for o in shown}

    def _check_untouched(self, write: Write, n: int, was: Record, record: Record) -> None:
        """Check a payment that was not decided on: its bytes stay, but for one review."""
        self.count[Guard.UNTOUCHED] += 1
        if bytes_of(write.before, n) == bytes_of(write.after, n):
            return
        self.count[Guard.WARNED] += 1
        got_money = [
            m
            for m in write.cause.about
            if holds_money(write.after, m) and not holds_money(write.before, m)
        ]
        assert got_money and was.state in MONEY, "a payment changed that was not decided on"
        new = [review for review in record.reviews if review not in was.reviews]
        assert [(r.reason, r.acknowledged_at_ms) for r in new] == [("two_holds", None)]
        assert but_for_review(record) == but_for_review(was)

    def _check_two_with_money(self, write: Write) -> None:
        """Check that of two payments with money both have the review, from the same commit on."""
        with_money = [n for n in write.after.siblings if holds_money(write.after, n)]
        if len(with_money) < 2:
            return
        self.count[Guard.TWO_WITH_MONEY] += 1
        for n in with_money:
            reviews = [r for r in write.after.siblings[n].reviews if r.reason == "two_holds"]
            others = [write.after.siblings[m].cf_payment_id for m in with_money if m != n]
            is_open = any(review.acknowledged_at_ms is None for review in reviews)
            named = {name for review in reviews for name in attempts_of(review)}
            assert is_open or named.issuperset(filter(None, others)), f"{n} has no review"

    def _check_notices(self, write: Write) -> None:
        """Check that no notification went but those that an inquiry answered, or that are old."""
        before = {notice.cf_payment_id: notice for notice in write.before.notices}
        after = {notice.cf_payment_id: notice for notice in write.after.notices}
        assert after.items() <= before.items()
        self.count[Guard.NOTICE_LEFT] += len(after)
        assert write.now.due_at_ms == (write.at_ms if after else write.commit.wake_at_ms)
        for name in before.keys() - after.keys():
            if before[name] in write.cause.settles:
                self.count[Guard.NOTICE_SETTLED] += 1
                self.count[Guard.NOTICE_OF_ALL] += name == "*"
                continue
            self.count[Guard.NOTICE_OLD] += 1
            owners = [s for s in write.after.siblings.values() if s.cf_payment_id == name]
            state = before[name].reported_state
            assert [s.state for s in owners] == [state], "a notification was lost"

    def _check_opening(self, write: Write) -> None:
        """Check a step that was stored to be sent: whether it may begin now, and its key.

        To leave for the bank's page is no step, but the customer pays there all the same.
        """
        opened = [
            (n, record)
            for n, was, record in write.changed()
            if record.operation is not None and is_sent(was, record)
        ]
        assert write.commit.opens == bool(opened)
        if write.cause.what == "leave":
            barred = [
                g for n in write.cause.about for g in self.obstacles(write.now, n, Step.SUBMIT_OTP)
            ]
            assert barred == []
        for n, record in opened:
            operation = record.operation
            assert operation is not None
            assert write.cause.about == {n} and write.cause.what == "step"
            assert list(self.obstacles(write.now, n, operation.step)) == []
            self._check_key(n, operation, write.before.record(n))
            self._check_verified(write, operation.step)

    def _check_key(self, n: int, operation: Operation, was: Record) -> None:
        """Check that no key is used twice, but for the same capture or void again."""
        used, old = self._keys.get(operation.key), was.operation
        this = (n, operation.step, operation.sequence, operation.body)
        if used is not None:
            self.count[Guard.SAME_KEY] += 1
            assert operation.step in NAMING and this == used
            assert old is not None and operation.key == old.key
            return
        self.count[Guard.NEW_KEY] += 1
        self.count[Guard.LOST_KEY] += any(one[:3] == this[:3] for one in self._keys.values())
        self._keys[operation.key] = this

    def _check_verified(self, write: Write, step: Step) -> None:
        """Check that after a restart the order was verified; twice for a pay, if one was lost."""
        if self._restarted_at_ms is None:
            return
        ready_at_ms = self._restarted_at_ms + OVER_MS
        asked = [at_ms for at_ms in self._lists_asked if at_ms >= ready_at_ms]
        assert asked, "a step on an order that was not verified"
        apart = asked[-1] - asked[0] >= MARGIN_MS
        self.count[Guard.VERIFIED_TWICE if apart else Guard.VERIFIED] += 1
        lost = self._lost_pays - write.was.seen.settled
        assert apart or step is not Step.PAY or not lost, "asked once, and a pay was lost"

    def verified(self, asked_at_ms: int) -> None:
        """A list was stored for all payments, with a fresh nonce for each."""
        self._lists_asked.append(asked_at_ms)

    def _check_own_attempts(self, write: Write) -> None:
        """Check that an attempt which a pay of ours left behind has a payment or a review."""
        owned = {s.cf_payment_id for s in write.after.siblings.values()}
        named = {name for n in write.after.siblings for name in names_of(write.after.record(n))}
        for n, observation in self._listed(write.cause):
            name = str(observation.cf_payment_id)
            key = self.bank.keys.get(name, "")
            if name in owned or not key or proven(observation)[1] is State.FAILED:
                continue
            given_up = write.before.record(n).pay_given_up_at_ms is not None
            if given_up and self._keys[key][0] == n and write.after.record(n).operation is None:
                self.count[Guard.LATE_PAY] += 1
                assert name in named, "an attempt of a pay that was given up was overlooked"
            whole = write.cause.about == write.after.siblings.keys()
            if key in self._lost_pays and write.cause.what == "verify" and whole:
                self.count[Guard.LOST_PAY] += 1
                assert name in named, "an attempt of a lost pay was overlooked"

    def _listed(self, cause: Cause) -> Iterator[tuple[int, Observation]]:
        """Yield what lists have shown, for each payment that they were decided for."""
        for n, event in cause.events.items():
            if isinstance(event, Inquired) and event.everything:
                for observation in event.observations:
                    if observation.cf_payment_id in self.bank.attempts:
                        yield n, observation

    def _foreign(self, write: Write) -> frozenset[str]:
        """Return the attempts of no payment that lists have shown with money."""
        owned = {s.cf_payment_id for s in write.after.siblings.values()}
        shown = {
            str(observation.cf_payment_id)
            for _, observation in self._listed(write.cause)
            if proven(observation)[1] in MONEY and observation.cf_payment_id not in owned
        }
        self.count[Guard.FOREIGN_SEEN] += len(shown)
        return frozenset(shown)

    def _closed(self, write: Write) -> frozenset[str]:
        """Return the attempts that a review named which a person has closed."""
        if write.cause.what != "person":
            return frozenset()
        closed: set[str] = set()
        for n, was, record in write.changed():
            open_before = set(was.open_reviews if was else ())
            reviews = open_before - set(record.open_reviews)
            closed |= {name for review in reviews for name in attempts_of(review)}
            if reviews:
                self._permitted[str(record.cf_payment_id)] += 1
                keys = {key for key, used in self._keys.items() if used[0] == n}
                self._closed_pays |= keys
        self.count[Guard.FOREIGN_CLOSED] += bool(closed & write.was.seen.foreign)
        return frozenset(closed)


def _barred_by(other: Sibling, *, taking: bool, naming: bool) -> Iterator[Guard]:
    """Yield what of a sibling forbids a step that takes money, or one that names the order."""
    step = opened_step(other)
    if other.state in MONEY:
        guards = {taking: Guard.TAKING_BESIDE_MONEY, naming: Guard.NAMING_BESIDE_MONEY}
        yield guards.get(True, Guard.OTHER_BESIDE_MONEY)
    if step is Step.PAY and (taking or naming):
        yield Guard.TAKING_BESIDE_PAY if taking else Guard.NAMING_BESIDE_PAY
    if step is Step.SUBMIT_OTP and naming:
        yield Guard.NAMING_BESIDE_OTP
    if step in NAMING and taking:
        yield Guard.TAKING_BESIDE_CAPTURE
    if other.state in ALIVE and naming:
        yield Guard.NAMING_BESIDE_ALIVE
    if taking and UNRESOLVED & {review.reason for review in other.open_reviews}:
        yield Guard.TAKING_BESIDE_REVIEW


def may_settle(order: Order, what: Ask, payments: Iterable[int], notice: Notice) -> bool:
    """Return whether an inquiry that is decided for these payments answers a notification."""
    asked = {n: order.siblings[n] for n in payments}
    if not concerned_by(order, notice.cf_payment_id) <= asked.keys():
        return False
    attempts = {payment.cf_payment_id for payment in asked.values()}
    if what is Ask.PAYMENT:
        return attempts == {notice.cf_payment_id}
    return what is Ask.PAYMENTS or (what is Ask.ORDER and attempts == {None})


def concerned_by(order: Order, name: str) -> set[int]:
    """Return the payments that a notification about this attempt is about."""
    if name == "*":
        return set(order.siblings)
    owners = {n for n, s in order.siblings.items() if s.cf_payment_id == name}
    without = {n for n, s in order.siblings.items() if s.cf_payment_id is None}
    unpaid = {n for n in without if order.siblings[n].state is State.CREATED}
    waiting = unpaid | {n for n, s in order.siblings.items() if s.state in MONEY}
    return owners or waiting or {len(order.payments)}
