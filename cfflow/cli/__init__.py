"""The command line `cfflow`. It reads arguments and prints; it decides nothing."""

from __future__ import annotations
