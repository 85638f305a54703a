"""The gateway's clock, read off the `Date` header of its answers.

Only this clock can say whether an attempt began before or after a pay was written down: the
gateway stamps its attempts by it. Between two answers it is followed by the event loop's
monotonic clock, so no wall clock and no store's clock is compared with it.
"""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime

__all__ = ["GatewayClock"]


class GatewayClock:
    """Knows the earliest time that the gateway's clock can show now."""

    def __init__(self) -> None:
        self._ahead_ms: float | None = None
        self._date, self._date_ms = "", 0.0

    def read(self, date: str | None) -> None:
        """Take the `Date` of an answer that has just come; one that is no date is left out.

        The gateway wrote it before it reached us, so its clock shows that time or a later one.
        """
        date_ms = self._milliseconds(date) if date else None
        if date_ms is not None:
            self._ahead_ms = date_ms - _loop_ms()

    def earliest_ms(self) -> int | None:
        """Return milliseconds since the epoch, None before the first answer."""
        return None if self._ahead_ms is None else int(_loop_ms() + self._ahead_ms)

    def _milliseconds(self, date: str) -> float | None:
        # It changes once a second, and busy connections bring many answers in that time.
        if date != self._date:
            try:
                self._date_ms = parsedate_to_datetime(date).timestamp() * 1000
            except (ValueError, OverflowError, TypeError):
                return None
            self._date = date
        return self._date_ms


def _loop_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
