"""The command line `cfflow`: arguments and printing only."""

from __future__ import annotations
