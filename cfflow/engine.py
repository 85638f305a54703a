"""The engine: load → plan → commit → call → plan → commit. The page to review.

A step that may move money is stored as an operation before its call, and its outcome closes the
operation (design.md#a-step). While it is open no other step starts. If this process dies, the
next one finds the operation and asks the gateway what it did. The core decides, from a snapshot
and an answer. A call whose answer is lost leaves its operation open and raises `OutcomeUnknown`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.inquiries import ask
from cfflow.cashfree.steps import StepCall
from cfflow.core.decide import Answered, Disputed, Ended, Event, Inquired, Refused, decide
from cfflow.core.draft import Plan
from cfflow.core.due import Ask, in_flight, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation
from cfflow.core.record import Snapshot
from cfflow.core.reviews import ReviewReason
from cfflow.core.steps import SEND_WITHIN_MS, Begin
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
    StoreUnavailable,
)
from cfflow.logs import Log, log_commit
from cfflow.store.catalog import Catalog
from cfflow.store.protocol import Committed, Outcome, Store, load_payment

_E = TypeVar("_E", bound=CfflowError)

#: After so many lost commits in a row something is wrong with the store.
_COMMITS_MAX: Final = 64


class Engine:
    """Carries out steps and inquiries over a store and a gateway; it holds no payment.

    `attach` puts the payment, as the caller sees it, into an error that is about to be raised.
    """

    def __init__(
        self,
        store: Store,
        flows: Catalog,
        gateway: Gateway,
        log: Log,
        attach: Callable[[CfflowError, Snapshot, Flow, int], None],
    ) -> None:
        self.store: Final = store
        self.flows: Final = flows
        self.gateway: Final = gateway
        self._log = log
        self._attach = attach

    async def step(
        self, held: Snapshot, begin: Begin, call: StepCall, *, fresh: bool, ask_first: bool = True
    ) -> Snapshot:
        """Carry out one step on the snapshot that the caller holds; return the committed one.

        `fresh`: it was read just now. `ask_first`: an open operation is settled by an inquiry
        before the step is planned. Raises `IllegalStep`, `OtpLimit` or `InvalidAmount` (nothing
        sent), `Conflict` (another commit was first, nothing sent), a `GatewayError` (no effect),
        `OutcomeUnknown` (money may have moved; an inquiry decides).
        """
        started_at = time.perf_counter()
        flow = await self.flows.flow_of(held, self.store)
        plan = await self._plan(held, flow, begin, fresh=fresh, ask_first=ask_first)
        plan, opened = await self._open(plan, begin, flow)
        snapshot, operation = opened.snapshot, plan.record.operation
        if snapshot is None or operation is None:
            raise StoreError(f"{plan.snapshot.id}: the store returned no operation")
        if not opened.replicated:
            await self._not_sent(snapshot, operation, "too few replicas", flow)
            raise StoreUnavailable(f"{snapshot.id}: not sent, too few replicas have the operation")
        # From the plan's own time: a commit that had to be repeated returns a later one.
        if self.store.now_ms() - plan.record.updated_at_ms > SEND_WITHIN_MS:
            await self._not_sent(snapshot, operation, "paused", flow)
            raise GatewayUnavailable(f"{snapshot.id}: not sent, this process was paused too long")
        try:
            answered = await call(snapshot, operation, flow, self.store.now_ms())
        except GatewayError as error:
            raise await self._refused(snapshot, operation, flow, error) from None
        except OutcomeUnknown as error:
            ended = Ended(operation.sequence, error.replayed, operation.sends)
            raise await self._failed(snapshot, ended, flow, error) from None
        settled = await self._settle_answer(snapshot, answered, flow, started_at)
        return await self._with_outcome(settled, operation.sequence, flow)

    async def local(
        self, held: Snapshot, begin: Begin, *, fresh: bool, ask_first: bool = True
    ) -> Snapshot:
        """Carry out what needs no call: one plan, one commit.

        A person's decision does not `ask_first` what an open step did: it settles that too.
        """
        flow = await self.flows.flow_of(held, self.store)
        plan = await self._plan(held, flow, begin, fresh=fresh, ask_first=ask_first)
        _, committed = await self._open(plan, begin, flow)
        return committed.snapshot or held

    async def inquire(self, snapshot: Snapshot) -> Snapshot:
        """Ask the gateway about this payment, commit the answer and return the payment.

        It comes back unchanged while a step may be on its way, and where there is nothing to
        ask. Raises `GatewayError`, and then nothing has changed.
        """
        flow = await self.flows.flow_of(snapshot, self.store)
        event = await self.ask(snapshot, flow)
        return snapshot if event is None else await self.settle(snapshot, event, flow)

    async def ask(self, snapshot: Snapshot, flow: Flow) -> Event | None:
        """Make the inquiry that is due now and return its answer, not committed; None for none."""
        now_ms = self.store.now_ms()
        return await ask(self.gateway, snapshot, what_to_ask(snapshot, now_ms), flow, now_ms)

    async def verify_after_restart(
        self, snapshot: Snapshot, flow: Flow, answered: Event | None = None
    ) -> Snapshot:
        """Ask the gateway before writing: the store may have lost this payment's last commits.

        The answer is committed with a fresh nonce, so that no idempotency key of a lost
        operation is used again (design.md#restart). `answered` is the answer to our own step
        that waits to be committed: the attempts that it names are ours.
        """
        what = Ask.PAYMENT if snapshot.record.cf_payment_id else Ask.PAYMENTS
        event = await ask(self.gateway, snapshot, what, flow, self.store.now_ms())
        if not isinstance(event, Inquired):
            return snapshot
        named = _named(answered)
        verified = msgspec.structs.replace(event, nonce=secrets.token_hex(4), named=named)
        return await self.settle(snapshot, verified, flow)

    async def settle(
        self, snapshot: Snapshot, event: Event, flow: Flow, started_at: float | None = None
    ) -> Snapshot:
        """Commit what an event changes and return the payment.

        Where another commit was first, the event is decided again on the newer record: a fact
        stays a fact. `started_at` is the `perf_counter` from which the log counts durations.
        """
        started_at = time.perf_counter() if started_at is None else started_at
        for _ in range(_COMMITS_MAX):
            plan = decide(snapshot, event, flow, self.store.now_ms())
            if plan.only_clears_notifications:
                return await self.store.clear_notifications(snapshot, plan.settles_until_at_ms)
            committed = await self.store.commit(plan)
            match committed:
                case Committed(outcome=Outcome.OK, snapshot=Snapshot() as written):
                    log_commit(self._log, plan, started_at)
                    return written
                case Committed(outcome=Outcome.CONFLICT, snapshot=Snapshot() as newer):
                    snapshot = newer
                case Committed(outcome=Outcome.OWNED | Outcome.HOLDER, other=other):
                    event = _disputed(plan, committed.outcome, other)
                case Committed(outcome=Outcome.RESTARTED, since_at_ms=since_at_ms):
                    snapshot, event = await self._after_restart(snapshot, event, flow, since_at_ms)
                case _:
                    raise _uncommitted(plan, committed)
        raise StoreError(f"{snapshot.id}: another commit was first {_COMMITS_MAX} times in a row")

    async def _after_restart(
        self, snapshot: Snapshot, event: Event, flow: Flow, since_at_ms: int
    ) -> tuple[Snapshot, Event]:
        """Return snapshot and event for another try after the store refused an unverified commit.

        An inquiry that was asked since the store came back is verification enough itself.
        """
        if isinstance(event, Inquired) and event.asked_at_ms > since_at_ms:
            whole = event.everything or snapshot.record.cf_payment_id is not None
            if whole:
                return snapshot, msgspec.structs.replace(event, nonce=secrets.token_hex(4))
        return await self.verify_after_restart(snapshot, flow, event), event

    # planning

    async def _plan(
        self, held: Snapshot, flow: Flow, begin: Begin, *, fresh: bool, ask_first: bool = True
    ) -> Plan:
        """Plan on the held snapshot; where it forbids the step, load once and plan again."""
        if ask_first and _unresolved(held):
            newest = held if fresh else await load_payment(self.store, held.order_id, held.n)
            if newest.record.version != held.record.version:
                raise self._overtaken(newest, flow)
            held, fresh = await self._resolve(newest, flow), True
        try:
            return begin(held, flow, self.store.now_ms())
        except (IllegalStep, OtpLimit, InvalidAmount) as refusal:
            if fresh and ask_first:
                raise self._refusal(held, flow, refusal) from None
            if fresh:
                raise
        newest = await load_payment(self.store, held.order_id, held.n)
        return await self._plan(newest, flow, begin, fresh=True)

    async def _resolve(self, held: Snapshot, flow: Flow) -> Snapshot:
        """Settle an open operation by an inquiry before the next step is planned."""
        if in_flight(held, self.store.now_ms()):
            text = f"{held.id}: a step is on its way; refresh shows how it ended"
            raise self._with(Conflict(text), held, flow)
        return await self.inquire(held)

    def _refusal(self, held: Snapshot, flow: Flow, refusal: CfflowError) -> CfflowError:
        """Return the error for a step that is not permitted, even on the newest record."""
        unknown = _unresolved(held) and isinstance(refusal, IllegalStep)
        if unknown and held.record.operation is not None:
            step = held.record.operation.step
            text = f"{held.id}: what {step} did is not known yet; refresh asks again"
            refusal = OutcomeUnknown(text)
        return self._with(refusal, held, flow)

    # committing the operation

    async def _open(self, plan: Plan, begin: Begin, flow: Flow) -> tuple[Plan, Committed]:
        """Commit the operation. Where another commit was first, the step ends with `Conflict`.

        Only after a restart of the store is it planned again, on what an inquiry answered.
        """
        committed = await self.store.commit(plan)
        if committed.outcome is Outcome.RESTARTED:
            verified = await self.verify_after_restart(plan.before, flow)
            plan = await self._plan(verified, flow, begin, fresh=True)
            committed = await self.store.commit(plan)
        if committed.outcome is Outcome.OK:
            log_commit(self._log, plan, time.perf_counter())
            return plan, committed
        raise await self._unopened(plan, committed, flow)

    async def _unopened(self, plan: Plan, committed: Committed, flow: Flow) -> CfflowError:
        if committed.outcome is Outcome.CONFLICT and committed.snapshot is not None:
            return self._overtaken(committed.snapshot, flow)
        if committed.outcome is Outcome.HOLDER:
            disputed = _disputed(plan, committed.outcome, committed.other)
            now = await self.settle(plan.before, disputed, flow)
            return self._with(IllegalStep(f"{now.id}: {disputed.detail}"), now, flow)
        return _uncommitted(plan, committed)

    async def _not_sent(
        self, snapshot: Snapshot, operation: Operation, why: str, flow: Flow
    ) -> None:
        refused = Refused(operation.sequence, f"not sent: {why}", operation.sends)
        await self.settle(snapshot, refused, flow)

    def _overtaken(self, newest: Snapshot, flow: Flow) -> Conflict:
        version = newest.record.version
        text = f"{newest.id} has changed since you read it, to version {version}; nothing was sent"
        return self._with(Conflict(text), newest, flow)

    # committing the outcome

    async def _settle_answer(
        self, snapshot: Snapshot, event: Event, flow: Flow, started_at: float
    ) -> Snapshot:
        """Commit the answer to a step. If the store fails now, the operation stays open."""
        try:
            return await self.settle(snapshot, event, flow, started_at)
        except StoreError as error:
            error.money_may_have_moved, error.safe_to_retry = True, False
            self._with(error, snapshot, flow)
            raise
        except GatewayError as error:
            # The store came back without its last commits, and the gateway cannot be asked.
            text = f"{snapshot.id}: answered, and not stored: {error.message}"
            raise self._with(OutcomeUnknown(text), snapshot, flow) from None

    async def _refused(
        self, snapshot: Snapshot, operation: Operation, flow: Flow, error: GatewayError
    ) -> CfflowError:
        """Close the operation of a call that had no effect.

        Of a step that was sent more than once, the refusal is about the newest call only. An
        inquiry finds out what the others did; the core closes the step when none can act any more.
        """
        refused = Refused(operation.sequence, _why(error), operation.sends)
        if operation.sends == 1:
            return await self._failed(snapshot, refused, flow, error)
        ended = Ended(operation.sequence, sends=operation.sends)
        failed = await self._failed(snapshot, ended, flow, error)
        try:
            asked = await self.inquire(
                await load_payment(self.store, snapshot.order_id, snapshot.n)
            )
            if isinstance(error, GatewayRejected) and _unresolved(asked):
                asked = await self.settle(asked, refused, flow)
            self._with(failed, asked, flow)
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
        return self._with(error, snapshot, flow)

    async def _with_outcome(self, snapshot: Snapshot, sequence: int, flow: Flow) -> Snapshot:
        """Return the payment, or raise where the answer proved no outcome of its operation."""
        left = snapshot.record.operation
        if left is None or left.sequence != sequence or left.accepted:
            return snapshot
        unknown = OutcomeUnknown(f"{snapshot.id}: the answer to {left.step} proves no outcome")
        raise await self._failed(snapshot, Ended(sequence, sends=left.sends), flow, unknown)

    def _with(self, error: _E, snapshot: Snapshot, flow: Flow) -> _E:
        """Return the error with the payment as it is in this snapshot."""
        self._attach(error, snapshot, flow, self.store.now_ms())
        return error

    # inquiries

    async def _ask_now(self, snapshot: Snapshot, flow: Flow) -> Snapshot:
        """Ask although nothing is due: a refusal showed that the gateway has more information."""
        what = Ask.PAYMENT if snapshot.record.cf_payment_id else Ask.ORDER
        event = await ask(self.gateway, snapshot, what, flow, self.store.now_ms())
        return snapshot if event is None else await self.settle(snapshot, event, flow)


def _named(event: Event | None) -> tuple[str, ...]:
    """Return the attempts that the answer to our own step names."""
    seen = event.observations if isinstance(event, Answered) else ()
    return tuple(o.cf_payment_id for o in seen if o.cf_payment_id is not None)


def _unresolved(snapshot: Snapshot) -> bool:
    operation = snapshot.record.operation
    return operation is not None and not operation.accepted


def _disputed(plan: Plan, outcome: Outcome, other: int) -> Disputed:
    order_id = plan.snapshot.order_id
    if outcome is Outcome.OWNED:
        ours = plan.record.cf_payment_id
        return Disputed(
            ReviewReason.ATTEMPT_CLAIMED, f"attempt {ours} belongs to {order_id}.{other}"
        )
    return Disputed(
        ReviewReason.TWO_HOLDS,
        f"{order_id}.{other} holds or took money too: no step is sent beside it",
    )


def _uncommitted(plan: Plan, committed: Committed) -> CfflowError:
    if committed.outcome is Outcome.GONE:
        return PaymentNotFound(f"{plan.snapshot.id} is not in the store any more")
    if committed.outcome is Outcome.BLOCKED:
        other = f"{plan.snapshot.order_id}.{committed.other}"
        return IllegalStep(
            f"{plan.snapshot.id}: {other} has a step open, an attempt that is not over, or a"
            " review that must be closed first"
        )
    if committed.outcome is Outcome.RESTARTED:
        return StoreUnavailable(
            f"{plan.snapshot.id}: the store restarted again and again; nothing was sent"
        )
    return StoreError(f"{plan.snapshot.id} was written by a newer cfflow: it is read-only here")


def _why(error: GatewayError) -> str:
    code = error.code or error.status or type(error).__name__
    return f"refused: {code}"[:48]
