"""Times as people and programs read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

#: The first and the last moment that a datetime can represent, in milliseconds since the epoch.
_FIRST_MS: Final = -62_135_596_800_000
_LAST_MS: Final = 253_402_300_799_000


def moment(at_ms: int) -> datetime:
    """Return an aware datetime of milliseconds since the epoch.

    A time that `datetime` cannot represent is clamped, so that a corrupt timestamp never hides a
    payment.
    """
    return datetime.fromtimestamp(min(max(at_ms, _FIRST_MS), _LAST_MS) / 1000, UTC)


def millisecond_of(when: datetime) -> int:
    """Return the first millisecond since the epoch that is not before an aware datetime."""
    since = when - datetime.fromtimestamp(0, UTC)
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return -(-micros // 1000)
