"""A plan in the making: the next record, and the transitions that lead to it.

`Draft` lives inside one decision and is thrown away; what leaves is a frozen `Plan`.
Nothing here reads a clock or a network: every decision is told what time it is.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cfflow.core.chart import State, Trigger, fire, walk
from cfflow.core.flow import Flow
from cfflow.core.observation import Observation
from cfflow.core.operation import CLOCK_ERROR_MS
from cfflow.core.record import (
    CALLS,
    SCHEMA,
    STEPS,
    TRIGGERS,
    Entry,
    EntryKind,
    Operation,
    Record,
    Review,
    Snapshot,
    Step,
    appended,
    entry,
)
from cfflow.core.schedule import next_wake

__all__ = ["Draft", "Plan", "Walked"]

#: So many reviews are kept; beyond, the oldest that somebody acknowledged goes first.
_REASON_MAX: Final = 16


class Walked(msgspec.Struct, frozen=True):
    """One edge that a plan walked, and what proved it: one event in log and feed."""

    trigger: Trigger
    from_state: State
    to_state: State
    proof: str
    step: str | None = None
    request_id: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What a decision returns; a commit writes it whole or not at all.

    `before` is the payment as it was decided on. `opens`: it writes down a
    step that will be sent, so the store refuses it while another payment of the order
    holds or has taken money, and makes sure of its replicas. `assured`: the gateway
    was asked for it with a fresh nonce; any other plan is refused once on a record that the
    store may have rolled back. `settles_until_at_ms`: it answers every notification up to then.
    `beside`: it opens nothing, and is refused beside the same payments as this step.
    """

    snapshot: Snapshot
    before: Snapshot
    walked: tuple[Walked, ...] = ()
    action_changed: bool = False
    opens: bool = False
    verified_after_restart: bool = False
    settles_until_at_ms: int = 0
    beside: Step | None = None

    @property
    def barred_as(self) -> Step | None:
        """The step whose bars in the order's entry forbid this plan, None if none do."""
        operation = self.record.operation
        return operation.step if self.opens and operation is not None else self.beside

    @property
    def only_clears_notifications(self) -> bool:
        """Whether it only says that a notification was answered, and nothing has changed by it.

        Such an answer is no new version: the customer's own step must not lose a race to it.
        """
        was, notice = self.previous, self.before.notice
        if (
            notice is None
            or notice.at_ms > self.settles_until_at_ms
            or self.walked
            or self.action_changed
        ):
            return False
        # A wake time that changes is written: an answer settles the moments before it.
        counted = ("schema", "version", "updated_at_ms", "asked_at_ms", "polls")
        same = {name: getattr(was, name) for name in counted}
        return (
            not self.verified_after_restart and msgspec.structs.replace(self.record, **same) == was
        )

    @property
    def record(self) -> Record:
        """The record that this plan writes."""
        return self.snapshot.record

    @property
    def previous(self) -> Record:
        """The record that this plan was decided on."""
        return self.before.record


class Draft:
    """Collects the changes of one decision."""

    def __init__(self, snapshot: Snapshot, flow: Flow, now_ms: int) -> None:
        self.snapshot = snapshot
        self.flow = flow
        self.now_ms = now_ms
        #: When what this decision records happened: now, but for an attempt that is adopted.
        self.happened_at_ms = now_ms
        self.was = _on_this_clock(snapshot.record, now_ms)
        self.state = self.was.state
        self.next_action = snapshot.next_action
        self._changes: dict[str, Any] = {}
        self._walked: list[Walked] = []
        self._entries: list[Entry] = []

    def get(self, name: str) -> Any:
        """Return a field as it will be written."""
        return self._changes.get(name, getattr(self.was, name))

    def set(self, **fields: Any) -> None:
        """Change fields of the record."""
        self._changes.update(fields)

    def fire(self, trigger: Trigger, observation: Observation | None, local: str = "") -> None:
        """Walk one edge. `local` says why when no answer of the gateway did."""
        source, self.state = self.state, fire(self.state, trigger)
        by = -1 if observation is None else CALLS.index(observation.call)
        proof = local if observation is None else observation.brief()
        self._entries.append(
            entry(self._offset(), EntryKind.TRANSITION, TRIGGERS.index(trigger), by, proof)
        )
        operation = self.was.operation
        self._walked.append(
            Walked(
                trigger=trigger,
                from_state=source,
                to_state=self.state,
                proof=local if observation is None else observation.summary(),
                step=operation.step if operation else None,
                request_id="" if observation is None else observation.request_id,
            )
        )
        if source is not self.state:
            self.set(moved_at_ms=self._happened(), since_at_ms=self.now_ms)
            self.next_action = None

    def walk_to(self, target: State, observation: Observation) -> None:
        """Walk the edges from here to `target`, one transition each."""
        attempted = self.get("cf_payment_id") is not None
        for trigger in walk(self.state, target, attempted=attempted):
            self.fire(trigger, observation)

    def review(self, reason: str, detail: str, *, again: bool = False) -> None:
        """Open a review, once a reason: a second observation of the same adds nothing.

        Nor does what somebody has acknowledged already, word for word. With `again` it comes
        back after the flow's `poll.review_after_s`: what is about time that passes is still
        true then, and without a review nobody could end the payment.
        """
        reviews: list[Review] = list(self.get("reviews"))
        pause_ms = self.flow.poll.review_after_s * 1000 if again else None
        for known in reviews:
            if known.reason == reason and not _is_news(known, detail, self.now_ms, pause_ms):
                return
        settled = [review for review in reviews if review.acknowledged_at_ms is not None]
        if len(reviews) >= _REASON_MAX and settled:
            reviews.remove(settled[0])
        self.set(reviews=(*reviews, Review(reason, self.now_ms, detail)))
        self._entries.append(entry(self._offset(), EntryKind.REVIEW, 0, -1, reason))

    def close_operation(self, outcome: str) -> None:
        """Close the open operation and say in the history how it ended."""
        operation = self.get("operation")
        if operation is None:
            return
        self.add_operation_entry(outcome)
        self.set(operation=None)

    def add_operation_entry(self, what: str) -> None:
        """Write into the history what became of the open operation."""
        operation = self.get("operation")
        step = STEPS.index(operation.step)
        line = entry(self._offset(), EntryKind.OPERATION, step, operation.sequence, what)
        self._entries.append(line)

    def note(self, what: str) -> None:
        """Write somebody's word into the history: it moved nothing by itself."""
        self._entries.append(entry(self._offset(), EntryKind.NOTE, 0, -1, what))

    def asked(self, at_ms: int) -> None:
        """Keep when an inquiry was asked that answered for this payment.

        One that was asked well in the future of this clock was timed before the store's clock
        went back. It settles no moment.
        """
        if at_ms <= self.now_ms + CLOCK_ERROR_MS:
            self.set(asked_at_ms=max(min(at_ms, self.now_ms), self.get("asked_at_ms")))

    def record_now(self) -> Record:
        """Return the record as it would be written now, but for its history and wake time."""
        return msgspec.structs.replace(self.was, **self._changes, state=self.state)

    def _happened(self) -> int:
        return max(self.was.created_at_ms, min(self.happened_at_ms, self.now_ms))

    def _offset(self) -> int:
        return max(0, self._happened() - self.was.created_at_ms)

    def plan(
        self,
        *,
        opens: bool = False,
        verified_after_restart: bool = False,
        settles_until_at_ms: int = 0,
        beside: Step | None = None,
    ) -> Plan:
        """Freeze the draft into a plan."""
        history, begins = appended(self.was, tuple(self._entries))
        self.set(
            schema=SCHEMA,
            version=self.was.version + 1,
            state=self.state,
            updated_at_ms=self.now_ms,
            history=history,
            history_from=begins,
        )
        record = msgspec.structs.replace(self.was, **self._changes)
        notice = self.snapshot.notice
        if notice is not None and (
            notice.at_ms <= settles_until_at_ms or notice.adds_nothing_to(record)
        ):
            notice = None
        return Plan(
            snapshot=Snapshot(
                self.snapshot.order_id,
                self.snapshot.n,
                msgspec.structs.replace(record, wake_at_ms=next_wake(record, self.flow)),
                self.next_action,
                self.snapshot.attempts,
                notice,
            ),
            before=self.snapshot,
            walked=tuple(self._walked),
            action_changed=self.next_action != self.snapshot.next_action,
            opens=opens,
            verified_after_restart=verified_after_restart,
            settles_until_at_ms=settles_until_at_ms,
            beside=beside,
        )


def _is_news(known: Review, detail: str, now_ms: int, pause_ms: int | None) -> bool:
    """Say whether the same reason may be opened beside a review that is known."""
    if known.acknowledged_at_ms is None:
        return False
    rested = pause_ms is not None and now_ms >= known.acknowledged_at_ms + pause_ms
    return known.detail != detail or rested


def _on_this_clock(record: Record, now_ms: int) -> Record:
    """Return a record none of whose past moments lies in the future.

    One does only after the store's clock went back. Without this a payment would sleep
    until the clock has caught up, and an open step would count as on its way for so long.
    """
    latest_at_ms = now_ms + CLOCK_ERROR_MS
    past = ("moved_at_ms", "asked_at_ms", "since_at_ms", "pay_given_up_at_ms")
    early = {name: now_ms for name in past if (getattr(record, name) or 0) > latest_at_ms}
    operation = record.operation
    if operation is not None and operation.began_at_ms > latest_at_ms:
        begun_anew = _begun_at(operation, now_ms)
        return msgspec.structs.replace(record, **early, operation=begun_anew)
    return msgspec.structs.replace(record, **early) if early else record


def _begun_at(operation: Operation, now_ms: int) -> Operation:
    """Return an operation as if its call had been sent now, with its whole time limit.

    How long the call has been on its way is not known any more, so it gets all of it again.
    """
    return msgspec.structs.replace(
        operation,
        began_at_ms=now_ms,
        deadline_at_ms=now_ms + max(0, operation.deadline_at_ms - operation.last_sent_at_ms),
        key_began_at_ms=min(operation.key_first_used_at_ms, now_ms),
        sent_at_ms=now_ms,
        not_seen_at_ms=None,
    )
