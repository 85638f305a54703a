"""Merchants: what they call, in useful and useless sequences, two of them on one payment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random

from cfflow import UPI, Card, NetBanking, Orchestrator, Payment
from cfflow.cashfree.methods import PaymentMethod
from cfflow.core.arguments import LEFT_OUT
from cfflow.errors import CfflowError, StoreUnavailable
from tests.sim.process import ACTION, Action, Died, Process
from tests.sim.rules import Rules
from tests.sim.story import Story
from tests.sim.truth import Truth

#: Planted secrets: neither an OTP nor a card's number may be found in the store.
OTP = "428651"
CARDS = ("4111111111111111", "4706131211212123", "4576238912771450", "5105105105105100")

#: What makes sense to call on a payment in this state, and how often.
_SENSIBLE: dict[str, dict[str, float]] = {
    "created": {"pay": 10, "refresh": 1, "abandon": 0.2},
    "initiated": {"refresh": 4, "start": 1, "abandon": 0.5},
    "otp_pending": {"submit_otp": 7, "resend_otp": 2, "leave_otp": 1, "refresh": 2, "abandon": 0.3},
    "authorized": {"capture": 6, "void": 3, "refresh": 2, "abandon": 0.3},
    "captured": {"refresh": 2, "start": 1},
    "voided": {"start": 4, "refresh": 1},
    "failed": {"start": 4, "refresh": 1},
}
_ENDS = {"captured", "voided", "failed"}

#: The same on an order that takes several payments: customers change their minds.
_SENSIBLE_IN_SEVERAL = _SENSIBLE | {
    "created": {"pay": 10, "refresh": 1, "abandon": 0.2},
    "initiated": {"refresh": 3, "start": 1, "abandon": 3},
    "otp_pending": {"submit_otp": 6, "resend_otp": 1, "leave_otp": 1, "refresh": 2, "abandon": 2},
    "authorized": {"capture": 3, "void": 4, "refresh": 2, "abandon": 1},
    "voided": {"start": 9, "refresh": 1},
    "failed": {"start": 9, "refresh": 1},
}

#: The step that can take the place of a lost one.
_OTHER = {"capture": "void", "void": "capture"}

#: So many payments of one order the customers of such a world try.
_PAYMENTS_MAX = 4


@dataclass(slots=True, eq=False)
class Sale:
    """One order: its flow, card and amount, and the payments that its callers have seen.

    `takes_several`: after a payment that failed or was abandoned the customer tries another one.
    """

    order_id: str
    session: str
    flow: str
    card: str
    amount: str | None = "170.00"
    takes_several: bool = False
    seen: list[Payment] = field(default_factory=list)
    abandoned: set[str] = field(default_factory=set)

    def keep(self, payment: object) -> None:
        """Keep a payment as a caller got it."""
        if isinstance(payment, Payment):
            self.seen.append(payment)

    @property
    def newest(self) -> Payment | None:
        """The order's last payment, as it was seen last."""
        return max(self.seen, key=lambda seen: (len(seen.id), seen.id, seen.version), default=None)


class Caller:
    """One merchant's backend, on one process: it calls, waits, clicks twice, cancels a call."""

    def __init__(
        self,
        process: Process,
        orchestrator: Orchestrator,
        *,
        rules: Rules,
        truth: Truth,
        rng: Random,
        story: Story,
        numbers: count[int],
    ) -> None:
        self._process = process
        self._orchestrator = orchestrator
        self._rules = rules
        self._truth = truth
        self._rng = rng
        self._story = story
        self._numbers = numbers
        #: Draws of its own, so that a call which is made instead of another one leaves the
        #: seeds that are recorded for the mutations as they are.
        self._whims = Random(process.name)
        self._calls: dict[str, Callable[[Sale, Payment | str], Awaitable[Payment | None]]] = {
            "start": self._start,
            "pay": self._pay,
            "submit_otp": self._submit_otp,
            "resend_otp": self._resend_otp,
            "leave_otp": self._leave_otp,
            "capture": self._capture,
            "void": self._void,
            "refresh": self._refresh,
            "abandon": self._abandon,
            "acknowledge": self._acknowledge,
            "resolve": self._resolve,
            "adopt": self._adopt,
        }
        self._drawn = tuple(self._calls)
        self._calls["replace"] = self._replace

    async def serve(self, sale: Sale, steps: int) -> None:
        """Make so many calls about one order, with pauses between them.

        Mostly it fetches the order first, as a checkout does that shows the amount;
        so it has a time of the gateway's clock.
        """
        if self._rng.random() < 0.8:
            with suppress(CfflowError, Died):
                await self._orchestrator.gateway.fetch_order(sale.order_id)
        for _ in range(steps):
            name, target = self._choose(sale)
            clicks = 2 if self._rng.random() < 0.12 else 1
            tasks = [self._process.run(self.act(sale, name, target)) for _ in range(clicks)]
            if self._rng.random() < 0.05:
                await asyncio.sleep(self._rng.expovariate(2))
                self._story.add(self._process.name, f"cancels {name}")
                tasks[0].cancel()
            for task in tasks:
                await asyncio.wait([task])
            done = not tasks[0].cancelled() and tasks[0].result()
            for pause_s in () if done else self._again_s():
                await asyncio.sleep(pause_s)
                await self.act(sale, name, target)
            await asyncio.sleep(self._pause_s(sale))

    def _again_s(self) -> tuple[float, ...]:
        """Return the pauses before a step is tried again that the store has refused.

        After a restart steps are refused until a lost call cannot be on its way any more.
        """
        return self._rng.choice(((), (1.0,), (5.0, 20.0), (25.0, 20.0)))

    async def poll(self, sale: Sale, times: int) -> None:
        """Ask about payments of an order, as a page does that shows one of them."""
        for _ in range(times):
            await asyncio.sleep(self._rng.choice((0.3, 1.0, 3.0)) * self._rng.uniform(0.5, 1.5))
            if sale.seen:
                about = self._rng.choice(sorted({payment.id for payment in sale.seen}))
                await self.act(sale, "refresh", about)

    async def decide(self, sale: Sale, times: int) -> None:
        """Do a person's work: close reviews, resolve payments, adopt the order."""
        for _ in range(times):
            await asyncio.sleep(self._rng.choice((3.0, 15.0, 60.0)) * self._rng.uniform(0.5, 1.5))
            found = [payment for payment in sale.seen if payment.review]
            if self._rng.random() < 0.1:
                await self.act(sale, "adopt", f"{sale.order_id}.1")
            elif found:
                name = self._rng.choice(("acknowledge", "acknowledge", "resolve"))
                await self.act(sale, name, self._rng.choice(found).id)

    async def act(self, sale: Sale, name: str, target: Payment | str) -> bool:
        """Make one call, and compare its outcome with what it sent.

        Returns False where the store was not available, and the call may be made again.
        """
        about = target if isinstance(target, str) else target.id
        action = Action(next(self._numbers), name, about)
        ACTION.set(action)
        at = "" if isinstance(target, str) else f" at v{target.version}"
        self._story.add(self._process.name, f"calls {name} on {about}{at} [{action.number}]")
        error: BaseException | None = None
        try:
            payment = await self._calls[name](sale, target)
            sale.keep(payment)
            if name == "abandon":
                sale.abandoned.add(about)
            self._story.add(self._process.name, f"[{action.number}] {payment!r}")
        except CfflowError as raised:
            error = raised
            sale.keep(raised.payment)
            text = f"[{action.number}] {type(raised).__name__}: {raised}"
            self._story.add(self._process.name, text[:160])
        except Died:
            return True
        self._rules.finished(action, error)
        return not (isinstance(error, StoreUnavailable) and error.safe_to_retry)

    def _choose(self, sale: Sale) -> tuple[str, Payment | str]:
        """Draw the next call: mostly one that makes sense for the payment as last seen."""
        newest = sale.newest
        if newest is None:
            return "start", f"{sale.order_id}.1"
        drawn = self._rng.random()
        target: Payment | str = newest if drawn < 0.75 else self._rng.choice(sale.seen)
        if drawn > 0.9:
            target = newest.id
        random = self._rng.random() < 0.12
        name = self._rng.choice(self._drawn) if random else self._sensible(sale, newest)
        number = int(newest.id.rpartition(".")[2])
        if sale.takes_several and name == "start" and number >= _PAYMENTS_MAX:
            name = "refresh"
        return self._instead(sale, newest, name), target

    def _instead(self, sale: Sale, newest: Payment, name: str) -> str:
        """Return another call than the one that was drawn, now and then.

        A customer who would leave pays another way at once; a clerk who would send a lost step
        again decides otherwise.
        """
        number = int(newest.id.rpartition(".")[2])
        if name == "abandon" and sale.takes_several and number < _PAYMENTS_MAX:
            return self._whims.choice(("abandon", "replace"))
        is_lost = newest.operation is not None and newest.operation.step.value == name
        if is_lost and name in _OTHER and self._whims.random() < 0.4:
            return _OTHER[name]
        return name

    def _sensible(self, sale: Sale, payment: Payment) -> str:
        if sale.takes_several and payment.id in sale.abandoned and self._rng.random() < 0.8:
            return "start"
        if payment.review and self._rng.random() < 0.3:
            return self._rng.choice(("acknowledge", "resolve"))
        if payment.operation is not None:
            step = payment.operation.step.value
            again = step if step in {"capture", "void"} else "refresh"
            return self._rng.choice(("refresh", again))
        table = _SENSIBLE_IN_SEVERAL if sale.takes_several else _SENSIBLE
        weights = table[payment.state.value]
        return self._rng.choices(tuple(weights), tuple(weights.values()))[0]

    def _pause_s(self, sale: Sale) -> float:
        state = sale.newest.state.value if sale.newest else "created"
        ways = (2.0, 31.0, 100.0) if state in _ENDS | {"initiated"} else (0.0, 0.1, 1.0, 11.0, 31.0)
        return self._rng.choice(ways) * self._rng.uniform(0.5, 1.5)

    # the calls

    async def _start(self, sale: Sale, _: Payment | str) -> Payment:
        return await self._orchestrator.start(sale.flow, order_id=sale.order_id, amount=sale.amount)

    async def _replace(self, sale: Sale, _: Payment | str) -> Payment:
        return await self._orchestrator.start(
            sale.flow, order_id=sale.order_id, amount=sale.amount, replace=True
        )

    async def _pay(self, sale: Sale, target: Payment | str) -> Payment:
        return await self._orchestrator.pay(target, sale.session, self._method(sale))

    async def _submit_otp(self, _: Sale, target: Payment | str) -> Payment:
        otp = self._rng.choice((OTP, OTP, "111111"))
        return await self._orchestrator.submit_otp(target, otp)

    async def _resend_otp(self, _: Sale, target: Payment | str) -> Payment:
        return await self._orchestrator.resend_otp(target)

    async def _leave_otp(self, _: Sale, target: Payment | str) -> Payment:
        return await self._orchestrator.leave_otp(target)

    async def _capture(self, _: Sale, target: Payment | str) -> Payment:
        amount = self._rng.choice((LEFT_OUT, LEFT_OUT, LEFT_OUT, "60.00", "170.00", "170.01"))
        return await self._orchestrator.capture(target, amount)

    async def _void(self, _: Sale, target: Payment | str) -> Payment:
        return await self._orchestrator.void(target)

    async def _refresh(self, _: Sale, target: Payment | str) -> Payment:
        return await self._orchestrator.refresh(target)

    async def _abandon(self, _: Sale, target: Payment | str) -> Payment:
        return await self._orchestrator.abandon(target)

    async def _acknowledge(self, sale: Sale, target: Payment | str) -> Payment:
        name = target if isinstance(target, str) else target.id
        shown = [payment for payment in sale.seen if payment.id == name]
        reasons = shown[-1].review if shown else ()
        reason = self._rng.choice(reasons or ("no_answer",))
        return await self._orchestrator.acknowledge(target, reason, actor="ann", note="seen")

    async def _resolve(self, _: Sale, target: Payment | str) -> Payment:
        """Resolve the payment as a person does who reads the bank's own books."""
        name = target if isinstance(target, str) else target.id
        state, amount = self._truth.verdict(name)
        return await self._orchestrator.resolve(
            target,
            state,
            amount=LEFT_OUT if amount is None else amount,
            actor="ann",
            note="the bank's books",
        )

    async def _adopt(self, sale: Sale, _: Payment | str) -> None:
        self._rules.adopts(sale.order_id)
        flows = (sale.flow, "redirect", "upi")
        for payment in await self._orchestrator.adopt(sale.order_id, flow=flows):
            sale.keep(payment)

    def _method(self, sale: Sale) -> PaymentMethod:
        if sale.flow == "upi_mandate":
            upi_id = self._rng.choice(("testsuccess@gocash", "someone@gocash"))
            return UPI(channel="collect", upi_id=upi_id, authorize_only=True)
        if sale.flow == "upi" or (sale.flow in {"fast", "fast_brief"} and self._rng.random() < 0.3):
            upi_id = self._rng.choice(("testsuccess@gocash", "testfailure@gocash", "me@gocash"))
            collect = UPI(channel="collect", upi_id=upi_id)
            return self._rng.choice((collect, UPI(channel="link"), UPI(channel="qrcode")))
        if sale.flow == "redirect" and self._rng.random() < 0.5:
            return NetBanking(netbanking_bank_code=3333)
        return Card(
            card_number=sale.card,
            card_holder_name="Test",
            card_expiry_mm="12",
            card_expiry_yy="31",
            card_cvv="123",
            channel="link" if self._rng.random() < 0.2 else None,
        )
