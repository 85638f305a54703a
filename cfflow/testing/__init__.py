"""Public test doubles: a store, a clock, a gateway; and the suite for stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cfflow.names import late

if TYPE_CHECKING:
    from cfflow.store.memory.clock import FakeClock
    from cfflow.store.memory.store import MemoryStore
    from cfflow.testing.cashfree import GatewaySettings, LocalCashfree, LocalOrder
    from cfflow.testing.conformance.suite import StoreConformance

__all__ = [
    "FakeClock",
    "GatewaySettings",
    "LocalCashfree",
    "LocalOrder",
    "MemoryStore",
    "StoreConformance",
]

#: Imported at their first use: the pytest plugin lies in this package, and is loaded in every test
#: run of an environment that has cfflow. The suite needs pytest, the doubles do not.
_PLACES: Final = {
    "FakeClock": "cfflow.store.memory.clock",
    "GatewaySettings": "cfflow.testing.cashfree",
    "LocalCashfree": "cfflow.testing.cashfree",
    "LocalOrder": "cfflow.testing.cashfree",
    "MemoryStore": "cfflow.store.memory.store",
    "StoreConformance": "cfflow.testing.conformance.suite",
}

__getattr__, __dir__ = late.names_of(__name__, _PLACES.get)
