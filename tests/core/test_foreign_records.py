"""Records that a newer version, or a broken disk, has written: shown as far as they can be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cfflow import State, StoreError
from cfflow.core.record import Entry, EntryKind, Snapshot
from cfflow.core.times import moment
from cfflow.store.protocol import decode_record, encode_record
from cfflow.views.history import history_of
from tests.core.core_kit import a_payment


def with_entry(kind: EntryKind, code: int, by: int) -> Snapshot:
    """Return a payment whose history has one line more."""
    held = a_payment(State.INITIATED)
    history = (*held.record.history, Entry(1, kind, code, by, "word"))
    record = msgspec.structs.replace(held.record, history=history)
    return msgspec.structs.replace(held, record=record)


@pytest.mark.parametrize("code", [-1, 99])
@pytest.mark.parametrize("kind", [EntryKind.TRANSITION, EntryKind.OPERATION])
def test_a_word_that_nobody_here_knows_is_a_question_mark(kind: EntryKind, code: int) -> None:
    """The rest of the history is worth reading."""
    line = history_of(with_entry(kind, code, 99))[-1]
    assert line.what.startswith("?")


def test_an_edge_that_the_chart_has_not_leads_nowhere() -> None:
    """The state stays what the edges before it made."""
    line = history_of(with_entry(EntryKind.TRANSITION, 0, -1))[-1]
    assert (line.from_state, line.to_state) == (State.INITIATED, State.INITIATED)


@pytest.mark.parametrize("at_ms", [2**63, -(2**63)])
def test_a_time_that_no_calendar_has_is_shown_as_the_nearest(at_ms: int) -> None:
    """A person can still look at the payment."""
    assert moment(at_ms).year in {1, 9999}


@pytest.mark.parametrize("change", [{"polls": -1}, {"state": "lost"}, {"schema": "one"}])
def test_a_record_that_makes_no_sense_is_the_stores_error(change: dict[str, Any]) -> None:
    """Out of the tree, so that a worker puts it back and goes on."""
    record = msgspec.structs.replace(a_payment(State.INITIATED).record, **change)
    with pytest.raises(StoreError):
        decode_record(encode_record(record))
