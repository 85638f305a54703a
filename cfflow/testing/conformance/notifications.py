"""The part of the suite about notifications."""

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

_LEASE_MS = 60_000


def a_notification(cf_payment_id: str = "77", **fields: Any) -> Notification:
    """Return a notification about an attempt of order_1."""
    given = {"type": "PAYMENT_SUCCESS_WEBHOOK", "content_id": "c1", "order_id": "order_1"}
    return Notification(cf_payment_id=cf_payment_id, **{**given, **fields})


async def sleeping(store: Store, order_id: str = "order_1", **changes: Any) -> Snapshot:
    """Return a payment with attempt 77 that is never due by itself."""
    given = {"state": State.INITIATED, "cf_payment_id": "77", "wake_at_ms": None}
    return await written(store, await begin(store, order_id), **{**given, **changes})


async def leased_ids(store: Store) -> Sequence[str]:
    """Lease all payments that are due now, and return their ids."""
    return sorted(snapshot.id for snapshot in await store.lease(100, _LEASE_MS))


async def notice_of(store: Store, n: int = 1) -> Notice | None:
    """Return the open notification of a payment of order_1."""
    found = await store.load("order_1", n)
    assert found is not None
    return found.notice


def settling(snapshot: Snapshot, settles_until_at_ms: int, **changes: Any) -> Plan:
    """Return the plan of an inquiry that was made after the notifications up to then."""
    return msgspec.structs.replace(
        a_plan(snapshot, **changes), settles_until_at_ms=settles_until_at_ms
    )


class NotificationConformance(ConformancePart):
    """Tests of what a notification does. `StoreConformance` has them too."""

    async def _notification_entries(self, store: Any) -> list[dict[str, Any]]:
        entries = [msgspec.msgpack.decode(blob) for blob in await self.events_of(store)]
        return [entry for entry in entries if entry.get("kind") == "notification"]

    # which payments it makes due

    async def test_the_payment_that_owns_its_attempt_is_due_at_once(self, store: Store) -> None:
        """The leased payment has the notification, so that the worker knows why it is due."""
        await sleeping(store)
        notified = await store.notify(a_notification())
        assert (notified.payments, notified.duplicate) == ((1,), False)
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.id == "order_1.1"
        assert found.notice is not None
        assert found.notice.cf_payment_id == "77"

    async def test_only_that_payment_of_the_order_is_due(self, store: Store) -> None:
        """Its siblings are not concerned."""
        await sleeping(store, abandoned=True)
        await written(store, await begin(store, "order_1"), wake_at_ms=None)
        await store.notify(a_notification())
        assert await leased_ids(store) == ["order_1.1"]

    async def test_a_foreign_attempt_concerns_payments_without_an_attempt(
        self, store: Store
    ) -> None:
        """Their lost pay may have made it."""
        await sleeping(store, abandoned=True)
        await written(store, await begin(store, "order_1"), wake_at_ms=None)
        assert (await store.notify(a_notification("88"))).payments == (2,)
        assert await leased_ids(store) == ["order_1.2"]

    @pytest.mark.parametrize("state", [State.AUTHORIZED, State.CAPTURED])
    async def test_a_foreign_attempt_concerns_payments_that_hold_or_took_money(
        self, store: Store, state: State
    ) -> None:
        """The customer may have paid twice, and an inquiry for these finds it."""
        first = await sleeping(store, abandoned=True)
        await written(store, await begin(store, "order_1"), state=State.FAILED, wake_at_ms=None)
        await written(store, first, state=state, wake_at_ms=None)
        assert (await store.notify(a_notification("88"))).payments == (1,)

    async def test_a_foreign_attempt_concerns_the_newest_payment_otherwise(
        self, store: Store
    ) -> None:
        """One payment must find out that the customer paid in another way too."""
        await sleeping(store, abandoned=True)
        await sleeping(store, cf_payment_id="78")
        assert (await store.notify(a_notification("88"))).payments == (2,)

    async def test_a_state_that_the_payment_is_in_makes_nothing_due(self, store: Store) -> None:
        """Inquiries that can find nothing new would use up the gateway's rate limit."""
        await sleeping(store, state=State.CAPTURED)
        assert (await store.notify(a_notification(reported_state="captured"))).payments == ()
        assert await leased_ids(store) == []

    async def test_another_state_makes_the_payment_due(self, store: Store) -> None:
        """Such as a failed payment that took money after all."""
        await sleeping(store, state=State.FAILED)
        assert (await store.notify(a_notification(reported_state="captured"))).payments == (1,)

    async def test_one_that_names_no_attempt_makes_nothing_due(self, store: Store) -> None:
        """There is nothing to ask about a refund; the feed has it all the same."""
        await sleeping(store)
        notified = await store.notify(a_notification("", type="REFUND_STATUS_WEBHOOK"))
        assert notified.payments == ()
        assert await leased_ids(store) == []
        assert len(await self._notification_entries(store)) == 1

    async def test_one_about_an_order_that_is_not_stored_goes_to_the_feed_only(
        self, store: Store
    ) -> None:
        """Another system of the merchant uses the same account."""
        notified = await store.notify(a_notification(order_id="order_9"))
        assert notified.payments == ()
        assert await leased_ids(store) == []
        assert [entry["order_id"] for entry in await self._notification_entries(store)] == [
            "order_9"
        ]

    async def test_one_without_an_order_goes_to_the_feed(self, store: Store) -> None:
        """A settlement belongs to no order."""
        await store.notify(a_notification("", order_id="", type="SETTLEMENT_SUCCESS", data=b"{}"))
        (entry,) = await self._notification_entries(store)
        assert (entry["type"], entry["order_id"], entry["data"]) == (
            "SETTLEMENT_SUCCESS",
            None,
            b"{}",
        )

    # duplicates

    async def test_a_duplicate_makes_due_again_and_has_no_second_entry(self, store: Store) -> None:
        """The worker that leased the payment for the first one may have died."""
        await sleeping(store)
        await store.notify(a_notification())
        await store.lease(100, _LEASE_MS)
        notified = await store.notify(a_notification())
        assert (notified.payments, notified.duplicate) == ((1,), True)
        assert await leased_ids(store) == ["order_1.1"]
        assert len(await self._notification_entries(store)) == 1

    async def test_other_content_is_not_a_duplicate(self, store: Store) -> None:
        """Even if it is about the same attempt. Its entry in the feed has the content id."""
        for content_id, duplicate in (("c1", False), ("c2", False), ("c1", True), ("c2", True)):
            notified = await store.notify(a_notification(content_id=content_id))
            assert notified.duplicate is duplicate
        entries = await self._notification_entries(store)
        assert [entry["content_id"] for entry in entries] == ["c1", "c2"]

    # commits beside it

    async def test_a_plan_over_the_same_version_still_goes_through(self, store: Store) -> None:
        """A customer who submits an OTP at this moment gets no `Conflict`."""
        held = await sleeping(store)
        await store.notify(a_notification())
        assert (await store.commit(a_plan(held))).outcome is Outcome.OK

    async def test_a_commit_that_does_not_settle_it_leaves_the_payment_due(
        self, store: Store
    ) -> None:
        """The gateway may have answered a step before the notification came."""
        held = await sleeping(store)
        await store.notify(a_notification())
        await written(store, held, wake_at_ms=None)
        assert await notice_of(store) is not None
        assert await leased_ids(store) == ["order_1.1"]

    async def test_an_inquiry_that_was_made_after_it_settles_it(self, store: Store) -> None:
        """Then the payment is due at its record's wake time."""
        await sleeping(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.notice is not None
        plan = settling(found, found.notice.at_ms, wake_at_ms=None)
        assert (await store.commit(plan)).outcome is Outcome.OK
        assert await notice_of(store) is None
        assert await leased_ids(store) == []

    async def test_one_that_came_after_the_inquiry_is_not_settled_by_it(self, store: Store) -> None:
        """Even if it came within the same millisecond."""
        await sleeping(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        await store.notify(a_notification())
        assert found.notice is not None
        await store.commit(settling(found, found.notice.at_ms, wake_at_ms=None))
        assert await notice_of(store) is not None
        assert await leased_ids(store) == ["order_1.1"]

    async def test_a_commit_of_the_reported_state_settles_it(self, store: Store) -> None:
        """The gateway's answer to the step has proved the same state."""
        held = await sleeping(store)
        await store.notify(a_notification(reported_state="captured"))
        await written(store, held, state=State.CAPTURED, wake_at_ms=None)
        assert await notice_of(store) is None
        assert await leased_ids(store) == []

    @pytest.mark.parametrize("order", [("88", "77"), ("77", "88")])
    async def test_two_about_different_attempts_name_no_attempt(
        self, store: Store, order: tuple[str, str]
    ) -> None:
        """The next inquiry must ask for all attempts of the order."""
        await sleeping(store)
        for cf_payment_id in order:
            await store.notify(a_notification(cf_payment_id, reported_state="captured"))
        notice = await notice_of(store)
        assert notice is not None
        assert (notice.cf_payment_id, notice.reported_state) == ("*", "")

    @pytest.mark.parametrize("order", [("captured", "failed"), ("failed", "captured")])
    async def test_two_that_contradict_each_other_are_settled_by_an_inquiry_only(
        self, store: Store, order: tuple[str, str]
    ) -> None:
        """They come in any order, so the later one is not always the newer one."""
        held = await sleeping(store)
        for state in order:
            await store.notify(a_notification(reported_state=state))
        await written(store, held, state=State.FAILED, wake_at_ms=None)
        assert await notice_of(store) is not None
        assert await leased_ids(store) == ["order_1.1"]

    async def test_clearing_makes_no_new_version(self, store: Store) -> None:
        """A customer's step on that version still goes through."""
        held = await sleeping(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.notice is not None
        cleared = await store.clear_notifications(found, found.notice.at_ms)
        assert (cleared.record, cleared.notice) == (held.record, None)
        assert await notice_of(store) is None
        assert await leased_ids(store) == []
        assert (await store.commit(a_plan(held))).outcome is Outcome.OK

    async def test_clearing_restores_the_record_s_wake_time(self, store: Store) -> None:
        """The flow's schedule goes on as before."""
        await sleeping(store, wake_at_ms=store.now_ms() - 1)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        assert found.notice is not None
        await store.clear_notifications(found, found.notice.at_ms)
        assert await leased_ids(store) == ["order_1.1"]

    async def test_clearing_an_older_one_leaves_the_newer_one(self, store: Store) -> None:
        """It came after the inquiry, which does not settle it."""
        await sleeping(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        await store.notify(a_notification())
        assert found.notice is not None
        await store.clear_notifications(found, found.notice.at_ms)
        assert await notice_of(store) is not None
        assert await leased_ids(store) == ["order_1.1"]

    async def test_clearing_does_nothing_to_a_payment_that_has_changed(self, store: Store) -> None:
        """The commit that changed it has left it due."""
        await sleeping(store)
        await store.notify(a_notification())
        (found,) = await store.lease(100, _LEASE_MS)
        await written(store, found, wake_at_ms=None)
        assert found.notice is not None
        await store.clear_notifications(found, found.notice.at_ms)
        assert await leased_ids(store) == ["order_1.1"]

    async def test_an_order_with_an_open_notification_is_not_purged(self, store: Store) -> None:
        """It may have money: a worker makes an inquiry first."""
        held = await sleeping(store, state=State.FAILED)
        await store.notify(a_notification())
        assert not await store.purge([held])

    async def test_a_conflict_returns_the_open_notification(self, store: Store) -> None:
        """The next decision must have it in view."""
        held = await sleeping(store)
        await written(store, held, wake_at_ms=None)
        await store.notify(a_notification())
        committed = await store.commit(a_plan(held))
        assert committed.outcome is Outcome.CONFLICT
        assert committed.snapshot is not None
        assert committed.snapshot.notice == await notice_of(store)
