"""Time that a test can skip: the Redis server's and the bank's at once, for all processes.

Leases, wake times and time limits are the server's own TIME, asked for inside the script.
A process that is told to gets the script with one more word in it: so much has been skipped.
"""

from __future__ import annotations

import hashlib
from typing import Final

import httpx

from cfflow.store.redis import link as redis_link
from tests.ports.servers import Server

__all__ = ["Clock", "movable"]

_KEY: Final = "skipped_ms"
_NOW: Final = "return time[1] * 1000 + math.floor(time[2] / 1000)"
_SCRIPT: Final = redis_link.SCRIPT.replace(_NOW, f"{_NOW} + (redis.call('GET', '{_KEY}') or 0)")


def movable() -> dict[str, str]:
    """Return the script whose time can be skipped and its digest, by their names in the link."""
    if _SCRIPT == redis_link.SCRIPT and _KEY not in _SCRIPT:
        raise RuntimeError("cfflow.lua asks for the time in other words now")
    sha = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
    return {"SCRIPT": _SCRIPT, "SHA": sha}


class Clock:
    """The time of one Redis server and of one bank, which is never set back."""

    def __init__(self, server: Server, admin: httpx.Client) -> None:
        self._server = server
        self._admin = admin
        self.skip(0)

    def skip(self, seconds: float) -> None:
        """Let so many seconds be over, for everybody."""
        answer = self._admin.post("/clock", json={"advance_s": seconds})
        skipped_s: float = answer.raise_for_status().json()["offset_s"]
        self._server.run("SET", _KEY, round(skipped_s * 1000))
