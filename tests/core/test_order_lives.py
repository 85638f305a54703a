"""Random lives of whole orders: whatever happens beside each other, the rules hold.

Up to four payments are started one after another, paid, lost, abandoned, captured and voided,
while notifications come, lists are decided late, other pages pay, persons decide, and the store
restarts without its last writes. After every write `order_model.Rules` holds what was stored
against the design. At the end of each life truthful answers bring every payment to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from cfflow.core.chart import State
from cfflow.core.due import Ask, Look
from cfflow.core.flow import Flow
from cfflow.core.operation import Step
from cfflow.core.people import acknowledge, resolvable_states, resolve
from tests.core import order_bank, order_desk, order_facts, order_model
from tests.core.core_kit import AMOUNT, NATIVE, PREAUTH, SECOND
from tests.core.order_desk import Desk
from tests.core.order_model import Guard
from tests.core.order_stories import LIVES, pass_one
from tests.reached import Reached

STARTS_MAX = 4
ATTEMPTS_MAX = 12
JUMPS_S = (0, 1, 5, 11, 16, 26, 31, 61, 301, 3_600, 90_000, 300_000)
FATES = (
    *("answered", "answered", "answered", "answered", "slow", "late", "late ended", "lost"),
    *("ended before", "ended after", "refused", "mixed up"),
)
MOODS = ("right", "right", "right", "wrong", "redirect", "unconfirmed", "other", "fault")
MOVES = ("approve", "hold", "decline", "capture", "lapse", "confirm")
FLAWS = ("", "", "", "", "", "mixed", "not found")
REPORTS = ("captured", "failed", "voided", "")
#: How the payments before the present one went.
COURSES = ("unpaid", "fails", "left", "held", "voided", "given up", "late", "taken")
WHO = {"actor": "a person", "note": "as the bank's page shows"}


class Life(RuleBasedStateMachine):
    """One order from its first start to the end of its last payment."""

    @initialize(
        manual=st.booleans(),
        course=st.lists(st.sampled_from(COURSES), max_size=3),
        beside=st.sampled_from((False, False, False, True)),
    )
    def begin(self, manual: bool, course: list[str], beside: bool) -> None:
        """Let some payments come and go: random rules alone rarely come so far."""
        self.desk = Desk(manual=manual)
        self.flow = PREAUTH if manual else NATIVE
        for went in course:
            if len(self.desk.order.payments) < STARTS_MAX and self.desk.start(self.flow):
                pass_one(self.desk, went)
        if beside and 0 < len(self.desk.order.payments) < STARTS_MAX:
            self.desk.start_beside(self.flow)

    @property
    def numbers(self) -> range:
        """The numbers of the order's payments."""
        return range(1, len(self.desk.order.payments) + 1)

    def one(self, which: int) -> int:
        """Return a payment's number; the newest is the likeliest."""
        return max(1, len(self.desk.order.payments) - which)

    @precondition(lambda self: len(self.desk.order.payments) < STARTS_MAX)
    @rule(flow=st.sampled_from((NATIVE, PREAUTH, None)), amount=st.sampled_from((AMOUNT, None)))
    def start(self, flow: Flow | None, amount: object) -> None:
        """Start the next payment, if the order may have one."""
        self.desk.start(flow or self.flow, AMOUNT if amount else None)

    @precondition(lambda self: self.desk.order.payments)
    @rule(
        which=st.integers(0, 3),
        first=st.integers(0, len(Step) - 1),
        fate=st.sampled_from(FATES),
        mood=st.sampled_from(MOODS),
        age=st.sampled_from((0, 0, 0, 1, 3)),
    )
    def step(self, which: int, first: int, fate: str, mood: str, age: int) -> None:
        """Take the first step that is permitted, on a copy that may be old."""
        steps, n = tuple(Step), self.one(which)
        for step in (*steps[first:], *steps[:first]):
            if len(self.desk.bank.attempts) >= ATTEMPTS_MAX and step is Step.PAY:
                continue
            if self.desk.step(n, step, fate, mood, age=age):
                return

    @precondition(lambda self: self.desk.order.payments)
    @rule(which=st.integers(0, 3), fate=st.sampled_from(FATES), mood=st.sampled_from(MOODS))
    def send_again(self, which: int, fate: str, mood: str) -> None:
        """A merchant presses the same button once more."""
        self.desk.send_again(self.one(which), fate, mood)

    @precondition(lambda self: self.desk.order.payments)
    @rule(which=st.integers(0, 3))
    def leave(self, which: int) -> None:
        """The customer goes to the bank's page, where there is one."""
        self.desk.leave(self.one(which))

    @precondition(lambda self: self.desk.order.payments)
    @rule(which=st.integers(0, 3))
    def abandon(self, which: int) -> None:
        """The merchant frees the order."""
        self.desk.abandon(self.one(which))

    @rule(
        fate=st.sampled_from(FATES),
        mood=st.sampled_from(MOODS),
        late=st.booleans(),
        flaw=st.sampled_from(FLAWS),
        wakes=st.booleans(),
    )
    def work(self, fate: str, mood: str, late: bool, flaw: str, wakes: bool) -> None:
        """A worker looks at the order, now or exactly when it is due."""
        due_at_ms = self.desk.disk.kept.due_at_ms
        if wakes and due_at_ms is not None:
            self.desk.now_ms = max(self.desk.now_ms, due_at_ms)
        self.desk.work(fate, mood, late=late, flaw=flaw)

    @precondition(lambda self: self.desk.order.payments)
    @rule(
        what=st.sampled_from((Ask.PAYMENT, Ask.PAYMENTS, Ask.PAYMENTS, Ask.ORDER)),
        which=st.integers(0, 6),
        late=st.booleans(),
        flaw=st.sampled_from(FLAWS),
    )
    def inquire(self, what: Ask, which: int, late: bool, flaw: str) -> None:
        """A caller asks for one payment or all; the answer is decided now or late."""
        numbers = (self.one(which),) if which <= STARTS_MAX else tuple(self.numbers)
        siblings = self.desk.order.siblings
        with_attempt = [n for n in numbers if siblings[n].cf_payment_id is not None]
        if what is Ask.PAYMENT:
            numbers = tuple(with_attempt[:1])
        elif what is Ask.ORDER:
            numbers = tuple(n for n in numbers if n not in with_attempt)
        if numbers:
            self.desk.inquire(Look(what, numbers), late=late, flaw=flaw)

    @precondition(lambda self: self.desk.under_way)
    @rule(which=st.integers(0, 50), keep=st.booleans())
    def arrives(self, which: int, keep: bool) -> None:
        """An old answer is decided, out of order and perhaps more than once."""
        self.desk.arrives(which, keep=keep)

    @precondition(lambda self: self.desk.network)
    @rule(which=st.integers(0, 50))
    def request_arrives(self, which: int) -> None:
        """A request that was lost from sight reaches the bank."""
        self.desk.request_arrives(which)

    @precondition(lambda self: self.desk.bank.attempts)
    @rule(to=st.sampled_from(MOVES), which=st.integers(0, ATTEMPTS_MAX))
    def bank_moves(self, to: str, which: int) -> None:
        """The bank changes the state of an attempt without a request."""
        names = list(self.desk.bank.attempts)
        self.desk.bank.move(names[-1 - which % len(names)], to, self.desk.now_ms)

    @rule(
        last_four=st.sampled_from(("1111", "2222")), to=st.sampled_from(("approve", "decline", ""))
    )
    def another_page_pays(self, last_four: str, to: str) -> None:
        """Another page of the merchant begins an attempt, and perhaps gets the money at once."""
        if len(self.desk.bank.attempts) < ATTEMPTS_MAX:
            name = self.desk.bank.another_page(last_four, self.desk.now_ms)
            self.desk.bank.move(name, to, self.desk.now_ms)

    @rule(which=st.integers(0, ATTEMPTS_MAX), state=st.sampled_from(REPORTS))
    def notify(self, which: int, state: str) -> None:
        """A notification about any attempt comes, true or outdated."""
        names = [*self.desk.bank.attempts, "198", "199"]
        self.desk.notify(names[which % len(names)], state)

    @precondition(lambda self: self.desk.order.payments)
    @rule(which=st.integers(0, 3), choice=st.integers(0, 20))
    def person_closes(self, which: int, choice: int) -> None:
        """A person closes one review."""
        n = self.one(which)
        reviews = self.desk.order.siblings[n].open_reviews
        if reviews:
            reason = reviews[choice % len(reviews)].reason
            self.desk.decide(n, acknowledge, reason=reason, **WHO)

    @precondition(lambda self: self.desk.order.payments)
    @rule(which=st.integers(0, 3), choice=st.integers(0, 20))
    def person_resolves(self, which: int, choice: int) -> None:
        """A person states where a payment is, perhaps wrongly."""
        held = self.desk.payment(self.one(which))
        states = [held.record.state, *resolvable_states(held)]
        if held.record.cf_payment_id is None:
            # No answer could ever show what becomes of a hold without an attempt.
            states = [state for state in states if state is not State.AUTHORIZED]
        state = states[choice % len(states)]
        self.desk.decide(held.n, resolve, state=state, amount=None, **WHO)

    @rule(late=st.booleans())
    def adopt(self, late: bool) -> None:
        """A person gives the attempts without a payment one each."""
        self.desk.adopt(self.flow, late=late)

    @rule(writes=st.integers(0, 6))
    def store_restarts(self, writes: int) -> None:
        """The store comes back without its last writes."""
        self.desk.restart_store(writes)

    @rule(jump_s=st.sampled_from(JUMPS_S))
    def time_passes(self, jump_s: int) -> None:
        """Time passes."""
        self.desk.now_ms += jump_s * SECOND

    def teardown(self) -> None:
        """From wherever it is: truthful answers lead to an end."""
        if hasattr(self, "desk"):
            self.desk.live_to_the_end()


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("life", LIVES)
def test_a_life_by_hand(life: Callable[[], Desk]) -> None:
    """What random rules rarely come to keeps the rules too."""
    life().live_to_the_end()


def test_every_guard_is_reached() -> None:
    """Each rule was put to the test, and each branch of the model has run."""
    reached, count = Reached(order_bank, order_desk, order_facts, order_model), Counter[Guard]()
    with reached.watching():
        for life in LIVES:
            desk = life()
            desk.live_to_the_end()
            count.update(desk.rules.count)
    assert [guard for guard in Guard if not count[guard]] == []
    assert reached.missing == []
