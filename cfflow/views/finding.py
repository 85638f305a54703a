"""`Finding`: one thing that `cfflow doctor` has examined."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that was examined: `good`, worth a `note`, or `bad`."""

    verdict: Literal["good", "note", "bad"]
    subject: str
    detail: str
