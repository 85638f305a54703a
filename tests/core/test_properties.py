"""Random lives of a payment: in any order of events the invariants hold.

Steps legal and illegal, answers that are right, wrong, foreign, garbage or lost, inquiries
that are late, repeated and reordered, attempts of others, lies, and jumps of time. After
every plan `bank_model.check` holds it against the design, and at the end of each life the
bank answers truthfully until the payment has come to its end.
"""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cfflow.core.chart import State
from cfflow.core.decide import (
    Answered,
    Ended,
    Event,
    Inquired,
    OrderSeen,
    Refused,
    TimePassed,
    decide,
)
from cfflow.core.due import Ask, resend, resendable, what_to_ask
from cfflow.core.flow import Flow
from cfflow.core.observation import Call, Observation
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Snapshot
from cfflow.core.plan import Plan
from cfflow.core.steps import leave_otp
from cfflow.errors import IllegalStep, InvalidAmount, OtpLimit
from tests.core import bank_model
from tests.core.bank_model import Bank, check, facts
from tests.core.core_kit import (
    AMOUNT,
    FOREIGN,
    NATIVE,
    OURS,
    PREAUTH,
    SECOND,
    T0,
    a_created,
    a_payment,
    begun,
    entity,
)
from tests.reached import Reached

INQUIRIES_MAX = 250
JUMPS_S = (0, 1, 5, 11, 16, 31, 61, 301, 3_600, 90_000, 700_000)
AMOUNTS = (None, AMOUNT, Decimal(4), Decimal(100), Decimal(0))
FATES = (
    *("answered", "answered", "answered", "answered", "slow", "lost", "ended after"),
    *("ended before", "refused", "foreign", "garbage"),
)
MOODS = ("right", "right", "wrong", "redirect", "unconfirmed")
MOVES = ("approve", "hold", "decline", "capture", "lapse", "confirm")
STATUSES = ("SUCCESS", "SUCCESS", "FAILED", "VOID", "PENDING", "OF_TOMORROW", None)


class Life(RuleBasedStateMachine):
    """One payment, its bank, and the answers that are still under way."""

    held: Snapshot
    flow: Flow
    bank: Bank

    @initialize(
        flow=st.sampled_from((NATIVE, PREAUTH)),
        amount=st.sampled_from((AMOUNT, None)),
        course=st.lists(st.tuples(st.sampled_from(FATES), st.sampled_from(MOODS)), max_size=4),
    )
    def begin(self, flow: Flow, amount: Decimal | None, course: list[tuple[str, str]]) -> None:
        """Start a payment and take its first steps: most lives of random rules never pay."""
        self.flow, self.bank = flow, Bank(manual=flow.capture == "manual")
        self.held, self.now_ms = a_created(flow, amount), T0
        self.under_way: list[Event] = []
        self.keys: set[str] = set()
        self.bank.attempt(T0, last_four="2222")
        for fate, mood in course:
            self.step(0, fate, mood, None)
            self.now_ms += 16 * SECOND
            self.apply(self.asked())

    def write(self, plan: Plan, event: Event | None = None) -> None:
        """Commit a plan that breaks no invariant."""
        check(self.held, plan, event, self.flow, self.now_ms)
        self.held = plan.snapshot

    def apply(self, event: Event) -> None:
        """Decide an event and commit what it changes."""
        was = self.held.record.operation
        self.write(decide(self.held, event, self.flow, self.now_ms), event)
        given_up = was is not None and was.step is Step.PAY and self.held.record.operation is None
        if given_up and isinstance(event, Inquired) and self.held.record.cf_payment_id is None:
            assert was is not None
            assert was.sequence not in self.bank.pays, "gave up an attempt that had arrived"

    @property
    def ours(self) -> str | None:
        """The id of our attempt, once the payment has one."""
        return self.held.record.cf_payment_id

    @rule(
        first=st.integers(0, len(Step) - 1),
        fate=st.sampled_from(FATES),
        mood=st.sampled_from(MOODS),
        amount=st.sampled_from(AMOUNTS),
    )
    def step(self, first: int, fate: str, mood: str, amount: Decimal | None) -> None:
        """Take the next legal step, if there is one; its request meets its fate."""
        plan = self.next_step(first, amount)
        if plan is None:
            return
        self.write(plan)
        operation = plan.record.operation
        assert operation is not None
        assert operation.key not in self.keys
        self.keys.add(operation.key)
        self.send(operation, fate, mood)

    def send_next(self, step: Step, mood: str) -> None:
        """Take this step, or the next one that is legal, and get its answer."""
        self.step(tuple(Step).index(step), "answered", mood, None)

    def next_step(self, first: int, amount: Decimal | None) -> Plan | None:
        """Return the plan of the first legal step, tried in turn from number `first` on."""
        steps = tuple(Step)
        for step in (*steps[first:], *steps[:first]):
            with suppress(IllegalStep, OtpLimit, InvalidAmount):
                return begun(self.held, step, self.now_ms, self.flow, amount=amount)
        return None

    def send(self, operation: Operation, fate: str, mood: str) -> None:
        """Let a request arrive or not, and its answer come back or not."""
        sequence, asked_at_ms = operation.sequence, self.now_ms
        if fate == "refused":
            self.apply(Refused(sequence, "refused"))
            return
        if fate not in {"lost", "ended before"}:
            result, shown = self.bank.serve(operation, self.ours, mood, asked_at_ms)
            answer = Answered(sequence, (result,), asked_at_ms, shown)
            if fate == "answered":
                self.apply(answer)
            elif fate == "garbage":
                junk = Observation(call=result.call, authenticate_status="?", payment_status="?")
                self.apply(Answered(sequence, (junk,), asked_at_ms))
            elif fate == "foreign" and operation.step is not Step.PAY:
                self.apply(Answered(sequence, (self.lie_about("100", result.call),), asked_at_ms))
            elif fate == "slow":
                self.under_way.append(answer)
        if fate.startswith("ended"):
            self.apply(Ended(sequence))

    def lie_about(self, name: str, call: Call) -> Observation:
        """Return an entity that is captured, whatever the bank's true state is."""
        return Observation(
            call=call,
            cf_payment_id=name,
            authenticate_status="SUCCESS",
            payment_status="SUCCESS",
            is_captured=True,
            payment_amount=AMOUNT,
        )

    @rule()
    def leave(self) -> None:
        """The customer goes to the bank's page, where there is one."""
        try:
            self.write(leave_otp(self.held, self.flow, self.now_ms))
        except (IllegalStep, OtpLimit):
            return

    @precondition(lambda self: resendable(self.held, self.now_ms))
    @rule(fate=st.sampled_from(("answered", "slow", "lost")), mood=st.sampled_from(MOODS))
    def send_again(self, fate: str, mood: str) -> None:
        """A capture or void goes out again under its own key, and under no other."""
        before = self.held.record.operation
        self.write(resend(self.held, self.flow, self.now_ms))
        operation = self.held.record.operation
        assert before is not None
        assert operation is not None
        assert operation.step in {Step.CAPTURE, Step.VOID}
        assert (operation.key, operation.body) == (before.key, before.body)
        self.send(operation, fate, mood)

    @rule(to=st.sampled_from(MOVES), which=st.integers(0, 3))
    def bank_moves(self, to: str, which: int) -> None:
        """The bank changes the state of an attempt without a request."""
        names = list(self.bank.attempts)
        self.bank.move(names[which % len(names)], to, self.now_ms)
        if self.ours in self.bank.attempts:
            self.bank.move(str(self.ours), to, self.now_ms)

    @rule(last_four=st.sampled_from(("1111", "2222")))
    def another_page_pays(self, last_four: str) -> None:
        """Another attempt on the same order, perhaps with the very same card."""
        if len(self.bank.attempts) < 6:
            self.bank.attempt(self.now_ms, last_four)

    def asked(self) -> Event:
        """Ask the bank what would be asked now, or for the order."""
        if self.ours is not None:
            return Inquired((self.bank.entity(self.ours, self.now_ms),), self.now_ms)
        if self.held.record.operation is not None:
            seen = self.bank.everything(self.now_ms)
            return Inquired(seen, self.now_ms, everything=True)
        return self.bank.order(self.now_ms, T0)

    @rule(late=st.booleans())
    def inquire(self, late: bool) -> None:
        """Ask; the answer is applied now or at any later time."""
        event = self.asked()
        if late:
            self.under_way.append(event)
        else:
            self.apply(event)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 50), keep=st.booleans())
    def arrives(self, which: int, keep: bool) -> None:
        """An old answer is applied, out of order and perhaps more than once."""
        which %= len(self.under_way)
        event = self.under_way[which] if keep else self.under_way.pop(which)
        self.apply(event)

    @rule(
        status=st.sampled_from(STATUSES),
        captured=st.sampled_from((True, False, None)),
        action=st.sampled_from(("CAPTURE", "VOID", None)),
        confirmed=st.sampled_from(("SUCCESS", "PENDING", None)),
        amounts=st.tuples(st.sampled_from(AMOUNTS), st.sampled_from(AMOUNTS)),
        age_s=st.sampled_from((0, 0, 5, 400)),
        foreign=st.booleans(),
    )
    def garbage(self, status: str | None, captured: bool | None, age_s: int, **fields: Any) -> None:
        """The gateway contradicts itself, or its answer is about another attempt."""
        name = "100" if fields["foreign"] else self.ours
        seen = Observation(
            call=Call.FETCH_PAYMENT,
            cf_payment_id=name,
            payment_status=status,
            is_captured=captured,
            authorization_action=fields["action"],
            authorization_status=fields["confirmed"],
            captured_amount=fields["amounts"][0],
            payment_amount=fields["amounts"][1],
        )
        self.apply(Inquired((seen,), self.now_ms - age_s * SECOND))

    # Before an attempt, a closed order ends the whole life.
    @precondition(lambda self: self.ours is not None or self.held.record.operation is not None)
    @rule(status=st.sampled_from(("ACTIVE", "EXPIRED", "TERMINATED", "PAID", "OF_TOMORROW")))
    def order_seen(self, status: str) -> None:
        """A caller fetched the order."""
        self.apply(OrderSeen(status, self.now_ms))

    @rule(jump_s=st.sampled_from(JUMPS_S))
    def time_passes(self, jump_s: int) -> None:
        """Time passes, and sometimes a decision is made by the clock alone."""
        self.now_ms += jump_s * SECOND
        if jump_s % 2:
            self.apply(TimePassed())

    @rule()
    def wake(self) -> None:
        """A worker comes exactly when it is due, and asks."""
        if self.held.record.wake_at_ms is not None:
            self.now_ms = max(self.now_ms, self.held.record.wake_at_ms)
            self.apply(self.asked())

    def teardown(self) -> None:
        """From wherever it is: truthful answers at the wake times lead to an end."""
        if not hasattr(self, "held"):
            return
        for _ in range(INQUIRIES_MAX):
            record = self.held.record
            if record.wake_at_ms is None or record.open_reviews:
                assert record.state in {State.CAPTURED, State.VOIDED, State.FAILED} or (
                    record.open_reviews
                )
                return
            self.now_ms = max(self.now_ms, record.wake_at_ms)
            ask = what_to_ask(self.held, self.now_ms)
            assert ask is not Ask.NOTHING, "woken with nothing to ask"
            known = facts(self.held)
            self.apply(self.asked())
            later_at_ms = self.held.record.wake_at_ms
            learned = facts(self.held) != known
            asleep = later_at_ms is None or later_at_ms > self.now_ms
            assert learned or asleep, "woken again at once, for ever"
        pytest.fail(f"no end after {INQUIRIES_MAX} inquiries: {self.held.record}")


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def lives_by_hand() -> None:
    """Live the lives that random rules rarely come to."""
    for mood in ("right", "unconfirmed"):
        held = begun_life(PREAUTH, ("answered", "right"), ("answered", "wrong"), ("answered", mood))
        if mood == "unconfirmed":
            held.send_next(Step.CAPTURE, mood)
            held.bank_moves("confirm", 1)
        held.time_passes(700_000)
        held.teardown()
    asked = begun_life(NATIVE, ("answered", "right"))
    asked.time_passes(61)
    asked.send_next(Step.RESEND_OTP, "right")
    asked.leave()
    asked.time_passes(700_000)
    asked.teardown()
    begun_life(NATIVE).teardown()
    for first, other in ((Step.CAPTURE, Step.VOID), (Step.VOID, Step.CAPTURE)):
        lost = begun_life(PREAUTH, ("answered", "right"), ("answered", "right"))
        lost.step(tuple(Step).index(first), "ended before", "right", None)
        lost.time_passes(31)
        lost.apply(lost.asked())
        lost.send_next(other, "right")
        assert lost.held.record.state is (State.VOIDED if other is Step.VOID else State.CAPTURED)
        lost.teardown()


def begun_life(flow: Flow, *course: tuple[str, str]) -> Life:
    """Return a life after its first steps: what became of each, and the bank's mood."""
    life = Life()
    life.begin(flow, AMOUNT, list(course))
    return life


def test_every_branch_of_the_model_is_reached() -> None:
    """The random lives come to every state and every kind of answer that the model checks."""
    reached = Reached(bank_model)
    with reached.watching():
        lives_by_hand()
    for _ in range(8):
        with reached.watching():
            run_state_machine_as_test(Life, settings=TestLife.settings)
        if not reached.missing:
            return
    assert reached.missing == []


ENTITIES = st.builds(
    entity,
    status=st.sampled_from(STATUSES),
    is_captured=st.sampled_from((True, False, None)),
    authorization_action=st.sampled_from(("CAPTURE", "VOID", None)),
    authorization_status=st.sampled_from(("SUCCESS", "PENDING", None)),
    captured_amount=st.sampled_from(AMOUNTS),
    payment_amount=st.sampled_from(AMOUNTS),
    cf_payment_id=st.sampled_from((OURS, OURS, OURS, FOREIGN)),
)
OBSERVATIONS = st.lists(
    st.tuples(ENTITIES, st.sampled_from((0, 0, 0, 400))), min_size=1, max_size=4
)


@given(
    state=st.sampled_from(tuple(State)),
    flow=st.sampled_from((NATIVE, PREAUTH)),
    step=st.sampled_from((None, *Step)),
    observations=OBSERVATIONS,
)
@settings(max_examples=250, deadline=None)
def test_no_observations_break_an_invariant(
    state: State, flow: Flow, step: Step | None, observations: list[tuple[Observation, int]]
) -> None:
    """Any few entities, in any state, with any open step: contradictory, foreign or stale."""
    held, now_ms = a_payment(state, flow), T0 + 31 * SECOND
    if step is not None:
        with suppress(IllegalStep, InvalidAmount):
            held = begun(held, step, now_ms, flow).snapshot
    for seen, age_s in observations:
        now_ms += 6 * SECOND
        event = Inquired((seen,), now_ms - age_s * SECOND, everything=True)
        plan = decide(held, event, flow, now_ms)
        check(held, plan, event, flow, now_ms)
        held = plan.snapshot
