"""The part of the suite about commits: what is written, once, and over which token."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import pytest

from cfflow.store.protocol import IndexChange, Outcome, Store, StoredOrder
from cfflow.testing.conformance.helpers import (
    MINUTE_MS,
    applied,
    begin,
    beginning,
    changed,
    due,
    due_count,
    following,
    members,
    outcome_is,
    removed,
    removing,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart

_AT_ONCE: Final = 64

#: A store never looks into the bytes that it keeps.
_BYTES: Final = {
    "every byte": bytes(range(256)),
    "zeros": bytes(40),
    "line ends": b"\r\n$-1\r\n*0\r\n",
    "a minus": b"-",
    "no text": b"\xff\xfe",
    "100 kB": bytes(range(250)) * 400,
}


class CommitConformance(ConformancePart):
    """Tests of what a commit writes. `StoreConformance` has them too."""

    # read

    async def test_an_order_is_read_as_it_was_committed(self, store: Store) -> None:
        """Its token, record and actions; it has no notification and no lease yet."""
        commit = beginning(record=b"a record", actions=b"some actions", wake_at_ms=1)
        order = await applied(store, commit)
        assert order.stamp
        assert order == StoredOrder(
            "order_1", order.stamp, commit.token, b"a record", b"some actions"
        )

    async def test_orders_come_in_the_order_in_which_they_are_asked_for(self, store: Store) -> None:
        """Those that do not exist are left out, and none is asked for without an error."""
        for number in range(12):
            await begin(store, f"order_{number}")
        found = await store.read([f"order_{number}" for number in range(13, -1, -1)])
        assert [order.id for order in found] == [f"order_{n}" for n in range(11, -1, -1)]
        assert list(await store.read(["unknown"])) == []
        assert list(await store.read([])) == []

    @pytest.mark.parametrize("content", _BYTES)
    async def test_bytes_of_any_content_come_back(self, store: Store, content: str) -> None:
        """Those of the record, of the actions, of a flow's text and of an event."""
        blob = _BYTES[content]
        order = await begin(store, record=blob, actions=blob, flows={"d": blob}, events=(blob,))
        assert (order.record, order.actions) == (blob, blob)
        assert await store.flow_text("order_1", "d") == blob
        assert list(await self.events_of(store)) == [blob]

    async def test_a_record_may_be_empty(self, store: Store) -> None:
        """Only a missing record removes the order."""
        assert (await changed(store, await begin(store), record=b"")).record == b""

    # over a token

    async def test_each_commit_replaces_the_record_and_the_token(self, store: Store) -> None:
        """The next commit is decided on the new token."""
        order = await begin(store)
        for number in range(5):
            commit = following(order, record=b"%d" % number)
            order = await applied(store, commit)
            assert (order.token, order.record) == (commit.token, commit.record)

    async def test_a_commit_returns_the_stores_own_time(self, store: Store) -> None:
        """It is the time of `now_ms`, whatever the outcome."""
        for outcome in (Outcome.APPLIED, Outcome.CONFLICT):
            before = store.now_ms()
            committed = await outcome_is(outcome, store, beginning())
            assert before - 50 <= committed.at_ms <= store.now_ms() + 50

    async def test_a_commit_is_replicated_where_no_replica_is_asked_for(self, store: Store) -> None:
        """So its step can be sent."""
        commit = following(await begin(store), opens=True)
        assert (await outcome_is(Outcome.APPLIED, store, commit)).replicated

    async def test_a_conflict_returns_what_is_stored_now(self, store: Store) -> None:
        """The next decision needs no other read."""
        first = await begin(store)
        newest = await changed(store, first, record=b"newest", actions=b"press here")
        lost = await outcome_is(Outcome.CONFLICT, store, following(first))
        assert lost.stored == newest

    async def test_an_order_begins_once(self, store: Store) -> None:
        """A second one gets the order that exists."""
        order = await begin(store)
        assert (await outcome_is(Outcome.CONFLICT, store, beginning())).stored == order

    async def test_a_token_of_another_order_is_a_conflict(self, store: Store) -> None:
        """Each order has its own."""
        first, other = await begin(store, "order_1"), await begin(store, "order_2")
        await outcome_is(Outcome.CONFLICT, store, following(first, expected=other.token))

    async def test_an_order_that_does_not_exist_is_gone(self, store: Store) -> None:
        """Neither a commit nor a removal makes one."""
        order = await begin(store, "order_2")
        ghost = msgspec.structs.replace(order, id="order_1")
        for commit in (following(ghost), removing(ghost), removing(ghost, expected="")):
            assert (await outcome_is(Outcome.GONE, store, commit)).marker == ""
        assert list(await store.read(["order_1"])) == []

    # sent twice

    async def test_a_commit_that_is_sent_twice_is_applied_once(self, store: Store) -> None:
        """Its first reply was lost: the second is the same, and nothing is written again."""
        begun = beginning(events=(b"began",), wake_at_ms=1)
        order = await applied(store, begun)
        went_on = following(order, events=(b"went on",), wake_at_ms=1, actions=b"press")
        for commit in (begun, went_on):
            first = await applied(store, commit)
            await self.lease_all(store)
            assert await applied(store, commit) == first
            assert await due_count(store) == 0
        assert list(await self.events_of(store)) == [b"began", b"went on"]

    async def test_a_commit_that_comes_again_after_another_one_is_a_conflict(
        self, store: Store
    ) -> None:
        """The caller must look: its commit may have been applied or not."""
        begun = beginning()
        went_on = following(await applied(store, begun))
        newest = await changed(store, await applied(store, went_on))
        for commit in (begun, went_on):
            assert (await outcome_is(Outcome.CONFLICT, store, commit)).stored == newest

    # many at once

    async def test_of_many_commits_for_one_token_one_wins(self, store: Store) -> None:
        """All others get what it wrote, and write nothing."""
        order = await begin(store)
        for commits in (
            [beginning("order_2", events=(b"%d" % n,)) for n in range(_AT_ONCE)],
            [following(order, events=(b"%d" % n,)) for n in range(_AT_ONCE)],
        ):
            before = len(await self.events_of(store))
            results = await asyncio.gather(*(store.commit(commit) for commit in commits))
            won = [
                commit.token
                for commit, result in zip(commits, results, strict=True)
                if result.outcome is Outcome.APPLIED
            ]
            newest = await stored(store, commits[0].order_id)
            assert [newest.token] == won
            lost = [result.stored for result in results if result.outcome is Outcome.CONFLICT]
            assert lost == [newest] * (_AT_ONCE - 1)
            assert len(await self.events_of(store)) == before + 1

    async def test_commits_of_many_tasks_on_one_order_lose_nothing(self, store: Store) -> None:
        """Each goes on from the one before: exactly one commit wins each token."""
        order = await begin(store, record=b"0")

        async def add_one(seen: StoredOrder) -> str:
            while True:
                number = int(seen.record) + 1
                result = await store.commit(following(seen, record=b"%d" % number))
                if result.stored is None:
                    assert result.outcome is Outcome.APPLIED
                    return seen.token
                seen = result.stored

        won = await asyncio.gather(*(add_one(order) for _ in range(_AT_ONCE)))
        assert len(set(won)) == _AT_ONCE
        assert int((await stored(store)).record) == _AT_ONCE

    async def test_commits_of_many_orders_at_once_do_not_mix(self, store: Store) -> None:
        """Each order has its own commits only."""

        async def live(order_id: str) -> StoredOrder:
            order = await begin(store, order_id)
            for number in range(5):
                blob = f"{order_id} {number}".encode()
                order = await changed(store, order, record=blob, actions=blob)
            return order

        ends = await asyncio.gather(*(live(f"order_{number}") for number in range(40)))
        assert list(await store.read([order.id for order in ends])) == ends
        assert [order.record for order in ends] == [b"order_%d 4" % n for n in range(40)]

    # beside the record

    async def test_actions_are_kept_replaced_and_removed(self, store: Store) -> None:
        """Only a commit that changes them writes them."""
        order = await begin(store, actions=b"scan this")
        for actions, expected in (
            (None, b"scan this"),
            (b"enter the OTP", b"enter the OTP"),
            (None, b"enter the OTP"),
            (b"", b""),
            (None, b""),
            (b"try again", b"try again"),
        ):
            order = await changed(store, order, actions=actions)
            assert order.actions == expected

    async def test_a_commit_sets_when_its_order_is_due(self, store: Store) -> None:
        """Sooner, later or never; each commit replaces the time of the one before."""
        order, now_ms = await begin(store), store.now_ms()
        for wake_at_ms, count in ((1, 1), (now_ms + MINUTE_MS, 0), (now_ms, 1), (None, 0)):
            order = await changed(store, order, wake_at_ms=wake_at_ms)
            assert await due_count(store) == count

    async def test_members_enter_move_and_leave_indexes(self, store: Store) -> None:
        """With the order's commit, any number of them; the others stay as they are."""
        enters = (
            IndexChange("red", "a", 1),
            IndexChange("red", "b", 2),
            IndexChange("blue", "a", 3),
        )
        order = await begin(store, index=enters)
        assert await members(store, "red") == ["a", "b"]
        assert await members(store, "blue") == ["a"]
        changes = (IndexChange("red", "a", 5), IndexChange("blue", "a", None))
        order = await changed(store, order, index=changes)
        assert await members(store, "red") == ["b", "a"]
        assert await members(store, "blue") == []
        await changed(store, order, index=(IndexChange("blue", "unknown", None),))
        assert await members(store, "red", "blue") == ["b", "a"]

    async def test_a_flow_text_is_found_by_its_digest(self, store: Store) -> None:
        """It is stored with the first order that begins with it, and outlives that order."""
        flows = {"d1": b"text 1", "d2": b"text 2"}
        first = await begin(store, "order_1", flows=flows)
        await begin(store, "order_2", flows={"d1": b"text 1"})
        await removed(store, first)
        assert await store.flow_text("order_1", "d2") == b"text 2"
        for order_id in ("order_1", "order_2"):
            assert await store.flow_text(order_id, "d1") == b"text 1"
            assert await store.flow_text(order_id, "d3") is None
        await begin(store, "order_1", flows=flows)
        assert await store.flow_text("order_1", "d2") == b"text 2"

    async def test_any_commit_may_bring_a_flow(self, store: Store) -> None:
        """A later payment of the order may begin with another one."""
        await changed(store, await begin(store), flows={"d1": b"text 1"})
        assert await store.flow_text("order_1", "d1") == b"text 1"

    async def test_events_keep_their_order(self, store: Store) -> None:
        """Within a commit, and from one commit to the next."""
        order = await begin(store, events=(b"1", b"2", b"3"))
        order = await changed(store, order)
        await changed(store, order, events=(b"4", b"5"))
        assert list(await self.events_of(store)) == [b"1", b"2", b"3", b"4", b"5"]

    async def test_an_order_that_begins_is_due_at_its_own_time(self, store: Store) -> None:
        """The first commit writes it too, so that no order is forgotten."""
        order = await due(store)
        ((leased, _),) = (await self.lease_all(store)).orders
        assert (leased.id, leased.token) == (order.id, order.token)
