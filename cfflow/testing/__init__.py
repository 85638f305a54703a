"""Test doubles that are part of the product: a store in memory, a clock, a suite for stores."""

from __future__ import annotations

from cfflow.testing.conformance import StoreConformance
from cfflow.testing.memory import FakeClock, MemoryStore

__all__ = ["FakeClock", "MemoryStore", "StoreConformance"]
