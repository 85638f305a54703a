"""Time that a test can skip: of the Redis server and the bank at once, for all processes.

Leases, wake times and time limits use the server's own TIME, which the script reads. The
processes of these tests run a script that adds the time skipped so far.
"""

from __future__ import annotations

import httpx

from cfflow.testing.shared_time import SKIPPED_MS_KEY
from tests.ports.servers import Server

__all__ = ["Clock"]


class Clock:
    """The time of one Redis server and one bank, which is never set back."""

    def __init__(self, server: Server, admin: httpx.Client) -> None:
        self._server = server
        self._admin = admin
        self.skip(0)

    def skip(self, seconds: float) -> None:
        """Move the time forward by so many seconds, for all processes."""
        answer = self._admin.post("/clock", json={"advance_s": seconds})
        skipped_s: float = answer.raise_for_status().json()["offset_s"]
        self._server.run("SET", SKIPPED_MS_KEY, round(skipped_s * 1000))
