"""Signs of life: what each worker reports of itself, so that a person sees whether one works.

A worker writes one every few seconds, in a command of its own: no order, no lease and no commit
costs more for it. A store keeps the newest one of each worker for a day, of `SIGNS_MAX` workers at
most. It is a report and no lock: nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

#: A sign that is older is forgotten.
SIGN_KEPT_MS: Final = 86_400_000
#: So many workers' signs are kept: those that reported last.
SIGNS_MAX: Final = 64


class Failing(msgspec.Struct, frozen=True, kw_only=True):
    """The last failure of one kind of inquiry, in one worker.

    `call`: the gateway's call. `error`: the class of the error; `NotFound` where the gateway does
    not know the order or the attempt. `times`: how many inquiries of this kind have failed since
    the last one that was answered, the first of them at `since_at_ms`, the last one at `at_ms`.
    """

    call: str
    error: str
    times: int
    since_at_ms: int
    at_ms: int


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's sign of life. Counts are since it started.

    `name` is unique; `host` and `pid` find the process. `at_ms`: when the store got it, by the
    store's own clock. `has_stopped`: it ended in good order. `limits`: the calls per minute that
    it keeps, by class.
    """

    name: str
    host: str
    pid: int
    started_at_ms: int = 0
    at_ms: int = 0
    has_stopped: bool = False
    leased: int = 0
    progressed: int = 0
    errors: int = 0
    purged: int = 0
    failing: tuple[Failing, ...] = ()
    limits: dict[str, int] = {}


class Signs(Protocol):
    """Keeps the newest sign of each worker.

    `is_shared`: whether the signs of other processes are here too.
    """

    is_shared: bool

    async def put(self, sign: Sign) -> None:
        """Keep a sign in place of this worker's last one. Raises `StoreError`."""
        ...

    async def all(self) -> Sequence[Sign]:
        """Return the signs of the last day, newest first. Raises `StoreError`."""
        ...


def newest_first(signs: Sequence[Sign], now_ms: int) -> list[Sign]:
    """Return the signs that are not forgotten yet, newest first."""
    kept = [sign for sign in signs if sign.at_ms > now_ms - SIGN_KEPT_MS]
    return sorted(kept, key=lambda sign: (-sign.at_ms, sign.name))[:SIGNS_MAX]
