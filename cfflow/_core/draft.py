"""A plan in the making: the next record, and the transitions that lead to it.

`Draft` lives inside one decision and is thrown away; what leaves is a frozen `Plan`.
Nothing here reads a clock or a network: every decision is told what time it is.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import msgspec

from cfflow._core.chart import FINAL, State, Trigger, fire, walk
from cfflow._core.flow import Flow
from cfflow._core.observation import Observation
from cfflow._core.record import (
    CALLS,
    STEPS,
    TRIGGERS,
    Entry,
    EntryKind,
    Record,
    Review,
    Snapshot,
    Step,
    appended,
    entry,
)

__all__ = ["LATE_PAY_MS", "PAY_MARGIN_MS", "Draft", "Plan", "Walked", "act_on_hold_ms", "next_wake"]

#: A pay still on its way may arrive after its time limit; "no attempt" counts only when
#: two inquiries this far apart saw none (GATEWAY 3, row 11).
PAY_MARGIN_MS: Final = 15_000

#: A pay that was given up is looked for among the order's attempts for so long.
LATE_PAY_MS: Final = 24 * 3600 * 1000

#: A worker looks at a step this long after the step's own time limit.
_GRACE_MS: Final = 1_000

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
    store may have rolled back. `answers_ms`: it answers every notification up to then.
    """

    snapshot: Snapshot
    before: Snapshot
    walked: tuple[Walked, ...] = ()
    action_changed: bool = False
    opens: bool = False
    assured: bool = False
    answers_ms: int = 0

    @property
    def is_quiet(self) -> bool:
        """Whether it only says that a notification was answered, and nothing has changed by it.

        Such an answer is no new version: the customer's own step must not lose a race to it.
        """
        was, notice = self.previous, self.before.notice
        if notice is None or notice.at_ms > self.answers_ms or self.walked or self.action_changed:
            return False
        counted = ("version", "updated_ms", "asked_ms", "polls", "wake_ms")
        same = {name: getattr(was, name) for name in counted}
        return not self.assured and msgspec.structs.replace(self.record, **same) == was

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
        self.was = snapshot.record
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
        self.set(moved_ms=self.now_ms, polls=0, asked_ms=0)
        if source is not self.state:
            self.next_action = None

    def walk_to(self, target: State, observation: Observation) -> None:
        """Walk the edges from here to `target`, one transition each."""
        attempted = self.get("cf_payment_id") is not None
        for trigger in walk(self.state, target, attempted=attempted):
            self.fire(trigger, observation)

    def review(self, reason: str, detail: str) -> None:
        """Open a review, once a reason: a second observation of the same adds nothing.

        Nor does what somebody has acknowledged already, word for word.
        """
        reviews: list[Review] = list(self.get("reviews"))
        for known in reviews:
            if known.reason == reason and (known.acknowledged_ms is None or known.detail == detail):
                return
        settled = [review for review in reviews if review.acknowledged_ms is not None]
        if len(reviews) >= _REASON_MAX and settled:
            reviews.remove(settled[0])
        self.set(reviews=(*reviews, Review(reason, self.now_ms, detail)))
        self._entries.append(entry(self._offset(), EntryKind.REVIEW, 0, -1, reason))

    def close_operation(self, outcome: str) -> None:
        """Close the open operation and say in the history how it ended."""
        operation = self.get("operation")
        if operation is None:
            return
        self.tell_operation(outcome)
        self.set(operation=None, asked_ms=self.now_ms, polls=0)

    def tell_operation(self, what: str) -> None:
        """Write into the history what became of the open operation."""
        operation = self.get("operation")
        step = STEPS.index(operation.step)
        line = entry(self._offset(), EntryKind.OPERATION, step, operation.sequence, what)
        self._entries.append(line)

    def note(self, what: str) -> None:
        """Write somebody's word into the history: it moved nothing by itself."""
        self._entries.append(entry(self._offset(), EntryKind.NOTE, 0, -1, what))

    def asked(self, at_ms: int) -> None:
        """Count an inquiry that left something to ask for."""
        self.set(asked_ms=at_ms, polls=self.get("polls") + 1)

    def _offset(self) -> int:
        return max(0, self.now_ms - self.was.created_ms)

    def plan(self, *, opens: bool = False, assured: bool = False, answers_ms: int = 0) -> Plan:
        """Freeze the draft into a plan."""
        history, begins = appended(self.was, tuple(self._entries))
        self.set(
            version=self.was.version + 1,
            state=self.state,
            updated_ms=self.now_ms,
            history=history,
            history_from=begins,
        )
        record = msgspec.structs.replace(self.was, **self._changes)
        notice = self.snapshot.notice
        if notice is not None and (notice.at_ms <= answers_ms or notice.is_told_by(record)):
            notice = None
        return Plan(
            snapshot=Snapshot(
                self.snapshot.order_id,
                self.snapshot.n,
                _with_wake(record, self.flow, self.now_ms),
                self.next_action,
                self.snapshot.attempts,
                notice,
            ),
            before=self.snapshot,
            walked=tuple(self._walked),
            action_changed=self.next_action != self.snapshot.next_action,
            opens=opens,
            assured=assured,
            answers_ms=answers_ms,
        )


def _with_wake(record: Record, flow: Flow, now_ms: int) -> Record:
    return msgspec.structs.replace(record, wake_ms=next_wake(record, flow, now_ms))


def next_wake(record: Record, flow: Flow, now_ms: int) -> int | None:
    """Return when somebody must look at this payment again, None at its end.

    The end is `captured` or `voided` with nothing open, and `failed` once nobody waits
    for a late authorization any more. Everything else has a wake time (DESIGN 9.3).
    """
    wake_ms = _next_look(record, flow, now_ms)
    given_up_ms = record.given_up_ms
    if given_up_ms is None or now_ms >= given_up_ms + LATE_PAY_MS:
        return wake_ms
    # A pay that was given up may still arrive, whatever became of the payment since.
    poll_ms = max(now_ms, _poll_at(record, flow))
    return poll_ms if wake_ms is None else min(wake_ms, poll_ms)


def _next_look(record: Record, flow: Flow, now_ms: int) -> int | None:
    operation = record.operation
    if operation is not None and not operation.accepted:
        return max(operation.limit_ms + _GRACE_MS, _missed_until(record), _poll_after(record, flow))
    if operation is not None or record.confirming:
        return _poll_at(record, flow)
    if record.state in FINAL:
        return None
    if record.state is State.FAILED:
        ends_ms = record.moved_ms + flow.end.late_watch_s * 1000
        return min(_poll_at(record, flow), ends_ms) if now_ms < ends_ms else None
    return _WAKES[record.state](record, flow, now_ms)


def _poll_at(record: Record, flow: Flow) -> int:
    """When the flow's schedule asks again, counted from the last answer or move."""
    intervals = flow.poll.after_s
    interval_ms = intervals[min(record.polls, len(intervals) - 1)] * 1000
    since_ms = record.asked_ms or record.moved_ms or record.created_ms
    return since_ms + interval_ms + _jitter_ms(record, interval_ms)


def _jitter_ms(record: Record, interval_ms: int) -> int:
    """Up to a tenth more, so that payments of one moment are not all asked about in one.

    Drawn from the payment itself: a decision knows no randomness.
    """
    share = zlib.crc32(f"{record.nonce}{record.polls}".encode()) % 1000
    return interval_ms * share // 10_000


def _poll_after(record: Record, flow: Flow) -> int:
    """As `_poll_at`, but an operation that nobody asked about yet does not wait for it."""
    return _poll_at(record, flow) if record.asked_ms else 0


def _missed_until(record: Record) -> int:
    operation = record.operation
    if operation is None or operation.step is not Step.PAY or operation.missed_ms is None:
        return 0
    return operation.missed_ms + PAY_MARGIN_MS


def _wake_created(record: Record, flow: Flow, now_ms: int) -> int:
    """An order that nobody paid is asked about when it expires."""
    expires_ms = record.order_expires_ms or record.created_ms + flow.poll.review_after_s * 1000
    return expires_ms if now_ms < expires_ms else _poll_at(record, flow)


def _wake_initiated(record: Record, flow: Flow, _now_ms: int) -> int:
    return _poll_at(record, flow)


def _wake_otp_pending(record: Record, flow: Flow, now_ms: int) -> int:
    """While the customer may type, the bank owes nothing, unless an OTP's answer was lost."""
    otp = record.otp
    if otp is None or otp.accepted or now_ms >= otp.expires_ms:
        return _poll_at(record, flow)
    if otp.submits_used >= flow.otp.submits_max:
        return _poll_at(record, flow)
    return min(otp.expires_ms, _poll_at(record, flow)) if otp.unsure else otp.expires_ms


def act_on_hold_ms(record: Record, flow: Flow) -> int:
    """Return when a hold that nobody captured or voided must end by the flow.

    So long before it lapses as the flow says, but never in the first three quarters of its
    life: a mandate of two hours does not end when it begins.
    """
    ends_ms = record.hold_expires_ms or 0
    life_ms = max(0, ends_ms - record.moved_ms)
    return ends_ms - min(flow.hold_rules.act_before_expiry_s * 1000, life_ms // 4)


def _wake_authorized(record: Record, flow: Flow, now_ms: int) -> int:
    """A hold is looked at before it lapses; an automatic flow expects the money sooner.

    An abandoned one ends at once: it is looked at until it has.
    """
    if record.abandoned:
        return _poll_at(record, flow) if record.asked_ms else now_ms
    if flow.capture == "automatic" or record.hold_expires_ms is None:
        return _poll_at(record, flow)
    act_ms = act_on_hold_ms(record, flow)
    return act_ms if now_ms < act_ms else _poll_at(record, flow)


_WAKES: Final = {
    State.CREATED: _wake_created,
    State.INITIATED: _wake_initiated,
    State.OTP_PENDING: _wake_otp_pending,
    State.AUTHORIZED: _wake_authorized,
}
