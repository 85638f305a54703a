"""How a notification changes a decision: what to ask, and when it is settled."""

from __future__ import annotations

import msgspec
import pytest

from cfflow import State
from cfflow.core.chart import HOLDS
from cfflow.core.decide import OrderSeen, decide, without_old_notices
from cfflow.core.due import Ask, Look, due_looks, settled_by, what_to_ask
from cfflow.core.observation import Observation
from cfflow.core.operation import Step
from cfflow.core.order import (
    Notice,
    Order,
    Snapshot,
    concerned,
    notice_digest,
    notice_digests,
)
from cfflow.core.plan import Plan, under_token
from tests.core.core_kit import (
    NATIVE,
    T0,
    a_created,
    a_payment,
    answered,
    beside,
    decided,
    entity,
    inquired,
    listed,
    opened,
    reasons,
    taken,
)

OURS = "77"
LATER = T0 + 60_000
NUMBER = 7


def noted(held: Snapshot, cf_payment_id: str = "", reported_state: str = "") -> Snapshot:
    """Return the payment with a notification of now, about its own attempt or another one."""
    about = cf_payment_id or held.record.cf_payment_id or OURS
    notice = Notice(NUMBER, about, reported_state)
    order = msgspec.structs.replace(held.order, notices=(notice,))
    return order.payment(held.n)


def its(held: Snapshot) -> tuple[Notice, ...]:
    """Return the notifications of the payment's order."""
    return held.order.notices


def foreign(observation: Observation) -> Observation:
    """Return what the gateway shows of an attempt that no payment here has."""
    return msgspec.structs.replace(observation, cf_payment_id="foreign")


# what to ask


@pytest.mark.parametrize("state", [state for state in State if state is not State.CREATED])
def test_the_attempt_is_asked_for_when_the_notification_is_about_it(state: State) -> None:
    """In every state, also a final one: money can come late, and holds lapse."""
    assert what_to_ask(noted(a_payment(state)), LATER) is Ask.PAYMENT


@pytest.mark.parametrize("state", [state for state in State if state is not State.CREATED])
def test_all_attempts_are_asked_for_when_it_is_about_another(state: State) -> None:
    """Only the list of attempts shows what a foreign attempt did."""
    assert what_to_ask(noted(a_payment(state), "foreign"), LATER) is Ask.PAYMENTS


def test_all_attempts_are_asked_for_after_two_that_differ() -> None:
    """One of the two was about a foreign attempt."""
    assert what_to_ask(noted(a_payment(State.AUTHORIZED), "*"), LATER) is Ask.PAYMENTS


def test_the_order_is_asked_for_before_anything_was_paid() -> None:
    """The order is paid elsewhere; without a notification no inquiry would be due yet."""
    held = a_created()
    assert what_to_ask(held, T0 + 1) is Ask.NOTHING
    assert what_to_ask(noted(held), T0 + 1) is Ask.ORDER


def test_a_step_on_its_way_is_not_asked_about() -> None:
    """The step's own answer comes first."""
    held = noted(opened(a_created(), Step.PAY, T0))
    assert what_to_ask(held, T0 + 1) is Ask.NOTHING


# when it is settled


def settled(plan: Plan) -> tuple[list[int], list[int]]:
    """Return the numbers of the notifications that a plan settles, and of those that it leaves."""
    left = [notice.number for notice in plan.after.notices]
    return [notice.number for notice in plan.answered], left


def test_an_inquiry_that_lists_it_settles_it() -> None:
    """The inquiry was made after the notification had come."""
    held = noted(a_payment(State.INITIATED))
    event = msgspec.structs.replace(
        inquired(entity("PENDING"), asked_at_ms=LATER), answered=its(held)
    )
    assert settled(decide(held, event, NATIVE, LATER)) == ([NUMBER], [])


def test_a_fetched_order_settles_it_too() -> None:
    """A payment without an attempt can ask only for its order."""
    held = noted(a_created())
    event = OrderSeen("ACTIVE", LATER, answered=its(held))
    assert settled(decide(held, event, NATIVE, LATER)) == ([NUMBER], [])


@pytest.mark.parametrize(
    "answered",
    [(), (Notice(NUMBER - 1, OURS),), (Notice(NUMBER + 1, OURS),), (Notice(NUMBER, "foreign"),)],
)
def test_an_inquiry_leaves_every_other_notification(answered: tuple[Notice, ...]) -> None:
    """One that came later, or that has its number again after the store lost the first."""
    held = noted(a_payment(State.INITIATED))
    event = msgspec.structs.replace(
        inquired(entity("PENDING"), asked_at_ms=LATER), answered=answered
    )
    assert settled(decide(held, event, NATIVE, LATER)) == ([], [NUMBER])


def test_the_same_fact_from_a_step_settles_it() -> None:
    """The step's answer already proves what the notification reported."""
    page = a_payment(State.OTP_PENDING)
    held = noted(opened(page, Step.SUBMIT_OTP, T0), reported_state="captured")
    plan = decide(held, answered(held, taken(), asked_at_ms=T0), NATIVE, LATER)
    assert plan.record.state is State.CAPTURED
    assert settled(plan) == ([NUMBER], [])


@pytest.mark.parametrize("state", [State.INITIATED, State.OTP_PENDING])
def test_an_answer_without_a_change_makes_no_version(state: State) -> None:
    """A new version would make the customer's own step fail with a Conflict."""
    event = inquired(entity("PENDING"), asked_at_ms=LATER)
    held = noted(decided(a_payment(state), event, LATER))
    plan = decide(held, msgspec.structs.replace(event, answered=its(held)), NATIVE, LATER)
    assert not plan.change.is_visible
    assert plan.record.updated_at_ms == held.record.updated_at_ms
    assert under_token(plan, "fresh").record.token == held.record.token


def test_an_answer_that_settles_a_moment_moves_the_schedule_on() -> None:
    """A webhook that comes while a look is due must not make that look due again."""
    held = noted(a_payment(State.INITIATED))
    event = inquired(entity("PENDING"), asked_at_ms=LATER)
    plan = decide(held, msgspec.structs.replace(event, answered=its(held)), NATIVE, LATER)
    assert plan.record.asked_at_ms == LATER
    assert plan.record.wake_at_ms is not None
    assert plan.record.wake_at_ms > LATER


def test_an_answer_with_a_change_is_a_version_under_the_commits_token() -> None:
    """A caller who lost the commit's reply finds out by the token that it was applied."""
    held = noted(a_payment(State.INITIATED))
    plan = decide(held, inquired(taken(), asked_at_ms=LATER), NATIVE, LATER)
    assert plan.change.is_visible
    plan = under_token(plan, "fresh")
    assert (plan.after.token, plan.after.record(1).token) == ("fresh", "fresh")


# which notifications an inquiry settles


def an_order(*cf_payment_ids: str | None, notices: tuple[str, ...]) -> Order:
    """Return an order whose payments have these attempts, with notifications about these."""
    records = [
        msgspec.structs.replace(
            a_payment(State.CREATED if name is None else State.INITIATED).record,
            cf_payment_id=name,
        )
        for name in cf_payment_ids
    ]
    kept = tuple(Notice(n, about, "") for n, about in enumerate(notices, 1))
    return Order(id="order_1", payments=tuple(records), notices=kept)


@pytest.mark.parametrize(
    ("look", "numbers"),
    [
        (Look(Ask.PAYMENT, (1,)), (1,)),
        (Look(Ask.PAYMENT, (2,)), (2,)),
        (Look(Ask.PAYMENTS, (1,)), (1,)),
        (Look(Ask.PAYMENTS, (1, 2)), (1, 2, 3)),
        (Look(Ask.ORDER, (1,)), ()),
        (Look(Ask.NOTHING, (1, 2)), ()),
    ],
)
def test_an_inquiry_settles_only_what_it_is_decided_for(
    look: Look, numbers: tuple[int, ...]
) -> None:
    """A list decided for one payment leaves what concerns the other one."""
    order = an_order("1", "2", notices=("1", "2", "foreign"))
    assert tuple(notice.number for notice in settled_by(order, look)) == numbers


def test_a_fetched_order_settles_what_concerns_payments_without_attempts() -> None:
    """Where no payment has an attempt, the order's status is all that can be asked for."""
    order = an_order(None, notices=("foreign",))
    assert settled_by(order, Look(Ask.ORDER, (1,))) == order.notices


def test_one_list_serves_all_that_is_due() -> None:
    """Two due payments, or one that needs the list: one call for all of them."""
    order = an_order("1", "2", None, notices=("1", "2"))
    assert due_looks(order, T0) == (Look(Ask.PAYMENTS, (1, 2)),)
    assert due_looks(an_order("1", "2", notices=("1",)), T0) == (Look(Ask.PAYMENT, (1,)),)
    foreign_too = an_order(None, "2", notices=("2", "foreign"))
    assert due_looks(foreign_too, T0) == (Look(Ask.PAYMENT, (2,)), Look(Ask.ORDER, (1,)))
    everything = an_order("1", "2", None, notices=("*",))
    assert due_looks(everything, T0) == (Look(Ask.PAYMENTS, (1, 2, 3)),)


def test_what_reports_nothing_new_makes_nothing_due() -> None:
    """It is removed by a commit that changes no payment."""
    held = noted(a_payment(State.CAPTURED), reported_state="captured")
    assert due_looks(held.order, T0) == ()
    plan = without_old_notices(held.order)
    assert settled(plan) == ([NUMBER], [])
    assert plan.changes == ()


# whom a notification concerns


@pytest.mark.parametrize(
    ("states", "about", "expected"),
    [
        (["failed:1", "captured:2"], "1", (1,)),
        (["failed:1", "captured:2"], "foreign", (2,)),
        (["failed:1", "created:"], "foreign", (2,)),
        (["authorized:1", "created:"], "foreign", (1, 2)),
        (["failed:1", "failed:2"], "foreign", (2,)),
        (["failed:1", "captured:2"], "*", (1, 2)),
        (["failed:1", "captured:2"], "", ()),
    ],
)
def test_whom_a_notification_concerns(
    states: list[str], about: str, expected: tuple[int, ...]
) -> None:
    """The owner; else who may have lost a pay or has money; else the newest."""
    records = []
    for text in states:
        state, _, name = text.partition(":")
        record = a_payment(State(state)).record
        records.append(msgspec.structs.replace(record, cf_payment_id=name or None))
    order = Order(id="order_1", payments=tuple(records))
    assert concerned(order, about) == expected


def test_the_digests_are_those_of_payments_at_their_end() -> None:
    """Notifications report ends only; a payment that is not over has nothing to compare."""
    over = a_payment(State.CAPTURED).record
    held = beside(a_payment(State.OTP_PENDING), over)
    assert notice_digests(held.order) == notice_digest(over.cf_payment_id or "", "captured")
    assert notice_digest("1", "captured") != notice_digest("1", "failed")


# foreign attempts


@pytest.mark.parametrize("state", [State.INITIATED, State.OTP_PENDING])
def test_money_elsewhere_is_reviewed_while_ours_still_waits(state: State) -> None:
    """Once our attempt has its money too, no inquiry may ask for the other attempts."""
    seen = decided(
        a_payment(state), listed(entity("PENDING"), foreign(taken()), asked_at_ms=LATER), LATER
    )
    assert reasons(seen) == ["two_holds"]


@pytest.mark.parametrize("other", [entity(is_captured=False), taken()], ids=["held", "taken"])
@pytest.mark.parametrize("state", sorted(HOLDS))
def test_money_on_two_attempts_is_reviewed(state: State, other: Observation) -> None:
    """The customer paid here and on another page: a review must open."""
    held = a_payment(state)
    ours = entity(is_captured=False) if state is State.AUTHORIZED else taken()
    seen = decided(held, listed(ours, foreign(other), asked_at_ms=LATER), LATER)
    assert "two_holds" in reasons(seen)


@pytest.mark.parametrize("status", ["FAILED", "PENDING", "VOID", "USER_DROPPED"])
def test_a_foreign_attempt_without_money_opens_no_review(status: str) -> None:
    """Customers try more than once."""
    held = a_payment(State.CAPTURED)
    seen = decided(held, listed(taken(), foreign(entity(status)), asked_at_ms=LATER), LATER)
    assert reasons(seen) == []


def test_money_of_another_payment_of_the_order_is_not_foreign() -> None:
    """The rule for siblings reports it, and names both payments."""
    held = a_payment(State.CAPTURED)
    failed = a_payment(State.FAILED).record
    held = beside(held, msgspec.structs.replace(failed, cf_payment_id="foreign"))
    seen = decided(held, listed(taken(), foreign(taken()), asked_at_ms=LATER), LATER)
    assert reasons(seen) == []


def test_the_same_foreign_attempt_is_reviewed_once() -> None:
    """A fact that a person has acknowledged opens no second review."""
    held = a_payment(State.CAPTURED)
    event = listed(taken(), foreign(taken()), asked_at_ms=LATER)
    assert reasons(decided(decided(held, event, LATER), event, LATER)) == ["two_holds"]
