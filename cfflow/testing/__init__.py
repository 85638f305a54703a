"""Test doubles that are part of the product: a store, a clock, a gateway, a suite for stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cfflow.store.memory.store import FakeClock, MemoryStore
from cfflow.testing.cashfree import LocalCashfree

if TYPE_CHECKING:
    from cfflow.testing.conformance.suite import StoreConformance

__all__ = ["FakeClock", "LocalCashfree", "MemoryStore", "StoreConformance"]


def __getattr__(name: str) -> Any:
    """Import the suite when it is asked for: it is written for pytest, the doubles are not."""
    if name != "StoreConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cfflow.testing.conformance.suite import StoreConformance

    return StoreConformance
