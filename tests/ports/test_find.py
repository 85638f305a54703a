"""`find` beside a plain list: every filter, direction and page size, on three kinds of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfflow import Found, InvalidInput, Payment, State
from cfflow.core.record import Review
from cfflow.core.times import moment
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders
from cfflow.store.protocol import Row, Store, Window
from cfflow.store.redis.store import RedisStore
from cfflow.testing import FakeClock, MemoryStore
from cfflow.views.reader import Reader
from tests.ports.orders_kit import begin, changed, loaded
from tests.ports.servers import Cluster, Server

pytestmark = pytest.mark.timeout(300)

START_MS: Final = 1_760_000_000_000
#: Few, so that many payments have one millisecond.
TIMES: Final = [START_MS, START_MS + 1, START_MS + 1_000]
HOLDS: Final = [START_MS + 10_000, START_MS + 20_000]
#: Text and bytes have one order only for these characters, so all of them occur.
NAMES: Final = [f"{first}{second}x" for first in "Aa_-0" for second in "Zz-_9"]


class Kept(msgspec.Struct, frozen=True):
    """A payment of the plain list."""

    order_id: str
    created_at_ms: int
    state: State
    flow: str
    reasons: tuple[str, ...]
    abandoned: bool
    hold_expires_at_ms: int | None

    @property
    def id(self) -> str:
        return f"{self.order_id}.1"


KEPT: Final = st.builds(
    Kept,
    order_id=st.sampled_from(NAMES),
    created_at_ms=st.sampled_from(TIMES),
    state=st.sampled_from([State.CREATED, State.AUTHORIZED, State.AUTHORIZED, State.FAILED]),
    flow=st.sampled_from(["ports", "other"]),
    reasons=st.sampled_from([(), (), ("no_answer",), ("two_holds", "no_answer")]),
    abandoned=st.booleans(),
    hold_expires_at_ms=st.sampled_from([None, *HOLDS]),
)
SHELF: Final = st.lists(KEPT, max_size=len(NAMES), unique_by=lambda kept: kept.order_id)
WHEN: Final = st.sampled_from([*TIMES, START_MS + 999, START_MS - 1]).map(moment)
QUESTION: Final = st.fixed_dictionaries(
    {"newest_first": st.booleans()},
    optional={
        "state": st.sampled_from(
            [State.CREATED, "failed", ["authorized"], (State.FAILED, "created"), {"voided"}]
        ),
        "flow": st.sampled_from(["ports", "nobody"]),
        "review": st.sampled_from([True, False, "no_answer", "two_holds", "hold_lapsed"]),
        "abandoned": st.sampled_from([True, False, None]),
        "created_from": WHEN,
        "created_before": WHEN,
        "hold_ends_before": st.sampled_from([*HOLDS, HOLDS[1] + 1]).map(moment),
        "order_id": st.sampled_from(NAMES),
    },
)
LIMIT: Final = st.sampled_from([1, 2, 3, 7, 100])
#: How many records one call reads: few, so that a page often ends because of that.
SCANNED: Final = st.sampled_from([1, 2, 5, 10_000])


def expected(shelf: Sequence[Kept], question: dict[str, Any]) -> list[str]:
    """Return what `find` must list, by the plainest means."""
    state = question.get("state", [*State])
    states = {State(state)} if isinstance(state, str) else {State(each) for each in state}
    review = question.get("review", False)
    first, last = question.get("created_from"), question.get("created_before")
    ends = question.get("hold_ends_before")
    kept = [
        one
        for one in shelf
        if one.state in states
        and question.get("flow") in {None, one.flow}
        and question.get("order_id") in {None, one.order_id}
        and question.get("abandoned") in {None, one.abandoned}
        and (review is False or (one.reasons if review is True else review in one.reasons))
        and (first is None or moment(one.created_at_ms) >= first)
        and (last is None or moment(one.created_at_ms) < last)
        and (ends is None or (one.state is State.AUTHORIZED and holds_before(one, ends)))
    ]
    kept.sort(key=lambda one: (one.created_at_ms, one.id), reverse=question["newest_first"])
    return [one.id for one in kept]


def holds_before(one: Kept, ends: datetime) -> bool:
    """Return whether a hold has an end, and before that time."""
    return one.hold_expires_at_ms is not None and moment(one.hold_expires_at_ms) < ends


async def stock(store: Store, shelf: Sequence[Kept]) -> Reader:
    """Store the payments of a plain list."""
    orders = Orders(store)
    for one in shelf:
        await begin(
            orders,
            one.order_id,
            created_at_ms=one.created_at_ms,
            state=one.state,
            flow=one.flow,
            reviews=tuple(Review(reason, 1) for reason in one.reasons),
            abandoned=one.abandoned,
            hold_expires_at_ms=one.hold_expires_at_ms,
        )
    return Reader(store, Catalog())


async def all_pages(reader: Reader, limit: int, question: dict[str, Any]) -> list[Found]:
    """Return all pages of a question; each but the last says that there is more."""
    pages = [await reader.find(limit=limit, **question)]
    while pages[-1].more:
        assert len(pages) < 100
        pages.append(await reader.find(limit=limit, cursor=pages[-1].cursor, **question))
    return pages


def ids(payments: Sequence[Payment]) -> list[str]:
    """Return the ids of payments, in their order."""
    return [payment.id for payment in payments]


async def agrees(store: Store, shelf: Sequence[Kept], asked: Sequence[Any], scanned: int) -> None:
    """Compare the answers of `find` to some questions with the plain list."""
    reader = await stock(store, shelf)
    with mock.patch("cfflow.views.find.SCANNED_MAX", scanned):
        for question, limit in asked:
            pages = await all_pages(reader, limit, question)
            wanted = expected(shelf, question)
            assert ids([payment for page in pages for payment in page]) == wanted
            assert all(len(page) <= limit for page in pages)
            looked_at_all_before(pages, shelf, wanted, newest_first=question["newest_first"])


def looked_at_all_before(
    pages: Sequence[Found], shelf: Sequence[Kept], wanted: Sequence[str], *, newest_first: bool
) -> None:
    """`scanned_to` of each page is true: what lies before it has been shown."""
    created_at = {one.id: moment(one.created_at_ms) for one in shelf}
    shown: set[str] = set()
    for page in pages:
        shown |= set(ids(page))
        end = page.scanned_to
        before = {
            name
            for name in wanted
            if (created_at[name] > end if newest_first else created_at[name] < end)
        }
        assert before <= shown


ASKED: Final = st.lists(st.tuples(QUESTION, LIMIT), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(shelf=SHELF, asked=ASKED, scanned=SCANNED)
def test_find_lists_what_a_plain_list_has_in_memory(
    shelf: list[Kept], asked: list[Any], scanned: int
) -> None:
    """Page by page, in both directions."""
    asyncio.run(agrees(MemoryStore(FakeClock(START_MS + 60_000)), shelf, asked, scanned))


@asynccontextmanager
async def opened(server: Server | Cluster, *, partitions: int) -> AsyncIterator[RedisStore]:
    """An open store on a server that was emptied."""
    for node in server.nodes if isinstance(server, Cluster) else [server]:
        node.run("FLUSHALL")
    store = RedisStore(server.url, partitions=partitions)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def agrees_on(server: Server | Cluster, partitions: int, *given: Any) -> None:
    """Compare the answers of a store in Redis with the plain list."""
    async with opened(server, partitions=partitions) as store:
        await agrees(store, *given)


PER_SERVER: Final = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PER_SERVER
@given(shelf=SHELF, asked=ASKED, scanned=SCANNED, partitions=st.sampled_from([1, 3, 64]))
def test_find_lists_what_a_plain_list_has_in_redis(
    redis7_server: Server, shelf: list[Kept], asked: list[Any], scanned: int, partitions: int
) -> None:
    """The same, merged of however many partitions."""
    asyncio.run(agrees_on(redis7_server, partitions, shelf, asked, scanned))


@PER_SERVER
@given(shelf=SHELF, asked=ASKED, scanned=SCANNED)
def test_find_lists_what_a_plain_list_has_on_a_cluster(
    cluster: Cluster, shelf: list[Kept], asked: list[Any], scanned: int
) -> None:
    """The same, of the partitions of three masters."""
    asyncio.run(agrees_on(cluster, 64, shelf, asked, scanned))


@pytest.mark.parametrize("newest_first", [False, True])
async def test_more_payments_of_one_millisecond_than_a_partition_is_asked_for(
    redis_url: str, newest_first: bool
) -> None:
    """In one partition and in all, unequally many by state; none is lost, none comes twice."""
    store = RedisStore(redis_url)
    await store.open()
    home = [name for name in map("order_{}".format, range(9_000)) if store.keys.partition(name) < 1]
    others = [f"other_{number}" for number in range(70)]
    for number, name in enumerate([*home[:90], *others]):
        state = State.FAILED if number % 5 == 0 else State.CREATED
        await begin(Orders(store), name, created_at_ms=START_MS, state=state)
    reader = Reader(store, Catalog())
    wanted = sorted((f"{name}.1" for name in [*home[:90], *others]), reverse=newest_first)
    for limit in (1, 40, 159, 160, 1_000):
        if limit > 1:
            pages = await all_pages(reader, limit, {"newest_first": newest_first})
            assert ids([payment for page in pages for payment in page]) == wanted
        assert ids(await reader.find(limit=limit, newest_first=newest_first)) == wanted[:limit]
    await store.aclose()


# while the store changes


async def three_each(store: Store) -> Reader:
    """Store nine payments, three of each of three milliseconds."""
    for number in range(9):
        await begin(Orders(store), f"order_{number}", created_at_ms=START_MS + number // 3)
    return Reader(store, Catalog())


@pytest.mark.parametrize("newest_first", [False, True])
async def test_payments_that_arrive_between_two_pages_move_none(newest_first: bool) -> None:
    """Newer ones and, as an adoption has them, older ones; also of a millisecond that was read."""
    store = MemoryStore(FakeClock(START_MS + 60_000))
    reader = await three_each(store)
    before = ids(await reader.find(newest_first=newest_first))
    page = await reader.find(limit=2, newest_first=newest_first)
    seen = ids(page)
    for number, at_ms in enumerate([START_MS - 5, START_MS, START_MS + 1, START_MS + 2, TIMES[2]]):
        for name in (f"a_{number}", f"z_{number}"):
            await begin(Orders(store), name, created_at_ms=at_ms)
    while page.more:
        page = await reader.find(limit=2, newest_first=newest_first, cursor=page.cursor)
        seen += ids(page)
    assert [name for name in seen if name in before] == before
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_payment_that_changes_between_two_pages_comes_once_at_most(
    newest_first: bool,
) -> None:
    """If it passes the filters when its place is read; all others are unmoved."""
    store = MemoryStore(FakeClock(START_MS + 60_000))
    reader, orders = await three_each(store), Orders(store)
    question: dict[str, Any] = {"state": "created", "newest_first": newest_first, "limit": 4}
    first = await reader.find(**question)
    left, gone = ids(first)[0], ids(first)[-1]
    behind = "order_2" if newest_first else "order_6"
    for name in (left[:-2], gone[:-2], behind):
        await changed(orders, await loaded(orders, name), state=State.FAILED)
    rest = await reader.find(cursor=first.cursor, **question)
    every = [f"order_{number}.1" for number in range(9)]
    every.sort(reverse=newest_first)
    assert ids(first) == every[:4]
    assert ids(rest) == [name for name in every[4:] if name != f"{behind}.1"][:4]


# a bounded cost


async def test_one_call_reads_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rare payment costs many calls of the same length, and each says how far it has come."""
    monkeypatch.setattr("cfflow.views.find.SCANNED_MAX", 300)
    store = MemoryStore(FakeClock(START_MS + 60_000))
    for number in range(1_000):
        flow = "rare" if number == 950 else "usual"
        await begin(Orders(store), f"order_{number}", created_at_ms=START_MS + number, flow=flow)
    reader, counts, read = Reader(store, Catalog()), [0], store.read

    async def counted(order_ids: Sequence[str]) -> Any:
        counts[-1] += len(order_ids)
        return await read(order_ids)

    monkeypatch.setattr(store, "read", counted)
    page = await reader.find(flow="rare", limit=1)
    pages = [page]
    while page.more and not page:
        counts.append(0)
        page = await reader.find(flow="rare", limit=1, cursor=page.cursor)
        pages.append(page)
    assert counts == [300, 300, 300, 100]
    assert [len(each) for each in pages] == [0, 0, 0, 1]
    assert [each.scanned_to for each in pages[:3]] == [
        moment(START_MS + number) for number in (299, 599, 899)
    ]


async def test_a_whole_page_of_what_cannot_be_read_costs_no_more(redis_url: str) -> None:
    """Members that are no payment are passed over, also those whose name or score is none."""
    store = RedisStore(redis_url, partitions=1)
    await store.open()
    key = store.keys.index(0, State.CREATED)
    for number in range(60):
        for name in (b"\xff%d" % number, b"z\\xff%d" % number, b"order_%d.7" % number, b"L" * 999):
            await store.link.command("ZADD", key, START_MS + number % 2, name)
    await store.link.command("ZADD", key, "1.5", "half", "1e300", "far", "inf", "never")
    shelf = [f"order_{number}" for number in range(5)]
    for number, order_id in enumerate(shelf):
        await begin(Orders(store), order_id, created_at_ms=START_MS + number % 3)
    reader = Reader(store, Catalog())
    wanted = sorted((number % 3, f"{order_id}.1") for number, order_id in enumerate(shelf))
    for newest_first in (False, True):
        with mock.patch("cfflow.views.find.SCANNED_MAX", 10):
            pages = await all_pages(reader, 2, {"newest_first": newest_first})
        found = ids([payment for page in pages for payment in page])
        assert found == [each for _, each in sorted(wanted, reverse=newest_first)]
    await store.aclose()


async def test_a_score_that_is_no_time_is_a_place_like_others(redis_url: str) -> None:
    """A list goes on behind it exactly, and neither stops there nor comes back."""
    store = RedisStore(redis_url, partitions=1)
    await store.open()
    for number, score in enumerate(["1.25", "1.5", "1", "1e300", "2e300", "inf"]):
        await begin(Orders(store), f"order_{number}", created_at_ms=START_MS)
        key = store.keys.index(0, State.CREATED)
        await store.link.command("ZADD", key, score, f"order_{number}.1")
    reader = Reader(store, Catalog())
    wanted = [f"order_{number}.1" for number in (2, 0, 1, 3, 4, 5)]
    for newest_first in (False, True):
        pages = await all_pages(reader, 1, {"newest_first": newest_first})
        found = ids([payment for page in pages for payment in page])
        assert found == sorted(wanted, key=wanted.index, reverse=newest_first)
    await store.aclose()


@pytest.mark.parametrize("names", [[b"a\xff", b"a\\xff", b"a\\\\xff", b"a\\", b"\xc3\xa9", b""]])
async def test_a_list_goes_on_behind_a_name_that_is_no_text(
    redis_url: str, names: list[bytes]
) -> None:
    """Its bytes are escaped, so that a cursor can have them, and two names stay two."""
    store = RedisStore(redis_url, partitions=1)
    await store.open()
    for name in names:
        await store.link.command("ZADD", store.keys.index(0, "red"), 1, name)
    rows = await store.find(Window(("red",)))
    assert len({name for name, _ in rows}) == len(names)
    for highest_first in (False, True):
        window = Window(("red",), limit=1, highest_first=highest_first)
        found: list[Row] = []
        while page := await store.find(window):
            found += page
            assert len(found) <= len(names)
            window = msgspec.structs.replace(window, after=page[0])
        assert found == (list(rows)[::-1] if highest_first else list(rows))
    await store.aclose()


# cursors


async def test_a_cursor_goes_on_with_its_own_arguments_only() -> None:
    """With any other one it would leave payments out without a word; only the limit may differ."""
    reader = await three_each(MemoryStore(FakeClock(START_MS + 60_000)))
    question: dict[str, Any] = {"state": ["created", "failed"], "older_than": 1.0}
    cursor = (await reader.find(limit=2, **question)).cursor
    assert len(await reader.find(limit=100, cursor=cursor, **question)) == 7
    same: dict[str, Any] = {"state": (State.FAILED, State.CREATED), "older_than": 1.0}
    assert len(await reader.find(cursor=cursor, **same)) == 7
    others: list[dict[str, Any]] = [
        {"newest_first": True},
        {"state": "created"},
        {"flow": "ports"},
        {"order_id": "order_1"},
        {"review": True},
        {"review": "no_answer"},
        {"older_than": 2.0},
        {"abandoned": False},
        {"created_from": moment(START_MS)},
        {"created_before": moment(START_MS)},
        {"hold_ends_before": moment(START_MS)},
    ]
    for other in others:
        with pytest.raises(InvalidInput, match="cursor"):
            await reader.find(cursor=cursor, **question | other)
    with pytest.raises(InvalidInput, match="not both"):
        await reader.find(cursor=cursor, after="order_1.1", **question)


async def test_a_garbled_cursor_is_refused() -> None:
    """Each of its characters counts; and what is none at all is refused by the same error."""
    reader = await three_each(MemoryStore(FakeClock(START_MS + 60_000)))
    cursor = (await reader.find(limit=2)).cursor or ""
    garbled: list[Any] = [
        cursor[:at] + "AB"[cursor[at] == "A"] + cursor[at + 1 :] for at in range(len(cursor))
    ]
    garbled += [cursor[:-1], cursor + "A", "", "x", "é" * 40, "A" * 9_999, 7, b"A"]
    for text in garbled:
        with pytest.raises(InvalidInput, match="cursor"):
            await reader.find(cursor=text)


async def test_a_cursor_is_short_and_can_stand_in_a_url() -> None:
    """Of the longest id that an order may have."""
    store = MemoryStore(FakeClock(START_MS + 60_000))
    for name in ("a" * 45, "b" * 45):
        await begin(Orders(store), name, created_at_ms=START_MS)
    found = await Reader(store, Catalog()).find(limit=1)
    assert found.cursor is not None
    assert len(found.cursor) < 100
    assert found.cursor.replace("-", "").replace("_", "").isalnum()


# times


@pytest.mark.parametrize("argument", ["created_from", "created_before", "hold_ends_before"])
async def test_a_time_without_a_zone_is_refused(argument: str) -> None:
    """It would mean another time on every machine."""
    reader = Reader(MemoryStore(FakeClock()), Catalog())
    bare = moment(START_MS).replace(tzinfo=None)
    odd: list[Any] = [bare, bare.date(), "2026-11-27", START_MS]
    for when in odd:
        with pytest.raises(InvalidInput, match=f"{argument} must be a datetime with a time zone"):
            await reader.find(**{argument: when})
    far: list[Any] = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    for when in far:
        assert await reader.find(**{argument: when}) == []


async def test_a_time_counts_to_the_millisecond() -> None:
    """A part of one rounds up: nothing that was created before a time belongs behind it."""
    reader = await three_each(MemoryStore(FakeClock(START_MS + 60_000)))
    part = timedelta(microseconds=300)
    for offset_ms, count in ((0, 9), (1, 6), (2, 3), (3, 0)):
        when = moment(START_MS + offset_ms)
        assert len(await reader.find(created_from=when)) == count
        assert len(await reader.find(created_from=when - part)) == count
        assert len(await reader.find(created_before=when)) == 9 - count
        assert len(await reader.find(created_before=when - part)) == 9 - count


async def test_a_complete_list_says_up_to_when_it_looked() -> None:
    """Up to now, or to the end that was asked for; newest first, down to the beginning."""
    store = MemoryStore(FakeClock(START_MS + 60_000))
    reader = await three_each(store)
    now, end = moment(store.now_ms()), moment(START_MS + 2)
    assert (await reader.find()).scanned_to == now
    aged = await reader.find(older_than=7)
    assert aged.scanned_to == now - timedelta(seconds=7) + timedelta(milliseconds=1)
    assert (await reader.find(created_before=end)).scanned_to == end
    assert (await reader.find(newest_first=True, created_from=end)).scanned_to == end
    assert (await reader.find(newest_first=True)).scanned_to == moment(0)
