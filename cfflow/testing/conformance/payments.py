"""The part of the suite about one payment: start, commit, next action, events."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import msgspec

from cfflow.core.actions import ApproveInApp, AskOtp
from cfflow.core.chart import State, Trigger
from cfflow.core.operation import Operation, Step
from cfflow.core.record import SCHEMA, Attempt, Snapshot
from cfflow.core.siblings import attempt_of
from cfflow.store.protocol import ACTION_MAX_B, Outcome, Page, Started, Store
from cfflow.testing.conformance.helpers import (
    FLOW,
    a_plan,
    a_record,
    begin,
    first_edge,
    ids,
    walked_edge,
    without_token,
    written,
)
from cfflow.testing.conformance.part import ConformancePart


class PaymentConformance(ConformancePart):
    """Tests of how a payment is started, committed and read. `StoreConformance` has them too."""

    # start and load

    async def test_a_started_payment_is_found_as_it_was_started(self, store: Store) -> None:
        """What goes in comes out: amounts, metadata, times, and the place in the order."""
        metadata = {"cart": "8123", "lines": [1, 2]}
        record = a_record(store, amount=Decimal("170.10"), metadata=metadata)
        started = await store.start("order_1", record, FLOW)
        assert (started.outcome, started.snapshot.id) == ("ok", "order_1.1")
        loaded = await store.load("order_1", 1)
        assert loaded == started.snapshot
        assert loaded is not None
        assert msgspec.structs.replace(loaded.record, token="") == record
        assert loaded.attempts == (Attempt(State.CREATED),)
        assert loaded.next_action is None

    async def test_a_payment_that_was_never_started_is_none(self, store: Store) -> None:
        """An unknown order and an unknown number are no errors."""
        await begin(store, "order_1")
        assert await store.load("order_2", 1) is None
        assert await store.load("order_1", 2) is None

    async def test_an_order_has_one_open_payment(self, store: Store) -> None:
        """A second start returns the open payment and changes nothing in it."""
        first = await begin(store, "order_1")
        again = await store.start("order_1", a_record(store, amount=Decimal(5)), FLOW)
        assert again == Started("open", first)

    async def test_an_order_stays_occupied_in_every_open_state(self, store: Store) -> None:
        """Only the end of a payment frees its order."""
        snapshot = await begin(store, "order_1")
        for state in (State.INITIATED, State.OTP_PENDING, State.AUTHORIZED):
            snapshot = await written(store, snapshot, state=state)
            again = await store.start("order_1", a_record(store), FLOW)
            assert again == Started("open", snapshot)

    async def test_a_failed_or_voided_payment_is_followed_by_the_next(self, store: Store) -> None:
        """Its number is one higher, and its snapshot has the attempts of the others."""
        first = await begin(store, "order_1")
        await written(store, first, state=State.FAILED, cf_payment_id="77")
        second = await begin(store, "order_1")
        await written(store, second, state=State.VOIDED)
        third = await begin(store, "order_1")
        assert (second.id, third.id) == ("order_1.2", "order_1.3")
        assert third.attempts == (
            Attempt(State.FAILED, "77"),
            Attempt(State.VOIDED),
            Attempt(State.CREATED),
        )
        assert third.owned_elsewhere == {"77"}

    async def test_a_paid_order_starts_no_other_payment(self, store: Store) -> None:
        """The payment that took the money is returned, even when others failed before."""
        await written(store, await begin(store, "order_1"), state=State.FAILED)
        paid = await written(store, await begin(store, "order_1"), state=State.CAPTURED)
        assert await store.start("order_1", a_record(store), FLOW) == Started("paid", paid)

    async def test_an_abandoned_payment_frees_its_order(self, store: Store) -> None:
        """The next payment starts; the abandoned one stays in its state."""
        first = await begin(store, "order_1")
        await written(store, first, state=State.INITIATED, abandoned=True)
        second = await store.start("order_1", a_record(store), FLOW)
        assert (second.outcome, second.snapshot.n) == ("ok", 2)
        entry = second.snapshot.attempts[0]
        assert (entry.state, entry.abandoned) == (State.INITIATED, True)

    async def test_a_payment_abandoned_and_captured_still_pays_the_order(
        self, store: Store
    ) -> None:
        """Its money counts, although the payment was given up."""
        first = await begin(store, "order_1")
        await written(store, first, state=State.CAPTURED, abandoned=True)
        assert (await store.start("order_1", a_record(store), FLOW)).outcome == "paid"

    async def test_fifty_starts_at_once_begin_one_payment(self, store: Store) -> None:
        """All callers get the same payment."""
        started = await asyncio.gather(
            *(store.start("order_1", a_record(store), FLOW) for _ in range(50))
        )
        assert sorted(result.outcome for result in started) == ["ok"] + ["open"] * 49
        assert len({result.snapshot.record.token for result in started}) == 1

    async def test_the_text_of_a_flow_is_found_by_its_digest(self, store: Store) -> None:
        """A running payment keeps its flow; an unknown digest is None."""
        await begin(store, "order_1")
        assert await store.flow_text("order_1", FLOW.digest) == FLOW.source
        assert await store.flow_text("order_1", "unknown") is None

    # commit

    async def test_a_commit_is_read_back_as_it_was_written(self, store: Store) -> None:
        """The result, the stored payment and the order's entry agree."""
        first = await begin(store, "order_1")
        plan = a_plan(first, state=State.INITIATED, cf_payment_id="9001", captured_amount=None)
        committed = await store.commit(plan)
        assert committed.outcome is Outcome.OK
        assert committed.snapshot == await store.load("order_1", 1)
        assert committed.snapshot is not None
        assert without_token(committed.snapshot).record == plan.record
        assert committed.snapshot.attempts == (attempt_of(plan.record),)

    async def test_commits_and_starts_carry_tokens_of_their_own(self, store: Store) -> None:
        """A token names one commit: no two are alike, and none is empty."""
        first = await begin(store, "order_1")
        second = await written(store, first)
        other = await begin(store, "order_2")
        tokens = {first.record.token, second.record.token, other.record.token}
        assert len(tokens) == 3
        assert all(tokens)

    async def test_a_commit_returns_the_stores_own_time(self, store: Store) -> None:
        """It is the time of `now_ms`."""
        first = await begin(store, "order_1")
        before = store.now_ms()
        committed = await store.commit(a_plan(first))
        assert before - 50 <= committed.at_ms <= store.now_ms() + 50

    async def test_a_commit_on_an_old_version_changes_nothing(self, store: Store) -> None:
        """The caller gets the newest snapshot with its next action, and nothing is written."""
        first = await begin(store, "order_1")
        newest = await written(store, first, action=AskOtp("https://bank"), state=State.OTP_PENDING)
        lost = await store.commit(a_plan(first, state=State.FAILED, cf_payment_id="1"))
        assert (lost.outcome, lost.snapshot) == (Outcome.CONFLICT, newest)
        assert await store.load("order_1", 1) == newest
        assert await ids(store, State.FAILED) == []

    async def test_the_same_plan_committed_twice_is_applied_once(self, store: Store) -> None:
        """The second time the version is another: no second write, no second event."""
        plan = a_plan(await begin(store, "order_1"), walked=first_edge(Trigger.INITIATE))
        first, second = await store.commit(plan), await store.commit(plan)
        assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.CONFLICT)
        assert second.snapshot == first.snapshot
        assert len(await self.events_of(store)) == 1

    async def test_of_fifty_commits_on_one_version_one_wins(self, store: Store) -> None:
        """All others get what the first one wrote."""
        first = await begin(store, "order_1")
        plans = [a_plan(first, polls=i, walked=first_edge(Trigger.INITIATE)) for i in range(50)]
        results = await asyncio.gather(*(store.commit(plan) for plan in plans))
        won = [result for result in results if result.outcome is Outcome.OK]
        lost = [result for result in results if result.outcome is Outcome.CONFLICT]
        assert (len(won), len(lost)) == (1, 49)
        assert all(result.snapshot == won[0].snapshot for result in lost)
        assert await store.load("order_1", 1) == won[0].snapshot
        assert len(await self.events_of(store)) == 1

    async def test_commits_of_many_orders_at_once_do_not_mix(self, store: Store) -> None:
        """Each of forty orders has its own five commits."""

        async def live(order_id: str) -> Snapshot:
            snapshot = await begin(store, order_id)
            for polls in range(1, 6):
                snapshot = await written(store, snapshot, polls=polls, cf_payment_id=order_id)
            return snapshot

        ends = await asyncio.gather(*(live(f"order_{i}") for i in range(40)))
        for end in ends:
            assert await store.load(end.order_id, 1) == end
            assert (end.record.polls, end.record.cf_payment_id) == (5, end.order_id)

    async def test_a_payment_that_is_gone_takes_no_commit(self, store: Store) -> None:
        """Neither for an unknown order nor for an unknown number; nothing is stored."""
        first = await begin(store, "order_1")
        for order_id, n in (("order_2", 1), ("order_1", 2)):
            ghost = msgspec.structs.replace(first, order_id=order_id, n=n)
            assert (await store.commit(a_plan(ghost))).outcome is Outcome.GONE
            assert await store.load(order_id, n) is None
        assert len(await store.list(Page())) == 1

    async def test_a_record_of_a_newer_schema_is_read_only(self, store: Store) -> None:
        """Older code would drop the fields that it does not have."""
        newer = await written(store, await begin(store, "order_1"), schema=SCHEMA + 1)
        refused = await store.commit(a_plan(newer, state=State.FAILED))
        assert refused.outcome is Outcome.SCHEMA
        assert await store.load("order_1", 1) == newer

    # who owns an attempt, and the order's money

    async def test_an_attempt_belongs_to_one_payment_of_its_order(self, store: Store) -> None:
        """A second owner is refused with the number of the first; nothing is written."""
        first = await begin(store, "order_1")
        first = await written(store, first, state=State.FAILED, cf_payment_id="9001")
        second = await begin(store, "order_1")
        refused = await store.commit(a_plan(second, state=State.INITIATED, cf_payment_id="9001"))
        assert (refused.outcome, refused.other) == (Outcome.OWNED, 1)
        assert await store.load("order_1", 2) == second
        again = await store.commit(a_plan(first, polls=1))
        assert again.outcome is Outcome.OK

    async def test_payments_without_an_attempt_own_nothing(self, store: Store) -> None:
        """Two payments without a gateway id are no conflict."""
        first = await begin(store, "order_1")
        await written(store, first, abandoned=True)
        second = await begin(store, "order_1")
        await written(store, second, state=State.INITIATED)

    async def test_an_attempt_is_owned_within_its_order_only(self, store: Store) -> None:
        """A payment of another order may have the same gateway id."""
        await written(store, await begin(store, "order_1"), cf_payment_id="9001")
        await written(store, await begin(store, "order_2"), cf_payment_id="9001")

    async def test_a_void_is_refused_beside_another_hold(self, store: Store) -> None:
        """Capture and void name only the order, so none is sent while two payments hold money."""
        for held in (State.AUTHORIZED, State.CAPTURED):
            order_id = f"order_{held}"
            first = await begin(store, order_id)
            first = await written(store, first, state=State.INITIATED, abandoned=True)
            second = await begin(store, order_id)
            await written(store, first, state=held)
            void = Operation(step=Step.VOID, sequence=1, key="k1", began_at_ms=1, deadline_at_ms=2)
            refused = await store.commit(a_plan(second, opens=True, operation=void))
            assert (refused.outcome, refused.other) == (Outcome.HOLDER, 1)
            assert (await store.commit(a_plan(second))).outcome is Outcome.OK

    async def test_a_payment_with_money_does_not_bar_its_own_step(self, store: Store) -> None:
        """Nor do payments that hold nothing."""
        await written(store, await begin(store, "order_1"), state=State.FAILED)
        second = await written(store, await begin(store, "order_1"), state=State.AUTHORIZED)
        assert (await store.commit(a_plan(second, opens=True))).outcome is Outcome.OK

    # next action

    async def test_a_next_action_is_set_kept_and_dropped(self, store: Store) -> None:
        """Only a plan that changes it writes it."""
        first = await begin(store, "order_1")
        action = ApproveInApp("qrcode", {"qrcode": "data:image/png;base64,AAAA"})
        shown = await written(store, first, action=action)
        kept = await written(store, shown, polls=1)
        assert kept.next_action == action
        loaded = await store.load("order_1", 1)
        assert loaded is not None
        assert loaded.next_action == action
        gone = await written(store, kept, action=None)
        assert gone.next_action is None
        assert await store.load("order_1", 1) == gone

    async def test_a_too_large_next_action_is_returned_and_not_stored(self, store: Store) -> None:
        """The caller gets it once; an older stored one is removed."""
        first = await written(store, await begin(store, "order_1"), action=AskOtp())
        huge = ApproveInApp("qrcode", {"qrcode": "A" * (ACTION_MAX_B + 1)})
        shown = await written(store, first, action=huge)
        assert shown.next_action == huge
        loaded = await store.load("order_1", 1)
        assert loaded is not None
        assert loaded.next_action is None

    # events

    async def test_events_come_with_their_commit_and_in_order(self, store: Store) -> None:
        """One for each transition, in their order."""
        first = await begin(store, "order_1")
        edges = (
            walked_edge(Trigger.INITIATE, State.CREATED, State.INITIATED),
            walked_edge(Trigger.HOLD, State.INITIATED, State.AUTHORIZED),
        )
        held = await written(store, first, state=State.AUTHORIZED, walked=edges)
        unchanged = await written(store, held, polls=1)
        last = walked_edge(Trigger.CAPTURE, State.AUTHORIZED, State.CAPTURED)
        await written(store, unchanged, state=State.CAPTURED, walked=(last,))
        events = [msgspec.msgpack.decode(event) for event in await self.events_of(store)]
        assert [event["trigger"] for event in events] == ["initiate", "hold", "capture"]
        assert [event["version"] for event in events] == [2, 2, 4]
        assert {event["payment_id"] for event in events} == {"order_1.1"}

    async def test_a_refused_commit_writes_no_event(self, store: Store) -> None:
        """An event exists only for a transition that was written."""
        first = await begin(store, "order_1")
        await written(store, first)
        lost = await store.commit(a_plan(first, walked=first_edge(Trigger.INITIATE)))
        assert lost.outcome is Outcome.CONFLICT
        assert list(await self.events_of(store)) == []
