"""A payment's history: the entries of its record, with the states walked along the chart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from itertools import zip_longest
from typing import Any

import msgspec

from cfflow.core.authors import cause_named
from cfflow.core.chart import HOLDS, State
from cfflow.core.order import Snapshot
from cfflow.core.record import CALLS, STEPS, TRIGGERS, Entry, EntryKind, reached
from cfflow.core.times import moment


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a payment's history.

    `kind` is `transition`, `operation` (its end), `review` (it was opened) or `note` (a person's
    decision). `what` is the trigger, the step, the review's reason or the decision. `call` is the
    gateway call whose answer was the `proof`, and `request_id` its id. `cause` is what made cfflow
    act: `caller`, `worker` (an inquiry), `expiry` (the worker ended a hold), `resend` (the worker
    sent a step again), `notification` or `person`; `actor` the name that came with it.
    `bank_reference` is the bank's, of the transitions that held or took the money.
    """

    at: datetime
    kind: str
    what: str
    from_state: State | None = None
    to_state: State | None = None
    call: str | None = None
    proof: str = ""
    cause: str = ""
    actor: str = ""
    request_id: str = ""
    bank_reference: str | None = None


def history_of(snapshot: Snapshot) -> tuple[HistoryEntry, ...]:
    """Return the history of a snapshot, oldest first; the states are walked along the chart."""
    state = snapshot.record.history_from or State.CREATED
    entries = []
    lines = snapshot.record.history
    for entry, after in zip_longest(lines, lines[1:]):
        shown, state = _entry(snapshot, _with_request(entry, after), state)
        entries.append(shown)
    return tuple(entries)


def _with_request(entry: Entry, after: Entry | None) -> Entry:
    """Return an entry with its request's id: of edges that one answer proved the last has it."""
    if after is None or entry.request is not None or entry.kind != EntryKind.TRANSITION:
        return entry
    same = (after.kind, after.offset_ms, after.by) == (entry.kind, entry.offset_ms, entry.by)
    return msgspec.structs.replace(entry, request=after.request) if same else entry


def _entry(snapshot: Snapshot, entry: Entry, state: State) -> tuple[HistoryEntry, State]:
    shared: dict[str, Any] = {
        "at": moment(snapshot.record.created_at_ms + entry.offset_ms),
        "cause": cause_named(entry.cause),
        "actor": entry.actor,
        "request_id": entry.request_id,
    }
    if entry.kind == EntryKind.TRANSITION:
        next_state = reached(state, entry.code)
        shown = HistoryEntry(
            **shared,
            kind="transition",
            what=_word(TRIGGERS, entry.code),
            from_state=state,
            to_state=next_state,
            call=_word(CALLS, entry.by) if entry.by >= 0 else None,
            proof=entry.text,
            bank_reference=_bank_reference(snapshot, next_state),
        )
        return shown, next_state
    if entry.kind == EntryKind.OPERATION:
        what = f"{_word(STEPS, entry.code)} #{entry.by}"
        return HistoryEntry(**shared, kind="operation", what=what, proof=entry.text), state
    if entry.kind == EntryKind.NOTE:
        return HistoryEntry(**shared, kind="note", what=entry.text), state
    return HistoryEntry(**shared, kind="review", what=entry.text), state


def _bank_reference(snapshot: Snapshot, state: State) -> str | None:
    details = snapshot.record.details
    return details.bank_reference if details is not None and state in HOLDS else None


def _word(words: Sequence[StrEnum], code: int) -> str:
    """Return the word of a stored code, "?" for one that a newer version of cfflow wrote."""
    return words[code].value if 0 <= code < len(words) else "?"
