"""The part of the suite about notifications: to which orders they are added, and how they go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pytest

from cfflow.store.protocol import (
    DUPLICATE_WINDOW_MS,
    NOTICES_MAX,
    Notification,
    Notified,
    Outcome,
    Store,
    StoredOrder,
)
from cfflow.testing.conformance.helpers import (
    MINUTE_MS,
    a_notification,
    begin,
    changed,
    digest_of,
    due_count,
    following,
    outcome_is,
    removed,
    stored,
)
from cfflow.testing.conformance.part import ConformancePart

_TASKS: Final = 16


async def notify(store: Store, attempt: str = "77", state: str = "", **fields: Any) -> Notified:
    """Notify, with the digest of this attempt and state."""
    notification = a_notification(attempt, state, **fields)
    return await store.notify(notification, digest_of(f"{attempt}:{state}"))


async def notices(store: Store) -> Mapping[str, str]:
    """Return the notifications that are left of order_1."""
    return (await stored(store)).notices


async def states(store: Store) -> dict[str, str]:
    """Return the state that each notification of order_1 reports, by attempt."""
    return {attempt: text.partition(":")[2] for attempt, text in (await notices(store)).items()}


def number(text: str) -> int:
    """Return the number of a stored notification."""
    return int(text.partition(":")[0])


class NotificationConformance(ConformancePart):
    """Tests of what a notification does. `StoreConformance` has them too."""

    async def _in_feed(self, store: Store) -> list[dict[str, Any]]:
        return [msgspec.msgpack.decode(entry) for entry in await self.events_of(store)]

    # where it is added

    async def test_a_notification_makes_its_order_due(self, store: Store) -> None:
        """Even one that is never due by itself; the order is returned with it."""
        order = await begin(store, actions=b"press")
        notified = await notify(store, "77", "paid")
        newest = await stored(store)
        assert notified == Notified(newest, is_news=True, duplicate=False)
        assert list(newest.notices) == ["77"]
        assert newest.notices["77"].endswith(":paid")
        assert newest == msgspec.structs.replace(order, notices=newest.notices)
        assert await due_count(store) == 1

    async def test_it_changes_no_token(self, store: Store) -> None:
        """A customer who submits an OTP at this moment gets no conflict."""
        order = await begin(store)
        await notify(store)
        assert (await changed(store, order)).notices == await notices(store)

    async def test_it_is_due_sooner_than_its_orders_own_time(self, store: Store) -> None:
        """The other orders keep theirs."""
        for order_id in ("order_1", "order_2"):
            await begin(store, order_id, wake_at_ms=store.now_ms() + MINUTE_MS)
        await notify(store)
        assert await due_count(store) == 1

    async def test_one_of_an_order_that_is_not_stored_goes_to_the_feed_only(
        self, store: Store
    ) -> None:
        """Another system uses the same account. An order that begins later does not have it."""
        assert await notify(store) == Notified(None, is_news=False, duplicate=False)
        (entry,) = await self._in_feed(store)
        assert (entry["order_id"], entry["cf_payment_id"]) == ("order_1", "77")
        assert (await begin(store)).notices == {}
        assert await due_count(store) == 0

    async def test_one_of_a_removed_order_goes_to_the_feed_only(self, store: Store) -> None:
        """Nothing of it is left."""
        await removed(store, await begin(store), marker="paid by 1")
        assert await notify(store) == Notified(None, is_news=False, duplicate=False)
        assert await due_count(store) == 0

    async def test_one_that_names_no_attempt_makes_nothing_due(self, store: Store) -> None:
        """There is nothing to ask about; the order is returned, and the feed has it."""
        order = await begin(store)
        assert await notify(store, "") == Notified(order, is_news=False, duplicate=False)
        assert await due_count(store) == 0
        (entry,) = await self._in_feed(store)
        assert (entry["order_id"], entry["cf_payment_id"]) == ("order_1", None)

    async def test_one_without_an_order_goes_to_the_feed_with_its_data(self, store: Store) -> None:
        """A settlement belongs to no order."""
        notification = Notification(type="A_SETTLEMENT", content_id="c1", data=b'{"of": "Diya"}')
        assert await store.notify(notification, digest_of("")) == Notified(None)
        (entry,) = await self._in_feed(store)
        assert (entry["type"], entry["content_id"], entry["data"]) == (
            "A_SETTLEMENT",
            "c1",
            b'{"of": "Diya"}',
        )
        assert (entry["kind"], entry["order_id"]) == ("notification", None)

    # what reports nothing new

    async def test_a_digest_of_the_order_reports_nothing_new(self, store: Store) -> None:
        """Inquiries that can find nothing would use up the gateway's rate limit."""
        digests = b"".join(digest_of(f"{n}:paid") for n in range(NOTICES_MAX))
        order = await begin(store, digests=digests)
        for attempt in range(NOTICES_MAX):
            notified = await notify(store, str(attempt), "paid")
            assert notified == Notified(order, is_news=False, duplicate=False)
            assert (await self._in_feed(store))[-1]["cf_payment_id"] == str(attempt)
        assert await due_count(store) == 0
        assert (await notify(store, "0", "failed")).is_news
        assert (await notify(store, str(NOTICES_MAX), "paid")).is_news

    async def test_each_commit_replaces_the_digests(self, store: Store) -> None:
        """They follow from its record."""
        order = await begin(store, digests=digest_of("77:paid"))
        order = await changed(store, order, digests=digest_of("77:failed"))
        assert not (await notify(store, "77", "failed")).is_news
        assert (await notify(store, "77", "paid")).is_news
        await changed(store, order)
        assert (await notify(store, "77", "failed")).is_news

    async def test_bytes_of_two_digests_are_no_digest(self, store: Store) -> None:
        """They lie one behind the other."""
        digests = digest_of("1") + digest_of("2")
        await begin(store, digests=digests)
        assert (await store.notify(a_notification(), digests[3:9])).is_news

    # several of one order

    async def test_the_newest_of_each_attempt_is_kept(self, store: Store) -> None:
        """With a higher number than all before it."""
        await begin(store)
        seen = 0
        for attempt in ("77", "78", "77", "77", "78"):
            await notify(store, attempt, "paid")
            assert number((await notices(store))[attempt]) > seen
            seen = number((await notices(store))[attempt])
        assert await states(store) == {"77": "paid", "78": "paid"}

    @pytest.mark.parametrize(
        "reported", [("paid", "failed"), ("failed", "paid"), ("paid", ""), ("", "paid")]
    )
    async def test_two_that_contradict_each_other_report_no_state(
        self, store: Store, reported: tuple[str, str]
    ) -> None:
        """They come in any order, so only an inquiry finds out which one is right."""
        await begin(store)
        await notify(store, "78", "paid")
        for state in (*reported, *reported[::-1]):
            await notify(store, "77", state)
        assert await states(store) == {"78": "paid", "77": ""}

    async def test_after_a_contradiction_was_settled_states_count_again(self, store: Store) -> None:
        """A commit has removed it."""
        order = await begin(store)
        for state in ("paid", "failed"):
            await notify(store, "77", state)
        await changed(store, order, answered=await notices(store))
        await notify(store, "77", "paid")
        assert await states(store) == {"77": "paid"}

    async def test_beyond_the_limit_one_stands_for_all(self, store: Store) -> None:
        """It has no state; those that are kept one by one still are."""
        await begin(store)
        kept = {str(attempt): "paid" for attempt in range(NOTICES_MAX)}
        for attempt in kept:
            await notify(store, attempt, "paid")
        assert await states(store) == kept
        for attempt in ("a", "b"):
            assert (await notify(store, attempt, "paid")).is_news
            assert await states(store) == {**kept, "*": ""}
        newest = number((await notices(store))["*"])
        await notify(store, "3", "failed")
        assert await states(store) == {**kept, "*": "", "3": ""}
        assert number((await notices(store))["3"]) > newest

    async def test_below_the_limit_new_attempts_have_their_own_again(self, store: Store) -> None:
        """The one that stands for all is settled by itself."""
        order = await begin(store)
        for attempt in range(NOTICES_MAX + 1):
            await notify(store, str(attempt), "paid")
        left = dict(await notices(store))
        everything = {"*": left.pop("*")}
        order = await changed(store, order, answered=left)
        assert order.notices == everything
        await notify(store, "78", "paid")
        assert await states(store) == {"*": "", "78": "paid"}

    async def test_numbers_rise_after_all_were_removed(self, store: Store) -> None:
        """A commit must never remove one that came after its inquiry."""
        order, seen = await begin(store), 0
        for _ in range(3):
            await notify(store, "77", "paid")
            left = await notices(store)
            assert number(left["77"]) > seen
            seen = number(left["77"])
            order = await changed(store, order, answered=left)

    # commits beside it

    async def test_a_commit_removes_those_that_it_lists(self, store: Store) -> None:
        """All of them: then the order is due at the commit's own time."""
        order = await begin(store)
        for attempt in ("77", "78"):
            await notify(store, attempt, "paid")
        order = await changed(store, order, answered=await notices(store))
        assert order.notices == {}
        assert await due_count(store) == 0

    async def test_one_that_is_not_listed_stays(self, store: Store) -> None:
        """And its order is due now, whatever the commit wanted."""
        order = await begin(store)
        for attempt in ("77", "78"):
            await notify(store, attempt, "paid")
        left = dict(await notices(store))
        for wake_at_ms in (None, store.now_ms() + MINUTE_MS):
            answered = {"77": left["77"]}
            order = await changed(store, order, answered=answered, wake_at_ms=wake_at_ms)
            assert order.notices == {"78": left["78"]}
            assert await due_count(store) == 1

    @pytest.mark.parametrize("state", ["paid", "failed", ""])
    async def test_one_that_came_after_the_read_stays(self, store: Store, state: str) -> None:
        """Another of the same attempt, with the same state or not: the inquiry was before it."""
        await begin(store)
        await notify(store, "77", "paid")
        order = await stored(store)
        await notify(store, "77", state)
        newest = await notices(store)
        order = await changed(store, order, answered=order.notices)
        assert order.notices == newest
        assert await due_count(store) == 1

    async def test_one_that_is_listed_and_not_there_is_ignored(self, store: Store) -> None:
        """Another process has settled it."""
        order = await begin(store)
        await notify(store, "77", "paid")
        left = await notices(store)
        order = await changed(store, order, answered=left)
        assert (await changed(store, order, answered={**left, "78": "9:paid"})).notices == {}

    async def test_a_refused_commit_settles_nothing(self, store: Store) -> None:
        """The order is returned with its notifications, for the next decision."""
        order = await begin(store)
        await changed(store, order)
        await notify(store)
        left = await notices(store)
        lost = await outcome_is(Outcome.CONFLICT, store, following(order, answered=left))
        assert lost.stored == await stored(store)
        assert lost.stored is not None
        assert lost.stored.notices == left

    async def test_none_is_lost_beside_commits_of_many_tasks(self, store: Store) -> None:
        """Each is settled by exactly one commit, or is left."""
        await begin(store)
        settled: list[int] = []

        async def settle_all() -> None:
            for _ in range(_TASKS):
                order = await stored(store)
                done = await store.commit(following(order, answered=order.notices))
                if done.outcome is Outcome.APPLIED:
                    settled.extend(number(text) for text in order.notices.values())

        async def notify_often(attempt: str) -> None:
            for _ in range(_TASKS):
                await notify(store, attempt, "paid")

        await asyncio.gather(settle_all(), *(notify_often(str(n)) for n in range(4)), settle_all())
        left: StoredOrder = await stored(store)
        assert len(settled) == len(set(settled))
        assert set(left.notices) <= {"0", "1", "2", "3"}
        assert await due_count(store) == (1 if left.notices else 0)
        order = await changed(store, left, answered=left.notices)
        assert (order.notices, await due_count(store)) == ({}, 0)

    # duplicates

    async def test_a_duplicate_makes_its_order_due_again(self, store: Store) -> None:
        """The worker of the first one may have died. The feed does not get it twice."""
        order = await begin(store)
        await notify(store, "77", "paid", content_id="c1")
        first = await notices(store)
        await changed(store, order, answered=first)
        again = await notify(store, "77", "paid", content_id="c1")
        assert (again.is_news, again.duplicate) == (True, True)
        assert again.stored == await stored(store)
        assert number((await notices(store))["77"]) > number(first["77"])
        assert await due_count(store) == 1
        assert len(await self.events_of(store)) == 1

    async def test_other_content_is_not_a_duplicate(self, store: Store) -> None:
        """Even if it is about the same attempt. Its entry in the feed has the content id."""
        for content_id, duplicate in (("c1", False), ("c2", False), ("c1", True), ("c2", True)):
            assert (await notify(store, content_id=content_id)).duplicate is duplicate
        assert [entry["content_id"] for entry in await self._in_feed(store)] == ["c1", "c2"]

    async def test_after_its_time_the_same_content_is_no_duplicate(self, store: Store) -> None:
        """The feed gets it again."""
        assert not (await notify(store, content_id="c1")).duplicate
        await self.much_later(store, DUPLICATE_WINDOW_MS - 1_000)
        assert (await notify(store, content_id="c1")).duplicate
        await self.much_later(store, 2_000)
        assert not (await notify(store, content_id="c1")).duplicate
        assert len(await self.events_of(store)) == 2

    async def test_notifications_and_events_share_the_feed(self, store: Store) -> None:
        """In the order in which they came."""
        order = await begin(store, events=(b"before",))
        await notify(store)
        await changed(store, order, events=(b"after",))
        first, entry, last = await self.events_of(store)
        assert (first, last) == (b"before", b"after")
        assert msgspec.msgpack.decode(entry)["cf_payment_id"] == "77"
