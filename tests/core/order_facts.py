"""What a stored order says: the facts that the rules of `order_model.py` are written with."""

from __future__ import annotations

import re

import msgspec

from cfflow.core.chart import State
from cfflow.core.operation import Step
from cfflow.core.order import Order
from cfflow.core.record import Record, Review, Sibling
from cfflow.store.protocol import Commit
from tests.core.core_kit import CHART, SECOND
from tests.core.order_bank import NAMING, ORDER_ID, Request

#: No call is on its way any more: a call's time limit and the margin after it.
OVER_MS = 25 * SECOND

MONEY = {State.AUTHORIZED, State.CAPTURED}
ENDS = {State.CAPTURED, State.VOIDED, State.FAILED}

_ATTEMPT = re.compile(r"\b1\d\d\b")


def permits(record: Record, step: Step) -> bool:
    """Return whether a payment by itself would permit this step."""
    wanted = {
        Step.PAY: {State.CREATED},
        Step.SUBMIT_OTP: {State.OTP_PENDING},
        Step.RESEND_OTP: {State.OTP_PENDING},
    }
    gone = record.abandoned and step not in NAMING
    fits = record.state in wanted.get(step, {State.AUTHORIZED})
    return fits and record.operation is None and not gone and not record.confirming


def keeps_order(payment: Sibling) -> bool:
    """Return whether a payment keeps the order from another one: it is open."""
    return payment.state not in ENDS and not payment.abandoned


def is_young_pay(call: Request, at_ms: int) -> bool:
    """Return whether a pay may still be on its way."""
    return call.operation.step is Step.PAY and at_ms - call.sent_at_ms < OVER_MS


def opened_step(payment: Sibling) -> Step | None:
    return None if payment.operation is None else payment.operation.step


def is_sent(was: Record | None, record: Record) -> bool:
    """Return whether a commit stored a call: a new step, or one that is sent again."""
    old, new = was.operation if was else None, record.operation
    assert new is not None
    return old is None or (old.sequence, old.sends) != (new.sequence, new.sends)


def holds_money(order: Order, n: int) -> bool:
    return order.has(n) and order.siblings[n].state in MONEY


def attempts_of(review: Review) -> set[str]:
    """Return the attempts that a review names."""
    return set(_ATTEMPT.findall(review.detail))


def names_of(record: Record) -> set[str]:
    return {name for review in record.reviews for name in attempts_of(review)}


def bytes_of(order: Order, n: int) -> bytes:
    payment = order.payments[n - 1]
    assert isinstance(payment, msgspec.Raw)
    return bytes(payment)


def index_of(order: Order) -> dict[tuple[str, str], int]:
    """Return the members of the indexes, computed from the records alone."""
    members = {}
    for n in range(1, len(order.payments) + 1):
        record = order.record(n)
        members[str(record.state), f"{ORDER_ID}.{n}"] = record.created_at_ms
        if any(review.acknowledged_at_ms is None for review in record.reviews):
            members["review", f"{ORDER_ID}.{n}"] = record.created_at_ms
    return members


def walked(commit: Commit, n: int, begins: State) -> str:
    """Return where the commit's events lead a payment; a KeyError is a jump."""
    here: str = begins
    for event in map(msgspec.msgpack.decode, commit.events):
        if event["payment_id"] == f"{ORDER_ID}.{n}" and "kind" not in event:
            assert event["from_state"] == here
            here = CHART[event["trigger"]][here]
            assert event["to_state"] == here
    return here


def visible(record: Record) -> Record:
    """Return a record without its bookkeeping: when it was asked about, and when it is due."""
    return msgspec.structs.replace(
        record,
        version=0,
        token="",
        updated_at_ms=0,
        wake_at_ms=None,
        asked_at_ms=0,
        since_at_ms=0,
        moved_at_ms=0,
        nonce="",
        order_expires_at_ms=None,
        pay_given_up_at_ms=None,
        hold_began_at_ms=None,
        details=None,
    )


def but_for_review(record: Record) -> Record:
    """Return a record without what a new review changes."""
    plain = msgspec.structs.replace(record, version=0, token="", updated_at_ms=0)
    return msgspec.structs.replace(plain, reviews=(), history=(), history_from=None)
