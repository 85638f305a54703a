"""Orders in every state, as bytes that each version of cfflow has written.

`python -m tests.ports.stored_forms` writes those of this version, once for each version: what is
stored in `tests/ports/stored/` must load for ever.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

import cfflow
from cfflow.core.chart import State
from cfflow.core.operation import Step
from cfflow.core.order import ForeignMoney, Order, Snapshot
from cfflow.core.plan import Plan, under_token
from cfflow.core.record import Review
from cfflow.store.codec import commit_of, decode_order
from cfflow.store.protocol import StoredOrder
from tests.core.core_kit import (
    HOUR,
    NATIVE,
    PREAUTH,
    T0,
    a_created,
    a_payment,
    begun,
    beside,
    with_record,
)

FOLDER: Final = Path(__file__).parent / "stored"


def orders() -> dict[str, Order]:
    """Return one order for each form that is stored, the same ones on every run."""
    found = {state.value: a_payment(state, PREAUTH) for state in State}
    found["pay_open"] = begun(a_created(), Step.PAY, T0).snapshot
    found["otp_open"] = begun(a_payment(State.OTP_PENDING), Step.SUBMIT_OTP, T0).snapshot
    held = a_payment(State.AUTHORIZED, PREAUTH)
    found["capture_open"] = begun(held, Step.CAPTURE, T0 + HOUR, PREAUTH).snapshot
    review = Review("two_holds", T0, "both", "asha", "kept one", T0 + HOUR)
    found["reviewed"] = with_record(held, reviews=(review, Review("no_answer", T0)))
    siblings = [a_payment(state, NATIVE).record for state in (State.FAILED, State.CREATED)]
    found["four"] = beside(
        a_payment(State.OTP_PENDING),
        *siblings,
        msgspec.structs.replace(siblings[0], cf_payment_id="77", metadata={"table": 7}),
        seen_attempt_ids=("9001", "77", "9999"),
        foreign_money=(ForeignMoney("9999", 2), ForeignMoney("8888", 1, is_closed=True)),
        verified_in="12345678",
        first_verified_at_ms=T0,
    )
    return {name: _stored(held) for name, held in found.items()}


def _stored(held: Snapshot) -> Order:
    actions = {} if held.next_action is None else {held.n: held.next_action}
    order = msgspec.structs.replace(held.order, actions=actions)
    empty = Order(id=order.id)
    return under_token(Plan(before=empty, after=order), "a token of").after


def written() -> dict[str, Any]:
    """Return what this version stores of these orders, and what it shows of them."""
    return {name: _written(order) for name, order in orders().items()}


def _written(order: Order) -> dict[str, Any]:
    commit = commit_of(Plan(before=Order(id=order.id), after=order))
    assert commit.record is not None
    return {
        "record": commit.record.hex(),
        "actions": (commit.actions or b"").hex(),
        "shows": shown(order),
    }


def loaded(form: dict[str, Any]) -> Order:
    """Return the order of a stored form."""
    record, actions = bytes.fromhex(form["record"]), bytes.fromhex(form["actions"])
    return decode_order(StoredOrder("order_1", "", "token", record, actions))


def shown(order: Order) -> dict[str, Any]:
    """Return all that an order has, as plain data."""
    return {
        "payments": [msgspec.to_builtins(payment.record) for payment in order.all_payments],
        "seen": list(order.seen_attempt_ids),
        "foreign": msgspec.to_builtins(order.foreign_money),
        "verified": [order.verified_in, order.first_verified_at_ms],
        "actions": msgspec.to_builtins({str(n): a for n, a in order.actions.items()}),
    }


def path_of(version: str) -> Path:
    """Return the file with what a version has written."""
    return FOLDER / f"{version}.json"


if __name__ == "__main__":
    path = path_of(cfflow.__version__)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(json.loads(msgspec.json.encode(written())), indent=1) + "\n")
