"""Answers kept by idempotency key, as the gateway keeps them: for 24 hours.

The same key with the same body gets the same answer again, errors included, and nothing
is done twice; with another body it is refused. Bodies are kept as salted digests only.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import NamedTuple

from cfflow.emulator.refusals import key_reused

WINDOW_S = 86400.0

Scope = tuple[str, str, str]


class Stored(NamedTuple):
    """One answer, and which request it belongs to."""

    body_digest: bytes
    status: int
    answer: bytes
    at_s: float


class IdempotencyKeys:
    """The keys of the last 24 hours. A scope is (method and path, client id, key)."""

    def __init__(self) -> None:
        self._salt = os.urandom(16)
        self._stored: OrderedDict[Scope, Stored] = OrderedDict()

    def clear(self) -> None:
        """Forget every key."""
        self._stored.clear()

    def find(self, scope: Scope, body: bytes, now_s: float) -> Stored | None:
        """The answer to replay, if this request was seen.

        Raises `Refused` (422) when the key belongs to another body.
        """
        self._forget(now_s)
        stored = self._stored.get(scope)
        if stored is not None and stored.body_digest != self._digest(body):
            raise key_reused()
        return stored

    def keep(self, scope: Scope, body: bytes, status: int, answer: bytes, now_s: float) -> None:
        """Remember the answer to a request."""
        self._stored[scope] = Stored(self._digest(body), status, answer, now_s)

    def _forget(self, now_s: float) -> None:
        while self._stored and next(iter(self._stored.values())).at_s + WINDOW_S <= now_s:
            self._stored.popitem(last=False)

    def _digest(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=16, key=self._salt).digest()
