"""Deliberate bugs in cfflow. Some seed must find each of them.

A bug that no seed finds is a gap in the rules.

When the order became the unit of storage, the rules about several payments left the store. Each
bug that was planted before is planted now where its rule has gone:

| bug | planted before in | planted now in |
|---|---|---|
| operation_not_written_down | Engine._open | Engine._commit_step |
| new_key_on_a_resend | due.resend | due.resend |
| resend_without_an_inquiry | due.resendable, Engine._resolve | due.resendable, Engine._resolve |
| lease_ignored | MemoryStore.lease | MemoryStore.lease |
| token_not_checked | MemoryStore.commit (version_not_checked) | MemoryStore.commit |
| pay_sent_again | GatewayClient.pay_with | GatewayClient.pay_with |
| otp_sent_again | GatewayClient.authenticate | GatewayClient.authenticate |
| one_empty_list_is_proof | answers._not_seen_twice | answers._not_seen_twice |
| captured_is_overwritten | absorb._agrees, draft | absorb._agrees, draft |
| foreign_attempt_owned | matching | matching |
| timeout_taken_for_a_refusal | failures.from_transport | failures.from_transport |
| server_error_taken_for_a_refusal | failures.from_answer | failures.from_answer |
| wake_time_left_out | schedule.next_wake | schedule.next_wake |
| hold_beside_a_hold | MemoryStore.commit (HOLDS) | order.SITUATIONS, its first row |
| pause_not_noticed | engine.SEND_WITHIN_MS | engine.SEND_WITHIN_MS |
| failed_never_revives | absorb._agrees | absorb._agrees |
| siblings_with_money_not_noticed | decide.warn_of_siblings_with_money | the same |
| late_pay_not_noticed | decide.warn_of_late_pay | decide.warn_of_late_pay |
| restart_not_noticed | MemoryStore._may_be_rolled_back | store.common.stamp_of |
| old_nonce_after_a_loss | decide.renew_nonce | decide._inquired |
| ruled_out_by_amount | matching.is_older | matching.is_older |
| refresh_restarts_the_schedule | Draft.asked | Draft.asked |
| renewal_restarts_the_review_clock | steps.renewed | steps.renewed |
| foreign_taker_ignored | decide.warn_of_second_taker | decide.warn_of_second_taker |
| contradicting_entity_used | decide._of_this_order | decide._of_this_order, is_about |
| siblings_ignored | siblings.why_barred, attempt_of | order.why_barred |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from msgspec.structs import replace

from cfflow import engine
from cfflow.cashfree import failures
from cfflow.cashfree.client import GatewayClient
from cfflow.core import (
    absorb,
    answers,
    chart,
    decide,
    draft,
    due,
    matching,
    order,
    schedule,
)
from cfflow.core.authors import Author
from cfflow.core.chart import State, Trigger
from cfflow.core.decide import Event, Inquired
from cfflow.core.draft import Draft
from cfflow.core.flow import Flow
from cfflow.core.observation import Observation
from cfflow.core.operation import Operation
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Plan, under_token
from cfflow.core.record import Record
from cfflow.core.restart import Restart
from cfflow.core.steps import Begin, renewed
from cfflow.engine import Engine
from cfflow.errors import GatewayUnavailable, OutcomeUnknown
from cfflow.store.memory import store as memory_store
from cfflow.store.orders import Shared, Written
from cfflow.store.protocol import Commit, Committed, Leased, Outcome, StoredOrder
from cfflow.testing import MemoryStore


@contextmanager
def changed(owner: Any, name: str, new: object) -> Iterator[None]:
    """Give an attribute another value until the block ends."""
    kept = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def replaced(old: object, new: object) -> Iterator[None]:
    """Replace a function under every name that the library has for it."""
    places = [
        (module, name)
        for title, module in list(sys.modules.items())
        if title.partition(".")[0] == "cfflow"
        for name, value in list(vars(module).items())
        if value is old
    ]
    with ExitStack() as stack:
        for module, name in places:
            stack.enter_context(changed(module, name, new))
        yield


def operation_not_written_down() -> AbstractContextManager[None]:
    """The step is sent first, and stored together with its outcome."""
    commit_step = Engine._commit_step

    async def unwritten(
        self: Engine, held: Snapshot, begin: Begin, flow: Flow, shared: Shared
    ) -> Written:
        plan = begin(held, flow, self.store.now_ms())
        if not plan.opens:
            return await commit_step(self, held, begin, flow, shared)
        plan = under_token(plan, "unwritten")
        return Written(Outcome.APPLIED, plan, plan.after)

    return changed(Engine, "_commit_step", unwritten)


def new_key_on_a_resend() -> AbstractContextManager[None]:
    """A capture or void of unknown outcome goes out again under another key."""
    resend = due.resend

    def renewing(snapshot: Snapshot, flow: Flow, now_ms: int) -> Plan:
        plan = resend(snapshot, flow, now_ms)
        operation = plan.record.operation
        if operation is None:
            return plan
        again = renewed(Draft(snapshot, flow, now_ms), operation)
        record = replace(plan.record, operation=again, sequence=again.sequence)
        return replace(
            plan,
            after=_with(plan.after, {snapshot.n: record}),
            changes=(replace(plan.change, record=record),),
        )

    return replaced(resend, renewing)


def _with(found: Order, records: Mapping[int, Record]) -> Order:
    """Return an order with other records of some of its payments."""
    blobs = enumerate(found.payments, 1)
    return replace(found, payments=tuple(records.get(n, blob) for n, blob in blobs))


@contextmanager
def resend_without_an_inquiry() -> Iterator[None]:
    """A step of unknown outcome is sent again without an inquiry about what it did."""

    def at_once(snapshot: Snapshot, now_ms: int) -> bool:
        operation = snapshot.record.operation
        lost = operation is not None and operation.body and not operation.accepted
        return bool(lost) and snapshot.record.state is State.AUTHORIZED

    async def unasked(_: Engine, held: Snapshot, _flow: Flow) -> Snapshot:
        return held

    with replaced(due.resendable, at_once), changed(Engine, "_resolve", unasked):
        yield


def lease_ignored() -> AbstractContextManager[None]:
    """A lease leaves the wake times as they are: every worker gets the same orders."""
    lease = MemoryStore.lease

    async def unleased(store: MemoryStore, limit: int, lease_ms: int) -> Leased:
        wakes = dict(store._wakes)
        leased = await lease(store, limit, lease_ms)
        store._wakes.update(wakes)
        return leased

    return changed(MemoryStore, "lease", unleased)


def token_not_checked() -> AbstractContextManager[None]:
    """A commit overwrites whatever is there."""

    def overwriting(store: MemoryStore, commit: Commit) -> Commit:
        held = store._orders.get(commit.order_id)
        return commit if held is None else replace(commit, expected=held.token)

    return _commits(overwriting)


def _commits(other: Callable[[MemoryStore, Commit], Commit]) -> AbstractContextManager[None]:
    """Have the store carry out another commit than the one that it gets."""
    commit = MemoryStore.commit

    async def changing(store: MemoryStore, asked: Commit) -> Committed:
        return await commit(store, other(store, asked))

    return changed(MemoryStore, "commit", changing)


def pay_sent_again() -> AbstractContextManager[None]:
    """A pay whose answer is lost is sent once more under the same key."""
    return changed(GatewayClient, "pay_with", _twice(GatewayClient.pay_with))


def otp_sent_again() -> AbstractContextManager[None]:
    """An OTP whose answer is lost is submitted once more."""
    return changed(GatewayClient, "authenticate", _twice(GatewayClient.authenticate))


def _twice(call: Callable[..., Any]) -> Callable[..., Any]:
    async def again(*args: Any, **kwargs: Any) -> Any:
        try:
            return await call(*args, **kwargs)
        except OutcomeUnknown:
            return await call(*args, **kwargs)

    return again


def one_empty_list_is_proof() -> AbstractContextManager[None]:
    """One inquiry that shows no attempt counts as proof that the pay never arrived."""
    return changed(answers, "_not_seen_twice", lambda *_: True)


@contextmanager
def captured_is_overwritten() -> Iterator[None]:
    """An observation that contradicts a final state moves the payment."""
    walk, fire = chart.walk, chart.fire

    def walked(source: State, target: State, *, attempted: bool = True) -> Any:
        return walk(_before(source), target, attempted=attempted)

    def fired(source: State, trigger: Trigger) -> State:
        return fire(_before(source), trigger)

    with (
        changed(absorb, "_agrees", lambda *_: True),
        changed(draft, "walk", walked),
        changed(draft, "fire", fired),
    ):
        yield


def _before(state: State) -> State:
    """Return the state before a capture, so that the chart permits another move."""
    return State.AUTHORIZED if state is State.CAPTURED else state


@contextmanager
def foreign_attempt_owned() -> Iterator[None]:
    """A lost pay takes any attempt of its order that no payment owns."""
    with replaced(matching.matches, lambda *_: True), replaced(matching.is_older, lambda *_: False):
        yield


def timeout_taken_for_a_refusal() -> AbstractContextManager[None]:
    """A step without an answer is closed as one that had no effect."""

    def harmless(call: object, error: Exception, _: object) -> GatewayUnavailable:
        return GatewayUnavailable(f"{call}: {type(error).__name__}")

    return replaced(failures.from_transport, harmless)


def server_error_taken_for_a_refusal() -> AbstractContextManager[None]:
    """A 500 counts as proof that nothing happened."""
    from_answer = failures.from_answer

    def harmless(call: Any, answer: Any) -> Any:
        if answer.status >= 500:
            return GatewayUnavailable(f"{call}: {answer.status}")
        return from_answer(call, answer)

    return replaced(from_answer, harmless)


def wake_time_left_out() -> AbstractContextManager[None]:
    """A payment has no wake time while the customer is away."""
    next_wake = schedule.next_wake

    def never(record: Record, flow: Flow) -> int | None:
        return None if record.state is State.INITIATED else next_wake(record, flow)

    return replaced(next_wake, never)


def hold_beside_a_hold() -> AbstractContextManager[None]:
    """A step goes out while another payment of the order holds money."""
    return _without_row("holds or took money")


def _without_row(name: str) -> AbstractContextManager[None]:
    rows = tuple(row for row in order.SITUATIONS if row.name != name)
    return changed(order, "SITUATIONS", rows)


def pause_not_noticed() -> AbstractContextManager[None]:
    """A process that slept after its commit still sends the step."""
    return changed(engine, "SEND_WITHIN_MS", 10**9)


def failed_never_revives() -> AbstractContextManager[None]:
    """A failed payment stays failed when its attempt takes money later."""

    def stays_failed(
        sketch: Draft, observation: Observation, target: State, asked_at_ms: int
    ) -> bool:
        return sketch.state is not State.FAILED and agrees(sketch, observation, target, asked_at_ms)

    agrees = absorb._agrees
    return changed(absorb, "_agrees", stays_failed)


def siblings_with_money_not_noticed() -> AbstractContextManager[None]:
    """Two payments of one order take money, and no review is opened."""
    return changed(decide, "warn_of_siblings_with_money", lambda _: None)


def late_pay_not_noticed() -> AbstractContextManager[None]:
    """The attempt of a pay that was given up appears, and no review is opened."""
    return changed(decide, "warn_of_late_pay", lambda *_: None)


def restart_not_noticed() -> AbstractContextManager[None]:
    """The store has lost its last commits, and does not check for it."""

    def present(
        _held: StoredOrder | None, _commit: Commit, restart: Restart, _now_ms: int
    ) -> str | None:
        return restart.history

    return changed(memory_store, "stamp_of", present)


def restart_verified_for_one_payment() -> AbstractContextManager[None]:
    """The inquiry after a restart is decided for one payment of its order only."""

    def for_one(
        found: Order,
        events: Mapping[int, Event],
        flows: Mapping[int, Flow],
        now_ms: int,
        author: Author,
    ) -> Plan:
        verifies = any(isinstance(event, Inquired) and event.verified for event in events.values())
        chosen = dict(list(events.items())[:1]) if verifies else events
        return decided(found, chosen, flows, now_ms, author)

    decided = engine._decided
    return changed(engine, "_decided", for_one)


def old_nonce_after_a_loss() -> AbstractContextManager[None]:
    """After a loss of data the keys of the lost steps are used again."""

    def kept_nonce(sketch: Draft, event: Inquired, listed: tuple[Observation, ...]) -> None:
        nonce = sketch.nonce
        inquired(sketch, event, listed)
        sketch.nonce = nonce

    inquired = decide._inquired
    return changed(decide, "_inquired", kept_nonce)


def ruled_out_by_amount() -> AbstractContextManager[None]:
    """An attempt of another amount counts as a foreign attempt, without any proof."""
    is_older = matching.is_older

    def other_amount(operation: Operation, observation: Observation) -> bool:
        shown = {observation.payment_amount, observation.order_amount} - {None}
        differs = operation.amount is not None and shown and operation.amount not in shown
        return bool(differs) or is_older(operation, observation)

    return replaced(is_older, other_amount)


def refresh_restarts_the_schedule() -> AbstractContextManager[None]:
    """An inquiry starts the payment's wait again."""
    asked = Draft.asked

    def restarting(sketch: Draft, at_ms: int) -> None:
        asked(sketch, at_ms)
        sketch.since_at_ms = sketch.now_ms

    return changed(Draft, "asked", restarting)


def sibling_restarts_the_schedule() -> AbstractContextManager[None]:
    """A commit about one payment starts the waits of the order's other payments again."""
    order_with = Draft._order_with

    def restarting(sketch: Draft, record: Record) -> Order:
        made = order_with(sketch, record)
        others = {
            payment.n: replace(payment.record, since_at_ms=sketch.now_ms)
            for payment in made.all_payments
            if payment.n != sketch.snapshot.n
        }
        wakes = {n: schedule.next_wake(other, sketch.flow) for n, other in others.items()}
        return _with(made, {n: replace(r, wake_at_ms=wakes[n]) for n, r in others.items()})

    return changed(Draft, "_order_with", restarting)


def renewal_restarts_the_review_clock() -> AbstractContextManager[None]:
    """A step that is sent under a new key counts as a new step."""

    def anew(sketch: Draft, operation: Operation) -> Operation:
        return replace(renewed(sketch, operation), began_at_ms=sketch.now_ms)

    return replaced(renewed, anew)


def foreign_taker_ignored() -> AbstractContextManager[None]:
    """The customer has paid on another page, and may pay here as well."""
    return changed(decide, "warn_of_second_taker", lambda *_: None)


def siblings_ignored() -> AbstractContextManager[None]:
    """A step goes out beside another payment of the order that is not over."""
    return replaced(order.why_barred, lambda *_: None)


@contextmanager
def contradicting_entity_used() -> Iterator[None]:
    """An answer about another order moves a payment of this order."""
    with (
        changed(decide, "_of_this_order", lambda _, observations: observations),
        replaced(decide.is_about, lambda *_: True),
    ):
        yield


def later_notification_removed() -> AbstractContextManager[None]:
    """A commit removes all notifications of its order, and not those that it lists."""

    def clearing(store: MemoryStore, commit: Commit) -> Commit:
        held = store._orders.get(commit.order_id)
        return commit if held is None else replace(commit, answered=held.notices)

    return _commits(clearing)


def closed_gate_passed() -> AbstractContextManager[None]:
    """A step goes out that a person has stopped for all orders."""
    return _commits(lambda _, commit: replace(commit, gate=""))


def marker_of_a_paid_order_ignored() -> AbstractContextManager[None]:
    """An order that was paid begins again after it was purged, and can be paid twice."""

    def unmarked(store: MemoryStore, commit: Commit) -> Commit:
        if not commit.expected:
            store._markers.pop(commit.order_id, None)
        return commit

    return _commits(unmarked)


def own_token_not_recognised() -> AbstractContextManager[None]:
    """A commit whose reply was lost counts as another one's, once the order has changed since."""
    return changed(engine, "_is_applied", lambda written: written.outcome is Outcome.APPLIED)


Mutation = Callable[[], AbstractContextManager[None]]


class Where(NamedTuple):
    """A seed that finds a bug, in a rough world with these network faults; None: any faults.

    `several`: whether its orders take several payments; None: as the seed draws it.
    """

    seed: int
    faults: tuple[str, ...] | None = None
    several: bool | None = None


#: Every bug, and where it shows soonest.
MUTATIONS: dict[Mutation, Where] = {
    operation_not_written_down: Where(0),
    new_key_on_a_resend: Where(2),
    resend_without_an_inquiry: Where(133, ("lost_before", "error_before", "lost_after")),
    lease_ignored: Where(0),
    token_not_checked: Where(0),
    pay_sent_again: Where(1, ("lost_before", "lost_after")),
    otp_sent_again: Where(4, ("lost_before", "lost_after")),
    one_empty_list_is_proof: Where(16),
    captured_is_overwritten: Where(2),
    foreign_attempt_owned: Where(41),
    timeout_taken_for_a_refusal: Where(1),
    server_error_taken_for_a_refusal: Where(6),
    wake_time_left_out: Where(0),
    hold_beside_a_hold: Where(33, ()),
    pause_not_noticed: Where(111, ()),
    failed_never_revives: Where(1, ()),
    siblings_with_money_not_noticed: Where(33, ()),
    late_pay_not_noticed: Where(59, ("stuck",)),
    restart_not_noticed: Where(0, ("busy",)),
    restart_verified_for_one_payment: Where(0, (), several=True),
    old_nonce_after_a_loss: Where(0, ("busy",)),
    ruled_out_by_amount: Where(115, ("lost_after", "late_answer")),
    refresh_restarts_the_schedule: Where(0),
    sibling_restarts_the_schedule: Where(0, several=True),
    renewal_restarts_the_review_clock: Where(22, ("error_stored",)),
    foreign_taker_ignored: Where(110, ("lost_after",)),
    siblings_ignored: Where(1),
    contradicting_entity_used: Where(1, ("mixed",)),
    later_notification_removed: Where(6),
    closed_gate_passed: Where(58),
    marker_of_a_paid_order_ignored: Where(170, ()),
    own_token_not_recognised: Where(457),
}
