"""The part of the suite about what the rules of feed groups are built on: `FeedLog`."""

from __future__ import annotations

import asyncio
from typing import Final

from cfflow.feed.groups import GroupFeed
from cfflow.feed.protocol import FeedLog, Member, Reply, Request
from cfflow.store.protocol import Store, StoredOrder
from cfflow.testing.conformance.feed import commit_events
from cfflow.testing.conformance.helpers import begin
from cfflow.testing.conformance.part import ConformancePart

_FIRST: Final = b"\x00 first"
_SECOND: Final = b"\xff second"


async def requested(log: FeedLog, request: Request, group: str = "mailer") -> Reply:
    """Return the reply of the feed's first partition."""
    return (await log.request(group, {0: request}))[0]


async def partition_with_events(store: Store, count: int) -> tuple[int, StoredOrder]:
    """Commit so many events of an order, and return where they are."""
    snapshot = await commit_events(store, await begin(store, "order_1"), count)
    log = store.feed()
    replies = await log.request("mailer", dict.fromkeys(range(log.partitions), Request()))
    (found,) = (partition for partition, reply in replies.items() if reply.length)
    return found, snapshot


class FeedLogConformance(ConformancePart):
    """Tests of `FeedLog`. `StoreConformance` has them too."""

    async def test_a_state_is_replaced_only_if_it_is_the_old_one(self, store: Store) -> None:
        """Written, replaced and removed; the reply has what is stored."""
        log = store.feed()
        assert (await requested(log, Request())).state is None
        assert (await requested(log, Request(_FIRST, _SECOND))).state is None
        assert (await requested(log, Request(None, _FIRST))).state == _FIRST
        assert (await requested(log, Request(None, _SECOND))).state == _FIRST
        assert (await requested(log, Request(_FIRST, _SECOND))).state == _SECOND
        assert (await requested(log, Request(_FIRST, None))).state == _SECOND
        assert (await requested(log, Request(_SECOND, None))).state is None

    async def test_a_request_that_only_reads_changes_no_state(self, store: Store) -> None:
        """Whether or not its two states are the stored one."""
        log = store.feed()
        await requested(log, Request(None, _FIRST))
        for same in (None, _FIRST, _SECOND):
            assert (await requested(log, Request(same, same))).state == _FIRST

    async def test_a_request_that_is_sent_again_finds_its_own_state(self, store: Store) -> None:
        """Its reply was lost; another consumer's state is not overwritten."""
        log = store.feed()
        for _ in range(2):
            assert (await requested(log, Request(None, _FIRST))).state == _FIRST
        await requested(log, Request(_FIRST, _SECOND))
        assert (await requested(log, Request(None, _FIRST))).state == _SECOND

    async def test_of_many_that_write_at_once_one_succeeds(self, store: Store) -> None:
        """Each is sure of it by the state that comes back."""
        log = store.feed()
        states = [str(number).encode() for number in range(20)]
        replies = await asyncio.gather(*(requested(log, Request(None, each)) for each in states))
        assert len({reply.state for reply in replies}) == 1
        assert replies[0].state in states

    async def test_each_group_and_partition_has_a_state_of_its_own(self, store: Store) -> None:
        """One call writes some partitions and leaves the others."""
        log = store.feed()
        written = {partition: Request(None, _FIRST) for partition in range(0, log.partitions, 2)}
        replies = await log.request("mailer", written)
        assert {reply.state for reply in replies.values()} == {_FIRST}
        everywhere = dict.fromkeys(range(log.partitions), Request())
        found = await log.request("mailer", everywhere)
        assert [p for p, reply in found.items() if reply.state == _FIRST] == list(written)
        found = await log.request("ledger", everywhere)
        assert {reply.state for reply in found.values()} == {None}

    async def test_entries_are_read_behind_an_id(self, store: Store) -> None:
        """So many as are wanted, in their order; none if none are wanted."""
        partition, _ = await partition_with_events(store, 5)
        log, group = store.feed(), "mailer"
        all_of_them = (await log.request(group, {partition: Request(count=9)}))[partition]
        ids = [identifier for identifier, _ in all_of_them.entries]
        assert [blob for _, blob in all_of_them.entries] == list(await self.events_of(store))
        assert (len(set(ids)), all_of_them.newest) == (5, ids[-1])
        for after, count, wanted in [
            ("0-0", 2, ids[:2]),
            (ids[1], 2, ids[2:4]),
            (ids[3], 9, ids[4:]),
        ]:
            request = Request(after=after, count=count)
            reply = (await log.request(group, {partition: request}))[partition]
            assert [identifier for identifier, _ in reply.entries] == wanted
        for request in (Request(), Request(after=ids[-1], count=9)):
            reply = (await log.request(group, {partition: request}))[partition]
            assert (reply.entries, reply.newest, reply.length) == ((), ids[-1], 5)

    async def test_dropped_entries_are_counted(self, store: Store) -> None:
        """Those that are stored and those that were dropped are all that were written."""
        partition, _ = await partition_with_events(store, self.feed_max + 200)
        reply = (await store.feed().request("mailer", {partition: Request(count=9_999)}))[partition]
        assert reply.trimmed > 0
        assert reply.length == len(reply.entries)
        assert reply.trimmed + reply.length == self.feed_max + 200

    async def test_an_empty_partition_has_no_newest_entry(self, store: Store) -> None:
        """Its counts are zero, and the time is the store's."""
        reply = await requested(store.feed(), Request(count=5))
        assert (reply.trimmed, reply.length, reply.newest, reply.entries) == (0, 0, "0-0", ())
        assert abs(reply.now_ms - store.now_ms()) < 1_000

    async def test_consumers_are_kept_beside_the_state(self, store: Store) -> None:
        """Written, moved, removed; read only if the request asks for them."""
        log = store.feed()
        reply = await requested(
            log, Request(None, _FIRST, consumers={"m": 1, "n": 2_000_000_000_000})
        )
        assert reply.consumers == {"m": 1, "n": 2_000_000_000_000}
        reply = await requested(log, Request(consumers={"m": None, "n": 3}))
        assert reply.consumers == {"n": 3}
        assert (await requested(log, Request(consumers={}))).consumers == {"n": 3}
        assert (await requested(log, Request())).consumers == {}
        assert (await requested(log, Request(consumers={}), "ledger")).consumers == {}

    async def test_a_group_without_a_state_has_no_consumers(self, store: Store) -> None:
        """They go with it, and one that comes too late is not written."""
        log = store.feed()
        await requested(log, Request(None, _FIRST, consumers={"m": 1}))
        reply = await requested(log, Request(_FIRST, None, consumers={}))
        assert (reply.state, reply.consumers) == (None, {})
        assert (await requested(log, Request(consumers={"m": 2}))).consumers == {}
        assert (await requested(log, Request(None, _SECOND, consumers={}))).consumers == {}

    async def test_of_consumers_that_lease_at_once_each_partition_has_one(
        self, store: Store
    ) -> None:
        """All of them want all partitions at the same time."""
        members = [Member("mailer", name, 1, 30_000) for name in "abcdef"]
        feeds = [GroupFeed(store.feed()) for _ in members]
        for feed, member in zip(feeds, members, strict=True):
            await feed.join(member, "oldest")
        wanted = dict.fromkeys(range(feeds[0].partitions))
        results = await asyncio.gather(
            *(feed.read(member, wanted, 1) for feed, member in zip(feeds, members, strict=True))
        )
        for partition in wanted:
            assert sum(reads[partition].is_leased for _, reads in results) == 1
