"""What happened to a payment, told to people: its history, and why it is where it is."""

from __future__ import annotations

from datetime import datetime

import msgspec

from cfflow._core.chart import State, Trigger, fire
from cfflow._core.decide import resendable
from cfflow._core.draft import PAY_MARGIN_MS
from cfflow._core.flow import Flow
from cfflow._core.record import (
    CALLS,
    STEPS,
    TRIGGERS,
    Entry,
    EntryKind,
    Snapshot,
    Step,
)
from cfflow._core.steps import allowed_steps
from cfflow.payment import moment

__all__ = ["HistoryEntry", "Why", "history_of", "why_of"]


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a payment's history: a transition, an operation's end, or a review."""

    at: datetime
    kind: str
    what: str
    from_state: State | None = None
    to_state: State | None = None
    call: str | None = None
    proof: str = ""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """A payment explained. `str()` gives it as text."""

    payment_id: str
    state: State
    timeline: tuple[HistoryEntry, ...]
    open_operation: str | None
    next_wake: datetime | None
    reviews: tuple[str, ...]
    allowed: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.payment_id} is {self.state}."]
        lines += [f"  {_clock(entry.at)}  {_told(entry)}" for entry in self.timeline]
        lines.append(f"Open: {self.open_operation or 'nothing'}.")
        lines += [f"Review: {review}." for review in self.reviews]
        if self.next_wake is None:
            lines.append("We will not ask again: this is its end.")
        else:
            lines.append(f"We look again at {_clock(self.next_wake)} UTC.")
        lines.append(f"You may call now: {', '.join(self.allowed)}.")
        return "\n".join(lines)


def history_of(snapshot: Snapshot) -> tuple[HistoryEntry, ...]:
    """Return the history of a snapshot, oldest first; the states are walked along the chart."""
    state = snapshot.record.history_from or State.CREATED
    entries = []
    for entry in snapshot.record.history:
        told, state = _entry(snapshot, entry, state)
        entries.append(told)
    return tuple(entries)


def _entry(snapshot: Snapshot, entry: Entry, state: State) -> tuple[HistoryEntry, State]:
    at = moment(snapshot.record.created_ms + entry.offset_ms)
    if entry.kind == EntryKind.TRANSITION:
        trigger: Trigger = TRIGGERS[entry.code]
        reached = fire(state, trigger)
        call = CALLS[entry.by].value if entry.by >= 0 else None
        told = HistoryEntry(
            at=at,
            kind="transition",
            what=trigger.value,
            from_state=state,
            to_state=reached,
            call=call,
            proof=entry.text,
        )
        return told, reached
    if entry.kind == EntryKind.OPERATION:
        what = f"{STEPS[entry.code].value} #{entry.by}"
        return HistoryEntry(at=at, kind="operation", what=what, proof=entry.text), state
    return HistoryEntry(at=at, kind="review", what=entry.text), state


def why_of(snapshot: Snapshot, flow: Flow, now_ms: int) -> Why:
    """Return the explanation of a snapshot at this time."""
    record = snapshot.record
    return Why(
        payment_id=snapshot.id,
        state=record.state,
        timeline=history_of(snapshot),
        open_operation=_open(snapshot, now_ms),
        next_wake=None if record.wake_ms is None else moment(record.wake_ms),
        reviews=tuple(f"{review.reason}: {review.detail}" for review in record.open_reviews),
        allowed=_allowed(snapshot, flow, now_ms),
    )


def _allowed(snapshot: Snapshot, flow: Flow, now_ms: int) -> tuple[str, ...]:
    """What may be called now; a capture or void that surely did nothing may be repeated."""
    operation = snapshot.record.operation
    again = operation is not None and resendable(snapshot, now_ms)
    repeat = (operation.step.value,) if operation is not None and again else ()
    return (*repeat, *allowed_steps(snapshot, flow, now_ms))


def _open(snapshot: Snapshot, now_ms: int) -> str | None:
    operation = snapshot.record.operation
    if operation is None:
        return None
    since_s = (now_ms - operation.started_ms) / 1000
    of = "" if operation.amount is None else f" of {operation.amount}"
    told = f"{operation.step} #{operation.sequence}{of}, for {since_s:.1f} s"
    if resendable(snapshot, now_ms):
        return f"{told}; nothing had happened when we asked, the same {operation.step} repeats it"
    if operation.accepted:
        return f"{told}; the bank has accepted it and owes its confirmation"
    if now_ms < operation.limit_ms:
        return f"{told}; its call may still be on its way"
    if operation.step is Step.PAY and operation.missed_ms is not None:
        again_s = PAY_MARGIN_MS / 1000
        return f"{told}; one inquiry saw no attempt, another {again_s:g} s later decides"
    return f"{told}; its answer is lost, an inquiry decides"


def _told(entry: HistoryEntry) -> str:
    if entry.kind == "transition":
        by = f"{entry.call} said {entry.proof}" if entry.call else entry.proof
        return f"{entry.what}: {entry.from_state} -> {entry.to_state} ({by})"
    if entry.kind == "operation":
        return f"{entry.what}: {entry.proof}"
    return f"review opened: {entry.what}"


def _clock(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
