"""The names that `cfflow` exports, and how they are imported at their first use."""

from __future__ import annotations
