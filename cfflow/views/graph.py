"""Diagrams of the chart in Mermaid, made from the machine, so that they cannot differ from it."""

from __future__ import annotations

from collections.abc import Iterable

from cfflow.core.chart import FINAL, MACHINE, State, Trigger
from cfflow.core.flow import Flow
from cfflow.views.history import HistoryEntry

Edge = tuple[Trigger, State, State]


def mermaid(flow: Flow | None = None, walked: Iterable[HistoryEntry] = ()) -> str:
    """Return the chart as a Mermaid flowchart.

    With a flow, only the edges that its channels can reach, and its limits on them. With a
    payment's history, the walked edges are thick and numbered in the order of the walk.
    """
    steps = _numbers(walked)
    lines = ["flowchart LR"]
    edges = [edge for edge in _edges() if flow is None or _reachable(edge, flow)]
    for state in State:
        if any(state in edge[1:] for edge in edges):
            shape = f"([{state.value}])" if state in FINAL else f"({state.value})"
            lines.append(f"    {state.value}{shape}")
    for trigger, source, target in edges:
        label = _label(trigger, flow, steps.get((trigger, source, target), []))
        lines.append(f'    {source.value} -->|"{label}"| {target.value}')
    walked_edges = [str(i) for i, edge in enumerate(edges) if edge in steps]
    if walked_edges:
        lines.append(f"    linkStyle {','.join(walked_edges)} stroke:#1a7f37,stroke-width:3px")
        seen = {state.value for edge in steps for state in edge[1:]}
        lines.append("    classDef walked stroke:#1a7f37,stroke-width:3px")
        lines.append(f"    class {','.join(sorted(seen))} walked")
    return "\n".join(lines)


def _edges() -> list[Edge]:
    return [
        (Trigger(name), State(transition.source), State(transition.dest or transition.source))
        for name, event in MACHINE.events.items()
        for transitions in event.transitions.values()
        for transition in transitions
    ]


def _numbers(walked: Iterable[HistoryEntry]) -> dict[Edge, list[int]]:
    """Return the numbers of each walked edge: its positions in the walk, from 1."""
    numbers: dict[Edge, list[int]] = {}
    count = 0
    for entry in walked:
        if entry.from_state is not None and entry.to_state is not None:
            count += 1
            edge = (Trigger(entry.what), entry.from_state, entry.to_state)
            numbers.setdefault(edge, []).append(count)
    return numbers


def _reachable(edge: Edge, flow: Flow) -> bool:
    return flow.asks_otp or State.OTP_PENDING not in edge[1:]


def _label(trigger: Trigger, flow: Flow | None, numbers: list[int]) -> str:
    limit = ""
    if flow is not None:
        limit = {
            Trigger.REJECT_OTP: f" (at most {flow.otp.submits_max} tries)",
            Trigger.RESEND_OTP: f" (at most {flow.otp.resends_max})",
            Trigger.CAPTURE: " (at once)" if flow.capture == "automatic" else " (by you)",
        }.get(trigger, "")
    walked = "".join(f"{number}. " for number in numbers)
    return f"{walked}{trigger.value}{limit}"
