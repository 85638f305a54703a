"""The store in this process's memory, for tests and for the simulation."""

from __future__ import annotations
