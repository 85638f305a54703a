"""The gateway's limits on calls per minute (gateway.md#rate-limits).

The window slides, which is the strictest reading: in any 60 seconds, one caller can make no
more calls of one kind than the limit. A client that obeys this obeys a fixed window too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Literal, NamedTuple

WINDOW_S = 60.0

TableName = Literal["production", "sandbox"]
# The name of a table, or calls per minute by call.
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
            # The gateway documents no number for it: use the lowest of the others.
            "fetch_payment": 30,
        },
    }
)
# A pay has no credentials, so it can only be counted by address.
COUNTED_BY: Mapping[str, CountedBy] = MappingProxyType(
    {call: "ip" if call == "pay" else "app_id" for call in TABLES["production"]}
)


class Admission(NamedTuple):
    """The decision of a rate limit about one call.

    limit: calls per minute. remaining: how many more calls are permitted at once. retry_s:
    whole seconds until the next call is permitted, 0 while some remain.
    """

    admitted: bool
    limit: int
    remaining: int
    retry_s: int
    counted_by: CountedBy


class Limits:
    """The rate limits, the calls of the last minute, and how many calls were refused.

    rate_limits: the name of a table, or calls per minute by call; None limits nothing. Every
    `now_s` is in seconds and not below the one before. Refused calls do not count: only the
    times of the calls admitted in the last 60 seconds are kept. Raises `ValueError` for
    invalid limits.
    """

    def __init__(self, rate_limits: RateLimits | None = None) -> None:
        self.refused = Counter[str]()
        self.per_minute: Mapping[str, int] = {}
        # By call, then by caller. The caller with the oldest last admitted call comes first.
        self._windows: dict[str, OrderedDict[str, deque[float]]] = {}
        if rate_limits is not None:
            self.set(rate_limits)

    @property
    def empty(self) -> bool:
        """Whether no call is limited."""
        return not self.per_minute

    def set(self, rate_limits: RateLimits) -> None:
        """Limit these calls and no others. Calls already counted still count.

        Raises `ValueError`, and changes nothing, for invalid limits.
        """
        self.per_minute = table_of(rate_limits)
        self._windows = {call: self._windows.get(call, OrderedDict()) for call in self.per_minute}

    def clear(self) -> None:
        """Remove every limit and every counted call; `refused` stays."""
        self.set({})

    def admit(self, call: str, client_id: str, address: str, now_s: float) -> Admission | None:
        """Count a call of this account from this address. None: the call has no limit."""
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
        # Index from the end: after a limit was lowered, there may be more calls than it admits.
        retry_s = 0 if remaining else ceil(times[-limit] + WINDOW_S - now_s)
        return Admission(admitted, limit, remaining, retry_s, counted_by)


def table_of(rate_limits: str | Mapping[str, int]) -> Mapping[str, int]:
    """Return calls per minute by call. Raises `ValueError` for invalid limits."""
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
    """Return the times in this caller's window, oldest first; remove callers without any."""
    while callers and next(iter(callers.values()))[-1] + WINDOW_S <= now_s:
        callers.popitem(last=False)
    times = callers.get(caller)
    if times is None:
        return deque()
    while times and times[0] + WINDOW_S <= now_s:
        times.popleft()
    return times
