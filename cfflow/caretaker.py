"""What a worker does for one payment that is due: ask, then do what the flow says.

It asks first and acts on the answer only, by the same plans and commits as everybody else.
By itself it does three things: it sends a capture or void of unknown outcome again, once an
inquiry showed that nothing had happened; it ends a hold that lapses soon or was abandoned,
as the flow says; and it lets the local limits pass when the gateway cannot be asked.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from cfflow._core.decide import Disputed, NotFound, TimePassed, decide
from cfflow._core.draft import Plan
from cfflow._core.due import HoldEnd, due_hold, in_flight, resend, resend_is_due
from cfflow._core.flow import Flow
from cfflow._core.record import Snapshot, Step
from cfflow._core.siblings import why_barred
from cfflow._ports.logs import Log
from cfflow.calls import authorize_begin, authorize_call
from cfflow.engine import Begin, Engine
from cfflow.errors import Conflict, GatewayError, GatewayRejected, IllegalStep, OutcomeUnknown

__all__ = ["Caretaker"]


class Caretaker:
    """Tends payments, one at a time; holds none. `engine` is the worker's own."""

    def __init__(self, engine: Engine, log: Log) -> None:
        self._engine: Final = engine
        self._log = log

    async def tend(self, snapshot: Snapshot) -> Snapshot:
        """Do what is due for this payment and return it as it is then.

        Raises `GatewayError` when the gateway did not answer, `StoreError` when the store did
        not: the payment is as it was, and due again.
        """
        flow = await self._engine.reader.flow_of(snapshot)
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
        uncounted = seen.record.asked_ms == snapshot.record.asked_ms
        if uncounted or isinstance(event, NotFound):
            # Stale, about something else, or unknown there: what is sent must rest on an answer.
            return seen
        return await self._end_hold(await self._send_again(seen, flow), flow)

    async def _let_time_pass(self, snapshot: Snapshot, flow: Flow) -> None:
        """The flow's own limits do not wait for a gateway that is down: a person learns of it."""
        event = TimePassed()
        plan = decide(snapshot, event, flow, self._engine.store.now_ms())
        if plan.action_changed or plan.record.reviews != snapshot.record.reviews:
            with suppress(GatewayError):
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
            newest = await self._engine.reader.snapshot(seen.order_id, seen.n)
            event = Disputed("step_refused", f"{step} by the worker: {refusal.message}"[:300])
            return await self._engine.settle(newest, event, flow)
        return await self._engine.reader.snapshot(seen.order_id, seen.n)
