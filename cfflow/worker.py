"""The worker: looks at the payments that are due. Any number of them may run, on any machines.

A worker leases due payments for some time; the leases of one that dies end by themselves. A
payment that fails is due again after a growing pause, with a logged reason: it is not lost, and
does not hold up the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from cfflow.cashfree.inquiries import CALLS
from cfflow.cashfree.steps import authorize_begin, authorize_call
from cfflow.core.chart import FINAL, State
from cfflow.core.decide import Disputed, NotFound, TimePassed, decide
from cfflow.core.due import HoldEnd, due_hold, in_flight, resend, resend_is_due, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.observation import Call
from cfflow.core.operation import Step
from cfflow.core.record import Snapshot
from cfflow.core.reviews import ReviewReason
from cfflow.core.siblings import why_barred
from cfflow.core.steps import Begin
from cfflow.engine import Engine
from cfflow.errors import (
    CfflowError,
    ConfigError,
    Conflict,
    GatewayError,
    GatewayRejected,
    GatewayUnavailable,
    IllegalStep,
    OutcomeUnknown,
    RateLimited,
    StoreError,
)
from cfflow.logs import Log
from cfflow.orchestrator import Orchestrator
from cfflow.store.catalog import Catalog
from cfflow.store.protocol import Page, Store, load_order, load_payment
from cfflow.views.payment import attach_payment

_BACKOFF_MAX_S: Final = 300.0
_BACKOFF_S: Final = 1.0
#: After so many the longest pause is reached; more would overflow a float.
_DOUBLINGS_MAX: Final = 16

#: A payment that is due again at once waits so long, or a worker would do nothing else.
_AGAIN_MS: Final = 1_000

#: So many failing payments are counted; one beyond starts with a short pause again.
_FAILURES_MAX: Final = 10_000

#: After the gateway was not reached, so many payments at once try whether it is back.
_PROBES: Final = 8

#: How often orders that are over are looked for, and the pause between two pages of them.
_PURGE_EVERY_S: Final = 60.0
_PURGE_PAUSE_S: Final = 0.2

#: An order leaves the store only when all of its payments are in one of these.
_ENDS: Final = (*FINAL, State.FAILED)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker did, and how late all workers are.

    `due`: payments that wait for a worker now; `lag_s`: for how long the oldest of them.
    `leased`, `progressed` (an open step closed or the state moved), `errors`, `purged`
    (orders): since the worker started.
    """

    due: int = 0
    lag_s: float = 0.0
    leased: int = 0
    progressed: int = 0
    errors: int = 0
    purged: int = 0


class Worker:
    """Looks at the due payments of an orchestrator's store.

    `concurrency`: how many payments at once. `lease_s`: for how long no other worker gets a
    leased payment; longer than the slowest gateway call. `idle_s`: the pause when nothing is
    due, at most 0.5 s. `report_s`: how often a `worker.report` is logged. `drain_s`: how long
    `run` waits for the payments that it works on when it is stopped.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        concurrency: int = 64,
        lease_s: float = 60.0,
        idle_s: float = 0.25,
        report_s: float = 10.0,
        drain_s: float = 30.0,
        log: Log | None = None,
    ) -> None:
        if concurrency < 1 or lease_s < 1 or not 0 < idle_s <= 0.5:
            raise ConfigError("a worker needs concurrency >= 1, lease_s >= 1, idle_s up to 0.5")
        self._log = log or orchestrator.log
        self._store: Final = orchestrator.store
        self._flows: Final = orchestrator.flows
        engine = Engine(self._store, self._flows, orchestrator.gateway, self._log, attach_payment)
        self._due_work: Final = DueWork(engine, self._log)
        self._retention: Final = Retention(self._store, self._flows)
        self._budget: Final = orchestrator.budget
        self._scarce = Call.FETCH_PAYMENT
        self._concurrency, self._lease_ms = concurrency, round(lease_s * 1000)
        self._idle_s, self._report_s, self._drain_s = idle_s, report_s, drain_s
        self._counts: Counter[str] = Counter()
        self._failures: dict[str, int] = {}
        self._unreached = False
        self._stopping = asyncio.Event()

    async def run(self, *, signals: bool = True) -> Report:
        """Work until `stop` is called, or SIGTERM or SIGINT comes; return the last report.

        The payments that it works on are finished first. `signals=False` leaves the signals to
        your program. What the store or the gateway refuses is logged and tried again.
        """
        tasks: set[asyncio.Task[None]] = set()
        with self._handling_signals() if signals else contextlib.nullcontext():
            aside = [
                asyncio.create_task(work()) for work in (self._keep_reporting, self._keep_purging)
            ]
            try:
                while not self._stopping.is_set():
                    await self._fill(tasks)
            finally:
                for task in aside:
                    task.cancel()
                await self._drain(tasks)
        return await self.report()

    async def run_once(self) -> Report:
        """Look once at what is due now and return the report: for cron, tests and demos.

        Purging is left to `run`.
        """
        leased = await self._lease(self._concurrency)
        async with asyncio.TaskGroup() as tasks:
            for snapshot in leased:
                tasks.create_task(self._look_at(snapshot))
        return await self.report()

    def stop(self) -> None:
        """Lease nothing more; `run` ends once the payments that it works on are done."""
        self._stopping.set()

    async def report(self) -> Report:
        """Return what was done so far and what is due now."""
        try:
            overdue = await self._store.overdue()
        except StoreError:
            return Report(**self._counts)
        since_at_ms = overdue.since_at_ms if overdue.count else None
        lag_ms = 0 if since_at_ms is None else max(0, self._store.now_ms() - since_at_ms)
        return Report(due=overdue.count, lag_s=lag_ms / 1000, **self._counts)

    # leasing

    async def _fill(self, tasks: set[asyncio.Task[None]]) -> None:
        """Lease as many payments as there is room for, or wait until there is."""
        room = self._concurrency - len(tasks)
        if room < max(1, self._concurrency // 4):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return
        leased = await self._lease(room)
        for snapshot in leased:
            task = asyncio.create_task(self._look_at(snapshot))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if self._unreached or not leased:
            await self._rest(self._idle_s)

    async def _lease(self, limit: int) -> Sequence[Snapshot]:
        """Lease due payments; only a few while the gateway was not reached."""
        limit = await self._room(min(limit, _PROBES) if self._unreached else limit)
        try:
            leased = await self._store.lease(limit, self._lease_ms) if limit else ()
        except StoreError as trouble:
            self._trouble(trouble)
            return ()
        self._counts["leased"] += len(leased)
        if not leased:
            self._budget.give_back()
        return leased

    async def _room(self, limit: int) -> int:
        """Return how many payments the rate budget lets us ask about now; lease no more than that.

        Which inquiry they need is not known before they are read: the one that the budget
        refused last is assumed.
        """
        return await self._budget.room(self._scarce, limit)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # one payment

    async def _look_at(self, snapshot: Snapshot) -> None:
        """Do what is due for one payment; whatever happens, it is due again at a chosen time."""
        try:
            with self._budget.background():
                seen = await self._due_work.do(snapshot)
        except RateLimited as limited:
            self._scarce = CALLS.get(what_to_ask(snapshot, self._store.now_ms()), self._scarce)
            await self._postpone(snapshot, limited)
            return
        except Exception as trouble:  # noqa: BLE001  one payment never stops the others
            self._unreached = isinstance(trouble, GatewayUnavailable)
            await self._put_back(snapshot, trouble)
            return
        self._unreached = False
        was, now = snapshot.record, seen.record
        if (was.state, was.operation) != (now.state, now.operation):
            self._counts["progressed"] += 1
        if seen is snapshot and now.wake_at_ms is not None:
            # A notification made it due while its step is on its way: wait for the deadline.
            await self._wait_for_step(snapshot, now.wake_at_ms)
            return
        soon_at_ms = self._store.now_ms() + _AGAIN_MS
        is_due = now.wake_at_ms is not None and now.wake_at_ms < soon_at_ms
        if is_due and now.asked_at_ms == was.asked_at_ms:
            # Too old, or not about this payment: asking at once would bring the same answer.
            await self._put_back(
                seen, GatewayUnavailable("the answer is too old, or not about this payment")
            )
            return
        self._failures.pop(snapshot.id, None)
        if is_due:
            await self._defer(seen, soon_at_ms)

    async def _wait_for_step(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look again after the step's deadline, unless its outcome was committed meanwhile."""
        try:
            later_at_ms = max(wake_at_ms, self._store.now_ms() + _AGAIN_MS)
            await self._store.defer(snapshot, later_at_ms)
        except StoreError as trouble:
            self._trouble(trouble, payment_id=snapshot.id)

    async def _postpone(self, snapshot: Snapshot, limited: RateLimited) -> None:
        """Look again when the rate limit permits: the payment itself did not fail."""
        pause_s = max(_AGAIN_MS / 1000, limited.retry_after_s)
        pause_s *= random.uniform(1.0, 1.2)  # noqa: S311  jitter
        await self._defer(snapshot, self._store.now_ms() + round(pause_s * 1000))

    async def _put_back(self, snapshot: Snapshot, trouble: Exception) -> None:
        """Look again after a pause that doubles with each failure, and log the reason."""
        failures = self._failures.pop(snapshot.id, 0) + 1
        self._failures[snapshot.id] = failures
        if len(self._failures) > _FAILURES_MAX:
            del self._failures[next(iter(self._failures))]
        longest_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(failures, _DOUBLINGS_MAX))
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311  jitter
        self._trouble(trouble, payment_id=snapshot.id, retry_s=round(pause_s, 3))
        await self._defer(snapshot, self._store.now_ms() + round(pause_s * 1000))

    async def _defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look again then. A step that failed has changed the payment: load the newest version."""
        try:
            newest = await self._store.load(snapshot.order_id, snapshot.n)
            if newest is not None:
                await self._store.defer(newest, wake_at_ms)
        except StoreError as trouble:
            # It is due again when its lease ends.
            self._trouble(trouble, payment_id=snapshot.id)

    def _trouble(self, trouble: Exception, **fields: Any) -> None:
        """Count and log it; only the texts of our own errors are sure to contain no secret."""
        self._counts["errors"] += 1
        reason = str(trouble) if isinstance(trouble, CfflowError) else ""
        self._log.warning("worker.failed", error=type(trouble).__name__, reason=reason, **fields)

    # around it

    async def _keep_reporting(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(self._report_s)
            self._log.info("worker.report", **msgspec.structs.asdict(await self.report()))

    async def _keep_purging(self) -> None:
        """Purge until cancelled: page after page while there is something, and then rarely."""
        while True:
            removed = 0
            try:
                removed = await self._retention.purge_some()
                self._counts["purged"] += removed
            except CfflowError as trouble:
                self._trouble(trouble)
            await asyncio.sleep(_PURGE_PAUSE_S if removed else _PURGE_EVERY_S)

    async def _drain(self, tasks: set[asyncio.Task[None]]) -> None:
        """Finish the payments at work; cancel what takes too long, a crash like any other."""
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT while this runs, where the loop can handle signals."""
        loop, handled = asyncio.get_running_loop(), []
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


class DueWork:
    """What a worker does for a payment that is due: ask, then do what the flow wants.

    It asks first and acts on the answer only, by the same plans and commits as every caller. By
    itself it does three things: it sends a capture or void of unknown outcome again, once an
    inquiry saw the hold untouched; it ends a hold that lapses soon or was abandoned, as the
    flow wants; and it lets the local limits end when the gateway cannot be asked.
    """

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine: Final = engine
        self._log = log

    async def do(self, snapshot: Snapshot) -> Snapshot:
        """Do what is due for this payment and return it as it is after that.

        Raises `GatewayError` when the gateway did not answer, `StoreError` when the store did
        not: the payment is as it was, and due again.
        """
        flow = await self._engine.flows.flow_of(snapshot, self._engine.store)
        if in_flight(snapshot, self._engine.store.now_ms()):
            return snapshot
        try:
            event = await self._engine.ask(snapshot, flow)
            if event is None:
                # Nothing to ask: a moment has passed, and the next wake is calculated.
                event = TimePassed(self._engine.store.now_ms())
            seen = await self._engine.settle(snapshot, event, flow)
        except GatewayError:
            await self._let_time_pass(snapshot, flow)
            raise
        unanswered = seen.record.asked_at_ms == snapshot.record.asked_at_ms
        if unanswered or isinstance(event, NotFound):
            # Too old, about another payment, or not found: send nothing without an answer.
            return seen
        return await self._end_hold(await self._send_again(seen, flow), flow)

    async def _let_time_pass(self, snapshot: Snapshot, flow: Flow) -> None:
        """End the flow's own limits while the gateway is down, so that a person learns of it."""
        event = TimePassed()
        plan = decide(snapshot, event, flow, self._engine.store.now_ms())
        if plan.action_changed or plan.record.reviews != snapshot.record.reviews:
            with contextlib.suppress(GatewayError):
                await self._engine.settle(snapshot, event, flow)

    async def _send_again(self, seen: Snapshot, flow: Flow) -> Snapshot:
        operation = seen.record.operation
        if operation is None or not resend_is_due(seen, flow, self._engine.store.now_ms()):
            return seen
        return await self._send(seen, resend, operation.step)

    async def _end_hold(self, seen: Snapshot, flow: Flow) -> Snapshot:
        now_ms = self._engine.store.now_ms()
        end = due_hold(seen, flow, now_ms)
        if end is None:
            return seen
        if end is HoldEnd.REVIEW:
            detail = "abandoned" if seen.record.abandoned else "it lapses soon"
            waits = why_barred(seen, Step.VOID)
            detail = f"{detail}; {waits}" if waits else detail
            event = Disputed(
                ReviewReason.HOLD_ENDS_SOON, f"the money is held, and {detail}: decide"
            )
            return await self._engine.settle(seen, event, flow)
        step = Step.VOID if end is HoldEnd.VOID else Step.CAPTURE
        return await self._send(seen, authorize_begin(self._engine.gateway, step), step)

    async def _send(self, seen: Snapshot, begin: Begin, step: Step) -> Snapshot:
        """Send a step of the worker's own; its outcome, whatever it is, is in the store then."""
        call = authorize_call(self._engine.gateway)
        try:
            return await self._engine.step(seen, begin, call, fresh=True, ask_first=False)
        except (Conflict, IllegalStep, OutcomeUnknown) as outcome:
            # Another commit was first, or it may have acted: both are stored already.
            self._log.info("worker.overtaken", payment_id=seen.id, reason=outcome.message)
        except GatewayRejected as refusal:
            newest = await load_payment(self._engine.store, seen.order_id, seen.n)
            flow = await self._engine.flows.flow_of(newest, self._engine.store)
            detail = f"{step} by the worker: {refusal.message}"[:300]
            event = Disputed(ReviewReason.STEP_REFUSED, detail)
            return await self._engine.settle(newest, event, flow)
        return await load_payment(self._engine.store, seen.order_id, seen.n)


class Retention:
    """Removes orders whose payments ended long ago, a few at a time.

    No key has a time to live: an order goes only after all of its payments are at their end for
    longer than their flows keep them, with no review open. One that took money leaves a marker,
    so that it is not paid again.
    """

    def __init__(self, store: Store, flows: Catalog) -> None:
        self._store: Final = store
        self._flows: Final = flows
        self._from_at_ms = 0
        self._wider = 1

    async def purge_some(self, limit: int = 200) -> int:
        """Look at the next `limit` ended payments and return how many orders were removed."""
        to_at_ms = self._store.now_ms() - self._flows.retention_min_s() * 1000
        page = Page(
            _ENDS, from_at_ms=self._from_at_ms, to_at_ms=to_at_ms, limit=limit * self._wider
        )
        found = await self._store.list(page)
        last_at_ms = found[-1].record.created_at_ms if len(found) == page.limit else 0
        # More payments of one millisecond than a page holds: take a wider page, or lose some.
        self._wider = self._wider * 2 if 0 < last_at_ms == self._from_at_ms else 1
        self._from_at_ms = last_at_ms
        orders = dict.fromkeys(snapshot.order_id for snapshot in found)
        return sum([await self._purge(order_id) for order_id in orders])

    async def _purge(self, order_id: str) -> bool:
        payments = await load_order(self._store, order_id)
        if not payments or not all([await self._is_over(payment) for payment in payments]):
            return False
        return await self._store.purge(payments)

    async def _is_over(self, payment: Snapshot) -> bool:
        record = payment.record
        if record.state not in _ENDS or record.wake_at_ms is not None or record.open_reviews:
            return False
        retention_s = (await self._flows.flow_of(payment, self._store)).end.retention_s
        return self._store.now_ms() >= record.updated_at_ms + retention_s * 1000
