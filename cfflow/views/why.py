"""Why a payment is where it is, for people: what is open, what comes next, what they may call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Final

import msgspec

from cfflow.cashfree import facts
from cfflow.core.authors import Cause
from cfflow.core.chart import OPEN, State, Trigger
from cfflow.core.due import Ask, due_hold, resendable, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.people import resolvable_states
from cfflow.core.printable import printable
from cfflow.core.record import Record, Review
from cfflow.core.reviews import reason_named
from cfflow.core.schedule import PAY_MARGIN_MS
from cfflow.core.steps import allowed_steps
from cfflow.core.times import moment
from cfflow.views.history import HistoryEntry, history_of


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The explanation of a payment. `str()` makes a text for people of it, `text` one in a zone.

    `meaning` is the state in words, as it is now, and `failure` why the attempt failed. The last
    inquiry that was answered was asked at `last_inquiry`. `next_inquiry` is what happens at
    `next_wake`; `is_overdue`: that moment is past, and no worker has looked. `advice` is what a
    person does about each open review in `reviews`. `settled` are the reviews that a person has
    closed, with who and why. `allowed` are the calls that the payment permits now.
    """

    payment_id: str
    state: State
    meaning: str
    failure: str | None
    last_inquiry: datetime | None
    is_overdue: bool
    timeline: tuple[HistoryEntry, ...]
    open_operation: str | None
    next_wake: datetime | None
    next_inquiry: str | None
    reviews: tuple[str, ...]
    settled: tuple[str, ...]
    advice: tuple[str, ...]
    allowed: tuple[str, ...]

    def __str__(self) -> str:
        return self.text()

    def text(self, zone: tzinfo = UTC) -> str:
        """Return the explanation as a text for people, its times in this zone, by default UTC."""
        lines = [f"{self.payment_id} is {self.state}: {self.meaning}."]
        if self.failure:
            lines.append(f"Failure: {self.failure}.")
        lines.extend(
            f"  {_time_text(entry.at, zone)}  {_entry_text(entry)}" for entry in self.timeline
        )
        if self.last_inquiry is not None:
            lines.append(f"  {_time_text(self.last_inquiry, zone)}  {self._last_inquiry_text()}")
        lines.append(f"Open: {self.open_operation or 'nothing'}.")
        for review, advice in zip(self.reviews, self.advice, strict=True):
            lines += [f"Review: {review}.", f"  What to do: {advice}."]
        lines += [f"Settled: {settled}." for settled in self.settled]
        if self.next_wake is None:
            lines.append("No further look: this payment is over.")
        elif self.is_overdue:
            due = f"A look is overdue since {_time_text(self.next_wake, zone)}"
            lines.append(f"{due}: {self.next_inquiry}. Does a worker run? See cfflow status.")
        else:
            lines.append(f"Next look at {_time_text(self.next_wake, zone)}: {self.next_inquiry}.")
        lines.append(f"You may call now: {', '.join(self.allowed)}.")
        # A line break in a note or in a gateway's text must not make a line of its own.
        return "\n".join(map(printable, lines))

    def _last_inquiry_text(self) -> str:
        asked_at = self.last_inquiry
        # A person's decision is later than it, and no answer proved that.
        answers = [line.at for line in self.timeline if line.kind != "note"]
        proved = bool(answers) and asked_at is not None and answers[-1] >= asked_at
        return "the last inquiry" if proved else "the last inquiry: it proved nothing new"


_MEANS: Final = {
    State.CREATED: "no attempt to pay is known",
    State.INITIATED: "an attempt is under way, the customer or the bank has not finished it",
    State.OTP_PENDING: "the bank waits for the customer's OTP",
    State.AUTHORIZED: "the bank holds the money, it is not captured yet",
    State.CAPTURED: "the money is taken",
    State.VOIDED: "the hold is released, no money was taken",
    State.FAILED: "this attempt took no money so far",
}

#: What each move proved, in a few words; a newer version's move has none.
_PROVED: Final[Mapping[str, str]] = {
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
        meaning=_meaning(record, flow, now_ms),
        failure=_failure(record),
        last_inquiry=moment(record.asked_at_ms) if record.asked_at_ms else None,
        is_overdue=record.wake_at_ms is not None and record.wake_at_ms < now_ms,
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


def _meaning(record: Record, flow: Flow, now_ms: int) -> str:
    """Return what the state means now: a page may have expired, an OTP may be on its way."""
    if record.state is State.OTP_PENDING:
        return _otp_meaning(record, flow, now_ms)
    if record.state is State.FAILED and record.cf_payment_id is None:
        return "its order takes no payment any more, and no attempt was made"
    if record.state is State.CREATED and record.pay_given_up_at_ms is not None:
        return "no attempt to pay is known; one that was lost is still looked for"
    if record.confirming and record.state is State.CAPTURED:
        return "the gateway took the money, the bank has not confirmed it yet"
    if record.confirming:
        return "the bank holds the money, and is working on a capture or void"
    return _MEANS[record.state]


def _otp_meaning(record: Record, flow: Flow, now_ms: int) -> str:
    turn, operation = record.otp, record.operation
    if operation is not None and operation.step is Step.SUBMIT_OTP:
        return "an OTP was sent to the bank, and its outcome is not known yet"
    if turn is None or turn.accepted:
        return "the OTP was accepted, and the bank owes the outcome"
    if turn.submits_used >= flow.otp.submits_max:
        return "all tries of the OTP are used, and the bank owes the outcome"
    if now_ms >= turn.expires_at_ms:
        return "the time for the OTP is over, and the bank has not said how the attempt ended"
    if turn.unsure:
        return "the answer to an OTP was lost; the bank may wait for another one"
    return _MEANS[record.state]


def _failure(record: Record) -> str | None:
    found = record.failure
    if found is None:
        return None
    parts = (found.code, found.reason, found.source and f"by {found.source}", found.description)
    return ", ".join(part for part in parts if part) or None


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
    who = _who(entry)
    if entry.kind == "transition":
        by = f"{entry.call} returned {entry.proof}" if entry.call else entry.proof
        proved = _PROVED.get(entry.what, "?")
        if entry.what == Trigger.FAIL and entry.call is None and entry.proof.startswith("order_"):
            proved = "the order takes no payment any more"
        return f"{entry.what}: {entry.from_state} -> {entry.to_state} ({by}: {proved}){who}"
    if entry.kind == "operation":
        return f"{entry.what}: {entry.proof}{who}"
    return f"{entry.what}{who}" if entry.kind == "note" else f"review opened: {entry.what}{who}"


#: Who caused a line, in words; the merchant's own code is what everybody expects.
_CAUSES: Final[Mapping[str, str]] = {
    Cause.WORKER: "the worker's inquiry",
    Cause.EXPIRY: "the worker, as the flow ends a hold",
    Cause.RESEND: "the worker, sent again",
    Cause.NOTIFICATION: "a notification",
}


def _who(entry: HistoryEntry) -> str:
    if entry.actor in entry.what or entry.actor in entry.proof:
        # A note names its person already; where there is no name, there is none to add.
        return f", by {_CAUSES[entry.cause]}" if entry.cause in _CAUSES else ""
    return f", by {entry.actor}"


def _time_text(at: datetime, zone: tzinfo) -> str:
    shown = at.astimezone(zone)
    # IST is a zone of our own: it has no name.
    name = shown.tzname() if zone is not facts.IST else "IST"
    return f"{shown.strftime('%Y-%m-%d %H:%M:%S.%f')[:-3]} {name}"
