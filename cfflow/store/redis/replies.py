"""The script's answers as the store's own types, and plans in the script's words."""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = [
    "action_change",
    "committed",
    "opening",
    "readable",
    "review_change",
    "snapshots",
    "started",
]


def started(order_id: str, answer: list[Any]) -> Started:
    """Return the answer to a start; raises where the order is past being paid."""
    if answer[0] == b"purged":
        n = int(answer[2])
        raise AlreadyPaid(f"order {order_id} was paid by {order_id}.{n}, which has been purged")
    status, _, n, blob, action, packed = answer
    if not blob:
        raise Conflict(f"order {order_id} has moved: its payment {int(n)} is not the next one")
    return Started(
        cast("Any", status.decode()), snapshot_of(f"{order_id}.{n}", blob, action, packed)
    )


def opening(plan: Plan) -> str:
    """Return the bit of the step that bars are looked up for, "" where none count."""
    step = plan.barred_as
    return "" if step is None else str(step_bit(step))


def committed(snapshot: Snapshot, record: Record, answer: list[Any]) -> Committed:
    """Return the answer to a commit of this record."""
    outcome, at_ms = Outcome(answer[0].decode()), int(answer[1])
    if outcome is Outcome.OK:
        attempts = decode_attempts(answer[2])
        kept = msgspec.structs.replace(snapshot, record=record, attempts=attempts)
        return Committed(outcome, at_ms, kept)
    if outcome is Outcome.CONFLICT:
        return Committed(outcome, at_ms, snapshot_of(snapshot.id, *answer[2:6]))
    if outcome is Outcome.RESTARTED:
        return Committed(outcome, at_ms, since_at_ms=int(answer[2]))
    in_the_way = outcome in {Outcome.OWNED, Outcome.HOLDER, Outcome.BLOCKED}
    return Committed(outcome, at_ms, None, int(answer[2]) if in_the_way else 0)


def action_change(plan: Plan) -> tuple[str, bytes]:
    """Return what becomes of the kept next action, and its bytes; too large a one is not kept."""
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


def snapshots(answers: Sequence[Any]) -> list[Snapshot]:
    """Return the payments that several scripts have read."""
    return [_snapshot(row) for answer in answers for row in answer[2] if row[1]]


def _snapshot(row: Sequence[Any]) -> Snapshot:
    identifier, *found = row
    return snapshot_of(identifier.decode(), *found)


def readable(answers: Sequence[Any]) -> list[Snapshot]:
    """Return the claimed payments that can be read; one that cannot must not stop the others.

    They share its lease and would come back with it for ever. It is reported when it comes
    alone, which it does once the others have gone their ways.
    """
    found: list[Snapshot] = []
    trouble: StoreError | None = None
    for row in (row for answer in answers for row in answer[2] if row[1]):
        try:
            found.append(_snapshot(row))
        except StoreError as error:
            trouble = error
    if trouble is not None and not found:
        raise trouble
    return found
