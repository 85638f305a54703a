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
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from cfflow.cashfree.inquiries import CALLS
from cfflow.cashfree.steps import authorize_begin, authorize_call
from cfflow.core.authors import EXPIRY, RESEND, WORKER
from cfflow.core.decide import Disputed, Event, NotFound, TimePassed, decide, without_old_notices
from cfflow.core.due import HoldEnd, Look, due_hold, due_looks, resend, resend_is_due
from cfflow.core.flow import Flow
from cfflow.core.observation import Call
from cfflow.core.operation import Step
from cfflow.core.order import SCHEMA, Order, Snapshot, adds_nothing, why_barred
from cfflow.core.plan import Gate, Plan
from cfflow.core.restart import Restart, ready_at_ms
from cfflow.core.reviews import ReviewReason
from cfflow.core.steps import Begin
from cfflow.engine import Engine
from cfflow.errors import (
    CfflowError,
    ConfigError,
    Conflict,
    FlowError,
    GatewayError,
    GatewayRejected,
    GatewayUnavailable,
    IllegalStep,
    OutcomeUnknown,
    Paused,
    RateLimited,
    StoreError,
)
from cfflow.logs import GuardedLog, Log, guarded
from cfflow.orchestrator import Orchestrator
from cfflow.store.codec import is_of_newer_version, readable
from cfflow.store.lifesigns import Inquiries, LifeSigns
from cfflow.store.protocol import Leased, StoredOrder
from cfflow.store.retention import Retention
from cfflow.views.payment import attach_payment

#: The settings of a worker: lowest and highest value.
_LIMITS: Final = (
    ("concurrency", 1, 10_000),
    ("lease_s", 1, 86_400),
    ("idle_s", 0.01, 0.5),
    ("report_s", 0.01, 86_400),
    ("drain_s", 0, 86_400),
)

_BACKOFF_MAX_S: Final = 300.0
_BACKOFF_S: Final = 1.0
#: After so many the longest pause is reached; more would overflow a float.
_DOUBLINGS_MAX: Final = 16

#: A payment that is due again at once waits so long, or a worker would do nothing else.
_AGAIN_MS: Final = 1_000

#: An order that a newer version wrote is left to that version's workers for so long.
_NEWER_MS: Final = 5_000

#: A notification that could not be settled yet is looked at again after so long.
_UNSETTLED_MS: Final = 30_000

#: So many failing payments are counted; one beyond starts with a short pause again.
_FAILURES_MAX: Final = 10_000

#: After the gateway was not reached, so many orders at once try whether it is back.
_PROBES: Final = 8

#: How often orders that are over are looked for, and the pause between two pages of them.
_PURGE_EVERY_S: Final = 60.0
_PURGE_PAUSE_S: Final = 0.2


class Work(msgspec.Struct, frozen=True):
    """An order that is leased, until when, and the history of the data that it lies in."""

    stored: StoredOrder
    restart: Restart
    until_at_ms: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker did, and how late all workers are.

    `due`: orders that wait for a worker now. `put_back`: orders that were due and have failed, or
    had to wait, and are looked at again later; one whose later time has come is in `due` too.
    `lag_s`: for how long the oldest of both has been due.
    `leased` (orders), `progressed` (payments: an open step closed or the state moved), `errors`,
    `purged` (orders), `unreadable` (what was set aside, or cannot be read where it lies): since the
    worker started.
    """

    due: int = 0
    put_back: int = 0
    lag_s: float = 0.0
    leased: int = 0
    progressed: int = 0
    errors: int = 0
    purged: int = 0
    unreadable: int = 0


class Worker:
    """Looks at the due payments of an orchestrator's store.

    `concurrency`: how many orders at once. `lease_s`: for how long no other worker gets a
    leased order; longer than the slowest gateway call. `idle_s`: the pause when nothing is
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
        given = (concurrency, lease_s, idle_s, report_s, drain_s)
        for number, (name, low, high) in zip(given, _LIMITS, strict=True):
            if type(number) not in {int, float} or not low <= number <= high:
                raise ConfigError(f"{name} of a worker must be a number from {low} to {high}")
        self._log = guarded(orchestrator.log if log is None else log)
        self._store: Final = orchestrator.store
        self._flows: Final = orchestrator.flows
        orders, gateway = orchestrator.engine.orders, orchestrator.gateway
        self._engine: Final = Engine(orders, self._flows, gateway, self._log, attach_payment)
        self._retention: Final = Retention(orders, self._flows)
        self._budget: Final = orchestrator.budget
        self._scarce = Call.FETCH_PAYMENT
        self._concurrency, self._lease_ms = concurrency, round(lease_s * 1000)
        self._idle_s, self._report_s, self._drain_s = idle_s, report_s, drain_s
        self._counts: Counter[str] = Counter()
        self._life: Final = LifeSigns(
            orchestrator.signs, self._store.now_ms, self._counts, lambda: self._budget.limits
        )
        self._due_work: Final = DueWork(self._engine, self._log, self._life.inquiries)
        self._failures: dict[str, int] = {}
        self._damaged: set[str] = set()
        self._unreached = False
        self._stopping = asyncio.Event()

    async def run(self, *, signals: bool = True) -> Report:
        """Work until `stop` is called, or SIGTERM or SIGINT comes; return the last report.

        The payments that it works on are finished first. `signals=False` leaves the signals to
        your program. What the store or the gateway refuses is logged and tried again.
        """
        tasks: set[asyncio.Task[None]] = set()
        with self._handling_signals() if signals else contextlib.nullcontext():
            beside = (self._keep_reporting, self._keep_purging, self._life.keep)
            aside = [asyncio.create_task(work()) for work in beside]
            try:
                # The tasks that begin in this block, which look at the orders, are in it too.
                with self._budget.background():
                    while not self._stopping.is_set():
                        await self._fill(tasks)
            finally:
                for task in aside:
                    task.cancel()
                await self._drain(tasks)
                await self._life.send(has_stopped=True)
        return await self.report()

    async def run_once(self) -> Report:
        """Look once at what is due now and return the report: for cron, tests and demos.

        Purging is left to `run`.
        """
        leased = await self._lease(self._concurrency)
        with self._budget.background():
            async with asyncio.TaskGroup() as tasks:
                for work in leased:
                    tasks.create_task(self._look_at(work))
        await self._life.send()
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
        lag_s = overdue.lag_ms(self._store.now_ms()) / 1000
        return Report(due=overdue.count, put_back=overdue.put_back, lag_s=lag_s, **self._counts)

    # leasing

    async def _fill(self, tasks: set[asyncio.Task[None]]) -> None:
        """Lease as many payments as there is room for, or wait until there is."""
        room = self._concurrency - len(tasks)
        if room < max(1, self._concurrency // 4):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return
        leased = await self._lease(room)
        for work in leased:
            task = asyncio.create_task(self._look_at(work))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if self._unreached or not leased:
            await self._rest(self._idle_s)

    async def _lease(self, limit: int) -> Sequence[Work]:
        """Lease due orders; only a few while the gateway was not reached."""
        limit = await self._room(min(limit, _PROBES) if self._unreached else limit)
        try:
            leased = await self._store.lease(limit, self._lease_ms) if limit else Leased()
            for name in (*leased.unreadable, *({*leased.damaged} - self._damaged)):
                self._report_unreadable(name)
            # They stay where they are: each is reported once.
            self._damaged.update(leased.damaged)
        except StoreError as trouble:
            self._trouble(trouble)
            return ()
        self._counts["leased"] += len(leased.orders)
        if not leased.orders:
            self._budget.give_back()
        return [Work(stored, restart, leased.until_at_ms) for stored, restart in leased.orders]

    def _report_unreadable(self, name: str) -> None:
        """Count and log an order, or what stands in the place of one, that cannot be read."""
        self._counts["unreadable"] += 1
        self._trouble(StoreError("it cannot be read: see cfflow status"), order_id=name)

    async def _room(self, limit: int) -> int:
        """Return how many orders the rate budget lets us ask about now; lease no more than that.

        Which inquiry they need is not known before they are read: the one that the budget
        refused last is assumed.
        """
        return await self._budget.room(self._scarce, limit)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # one order

    async def _look_at(self, work: Work) -> None:
        """Do what is due for one order; whatever happens, it is due again at a chosen time."""
        order = await self._readable(work)
        if order is None:
            return
        try:
            seen, troubles = await self._due_work.do(order, work)
        except RateLimited as limited:
            looks = due_looks(order, self._store.now_ms())
            calls = [CALLS[look.what] for look in looks if look.what in CALLS]
            self._scarce = calls[0] if calls else self._scarce
            await self._postpone(order, work, limited)
            return
        except Exception as trouble:  # noqa: BLE001  one order never stops the others
            seen, troubles = order, dict.fromkeys(order.siblings, trouble)
        self._unreached = any(isinstance(t, GatewayUnavailable) for t in troubles.values())
        self._count_progress(order, seen)
        await self._schedule(order, work, seen, troubles)

    async def _readable(self, work: Work) -> Order | None:
        """Return a leased order. One that cannot be read is set aside: it would be due for ever.

        One of a newer version of cfflow is left to the workers of that version.
        """
        stored = work.stored
        order = readable(stored)
        if order is not None and order.schema <= SCHEMA:
            return order
        try:
            if is_of_newer_version(stored):
                at_ms = self._store.now_ms() + _NEWER_MS
                await self._store.defer(stored.id, at_ms, token=stored.token, lease=stored.lease)
            else:
                await self._store.set_aside(stored.id, token=stored.token)
                self._report_unreadable(stored.id)
        except StoreError as trouble:
            # It is due again when its lease ends.
            self._trouble(trouble, order_id=stored.id)
        return None

    def _count_progress(self, order: Order, seen: Order) -> None:
        for n in order.siblings.keys() & seen.siblings.keys():
            was, now = order.siblings[n], seen.siblings[n]
            self._counts["progressed"] += (was.state, was.operation) != (now.state, now.operation)

    async def _schedule(
        self, order: Order, work: Work, seen: Order, troubles: Mapping[int, Exception]
    ) -> None:
        """Make the order due at the earliest of its payments' wakes and of failed ones' retries."""
        soon_at_ms = self._store.now_ms() + _AGAIN_MS
        due_at_ms = []
        failed = bool(troubles)
        for payment in seen.all_payments:
            wake_at_ms = payment.record.wake_at_ms
            trouble = troubles.get(payment.n)
            is_due = wake_at_ms is not None and wake_at_ms < soon_at_ms
            if is_due and trouble is None and _is_unanswered(order, payment):
                # Too old, or not about this payment: asking at once would bring the same answer.
                trouble = GatewayUnavailable("the answer is too old, or not about this payment")
            if trouble is not None:
                failed = True
                due_at_ms.append(self._retry_at_ms(payment.id, trouble))
                continue
            self._failures.pop(payment.id, None)
            if wake_at_ms is not None:
                due_at_ms.append(max(wake_at_ms, soon_at_ms))
        if seen.notices and not troubles:
            # A step of this order is on its way: its outcome settles them, or its deadline.
            due_at_ms.append(soon_at_ms + _UNSETTLED_MS)
        if troubles or seen.notices or (seen.wake_at_ms or soon_at_ms) < soon_at_ms:
            due_since_at_ms = self._due_since_ms(seen) if failed else None
            await self._defer(seen, work, min(due_at_ms, default=soon_at_ms), due_since_at_ms)

    def _due_since_ms(self, order: Order) -> int:
        """Return since when an order is due that has failed: a notification leaves it to now."""
        now_ms = self._store.now_ms()
        return min(now_ms, now_ms if order.wake_at_ms is None else order.wake_at_ms)

    async def _postpone(self, order: Order, work: Work, limited: RateLimited) -> None:
        """Look again when the rate limit permits: no payment failed."""
        pause_s = max(_AGAIN_MS / 1000, limited.retry_after_s)
        pause_s *= random.uniform(1.0, 1.2)  # noqa: S311  jitter
        at_ms = self._store.now_ms() + round(pause_s * 1000)
        await self._defer(order, work, at_ms, self._due_since_ms(order))

    def _retry_at_ms(self, name: str, trouble: Exception) -> int:
        """Log a failure; return when to try again: after a pause that doubles with each one."""
        failures = self._failures.pop(name, 0) + 1
        self._failures[name] = failures
        if len(self._failures) > _FAILURES_MAX:
            del self._failures[next(iter(self._failures))]
        longest_s: float = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(failures, _DOUBLINGS_MAX))
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311  jitter
        self._trouble(trouble, payment_id=name, retry_s=round(pause_s, 3))
        return self._store.now_ms() + round(pause_s * 1000)

    async def _defer(
        self, order: Order, work: Work, wake_at_ms: int, since_at_ms: int | None
    ) -> None:
        """Look again then. A step that failed has changed the order: its newest token counts.

        `since_at_ms`: what was due since then has failed; None if nothing has. It ends the lease:
        under another worker's, the order would wait until that one is over.
        """
        lease = work.stored.lease
        try:
            newest = await self._store.defer(
                order.id, wake_at_ms, token=order.token, lease=lease, since_at_ms=since_at_ms
            )
            if newest is not None:
                await self._store.defer(
                    order.id, wake_at_ms, token=newest.token, lease=lease, since_at_ms=since_at_ms
                )
        except StoreError as trouble:
            # It is due again when its lease ends.
            self._trouble(trouble, order_id=order.id)

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
            # A report asks the store.
            if self._log.is_on():
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
    """What a worker does for an order that is due: ask, then do what the flows want.

    It asks first and acts on the answer only, by the same plans and commits as every caller. By
    itself it does three things: it sends a capture or void of unknown outcome again, once an
    inquiry saw the hold untouched; it ends a hold that lapses soon or was abandoned, as the
    flow wants; and it lets the local limits end when the gateway cannot be asked.
    """

    def __init__(self, engine: Engine, log: GuardedLog, inquiries: Inquiries) -> None:
        self._engine: Final = engine
        self._log = log
        self._inquiries = inquiries

    async def do(self, order: Order, work: Work) -> tuple[Order, dict[int, Exception]]:
        """Do what is due; return the order as it is after that, and what failed, by payment.

        Raises where nothing could be done for any payment: the order is as it was.
        """
        troubles: dict[int, Exception] = {}
        flows = await self._flows(order, troubles)
        now_ms = self._engine.store.now_ms()
        verifies = work.restart.concerns(order) and not troubles
        if verifies and now_ms >= ready_at_ms(order, work.restart, flows.values()):
            answered = list(flows)
            with self._inquiries.asked(Call.FETCH_PAYMENTS):
                seen = await self._engine.ask_to_verify(
                    order, work.restart, flows, lease=work.stored.lease, author=WORKER
                )
        else:
            looks = [look for look in due_looks(order, now_ms) if {*look.payments} <= flows.keys()]
            events = await self._ask(order, looks, flows, troubles)
            seen = await self._settle(order, events, flows, work)
            answered = [n for n, event in events.items() if not isinstance(event, NotFound)]
        for n in [n for n in answered if n not in troubles]:
            if work.until_at_ms - self._engine.store.now_ms() < flows[n].pay.timeout_s * 1000:
                break
            seen = await self._act(order, seen, n, flows[n], troubles)
        return seen, troubles

    async def _flows(self, order: Order, troubles: dict[int, Exception]) -> dict[int, Flow]:
        """Return the payments' flows; a text that is gone is trouble of its own payments only."""
        flows = {}
        for payment in order.all_payments:
            try:
                flows[payment.n] = await self._engine.flows.flow_of(payment, self._engine.store)
            except FlowError as trouble:
                troubles[payment.n] = trouble
        return flows

    async def _ask(
        self,
        order: Order,
        looks: Sequence[Look],
        flows: Mapping[int, Flow],
        troubles: dict[int, Exception],
    ) -> dict[int, Event]:
        """Make the inquiries and return the event of each payment that was asked about."""
        events: dict[int, Event] = {}
        for look in looks:
            try:
                event = await self._engine.ask(order, look, flows[look.payments[0]])
            except GatewayError as trouble:
                self._inquiries.failed(CALLS[look.what], trouble)
                if isinstance(trouble, RateLimited):
                    raise
                troubles.update(dict.fromkeys(look.payments, trouble))
                for n in look.payments:
                    if self._limit_ends(order.payment(n), flows[n]):
                        events[n] = TimePassed()
                continue
            if event is not None:
                self._inquiries.answered(CALLS[look.what], event)
            # Nothing to ask: a moment has passed, and the next wake is calculated.
            event = event or TimePassed(self._engine.store.now_ms())
            events.update(dict.fromkeys(look.payments, event))
        return events

    async def _settle(
        self, order: Order, events: Mapping[int, Event], flows: Mapping[int, Flow], work: Work
    ) -> Order:
        lease = work.stored.lease
        if events:
            return await self._engine.settle_all(order, events, flows, lease=lease, author=WORKER)
        if any(adds_nothing(order, notice) for notice in order.notices):
            return await self._engine.write(
                order, lambda newest, _: without_old_notices(newest), lease=lease
            )
        return order

    async def _act(
        self, order: Order, seen: Order, n: int, flow: Flow, troubles: dict[int, Exception]
    ) -> Order:
        """Send what is due for one payment after its inquiry was answered."""
        payment = seen.payment(n)
        if payment.record.asked_at_ms == order.record(n).asked_at_ms:
            # Too old, or about another payment: send nothing without an answer.
            return seen
        try:
            payment = await self._end_hold(await self._send_again(payment, flow), flow)
        except (StoreError, GatewayError, Paused) as trouble:
            troubles[n] = trouble
            return (await self._engine.orders.payment(order.id, n)).order
        return payment.order

    def _limit_ends(self, payment: Snapshot, flow: Flow) -> bool:
        """Whether a limit of the flow's ends now: a person must learn of it, gateway or not."""
        plan = decide(payment, TimePassed(), flow, self._engine.store.now_ms())
        same_action = plan.snapshot.next_action == payment.next_action
        return not same_action or plan.record.reviews != payment.record.reviews

    async def _send_again(self, seen: Snapshot, flow: Flow) -> Snapshot:
        operation = seen.record.operation
        if operation is None or not resend_is_due(seen, flow, self._engine.store.now_ms()):
            return seen
        return await self._send(seen, partial(resend, author=RESEND), operation.step)

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
            return await self._engine.settle(seen, event, flow, author=EXPIRY)
        step = Step.VOID if end is HoldEnd.VOID else Step.CAPTURE
        begin = authorize_begin(self._engine.gateway, step, author=EXPIRY)
        return await self._send(seen, begin, step)

    async def _send(self, seen: Snapshot, begin: Begin, step: Step) -> Snapshot:
        """Send a step of the worker's own; its outcome, whatever it is, is in the store then."""
        call = authorize_call(self._engine.gateway)
        try:
            return await self._engine.step(
                seen, _automatic(begin), call, fresh=True, ask_first=False
            )
        except (Conflict, IllegalStep, OutcomeUnknown) as outcome:
            # Another commit was first, or it may have acted: both are stored already.
            self._log.info("worker.overtaken", payment_id=seen.id, reason=outcome.message)
        except GatewayRejected as refusal:
            newest = await self._engine.orders.payment(seen.order_id, seen.n)
            flow = await self._engine.flows.flow_of(newest, self._engine.store)
            detail = f"{step} by the worker: {refusal.message}"[:300]
            event = Disputed(ReviewReason.STEP_REFUSED, detail)
            return await self._engine.settle(newest, event, flow, author=WORKER)
        return await self._engine.orders.payment(seen.order_id, seen.n)


def _automatic(begin: Begin) -> Begin:
    """Return the same plan as the worker's own: a person can stop those by themselves."""

    def plan(held: Snapshot, flow: Flow, now_ms: int) -> Plan:
        made = begin(held, flow, now_ms)
        return made if made.gate else msgspec.structs.replace(made, gate=Gate.AUTO)

    return plan


def _is_unanswered(order: Order, payment: Snapshot) -> bool:
    """Whether no answer counted for this payment; one that has begun since was not asked about."""
    if not order.has(payment.n):
        return False
    return order.record(payment.n).asked_at_ms == payment.record.asked_at_ms
