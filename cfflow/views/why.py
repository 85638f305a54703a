"""Why a payment is where it is, for people: what is open, what comes next, what they may call."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from cfflow.core.chart import OPEN, State, Trigger
from cfflow.core.due import Ask, due_hold, resendable, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.people import resolvable_states
from cfflow.core.printable import printable
from cfflow.core.record import Review
from cfflow.core.reviews import reason_named
from cfflow.core.schedule import PAY_MARGIN_MS
from cfflow.core.steps import allowed_steps
from cfflow.core.times import moment
from cfflow.views.history import HistoryEntry, history_of


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The explanation of a payment. `str()` makes a text for people of it.

    `next_inquiry` is what happens at `next_wake`, `advice` what a person does about each open
    review in `reviews`. `settled` are the reviews that a person has closed, with who and why.
    `allowed` are the calls that the payment permits now.
    """

    payment_id: str
    state: State
    timeline: tuple[HistoryEntry, ...]
    open_operation: str | None
    next_wake: datetime | None
    next_inquiry: str | None
    reviews: tuple[str, ...]
    settled: tuple[str, ...]
    advice: tuple[str, ...]
    allowed: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.payment_id} is {self.state}: {_MEANS[self.state]}."]
        lines += [f"  {_time_text(entry.at)}  {_entry_text(entry)}" for entry in self.timeline]
        lines.append(f"Open: {self.open_operation or 'nothing'}.")
        for review, advice in zip(self.reviews, self.advice, strict=True):
            lines += [f"Review: {review}.", f"  What to do: {advice}."]
        lines += [f"Settled: {settled}." for settled in self.settled]
        if self.next_wake is None:
            lines.append("No further look: this payment is over.")
        else:
            lines.append(f"Next look at {_time_text(self.next_wake)} UTC: {self.next_inquiry}.")
        lines.append(f"You may call now: {', '.join(self.allowed)}.")
        # A line break in a note or in a gateway's text must not make a line of its own.
        return "\n".join(map(printable, lines))


_MEANS: Final = {
    State.CREATED: "no attempt to pay is known",
    State.INITIATED: "an attempt is under way, the customer or the bank has not finished it",
    State.OTP_PENDING: "the bank waits for the customer's OTP",
    State.AUTHORIZED: "the bank holds the money, it is not captured yet",
    State.CAPTURED: "the money is taken",
    State.VOIDED: "the hold is released, no money was taken",
    State.FAILED: "this attempt took no money so far",
}

#: What each move proved, in a few words.
_PROVED: Final = {
    Trigger.INITIATE: "there is an attempt",
    Trigger.REQUIRE_OTP: "the bank waits for the OTP",
    Trigger.REJECT_OTP: "the OTP was wrong, one try is used",
    Trigger.RESEND_OTP: "the bank sends another OTP",
    Trigger.LEAVE_OTP: "the customer is on the bank's own page",
    Trigger.HOLD: "the bank holds the money",
    Trigger.CAPTURE: "the money is taken",
    Trigger.VOID: "the hold is released",
    Trigger.FAIL: "this attempt took no money",
    Trigger.REVIVE: "the money came after all",
}

_INQUIRIES: Final = {
    Ask.NOTHING: "a time limit may be over, no inquiry is needed",
    Ask.PAYMENT: "an inquiry about this attempt",
    Ask.PAYMENTS: "an inquiry about all attempts of the order",
    Ask.ORDER: "an inquiry about the order",
}


def why_of(snapshot: Snapshot, flow: Flow, now_ms: int) -> Why:
    """Return the explanation of a snapshot at this time."""
    record = snapshot.record
    return Why(
        payment_id=snapshot.id,
        state=record.state,
        timeline=history_of(snapshot),
        open_operation=_open(snapshot, now_ms),
        next_wake=None if record.wake_at_ms is None else moment(record.wake_at_ms),
        next_inquiry=_next_inquiry(snapshot, flow),
        reviews=tuple(f"{review.reason}: {review.detail}" for review in record.open_reviews),
        settled=tuple(
            f"{review.reason} by {review.actor}: {review.note}"
            for review in record.reviews
            if review.acknowledged_at_ms is not None
        ),
        advice=tuple(_advice(review) for review in record.open_reviews),
        allowed=_allowed(snapshot, flow, now_ms),
    )


def _advice(review: Review) -> str:
    reason = reason_named(review.reason)
    return "see the documentation of the newer version" if reason is None else reason.advice


def _next_inquiry(snapshot: Snapshot, flow: Flow) -> str | None:
    """Return what the next wake is for: the inquiry, and how the flow ends a hold then."""
    wake_at_ms = snapshot.record.wake_at_ms
    if wake_at_ms is None:
        return None
    end = due_hold(snapshot, flow, wake_at_ms)
    inquiry = _INQUIRIES[what_to_ask(snapshot, wake_at_ms)]
    return inquiry if end is None else f"{inquiry}, then the flow ends the hold: {end}"


def _allowed(snapshot: Snapshot, flow: Flow, now_ms: int) -> tuple[str, ...]:
    """Return what may be called now.

    A capture or void that is proven to have had no effect may be repeated.
    """
    operation = snapshot.record.operation
    again = operation is not None and resendable(snapshot, now_ms)
    repeat = (operation.step.value,) if operation is not None and again else ()
    return (*repeat, *allowed_steps(snapshot, flow, now_ms), *_operator_actions(snapshot))


def _operator_actions(snapshot: Snapshot) -> tuple[str, ...]:
    """Return the calls that only a person decides to make."""
    record = snapshot.record
    abandons = record.operation is None and record.state in OPEN and not record.abandoned
    reviewed = ("acknowledge",) if record.open_reviews else ()
    # Where no other state can be reached, acknowledging is all that is left to decide.
    moves = record.open_reviews and resolvable_states(snapshot)
    return (*(("abandon",) if abandons else ()), *reviewed, *(("resolve",) if moves else ()))


def _open(snapshot: Snapshot, now_ms: int) -> str | None:
    operation = snapshot.record.operation
    if operation is None:
        return None
    since_s = (now_ms - operation.began_at_ms) / 1000
    of = "" if operation.amount is None else f" of {operation.amount}"
    text = f"{operation.step} #{operation.sequence}{of}, for {since_s:.1f} s"
    if resendable(snapshot, now_ms):
        return f"{text}; an inquiry saw no effect, so the same {operation.step} may be sent again"
    if operation.accepted:
        return f"{text}; the gateway accepted it, the bank has not confirmed it yet"
    if now_ms < operation.deadline_at_ms:
        return f"{text}; its call may still be on its way"
    if operation.step is Step.PAY and operation.not_seen_at_ms is not None:
        again_s = PAY_MARGIN_MS / 1000
        return f"{text}; one inquiry found no attempt, another one {again_s:g} s later decides"
    return f"{text}; its result is unknown, an inquiry decides"


def _entry_text(entry: HistoryEntry) -> str:
    if entry.kind == "transition":
        by = f"{entry.call} returned {entry.proof}" if entry.call else entry.proof
        proved = _PROVED[Trigger(entry.what)]
        return f"{entry.what}: {entry.from_state} -> {entry.to_state} ({by}: {proved})"
    if entry.kind == "operation":
        return f"{entry.what}: {entry.proof}"
    return entry.what if entry.kind == "note" else f"review opened: {entry.what}"


def _time_text(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
