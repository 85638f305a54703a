"""A second, independent version of the schedule: it lists every moment, and predicts none.

Slow and plain on purpose. `schedule.py` finds the next moment by arithmetic; here all moments
up to a horizon are listed, and the first one after the last inquiry is taken.
"""

from __future__ import annotations

import zlib

from cfflow.core.chart import State
from cfflow.core.flow import Flow
from cfflow.core.operation import Step
from cfflow.core.record import Record

DAY_MS = 86_400_000


def grid(record: Record, flow: Flow, base_ms: int) -> list[int]:
    """Return the schedule's moments from `base_ms` to some days after the last inquiry."""
    offsets = [offset_s * 1000 for offset_s in flow.poll.after_s]
    horizon_ms = max(record.asked_at_ms, base_ms) - base_ms + 3 * offsets[-1]
    while offsets[-1] <= horizon_ms:
        offsets.append(offsets[-1] + flow.poll.after_s[-1] * 1000)
    moments = []
    for before_ms, offset_ms in zip([0, *offsets], offsets, strict=False):
        share = zlib.crc32(f"{record.nonce}{base_ms + offset_ms}".encode()) % 1000
        moments.append(base_ms + offset_ms + (offset_ms - before_ms) * share // 10_000)
    return moments


def since(record: Record) -> int:
    """Return when the present wait began."""
    begins = [record.since_at_ms or max(record.created_at_ms, record.moved_at_ms)]
    if record.operation is not None:
        begins.append(record.operation.began_at_ms)
    if record.state is State.OTP_PENDING and record.otp and not record.otp.accepted:
        begins.append(record.otp.expires_at_ms)
    return max(begins)


def expected_wake(record: Record, flow: Flow) -> int | None:
    """Return the earliest moment later than the last inquiry, or None."""
    moments = [*_own(record, flow)]
    if record.pay_given_up_at_ms is not None and not _is_sending(record):
        moments += [record.pay_given_up_at_ms + DAY_MS, *grid(record, flow, since(record))]
    return min((moment for moment in moments if moment > record.asked_at_ms), default=None)


def since_may_change(was: Record, record: Record) -> bool:
    """Return whether something has happened that starts a new wait."""
    was_accepted = was.operation is not None and was.operation.accepted
    now_accepted = record.operation is not None and record.operation.accepted
    before, after = was.otp, record.otp
    turn_moved = before is not None and after is not None and before != after
    a_persons_decision = was.abandoned != record.abandoned or _closed(was) != _closed(record)
    moved = record.state is not was.state or record.moved_at_ms != was.moved_at_ms
    accepted = now_accepted and not was_accepted
    given_up = record.pay_given_up_at_ms != was.pay_given_up_at_ms
    return moved or accepted or given_up or turn_moved or a_persons_decision


def _closed(record: Record) -> int:
    return sum(review.acknowledged_at_ms is not None for review in record.reviews)


def _is_sending(record: Record) -> bool:
    operation = record.operation
    open_call = operation is not None and not operation.accepted
    return (
        open_call
        and operation is not None
        and record.asked_at_ms < operation.deadline_at_ms + 1_000
    )


def _own(record: Record, flow: Flow) -> list[int]:
    operation, begins = record.operation, since(record)
    owed = [*grid(record, flow, begins), begins + flow.poll.review_after_s * 1000]
    if operation is not None and not operation.accepted:
        check = [operation.deadline_at_ms + 1_000]
        if _is_sending(record):
            return check
        not_seen_at_ms = operation.not_seen_at_ms if operation.step is Step.PAY else None
        return [*check, *owed, *([] if not_seen_at_ms is None else [not_seen_at_ms + 15_000])]
    if operation is not None or record.confirming:
        return owed
    return _by_state(record, flow, owed, begins)


def _by_state(record: Record, flow: Flow, owed: list[int], begins: int) -> list[int]:
    match record.state:
        case State.CREATED if record.pay_given_up_at_ms is None:
            patience_ms = record.created_at_ms + flow.poll.review_after_s * 1000
            ends = record.order_expires_at_ms or patience_ms
            return [ends, *grid(record, flow, max(ends, begins))]
        case State.INITIATED:
            return owed
        case State.OTP_PENDING:
            otp = record.otp
            if otp is None or otp.accepted:
                return owed
            waits = otp.unsure or otp.submits_used >= flow.otp.submits_max
            waits = waits and record.asked_at_ms < otp.expires_at_ms
            early = grid(record, flow, record.since_at_ms or record.moved_at_ms) if waits else []
            return [otp.expires_at_ms, *owed, *early]
        case State.AUTHORIZED:
            return _by_hold(record, flow, begins)
        case State.FAILED:
            ends = record.moved_at_ms + flow.end.late_watch_s * 1000
            over = record.asked_at_ms >= ends or flow.end.late_watch_s == 0
            return [] if over else [ends, *grid(record, flow, begins)]
    return []


def _by_hold(record: Record, flow: Flow, begins: int) -> list[int]:
    ends = record.hold_expires_at_ms
    if record.abandoned or flow.capture == "automatic" or ends is None:
        return grid(record, flow, begins)
    quarter_ms = max(0, ends - record.moved_at_ms) // 4
    act = ends - min(flow.hold_rules.act_before_expiry_s * 1000, quarter_ms)
    return [act, ends - DAY_MS, ends, *grid(record, flow, max(act, begins))]
