"""The books of the rate budget: no minute over the limit, in memory and in the server alike."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow.limits.ledger import (
    PACE_MS,
    SLICE_MS,
    WINDOW_MS,
    Balance,
    Book,
    Entry,
    settle,
)
from cfflow.store.redis.link import SCRIPT
from tests.ports.servers import Server

MINUTE_MS = 60_000
NOW_MS = 1_760_000_000_123
SHARE = 70

MS = st.integers(0, 20_000)
LIMITS = st.integers(1, 60)
#: Other tests run on the same machine.
patient = settings(deadline=None)
#: Delay before it, permits wanted, how many of them are used, how long after the grant.
ASKED = st.tuples(MS, st.integers(0, 40), st.integers(0, 40), st.integers(0, SLICE_MS - 1))
CALLED = st.integers(0, 10)


def entry(limit: int = 100, name: str = "", **rest: Any) -> Entry:
    """An entry of a process with this limit, paced as the budget paces it."""
    reserve = limit * 3 // 10
    pace = -(-(limit - reserve) * PACE_MS // WINDOW_MS)
    return Entry(id=name, **({"limit": limit, "reserve": reserve, "pace": pace} | rest))


def at_once(limit: int = 100, **rest: Any) -> Entry:
    """An entry that is not paced."""
    return entry(limit, pace=limit, **rest)


def fullest(times_ms: list[int]) -> int:
    """How many of these fall into the fullest minute, wherever it begins."""
    return max(
        (sum(begin <= at < begin + MINUTE_MS for at in times_ms) for begin in times_ms),
        default=0,
    )


class Workers:
    """Workers that use and return permits as they like, and when they called."""

    def __init__(self, limit: int) -> None:
        self.book = Book()
        self.limit = limit
        self.now_ms = NOW_MS
        self.called_ms: list[int] = []
        self._asked = 0
        self._unused: dict[str, tuple[int, int]] = {}

    @property
    def minute_ago_ms(self) -> int:
        """When the minute began that ends now."""
        return self.now_ms - MINUTE_MS

    def ask(self, asked: tuple[int, int, int, int], **rest: Any) -> Balance:
        """Ask for permits, use some of them at once or late, and return the others later."""
        delay_ms, wanted, used, later_at_ms = asked
        self.now_ms += delay_ms
        due = {name: used for name, (at, used) in self._unused.items() if at <= self.now_ms}
        self._unused = {name: row for name, row in self._unused.items() if name not in due}
        self._asked += 1
        name = str(self._asked)
        made = entry(self.limit, name, wanted=wanted, used=due, **rest)
        balance = settle(self.book, made, self.now_ms)
        used = min(used, balance.granted)
        self.called_ms += [self.now_ms + later_at_ms] * used
        if used < balance.granted:
            self._unused[name] = (self.now_ms + later_at_ms, used)
        return balance


@patient
@given(LIMITS, st.lists(ASKED, max_size=40))
def test_no_minute_holds_more_than_the_workers_share(
    limit: int, asked: list[tuple[int, int, int, int]]
) -> None:
    """However workers ask, use late and return, the reserve stays free in every minute."""
    workers = Workers(limit)
    for ask in asked:
        workers.ask(ask)
    assert fullest(workers.called_ms) <= limit - limit * 3 // 10


@patient
@given(LIMITS, st.lists(st.tuples(ASKED, CALLED), max_size=40))
def test_a_grant_leaves_room_for_what_the_checkout_called(
    limit: int, steps: list[tuple[tuple[int, int, int, int], int]]
) -> None:
    """With what the checkout called, and half its reserve, a grant stays within the limit."""
    workers, made_at_ms = Workers(limit), list[int]()
    for ask, calls in steps:
        made_at_ms += [workers.now_ms + ask[0]] * calls
        if workers.ask(ask, made=calls).granted:
            last_minute = [
                at for at in made_at_ms + workers.called_ms if at > workers.minute_ago_ms
            ]
            assert len(last_minute) + limit * 3 // 10 // 2 <= limit


@patient
@given(LIMITS, st.lists(st.tuples(ASKED, CALLED, st.integers(0, SLICE_MS)), max_size=40))
def test_our_own_calls_are_never_taken_for_another_systems(
    limit: int, steps: list[tuple[tuple[int, int, int, int], int, int]]
) -> None:
    """What the gateway has counted of us, up to five seconds ago, is in the book already."""
    workers, made_at_ms = Workers(limit), list[int]()
    for ask, calls, age_ms in steps:
        at_ms = workers.now_ms + ask[0]
        made_at_ms += [at_ms] * calls
        counted_at_ms = at_ms - age_ms
        counted = [at for at in made_at_ms + workers.called_ms if at <= counted_at_ms]
        seen = sum(at > counted_at_ms - MINUTE_MS for at in counted)
        before = sum(n for _, n in workers.book.calls)
        workers.ask(ask, made=calls, seen=seen)
        assert sum(n for _, n in workers.book.calls) <= before + calls


@pytest.mark.parametrize("limit", [1, 2, 30, 100, 130, 5000])
def test_workers_get_their_whole_share(limit: int) -> None:
    """An idle checkout: seventy of a hundred in every window, spread over it."""
    book, granted = Book(), list[int]()
    for second in range(WINDOW_MS // 1000):
        name = str(second)
        now_ms = NOW_MS + second * 1000
        granted.append(settle(book, entry(limit, name, wanted=limit), now_ms).granted)
    assert sum(granted) == limit - limit * 3 // 10
    assert max(granted) <= limit // 13 + 1


@patient
@given(LIMITS, st.lists(ASKED, min_size=1, max_size=20))
def test_a_worker_that_waits_as_long_as_asked_gets_a_permit(
    limit: int, asked: list[tuple[int, int, int, int]]
) -> None:
    """Without other callers, the wait is right to the millisecond."""
    workers = Workers(limit)
    for ask in asked:
        workers.ask(ask)
    while (refused := workers.ask((0, 1, 1, 0))).granted:
        pass
    before = copy.deepcopy(workers.book)
    late_ms = workers.now_ms + refused.wait_ms
    assert refused.wait_ms > 0
    assert settle(before, entry(limit, "early", wanted=1), late_ms - 1).granted == 0
    assert settle(workers.book, entry(limit, "late", wanted=1), late_ms).granted == 1


def test_a_busy_checkout_shrinks_the_workers_share() -> None:
    """Up to half the reserve it costs the workers nothing; above, every call is theirs less."""
    for made, left in [(0, 70), (15, 70), (16, 69), (50, 35), (85, 0), (200, 0)]:
        assert settle(Book(), at_once(made=made, wanted=100), NOW_MS).granted == left


def test_another_systems_calls_count_as_the_checkouts() -> None:
    """The gateway has counted fifty that were not reported: workers get fifty less, once."""
    book = Book()
    assert settle(book, at_once(made=10, seen=60, wanted=100), NOW_MS).granted == 25
    assert book.calls == [(NOW_MS // 1000, 60)]
    settle(book, at_once(seen=85), NOW_MS)
    assert book.calls == [(NOW_MS // 1000, 60)]


def test_an_entry_sent_twice_is_granted_once() -> None:
    """A lost answer: the same id gets the same permits, and none is lost."""
    book = Book()
    first = settle(book, at_once(name="a", wanted=10), NOW_MS)
    again = settle(book, at_once(name="a", wanted=10), NOW_MS + 40)
    assert first == again == Balance(10, 0, 0)
    assert settle(book, at_once(name="b", wanted=100), NOW_MS + 80).granted == SHARE - 10


def test_permits_that_come_back_are_granted_anew() -> None:
    """Reported once or twice, a slice counts what was used of it."""
    book = Book()
    settle(book, at_once(name="a", wanted=100), NOW_MS)
    for _ in range(2):
        settle(book, at_once(used={"a": 30, "other": 0}), NOW_MS)
    assert settle(book, at_once(wanted=100), NOW_MS).granted == SHARE - 30


def test_a_block_holds_everybody_until_it_ends() -> None:
    """The longest one counts; while it lasts no permit is granted."""
    book = Book()
    assert settle(book, at_once(block_ms=9_000), NOW_MS).blocked_ms == 9_000
    assert settle(book, at_once(block_ms=2_000), NOW_MS).blocked_ms == 9_000
    assert settle(book, at_once(wanted=5), NOW_MS + 8_999) == Balance(0, 1, 1)
    assert settle(book, at_once(wanted=5), NOW_MS + 9_000) == Balance(5, 0, 0)


def test_a_clock_that_is_set_back_grants_nothing_twice() -> None:
    """What lies in the future counts as granted now, and no longer than a window."""
    book, back_ms = Book(), NOW_MS - 3_600_000
    settle(book, at_once(name="a", made=20, wanted=100), NOW_MS)
    assert settle(book, at_once(wanted=100), back_ms).granted == 0
    assert settle(book, at_once(wanted=100), back_ms + WINDOW_MS - 1).granted == 0
    assert settle(book, at_once(wanted=100), back_ms + WINDOW_MS + 1_000).granted == SHARE


def test_a_clock_that_is_set_back_makes_no_block_longer() -> None:
    """A block of nine seconds is over nine seconds after, whatever the clock did."""
    book, back_ms = Book(), NOW_MS - 3_600_000
    settle(book, at_once(block_ms=9_000), NOW_MS)
    assert settle(book, at_once(wanted=5), back_ms).blocked_ms == 9_000
    assert settle(book, at_once(wanted=5), back_ms + 9_000) == Balance(5, 0, 0)


WRITTEN = st.builds(
    dict[str, Any],
    name=st.sampled_from("abcdef"),
    wanted=st.integers(0, 40),
    made=st.integers(0, 10),
    seen=st.integers(-1, 60),
    block_ms=st.sampled_from([0, 0, 0, 1_500]),
    used=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), max_size=2),
)


@patient
@given(LIMITS, st.lists(st.tuples(st.integers(-3_000, 30_000), WRITTEN), max_size=25))
def test_the_server_keeps_the_same_books(
    valkey_server: Server, limit: int, steps: list[tuple[int, dict[str, Any]]]
) -> None:
    """At any times and for any entries, the script's answers and its book are memory's."""
    script = SCRIPT.replace("redis.call('TIME')", "{ ARGV[3], ARGV[4] }")
    book, now_ms = Book(), NOW_MS
    with valkey_server.client() as server:
        server.delete("book")
        for delay_ms, written in steps:
            now_ms += delay_ms
            sent = entry(limit, **written)
            time = divmod(now_ms * 1000, 1_000_000)
            asked = ("budget", msgspec.msgpack.encode(sent), *time)
            answer: Any = server.eval(script, 1, "book", *asked)
            granted, wait_ms, blocked_ms = answer[2:5]
            assert Balance(granted, wait_ms, blocked_ms) == settle(book, sent, now_ms)
            kept: Any = server.get("book")
            made_at_ms, calls, slices = msgspec.msgpack.decode(kept)
            assert Book(tuple(made_at_ms), rows(calls), rows(slices)) == book


def rows(listed: list[list[Any]]) -> list[Any]:
    """Rows as a book has them."""
    return [tuple(row) for row in listed]
