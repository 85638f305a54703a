"""The worker: wakes payments that are due, any number of them, on any number of machines.

A claim takes due payments for the time of a lease; a worker that dies gives them back by
dying. What fails is put back with a growing pause and a logged reason, so that one payment
that cannot be processed is neither lost nor in the way of the others.
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
from cfflow.core.draft import Plan
from cfflow.core.due import HoldEnd, due_hold, in_flight, resend, resend_is_due, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.observation import Call
from cfflow.core.record import Snapshot, Step
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

__all__ = ["Report", "Worker"]

_BACKOFF_MAX_S: Final = 300.0
_BACKOFF_S: Final = 1.0
#: Past this the longest pause is reached anyway, and a float has an end.
_DOUBLINGS_MAX: Final = 16

#: A payment that is due again at once would be claimed again at once.
_AGAIN_MS: Final = 1_000

#: So many failing payments are remembered; a forgotten one starts with a short pause again.
_FAILURES_MAX: Final = 10_000

#: How many payments at once find out whether a gateway that was not reached is back.
_PROBES: Final = 8

#: How often it is looked for what is over; the pause between two pages of what is.
_PURGE_EVERY_S: Final = 60.0
_PURGE_PAUSE_S: Final = 0.2


#: An order leaves the store only when all of its payments are in one of these.
_ENDS: Final = (*FINAL, State.FAILED)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker did, and how far behind all of them are.

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
    """Tends the payments of an orchestrator's store.

    `concurrency`: how many payments at once. `lease_s`: for how long a claimed payment is
    nobody else's; longer than the slowest gateway call. `idle_s`: the pause when nothing is
    due, at most 0.5 s. `report_s`: how often a `worker.report` is logged. `drain_s`: how
    long `run` waits for payments in hand when it is stopped.
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

        Payments in hand are finished first. `signals=False` leaves the signals to your
        program. What the store or the gateway refuses is logged and tried again.
        """
        tasks: set[asyncio.Task[None]] = set()
        with self._listening() if signals else contextlib.nullcontext():
            aside = [asyncio.create_task(work()) for work in (self._keep_telling, self._keep_clean)]
            try:
                while not self._stopping.is_set():
                    await self._fill(tasks)
            finally:
                for task in aside:
                    task.cancel()
                await self._drain(tasks)
        return await self.report()

    async def run_once(self) -> Report:
        """Claim once, tend what was due, and return the report: for cron, tests and demos.

        Purging is left to `run`, and to `cfflow.Worker`s that stay.
        """
        for snapshot in await self._claim(self._concurrency):
            await self._tend(snapshot)
        return await self.report()

    def stop(self) -> None:
        """Claim nothing more; `run` ends once the payments in hand are done."""
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

    # claiming

    async def _fill(self, tasks: set[asyncio.Task[None]]) -> None:
        """Claim as many payments as there is room for, or wait until there is."""
        room = self._concurrency - len(tasks)
        if room < max(1, self._concurrency // 4):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return
        claimed = await self._claim(room)
        for snapshot in claimed:
            task = asyncio.create_task(self._tend(snapshot))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if self._unreached or not claimed:
            await self._rest(self._idle_s)

    async def _claim(self, limit: int) -> Sequence[Snapshot]:
        """Take due payments; a gateway that was not reached is tried with a few at a time."""
        limit = await self._room(min(limit, _PROBES) if self._unreached else limit)
        try:
            claimed = await self._store.lease(limit, self._lease_ms) if limit else ()
        except StoreError as trouble:
            self._trouble(trouble)
            return ()
        self._counts["leased"] += len(claimed)
        if not claimed:
            self._budget.give_back()
        return claimed

    async def _room(self, limit: int) -> int:
        """Return how many payments can be asked about now: no more are claimed than that.

        Those that are not claimed keep their age. Which class of inquiry they will need is
        not known before; the one that was missing last is a good guess.
        """
        return await self._budget.room(self._scarce, limit)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # one payment

    async def _tend(self, snapshot: Snapshot) -> None:
        """Tend one payment; whatever happens, it is due again at a time that was chosen."""
        try:
            with self._budget.background():
                seen = await self._due_work.tend(snapshot)
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
            # A notification woke it while its step is on its way: that one's time comes first.
            await self._wait_for_step(snapshot, now.wake_at_ms)
            return
        soon_at_ms = self._store.now_ms() + _AGAIN_MS
        is_due = now.wake_at_ms is not None and now.wake_at_ms < soon_at_ms
        if is_due and now.asked_at_ms == was.asked_at_ms:
            # Stale, or not about this payment: asking again at once would bring the same.
            await self._put_back(
                seen, GatewayUnavailable("the answer is too old, or not about this payment")
            )
            return
        self._failures.pop(snapshot.id, None)
        if is_due:
            await self._defer(seen, soon_at_ms)

    async def _wait_for_step(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look again when the step says so, unless its outcome was written meanwhile."""
        try:
            later_at_ms = max(wake_at_ms, self._store.now_ms() + _AGAIN_MS)
            await self._store.defer(snapshot, later_at_ms)
        except StoreError as trouble:
            self._trouble(trouble, payment_id=snapshot.id)

    async def _postpone(self, snapshot: Snapshot, limited: RateLimited) -> None:
        """The rate limit is no trouble of this payment's: it is due again when there is room."""
        pause_s = max(_AGAIN_MS / 1000, limited.retry_after_s)
        pause_s *= random.uniform(1.0, 1.2)  # noqa: S311  jitter
        await self._defer(snapshot, self._store.now_ms() + round(pause_s * 1000))

    async def _put_back(self, snapshot: Snapshot, trouble: Exception) -> None:
        """Look at it again after a pause that doubles with each failure, and say why."""
        failures = self._failures.pop(snapshot.id, 0) + 1
        self._failures[snapshot.id] = failures
        if len(self._failures) > _FAILURES_MAX:
            del self._failures[next(iter(self._failures))]
        longest_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(failures, _DOUBLINGS_MAX))
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311  jitter
        self._trouble(trouble, payment_id=snapshot.id, retry_s=round(pause_s, 3))
        await self._defer(snapshot, self._store.now_ms() + round(pause_s * 1000))

    async def _defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look at it then. A step that failed has moved it, so the newest one is meant."""
        try:
            newest = await self._store.load(snapshot.order_id, snapshot.n)
            if newest is not None:
                await self._store.defer(newest, wake_at_ms)
        except StoreError as trouble:
            # Its lease ends by itself: then it is due again.
            self._trouble(trouble, payment_id=snapshot.id)

    def _trouble(self, trouble: Exception, **fields: Any) -> None:
        """Count and log; only our own errors are sure to hold no secret in their text."""
        self._counts["errors"] += 1
        told = str(trouble) if isinstance(trouble, CfflowError) else ""
        self._log.warning("worker.failed", error=type(trouble).__name__, reason=told, **fields)

    # around it

    async def _keep_telling(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(self._report_s)
            self._log.info("worker.report", **msgspec.structs.asdict(await self.report()))

    async def _keep_clean(self) -> None:
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
        """Finish what is in hand; what takes too long is cut off: a crash like any other."""
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT while this runs, where the loop can listen to them."""
        loop, heard = asyncio.get_running_loop(), []
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop)
                heard.append(number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)


class DueWork:
    """Tends payments, one at a time; holds none. `engine` is the worker's own."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine: Final = engine
        self._log = log

    async def tend(self, snapshot: Snapshot) -> Snapshot:
        """Do what is due for this payment and return it as it is then.

        Raises `GatewayError` when the gateway did not answer, `StoreError` when the store did
        not: the payment is as it was, and due again.
        """
        flow = await self._engine.flows.flow_of(snapshot, self._engine.store)
        if in_flight(snapshot, self._engine.store.now_ms()):
            return snapshot
        try:
            event = await self._engine.question(snapshot, flow)
            if event is None:
                # Nothing to ask: only the clock has moved, and with it the next wake.
                event = TimePassed(self._engine.store.now_ms())
            seen = await self._engine.settle(snapshot, event, flow)
        except GatewayError:
            await self._let_time_pass(snapshot, flow)
            raise
        uncounted = seen.record.asked_at_ms == snapshot.record.asked_at_ms
        if uncounted or isinstance(event, NotFound):
            # Stale, about something else, or unknown there: what is sent must rest on an answer.
            return seen
        return await self._end_hold(await self._send_again(seen, flow), flow)

    async def _let_time_pass(self, snapshot: Snapshot, flow: Flow) -> None:
        """The flow's own limits do not wait for a gateway that is down: a person learns of it."""
        event = TimePassed()
        plan = decide(snapshot, event, flow, self._engine.store.now_ms())
        if plan.action_changed or plan.record.reviews != snapshot.record.reviews:
            with contextlib.suppress(GatewayError):
                await self._engine.settle(snapshot, event, flow)

    async def _send_again(self, seen: Snapshot, flow: Flow) -> Snapshot:
        now_ms = self._engine.store.now_ms()
        if not resend_is_due(seen, flow, now_ms):
            return seen
        return await self._carry_out(seen, resend(seen, flow, now_ms), resend, flow)

    async def _end_hold(self, seen: Snapshot, flow: Flow) -> Snapshot:
        now_ms = self._engine.store.now_ms()
        end = due_hold(seen, flow, now_ms)
        if end is None:
            return seen
        if end is HoldEnd.REVIEW:
            detail = "abandoned" if seen.record.abandoned else "it lapses soon"
            waits = why_barred(seen, Step.VOID)
            detail = f"{detail}; {waits}" if waits else detail
            event = Disputed("hold_ends_soon", f"the money is held, and {detail}: decide")
            return await self._engine.settle(seen, event, flow)
        gateway, voids = self._engine.gateway, end is HoldEnd.VOID
        begin = authorize_begin(gateway, Step.VOID if voids else Step.CAPTURE)
        return await self._carry_out(seen, begin(seen, flow, now_ms), begin, flow)

    async def _carry_out(self, seen: Snapshot, plan: Plan, begin: Begin, flow: Flow) -> Snapshot:
        """Send a step of the worker's own; whatever comes of it, the next wake goes on."""
        call = authorize_call(self._engine.gateway)
        try:
            return await self._engine.carry_out(plan, begin, call, flow)
        except (Conflict, IllegalStep, OutcomeUnknown) as outcome:
            # Somebody was faster, or it may have acted: both are written down already.
            self._log.info("worker.overtaken", payment_id=seen.id, reason=outcome.message)
        except GatewayRejected as refusal:
            operation = plan.record.operation
            step = "" if operation is None else operation.step.value
            newest = await load_payment(self._engine.store, seen.order_id, seen.n)
            event = Disputed("step_refused", f"{step} by the worker: {refusal.message}"[:300])
            return await self._engine.settle(newest, event, flow)
        return await load_payment(self._engine.store, seen.order_id, seen.n)


class Retention:
    """Walks through the ended payments, oldest first, round and round."""

    def __init__(self, store: Store, flows: Catalog) -> None:
        self._store: Final = store
        self._flows: Final = flows
        self._from_ms = 0
        self._wider = 1

    async def purge_some(self, limit: int = 200) -> int:
        """Look at so many ended payments and return how many orders were removed."""
        to_at_ms = self._store.now_ms() - self._flows.retention_min_s() * 1000
        page = Page(_ENDS, from_at_ms=self._from_ms, to_at_ms=to_at_ms, limit=limit * self._wider)
        found = await self._store.list(page)
        last_ms = found[-1].record.created_at_ms if len(found) == page.limit else 0
        # A page of one millisecond is followed by a wider one: behind it nothing is passed over.
        self._wider = self._wider * 2 if 0 < last_ms == self._from_ms else 1
        self._from_ms = last_ms
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
