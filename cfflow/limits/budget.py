"""The rate budget: calls per minute, shared by all processes, the checkout's first (GATEWAY 6).

Two kinds of callers, told apart by `Budget.background()`:

- At the checkout somebody waits. Such a call asks nobody and is never refused because of
  what we have counted: it is noted here and told to the others in the background.
- A worker can wait. It calls on permits only, leased from the ledger in slices, of what
  the checkout leaves (budget_ledger.py has the rule and why it keeps every minute).

What the gateway says counts more than what we think: its limit when it is lower, calls that
it has counted and we have not, and when it wants to be left alone. Then nobody sends:
who asks is told at once how long to wait, as the gateway would have told it.
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
from cfflow.core.observation import Call
from cfflow.errors import CfflowError, ConfigError
from cfflow.limits.ledger import PACE_MS, SLICE_MS, WINDOW_MS, Balance, Entry, Ledger

__all__ = ["Budget", "LimitHeaders", "limits_of"]

#: How long the checkout's calls are gathered before they are told to the others.
_GATHER_S: Final = 1.0
#: The last part of a slice's time is the way to the gateway.
_USABLE_S: Final = SLICE_MS / 1000 - 1.0
#: How long closing may take for the last words to the others.
_LAST_WORDS_S: Final = 0.5
#: Bounds what is noted while no ledger can be reached.
_NOTED_MAX: Final = 65_536
_ASK_AGAIN_S: Final = 1.0
_WAIT_MIN_S: Final = 0.05

_in_background: Final = ContextVar("cfflow_in_background", default=False)


def limits_of(
    environment: str, given: Mapping[str, int | None] | None = None
) -> dict[Call, int | None]:
    """Return the calls per minute of each class; None is no number of ours.

    The sandbox's table, else production's, with what is `given` over it; for a gateway on
    this machine no number until it names one. Raises `ConfigError` for a class without
    limits and for a number that is none.
    """
    table = facts.RATE_LIMITS.get(environment, facts.RATE_LIMITS["production"])
    local = is_local(environment)
    limits = {Call(name): None if local else limit for name, limit in table.items()}
    for name, limit in (given or {}).items():
        if name not in limits:
            raise ConfigError(f"limits: {name!r} is none of {', '.join(limits)}")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ConfigError(f"limits: {name} must be calls per minute from 1 on, or None")
        limits[Call(name)] = limit
    return limits


class LimitHeaders(msgspec.Struct, frozen=True):
    """What an answer of the gateway said of its limit; None where it said nothing.

    `wait_s`: how long it wants to be left alone. `by_address`: it counts this machine,
    not the account, so that it speaks to this process only.
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


class _Tally:
    """What this process knows of one class of calls."""

    def __init__(self, call: Call, limit: int | None) -> None:
        self.call: Final = call
        self._ours: Final = limit
        self.agree(None)
        self.blocked_until_s = 0.0
        self.block_untold = False
        self.noted: deque[float] = deque(maxlen=_NOTED_MAX)
        self.slice: _Slice | None = None
        self.used: dict[str, int] = {}
        self.seen = -1
        self.seen_at_s = 0.0
        self.again_at_s = 0.0
        self.writing: Final = asyncio.Lock()

    def agree(self, theirs: int | None) -> None:
        """Take the gateway's own limit where it is lower than ours, or where we have none."""
        known = [limit for limit in (self._ours, theirs) if limit is not None]
        self.limit: int | None = min(known, default=None)
        # Only callers pay, each machine by itself: there is nobody to share that with.
        self.counted = bool(known) and ROUTES[self.call].limited_by == "account"
        # The checkout's part, which no worker ever takes.
        self.reserve = (self.limit or 0) * 3 // 10

    @property
    def untold(self) -> bool:
        """Whether there is anything that the others should know."""
        return self.counted and bool(self.noted or self.used or self.block_untold)

    def current(self, now_s: float) -> _Slice | None:
        """Return the slice whose permits may be used now; what lapsed goes back."""
        if self.slice is not None and now_s >= self.slice.until_s:
            self.put_back()
        return self.slice

    def put_back(self) -> None:
        """Let go of the permits that are left; the next entry returns them."""
        if self.slice is not None and self.slice.left:
            self.used[self.slice.id] = self.slice.size - self.slice.left
        self.slice = None

    def entry(self, name: str, wanted: int, now_s: float) -> Entry:
        """Return all that is to be written down now."""
        limit, reserve = self.limit or 0, self.reserve
        while self.noted and self.noted[0] <= now_s - WINDOW_MS / 1000:
            self.noted.popleft()
        fresh = now_s - self.seen_at_s <= SLICE_MS / 1000
        blocked_s = self.blocked_until_s - now_s if self.block_untold else 0.0
        return Entry(
            id=name,
            limit=limit,
            reserve=reserve,
            pace=-(-(limit - reserve) * PACE_MS // WINDOW_MS),
            wanted=wanted,
            made=len(self.noted),
            seen=self.seen if fresh else -1,
            block_ms=max(0, round(blocked_s * 1000)),
            used=dict(self.used),
        )

    def written(self, entry: Entry, balance: Balance, asked_s: float, now_s: float) -> None:
        """Take the ledger's answer to an entry, asked for at `asked_s`."""
        for _ in range(min(entry.made, len(self.noted))):
            self.noted.popleft()
        for name in entry.used:
            del self.used[name]
        self.blocked_until_s = max(self.blocked_until_s, asked_s + balance.blocked_ms / 1000)
        if balance.granted:
            granted = balance.granted
            self.slice = _Slice(entry.id, granted, granted, asked_s + _USABLE_S)
        elif entry.wanted:
            self.again_at_s = now_s + max(_WAIT_MIN_S, balance.wait_ms / 1000)


class Budget:
    """What may be called when, in this process. One for each orchestrator.

    `limits`: calls per minute by class, None until the gateway names one; a class that is
    missing is not looked at. `ledger` holds what all processes have called. It belongs to
    one event loop.
    """

    def __init__(self, limits: Mapping[Call, int | None], ledger: Ledger) -> None:
        self._ledger = ledger
        self._tallies: dict[str, _Tally] = {c: _Tally(c, limit) for c, limit in limits.items()}
        self._telling: asyncio.Task[None] | None = None

    @property
    def limits(self) -> dict[Call, int | None]:
        """Calls per minute in force by class: ours, or the gateway's own where it is lower."""
        return {tally.call: tally.limit for tally in self._tallies.values()}

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

        Leases a slice of permits where none is left; they must be used within four
        seconds. 0 when there are none, or nobody can say: the ledger is out of reach.
        """
        tally = self._tallies.get(call)
        if wanted < 1 or self._blocked_s(tally) > 0:
            return 0
        if tally is None or not tally.counted:
            return wanted
        async with tally.writing:
            left = self._left(tally) or await self._lease(tally, wanted)
        return min(left, wanted)

    def take(self, call: Call | str) -> bool:
        """Use one permit, and say whether there was one.

        The transport does so for every call in the background; nobody else needs to.
        """
        tally = self._tallies.get(call)
        if tally is None:
            return True
        if self._blocked_s(tally) > 0 or (tally.counted and not self._left(tally)):
            return False
        if tally.slice is not None:
            tally.slice.left -= 1
        return True

    def wait_s(self, call: Call | str) -> float:
        """Return in how many seconds `room` may find some again; 0 when there is some now."""
        tally = self._tallies.get(call)
        blocked_s = self._blocked_s(tally)
        if tally is None or blocked_s > 0 or not tally.counted or self._left(tally):
            return blocked_s
        return max(0.0, tally.again_at_s - self._ledger.clock_s())

    def give_back(self) -> None:
        """Return the permits that nobody needs now; without it they lapse by themselves."""
        for tally in self._tallies.values():
            tally.put_back()
            self._tell_soon(tally)

    def enter(self, call: Call) -> float:
        """Note a call that is about to be made: 0.0, or how many seconds it must wait."""
        tally = self._tallies.get(call)
        if tally is None:
            return 0.0
        now_s = self._ledger.clock_s()
        if tally.blocked_until_s > now_s:
            return tally.blocked_until_s - now_s
        if tally.counted:
            if _in_background.get():
                return 0.0 if self.take(call) else max(_WAIT_MIN_S, self.wait_s(call))
            tally.noted.append(now_s)
            if self._telling is None:
                self._tell_soon(tally)
        return 0.0

    def apply_limit_headers(self, call: Call, said: LimitHeaders) -> None:
        """Take the gateway's own word for its limit, and for how long to leave it alone."""
        tally = self._tallies.get(call)
        if tally is None:
            return
        now_s = self._ledger.clock_s()
        if said.limit is not None and said.limit != tally.limit:
            tally.agree(said.limit)
        if said.limit is not None and said.remaining is not None:
            tally.seen, tally.seen_at_s = said.limit - said.remaining, now_s
        if said.remaining is not None and tally.slice is not None:
            # The last calls of a minute are the checkout's.
            spare = max(0, said.remaining - tally.reserve // 2)
            tally.slice.left = min(tally.slice.left, spare)
        if said.wait_s > 0:
            tally.blocked_until_s = max(tally.blocked_until_s, now_s + said.wait_s)
            tally.block_untold |= not said.by_address
            self._tell_soon(tally)

    async def aclose(self) -> None:
        """Stop telling, after a last word of what the others do not know yet."""
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.cancel()
            await asyncio.wait([telling])
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._tell()

    def _blocked_s(self, tally: _Tally | None) -> float:
        """Return how long the gateway still wants to be left alone, 0.0 if it does not."""
        if tally is None or not tally.blocked_until_s:
            return 0.0
        return max(0.0, tally.blocked_until_s - self._ledger.clock_s())

    def _left(self, tally: _Tally) -> int:
        held = tally.current(self._ledger.clock_s())
        return 0 if held is None else held.left

    async def _lease(self, tally: _Tally, wanted: int) -> int:
        """Ask the ledger for permits. It may be out of reach: then nobody knows, so none."""
        try:
            await self._write(tally, wanted)
        except CfflowError:
            tally.again_at_s = self._ledger.clock_s() + _ASK_AGAIN_S
        return self._left(tally)

    async def _write(self, tally: _Tally, wanted: int = 0) -> None:
        """Write what is to be told into the ledger; the caller holds the tally's lock."""
        asked_s = self._ledger.clock_s()
        entry = tally.entry(token_urlsafe(6), wanted, asked_s)
        # Before the answer: what the gateway says meanwhile is untold again.
        tally.block_untold = False
        try:
            balance = await self._ledger.settle(tally.call, entry)
        except BaseException:
            tally.block_untold |= entry.block_ms > 0
            raise
        tally.written(entry, balance, asked_s, self._ledger.clock_s())

    def _tell_soon(self, tally: _Tally) -> None:
        if self._telling is None and tally.untold:
            self._telling = asyncio.create_task(self._keep_telling())

    async def _keep_telling(self) -> None:
        """Tell the others, gathered by the second, until there is nothing to tell."""
        try:
            while any(tally.untold for tally in self._tallies.values()):
                await asyncio.sleep(_GATHER_S)
                if not await self._tell():
                    return
        finally:
            if self._telling is asyncio.current_task():
                self._telling = None

    async def _tell(self) -> bool:
        """Tell the others what is untold. False: they cannot be reached, it is kept."""
        for tally in self._tallies.values():
            async with tally.writing:
                if tally.untold:
                    try:
                        await self._write(tally)
                    except CfflowError:
                        return False
        return True
