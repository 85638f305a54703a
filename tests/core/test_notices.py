"""How a notification changes a decision: what to ask, and when it is settled."""

from __future__ import annotations

import msgspec
import pytest

from cfflow import State
from cfflow.core.chart import HOLDS
from cfflow.core.decide import OrderSeen, decide
from cfflow.core.due import Ask, what_to_ask
from cfflow.core.observation import Observation
from cfflow.core.operation import Step
from cfflow.core.record import Attempt, Notice, Snapshot
from tests.core.core_kit import (
    NATIVE,
    T0,
    a_created,
    a_payment,
    after,
    answered,
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


def noted(held: Snapshot, cf_payment_id: str = "", reported_state: str = "") -> Snapshot:
    """Return the payment with a notification of now, about its own attempt or another one."""
    about = cf_payment_id or held.record.cf_payment_id or OURS
    return msgspec.structs.replace(held, notice=Notice(LATER, about, reported_state))


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


def test_an_inquiry_made_after_it_settles_it() -> None:
    """The inquiry was made after the notification had come."""
    held = noted(a_payment(State.INITIATED))
    event = msgspec.structs.replace(
        inquired(entity("PENDING"), asked_at_ms=LATER), notice_at_ms=LATER
    )
    plan = decide(held, event, NATIVE, LATER)
    assert (plan.settles_until_at_ms, after(plan).notice) == (LATER, None)


def test_a_fetched_order_settles_it_too() -> None:
    """A payment without an attempt can ask only for its order."""
    plan = decide(noted(a_created()), OrderSeen("ACTIVE", LATER, notice_at_ms=LATER), NATIVE, LATER)
    assert (plan.settles_until_at_ms, after(plan).notice) == (LATER, None)


def test_an_older_inquiry_leaves_it_open() -> None:
    """An inquiry made before the notification proves nothing about it."""
    held = noted(a_payment(State.INITIATED))
    plan = decide(held, inquired(entity("PENDING"), asked_at_ms=LATER), NATIVE, LATER)
    assert (plan.settles_until_at_ms, after(plan).notice) == (0, held.notice)


def test_the_same_fact_from_a_step_settles_it() -> None:
    """The step's answer already proves what the notification reported."""
    page = a_payment(State.OTP_PENDING)
    held = noted(opened(page, Step.SUBMIT_OTP, T0), reported_state="captured")
    seen = decided(held, answered(held, taken(), asked_at_ms=T0), LATER)
    assert (seen.record.state, seen.notice) == (State.CAPTURED, None)


@pytest.mark.parametrize("state", [State.INITIATED, State.OTP_PENDING])
def test_an_answer_without_a_change_only_clears_the_notification(state: State) -> None:
    """A new version would make the customer's own step fail with a Conflict."""
    event = inquired(entity("PENDING"), asked_at_ms=LATER)
    held = noted(decided(a_payment(state), event, LATER))
    assert decide(
        held, msgspec.structs.replace(event, notice_at_ms=LATER), NATIVE, LATER
    ).only_clears_notifications


def test_an_answer_that_settles_a_moment_is_committed() -> None:
    """A webhook that comes while a look is due must not make that look due again."""
    held = noted(a_payment(State.INITIATED))
    event = inquired(entity("PENDING"), asked_at_ms=LATER)
    plan = decide(held, msgspec.structs.replace(event, notice_at_ms=LATER), NATIVE, LATER)
    assert not plan.only_clears_notifications
    assert plan.record.asked_at_ms == LATER
    assert plan.record.wake_at_ms is not None
    assert plan.record.wake_at_ms > LATER


def test_an_answer_with_a_change_is_committed() -> None:
    """A changed state is committed."""
    held = noted(a_payment(State.INITIATED))
    event = msgspec.structs.replace(inquired(taken(), asked_at_ms=LATER), notice_at_ms=LATER)
    assert not decide(held, event, NATIVE, LATER).only_clears_notifications


def test_an_inquiry_without_a_notification_is_committed() -> None:
    """An inquiry without a notification moves the schedule on, so it is committed."""
    held = a_payment(State.INITIATED)
    assert not decide(
        held, inquired(entity("PENDING"), asked_at_ms=LATER), NATIVE, LATER
    ).only_clears_notifications


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
    other = Attempt(State.FAILED, "foreign")
    held = msgspec.structs.replace(held, attempts=(Attempt(State.CAPTURED, OURS), other))
    seen = decided(held, listed(taken(), foreign(taken()), asked_at_ms=LATER), LATER)
    assert reasons(seen) == []


def test_the_same_foreign_attempt_is_reviewed_once() -> None:
    """A fact that a person has acknowledged opens no second review."""
    held = a_payment(State.CAPTURED)
    event = listed(taken(), foreign(taken()), asked_at_ms=LATER)
    assert reasons(decided(decided(held, event, LATER), event, LATER)) == ["two_holds"]
