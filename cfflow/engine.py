"""The engine: plan → commit → call → commit. The one page that a reviewer must read.

A step that may move money is written down before its call and closed by its outcome
(DESIGN 4). While it is open no other step starts; if this process dies, whoever comes
next finds the operation and asks the gateway what became of it. Nothing in here decides:
the core does, from a snapshot and an answer; and nothing in here guesses: a call whose
answer is lost leaves its operation open and raises `OutcomeUnknown`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from cfflow._core.actions import NextAction
from cfflow._core.decide import (
    Answered,
    Ask,
    Disputed,
    Ended,
    Event,
    Inquired,
    OrderSeen,
    Refused,
    decide,
    in_flight,
    what_to_ask,
)
from cfflow._core.draft import Plan
from cfflow._core.flow import Flow
from cfflow._core.observation import Call, Observation
from cfflow._core.record import Operation, Snapshot
from cfflow._core.steps import SEND_WITHIN_MS
from cfflow._ports.gateway import GatewayClient
from cfflow._ports.logs import Log
from cfflow._ports.store import Committed, Outcome
from cfflow._ports.wire import observe_entity, timestamp_ms
from cfflow.errors import (
    CfflowError,
    Conflict,
    GatewayError,
    GatewayRejected,
    GatewayUnavailable,
    IllegalStep,
    InvalidAmount,
    OtpLimit,
    OutcomeUnknown,
    PaymentNotFound,
    StoreError,
)
from cfflow.payment import Payment, payment_of
from cfflow.reader import Reader

__all__ = ["Answer", "Engine", "StepCall"]

#: Losing this many races in a row is no race any more.
_RACES_MAX: Final = 64


class Answer(msgspec.Struct, frozen=True):
    """What a step's call brought back: observations, and what the customer does next."""

    observations: tuple[Observation, ...]
    next_action: NextAction | None = None


#: Plans a step on a snapshot, or raises why it is not permitted there.
Begin = Callable[[Snapshot, Flow, int], Plan]

#: Makes the gateway call of an operation that has just been committed.
StepCall = Callable[[Snapshot, Operation, Flow], Awaitable[Answer]]


class Engine:
    """Carries out steps and inquiries over a store and a gateway; it holds no payment."""

    def __init__(self, reader: Reader, gateway: GatewayClient, log: Log) -> None:
        self.reader: Final = reader
        self.store: Final = reader.store
        self.gateway: Final = gateway
        self._log = log

    async def step(self, held: Snapshot, begin: Begin, call: StepCall, *, fresh: bool) -> Snapshot:
        """Carry out one step on the snapshot that the caller holds.

        `fresh` says that it was read just now. Returns the committed snapshot; raises
        `IllegalStep`, `OtpLimit` or `InvalidAmount` (nothing sent), `Conflict` (lost the
        race, nothing sent), a `GatewayError` (no effect), `OutcomeUnknown` (ask).
        """
        began = time.perf_counter()
        flow = await self.reader.flow_of(held)
        plan = await self._plan(held, flow, begin, fresh=fresh)
        opened = await self._open(plan, flow)
        snapshot, operation = opened.snapshot, plan.record.operation
        if snapshot is None or operation is None:
            raise StoreError(f"{held.id}: the store kept no operation")
        # From the plan's own time: a commit whose answer was lost tells a later one.
        if self.store.now_ms() - plan.record.updated_ms > SEND_WITHIN_MS:
            not_sent = Refused(operation.sequence, "not sent: paused", operation.sends)
            await self.settle(snapshot, not_sent, flow)
            raise GatewayUnavailable(f"{held.id}: not sent, this process was paused too long")
        return await self._call(snapshot, operation, flow, call, began)

    async def local(self, held: Snapshot, begin: Begin, *, fresh: bool) -> Snapshot:
        """Carry out a step that needs no call: one plan, one commit."""
        flow = await self.reader.flow_of(held)
        plan = await self._plan(held, flow, begin, fresh=fresh)
        committed = await self._open(plan, flow)
        return committed.snapshot or held

    async def inquire(self, snapshot: Snapshot) -> Snapshot:
        """Ask the gateway what became of this payment, and commit what it says.

        Returns the snapshot unchanged when a step may still be on its way or there is
        nothing to ask. Raises `GatewayError`; the payment is as it was then.
        """
        flow = await self.reader.flow_of(snapshot)
        event = await self._asked(snapshot, what_to_ask(snapshot, self.store.now_ms()), flow)
        return snapshot if event is None else await self.settle(snapshot, event, flow)

    async def settle(
        self, snapshot: Snapshot, event: Event, flow: Flow, began: float | None = None
    ) -> Snapshot:
        """Commit what an event changes; lost races are decided again until it is in.

        A fact stays one, whoever was faster: on a newer record the same event is merged.
        `began` is when the step began whose duration the log tells.
        """
        began = time.perf_counter() if began is None else began
        for _ in range(_RACES_MAX):
            plan = decide(snapshot, event, flow, self.store.now_ms())
            committed = await self.store.commit(plan)
            match committed:
                case Committed(outcome=Outcome.OK, snapshot=Snapshot() as written):
                    self._tell(plan, began)
                    return written
                case Committed(outcome=Outcome.CONFLICT, snapshot=Snapshot() as newer):
                    snapshot = newer
                case Committed(outcome=Outcome.CLAIMED | Outcome.HOLDER, other=other):
                    event = _disputed(plan, committed.outcome, other)
                case _:
                    raise _uncommitted(plan, committed)
        raise StoreError(f"{snapshot.id}: lost {_RACES_MAX} races in a row")

    # 1. plan

    async def _plan(self, held: Snapshot, flow: Flow, begin: Begin, *, fresh: bool) -> Plan:
        """Plan on the held snapshot; where it forbids the step, read once and look again."""
        if _unresolved(held):
            newest = held if fresh else await self.reader.snapshot(held.order_id, held.n)
            if newest.record.version != held.record.version:
                raise self._overtaken(newest, flow)
            held, fresh = await self._resolve(newest, flow), True
        try:
            return begin(held, flow, self.store.now_ms())
        except (IllegalStep, OtpLimit, InvalidAmount) as refusal:
            if fresh:
                raise self._refusal(held, flow, refusal) from None
        newest = await self.reader.snapshot(held.order_id, held.n)
        return await self._plan(newest, flow, begin, fresh=True)

    async def _resolve(self, held: Snapshot, flow: Flow) -> Snapshot:
        """Before a step: an open operation is asked about first, never stepped over."""
        if in_flight(held, self.store.now_ms()):
            raise Conflict(
                f"{held.id}: a step is on its way; refresh tells how it ended",
                payment=self._shown(held, flow),
            )
        return await self.inquire(held)

    def _refusal(self, held: Snapshot, flow: Flow, refusal: CfflowError) -> CfflowError:
        """Return the error for a step that is not permitted, even on the newest record."""
        unknown = _unresolved(held) and isinstance(refusal, IllegalStep)
        if unknown and held.record.operation is not None:
            step = held.record.operation.step
            text = f"{held.id}: what {step} did is not known yet; refresh asks again"
            refusal = OutcomeUnknown(text)
        refusal.payment = self._shown(held, flow)
        return refusal

    # 2. commit the operation

    async def _open(self, plan: Plan, flow: Flow) -> Committed:
        """Write the operation down. A lost race ends the step: it is not planned again."""
        committed = await self.store.commit(plan)
        if committed.outcome is Outcome.OK:
            self._tell(plan, time.perf_counter())
            return committed
        if committed.outcome is Outcome.CONFLICT and committed.snapshot is not None:
            raise self._overtaken(committed.snapshot, flow)
        if committed.outcome is Outcome.HOLDER:
            before = msgspec.structs.replace(plan.snapshot, record=plan.previous)
            disputed = _disputed(plan, committed.outcome, committed.other)
            now = await self.settle(before, disputed, flow)
            raise IllegalStep(f"{now.id}: {disputed.detail}", payment=self._shown(now, flow))
        raise _uncommitted(plan, committed)

    def _overtaken(self, newest: Snapshot, flow: Flow) -> Conflict:
        version = newest.record.version
        text = f"{newest.id} has moved since you read it, to version {version}; nothing was sent"
        return Conflict(text, payment=self._shown(newest, flow))

    # 3. call

    async def _call(
        self, snapshot: Snapshot, operation: Operation, flow: Flow, call: StepCall, began: float
    ) -> Snapshot:
        asked_ms = self.store.now_ms()
        sequence = operation.sequence
        try:
            answer = await call(snapshot, operation, flow)
        except GatewayError as error:
            raise await self._refused(snapshot, operation, flow, error) from None
        except OutcomeUnknown as error:
            ended = Ended(sequence, error.replayed, operation.sends)
            raise await self._failed(snapshot, ended, flow, error) from None
        event = Answered(sequence, answer.observations, asked_ms, answer.next_action)
        settled = await self._record(snapshot, event, flow, began)
        return await self._decided(settled, sequence, flow)

    # 4. commit the outcome

    async def _record(self, snapshot: Snapshot, event: Event, flow: Flow, began: float) -> Snapshot:
        """Commit an answer. If the store fails now, the open operation tells of the call."""
        try:
            return await self.settle(snapshot, event, flow, began)
        except StoreError as error:
            error.money_may_have_moved = True
            error.payment = self._shown(snapshot, flow)
            raise

    async def _refused(
        self, snapshot: Snapshot, operation: Operation, flow: Flow, error: GatewayError
    ) -> CfflowError:
        """Close the operation of a call that had no effect.

        Of a step that was sent before, the refusal tells only of the newest call. What the
        first one did is asked for; the core closes the step when none of them can act any more.
        """
        refused = Refused(operation.sequence, _why(error), operation.sends)
        if operation.sends == 1:
            return await self._failed(snapshot, refused, flow, error)
        ended = Ended(operation.sequence, sends=operation.sends)
        failed = await self._failed(snapshot, ended, flow, error)
        try:
            asked = await self.inquire(await self.reader.snapshot(snapshot.order_id, snapshot.n))
            if isinstance(error, GatewayRejected) and _unresolved(asked):
                asked = await self.settle(asked, refused, flow)
            failed.payment = self._shown(asked, flow)
        except (StoreError, GatewayError) as trouble:
            self._log.warning("payment.unsettled", payment_id=snapshot.id, error=str(trouble))
        return failed

    async def _failed(
        self, snapshot: Snapshot, event: Event, flow: Flow, error: CfflowError
    ) -> CfflowError:
        """Commit how a call failed and return its error, with the payment as it is now."""
        try:
            snapshot = await self.settle(snapshot, event, flow)
            if isinstance(error, GatewayRejected) and error.fetch_first:
                snapshot = await self._ask_now(snapshot, flow)
        except (StoreError, GatewayError) as trouble:
            # The operation is still open in the store: an inquiry will close it.
            self._log.warning("payment.unsettled", payment_id=snapshot.id, error=str(trouble))
        error.payment = self._shown(snapshot, flow)
        return error

    async def _decided(self, snapshot: Snapshot, sequence: int, flow: Flow) -> Snapshot:
        """An answer that left its own operation open said nothing: the outcome is unknown."""
        held = snapshot.record.operation
        if held is None or held.sequence != sequence or held.accepted:
            return snapshot
        unknown = OutcomeUnknown(f"{snapshot.id}: {held.step} was answered without its outcome")
        raise await self._failed(snapshot, Ended(sequence, sends=held.sends), flow, unknown)

    def _shown(self, snapshot: Snapshot, flow: Flow) -> Payment:
        return payment_of(snapshot, flow, self.store.now_ms())

    # inquiries

    async def _ask_now(self, snapshot: Snapshot, flow: Flow) -> Snapshot:
        """Ask although nothing is due: a refusal said that the gateway knows more."""
        ask = Ask.PAYMENT if snapshot.record.cf_payment_id else Ask.ORDER
        event = await self._asked(snapshot, ask, flow)
        return snapshot if event is None else await self.settle(snapshot, event, flow)

    async def _asked(self, snapshot: Snapshot, ask: Ask, flow: Flow) -> Event | None:
        asked_ms, limit_s = self.store.now_ms(), flow.pay.timeout_s
        order_id, ours = snapshot.order_id, snapshot.record.cf_payment_id
        if ask is Ask.PAYMENT and ours is not None:
            entity = await self.gateway.fetch_payment(order_id, ours, timeout_s=limit_s)
            return Inquired((observe_entity(entity, Call.FETCH_PAYMENT),), asked_ms)
        if ask is Ask.PAYMENTS:
            found = await self.gateway.fetch_payments(order_id, timeout_s=limit_s)
            seen = tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in found)
            return Inquired(seen, asked_ms, everything=True)
        if ask is Ask.ORDER:
            order = await self.gateway.fetch_order(order_id, timeout_s=limit_s)
            expires_ms = timestamp_ms(order.order_expiry_time)
            return OrderSeen(order.order_status or "", asked_ms, expires_ms)
        return None

    def _tell(self, plan: Plan, began: float) -> None:
        """Log what has been committed: one event per transition, and loudly what is odd."""
        record, snapshot = plan.record, plan.snapshot
        for walked in plan.walked:
            self._log.info(
                "payment.transition",
                payment_id=snapshot.id,
                order_id=snapshot.order_id,
                cf_payment_id=record.cf_payment_id,
                flow=record.flow,
                from_state=walked.from_state.value,
                to_state=walked.to_state.value,
                trigger=walked.trigger.value,
                step=walked.step,
                observation=walked.proof,
                version=record.version,
                request_id=walked.request_id,
                duration_ms=round((time.perf_counter() - began) * 1000, 3),
            )
        if len(record.reviews) > len(plan.previous.reviews):
            for review in record.reviews[len(plan.previous.reviews) :]:
                self._log.warning(
                    "payment.review",
                    payment_id=snapshot.id,
                    reason=review.reason,
                    detail=review.detail,
                )


def _unresolved(snapshot: Snapshot) -> bool:
    operation = snapshot.record.operation
    return operation is not None and not operation.accepted


def _disputed(plan: Plan, outcome: Outcome, other: int) -> Disputed:
    order_id = plan.snapshot.order_id
    if outcome is Outcome.CLAIMED:
        ours = plan.record.cf_payment_id
        return Disputed("attempt_claimed", f"attempt {ours} belongs to {order_id}.{other}")
    return Disputed(
        "two_holds",
        f"{order_id}.{other} holds or took money too: nothing is done beside it",
    )


def _uncommitted(plan: Plan, committed: Committed) -> CfflowError:
    if committed.outcome is Outcome.GONE:
        return PaymentNotFound(f"{plan.snapshot.id} is not in the store any more")
    return StoreError(f"{plan.snapshot.id} was written by a newer cfflow: it is read-only here")


def _why(error: GatewayError) -> str:
    code: Any = error.code or error.status or type(error).__name__
    return f"refused: {code}"[:48]
