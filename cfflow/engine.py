"""The engine: load → plan → commit → call → plan → commit. The page to review.

A step that may move money is stored as an operation before its call, and its outcome closes the
operation (design.md#a-step). While it is open no other step starts. If this process dies, the
next one finds the operation and asks the gateway what it did. The core decides, from an order
and an answer. A call whose answer is lost leaves its operation open and raises `OutcomeUnknown`.

The order is what is committed, and the promise to the caller is about one payment: after a lost
race the payment's own token shows whether it changed. If it did not, the step is planned again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.inquiries import ask
from cfflow.cashfree.steps import StepCall
from cfflow.core.authors import CALLER, Author
from cfflow.core.decide import Ended, Event, Inquired, Refused, decide_all, is_about
from cfflow.core.due import Ask, Look, in_flight, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.operation import Operation
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Plan
from cfflow.core.restart import Restart, asked_once, ready_at_ms, verifies
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
from cfflow.logs import GuardedLog, log_commit
from cfflow.store.catalog import Catalog
from cfflow.store.orders import Orders, Shared, Written
from cfflow.store.protocol import Outcome

_E = TypeVar("_E", bound=CfflowError)

#: Plans what a commit writes, on the newest order and at a time in ms.
Planner = Callable[[Order, int], Plan]

#: Siblings may be committed in between any number of times; beyond this something is wrong.
_COMMITS_MAX: Final = 1_000


class Engine:
    """Carries out steps and inquiries over a store and a gateway; it holds no payment.

    `attach` puts the payment, as the caller sees it, into an error that is about to be raised.
    """

    def __init__(
        self,
        orders: Orders,
        flows: Catalog,
        gateway: Gateway,
        log: GuardedLog,
        attach: Callable[[CfflowError, Snapshot, Flow, int], None],
    ) -> None:
        self.orders: Final = orders
        self.store: Final = orders.store
        self.flows: Final = flows
        self.gateway: Final = gateway
        self._log = log
        self._attach = attach

    async def step(
        self, held: Snapshot, begin: Begin, call: StepCall, *, fresh: bool, ask_first: bool = True
    ) -> Snapshot:
        """Carry out one step on the payment that the caller holds; return it as committed.

        `fresh`: it was read just now. `ask_first`: an open operation is settled by an inquiry
        before the step is planned. Raises `IllegalStep`, `OtpLimit` or `InvalidAmount` (nothing
        sent), `Conflict` (the payment has changed, nothing sent), a `GatewayError` (no effect),
        `OutcomeUnknown` (money may have moved; an inquiry decides).
        """
        started_at = time.perf_counter()
        flow = await self.flows.flow_of(held, self.store)
        # Kept for the whole step, so that its two commits and other tasks' have one newest copy.
        shared = self.orders.shared(held.order_id)
        try:
            opened = await self._begin(held, begin, flow, shared, fresh=fresh, ask_first=ask_first)
            return await self._send(opened, call, flow, started_at)
        except CfflowError as error:
            self._complete(error, held, shared, flow)
            raise

    async def _send(
        self, opened: Written, call: StepCall, flow: Flow, started_at: float
    ) -> Snapshot:
        """Send the step that a commit has opened, and commit its outcome."""
        snapshot = opened.plan.snapshot
        operation = snapshot.record.operation
        if operation is None:
            raise StoreError(f"{snapshot.id}: the plan opened no operation")
        if not opened.replicated:
            await self._not_sent(snapshot, operation, "too few replicas", flow)
            raise StoreUnavailable(f"{snapshot.id}: not sent, too few replicas have the operation")
        # From the plan's own time: a commit that had to be repeated returns a later one.
        if self.store.now_ms() - snapshot.record.updated_at_ms > SEND_WITHIN_MS:
            await self._not_sent(snapshot, operation, "paused", flow)
            late = GatewayUnavailable(f"{snapshot.id}: not sent, this process was paused too long")
            late.was_sent = False
            raise late
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
        shared = self.orders.shared(held.order_id)
        try:
            written = await self._begin(held, begin, flow, shared, fresh=fresh, ask_first=ask_first)
        except CfflowError as error:
            self._complete(error, held, shared, flow)
            raise
        return written.plan.snapshot

    async def inquire(self, snapshot: Snapshot) -> Snapshot:
        """Ask the gateway about this payment, commit the answer and return the payment.

        It comes back unchanged while a step may be on its way, and where there is nothing to
        ask. Raises `GatewayError`, and then nothing has changed.
        """
        flow = await self.flows.flow_of(snapshot, self.store)
        shared = self.orders.shared(snapshot.order_id)
        try:
            what = what_to_ask(snapshot, self.store.now_ms())
            return await self._ask_about(snapshot, what, flow)
        except CfflowError as error:
            self._complete(error, snapshot, shared, flow)
            raise

    async def ask(self, order: Order, look: Look, flow: Flow) -> Event | None:
        """Make an inquiry and return its event, not committed; None where nothing is to ask."""
        return await ask(
            self.gateway,
            order,
            look,
            timeout_s=flow.pay.timeout_s,
            asked_at_ms=self.store.now_ms(),
        )

    async def settle(
        self,
        snapshot: Snapshot,
        event: Event,
        flow: Flow,
        started_at: float | None = None,
        author: Author = CALLER,
    ) -> Snapshot:
        """Commit what an event changes of one payment and return the payment."""
        order = await self.settle_all(
            snapshot.order,
            {snapshot.n: event},
            {snapshot.n: flow},
            started_at=started_at,
            author=author,
        )
        return order.payment(snapshot.n)

    async def settle_all(
        self,
        order: Order,
        events: Mapping[int, Event],
        flows: Mapping[int, Flow],
        *,
        started_at: float | None = None,
        lease: str = "",
        author: Author = CALLER,
    ) -> Order:
        """Commit what events change of an order's payments, in one commit; return the order.

        `author` is who asked: the history says so of what no open step has brought about.
        """

        def plan(newest: Order, now_ms: int) -> Plan:
            return _decided(newest, events, flows, now_ms, author)

        return await self.write(order, plan, started_at=started_at, lease=lease)

    async def write(
        self, order: Order, planner: Planner, *, started_at: float | None = None, lease: str = ""
    ) -> Order:
        """Commit what a planner makes of an order and return the order.

        Where another commit was first, it is planned again on the newer order: a fact stays a
        fact. `started_at` is the `perf_counter` from which the log counts durations.
        """
        started_at = time.perf_counter() if started_at is None else started_at
        shared = self.orders.shared(order.id)
        base = order
        for _ in range(_COMMITS_MAX):
            async with shared.lock:
                base = _newest(shared, base)
                plan = planner(base, self.store.now_ms())
                if not plan.changes and not plan.answered:
                    return base
                written = await self._commit(plan, shared, lease=lease)
            if _is_applied(written):
                log_commit(self._log, written.plan, started_at)
                return written.order
            if written.outcome is not Outcome.CONFLICT:
                raise _uncommitted(written)
            base = written.order
        raise StoreError(f"{order.id}: another commit was first {_COMMITS_MAX} times in a row")

    async def _commit(self, plan: Plan, shared: Shared, *, lease: str = "") -> Written:
        """Commit a plan while the order is locked, and keep what is stored now as the newest."""
        shared.newest = None
        written = await self.orders.commit(plan, lease=lease)
        if written.outcome in {Outcome.APPLIED, Outcome.CONFLICT}:
            shared.newest = written.order
        return written

    # after a restart of the store

    async def verify(self, order: Order, restart: Restart) -> Order:
        """Verify an order that may have lost commits, or raise until when to wait.

        Raises `StoreUnavailable` while it is too early: the call of a lost commit may still be
        on its way (design.md#restart).
        """
        flows = await self.flows_of(order)
        wait_ms = ready_at_ms(order, restart, flows.values()) - self.store.now_ms()
        if wait_ms > 0:
            raise _too_early(order, wait_ms)
        is_enough = verifies(order, restart)
        order = await self.ask_to_verify(order, restart, flows)
        if not is_enough:
            wait_ms = ready_at_ms(order, restart, flows.values()) - self.store.now_ms()
            raise _too_early(order, wait_ms)
        return order

    async def ask_to_verify(
        self,
        order: Order,
        restart: Restart,
        flows: Mapping[int, Flow],
        *,
        lease: str = "",
        author: Author = CALLER,
    ) -> Order:
        """Ask about all attempts of an order, and commit the answer for all of its payments.

        Each payment gets a fresh nonce, so that no idempotency key of a lost operation is used
        again. The first of two inquiries that are needed is only stored as such. Raises
        `GatewayUnavailable` for a list that has another order's attempts: ours may be missing.
        """
        look = Look(Ask.PAYMENTS, tuple(flows))
        asked_at_ms, is_enough = self.store.now_ms(), verifies(order, restart)
        event = await self.ask(order, look, max(flows.values(), key=lambda f: f.pay.timeout_s))
        if not isinstance(event, Inquired):
            raise GatewayUnavailable(f"{order.id}: the gateway does not have it: not verified")
        is_ours = is_about(order.id, event.observations)
        history = restart.history if is_enough and is_ours else ""
        event = msgspec.structs.replace(event, nonce=secrets.token_hex(4), verified=history)

        def plan(newest: Order, now_ms: int) -> Plan:
            whole = newest.siblings.keys() == flows.keys()
            found = event if whole else msgspec.structs.replace(event, verified="")
            made = _decided(newest, dict.fromkeys(flows, found), flows, now_ms, author)
            if is_enough or not is_ours:
                return made
            after = asked_once(made.after, restart, asked_at_ms)
            return msgspec.structs.replace(made, after=after)

        order = await self.write(order, plan, lease=lease)
        if not is_ours:
            raise GatewayUnavailable(f"{order.id}: the answer is not about it: not verified")
        return order

    async def flows_of(self, order: Order, numbers: Iterable[int] | None = None) -> dict[int, Flow]:
        """Return the flows of an order's payments, of all or of those with these numbers."""
        wanted = order.siblings if numbers is None else numbers
        return {n: await self.flows.flow_of(order.payment(n), self.store) for n in wanted}

    # planning and committing a step

    async def _begin(
        self,
        held: Snapshot,
        begin: Begin,
        flow: Flow,
        shared: Shared,
        *,
        fresh: bool,
        ask_first: bool,
    ) -> Written:
        """Plan and commit; where the held payment forbids the step, load once and plan again."""
        if ask_first and _unresolved(held):
            newest = held if fresh else await self.orders.payment(held.order_id, held.n)
            if newest.record.token != held.record.token:
                raise self._overtaken(newest, flow)
            held, fresh = await self._resolve(newest, flow), True
        try:
            return await self._commit_step(held, begin, flow, shared)
        except (IllegalStep, OtpLimit, InvalidAmount) as refusal:
            if fresh and ask_first:
                raise self._refusal(held, flow, refusal) from None
            if fresh:
                raise
        newest = await self.orders.payment(held.order_id, held.n)
        return await self._begin(newest, begin, flow, shared, fresh=True, ask_first=True)

    async def _commit_step(
        self, held: Snapshot, begin: Begin, flow: Flow, shared: Shared
    ) -> Written:
        """Commit a step's plan. A payment that another commit has changed is a `Conflict`.

        A commit of a sibling, or bookkeeping of this payment, is none: the step is planned again
        on the newer order. After a restart of the store the order is verified first.
        """
        for _ in range(_COMMITS_MAX):
            async with shared.lock:
                held = _unchanged(held, shared.newest) or held
                plan = begin(held, flow, self.store.now_ms())
                written = await self._commit(plan, shared)
            if _is_applied(written):
                log_commit(self._log, written.plan, time.perf_counter())
                return written
            if written.outcome is Outcome.RESTARTED:
                held = (await self.verify(held.order, written.restart)).payment(held.n)
                continue
            if written.outcome is not Outcome.CONFLICT or not written.order.has(held.n):
                raise _uncommitted(written)
            unchanged = _unchanged(held, written.order)
            if unchanged is None:
                raise self._overtaken(written.order.payment(held.n), flow)
            held = unchanged
        raise StoreError(f"{held.id}: another commit was first {_COMMITS_MAX} times in a row")

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

    async def _not_sent(
        self, snapshot: Snapshot, operation: Operation, why: str, flow: Flow
    ) -> None:
        self._log.warning(
            "payment.not_sent", payment_id=snapshot.id, step=operation.step.value, reason=why
        )
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
        except (StoreError, PaymentNotFound) as error:
            # The order may be gone: the store lost it while the call was on its way.
            error.money_may_have_moved, error.safe_to_retry = True, False
            self._with(error, snapshot, flow)
            raise

    async def _refused(
        self, snapshot: Snapshot, operation: Operation, flow: Flow, error: GatewayError
    ) -> CfflowError:
        """Close the operation of a call that had no effect.

        Of a step that was sent more than once, the refusal is about the newest call only. An
        inquiry finds out what the others did; the core closes the step when none can act any more.
        """
        refused = Refused(operation.sequence, _why(error), operation.sends, error.request_id)
        if operation.sends == 1:
            return await self._failed(snapshot, refused, flow, error)
        ended = Ended(operation.sequence, sends=operation.sends)
        failed = await self._failed(snapshot, ended, flow, error)
        try:
            asked = await self.inquire(await self.orders.payment(snapshot.order_id, snapshot.n))
            if isinstance(error, GatewayRejected) and _unresolved(asked):
                asked = await self.settle(asked, refused, flow)
            self._with(failed, asked, flow)
        except (StoreError, GatewayError, PaymentNotFound) as trouble:
            self._log.warning("payment.unsettled", payment_id=snapshot.id, error=str(trouble))
        return failed

    async def _failed(
        self, snapshot: Snapshot, event: Event, flow: Flow, error: CfflowError
    ) -> CfflowError:
        """Commit how a call failed and return its error, with the payment as it is now."""
        try:
            snapshot = await self.settle(snapshot, event, flow)
            if isinstance(error, GatewayRejected) and error.fetch_first:
                # Nothing is due, but the refusal shows that the gateway has more information.
                what = Ask.PAYMENT if snapshot.record.cf_payment_id else Ask.ORDER
                snapshot = await self._ask_about(snapshot, what, flow)
        except (StoreError, GatewayError, PaymentNotFound) as trouble:
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

    def _complete(self, error: CfflowError, held: Snapshot, shared: Shared, flow: Flow) -> None:
        """Put the payment, as it was last read, into an error that is about to leave without."""
        if error.payment is None:
            newest = shared.newest
            known = held if newest is None or not newest.has(held.n) else newest.payment(held.n)
            self._with(error, known, flow)

    # inquiries

    async def _ask_about(self, snapshot: Snapshot, what: Ask, flow: Flow) -> Snapshot:
        event = await self.ask(snapshot.order, Look(what, (snapshot.n,)), flow)
        return snapshot if event is None else await self.settle(snapshot, event, flow)


def _decided(
    order: Order,
    events: Mapping[int, Event],
    flows: Mapping[int, Flow],
    now_ms: int,
    author: Author,
) -> Plan:
    """Return the plan of several events. Raises `PaymentNotFound` for a payment that is gone.

    The store may have lost its beginning, or the order was purged and began anew.
    """
    for n in events:
        if not order.has(n):
            raise PaymentNotFound(f"there is no payment {order.id}.{n} any more")
    return decide_all(order, events, flows, now_ms, author)


def _unresolved(snapshot: Snapshot) -> bool:
    operation = snapshot.record.operation
    return operation is not None and not operation.accepted


def _newest(shared: Shared, order: Order) -> Order:
    """Return the newest copy that this process has, with the notifications that a caller read.

    The caller's own is newer where another process has committed since: it has a payment more,
    or a later version of one. To plan on the older copy would end in a conflict at best.
    """
    newest = shared.newest
    if newest is None or newest.token == order.token or _is_older(newest, order):
        return order
    notices = {notice.cf_payment_id: notice for notice in (*newest.notices, *order.notices)}
    return msgspec.structs.replace(newest, notices=tuple(notices.values()))


def _is_older(one: Order, other: Order) -> bool:
    """Whether the first of two copies of an order lacks something that the other one has."""
    return any(
        not one.has(n) or one.siblings[n].version < sibling.version
        for n, sibling in other.siblings.items()
    )


def _unchanged(held: Snapshot, order: Order | None) -> Snapshot | None:
    """Return the payment in this order if it is as the caller holds it, None if it is not."""
    if order is None or not order.has(held.n):
        return None
    found = order.payment(held.n)
    return found if found.record.token == held.record.token else None


def _is_applied(written: Written) -> bool:
    """Whether the plan is stored.

    After a lost reply and a commit about a sibling the order has another token by now, but each
    payment that the plan has changed still has the plan's own.
    """
    if written.outcome is not Outcome.CONFLICT:
        return written.outcome is Outcome.APPLIED
    visible = [change for change in written.plan.changes if change.is_visible]
    return bool(visible) and all(
        written.order.has(change.n)
        and written.order.siblings[change.n].token == change.record.token
        for change in visible
    )


def _too_early(order: Order, wait_ms: int) -> StoreUnavailable:
    wait_s = max(1, (wait_ms + 999) // 1000)
    return StoreUnavailable(
        f"{order.id}: the store restarted and may have lost a commit, whose call may still be on"
        f" its way: try again in {wait_s} s; nothing was sent"
    )


def _uncommitted(written: Written) -> CfflowError:
    order_id = written.plan.after.id
    if written.outcome is Outcome.RESTARTED:
        return StoreUnavailable(f"{order_id}: the store restarted again; nothing was sent")
    return PaymentNotFound(f"{order_id} is not in the store any more")


def _why(error: GatewayError) -> str:
    code = error.code or error.status or type(error).__name__
    return f"refused: {code}"[:48]
