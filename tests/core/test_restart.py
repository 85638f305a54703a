"""After the store lost commits: how many inquiries verify an order, and what they review."""

from __future__ import annotations

import msgspec
import pytest

from cfflow.core.chart import State
from cfflow.core.decide import decide_all
from cfflow.core.operation import Step
from cfflow.core.order import Order
from cfflow.core.record import Record
from cfflow.core.restart import Restart, asked_once, verifies
from tests.core.core_kit import (
    FOREIGN,
    HOUR,
    NATIVE,
    OURS,
    T0,
    a_created,
    a_payment,
    entity,
    listed,
    opened,
)

RESTART = Restart("present")


def of(state: State, **changes: object) -> Record:
    """Return a payment in this state."""
    return msgspec.structs.replace(a_payment(state).record, **changes)


PAYING = opened(a_created(), Step.PAY, T0).record


@pytest.mark.parametrize(
    ("payments", "is_one_enough"),
    [
        ((of(State.CREATED),), False),
        ((PAYING,), False),
        ((of(State.INITIATED),), True),
        ((of(State.OTP_PENDING),), True),
        ((of(State.AUTHORIZED),), True),
        ((of(State.CAPTURED),), True),
        ((of(State.FAILED),), False),
        ((of(State.VOIDED),), False),
        ((of(State.CREATED, abandoned=True),), False),
        ((of(State.INITIATED, abandoned=True),), False),
        ((of(State.AUTHORIZED, abandoned=True),), True),
        ((of(State.AUTHORIZED), of(State.CREATED)), False),
        ((of(State.FAILED), of(State.CAPTURED)), True),
    ],
)
def test_where_a_pay_may_be_lost_two_inquiries_verify_the_order(
    payments: tuple[Record, ...], is_one_enough: bool
) -> None:
    """A free order may have lost a payment that was started and paid, and not only the pay."""
    order = Order(id="order_1", payments=payments)
    assert verifies(order, RESTART) is is_one_enough
    assert verifies(asked_once(order, RESTART, T0), RESTART)


@pytest.mark.parametrize(
    "left",
    [
        of(State.CREATED),
        of(State.CREATED, abandoned=True),
        of(State.FAILED),
        of(State.VOIDED),
        of(State.OTP_PENDING, abandoned=True),
    ],
)
def test_the_attempt_of_a_payment_that_was_lost_is_reviewed(left: Record) -> None:
    """The customer may be paying it; on the newest payment, so that the order takes no pay."""
    first = of(State.FAILED, cf_payment_id="1")
    order = Order(id="order_1", payments=(first, left))
    seen = [entity("PENDING", cf_payment_id=FOREIGN), entity("FAILED", cf_payment_id="1")]
    shown = {State.FAILED: "FAILED", State.VOIDED: "VOID", State.OTP_PENDING: "PENDING"}
    if left.cf_payment_id == OURS:
        seen.append(entity(shown[left.state]))
    event = msgspec.structs.replace(listed(*seen, asked_at_ms=T0 + HOUR), nonce="fresh")
    after = decide_all(order, {1: event, 2: event}, {1: NATIVE, 2: NATIVE}, T0 + HOUR).after
    reviews = [[(r.reason, r.detail) for r in s.open_reviews] for s in after.siblings.values()]
    detail = f"the store lost commits; attempt {FOREIGN} may be a lost pay"
    assert reviews == [[], [("unclaimed_money", detail)]]
    assert [after.record(n).nonce for n in (1, 2)] == ["fresh", "fresh"]
