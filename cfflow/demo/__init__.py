"""`cfflow demo`: four payments on one machine, with a local gateway and an embedded server."""

from __future__ import annotations
