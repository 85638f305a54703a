"""The chart: which edges it has, which it has not, and the walks along it."""

from __future__ import annotations

from itertools import product

import pytest
from transitions import MachineError

from cfflow.core import chart
from cfflow.core.chart import EDGES, FINAL, MACHINE, OPEN, State, Trigger, fire, walk
from tests.core.core_kit import CHART

PAIRS = tuple(product(State, Trigger))
DEAD_ENDS = {"captured", "voided", "failed"}


def reaches(source: str, target: str) -> bool:
    """Return whether the hand-written chart leads there without passing through a dead end."""
    seen, here = {source}, [source]
    while here:
        state = here.pop()
        for edges in CHART.values():
            to = edges.get(state)
            if to == target:
                return True
            if to is not None and to not in seen | DEAD_ENDS:
                seen.add(to)
                here.append(to)
    return False


def test_the_code_has_the_edges_of_the_design_and_no_others() -> None:
    """The table, and the state machine built from it, are the chart of the design."""
    wanted = {(t, a, b) for t, edges in CHART.items() for a, b in edges.items()}
    assert {(str(t), str(a), str(b)) for t, a, b in EDGES} == wanted
    assert len(EDGES) == len(wanted) == 14
    made = {
        (name, transition.source, transition.dest)
        for name, event in MACHINE.events.items()
        for found in event.transitions.values()
        for transition in found
    }
    assert made == wanted


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_each_trigger_walks_its_edge_or_raises_and_changes_nothing(
    state: State, trigger: Trigger
) -> None:
    """Every pair of state and trigger is an edge of the chart or an error without effect."""
    model = chart._Walker(state)
    target = CHART[trigger].get(state)
    if target is not None:
        assert fire(state, trigger) == target
        return
    with pytest.raises(MachineError):
        fire(state, trigger)
    with pytest.raises(MachineError):
        MACHINE.events[trigger.value].trigger(model)
    assert model.state == state


@pytest.mark.parametrize(("source", "target"), tuple(product(State, State)))
@pytest.mark.parametrize("attempted", [True, False])
def test_each_walk_is_legal_and_never_passes_through_an_end(
    source: State, target: State, attempted: bool
) -> None:
    """A walk follows edges; failed, captured and voided are only where one begins or ends."""
    if source is not target and not reaches(source, target):
        with pytest.raises(MachineError):
            walk(source, target, attempted=attempted)
        return
    state = source
    visited = []
    for trigger in walk(source, target, attempted=attempted):
        state = fire(state, trigger)
        visited.append(state)
    assert state is target
    assert not DEAD_ENDS & set(visited[:-1])
    assert (visited == []) is (source is target)


def test_nothing_leads_out_of_captured_and_voided() -> None:
    """The two final states have no edge at all; failed has only `revive`."""
    assert {State.CAPTURED, State.VOIDED} == FINAL
    out = {state: {t for t, a, _ in EDGES if a is state} for state in State}
    assert out[State.CAPTURED] == out[State.VOIDED] == set()
    assert out[State.FAILED] == {Trigger.REVIVE}
    assert set(State) - FINAL - {State.FAILED} == OPEN


def test_a_captured_sale_seen_at_the_otp_page_walks_hold_and_capture() -> None:
    """A payment never jumps: each edge on the way is walked."""
    assert walk(State.OTP_PENDING, State.CAPTURED) == (Trigger.HOLD, Trigger.CAPTURE)
    assert walk(State.FAILED, State.CAPTURED) == (Trigger.REVIVE, Trigger.CAPTURE)
    assert walk(State.CREATED, State.FAILED, attempted=False) == (Trigger.FAIL,)
    assert walk(State.CREATED, State.FAILED) == (Trigger.INITIATE, Trigger.FAIL)


def test_one_machine_serves_all_payments_and_has_no_model() -> None:
    """No model is registered, nothing queues, no automatic trigger, condition or callback."""
    for state in State:
        walk(State.CREATED, State.CAPTURED)
        for trigger in MACHINE.get_triggers(state.value):
            fire(state, Trigger(trigger))
    assert MACHINE.models == []
    assert not MACHINE.has_queue
    assert set(MACHINE.events) == set(Trigger)
    assert MACHINE.before_state_change == MACHINE.after_state_change == []
    assert MACHINE.prepare_event == MACHINE.finalize_event == MACHINE.on_exception == []
    for event in MACHINE.events.values():
        for found in event.transitions.values():
            for t in found:
                assert not (t.conditions or t.before or t.after or t.prepare)
    for known in MACHINE.states.values():
        assert not any(getattr(known, f"on_{moment}") for moment in ("enter", "exit"))
