"""When a payment is looked at next: a pure function of its record and its flow.

The rules:

* A wait has a beginning, `since`: the latest of state entered, operation written or
  accepted, pay given up, OTP accepted, OTP page ended or used up, abandoned, a person's
  decision. An inquiry, a notification, a lease, a resend, a renewal or a step without effect
  never changes it. So asking often never makes the next look later.
* While the bank owes something, a look is due at `since` plus each of the flow's offsets,
  after the last one, that offset repeats.
* Beside these there are fixed moments: a call's deadline, the OTP page's end, the order's
  end, a day before a hold's end, the time to act on a hold, the hold's end, the time to call a
  person, a watch's end.
* The next look is the earliest moment later than `asked_at_ms`. A moment that was missed stays
  due whoever commits meanwhile, and one inquiry settles all that were missed.

The present time is no argument: the same record always gives the same moment.
"""

from __future__ import annotations

import zlib
from typing import Final, Protocol

from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation, Step
from cfflow.core.record import OtpTurn, Record

#: A pay still on its way may arrive after its time limit; "no attempt" counts only when
#: two inquiries this far apart saw none (gateway.md#proof, row 11).
PAY_MARGIN_MS: Final = 15_000

#: A pay that was given up is looked for among the order's attempts for so long.
LATE_PAY_MS: Final = 24 * 3600 * 1000

#: The feed tells of a hold this long before its end.
HOLD_NEWS_MS: Final = 24 * 3600 * 1000

#: A worker looks at a step this long after the step's own time limit.
_GRACE_MS: Final = 1_000


def next_wake(record: Record, flow: Flow) -> int | None:
    """Return when a worker must look at this payment again, None at its end.

    The end is `captured` or `voided` with nothing open, and `failed` after the last watch.
    """
    later = [at_ms for at_ms in _moments(record, flow) if at_ms > record.asked_at_ms]
    return min(later, default=None)


class Waiting(Protocol):
    """What shows since when a payment waits: its record, or the draft of its next one."""

    @property
    def state(self) -> State:
        """The present state."""
        ...

    @property
    def created_at_ms(self) -> int:
        """When the payment began."""
        ...

    @property
    def moved_at_ms(self) -> int:
        """When the present state was entered."""
        ...

    @property
    def since_at_ms(self) -> int:
        """When the wait began, 0 where that is not stored."""
        ...

    @property
    def operation(self) -> Operation | None:
        """The open step."""
        ...

    @property
    def otp(self) -> OtpTurn | None:
        """The customer's turn on the OTP page."""
        ...


def owed_since_at_ms(waiting: Waiting) -> int:
    """Return when the wait began that the schedule counts from."""
    since_at_ms = waiting.since_at_ms or max(waiting.moved_at_ms, waiting.created_at_ms)
    operation, otp = waiting.operation, waiting.otp
    if operation is not None:
        since_at_ms = max(since_at_ms, operation.began_at_ms)
    if waiting.state is State.OTP_PENDING and otp is not None and not otp.accepted:
        # The bank owes nothing while the customer may type; its turn begins when theirs ends.
        return max(since_at_ms, otp.expires_at_ms)
    return since_at_ms


def watch_ends_at_ms(record: Record) -> int | None:
    """Return until when a pay that was given up is looked for, None where none is."""
    return None if record.pay_given_up_at_ms is None else record.pay_given_up_at_ms + LATE_PAY_MS


def late_watch_ends_at_ms(record: Record, flow: Flow) -> int:
    """Return until when a failed attempt is asked about: the money may still arrive."""
    return record.moved_at_ms + flow.end.late_watch_s * 1000


def act_on_hold_at_ms(record: Record, flow: Flow) -> int:
    """Return when a hold that was neither captured nor voided must end by the flow."""
    ends_at_ms = record.hold_expires_at_ms or 0
    life_ms = max(0, ends_at_ms - record.moved_at_ms)
    return ends_at_ms - flow.hold_rules.acts_before_end_ms(life_ms)


def surely_over(operation: Operation, flow: Flow) -> bool:
    """Whether no call of a step can act any more.

    Its first call began a whole limit and a margin ago, and an inquiry since then saw the hold
    untouched, so that none of its calls acted.
    """
    over_at_ms = operation.key_first_used_at_ms + round(flow.pay.timeout_s * 1000) + PAY_MARGIN_MS
    return operation.not_seen_at_ms is not None and operation.not_seen_at_ms >= over_at_ms


def grid_after(record: Record, flow: Flow, base_at_ms: int, after_at_ms: int) -> int:
    """Return the schedule's first moment later than `after_at_ms`, counted from `base_at_ms`."""
    first_at_ms: int | None = None
    before_ms = 0
    for offset_s in flow.poll.after_s:
        offset_ms = offset_s * 1000
        if first_at_ms is not None and base_at_ms + offset_ms >= first_at_ms:
            # The offsets ascend, and a moment is never earlier than its offset.
            return first_at_ms
        at_ms = _jittered(record, base_at_ms, before_ms, offset_ms)
        if at_ms > after_at_ms and (first_at_ms is None or at_ms < first_at_ms):
            first_at_ms = at_ms
        before_ms = offset_ms
    # Behind the listed offsets the last one repeats; begin where a moment can be late enough.
    last_ms = before_ms
    turn = max(2, (after_at_ms - base_at_ms) // last_ms - 1)
    while first_at_ms is None or base_at_ms + turn * last_ms < first_at_ms:
        at_ms = _jittered(record, base_at_ms, (turn - 1) * last_ms, turn * last_ms)
        if at_ms > after_at_ms and (first_at_ms is None or at_ms < first_at_ms):
            first_at_ms = at_ms
        turn += 1
    return first_at_ms


def _jittered(record: Record, base_at_ms: int, before_ms: int, offset_ms: int) -> int:
    """Return a moment of the schedule, later by up to a tenth of the gap before it.

    So that payments which began together are not asked about together. It is derived from the
    payment and the moment, since a decision has no randomness.
    """
    moment_at_ms = base_at_ms + offset_ms
    share = zlib.crc32(f"{record.nonce}{moment_at_ms}".encode()) % 1000
    return moment_at_ms + (offset_ms - before_ms) * share // 10_000


def _moments(record: Record, flow: Flow) -> list[int]:
    operation = record.operation
    if operation is not None and not operation.accepted:
        check_at_ms = operation.deadline_at_ms + _GRACE_MS
        if record.asked_at_ms < check_at_ms:
            # The call may be on its way: before its deadline an inquiry proves nothing.
            return [check_at_ms]
        moments = [check_at_ms, *_operation_moments(record, flow, operation)]
    elif operation is not None or record.confirming:
        moments = _owed_moments(record, flow)
    else:
        moments = _state_moments(record, flow)
    watch_at_ms = watch_ends_at_ms(record)
    if watch_at_ms is not None:
        # The pay that was given up may still arrive, whatever became of the payment since.
        moments = [*moments, watch_at_ms, _grid(record, flow)]
    return moments


def _grid(record: Record, flow: Flow) -> int:
    return grid_after(record, flow, owed_since_at_ms(record), record.asked_at_ms)


def _owed_moments(record: Record, flow: Flow) -> list[int]:
    """While the bank owes an answer: the schedule, and the time to call a person."""
    since_at_ms = owed_since_at_ms(record)
    next_at_ms = grid_after(record, flow, since_at_ms, record.asked_at_ms)
    return [next_at_ms, since_at_ms + flow.poll.review_after_s * 1000]


def _operation_moments(record: Record, flow: Flow, operation: Operation) -> list[int]:
    moments = _owed_moments(record, flow)
    if operation.step is Step.PAY and operation.not_seen_at_ms is not None:
        moments.append(operation.not_seen_at_ms + PAY_MARGIN_MS)
    return moments


def _state_moments(record: Record, flow: Flow) -> list[int]:
    match record.state:
        case State.CREATED:
            return _created_moments(record, flow)
        case State.INITIATED:
            return _owed_moments(record, flow)
        case State.OTP_PENDING:
            return _otp_moments(record, flow)
        case State.AUTHORIZED:
            return _hold_moments(record, flow)
        case State.FAILED:
            ends_at_ms = late_watch_ends_at_ms(record, flow)
            if flow.end.late_watch_s and record.asked_at_ms < ends_at_ms:
                return [ends_at_ms, _grid(record, flow)]
    return []


def _created_moments(record: Record, flow: Flow) -> list[int]:
    """An unpaid order is asked about when it expires.

    Not while a given-up pay of it is looked for: the order's status proves nothing about that.
    """
    if record.pay_given_up_at_ms is not None:
        return []
    ends_at_ms = (
        record.order_expires_at_ms or record.created_at_ms + flow.poll.review_after_s * 1000
    )
    since_at_ms = max(ends_at_ms, owed_since_at_ms(record))
    return [ends_at_ms, grid_after(record, flow, since_at_ms, record.asked_at_ms)]


def _otp_moments(record: Record, flow: Flow) -> list[int]:
    """While the customer may type, the bank owes nothing, unless an OTP's answer was lost."""
    otp, moments = record.otp, _owed_moments(record, flow)
    if otp is None or otp.accepted:
        return moments
    moments.append(otp.expires_at_ms)
    owes = otp.unsure or otp.submits_used >= flow.otp.submits_max
    if owes and record.asked_at_ms < otp.expires_at_ms:
        since_at_ms = record.since_at_ms or record.moved_at_ms
        moments.append(grid_after(record, flow, since_at_ms, record.asked_at_ms))
    return moments


def _hold_moments(record: Record, flow: Flow) -> list[int]:
    """A hold is looked at before it lapses; an automatic flow expects the money sooner."""
    if record.abandoned or flow.capture == "automatic" or record.hold_expires_at_ms is None:
        return [_grid(record, flow)]
    act_at_ms = act_on_hold_at_ms(record, flow)
    since_at_ms = max(act_at_ms, owed_since_at_ms(record))
    return [
        act_at_ms,
        record.hold_expires_at_ms - HOLD_NEWS_MS,
        record.hold_expires_at_ms,
        # A step that could not be sent at that moment is tried again by the schedule.
        grid_after(record, flow, since_at_ms, record.asked_at_ms),
    ]
