"""The rate budget: the gateway's calls per minute, shared by all processes, checkouts first."""

from __future__ import annotations
