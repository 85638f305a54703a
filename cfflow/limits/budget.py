"""The rate budget: calls per minute, shared by all processes, the checkout's first.

The limits are those of gateway.md#rate-limits. `Budget.background()` separates two kinds of
callers:

- At the checkout a customer waits. Such a call asks no other process and is never refused because
  of our own count. It is counted here and reported to the ledger in the background.
- A worker can wait. It calls on permits only, leased from the ledger in slices, out of what the
  checkout leaves (ledger.py has the rule, and why the rule keeps every minute below the limit).

The gateway's own numbers count more than ours: its limit when it is lower, calls that it has
counted and we have not, and a time in which it takes no calls. In that time nothing is sent: a
caller gets at once the number of seconds to wait, as the gateway would have sent it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from secrets import token_urlsafe
from typing import Final

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.calls import ROUTES
from cfflow.cashfree.environment import is_local
from cfflow.core.arguments import shown_name
from cfflow.core.observation import Call
from cfflow.errors import CfflowError, ConfigError
from cfflow.limits.ledger import PACE_MS, SLICE_MS, WINDOW_MS, Balance, Entry, Ledger

#: How long the checkout's calls are gathered before one report has them all.
_GATHER_S: Final = 1.0
#: A permit that is used later may reach the gateway after its slice has ended: the last second
#: of a slice's time is for the way there.
_USABLE_S: Final = SLICE_MS / 1000 - 1.0
#: How long closing may take for the last report.
_LAST_REPORT_S: Final = 0.5
#: Bounds the memory for calls that cannot be reported, while the ledger is out of reach.
_UNREPORTED_MAX: Final = 65_536
#: When to ask a ledger again that was out of reach.
_ASK_AGAIN_S: Final = 1.0
#: No wait is shorter, so that a caller who waits and asks again does not spin.
_WAIT_MIN_S: Final = 0.05

_in_background: Final = ContextVar("cfflow_in_background", default=False)


def limits_of(
    environment: str, given: Mapping[str, int | None] | None = None
) -> dict[Call, int | None]:
    """Return the calls per minute of each class; None: not counted until the gateway names one.

    The sandbox's table, else production's, and `given` replaces single classes. A gateway on
    this machine has None everywhere. Raises `ConfigError` for a class without limits, and for
    a limit that is not a whole number from 1 on.
    """
    table = facts.RATE_LIMITS.get(environment, facts.RATE_LIMITS["production"])
    local = is_local(environment)
    limits = {Call(name): None if local else limit for name, limit in table.items()}
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError('limits must be a dict: limits={"pay": 100}')
    for name, limit in (given or {}).items():
        if name not in limits:
            raise ConfigError(f"limits: no call {shown_name(name)}; there are {', '.join(limits)}")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ConfigError(f"limits: {name} must be calls per minute from 1 on, or None")
        limits[Call(name)] = limit
    return limits


class LimitHeaders(msgspec.Struct, frozen=True):
    """What the headers of one answer contain about its limit; None for a header without a number.

    `limit` and `remaining` are calls per minute. `wait_s`: for how many seconds the gateway
    takes no call of this class. `by_address`: it counts this machine's IP address and not the
    account, so the wait is of no concern to processes elsewhere.
    """

    limit: int | None = None
    remaining: int | None = None
    wait_s: float = 0.0
    by_address: bool = False


class _Slice(msgspec.Struct):
    """Permits that were granted together; `until_s` is when the last one must be used."""

    id: str
    size: int
    left: int
    until_s: float


class _CallClass:
    """The state of one class of calls in this process: its limit, its permits, its wait.

    `unreported` are the times of the checkout's calls that the ledger has not got yet, `used`
    the permits of earlier slices that were used. `seen` is what the gateway had counted at
    `seen_at_s`, -1 if unknown. All times are seconds of the ledger's clock.
    """

    def __init__(self, call: Call, limit: int | None) -> None:
        self.call: Final = call
        self._ours: Final = limit
        self.apply_limit(None)
        self.blocked_until_s = 0.0
        self.block_unreported = False
        self.unreported: deque[float] = deque(maxlen=_UNREPORTED_MAX)
        self.slice: _Slice | None = None
        self.used: dict[str, int] = {}
        self.seen = -1
        self.seen_at_s = 0.0
        self.ask_again_at_s = 0.0
        # One entry at a time: two at once would report the same calls twice.
        self.writing: Final = asyncio.Lock()

    def apply_limit(self, theirs: int | None) -> None:
        """Use the gateway's own limit where it is lower than ours, or where we have none."""
        limits = [limit for limit in (self._ours, theirs) if limit is not None]
        self.limit: int | None = min(limits, default=None)
        # A limit by IP address is each machine's own, so there is nothing to share.
        self.counted = bool(limits) and ROUTES[self.call].limited_by == "account"
        # The checkout's part, which no worker ever takes.
        self.reserve = (self.limit or 0) * 3 // 10

    @property
    def has_unreported(self) -> bool:
        """Whether the ledger lacks something that other processes need."""
        return self.counted and bool(self.unreported or self.used or self.block_unreported)

    def blocked_s(self, now_s: float) -> float:
        """Return for how long the gateway takes no call of this class, 0.0 if it takes them."""
        return max(0.0, self.blocked_until_s - now_s)

    def permits(self, now_s: float) -> int:
        """Return how many permits may be used now. Those whose time is over go back."""
        if self.slice is not None and now_s >= self.slice.until_s:
            self.release_slice()
        return 0 if self.slice is None else self.slice.left

    def release_slice(self) -> None:
        """Give up the permits that are left; the next entry returns them to the ledger."""
        if self.slice is not None and self.slice.left:
            self.used[self.slice.id] = self.slice.size - self.slice.left
        self.slice = None

    def entry(self, name: str, wanted: int, now_s: float) -> Entry:
        """Return all that the ledger has to get now, and ask for `wanted` permits."""
        limit, reserve = self.limit or 0, self.reserve
        while self.unreported and self.unreported[0] <= now_s - WINDOW_MS / 1000:
            self.unreported.popleft()
        fresh = now_s - self.seen_at_s <= SLICE_MS / 1000
        blocked_s = self.blocked_s(now_s) if self.block_unreported else 0.0
        return Entry(
            id=name,
            limit=limit,
            reserve=reserve,
            pace=-(-(limit - reserve) * PACE_MS // WINDOW_MS),
            wanted=wanted,
            made=len(self.unreported),
            seen=self.seen if fresh else -1,
            block_ms=round(blocked_s * 1000),
            used=dict(self.used),
        )

    def apply_balance(self, entry: Entry, balance: Balance, asked_s: float, now_s: float) -> None:
        """Apply the ledger's reply to an entry that was sent at `asked_s`."""
        for _ in range(min(entry.made, len(self.unreported))):
            self.unreported.popleft()
        for name in entry.used:
            del self.used[name]
        self.blocked_until_s = max(self.blocked_until_s, asked_s + balance.blocked_ms / 1000)
        if balance.granted:
            granted = balance.granted
            # From when it was asked for: the grant may be as old as the question.
            self.slice = _Slice(entry.id, granted, granted, asked_s + _USABLE_S)
        elif entry.wanted:
            self.ask_again_at_s = now_s + max(_WAIT_MIN_S, balance.wait_ms / 1000)

    def apply_headers(self, headers: LimitHeaders, now_s: float) -> None:
        """Apply what the gateway's own headers contain."""
        if headers.limit is not None and headers.limit != self.limit:
            self.apply_limit(headers.limit)
        if headers.limit is not None and headers.remaining is not None:
            self.seen, self.seen_at_s = headers.limit - headers.remaining, now_s
        if headers.remaining is not None and self.slice is not None:
            # The last calls of a minute are the checkout's.
            spare = max(0, headers.remaining - self.reserve // 2)
            self.slice.left = min(self.slice.left, spare)
        if headers.wait_s > 0:
            self.blocked_until_s = max(self.blocked_until_s, now_s + headers.wait_s)
            self.block_unreported |= not headers.by_address


class Budget:
    """What may be called when, in this process. One for each orchestrator.

    `limits`: calls per minute by class, None until the gateway names one; a class that is
    missing is not limited. `ledger` holds what all processes have called. It belongs to one
    event loop.
    """

    def __init__(self, limits: Mapping[Call, int | None], ledger: Ledger) -> None:
        self._ledger = ledger
        self._classes: dict[str, _CallClass] = {c: _CallClass(c, n) for c, n in limits.items()}
        self._reporter: asyncio.Task[None] | None = None

    @property
    def limits(self) -> dict[Call, int | None]:
        """Calls per minute in force by class: ours, or the gateway's own where it is lower."""
        return {each.call: each.limit for each in self._classes.values()}

    @contextmanager
    def background(self) -> Iterator[None]:
        """Make the calls inside this block, and of tasks begun in it, those of a worker.

        Each takes a permit. One that finds none is not sent and raises `RateLimited`.
        """
        token = _in_background.set(True)
        try:
            yield
        finally:
            _in_background.reset(token)

    async def room(self, call: Call | str, wanted: int) -> int:
        """Return how many calls of this class a worker may make now, `wanted` at the most.

        Leases a slice of permits where none is left; they must be used within four seconds.
        0 when there are none, and when the ledger is out of reach.
        """
        each = self._classes.get(call)
        if wanted < 1 or (each and each.blocked_s(self._ledger.clock_s()) > 0):
            return 0
        if each is None or not each.counted:
            return wanted
        async with each.writing:
            left = each.permits(self._ledger.clock_s()) or await self._lease(each, wanted)
        return min(left, wanted)

    def take(self, call: Call | str) -> bool:
        """Use one permit and return True; False where there is none.

        The transport does so for every call in the background; no other caller needs to.
        """
        each = self._classes.get(call)
        if each is None:
            return True
        now_s = self._ledger.clock_s()
        if each.blocked_s(now_s) > 0 or (each.counted and not each.permits(now_s)):
            return False
        if each.slice is not None:
            each.slice.left -= 1
        return True

    def wait_s(self, call: Call | str) -> float:
        """Return in how many seconds `room` may find some again; 0 when there is some now."""
        each = self._classes.get(call)
        if each is None:
            return 0.0
        now_s = self._ledger.clock_s()
        blocked_s = each.blocked_s(now_s)
        if blocked_s > 0 or not each.counted or each.permits(now_s):
            return blocked_s
        return max(0.0, each.ask_again_at_s - now_s)

    def give_back(self) -> None:
        """Return the permits that are not needed now; without it they end by themselves."""
        for each in self._classes.values():
            each.release_slice()
            self._report_soon(each)

    def enter(self, call: Call) -> float:
        """Count a call that is about to be made and return 0.0, or the seconds it must wait."""
        each = self._classes.get(call)
        if each is None:
            return 0.0
        now_s = self._ledger.clock_s()
        blocked_s = each.blocked_s(now_s)
        if blocked_s > 0:
            return blocked_s
        if each.counted:
            if _in_background.get():
                return 0.0 if self.take(call) else max(_WAIT_MIN_S, self.wait_s(call))
            each.unreported.append(now_s)
            self._report_soon(each)
        return 0.0

    def apply_limit_headers(self, call: Call, headers: LimitHeaders) -> None:
        """Apply the gateway's own limit, count and wait to a class."""
        each = self._classes.get(call)
        if each is not None:
            each.apply_headers(headers, self._ledger.clock_s())
            if headers.wait_s > 0:
                self._report_soon(each)

    async def aclose(self) -> None:
        """Stop the reports, after a last one of what the ledger lacks."""
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            reporter.cancel()
            await asyncio.wait([reporter])
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPORT_S):
                await self._report()

    async def _lease(self, each: _CallClass, wanted: int) -> int:
        """Ask the ledger for permits. Out of reach it grants none: no process has the count."""
        try:
            await self._write(each, wanted)
        except CfflowError:
            each.ask_again_at_s = self._ledger.clock_s() + _ASK_AGAIN_S
        return each.permits(self._ledger.clock_s())

    async def _write(self, each: _CallClass, wanted: int = 0) -> None:
        """Write an entry into the ledger; the caller holds the class's lock."""
        asked_s = self._ledger.clock_s()
        entry = each.entry(token_urlsafe(6), wanted, asked_s)
        # Before the reply: a wait that the gateway demands meanwhile is unreported again.
        each.block_unreported = False
        try:
            balance = await self._ledger.settle(each.call, entry)
        except BaseException:
            each.block_unreported |= entry.block_ms > 0
            raise
        each.apply_balance(entry, balance, asked_s, self._ledger.clock_s())

    def _report_soon(self, each: _CallClass) -> None:
        if self._reporter is None and each.has_unreported:
            self._reporter = asyncio.create_task(self._keep_reporting())

    async def _keep_reporting(self) -> None:
        """Report once a second until there is nothing to report, or the ledger is out of reach."""
        try:
            while any(each.has_unreported for each in self._classes.values()):
                await asyncio.sleep(_GATHER_S)
                if not await self._report():
                    return
        finally:
            if self._reporter is asyncio.current_task():
                self._reporter = None

    async def _report(self) -> bool:
        """Write to the ledger what it lacks. False: it is out of reach, and nothing is lost."""
        for each in self._classes.values():
            async with each.writing:
                if each.has_unreported:
                    try:
                        await self._write(each)
                    except CfflowError:
                        return False
        return True
