"""The book behind the rate budget: the calls of all processes together.

The gateway counts the calls of a minute and does not publish when its minutes begin. So no 60
seconds may have more calls than the limit, wherever they begin. Workers call on permits only, and
a permit is used within `SLICE_MS` of its grant or not at all. Two permits that are used within
60 s of each other were then granted within `WINDOW_MS` of each other. The book bounds the grants
of every such window, and with them the calls of every minute.

Callers at the checkout ask for no permit. They are counted after the call, and workers get a part
of what they leave: at most `limit - max(reserve, made + reserve // 2)`. Workers never get the
reserve. While the checkout is busy, half of the reserve stays free above what the checkout uses,
for the next customer. `pace` spreads the workers' part over the minute: a backlog must not take
in one second what the next due payment needs.

`settle` below is the whole arithmetic. A store only keeps the book, and swaps it for the next one
if no other process has written meanwhile.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from cfflow.core.observation import Call

SLICE_MS: Final = 5_000
WINDOW_MS: Final = 60_000 + SLICE_MS
#: A call that the gateway counts now may have been granted a slice earlier. The book must still
#: have it, or the call would be taken for one of another system.
_KEEP_MS: Final = WINDOW_MS + SLICE_MS
PACE_MS: Final = 5_000

#: Where the book does not show when a permit comes free: ask again in so many milliseconds.
_ASK_AGAIN_MS: Final = 1_000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one process writes into the book of one class of calls, and what it asks for.

    `limit` calls a minute, of which the `reserve` is the checkout's, and workers get at
    most `pace` in `pace_ms`. `wanted` permits are asked for under this `id`; sent twice,
    it is granted once. `made` calls of the checkout were not reported before. `seen` is what
    the gateway counts in its window, -1 if unknown. `block_ms` is for how long the gateway
    takes no calls. `used` has for older slices how many permits were used: the rest comes back.
    """

    id: str
    limit: int
    reserve: int
    pace: int
    wanted: int = 0
    made: int = 0
    seen: int = -1
    block_ms: int = 0
    used: dict[str, int] = msgspec.field(default_factory=dict)
    window_ms: int = WINDOW_MS
    keep_ms: int = _KEEP_MS
    pace_ms: int = PACE_MS


class Balance(msgspec.Struct, frozen=True):
    """The book's reply: permits, when there may be some again, how long all must wait."""

    granted: int
    wait_ms: int
    blocked_ms: int


class Use(msgspec.Struct, frozen=True):
    """How much of a class was used: calls of the last minute, and until when all must wait.

    `blocked_until_ms` is 0 where the gateway takes calls.
    """

    used: int = 0
    blocked_until_ms: int = 0


class Ledger(Protocol):
    """Keeps one book for each class of calls that the gateway counts by account."""

    def clock_s(self) -> float:
        """Return the seconds of a clock that never goes back. Permits end by it."""
        ...

    async def settle(self, call: Call, entry: Entry) -> Balance:
        """Write an entry into a class's book; raises `StoreError` where that fails."""
        ...

    async def use(self, call: Call) -> Use:
        """Return how much of a class was used, by the book as it is; raises `StoreError`."""
        ...


class Book(msgspec.Struct, array_like=True):
    """One class's book: how long all must wait, the checkout's calls, the workers' slices.

    `block` is (reported at, for how long), `calls` are (second, how many), `slices` (granted
    at, how many permits, id), oldest first; milliseconds and seconds of the ledger's clock.
    The stored bytes of a book are this array in msgpack.
    """

    block: tuple[int, int] = (0, 0)
    calls: list[tuple[int, int]] = []
    slices: list[tuple[int, int, str]] = []


def settle(book: Book, entry: Entry, now_ms: int) -> Balance:
    """Write an entry into a book at this time and return the reply.

    After a clock was set back, what it wrote lies in its future: all of that counts as now.
    """
    again = sum(permits for _, permits, name in book.slices if name == entry.id)
    book.slices = _kept_slices(book, entry, now_ms)
    book.calls = _kept_calls(book, entry, now_ms)
    book.block = _block(book, entry, now_ms)
    blocked_ms = max(0, sum(book.block) - now_ms)
    left = _left(book, entry, now_ms)
    paced = entry.pace - _granted(book, now_ms - entry.pace_ms)
    granted = 0 if again or blocked_ms else max(0, min(entry.wanted, left, paced))
    # Without permits too: the next entry drops such a row, and until then it makes this book unlike
    # that of every other entry. Two processes that each report one call in the same second would
    # write the same bytes without it, and a store that compares bytes would count only one of them.
    book.slices.append((now_ms, granted, entry.id))
    if granted or again:
        return Balance(granted or again, 0, blocked_ms)
    wait_ms = max(
        blocked_ms,
        _freed_in(book, 1 - left, entry.window_ms, now_ms),
        _freed_in(book, 1 - paced, entry.pace_ms, now_ms),
    )
    return Balance(0, wait_ms, blocked_ms)


def use_of(book: Book, now_ms: int) -> Use:
    """Return how much was used, by a book: the checkout's calls, and what workers were granted."""
    since_at_ms, until_ms = now_ms - 60_000, sum(book.block)
    made = sum(calls for second, calls in book.calls if (second + 1) * 1000 > since_at_ms)
    return Use(made + _granted(book, since_at_ms), until_ms if until_ms > now_ms else 0)


def _kept_slices(book: Book, entry: Entry, now_ms: int) -> list[tuple[int, int, str]]:
    """Return the slices that still count, without the permits that come back."""
    kept = [
        (min(at_ms, now_ms), min(permits, entry.used.get(name, permits)), name)
        for at_ms, permits, name in book.slices
        if at_ms > now_ms - entry.keep_ms
    ]
    return [row for row in kept if row[1]]


def _kept_calls(book: Book, entry: Entry, now_ms: int) -> list[tuple[int, int]]:
    """Return the calls that still count, with the new ones and those of other systems.

    Calls that the gateway has counted and the book has not were made by another system of the
    account. They are booked as the checkout's.
    """
    now_s = now_ms // 1000
    kept = [
        (min(second, now_s), calls)
        for second, calls in book.calls
        if (second + 1) * 1000 > now_ms - entry.keep_ms
    ]
    booked = sum(calls for _, calls in kept) + sum(row[1] for row in book.slices) + entry.made
    new = entry.made + max(0, entry.seen - booked)
    if kept and kept[-1][0] == now_s:
        new += kept.pop()[1]
    return [*kept, (now_s, new)] if new else kept


def _block(book: Book, entry: Entry, now_ms: int) -> tuple[int, int]:
    """Return the block that ends last."""
    reported_at_ms, length_ms = min(book.block[0], now_ms), book.block[1]
    if now_ms + entry.block_ms > reported_at_ms + length_ms:
        return now_ms, entry.block_ms
    return reported_at_ms, length_ms


def _left(book: Book, entry: Entry, now_ms: int) -> int:
    """Return how many permits the workers may still be granted in this window."""
    since_at_ms = now_ms - entry.window_ms
    made = sum(calls for second, calls in book.calls if (second + 1) * 1000 > since_at_ms)
    kept_free = max(entry.reserve, made + entry.reserve // 2)
    return entry.limit - kept_free - _granted(book, since_at_ms)


def _granted(book: Book, since_at_ms: int) -> int:
    return sum(permits for at_ms, permits, _ in book.slices if at_ms > since_at_ms)


def _freed_in(book: Book, missing: int, span_ms: int, now_ms: int) -> int:
    """Return when so many permits, granted within this span, will not count any more."""
    if missing <= 0:
        return 0
    for at_ms, permits, _ in book.slices:
        if at_ms > now_ms - span_ms:
            missing -= permits
            if missing <= 0:
                return at_ms + span_ms - now_ms
    return _ASK_AGAIN_MS
