"""The books of the rate budget: no minute over the limit, in memory and in the server alike."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow.core.observation import Call
from cfflow.errors import StoreError, StoreUnavailable
from cfflow.limits.ledger import (
    PACE_MS,
    SLICE_MS,
    WINDOW_MS,
    Balance,
    Book,
    Entry,
    settle,
)
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.ledger import RedisLedger
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.scripts import Scripts
from tests.ports.servers import Server

MINUTE_MS = 60_000
NOW_MS = 1_760_000_000_123
SHARE = 70
CALL = Call.FETCH_PAYMENT
KEY = Keys().budget(CALL)

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


STEPS = st.lists(st.tuples(st.integers(-3_000, 30_000), WRITTEN), max_size=25)


@patient
@given(LIMITS, STEPS, WRITTEN, WRITTEN)
def test_no_two_entries_write_the_same_bytes(
    limit: int,
    steps: list[tuple[int, dict[str, Any]]],
    one: dict[str, Any],
    other: dict[str, Any],
) -> None:
    """Otherwise a store that compares bytes takes another process's write for its own."""
    book, now_ms = Book(), NOW_MS
    for delay_ms, written in steps:
        now_ms += delay_ms
        settle(book, entry(limit, **written), now_ms)
    books = [copy.deepcopy(book), book]
    settle(books[0], entry(limit, **(one | {"name": "one"})), now_ms)
    settle(books[1], entry(limit, **(other | {"name": "other"})), now_ms)
    assert msgspec.msgpack.encode(books[0]) != msgspec.msgpack.encode(books[1])


# the same in Redis


class FakeLink:
    """A process's link to a server. The test sets its time, and how often it repeats a run."""

    def __init__(self, server: Any) -> None:
        self.at_ms = NOW_MS
        self.clock = SimpleNamespace(now_ms=lambda: self.at_ms)
        self.replies_lost = 0
        self.runs = 0
        self._server = server

    async def script(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run the script, and once more after each reply that was lost."""
        self.runs += 1
        for _ in range(1 + self.replies_lost):
            reply = self._server.eval(Scripts().text_of("swap"), len(keys), *keys, *args)
        return list(reply)


class Processes:
    """Processes with a ledger each, on one server."""

    def __init__(self, server: Any, count: int = 2) -> None:
        server.delete(KEY)
        self.links = [FakeLink(server) for _ in range(count)]
        self._server = server
        self._ledgers = [RedisLedger(cast("RedisLink", link), Keys()) for link in self.links]

    def settle(self, process: int, sent: Entry, now_ms: int = NOW_MS) -> Balance:
        """Let one of them write an entry at this time."""
        self.links[process].at_ms = now_ms
        return asyncio.run(self._ledgers[process].settle(CALL, sent))

    def runs(self, process: int) -> int:
        """Return how often this one has run the script since the last time."""
        link = self.links[process]
        runs, link.runs = link.runs, 0
        return runs

    @property
    def book(self) -> Book:
        """The book that is stored."""
        return msgspec.msgpack.decode(self._server.get(KEY), type=Book)


@pytest.fixture
def server(valkey_server: Server) -> Iterator[Any]:
    """A client of a server."""
    with valkey_server.client() as client:
        yield client


@patient
@given(LIMITS, STEPS, st.lists(st.integers(0, 2), min_size=25, max_size=25))
def test_the_server_keeps_the_same_books(
    valkey_server: Server, limit: int, steps: list[tuple[int, dict[str, Any]]], turns: list[int]
) -> None:
    """At any time, for any entry and process: the balance and the stored book are memory's."""
    book, now_ms = Book(), NOW_MS
    with valkey_server.client() as client:
        processes = Processes(client, 3)
        for turn, (delay_ms, written) in zip(turns, steps, strict=False):
            now_ms += delay_ms
            # No two processes use one id.
            own = {f"{turn}{name}": count for name, count in written["used"].items()}
            sent = entry(limit, **(written | {"name": f"{turn}{written['name']}", "used": own}))
            assert processes.settle(turn, sent, now_ms) == settle(book, sent, now_ms)
            assert processes.book == book


def test_a_book_that_no_other_process_wrote_is_one_round_trip(server: Any) -> None:
    """The first time too. After another process's write it takes one more."""
    processes = Processes(server)
    for process, runs in [(0, 1), (0, 1), (1, 2), (1, 1), (0, 2)]:
        processes.settle(process, at_once(made=1))
        assert processes.runs(process) == runs
    assert processes.book.calls == [(NOW_MS // 1000, 5)]


def test_two_processes_that_report_the_same_are_both_counted(server: Any) -> None:
    """Over the same book, in the same millisecond: nothing but the entry's id is different."""
    processes = Processes(server)
    for process in range(2):
        processes.settle(process, at_once(name=str(process), made=1))
    assert processes.book.calls == [(NOW_MS // 1000, 2)]


def test_an_entry_whose_reply_was_lost_is_counted_once(server: Any) -> None:
    """The link sends the same bytes again and finds them written."""
    processes = Processes(server)
    processes.links[0].replies_lost = 2
    assert processes.settle(0, at_once(name="a", wanted=10, made=3)) == Balance(10, 0, 0)
    assert processes.runs(0) == 1
    assert processes.book == Book((NOW_MS, 0), [(NOW_MS // 1000, 3)], [(NOW_MS, 10, "a")])


def test_permits_whose_reply_was_lost_are_granted_once(server: Any) -> None:
    """Another process wrote before the repeat: the book still has the slice under its id."""
    processes = Processes(server, 3)
    sent = at_once(name="a", wanted=10)
    for process in (0, 1, 2):
        balance = processes.settle(process, at_once(name="b", made=1) if process == 1 else sent)
    assert balance == Balance(10, 0, 0)
    assert processes.settle(1, at_once(name="c", wanted=100)).granted == SHARE - 10


def test_a_book_that_the_server_lost_begins_anew(server: Any) -> None:
    """A restart without a disk, or the end of its time: what this process remembers is not it."""
    processes = Processes(server)
    processes.settle(0, at_once(name="a", made=50))
    server.delete(KEY)
    processes.settle(0, at_once(name="b", made=1))
    assert processes.book.calls == [(NOW_MS // 1000, 1)]


def test_a_book_of_an_older_version_is_read(server: Any) -> None:
    """It was packed by the server itself."""
    rows = (
        f"{{ {{ {NOW_MS}, 0 }}, {{ {{ {NOW_MS // 1000}, 40 }} }}, {{ {{ {NOW_MS}, 5, 'a' }} }} }}"
    )
    processes = Processes(server)
    server.set(KEY, server.eval(f"return cmsgpack.pack({rows})", 0))
    assert processes.settle(0, at_once(name="b", wanted=100)).granted == 100 - 40 - 15 - 5
    server.set(KEY, server.eval("return cmsgpack.pack({ { 0, 0 }, {}, {} })", 0))
    assert processes.settle(0, at_once(name="c", wanted=100)).granted == SHARE


def test_a_book_that_cannot_be_read_is_an_error_of_the_store(server: Any) -> None:
    """The budget then grants nothing, and asks again later."""
    processes = Processes(server)
    server.set(KEY, b"\xc1")
    with pytest.raises(StoreError, match="budget"):
        processes.settle(0, at_once())


def test_a_server_that_keeps_nothing_is_not_asked_for_ever(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try finds another book than the one that it has read."""
    processes = Processes(server)
    link = processes.links[0]

    async def changed(_: Sequence[str], __: Sequence[Any]) -> list[Any]:
        link.runs += 1
        return [b"conflict", NOW_MS, msgspec.msgpack.encode(Book((NOW_MS, link.runs)))]

    monkeypatch.setattr(link, "script", changed)
    with pytest.raises(StoreUnavailable, match="faster"):
        processes.settle(0, at_once())
    assert processes.runs(0) == 1_000
