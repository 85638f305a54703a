"""Diagrams: made of the machine, narrowed by a flow, with a payment's own walk highlighted."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from cfflow import HistoryEntry, State
from cfflow.core.chart import EDGES, FINAL, Trigger
from cfflow.store.catalog import Catalog
from cfflow.views.graph import mermaid
from tests.faces.faces_kit import Till

Edge = tuple[str, str, str]

CHART = [(trigger.value, source.value, target.value) for trigger, source, target in EDGES]
FLOWS = [flow.name for flow in Catalog()]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def edges(diagram: str) -> list[Edge]:
    """Return (trigger, from, to) of each arrow, in the diagram's order."""
    drawn = re.findall(r'^    (\w+) -->\|"(?:\d+\. )*(\w+)[^"]*"\| (\w+)$', diagram, re.MULTILINE)
    return [(trigger, source, target) for source, trigger, target in drawn]


def highlighted(diagram: str) -> list[Edge]:
    """Return the arrows that are drawn thick."""
    found = re.search(r"^    linkStyle ([\d,]+) ", diagram, re.MULTILINE)
    places = [int(place) for place in found[1].split(",")] if found else []
    return [edges(diagram)[place] for place in places]


def numbered(diagram: str) -> dict[int, Edge]:
    """Return the arrow of each place in the walk."""
    lines = [line for line in diagram.splitlines() if "-->" in line]
    return {
        int(number): edge
        for line, edge in zip(lines, edges(diagram), strict=True)
        for number in re.findall(r"(\d+)\. ", line)
    }


def walk(*steps: tuple[Trigger, State, State]) -> list[HistoryEntry]:
    """Return a history of these transitions, an operation's end between them."""
    history = []
    for trigger, source, target in steps:
        history.append(HistoryEntry(at=NOW, kind="operation", what="pay #1", proof="done"))
        history.append(
            HistoryEntry(
                at=NOW, kind="transition", what=trigger.value, from_state=source, to_state=target
            )
        )
    return history


def test_every_edge_of_the_chart_is_drawn_once() -> None:
    """The whole chart, and nothing that is not in it."""
    assert sorted(edges(mermaid())) == sorted(CHART)


def test_every_state_is_drawn_and_ends_look_like_ends() -> None:
    """States with no way out have another shape."""
    shapes = dict(re.findall(r"^    (\w+)(\(.*\))$", mermaid(), re.MULTILINE))
    assert set(shapes) == {state.value for state in State}
    ends = {state for state, shape in shapes.items() if shape.startswith("([")}
    assert ends == {state.value for state in FINAL}


def test_the_diagram_is_the_same_every_time() -> None:
    """It can be kept in a page and compared."""
    assert mermaid() == mermaid()
    assert mermaid().startswith("flowchart LR\n")
    assert not mermaid().endswith("\n")


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_draws_what_its_methods_can_reach(name: str) -> None:
    """Without a card over `post` there is no OTP page, and no arrow to it; the rest stays."""
    flow = Catalog().named(name)
    drawn = edges(mermaid(flow))
    has_otp = name in {"native_otp", "preauth"}
    assert drawn == [edge for edge in edges(mermaid()) if has_otp or "otp_pending" not in edge]


def test_a_flow_writes_its_limits_on_the_arrows() -> None:
    """How many tries, and who captures."""
    sale, hold = Catalog().named("native_otp"), Catalog().named("preauth")
    assert f'"reject_otp (at most {sale.otp.submits_max} tries)"' in mermaid(sale)
    assert f'"resend_otp (at most {sale.otp.resends_max})"' in mermaid(sale)
    assert '"capture (at once)"' in mermaid(sale)
    assert '"capture (by you)"' in mermaid(hold)


def test_a_walk_marks_exactly_the_walked_path() -> None:
    """Its arrows are thick and numbered in order; no other is."""
    steps = [
        (Trigger.INITIATE, State.CREATED, State.INITIATED),
        (Trigger.REQUIRE_OTP, State.INITIATED, State.OTP_PENDING),
        (Trigger.HOLD, State.OTP_PENDING, State.AUTHORIZED),
        (Trigger.VOID, State.AUTHORIZED, State.VOIDED),
    ]
    diagram = mermaid(None, walk(*steps))
    walked = [(trigger.value, source.value, target.value) for trigger, source, target in steps]
    assert sorted(highlighted(diagram)) == sorted(walked)
    assert [edge for _, edge in sorted(numbered(diagram).items())] == walked
    assert "    class authorized,created,initiated,otp_pending,voided walked" in diagram


def test_an_edge_walked_twice_has_both_places() -> None:
    """Two wrong OTPs are two numbers on one arrow."""
    again = (Trigger.REJECT_OTP, State.OTP_PENDING, State.OTP_PENDING)
    diagram = mermaid(None, walk(again, again))
    assert '"1. 2. reject_otp"' in diagram
    assert len(highlighted(diagram)) == 1


def test_no_walk_marks_nothing() -> None:
    """A new payment has gone nowhere yet."""
    assert mermaid(None, walk()) == mermaid()
    assert highlighted(mermaid()) == []


@pytest.mark.parametrize("payment", ["new.1", "tea.1", "held.1", "room.1", "car.1", "broken.1"])
def test_a_stored_payment_s_walk_is_its_history(till: Till, payment: str) -> None:
    """`cfflow graph --payment` highlights what `cfflow why` prints, in its order."""
    walked_edges = re.findall(r" (\w+): (\w+) -> (\w+) \(", till.run("why", payment).stdout)
    diagram = till.run("graph", "--payment", payment).stdout
    assert [edge for _, edge in sorted(numbered(diagram).items())] == walked_edges
    assert set(highlighted(diagram)) == set(walked_edges)
