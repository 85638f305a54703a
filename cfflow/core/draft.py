"""A plan in the making: the next record, and the transitions that lead to it.

A `Draft` lives inside one decision; the decision returns a frozen `Plan`. The present time is
an argument of every decision.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from cfflow.core.authors import CALLER, CAUSES, Author, Cause
from cfflow.core.bounds import DETAIL_MAX
from cfflow.core.chart import State, Trigger, fire, walk
from cfflow.core.flow import Flow
from cfflow.core.observation import Observation
from cfflow.core.operation import CLOCK_ERROR_MS, Operation
from cfflow.core.order import Notice, Order, Snapshot, adds_nothing
from cfflow.core.plan import Change, Gate, Plan, Walked
from cfflow.core.record import (
    CALLS,
    STEPS,
    TRIGGERS,
    Entry,
    EntryKind,
    Record,
    Review,
    appended,
    entry,
    packed_request_id,
)
from cfflow.core.reviews import Effect, ReviewReason
from cfflow.core.schedule import next_wake

#: So many reviews are stored; beyond that, the oldest acknowledged one is dropped.
_REVIEWS_MAX: Final = 16

#: What makes a new version of a payment when it changes. All else is bookkeeping: when it was
#: asked about, and when it is due. A poll that learned nothing must not cost a customer's step a
#: conflict.
VERSIONED: Final = (
    "state",
    "cf_payment_id",
    "amount_held",
    "captured_amount",
    "operation",
    "otp",
    "hold_expires_at_ms",
    "failure",
    "reviews",
    "abandoned",
    "confirming",
)

_versioned: Final = attrgetter(*VERSIONED)


class _Proof(NamedTuple):
    """What proved a transition: `by` which call's answer (-1: a local decision), and in words."""

    by: int
    brief: str
    summary: str
    request_id: str = ""
    packed_request_id: bytes | None = None


def _proof_of(observation: Observation | None, local: str = "") -> _Proof:
    if observation is None:
        return _Proof(-1, local, local)
    request_id = observation.request_id
    return _Proof(
        CALLS.index(observation.call),
        observation.brief(),
        observation.summary(),
        request_id,
        packed_request_id(request_id),
    )


class Draft:
    """Collects the changes of one decision: the fields that a decision may write, each typed.

    `was` is the record as it was read. Its fields without an attribute here never change.
    `author` is who caused the decision.
    """

    def __init__(
        self, snapshot: Snapshot, flow: Flow, now_ms: int, author: Author = CALLER
    ) -> None:
        self.author = author
        self.snapshot = snapshot
        self.order = snapshot.order
        self.flow = flow
        self.now_ms = now_ms
        #: When what this decision records happened: now, but for an attempt that is adopted.
        self.happened_at_ms = now_ms
        self.was = was = _on_this_clock(snapshot.record, now_ms)
        self.next_action = snapshot.next_action
        self.state = was.state
        #: For the schedule, which reads it of drafts and records alike; it never changes.
        self.created_at_ms = was.created_at_ms
        self.nonce = was.nonce
        self.moved_at_ms = was.moved_at_ms
        self.asked_at_ms = was.asked_at_ms
        self.since_at_ms = was.since_at_ms
        self.sequence = was.sequence
        self.amount_held = was.amount_held
        self.captured_amount = was.captured_amount
        self.cf_payment_id = was.cf_payment_id
        self.operation = was.operation
        self.otp = was.otp
        self.hold_began_at_ms = was.hold_began_at_ms
        self.hold_expires_at_ms = was.hold_expires_at_ms
        self.order_expires_at_ms = was.order_expires_at_ms
        self.failure = was.failure
        self.reviews = was.reviews
        self.abandoned = was.abandoned
        self.confirming = was.confirming
        self.details = was.details
        self.seen_attempt_ids = snapshot.order.seen_attempt_ids
        self.foreign_money = snapshot.order.foreign_money
        self.pay_given_up_at_ms = was.pay_given_up_at_ms
        self._walked: list[Walked] = []
        self._entries: list[Entry] = []

    def fire(self, trigger: Trigger, observation: Observation | None, local: str = "") -> None:
        """Walk one edge. `local` is the reason where no answer of the gateway proved it."""
        self._walk(trigger, _proof_of(observation, local))

    def walk_to(self, target: State, observation: Observation) -> None:
        """Walk the edges from here to `target`, one transition each."""
        attempted, proof = self.cf_payment_id is not None, _proof_of(observation)
        for trigger in walk(self.state, target, attempted=attempted):
            self._walk(trigger, proof)

    def _walk(self, trigger: Trigger, proof: _Proof) -> None:
        source, self.state = self.state, fire(self.state, trigger)
        operation = self.was.operation
        # What an open step brought about was caused by whoever began it, whoever asked about it.
        decided = operation is None or self.author.cause is Cause.PERSON
        author = self.author if operation is None or decided else _author_of(operation)
        kind, code = EntryKind.TRANSITION, TRIGGERS.index(trigger)
        text, request = proof.brief, proof.packed_request_id
        self._add(entry(self._offset(), kind, code, proof.by, text, author, request))
        step = None if operation is None else operation.step
        self._walked.append(
            Walked(trigger, source, self.state, proof.summary, step, proof.request_id, author)
        )
        if source is not self.state:
            self.moved_at_ms = self._happened()
            self.since_at_ms = self.now_ms
            self.next_action = None

    def review(self, reason: ReviewReason, detail: str, *, again: bool = False) -> None:
        """Open a review, unless one of this reason is open or was acknowledged with this detail.

        With `again` an acknowledged one comes back after the flow's `poll.review_after_s`: a
        fault that lasts is still there then, and without a review `resolve` is not possible.
        An open one that blocks the order gets the detail too: a person who closes it must have
        seen every attempt that it blocks the order for.
        """
        detail = detail[:DETAIL_MAX]
        reviews = list(self.reviews)
        pause_ms = self.flow.poll.review_after_s * 1000 if again else None
        for known in reviews:
            if known.reason == reason and not _may_open_beside(
                known, detail, self.now_ms, pause_ms
            ):
                if Effect.BLOCKS_PAY in reason.effect:
                    self.reviews = tuple(_with_detail(r, known, detail) for r in reviews)
                return
        settled = [review for review in reviews if review.acknowledged_at_ms is not None]
        if len(reviews) >= _REVIEWS_MAX and settled:
            reviews.remove(settled[0])
        self.reviews = (*reviews, Review(reason.value, self.now_ms, detail))
        self._add(entry(self._offset(), EntryKind.REVIEW, 0, -1, reason, self.author))

    def close_operation(self, outcome: str, request_id: str = "") -> None:
        """Close the operation, if one is open, and write into the history how it ended."""
        if self.operation is not None:
            author = _author_of(self.operation)
            self.add_operation_entry(self.operation, outcome, author, request_id)
            self.operation = None

    def add_operation_entry(
        self, operation: Operation, what: str, author: Author, request_id: str = ""
    ) -> None:
        """Write into the history what became of an operation, and who caused that."""
        step, request = STEPS.index(operation.step), packed_request_id(request_id)
        kind, number = EntryKind.OPERATION, operation.sequence
        self._add(entry(self._offset(), kind, step, number, what, author, request))

    def add_note(self, what: str) -> None:
        """Write a decision of a person, or an adoption, into the history."""
        self._add(entry(self._offset(), EntryKind.NOTE, 0, -1, what, self.author))

    def _add(self, line: Entry) -> None:
        """Add a line to the history; of edges that one answer proved, the last has its id.

        The end of a step has it where the answer proved no edge: an accepted OTP, say.
        """
        last = self._entries[-1] if self._entries else None
        if last is not None and last.request is not None and last.request == line.request:
            if line.kind == EntryKind.OPERATION:
                line = msgspec.structs.replace(line, request=None)
            else:
                self._entries[-1] = msgspec.structs.replace(last, request=None)
        self._entries.append(line)

    def asked(self, at_ms: int) -> None:
        """Store when an inquiry was asked that answered for this payment.

        A time well in the future was taken before the store's clock went back: it settles no
        moment, or the payment would sleep until the clock has caught up.
        """
        if at_ms <= self.now_ms + CLOCK_ERROR_MS:
            self.asked_at_ms = max(min(at_ms, self.now_ms), self.asked_at_ms)

    def _record(self) -> Record:
        """Return the record as it is written, but for its wake time."""
        history, begins = appended(self.was, tuple(self._entries))
        is_visible = self._is_visible()
        return msgspec.structs.replace(
            self.was,
            version=self.was.version + is_visible,
            updated_at_ms=self.now_ms if is_visible else self.was.updated_at_ms,
            state=self.state,
            nonce=self.nonce,
            moved_at_ms=self.moved_at_ms,
            asked_at_ms=self.asked_at_ms,
            since_at_ms=self.since_at_ms,
            sequence=self.sequence,
            amount_held=self.amount_held,
            captured_amount=self.captured_amount,
            cf_payment_id=self.cf_payment_id,
            operation=self.operation,
            otp=self.otp,
            hold_began_at_ms=self.hold_began_at_ms,
            hold_expires_at_ms=self.hold_expires_at_ms,
            order_expires_at_ms=self.order_expires_at_ms,
            failure=self.failure,
            reviews=self.reviews,
            abandoned=self.abandoned,
            confirming=self.confirming,
            details=self.details,
            pay_given_up_at_ms=self.pay_given_up_at_ms,
            history=history,
            history_from=begins,
        )

    def _happened(self) -> int:
        at_ms = min(self.now_ms, self.happened_at_ms)
        return max(self.created_at_ms, at_ms)

    def _offset(self) -> int:
        return self._happened() - self.created_at_ms

    def plan(
        self,
        *,
        opens: bool = False,
        gate: Gate | None = None,
        verified: str = "",
        answered: Collection[Notice] = (),
        keeps_wake: bool = False,
    ) -> Plan:
        """Freeze the draft into a plan. With `keeps_wake` it is due when it was due before.

        `answered` are the notifications that an inquiry has settled; those that report no more
        than the payment's new state are settled too. Each counts whole: a store that lost its
        last ones gives their numbers once more, to others.
        """
        record = self._record()
        if not keeps_wake:
            record = msgspec.structs.replace(record, wake_at_ms=next_wake(record, self.flow))
        after = self._order_with(record)
        settled: tuple[Notice, ...] = ()
        if after.notices:
            after, settled = _settled(after, answered)
        return Plan(
            before=self.order,
            after=after,
            changes=(Change(self.snapshot.n, self.snapshot.record, record, tuple(self._walked)),),
            opens=opens,
            gate=gate,
            verified=verified,
            answered=settled,
        )

    def _is_visible(self) -> bool:
        """Whether a caller can see what changed: a step on the payment as it was is a conflict."""
        if self._walked or self.next_action != self.snapshot.next_action:
            return True
        return _versioned(self) != _versioned(self.was)

    def _order_with(self, record: Record) -> Order:
        """Return the order with this record, and with what the draft changed beside it."""
        n, order = self.snapshot.n, self.order
        payments = list(order.payments)
        payments[n - 1] = record
        actions = order.actions
        if self.next_action is not actions.get(n):
            actions = {i: action for i, action in actions.items() if i != n}
            if self.next_action is not None:
                actions[n] = self.next_action
        return msgspec.structs.replace(
            order,
            payments=tuple(payments),
            actions=actions,
            seen_attempt_ids=self.seen_attempt_ids,
            foreign_money=self.foreign_money,
        )


def _settled(after: Order, answered: Collection[Notice]) -> tuple[Order, tuple[Notice, ...]]:
    """Return the order without the notifications that say nothing new now, and those."""
    settled = tuple(n for n in after.notices if n in answered or adds_nothing(after, n))
    left = tuple(notice for notice in after.notices if notice not in settled)
    return msgspec.structs.replace(after, notices=left), settled


def _author_of(operation: Operation) -> Author:
    """Return who began a step."""
    if not (operation.cause or operation.actor):
        return CALLER
    known = 0 <= operation.cause < len(CAUSES)
    return Author(CAUSES[operation.cause] if known else CALLER.cause, operation.actor)


def _with_detail(review: Review, known: Review, detail: str) -> Review:
    """Return a review, with one more detail if it is this open one and does not have it yet."""
    if review is not known or known.acknowledged_at_ms is not None or detail in known.detail:
        return review
    return msgspec.structs.replace(known, detail=f"{known.detail}; {detail}"[:DETAIL_MAX])


def _may_open_beside(known: Review, detail: str, now_ms: int, pause_ms: int | None) -> bool:
    """Whether a review of the same reason may be opened beside this stored one."""
    if known.acknowledged_at_ms is None:
        return False
    rested = pause_ms is not None and now_ms >= known.acknowledged_at_ms + pause_ms
    return known.detail != detail or rested


def _on_this_clock(record: Record, now_ms: int) -> Record:
    """Return the record with none of its past moments in the future.

    They are there after the store's clock went back. Without this a payment would sleep until
    the clock has caught up, and an open step would count as on its way for as long.
    """
    latest_at_ms = now_ms + CLOCK_ERROR_MS
    operation, given_up_at_ms = record.operation, record.pay_given_up_at_ms or 0
    begun_at_ms = 0 if operation is None else operation.began_at_ms
    moments = (record.moved_at_ms, record.asked_at_ms, record.since_at_ms, given_up_at_ms)
    if max(*moments, begun_at_ms) <= latest_at_ms:
        return record
    past = ("moved_at_ms", "asked_at_ms", "since_at_ms", "pay_given_up_at_ms")
    early = {name: now_ms for name, at in zip(past, moments, strict=True) if at > latest_at_ms}
    if operation is not None and begun_at_ms > latest_at_ms:
        begun_anew = _begun_at(operation, now_ms)
        return msgspec.structs.replace(record, **early, operation=begun_anew)
    return msgspec.structs.replace(record, **early)


def _begun_at(operation: Operation, now_ms: int) -> Operation:
    """Return an operation as if its call had been sent now, with its whole time limit.

    How long the call has been on its way cannot be calculated any more.
    """
    return msgspec.structs.replace(
        operation,
        began_at_ms=now_ms,
        deadline_at_ms=now_ms + max(0, operation.deadline_at_ms - operation.last_sent_at_ms),
        key_began_at_ms=min(operation.key_first_used_at_ms, now_ms),
        sent_at_ms=now_ms,
        not_seen_at_ms=None,
    )
