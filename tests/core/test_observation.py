"""What each answer proves: gateway.md#proof, row by row and in every combination."""

from __future__ import annotations

from itertools import product

import pytest

from cfflow.core.chart import State
from cfflow.core.observation import ROWS, Call, Observation, prove
from tests.core.core_kit import entity, otp_result, paid, proven

STATUSES = (
    "SUCCESS",
    "NOT_ATTEMPTED",
    "FAILED",
    "USER_DROPPED",
    "VOID",
    "CANCELLED",
    "PENDING",
    "FLAGGED",
    "INCOMPLETE",
    "REFUND_OF_TOMORROW",
    "success",
    "",
    None,
)
CAPTURED = (True, False, None)
ACTIONS = ("CAPTURE", "VOID", None, "EXTEND")
CONFIRMED = ("SUCCESS", "PENDING", None, "FAILED")
ENTITIES = (Call.FETCH_PAYMENT, Call.FETCH_PAYMENTS, Call.AUTHORIZE)

S = State


@pytest.mark.parametrize(
    ("observation", "row", "state"),
    [
        (entity("FAILED"), 1, S.FAILED),
        (entity("USER_DROPPED"), 1, S.FAILED),
        (entity("CANCELLED"), 1, S.FAILED),
        (entity("VOID"), 2, S.VOIDED),
        (entity(authorization_action="VOID", authorization_status="SUCCESS"), 2, S.VOIDED),
        (entity(authorization_action="VOID", authorization_status="PENDING"), 3, S.AUTHORIZED),
        (entity(is_captured=True), 4, S.CAPTURED),
        (entity(authorization_action="CAPTURE", authorization_status="SUCCESS"), 4, S.CAPTURED),
        (entity(), 5, S.AUTHORIZED),
        (entity(authorization_action="CAPTURE", authorization_status="PENDING"), 5, S.AUTHORIZED),
        (entity("PENDING"), 6, None),
        (entity("NOT_ATTEMPTED"), 6, None),
        (entity("FLAGGED"), 6, None),
        (entity("INCOMPLETE"), 6, None),
        (entity("REFUND_OF_TOMORROW"), 6, None),
        (paid("post"), 7, S.OTP_PENDING),
        (paid("link"), 8, S.INITIATED),
        (paid("form"), 8, S.INITIATED),
        (paid("custom"), 8, S.INITIATED),
        (otp_result("SUCCESS"), 9, None),
        (otp_result("FAILED"), 10, S.OTP_PENDING),
    ],
)
def test_each_row_proves_its_state(observation: Observation, row: int, state: State | None) -> None:
    """Each row of the table, in the gateway's own words."""
    assert prove(observation)[:2] == (row, state)


@pytest.mark.parametrize("call", ENTITIES)
@pytest.mark.parametrize("status", STATUSES)
def test_each_combination_of_entity_fields_proves_the_state_of_the_table(
    call: Call, status: str | None
) -> None:
    """First match wins over all combinations, whichever call brought the entity."""
    for captured, action, confirmed in product(CAPTURED, ACTIONS, CONFIRMED):
        seen = Observation(
            call=call,
            payment_status=status,
            is_captured=captured,
            authorization_action=action,
            authorization_status=confirmed,
        )
        assert prove(seen)[:2] == proven(seen), seen.summary()


def test_the_earlier_row_wins_where_several_match() -> None:
    """A failed attempt with is_captured true is failed; a released hold is never captured."""
    both = {"is_captured": True, "authorization_action": "VOID", "authorization_status": "SUCCESS"}
    assert prove(entity("FAILED", **both)).row == 1
    assert prove(entity("SUCCESS", **both)).row == 2
    assert prove(entity("SUCCESS", **both | {"authorization_status": "PENDING"})).row == 3
    assert [row.number for row in ROWS] == list(range(1, 11))


@pytest.mark.parametrize("call", [c for c in Call if c not in ENTITIES])
def test_only_a_payment_entity_is_read_by_the_entity_rows(call: Call) -> None:
    """Entity fields on any other answer prove no money."""
    seen = Observation(call=call, payment_status="SUCCESS", is_captured=True)
    assert prove(seen).state is None
    assert prove(seen)[:2] == proven(seen) == (0, None)


@pytest.mark.parametrize("status", [None, "", "PENDING", "success", "ACCEPTED"])
def test_an_unknown_authenticate_status_proves_nothing(status: str | None) -> None:
    """Only SUCCESS and FAILED mean something; anything else leaves the outcome unknown."""
    assert prove(Observation(call=Call.AUTHENTICATE, authenticate_status=status))[:2] == (0, None)


@pytest.mark.parametrize("action", ["post", "link", None])
def test_a_pay_answer_without_an_id_proves_no_attempt(action: str | None) -> None:
    """Without a cf_payment_id no attempt is known to exist, whatever the action is."""
    assert prove(Observation(call=Call.PAY, action=action))[:2] == (0, None)


def test_summary_and_brief_have_the_proving_fields_in_the_gateways_words() -> None:
    """`why` and the history quote the proving fields; an empty answer is named as empty."""
    seen = entity(is_captured=False, authorization_action="CAPTURE", authorization_status=None)
    assert seen.summary() == "payment_status=SUCCESS is_captured=false authorization=CAPTURE+?"
    assert seen.brief() == "SUCCESS CAPTURE+?"
    assert Observation(call=Call.PAY).summary() == "nothing that the table reads"
    assert len(entity("X" * 500).brief()) <= 48
