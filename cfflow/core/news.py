"""What a change of a payment tells the world beside its transitions.

Derived from the record before and after a commit, so that nothing about it is stored and every
store gets the same: a review was opened or closed, a hold ends within a day.
"""

from __future__ import annotations

import msgspec

from cfflow.core.chart import State
from cfflow.core.plan import Change
from cfflow.core.record import Record, Review
from cfflow.core.schedule import HOLD_NEWS_MS


class ReviewNews(msgspec.Struct, frozen=True):
    """A review was opened, or a person has closed it."""

    review: Review
    is_open: bool


def reviews_changed(change: Change) -> tuple[ReviewNews, ...]:
    """Return the reviews that a change opened or closed, in the order in which they are stored.

    One whose detail names more now, another attempt for example, counts as opened again.
    """
    before = () if change.previous is None else change.previous.reviews
    after = change.record.reviews
    if after is before:
        return ()
    known = {(review.reason, review.at_ms): review for review in before}
    changed = (r for r in after if known.get((r.reason, r.at_ms)) != r)
    return tuple(ReviewNews(r, is_open=r.acknowledged_at_ms is None) for r in changed)


def hold_expires_soon(change: Change) -> bool:
    """Whether this change is the first one that knows of a hold which ends within a day.

    By the time of the inquiry, not of the commit: the schedule asks at that moment, and every
    hold is told of once, one that is shorter than a day when it begins.
    """
    return _ends_within_a_day(change.record) and not (
        change.previous is not None and _ends_within_a_day(change.previous)
    )


def _ends_within_a_day(record: Record) -> bool:
    ends_at_ms = record.hold_expires_at_ms
    held = record.state is State.AUTHORIZED and ends_at_ms is not None
    return held and record.asked_at_ms >= (ends_at_ms or 0) - HOLD_NEWS_MS
