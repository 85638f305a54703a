"""After the chaos: a new worker, virtual days, and then the store is compared with the bank."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cfflow import Orchestrator
from cfflow.core.chart import HOLDS, State
from cfflow.core.record import Record
from cfflow.emulator.records import Attempt
from cfflow.errors import CfflowError
from cfflow.worker import Worker
from tests.sim.process import ACTION, Action
from tests.sim.truth import FOREIGN
from tests.sim.workers import catch_up

if TYPE_CHECKING:
    from tests.sim.world import World

#: By then every payment has ended or has a review.
_PATIENCE_S = 20 * 86400.0

_ENDS = {State.CAPTURED, State.VOIDED, State.FAILED}


class Settling:
    """Runs a new worker until nothing is left to do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop = world.loop

    async def run(self) -> None:
        """Run until the store agrees with the bank; complain if it never does."""
        world = self._world
        process, orchestrator = world.process("rescue")
        worker = Worker(orchestrator)
        until_s = self._loop.time() + _PATIENCE_S
        while True:
            await process.run(catch_up(worker, self._is_due))
            if world.accidents.rolled_back:
                await process.run(self._adopt(orchestrator))
            left = self._left()
            if not left and self._at_rest():
                return
            if self._loop.time() >= until_s:
                world.complain(f"never settled: {left or 'calls or notifications are open'}")
                return
            await asyncio.sleep(self._next_s() - self._loop.time())

    async def _adopt(self, orchestrator: Orchestrator) -> None:
        """Do the operator's part after a loss of data: rebuild what the store may have lost."""
        world = self._world
        ACTION.set(Action(0, "adopt", ""))
        for sale in world.sales:
            if sale.order_id in world.books.gone:
                continue
            world.rules.adopts(sale.order_id)
            try:
                await orchestrator.adopt(sale.order_id, flow=(sale.flow, "redirect", "upi"))
            except CfflowError as error:
                # A pay is open: the next round succeeds, or a review is open.
                world.story.add("rescue", f"cannot adopt {sale.order_id}: {error}")
                if not self._has_open_review(sale.order_id):
                    return
        world.accidents.rolled_back = False

    def _has_open_review(self, order_id: str) -> bool:
        known = self._world.books.records.items()
        records = [record for name, record in known if name.rpartition(".")[0] == order_id]
        return any(record.open_reviews for record in records)

    def _is_due(self) -> bool:
        store = self._world.store
        return min(store._wakes.values(), default=store.now_ms() + 1) <= store.now_ms()

    def _at_rest(self) -> bool:
        world = self._world
        waiting = world.network.in_flight or world.customers.waiting or world.postman.waiting
        return not (waiting or world.accidents.rolled_back)

    def _next_s(self) -> float:
        """When something happens next: a payment wakes, the bank or a customer acts."""
        world, now_s = self._world, self._loop.time()
        wakes = [(at - world.store.now_ms()) / 1000 for at in world.store._wakes.values()]
        wakes += [self._loop.next_timer_s - now_s] if self._loop.next_timer_s else []
        soon_s = min((wait for wait in wakes if wait > 0), default=3600.0)
        return now_s + max(soon_s, 0.01)

    def _left(self) -> str:
        """Return what must not be left at the end, "" when all is well."""
        world = self._world
        world.truth.catch_up()
        for name, record in world.books.records.items():
            problem = self._unsettled(name, record)
            if problem:
                return problem
        for sale in world.sales:
            if sale.order_id in world.books.gone:
                continue
            problem = self._siblings_with_money(sale.order_id)
            if problem:
                return problem
            for attempt in world.truth.attempts(sale.order_id):
                problem = self._lost(sale.order_id, attempt)
                if problem:
                    return problem
        return ""

    def _unsettled(self, name: str, record: Record) -> str:
        if record.reviews:
            # A person could see the review, whether or not it was acknowledged.
            return ""
        if record.state not in _ENDS or record.operation is not None:
            return f"{name} is still {record.state}, and has no review"
        if record.cf_payment_id is None:
            return ""
        effects = self._world.truth.effects[record.cf_payment_id]
        proved = {"captured": "captured", "voided": "voided", "released": "voided"}
        truth = proved.get(effects[-1], "failed")
        if truth != record.state:
            return f"{name} is {record.state}, the bank has {', '.join(effects)}"
        return ""

    def _siblings_with_money(self, order_id: str) -> str:
        """When two payments of one order take money, both must have a review."""
        holding = [
            (name, record)
            for name, record in self._world.books.records.items()
            if name.rpartition(".")[0] == order_id and record.state in HOLDS
        ]
        unreviewed = [name for name, record in holding if not record.reviews]
        return (
            f"{unreviewed[0]} is not the only one that took money"
            if unreviewed and len(holding) > 1
            else ""
        )

    def _lost(self, order_id: str, attempt: Attempt) -> str:
        """Return what is wrong if no payment owns an attempt with money and no review is open."""
        name = str(attempt.cf_payment_id)
        if (
            attempt.status not in {"SUCCESS", "PENDING"}
            or self._world.truth.owners[name] == FOREIGN
        ):
            return ""
        records = {
            known: record
            for known, record in self._world.books.records.items()
            if known.rpartition(".")[0] == order_id
        }
        if any(record.cf_payment_id == name or record.reviews for record in records.values()):
            return ""
        return f"attempt {name} of {order_id} is {attempt.status}, and no payment owns it"
