"""Public test doubles: a store, a clock, a gateway; and the suite for stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cfflow.store.memory.clock import FakeClock
from cfflow.store.memory.store import MemoryStore
from cfflow.testing.cashfree import GatewaySettings, LocalCashfree, LocalOrder

if TYPE_CHECKING:
    from cfflow.testing.conformance.suite import StoreConformance

__all__ = [
    "FakeClock",
    "GatewaySettings",
    "LocalCashfree",
    "LocalOrder",
    "MemoryStore",
    "StoreConformance",
]


def __getattr__(name: str) -> Any:
    """Import the suite only on demand: it needs pytest, the doubles do not."""
    if name != "StoreConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cfflow.testing.conformance.suite import StoreConformance

    return StoreConformance
