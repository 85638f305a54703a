"""Records written by a newer version or damaged on disk: shown as far as possible."""

from __future__ import annotations

from typing import Any

import pytest

from cfflow import State, StoreError
from cfflow.core.order import Snapshot
from cfflow.core.record import Entry, EntryKind
from cfflow.core.times import moment
from cfflow.store.codec import decode_order, encode_order
from cfflow.store.protocol import StoredOrder
from cfflow.views.history import history_of
from tests.core.core_kit import a_payment, with_record


def with_entry(kind: EntryKind, code: int, by: int) -> Snapshot:
    """Return a payment whose history has one line more."""
    held = a_payment(State.INITIATED)
    history = (*held.record.history, Entry(1, kind, code, by, "word"))
    return with_record(held, history=history)


@pytest.mark.parametrize("code", [-1, 99])
@pytest.mark.parametrize("kind", [EntryKind.TRANSITION, EntryKind.OPERATION])
def test_an_unknown_code_is_shown_as_a_question_mark(kind: EntryKind, code: int) -> None:
    """The rest of the history can still be read."""
    line = history_of(with_entry(kind, code, 99))[-1]
    assert line.what.startswith("?")


def test_a_missing_edge_is_an_error() -> None:
    """The state stays the one that the edges before it lead to."""
    line = history_of(with_entry(EntryKind.TRANSITION, 0, -1))[-1]
    assert (line.from_state, line.to_state) == (State.INITIATED, State.INITIATED)


@pytest.mark.parametrize("at_ms", [2**63, -(2**63)])
def test_a_time_that_no_calendar_has_is_shown_as_the_nearest(at_ms: int) -> None:
    """A person can still read the payment."""
    assert moment(at_ms).year in {1, 9999}


@pytest.mark.parametrize("change", [{"version": "one"}, {"state": "lost"}, {"flow": 1}])
def test_a_record_that_makes_no_sense_is_the_stores_error(change: dict[str, Any]) -> None:
    """It is an error of the package, so a worker sets the order aside and goes on."""
    order = with_record(a_payment(State.INITIATED), **change).order
    stored = StoredOrder("order_1", "", "token", encode_order(order))
    with pytest.raises(StoreError):
        decode_order(stored).payment(1)
