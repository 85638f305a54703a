"""The script's replies as the store's own types, and parts of a plan as the script takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from cfflow.core.draft import Plan
from cfflow.core.record import Record, Snapshot, step_bit
from cfflow.errors import AlreadyPaid, Conflict, StoreError
from cfflow.store.protocol import (
    ACTION_MAX_B,
    Committed,
    Outcome,
    Started,
    decode_attempts,
    encode_action,
    snapshot_of,
)


def started_from(order_id: str, reply: list[Any]) -> Started:
    """Return the result of a start. Raises `AlreadyPaid` or `Conflict` where there is none."""
    if reply[0] == b"purged":
        n = int(reply[2])
        raise AlreadyPaid(f"order {order_id} was paid by {order_id}.{n}, which has been purged")
    status, _, n, blob, action, packed = reply
    if not blob:
        raise Conflict(f"order {order_id} has moved: its payment {int(n)} is not the next one")
    snapshot = snapshot_of(f"{order_id}.{n}", blob, action, packed)
    return Started(cast("Any", status.decode()), snapshot)


def committed_from(snapshot: Snapshot, record: Record, reply: list[Any]) -> Committed:
    """Return the result of a commit of this record, which was decided on this snapshot."""
    outcome, at_ms = Outcome(reply[0].decode()), int(reply[1])
    if outcome is Outcome.OK:
        attempts = decode_attempts(reply[2])
        stored = msgspec.structs.replace(snapshot, record=record, attempts=attempts)
        return Committed(outcome, at_ms, stored)
    if outcome is Outcome.CONFLICT:
        return Committed(outcome, at_ms, snapshot_of(snapshot.id, *reply[2:6]))
    if outcome is Outcome.RESTARTED:
        return Committed(outcome, at_ms, since_at_ms=int(reply[2]))
    has_other = outcome in {Outcome.OWNED, Outcome.HOLDER, Outcome.BLOCKED}
    return Committed(outcome, at_ms, None, int(reply[2]) if has_other else 0)


def barred_step_bit(plan: Plan) -> str:
    """Return the bit of the step whose bars forbid this plan, "" if none do."""
    step = plan.barred_as
    return "" if step is None else str(step_bit(step))


def action_change(plan: Plan) -> tuple[str, bytes]:
    """Return what happens to the stored next action, and its bytes; a too large one is dropped."""
    if not plan.action_changed:
        return "keep", b""
    if plan.snapshot.next_action is None:
        return "drop", b""
    blob = encode_action(plan.snapshot.next_action)
    return ("set", blob) if len(blob) <= ACTION_MAX_B else ("drop", b"")


def review_change(plan: Plan) -> str:
    """Return whether the payment enters or leaves the index of open reviews."""
    was, now = bool(plan.previous.open_reviews), bool(plan.record.open_reviews)
    return "keep" if was is now else str(int(now))


def snapshots_from(replies: Sequence[Any]) -> list[Snapshot]:
    """Return the payments that several runs of the script have read."""
    return [_snapshot(row) for row in _rows(replies)]


def leased_from(replies: Sequence[Any]) -> list[Snapshot]:
    """Return the leased payments that can be read. Raises `StoreError` if none can.

    A lease takes many payments at once. If one unreadable record made it fail, it would stop
    all others, and would do so again each time they are due. So it is reported only once it
    is leased without readable ones.
    """
    found: list[Snapshot] = []
    unreadable: StoreError | None = None
    for row in _rows(replies):
        try:
            found.append(_snapshot(row))
        except StoreError as error:
            unreadable = error
    if unreadable is not None and not found:
        raise unreadable
    return found


def _rows(replies: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the rows that have a record: a payment may be purged while an index still has it."""
    return (row for reply in replies for row in reply[2] if row[1])


def _snapshot(row: Sequence[Any]) -> Snapshot:
    identifier, *parts = row
    return snapshot_of(identifier.decode(), *parts)
