"""Which attempts an adoption gives to which payments of the order as it is by then."""

from __future__ import annotations

from itertools import count

from cfflow.core.adoption import adopt
from cfflow.core.chart import State
from tests.core.core_kit import FOREIGN, NATIVE, T0, a_created, a_payment, beside, entity


def test_a_payment_that_began_after_the_flows_were_read_keeps_its_own_pay() -> None:
    """Its customer is about to pay: the attempt gets a payment of its own."""
    order = beside(a_created(), a_payment(State.FAILED).record).order
    numbers = count()
    adoption = adopt(
        order,
        [entity(cf_payment_id=FOREIGN)],
        [NATIVE],
        {1: NATIVE},
        asked_at_ms=T0,
        now_ms=T0,
        nonce=lambda: f"n{next(numbers)}",
    )
    owners = [payment.cf_payment_id for payment in adoption.plan.after.siblings.values()]
    assert owners[1:] == [None, FOREIGN]
