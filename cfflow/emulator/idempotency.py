"""Responses stored by idempotency key for 24 hours (gateway.md#idempotency).

The same key with the same body gets the stored response again, errors included, and nothing
is done twice. With another body it is refused. Request bodies are kept only as salted
digests, because they may hold card data (gateway.md#secrets).
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
    """A stored response, and the digest of its request's body."""

    body_digest: bytes
    status: int
    response: bytes
    at_s: float


class IdempotencyKeys:
    """The keys of the last 24 hours. A scope is (endpoint, client id, key)."""

    def __init__(self) -> None:
        self._salt = os.urandom(16)
        self._stored: OrderedDict[Scope, Stored] = OrderedDict()

    def clear(self) -> None:
        """Remove every key."""
        self._stored.clear()

    def find(self, scope: Scope, body: bytes, now_s: float) -> Stored | None:
        """Return the stored response to this request, or None.

        Raises `Refused` (422) when the key belongs to another body.
        """
        self._remove_old(now_s)
        stored = self._stored.get(scope)
        if stored is not None and stored.body_digest != self._digest(body):
            raise key_reused()
        return stored

    def keep(self, scope: Scope, body: bytes, status: int, response: bytes, now_s: float) -> None:
        """Store the response to a request."""
        self._stored[scope] = Stored(self._digest(body), status, response, now_s)

    def _remove_old(self, now_s: float) -> None:
        while self._stored and next(iter(self._stored.values())).at_s + WINDOW_S <= now_s:
            self._stored.popitem(last=False)

    def _digest(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, digest_size=16, key=self._salt).digest()
