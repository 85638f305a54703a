"""The gateway's limits on calls per minute, as strict as they can be read.

The window slides: no 60 seconds ever see more calls of one class and caller than its limit
admits, so that a client that is right here is right under any other way of counting.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Literal, NamedTuple

WINDOW_S = 60.0

TableName = Literal["production", "sandbox"]
# What a user gives: a table's name, or calls per minute by call.
RateLimits = TableName | Mapping[str, int]
CountedBy = Literal["app_id", "ip"]

TABLES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "production": {
            "create_order": 200,
            "fetch_order": 400,
            "pay": 100,
            "fetch_payments": 100,
            "fetch_payment": 130,
        },
        "sandbox": {
            "create_order": 30,
            "fetch_order": 60,
            "pay": 30,
            "fetch_payments": 30,
            # The gateway tells no number for it: the lowest of the others is assumed.
            "fetch_payment": 30,
        },
    }
)
# Whoever pays carries no credentials, so only the address is there to be counted.
COUNTED_BY: Mapping[str, CountedBy] = MappingProxyType(
    {call: "ip" if call == "pay" else "app_id" for call in TABLES["production"]}
)


class Admission(NamedTuple):
    """What the limit says of one call.

    limit: calls per minute. remaining: how many more may come at once. retry_s: whole
    seconds until the next one may come, 0 while some remain.
    """

    admitted: bool
    limit: int
    remaining: int
    retry_s: int
    counted_by: CountedBy


class Limits:
    """Which calls are limited, who called when, and how many calls were refused.

    rate_limits: a table's name, or calls per minute by call; None limits nothing. Every
    `now` is in seconds and not below the one before. A refused call takes no place in the
    window: what is kept are the times of the calls admitted in the last 60 seconds.
    Raises `ValueError` for limits that make no sense.
    """

    def __init__(self, rate_limits: RateLimits | None = None) -> None:
        self.refused = Counter[str]()
        self.per_minute: Mapping[str, int] = {}
        # By call, then by caller; the caller whose last admitted call is oldest comes first.
        self._windows: dict[str, OrderedDict[str, deque[float]]] = {}
        if rate_limits is not None:
            self.set(rate_limits)

    @property
    def empty(self) -> bool:
        """Whether no call is limited, so that none need be looked at."""
        return not self.per_minute

    def set(self, rate_limits: RateLimits) -> None:
        """Limit these calls and no others; what was counted of them still counts.

        Raises `ValueError`, and changes nothing, for limits that make no sense.
        """
        self.per_minute = table_of(rate_limits)
        self._windows = {call: self._windows.get(call, OrderedDict()) for call in self.per_minute}

    def clear(self) -> None:
        """Limit nothing, and forget who called; `refused` stays."""
        self.set({})

    def admit(self, call: str, client_id: str, address: str, now_s: float) -> Admission | None:
        """Count a call of this account from this address; None when nothing limits it."""
        limit = self.per_minute.get(call)
        if limit is None:
            return None
        counted_by = COUNTED_BY[call]
        callers, caller = self._windows[call], address if counted_by == "ip" else client_id
        times = _recent(callers, caller, now_s)
        admitted = len(times) < limit
        if admitted:
            times.append(now_s)
            callers[caller] = times
            callers.move_to_end(caller)
        else:
            self.refused[call] += 1
        remaining = max(0, limit - len(times))
        # Counted from the end: a limit that was lowered finds more calls than it admits.
        retry_s = 0 if remaining else ceil(times[-limit] + WINDOW_S - now_s)
        return Admission(admitted, limit, remaining, retry_s, counted_by)


def table_of(rate_limits: str | Mapping[str, int]) -> Mapping[str, int]:
    """Calls per minute by call. Raises `ValueError` for limits that make no sense."""
    if isinstance(rate_limits, str):
        if rate_limits not in TABLES:
            raise ValueError(f"rate limits are {' or '.join(TABLES)}, or calls per minute by call")
        return dict(TABLES[rate_limits])
    for call, limit in rate_limits.items():
        if call not in COUNTED_BY:
            raise ValueError(f"{call} has no rate limit, only {', '.join(COUNTED_BY)} have one")
        if type(limit) is not int or limit < 1:
            raise ValueError(f"{call} : a rate limit is a whole number from 1 on")
    return dict(rate_limits)


def _recent(callers: OrderedDict[str, deque[float]], caller: str, now_s: float) -> deque[float]:
    """The times still in this caller's window, oldest first; whoever has none is forgotten."""
    while callers and next(iter(callers.values()))[-1] + WINDOW_S <= now_s:
        callers.popitem(last=False)
    times = callers.get(caller)
    if times is None:
        return deque()
    while times and times[0] + WINDOW_S <= now_s:
        times.popleft()
    return times
