"""Gates and the audit trail in memory."""

from __future__ import annotations

from collections.abc import Sequence


class MemoryControl:
    """What people control of a `MemoryStore`."""

    def __init__(self) -> None:
        self._gates: dict[str, str] = {}
        self._decisions: list[str] = []

    async def gates(self) -> dict[str, str]:
        """Return who closed each gate that is closed."""
        return dict(self._gates)

    async def set_gate(self, gate: str, closed_by: str) -> None:
        """Close a gate, or open it with an empty `closed_by`."""
        self._gates.pop(gate, None)
        if closed_by:
            self._gates[gate] = closed_by

    async def record_decision(self, decision: str) -> None:
        """Write what a person decided about the store into its audit trail."""
        self._decisions.insert(0, decision)

    async def decisions(self, limit: int) -> Sequence[str]:
        """Return the last decisions of the audit trail, newest first."""
        return self._decisions[:limit]
