"""The part of the suite for stores that is about notifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from cfflow.core.chart import State
from cfflow.core.draft import Plan
from cfflow.core.record import Notice, Snapshot
from cfflow.store.protocol import Notification, Outcome, Store
from cfflow.testing.conformance.helpers import a_plan, begin, written
from cfflow.testing.conformance.part import ConformancePart

__all__ = ["NotificationConformance"]

_LEASE_MS = 60_000


def a_notification(cf_payment_id: str = "77", **fields: Any) -> Notification:
    """Return a notification about an attempt of order_1."""
    given = {"type": "PAYMENT_SUCCESS_WEBHOOK", "content_id": "c1", "order_id": "order_1"}
    return Notification(cf_payment_id=cf_payment_id, **{**given, **fields})


async def asleep(store: Store, order_id: str = "order_1", **changes: Any) -> Snapshot:
    """Return a payment with attempt 77 that nobody has to look at."""
    given = {"state": State.INITIATED, "cf_payment_id": "77", "wake_at_ms": None}
    return await written(store, await begin(store, order_id), **{**given, **changes})


async def claimed(store: Store) -> Sequence[str]:
    """Return the ids of all that is due now."""
    return sorted(snapshot.id for snapshot in await store.lease(100, _LEASE_MS))


async def notice_of(store: Store, n: int = 1) -> Notice | None:
    """Return what is noted of a payment of order_1."""
    found = await store.load("order_1", n)
    assert found is not None
    return found.notice


def answering(snapshot: Snapshot, settles_until_at_ms: int, **changes: Any) -> Plan:
    """Return a plan made by an inquiry that had seen the notifications up to then."""
    return msgspec.structs.replace(
        a_plan(snapshot, **changes), settles_until_at_ms=settles_until_at_ms
    )


class NotificationConformance(ConformancePart):
    """Tests of what a notification does; `StoreConformance` has them too."""

    async def _noted(self, store: Any) -> list[dict[str, Any]]:
        entries = [msgspec.msgpack.decode(blob) for blob in await self.events_of(store)]
        return [entry for entry in entries if entry.get("kind") == "notification"]

    # whom it wakes

    async def test_the_payment_with_its_attempt_is_due_at_once(self, store: Store) -> None:
        """The claim brings the notice along, so that the worker knows why it asks."""
        await asleep(store)
        noted = await store.notify(a_notification())
        assert (noted.payments, noted.duplicate) == ((1,), False)
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.id == "order_1.1"
        assert found.notice is not None
        assert found.notice.cf_payment_id == "77"

    async def test_only_that_payment_of_the_order_is_woken(self, store: Store) -> None:
        """Its brothers have nothing to do with it."""
        await asleep(store, abandoned=True)
        await written(store, await begin(store, "order_1"), wake_at_ms=None)
        await store.notify(a_notification())
        assert await claimed(store) == ["order_1.1"]

    async def test_an_attempt_of_nobodys_wakes_those_that_wait_for_one(self, store: Store) -> None:
        """A lost pay of theirs may have made it."""
        await asleep(store, abandoned=True)
        await written(store, await begin(store, "order_1"), wake_at_ms=None)
        assert (await store.notify(a_notification("88"))).payments == (2,)
        assert await claimed(store) == ["order_1.2"]

    @pytest.mark.parametrize("state", [State.AUTHORIZED, State.CAPTURED])
    async def test_an_attempt_of_nobodys_wakes_those_that_hold_or_took_money(
        self, store: Store, state: State
    ) -> None:
        """The customer paid twice, and only these can tell."""
        first = await asleep(store, abandoned=True)
        await written(store, await begin(store, "order_1"), state=State.FAILED, wake_at_ms=None)
        await written(store, first, state=state, wake_at_ms=None)
        assert (await store.notify(a_notification("88"))).payments == (1,)

    async def test_an_attempt_of_nobodys_wakes_the_newest_where_none_waits(
        self, store: Store
    ) -> None:
        """Somebody has to learn that the customer paid in another way too."""
        await asleep(store, abandoned=True)
        await asleep(store, cf_payment_id="78")
        assert (await store.notify(a_notification("88"))).payments == (2,)

    async def test_what_the_payment_says_already_wakes_nobody(self, store: Store) -> None:
        """An inquiry each for what is known would use up the gateway's rate limit."""
        await asleep(store, state=State.CAPTURED)
        assert (await store.notify(a_notification(reported_state="captured"))).payments == ()
        assert await claimed(store) == []

    async def test_what_contradicts_the_payment_wakes_it(self, store: Store) -> None:
        """A failed payment whose money came after all."""
        await asleep(store, state=State.FAILED)
        assert (await store.notify(a_notification(reported_state="captured"))).payments == (1,)

    async def test_one_that_names_no_attempt_wakes_nobody(self, store: Store) -> None:
        """A refund is nothing to ask about; the feed has it all the same."""
        await asleep(store)
        noted = await store.notify(a_notification("", type="REFUND_STATUS_WEBHOOK"))
        assert noted.payments == ()
        assert await claimed(store) == []
        assert len(await self._noted(store)) == 1

    async def test_one_about_an_order_of_nobodys_is_only_told(self, store: Store) -> None:
        """Another system of the merchant's shares the account."""
        noted = await store.notify(a_notification(order_id="order_9"))
        assert noted.payments == ()
        assert await claimed(store) == []
        assert [entry["order_id"] for entry in await self._noted(store)] == ["order_9"]

    async def test_one_without_an_order_is_told(self, store: Store) -> None:
        """A settlement belongs to no order."""
        await store.notify(a_notification("", order_id="", type="SETTLEMENT_SUCCESS", data=b"{}"))
        (told,) = await self._noted(store)
        assert (told["type"], told["order_id"], told["data"]) == ("SETTLEMENT_SUCCESS", None, b"{}")

    # what comes twice

    async def test_the_same_again_wakes_again_and_is_not_told_again(self, store: Store) -> None:
        """The worker that was woken first may have died with it."""
        await asleep(store)
        await store.notify(a_notification())
        await store.lease(100, _LEASE_MS)
        noted = await store.notify(a_notification())
        assert (noted.payments, noted.duplicate) == ((1,), True)
        assert await claimed(store) == ["order_1.1"]
        assert len(await self._noted(store)) == 1

    async def test_other_content_is_no_duplicate(self, store: Store) -> None:
        """Also where it is about the same attempt; and its content is in the feed with it."""
        for content_id, duplicate in (("c1", False), ("c2", False), ("c1", True), ("c2", True)):
            noted = await store.notify(a_notification(content_id=content_id))
            assert noted.duplicate is duplicate
        told = await self._noted(store)
        assert [entry["content_id"] for entry in told] == ["c1", "c2"]

    # what it does to others

    async def test_a_plan_over_the_same_version_still_goes_through(self, store: Store) -> None:
        """The customer who types an OTP at this moment gets no `Conflict`."""
        held = await asleep(store)
        await store.notify(a_notification())
        assert (await store.commit(a_plan(held))).outcome is Outcome.OK

    async def test_a_commit_that_answers_nothing_leaves_it_due(self, store: Store) -> None:
        """A step's own answer may be older than the news."""
        held = await asleep(store)
        await store.notify(a_notification())
        await written(store, held, wake_at_ms=None)
        assert await notice_of(store) is not None
        assert await claimed(store) == ["order_1.1"]

    async def test_an_inquiry_that_had_seen_it_answers_it(self, store: Store) -> None:
        """Then the payment sleeps as long as its record says."""
        await asleep(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.notice is not None
        plan = answering(found, found.notice.at_ms, wake_at_ms=None)
        assert (await store.commit(plan)).outcome is Outcome.OK
        assert await notice_of(store) is None
        assert await claimed(store) == []

    async def test_one_that_came_after_the_question_is_not_answered_by_it(
        self, store: Store
    ) -> None:
        """Even within the same millisecond."""
        await asleep(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        await store.notify(a_notification())
        assert found.notice is not None
        await store.commit(answering(found, found.notice.at_ms, wake_at_ms=None))
        assert await notice_of(store) is not None
        assert await claimed(store) == ["order_1.1"]

    async def test_a_commit_that_says_the_same_answers_it(self, store: Store) -> None:
        """The step's own answer was as good as the news."""
        held = await asleep(store)
        await store.notify(a_notification(reported_state="captured"))
        await written(store, held, state=State.CAPTURED, wake_at_ms=None)
        assert await notice_of(store) is None
        assert await claimed(store) == []

    @pytest.mark.parametrize("order", [("88", "77"), ("77", "88")])
    async def test_two_about_different_attempts_cover_neither(
        self, store: Store, order: tuple[str, str]
    ) -> None:
        """Whoever asks next must ask for all attempts of the order."""
        await asleep(store)
        for cf_payment_id in order:
            await store.notify(a_notification(cf_payment_id, reported_state="captured"))
        notice = await notice_of(store)
        assert notice is not None
        assert (notice.cf_payment_id, notice.reported_state) == ("*", "")

    @pytest.mark.parametrize("order", [("captured", "failed"), ("failed", "captured")])
    async def test_two_that_contradict_each_other_are_answered_by_an_inquiry_only(
        self, store: Store, order: tuple[str, str]
    ) -> None:
        """They come in any order, so the later one need not be the newer one."""
        held = await asleep(store)
        for state in order:
            await store.notify(a_notification(reported_state=state))
        await written(store, held, state=State.FAILED, wake_at_ms=None)
        assert await notice_of(store) is not None
        assert await claimed(store) == ["order_1.1"]

    async def test_an_answer_that_changes_nothing_is_no_version(self, store: Store) -> None:
        """The customer's own step over that version still goes through."""
        held = await asleep(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.notice is not None
        answered = await store.clear_notifications(found, found.notice.at_ms)
        assert (answered.record, answered.notice) == (held.record, None)
        assert await notice_of(store) is None
        assert await claimed(store) == []
        assert (await store.commit(a_plan(held))).outcome is Outcome.OK

    async def test_an_answer_gives_the_payment_its_own_wake_time_back(self, store: Store) -> None:
        """The flow's schedule goes on where it was."""
        await asleep(store, wake_at_ms=store.now_ms() - 1)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.notice is not None
        await store.clear_notifications(found, found.notice.at_ms)
        assert await claimed(store) == ["order_1.1"]

    async def test_an_answer_to_an_older_one_leaves_the_newer_due(self, store: Store) -> None:
        """What came after the question is not answered by it."""
        await asleep(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        await store.notify(a_notification())
        assert found.notice is not None
        await store.clear_notifications(found, found.notice.at_ms)
        assert await notice_of(store) is not None
        assert await claimed(store) == ["order_1.1"]

    async def test_an_answer_about_a_payment_that_has_moved_is_nothing(self, store: Store) -> None:
        """Whoever moved it has left it due."""
        await asleep(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        await written(store, found, wake_at_ms=None)
        assert found.notice is not None
        await store.clear_notifications(found, found.notice.at_ms)
        assert await claimed(store) == ["order_1.1"]

    async def test_an_order_with_news_is_not_purged(self, store: Store) -> None:
        """A worker asks first."""
        held = await asleep(store, state=State.FAILED)
        await store.notify(a_notification())
        assert not await store.purge([held])

    async def test_a_conflict_shows_the_notice_that_is_there_now(self, store: Store) -> None:
        """What is decided again is decided on all that is known."""
        held = await asleep(store)
        await written(store, held, wake_at_ms=None)
        await store.notify(a_notification())
        committed = await store.commit(a_plan(held))
        assert committed.outcome is Outcome.CONFLICT
        assert committed.snapshot is not None
        assert committed.snapshot.notice == await notice_of(store)
