"""The suite that every store must pass: `StoreConformance` and its parts."""

from __future__ import annotations
