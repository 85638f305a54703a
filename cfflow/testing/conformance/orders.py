"""The part of the suite about orders: several payments, restarts, the purge."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import pytest

from cfflow.core.chart import State
from cfflow.core.operation import Operation, Step
from cfflow.core.record import Review, Snapshot, step_bit
from cfflow.core.siblings import attempt_of
from cfflow.errors import AlreadyPaid, Conflict
from cfflow.store.protocol import Outcome, Store
from cfflow.testing.conformance.helpers import FLOW, a_plan, a_record, begin, due, ids, written
from cfflow.testing.conformance.part import ConformancePart

_MINUTE_MS: Final = 60_000
_ENDED: Final = {"state": State.FAILED, "wake_at_ms": None}


def a_step(step: Step) -> Operation:
    """Return an operation that opens this step."""
    return Operation(step=step, sequence=1, key="k1", began_at_ms=1, deadline_at_ms=2)


#: Situations of a payment that holds no money, as changes of its record.
_BESIDE: Final[dict[str, dict[str, Any]]] = {
    "over": _ENDED,
    "alive": {"state": State.OTP_PENDING},
    "pay open": {"state": State.CREATED, "operation": a_step(Step.PAY)},
    "OTP on its way": {"state": State.OTP_PENDING, "operation": a_step(Step.SUBMIT_OTP)},
    "void open": {"state": State.FAILED, "operation": a_step(Step.VOID)},
    "unknown money": {"state": State.FAILED, "reviews": (Review("unclaimed_money", 1),)},
    "other review": {"state": State.FAILED, "reviews": (Review("late_authorization", 1),)},
}


async def paid(store: Store, order_id: str) -> Snapshot:
    """Return a payment that took its order's money and has come to its end."""
    first = await begin(store, order_id)
    return await written(store, first, state=State.CAPTURED, cf_payment_id="77", wake_at_ms=None)


async def two_payments(store: Store) -> tuple[Snapshot, Snapshot]:
    """Return an abandoned payment and the one that followed it; both have an attempt."""
    first = await begin(store, "order_1")
    first = await written(
        store, first, state=State.INITIATED, cf_payment_id="1", abandoned=True, wake_at_ms=None
    )
    second = await begin(store, "order_1")
    return first, await written(store, second, state=State.INITIATED, cf_payment_id="2")


async def newest(store: Store, n: int) -> Snapshot:
    """Return a payment of the order as it is now."""
    found = await store.load("order_1", n)
    assert found is not None
    return found


class OrderConformance(ConformancePart):
    """Tests of how payments of one order affect each other. `StoreConformance` has them too."""

    # a start with a number

    async def test_a_wanted_number_is_begun_whatever_the_others_are(self, store: Store) -> None:
        """`adopt` stores what the gateway has, beside an open payment."""
        first = await begin(store, "order_1")
        started = await store.start("order_1", a_record(store), FLOW, n=2)
        assert (started.outcome, started.snapshot.n) == ("ok", 2)
        assert [attempt.state for attempt in started.snapshot.attempts] == [State.CREATED] * 2
        assert await store.load("order_1", 1) == msgspec.structs.replace(
            first, attempts=started.snapshot.attempts
        )

    async def test_a_wanted_number_that_exists_is_returned_as_it_is(self, store: Store) -> None:
        """So an `adopt` that was cut off in the middle can be repeated."""
        first = await written(store, await begin(store, "order_1"), **_ENDED)
        again = await store.start("order_1", a_record(store), FLOW, n=1)
        assert (again.outcome, again.snapshot) == ("exists", first)

    async def test_a_wanted_number_beyond_the_next_is_a_conflict(self, store: Store) -> None:
        """Numbers have no gaps, and nothing is stored."""
        await begin(store, "order_1")
        for order_id, n in (("order_1", 3), ("order_2", 2)):
            with pytest.raises(Conflict):
                await store.start(order_id, a_record(store), FLOW, n=n)
        assert await ids(store) == ["order_1.1"]

    async def test_fifty_starts_of_one_number_begin_one_payment(self, store: Store) -> None:
        """All callers get the same one."""
        started = await asyncio.gather(
            *(store.start("order_1", a_record(store), FLOW, n=1) for _ in range(50))
        )
        assert sorted(result.outcome for result in started) == ["exists"] * 49 + ["ok"]
        assert len({result.snapshot.record.token for result in started}) == 1

    # reviews that block the order

    async def test_a_review_on_one_payment_blocks_a_pay_of_another(self, store: Store) -> None:
        """Money of unknown origin may be this order's: a person looks first."""
        first, second = await two_payments(store)
        review = Review("unclaimed_money", 1)
        first = await written(store, first, reviews=(review,))
        refused = await store.commit(a_plan(second, opens=True, operation=a_step(Step.PAY)))
        assert (refused.outcome, refused.other) == (Outcome.BLOCKED, 1)
        assert (await newest(store, 2)).record == second.record
        closed = msgspec.structs.replace(review, acknowledged_at_ms=1)
        await written(store, first, reviews=(closed,))
        await written(store, second, opens=True, operation=a_step(Step.PAY))

    @pytest.mark.parametrize("step", Step)
    @pytest.mark.parametrize("situation", _BESIDE)
    async def test_a_step_waits_for_what_the_orders_entry_bars(
        self, store: Store, situation: str, step: Step
    ) -> None:
        """Each situation of a sibling, and each step beside it."""
        first, second = await two_payments(store)
        first = await written(store, first, **_BESIDE[situation])
        barred = attempt_of(first.record).bars & step_bit(step)
        done = await store.commit(a_plan(second, opens=True, operation=a_step(step)))
        assert done.outcome is (Outcome.BLOCKED if barred else Outcome.OK)

    async def test_a_plan_that_opens_nothing_can_be_barred_like_a_step(self, store: Store) -> None:
        """At the bank's page the customer pays as with an OTP, without a call of ours."""
        first, second = await two_payments(store)
        await written(store, first, reviews=(Review("unclaimed_money", 1),))
        barred = await store.commit(a_plan(second, beside=Step.SUBMIT_OTP))
        assert (barred.outcome, barred.other) == (Outcome.BLOCKED, 1)
        assert (await store.commit(a_plan(second))).outcome is Outcome.OK

    async def test_only_a_review_of_unknown_money_blocks_a_pay(self, store: Store) -> None:
        """Other reviews are about the money of one payment, not of the order."""
        first, second = await two_payments(store)
        await written(store, first, reviews=(Review("late_authorization", 1),))
        await written(store, second, opens=True, operation=a_step(Step.PAY))

    # two payments that hold money

    @pytest.mark.parametrize("state", [State.AUTHORIZED, State.CAPTURED])
    async def test_a_second_hold_is_decided_with_the_first_one_in_view(
        self, store: Store, state: State
    ) -> None:
        """A plan without the other hold in view is a conflict; the next one is written."""
        first, second = await two_payments(store)
        await written(store, first, state=State.AUTHORIZED)
        refused = await store.commit(a_plan(second, state=state))
        assert refused.outcome is Outcome.CONFLICT
        seen = refused.snapshot
        assert seen is not None
        assert (seen.record, seen.siblings_with_money) == (second.record, (1,))
        await written(store, seen, state=state)

    async def test_the_other_payment_with_money_is_due(self, store: Store) -> None:
        """Without this, no worker would look at a final payment again, and two took money."""
        first, second = await two_payments(store)
        await written(store, first, state=State.CAPTURED, wake_at_ms=None)
        await written(store, await newest(store, second.n), state=State.CAPTURED, wake_at_ms=None)
        await self.later(store, 0.005)
        leased = await store.lease(4 * self.partitions, _MINUTE_MS)
        assert [snapshot.id for snapshot in leased] == [first.id]

    async def test_a_hold_that_another_payment_got_meanwhile_is_never_overlooked(
        self, store: Store
    ) -> None:
        """A plan for a payment with money has every sibling with money in view."""
        _, second = await two_payments(store)
        await written(store, second, state=State.AUTHORIZED)
        before = await newest(store, 2)
        await written(store, await newest(store, 1), state=State.AUTHORIZED)
        overlooked = await store.commit(a_plan(before, polls=1))
        assert overlooked.outcome is Outcome.CONFLICT
        assert overlooked.snapshot is not None
        assert overlooked.snapshot.siblings_with_money == (1,)
        await written(store, overlooked.snapshot, polls=1)

    # a store that restarted

    async def test_another_history_of_the_same_version_is_a_conflict(self, store: Store) -> None:
        """After a rollback another caller may have written the same version."""
        first = await begin(store, "order_1")
        other = await begin(store, "order_2")
        record = msgspec.structs.replace(first.record, token=other.record.token)
        lost = await store.commit(a_plan(msgspec.structs.replace(first, record=record)))
        assert (lost.outcome, lost.snapshot) == (Outcome.CONFLICT, first)

    async def test_without_a_restart_no_inquiry_is_needed(self, store: Store) -> None:
        """Neither for a new payment, nor for one that was committed before."""
        snapshot = await begin(store, "order_1")
        for _ in range(3):
            snapshot = await written(store, snapshot, opens=True)

    async def test_after_a_restart_nothing_is_written_before_an_inquiry(self, store: Store) -> None:
        """However often it is tried; after one inquiry all goes on as before."""
        snapshot = await written(store, await begin(store, "order_1"), state=State.AUTHORIZED)
        since_at_ms = await self._restarted(store)
        for opens in (True, False):
            refused = await store.commit(a_plan(snapshot, opens=opens))
            assert refused.outcome is Outcome.RESTARTED
            assert since_at_ms <= refused.since_at_ms <= store.now_ms()
        assert await newest(store, 1) == snapshot
        asked = await written(
            store, snapshot, verified_after_restart=True, updated_at_ms=store.now_ms()
        )
        again = await written(store, asked, opens=True)
        await written(store, again)

    async def test_after_a_restart_every_payment_needs_an_inquiry(self, store: Store) -> None:
        """An inquiry for one of them proves nothing about the others."""
        before = [await begin(store, f"order_{i}") for i in range(8)]
        await self._restarted(store)
        for snapshot in before:
            assert (await store.commit(a_plan(snapshot))).outcome is Outcome.RESTARTED
            asked = await written(
                store, snapshot, verified_after_restart=True, updated_at_ms=store.now_ms()
            )
            await written(store, asked)

    async def test_a_payment_begun_after_a_restart_may_be_one_begun_again(
        self, store: Store
    ) -> None:
        """Its first start may be lost: its first step needs an inquiry too."""
        first = await begin(store, "order_1")
        await self._restarted(store)
        assert (await store.commit(a_plan(first))).outcome is Outcome.RESTARTED
        await written(
            store, first, verified_after_restart=True, updated_at_ms=store.now_ms(), **_ENDED
        )
        second = await begin(store, "order_1")
        assert (await store.commit(a_plan(second, opens=True))).outcome is Outcome.RESTARTED
        asked = await written(
            store, second, verified_after_restart=True, updated_at_ms=store.now_ms()
        )
        await written(store, asked, opens=True)

    async def _restarted(self, store: Store) -> int:
        """Restart the store, certainly after the last write, and return when that was."""
        await self.later(store, 0.005)
        since_at_ms = store.now_ms()
        await self.restart(store)
        await self.later(store, 0.005)
        return since_at_ms

    # the purge

    async def test_a_purged_order_is_gone(self, store: Store) -> None:
        """It cannot be read, listed or leased, and its next payment has number 1 again."""
        first = await written(store, await begin(store, "order_1"), **_ENDED)
        assert await store.purge([first])
        assert await store.load("order_1", 1) is None
        assert (await store.commit(a_plan(first))).outcome is Outcome.GONE
        assert await ids(store) == []
        assert (await begin(store, "order_1")).n == 1

    async def test_an_order_goes_with_all_its_payments(self, store: Store) -> None:
        """With their wake times and reviews; other orders stay."""
        reviews, wake_at_ms = (Review("two_holds", 1),), store.now_ms() - 1
        first = await written(store, await begin(store, "order_1"), **_ENDED)
        second = await begin(store, "order_1")
        changes = {"state": State.VOIDED, "reviews": reviews, "wake_at_ms": wake_at_ms}
        second = await written(store, second, **changes)
        await due(store, "order_2", wake_at_ms)
        assert await store.purge([first, second])
        assert (await store.overdue()).count == 1
        assert await ids(store) == ["order_2.1"]
        assert await ids(store, review=True) == []
        assert [s.id for s in await store.lease(100 * self.partitions, 1)] == ["order_2.1"]

    async def test_a_paid_order_leaves_a_marker(self, store: Store) -> None:
        """It cannot be started again, with any number."""
        await written(store, await begin(store, "order_1"), **_ENDED)
        await paid(store, "order_1")
        assert await store.purge([await newest(store, 1), await newest(store, 2)])
        assert [await store.load("order_1", n) for n in (1, 2)] == [None, None]
        assert await ids(store) == []
        for n in (None, 1, 2, 3):
            with pytest.raises(AlreadyPaid):
                await store.start("order_1", a_record(store), FLOW, n=n)

    async def test_an_order_that_has_changed_is_not_purged(self, store: Store) -> None:
        """A commit since it was read, or another payment."""
        first = await written(store, await begin(store, "order_1"), **_ENDED)
        moved = await written(store, first, polls=1)
        assert not await store.purge([first])
        assert await newest(store, 1) == moved
        second = await begin(store, "order_1")
        assert not await store.purge([moved])
        assert await ids(store) == [moved.id, second.id]

    async def test_a_purge_that_comes_twice_does_nothing_the_second_time(
        self, store: Store
    ) -> None:
        """Two workers purge at once: the first one does it, and the marker stays."""
        first = await paid(store, "order_1")
        unpaid = await written(store, await begin(store, "order_2"), **_ENDED)
        for snapshot in (first, unpaid):
            assert [await store.purge([snapshot]) for _ in range(2)] == [True, False]
        with pytest.raises(AlreadyPaid):
            await begin(store, "order_1")
