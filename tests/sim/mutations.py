"""Deliberate bugs in cfflow. Some seed must find each of them.

A bug that no seed finds is a gap in the rules.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from msgspec.structs import replace

from cfflow.cashfree import failures
from cfflow.cashfree.client import GatewayClient
from cfflow.core import (
    absorb,
    answers,
    attempts,
    chart,
    decide,
    draft,
    due,
    matching,
    schedule,
    siblings,
)
from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Draft, Plan
from cfflow.core.flow import Flow
from cfflow.core.observation import Observation
from cfflow.core.operation import Operation
from cfflow.core.record import Attempt, Record, Snapshot
from cfflow.core.steps import renewed
from cfflow.engine import Engine
from cfflow.errors import GatewayUnavailable, OutcomeUnknown
from cfflow.store.memory import store as memory
from cfflow.store.protocol import Committed, Outcome, decode_record
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

    async def unwritten(_: Engine, plan: Plan, _begin: object, _flow: Flow) -> object:
        return plan, Committed(Outcome.OK, plan.record.updated_at_ms, plan.snapshot)

    return changed(Engine, "_open", unwritten)


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
        return replace(plan, snapshot=replace(plan.snapshot, record=record))

    return replaced(resend, renewing)


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
    """A lease leaves the wake times as they are: every worker gets the same payments."""
    lease = MemoryStore.lease

    async def unleased(store: MemoryStore, limit: int, lease_ms: int) -> Sequence[Snapshot]:
        wakes = dict(store._wakes)
        leased = await lease(store, limit, lease_ms)
        store._wakes.update(wakes)
        return leased

    return changed(MemoryStore, "lease", unleased)


def version_not_checked() -> AbstractContextManager[None]:
    """A commit overwrites whatever is there."""
    commit = MemoryStore.commit

    async def overwriting(store: MemoryStore, plan: Plan) -> Committed:
        order = store._orders[plan.snapshot.order_id]
        stored = decode_record(order.records[plan.snapshot.n])
        before = replace(plan.before, record=stored)
        return await commit(store, replace(plan, before=before))

    return changed(MemoryStore, "commit", overwriting)


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

    def harmless(call: object, error: Exception) -> GatewayUnavailable:
        return GatewayUnavailable(f"{call}: {type(error).__name__}")

    return replaced(failures.from_transport, harmless)


def server_error_taken_for_a_refusal() -> AbstractContextManager[None]:
    """A 500 counts as proof that nothing happened."""
    from_answer = failures.from_answer

    def harmless(call: Any, response: Any) -> Any:
        if response.status_code >= 500:
            return GatewayUnavailable(f"{call}: {response.status_code}")
        return from_answer(call, response)

    return replaced(from_answer, harmless)


def wake_time_left_out() -> AbstractContextManager[None]:
    """A payment has no wake time while the customer is away."""
    next_wake = schedule.next_wake

    def never(record: Record, flow: Flow) -> int | None:
        return None if record.state is State.INITIATED else next_wake(record, flow)

    return replaced(next_wake, never)


def hold_beside_a_hold() -> AbstractContextManager[None]:
    """A step goes out while another payment of the order holds money."""
    return changed(memory, "HOLDS", frozenset())


def pause_not_noticed() -> AbstractContextManager[None]:
    """A process that slept after its commit still sends the step."""
    return changed(sys.modules["cfflow.engine"], "SEND_WITHIN_MS", 10**9)


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
    """The store has lost its last commits, and the engine does not check for it."""
    return changed(MemoryStore, "_may_be_rolled_back", lambda *_: False)


def old_nonce_after_a_loss() -> AbstractContextManager[None]:
    """After a loss of data the keys of the lost steps are used again."""

    def kept_nonce(
        sketch: Draft, listed: tuple[Observation, ...], *, nonce: str, named: tuple[str, ...]
    ) -> None:
        renew_nonce(sketch, listed, nonce=sketch.nonce, named=named)

    renew_nonce = attempts.renew_nonce
    return changed(decide, "renew_nonce", kept_nonce)


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


def renewal_restarts_the_review_clock() -> AbstractContextManager[None]:
    """A step that is sent under a new key counts as a new step."""

    def anew(sketch: Draft, operation: Operation) -> Operation:
        return replace(renewed(sketch, operation), began_at_ms=sketch.now_ms)

    return replaced(renewed, anew)


def foreign_taker_ignored() -> AbstractContextManager[None]:
    """The customer has paid on another page, and may pay here as well."""
    return changed(decide, "warn_of_second_taker", lambda *_: None)


@contextmanager
def siblings_ignored() -> Iterator[None]:
    """A step goes out beside another payment of the order that is not over."""

    def bits(record: Record) -> Attempt:
        return replace(attempt_of(record), bars=0)

    attempt_of = siblings.attempt_of
    with replaced(siblings.why_barred, lambda *_: None), replaced(attempt_of, bits):
        yield


def contradicting_entity_used() -> AbstractContextManager[None]:
    """An answer about another order moves a payment of this order."""
    return changed(decide, "_of_this_order", lambda _, observations: observations)


Mutation = Callable[[], AbstractContextManager[None]]

#: Every bug, with the network faults that show it soonest; None: any faults.
MUTATIONS: dict[Mutation, tuple[str, ...] | None] = {
    operation_not_written_down: None,
    new_key_on_a_resend: None,
    resend_without_an_inquiry: ("lost_before", "error_before", "lost_after"),
    lease_ignored: None,
    version_not_checked: None,
    pay_sent_again: ("lost_before", "lost_after"),
    otp_sent_again: ("lost_before", "lost_after"),
    one_empty_list_is_proof: None,
    captured_is_overwritten: None,
    foreign_attempt_owned: None,
    timeout_taken_for_a_refusal: None,
    server_error_taken_for_a_refusal: None,
    wake_time_left_out: None,
    hold_beside_a_hold: (),
    pause_not_noticed: (),
    failed_never_revives: (),
    siblings_with_money_not_noticed: (),
    late_pay_not_noticed: ("stuck",),
    restart_not_noticed: ("busy",),
    old_nonce_after_a_loss: ("busy",),
    ruled_out_by_amount: ("lost_after", "late_answer"),
    refresh_restarts_the_schedule: None,
    renewal_restarts_the_review_clock: ("error_stored",),
    foreign_taker_ignored: ("lost_after",),
    contradicting_entity_used: ("mixed",),
    siblings_ignored: None,
}
