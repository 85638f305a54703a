"""The gateway's clock, read off the `Date` header of its answers.

Only this clock can prove that an attempt began before a pay was stored, since the gateway dates
its attempts by it (gateway.md#late-money). Between two answers the event loop's monotonic clock
measures the time, so no wall clock and no store's clock is compared with it.
"""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime


class GatewayClock:
    """Computes the earliest time that the gateway's clock can show now."""

    def __init__(self) -> None:
        self._ahead_ms: float | None = None
        self._date, self._date_at_ms = "", 0.0

    def read(self, date: str | None) -> None:
        """Use the `Date` of an answer that was decoded; a text that is not a date is ignored.

        The gateway wrote it before it reached us, so its clock shows that time or a later one.
        Of all answers the smallest difference counts: one date that is wrong and too late
        would rule out an attempt of ours, and one that is too early rules out nothing.
        """
        date_at_ms = self._milliseconds(date) if date else None
        if date_at_ms is not None:
            ahead_ms = date_at_ms - _loop_ms()
            self._ahead_ms = ahead_ms if self._ahead_ms is None else min(self._ahead_ms, ahead_ms)

    def earliest_at_ms(self) -> int | None:
        """Return milliseconds since the epoch, None before the first answer."""
        return None if self._ahead_ms is None else int(_loop_ms() + self._ahead_ms)

    def _milliseconds(self, date: str) -> float | None:
        # It changes once a second, and busy connections bring many answers in that time.
        if date != self._date:
            try:
                moment = parsedate_to_datetime(date)
            except (ValueError, OverflowError, TypeError):
                return None
            if moment.tzinfo is None:
                # Without a zone it would be read as this machine's local time.
                return None
            self._date_at_ms = moment.timestamp() * 1000
            self._date = date
        return self._date_at_ms


def _loop_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
