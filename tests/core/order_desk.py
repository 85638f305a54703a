"""What callers and workers do with one order, as the engine does it, without a store or a gateway.

Every plan is committed to the disk as bytes, and planned again where another commit was first. What
the gateway answers may be decided at once or at any later time, on whatever the order is by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import count

import msgspec

from cfflow.core.adoption import adopt
from cfflow.core.decide import (
    Answered,
    Disputed,
    Ended,
    Event,
    Inquired,
    NotFound,
    Refused,
    decide_all,
    without_old_notices,
)
from cfflow.core.due import (
    Ask,
    HoldEnd,
    Look,
    due_hold,
    due_looks,
    resend,
    resend_is_due,
    settled_by,
    what_to_ask,
)
from cfflow.core.flow import Flow
from cfflow.core.operation import Step
from cfflow.core.order import Notice, Order, Snapshot, standing_payment
from cfflow.core.people import abandon
from cfflow.core.plan import Plan, under_token
from cfflow.core.restart import asked_once, ready_at_ms, verifies
from cfflow.core.reviews import ReviewReason
from cfflow.core.steps import begin_payment, create, leave_otp
from cfflow.errors import CfflowError, TooManyPayments
from cfflow.store.codec import commit_of
from cfflow.store.protocol import Outcome
from tests.core.core_kit import AMOUNT, DAY, HOUR, NATIVE, SECOND, T0, begun, entity
from tests.core.order_bank import ORDER_ID, Disk, OrderBank, Request
from tests.core.order_facts import ENDS, OVER_MS
from tests.core.order_model import FLOWS, Cause, Guard, Rules, Write, may_settle

LOOKS_MAX = 400
_TRIES_MAX = 20

#: Makes a plan of an order, and shows what it is about.
Planner = Callable[[Order], tuple[Plan, Cause]]


@dataclass(frozen=True)
class UnderWay:
    """An answer that was not decided yet: when it was asked for, and what it does."""

    asked_at_ms: int
    is_step: bool
    decide: Callable[[], object]


class Desk:
    """One order: its disk, its bank, and what is under way between them.

    `read` are copies that callers have read, the newest last: some are older than the disk's.
    """

    def __init__(self, *, manual: bool = False) -> None:
        self.bank = OrderBank(manual)
        self.disk = Disk()
        self.rules = Rules(self.bank)
        self.now_ms = T0
        self.network: list[tuple[Request, str]] = []
        self.under_way: list[UnderWay] = []
        self.read: list[Order] = []
        self._numbers = count(1)

    @property
    def order(self) -> Order:
        """The order as the disk has it."""
        return self.disk.kept.order

    @property
    def calls(self) -> list[Request]:
        """The requests that are on their way."""
        return [request for request, _ in self.network]

    def payment(self, n: int, age: int = 0) -> Snapshot:
        """Return a payment as a caller read it, so many writes ago where that copy has it."""
        copies = [order for order in self.read[-1 - age :][:1] if age and order.has(n)]
        return (copies[0] if copies else self.order).payment(n)

    # commits

    def commit(self, plan: Plan, cause: Cause) -> Outcome:
        """Commit a plan, and check what it wrote."""
        plan = under_token(plan, f"token{next(self._numbers)}")
        commit, was = commit_of(plan), self.disk.kept
        outcome = self.disk.commit(commit, self.now_ms)
        if outcome is Outcome.APPLIED:
            now = self.disk.kept
            write = Write(cause, was, now, commit, self.now_ms, was.order, now.order)
            assert _decoded(write.after) == _decoded(plan.after), "it was not written as planned"
            self.disk.remember(self.rules.check(write))
            self.read.append(write.after)
        return outcome

    def write(self, planner: Planner, base: Order | None = None) -> bool:
        """Commit what a planner makes of the order; plan again where another commit was first."""
        base = self.order if base is None else base
        while True:
            plan, cause = planner(base)
            if not plan.changes and not plan.answered:
                return True
            outcome = self.commit(plan, cause)
            if outcome is not Outcome.CONFLICT:
                return outcome is Outcome.APPLIED
            self.rules.count[Guard.REPLANNED] += 1
            base = self.order

    def settle(
        self,
        events: Mapping[int, Event],
        settles: frozenset[Notice] = frozenset(),
        base: Order | None = None,
    ) -> bool:
        """Commit what events change of the payments, unless one of these is gone."""
        cause = Cause("event", frozenset(events), events, settles)

        def planner(order: Order) -> tuple[Plan, Cause]:
            if not all(order.has(n) for n in events):
                return Plan(before=order, after=order), cause
            return decide_all(order, events, _flows(order), self.now_ms), cause

        return self.write(planner, base)

    def begin(
        self, held: Snapshot, plan_of: Callable[[Snapshot], Plan], what: str
    ) -> Snapshot | None:
        """Commit a step or decision on the payment that a caller holds; None if it is refused."""
        cause = Cause(what, frozenset({held.n}))
        for _ in range(_TRIES_MAX):
            newest = self.order
            if not newest.has(held.n):
                return None
            try:
                plan = plan_of(held)
            except CfflowError:
                if held.order.token == newest.token:
                    return None
                held = newest.payment(held.n)
                continue
            outcome = self.commit(plan, cause)
            if outcome is Outcome.APPLIED:
                return self.order.payment(held.n)
            if outcome is Outcome.RESTARTED:
                self.rules.count[Guard.UNVERIFIED] += 1
                if not self.verify():
                    return None
            else:
                self.rules.count[Guard.REPLANNED] += 1
            found = self.order.payment(held.n)
            if outcome is Outcome.CONFLICT and found.record.token != held.record.token:
                return None
            held = found
        raise AssertionError("planned again without end")

    # what callers do

    def start(self, flow: Flow = NATIVE, amount: Decimal | None = AMOUNT) -> bool:
        """Start the order's next payment, if it may have one."""
        record = create(
            flow, self.now_ms, nonce=self._new(), currency="INR", amount=amount, metadata=None
        )
        self.rules.tries_start(self.order)
        order = Order(id=ORDER_ID)
        while standing_payment(order) is None:
            try:
                plan = begin_payment(order, record, flow)
            except TooManyPayments:
                self.rules.count[Guard.SEVENTEENTH] += 1
                return False
            cause = Cause("start", frozenset({len(order.payments) + 1}))
            if self.commit(plan, cause) is Outcome.APPLIED:
                return True
            order = self.order
        return False

    def start_beside(self, flow: Flow) -> None:
        """Start one more payment, whatever the order has: an earlier version may have done so."""
        record = create(
            flow, self.now_ms, nonce=self._new(), currency="INR", amount=AMOUNT, metadata=None
        )
        plan = begin_payment(self.order, record, flow)
        self.commit(plan, Cause("inherited", frozenset({len(self.order.payments) + 1})))

    def step(
        self,
        n: int,
        step: Step,
        fate: str = "answered",
        mood: str = "right",
        *,
        amount: Decimal | None = None,
        age: int = 0,
        by_worker: bool = False,
    ) -> bool:
        """Take a step; its request and its answer meet their fate. False where it is refused."""
        self.rules.tries(self.disk.kept, n, step, self.calls, self.now_ms)

        def plan(held: Snapshot) -> Plan:
            return begun(held, step, self.now_ms, FLOWS[held.record.flow], amount=amount)

        opened = self.begin(self.payment(n, age), plan, "step")
        if opened is None:
            return False
        self._send(opened, fate, mood, by_worker=by_worker)
        return True

    def send_again(self, n: int, fate: str = "answered", mood: str = "right") -> bool:
        """Send an open capture or void again, where that is permitted."""
        held = self.payment(n)
        before = held.record.operation
        if before is None:
            return False
        self.rules.tries_again(self.disk.kept, n, before.step)
        opened = self.begin(
            held, lambda held: resend(held, FLOWS[held.record.flow], self.now_ms), "step"
        )
        if opened is None:
            return False
        self._send(opened, fate, mood, again=before.key)
        return True

    def leave(self, n: int) -> bool:
        """The customer goes to the bank's own page."""
        self.rules.tries(self.disk.kept, n, Step.SUBMIT_OTP, self.calls, self.now_ms)
        held = self.payment(n)
        plan = partial(leave_otp, flow=FLOWS[held.record.flow], now_ms=self.now_ms)
        return self.begin(held, plan, "leave") is not None

    def decide(self, n: int, decision: Callable[..., Plan], **more: object) -> bool:
        """Commit a person's decision on the newest order."""
        held = self.payment(n)
        flow = FLOWS[held.record.flow]
        plan = partial(decision, flow=flow, now_ms=self.now_ms, **more)
        return self.begin(held, plan, "person") is not None

    def abandon(self, n: int) -> bool:
        """Free the order of this payment."""
        return self.decide(n, abandon)

    def adopt(self, flow: Flow, *, late: bool = False) -> None:
        """Give every attempt without a payment one, by a list that may be decided late."""
        order, attempts, asked_at_ms = self.order, self.bank.everything(self.now_ms), self.now_ms
        if order.payments:
            event = Inquired(attempts, asked_at_ms, everything=True, nonce=self._new())
            self.settle(dict.fromkeys(order.siblings, event))
            order = self.order
        if any(_is_open(s.record, Step.PAY) for s in order.all_payments):
            return
        flows = _flows(order)

        def planner(newest: Order) -> tuple[Plan, Cause]:
            try:
                made = adopt(
                    newest,
                    attempts,
                    (flow,),
                    flows,
                    asked_at_ms=asked_at_ms,
                    now_ms=self.now_ms,
                    nonce=self._new,
                )
            except TooManyPayments:
                self.rules.count[Guard.SEVENTEENTH] += 1
                return Plan(before=newest, after=newest), Cause("adopt", frozenset())
            self.rules.count[Guard.LEFT_OUT] += made.left_out
            self.rules.count[Guard.ADOPTED] += len(made.plan.changes)
            unowned = {n for n, s in newest.siblings.items() if s.cf_payment_id is None}
            new = range(len(newest.payments) + 1, len(made.plan.after.payments) + 1)
            return made.plan, Cause("adopt", frozenset({*unowned, *new}))

        self._now_or_late(lambda: self.write(planner), late=late)

    # requests and their answers

    def _send(
        self, opened: Snapshot, fate: str, mood: str, *, again: str = "", by_worker: bool = False
    ) -> None:
        operation = opened.record.operation
        assert operation is not None
        request = Request(opened.n, operation, opened.record.cf_payment_id, self.now_ms)
        order = opened.order
        self.rules.sends(request, order, self.calls, again=again, by_worker=by_worker)
        sequence, sends = operation.sequence, operation.sends
        match fate:
            case "answered" | "slow" | "mixed up":
                answer = self._execute(request, mood)
                if fate == "mixed up":
                    answer = self._about_sibling(opened, answer)
                decide = partial(self._answered, request, answer, opened.order)
                self._now_or_late(decide, late=fate == "slow", is_step=True)
            case "late" | "late ended":
                self.network.append((request, mood))
            case "refused":
                self._refused(opened, Refused(sequence, "refused", sends))
            case "ended after":
                self._execute(request, mood)
        if fate in {"late ended", "ended before", "ended after"}:
            self.settle({opened.n: Ended(sequence, sends=sends)}, base=opened.order)

    def _execute(self, request: Request, mood: str) -> Event:
        before = len(self.bank.executed)
        answer = self.bank.execute(request, mood, self.now_ms)
        if len(self.bank.executed) > before:
            self.rules.acted(request)
        return answer

    def _answered(self, request: Request, answer: Event, base: Order) -> None:
        """Decide what a step's caller got; one that proves no outcome ends the call only."""
        operation, n = request.operation, request.n
        if isinstance(answer, Refused):
            self._refused(base.payment(n), answer)
            return
        self.settle({n: answer}, base=base)
        if not self.order.has(n):
            return
        left = self.order.record(n).operation
        if left is not None and left.sequence == operation.sequence and not left.accepted:
            self.settle({n: Ended(operation.sequence, sends=operation.sends)})

    def _refused(self, opened: Snapshot, refused: Refused) -> None:
        """Close a step that was refused; one that was sent before is asked about first."""
        n = opened.n
        if refused.sends > 1:
            ended = Ended(refused.sequence, sends=refused.sends)
            self.settle({n: ended}, base=opened.order)
            if self.order.has(n):
                self.refresh(n)
        self.settle({n: refused})

    def _about_sibling(self, opened: Snapshot, answer: Event) -> Event:
        """Return an answer that names a sibling's attempt, if there is one."""
        attempts = list(opened.owned_elsewhere)
        if not attempts or not isinstance(answer, Answered):
            return answer
        self.rules.count[Guard.SIBLINGS_ATTEMPT] += 1
        wrong = [
            msgspec.structs.replace(seen, cf_payment_id=attempts[0]) for seen in answer.observations
        ]
        return msgspec.structs.replace(answer, observations=tuple(wrong))

    def request_arrives(self, which: int) -> None:
        """A request that was on its way reaches the bank, and its answer may come later still.

        A pay may arrive for as long as cfflow looks for it, any other call only within its time.
        """
        request, mood = self.network.pop(which % len(self.network))
        lasts_ms = DAY if request.operation.step is Step.PAY else OVER_MS
        if self.now_ms > request.sent_at_ms + lasts_ms:
            return
        answer = self._execute(request, mood)
        self.under_way.append(
            UnderWay(
                request.sent_at_ms,
                is_step=True,
                decide=lambda: self._answered(request, answer, self.order),
            )
        )

    def arrives(self, which: int, *, keep: bool = False) -> None:
        """Decide an answer that was under way, and perhaps once more later."""
        which %= len(self.under_way)
        found = self.under_way[which] if keep else self.under_way.pop(which)
        restarted_at_ms = self.disk.restart.since_at_ms
        over = found.is_step and self.now_ms > found.asked_at_ms + OVER_MS
        if over and found.asked_at_ms < restarted_at_ms:
            # No process waits for an answer as long as the verification after a restart does.
            return
        found.decide()

    def _now_or_late(
        self, decide: Callable[[], object], *, late: bool, is_step: bool = False
    ) -> None:
        if late:
            self.under_way.append(UnderWay(self.now_ms, is_step, decide))
        else:
            decide()

    # inquiries

    def ask(self, look: Look, flaw: str = "") -> tuple[Event, frozenset[Notice]]:
        """Ask the bank; return the event and the notifications that it may settle."""
        order, now_ms = self.order, self.now_ms
        answered = settled_by(order, look)
        settles = frozenset(
            notice
            for notice in order.notices
            if flaw != "mixed" and may_settle(order, look.what, look.payments, notice)
        )
        if look.what is Ask.ORDER:
            seen = self.bank.order(now_ms, T0)
            status = "NOT_FOUND" if flaw == "not found" else seen.status
            other = "order_2" if flaw == "mixed" else None
            more = {"status": status, "order_id": other, "answered": answered}
            return msgspec.structs.replace(seen, **more), settles
        if flaw == "not found":
            return NotFound(now_ms, answered), settles
        ours = order.siblings[look.payments[0]].cf_payment_id
        if look.what is Ask.PAYMENT and ours is not None:
            shown = [self.bank.entity(ours, now_ms)]
        else:
            shown = [*self.bank.everything(now_ms)]
        if flaw == "mixed":
            shown.append(entity(cf_payment_id="999", order_id="order_2"))
        everything = look.what is Ask.PAYMENTS
        return Inquired(tuple(shown), now_ms, everything=everything, answered=answered), settles

    def inquire(self, look: Look, *, late: bool = False, flaw: str = "") -> None:
        """Ask, and decide the answer for these payments now or late."""
        event, settles = self.ask(look, flaw)
        decide = partial(self.settle, dict.fromkeys(look.payments, event), settles)
        self._now_or_late(decide, late=late)

    def refresh(self, n: int, *, late: bool = False, flaw: str = "") -> None:
        """Ask what is to ask about this payment."""
        what = what_to_ask(self.payment(n), self.now_ms)
        if what is not Ask.NOTHING:
            self.inquire(Look(what, (n,)), late=late, flaw=flaw)

    def notify(self, attempt: str, state: str) -> None:
        """A notification comes; one that reports nothing new is not added."""
        order = self.order
        if not order.payments:
            return
        was = self.disk.kept.stored
        if self.disk.notify(attempt, state, self.now_ms):
            assert was is not None
            return
        self.rules.count[Guard.NOTICE_REFUSED] += 1
        states = [s.state for s in order.siblings.values() if s.cf_payment_id == attempt]
        assert states == [state], "a notification was refused that reports something new"

    # after a restart

    def verify(self) -> bool:
        """Verify the order, if it is not too early; return whether that was enough."""
        order, restart = self.order, self.disk.restart
        if self.now_ms < ready_at_ms(order, restart, _flows(order).values()):
            return False
        self.ask_to_verify()
        return not restart.concerns(self.order)

    def ask_to_verify(self, *, late: bool = False, flaw: str = "") -> None:
        """Ask about all attempts, and decide the list for all payments with a fresh nonce."""
        order, restart, asked_at_ms = self.order, self.disk.restart, self.now_ms
        numbers, is_enough, is_ours = frozenset(order.siblings), verifies(order, restart), not flaw
        event, settles = self.ask(Look(Ask.PAYMENTS, tuple(numbers)), flaw)
        if not isinstance(event, Inquired):
            return
        history = restart.history if is_enough and is_ours else ""
        event = msgspec.structs.replace(event, nonce=self._new(), verified=history)

        def planner(newest: Order) -> tuple[Plan, Cause]:
            if not newest.siblings.keys() >= numbers:
                return Plan(before=newest, after=newest), Cause("verify", numbers)
            whole = newest.siblings.keys() == numbers
            found = event if whole else msgspec.structs.replace(event, verified="")
            events = dict.fromkeys(numbers, found)
            plan = decide_all(newest, events, _flows(newest), self.now_ms)
            if not is_enough and is_ours:
                after = asked_once(plan.after, restart, asked_at_ms)
                plan = msgspec.structs.replace(plan, after=after)
            return plan, Cause("verify", numbers, events, settles)

        def decide() -> None:
            if self.write(planner) and is_ours:
                self.rules.verified(asked_at_ms)

        self._now_or_late(decide, late=late)

    def restart_store(self, writes: int = 0) -> None:
        """Restart the store, which loses its last so many writes."""
        self.disk.lose(writes, self.now_ms)
        self.rules.restarted(self.disk.kept, self.now_ms)

    # the worker

    def work(
        self, fate: str = "answered", mood: str = "right", *, late: bool = False, flaw: str = ""
    ) -> None:
        """Ask what is due, and send what the answers and the flows want."""
        order, restart = self.order, self.disk.restart
        flows = _flows(order)
        ready = self.now_ms >= ready_at_ms(order, restart, flows.values())
        if not order.payments:
            return
        if restart.concerns(order) and ready:
            self.ask_to_verify(late=late, flaw=flaw)
            asked = list(order.siblings)
        else:
            asked = self._look(order, late=late, flaw=flaw)
        for n in asked:
            if self.order.has(n) and not late:
                self._act(n, order.record(n).asked_at_ms, fate, mood)

    def _look(self, order: Order, *, late: bool, flaw: str) -> list[int]:
        events: dict[int, Event] = {}
        settles: frozenset[Notice] = frozenset()
        for look in due_looks(order, self.now_ms):
            event, settled = self.ask(look, flaw)
            events.update(dict.fromkeys(look.payments, event))
            settles |= settled
        if events:
            self._now_or_late(partial(self.settle, events, settles), late=late)
        else:
            cause = Cause("old notices", frozenset())
            self.write(lambda newest: (without_old_notices(newest), cause))
        return [n for n, event in events.items() if not isinstance(event, NotFound)]

    def _act(self, n: int, asked_at_ms: int, fate: str, mood: str) -> None:
        """Send what is due for a payment that was just asked about."""
        held = self.payment(n)
        flow = FLOWS[held.record.flow]
        if held.record.asked_at_ms == asked_at_ms:
            return
        if held.record.operation is not None:
            if resend_is_due(held, flow, self.now_ms):
                self.send_again(n, fate, mood)
            return
        end = due_hold(held, flow, self.now_ms)
        if end is HoldEnd.REVIEW:
            self.settle({n: Disputed(ReviewReason.HOLD_ENDS_SOON, "decide")})
        elif end is not None:
            step = Step.VOID if end is HoldEnd.VOID else Step.CAPTURE
            self.step(n, step, fate, mood, by_worker=True)

    # the end

    def live_to_the_end(self) -> None:
        """Answer truthfully at the wake times until every payment has ended or has a review."""
        self.network.clear()
        self.under_way.clear()
        for known in self.bank.attempts.values():
            known.unconfirmed = False
        for turn in range(LOOKS_MAX):
            order = self.order
            if not order.notices and all(map(_is_over, order.all_payments)):
                self.rules.ended(self.disk.kept)
                return
            due_at_ms = self.disk.kept.due_at_ms
            assert due_at_ms is not None, "a payment sleeps before its end"
            # The first looks come in time, the later ones late: each settles all that was missed.
            self.now_ms = max(self.now_ms, due_at_ms) + (3 * HOUR if turn > 12 else 0)
            self.work()
            later_at_ms = self.disk.kept.due_at_ms
            learned = _decoded(self.order) != _decoded(order)
            asleep = later_at_ms is None or later_at_ms > self.now_ms
            assert learned or asleep or self.order.notices, "woken for ever"
            if self.order.notices:
                # A call is on its way: the worker looks again a little later.
                self.now_ms += 30 * SECOND
        raise AssertionError(f"no end after {LOOKS_MAX} looks: {self.order.all_payments}")

    def _new(self) -> str:
        return f"nonce{next(self._numbers)}"


def _flows(order: Order) -> dict[int, Flow]:
    return {payment.n: FLOWS[payment.record.flow] for payment in order.all_payments}


def _is_open(record: object, step: Step) -> bool:
    operation = getattr(record, "operation", None)
    return operation is not None and operation.step is step


def _is_over(payment: Snapshot) -> bool:
    record = payment.record
    return bool(record.open_reviews) or (record.state in ENDS and record.wake_at_ms is None)


def _decoded(order: Order) -> tuple[object, ...]:
    """Return what an order has, whether its payments were decoded yet or not."""
    records = tuple(payment.record for payment in order.all_payments)
    return records, order.seen_attempt_ids, order.foreign_money, dict(order.actions)
