"""Payments in every state, answers of every kind, and a second reading of gateway.md#proof."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from cfflow.core.actions import AskOtp, NextAction
from cfflow.core.chart import State
from cfflow.core.decide import Answered, Event, Inquired, OrderSeen, decide
from cfflow.core.flow import Flow, parse
from cfflow.core.observation import Call, Observation
from cfflow.core.operation import Step
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Plan
from cfflow.core.record import TRIGGERS, EntryKind, Record
from cfflow.core.steps import (
    Instrument,
    begin_authorize,
    begin_pay,
    begin_resend,
    begin_submit,
    create,
)

T0 = 1_760_000_000_000
SECOND = 1_000
HOUR = 3_600_000
DAY = 24 * HOUR
OURS = "9001"
FOREIGN = "9999"
AMOUNT = Decimal("10.01")
BANK_PAGE = "https://bank.example/otp"
CARD = Instrument("card", "post", "1111")
STEPS = tuple(Step)


def jittered(interval_ms: int) -> int:
    """Return the longest form of an interval of the schedule: its jitter adds up to a tenth."""
    return interval_ms + interval_ms // 10


FLOWS_DIR = Path(__file__).resolve().parents[2] / "flows"

#: The chart once more, written by hand from the design: trigger → {from: to}.
CHART: dict[str, dict[str, str]] = {
    "initiate": {"created": "initiated"},
    "require_otp": {"initiated": "otp_pending"},
    "reject_otp": {"otp_pending": "otp_pending"},
    "resend_otp": {"otp_pending": "otp_pending"},
    "leave_otp": {"otp_pending": "initiated"},
    "hold": {"initiated": "authorized", "otp_pending": "authorized"},
    "capture": {"authorized": "captured"},
    "void": {"authorized": "voided"},
    "fail": dict.fromkeys(("created", "initiated", "otp_pending", "authorized"), "failed"),
    "revive": {"failed": "authorized"},
}


def shipped(name: str, **changes: Any) -> Flow:
    """Return a shipped flow, with some of its rules changed."""
    flow = parse((FLOWS_DIR / f"{name}.toml").read_bytes(), file=name)
    return msgspec.structs.replace(flow, **changes)


NATIVE = shipped("native_otp")
PREAUTH = shipped("preauth")


def proven(o: Observation) -> tuple[int, State | None]:
    """Return row and state by gateway.md#proof, read a second time, independent of the code."""
    asked = (o.authorization_action, o.authorization_status)
    match o.call:
        case Call.AUTHORIZE | Call.FETCH_PAYMENT | Call.FETCH_PAYMENTS:
            if o.payment_status in ("FAILED", "USER_DROPPED", "CANCELLED"):
                return 1, State.FAILED
            if o.payment_status == "VOID" or asked == ("VOID", "SUCCESS"):
                return 2, State.VOIDED
            if o.payment_status != "SUCCESS":
                return 6, None
            if asked == ("VOID", "PENDING"):
                return 3, State.AUTHORIZED
            taken = o.is_captured is True or asked == ("CAPTURE", "SUCCESS")
            return (4, State.CAPTURED) if taken else (5, State.AUTHORIZED)
        case Call.PAY if o.cf_payment_id is not None:
            return (7, State.OTP_PENDING) if o.action == "post" else (8, State.INITIATED)
        case Call.AUTHENTICATE if o.authenticate_status == "SUCCESS":
            return 9, None
        case Call.AUTHENTICATE if o.authenticate_status == "FAILED":
            return 10, State.OTP_PENDING
    return 0, None


def states_walked(record: Record) -> list[str]:
    """Return the states of a history by the hand-written chart; a KeyError is a jump."""
    states = [str(record.history_from or State.CREATED)]
    for entry in record.history:
        if entry.kind == EntryKind.TRANSITION:
            states.append(CHART[TRIGGERS[entry.code]][states[-1]])
    return states


def entity(status: str | None = "SUCCESS", **fields: Any) -> Observation:
    """Return a payment entity of our attempt, as a fetch returns it."""
    plain: dict[str, Any] = {
        "call": Call.FETCH_PAYMENT,
        "cf_payment_id": OURS,
        "payment_status": status,
        "payment_amount": AMOUNT,
        "method": "card",
        "channel": "post",
        "last_four": "1111",
    }
    return Observation(**(plain | fields))


def taken(**fields: Any) -> Observation:
    """Return an entity whose money is captured."""
    return entity(**({"is_captured": True} | fields))


def paid(action: str = "post", **fields: Any) -> Observation:
    """Return an answer to pay."""
    plain: dict[str, Any] = {"call": Call.PAY, "cf_payment_id": OURS, "action": action}
    return Observation(**(plain | fields))


def otp_result(status: str, **fields: Any) -> Observation:
    """Return the gateway's result of an authenticate call."""
    plain: dict[str, Any] = {
        "call": Call.AUTHENTICATE,
        "cf_payment_id": OURS,
        "authenticate_status": status,
    }
    return Observation(**(plain | fields))


def inquired(*seen: Observation, asked_at_ms: int, everything: bool = False) -> Inquired:
    """Return the event of an inquiry that was asked at `asked_at_ms`."""
    return Inquired(seen, asked_at_ms, everything=everything)


def listed(*seen: Observation, asked_at_ms: int) -> Inquired:
    """Return the event of an inquiry for all attempts of the order."""
    as_list = (msgspec.structs.replace(o, call=Call.FETCH_PAYMENTS) for o in seen)
    return Inquired(tuple(as_list), asked_at_ms, everything=True)


def after(plan: Plan) -> Snapshot:
    """Return what a store would hold after this plan."""
    return plan.snapshot


def decided(held: Snapshot, event: Event, now_ms: int, flow: Flow = NATIVE) -> Snapshot:
    """Return the payment after one event."""
    return after(decide(held, event, flow, now_ms))


def reasons(held: Snapshot) -> list[str]:
    """Return the reasons of the open reviews."""
    return [review.reason for review in held.record.open_reviews]


def a_created(flow: Flow = NATIVE, amount: Decimal | None = AMOUNT) -> Snapshot:
    """Return a payment that has just been started, at T0."""
    record = create(flow, T0, nonce="n0", currency="INR", amount=amount, metadata=None)
    return alone(record)


def alone(record: Record, **beside: Any) -> Snapshot:
    """Return the only payment of an order, with what lies beside its record."""
    return Order(id="order_1", payments=(record,), **beside).payment(1)


def with_record(held: Snapshot, record: Record | None = None, **changes: Any) -> Snapshot:
    """Return the payment with another record, or with changes of its own one."""
    record = msgspec.structs.replace(record or held.record, **changes)
    payments = list(held.order.payments)
    payments[held.n - 1] = record
    return msgspec.structs.replace(held.order, payments=tuple(payments)).payment(held.n)


def beside(held: Snapshot, *others: Record, **facts: Any) -> Snapshot:
    """Return the payment as the last one of an order that has these others too."""
    order = msgspec.structs.replace(
        held.order, payments=(*others, held.record), actions={}, **facts
    )
    found = order.payment(len(others) + 1)
    return msgspec.structs.replace(found, next_action=held.next_action)


def opened(held: Snapshot, step: Step, now_ms: int, flow: Flow = NATIVE, **more: Any) -> Snapshot:
    """Return the payment with this step's operation written down."""
    return after(begun(held, step, now_ms, flow, **more))


def begun(held: Snapshot, step: Step, now_ms: int, flow: Flow = NATIVE, **more: Any) -> Plan:
    """Return the plan of a step, or raise the step's error."""
    if step is Step.PAY:
        return begin_pay(held, flow, now_ms, more.get("instrument", CARD))
    if step is Step.SUBMIT_OTP:
        return begin_submit(held, flow, now_ms)
    if step is Step.RESEND_OTP:
        return begin_resend(held, flow, now_ms)
    return begin_authorize(
        held,
        flow,
        now_ms,
        step,
        freeze=lambda amount: f"{step}:{amount}".encode(),
        api_version="2025-01-01",
        amount=more.get("amount"),
    )


def answered(
    held: Snapshot, *seen: Observation, asked_at_ms: int, action: NextAction | None = None
) -> Answered:
    """Return the event of an answer to the step that is open."""
    return Answered(sequence_of(held), seen, asked_at_ms, action)


def sequence_of(held: Snapshot) -> int:
    """Return the number of the open operation."""
    operation = held.record.operation
    assert operation is not None
    return operation.sequence


def an_otp_page(flow: Flow = NATIVE) -> Snapshot:
    """Return a payment in otp_pending since T0, with the address of the bank's page."""
    held = opened(a_created(flow), Step.PAY, T0, flow)
    event = answered(held, paid(), asked_at_ms=T0, action=AskOtp(BANK_PAGE))
    return decided(held, event, T0, flow)


def a_payment(state: State, flow: Flow = NATIVE) -> Snapshot:
    """Return a payment that reached `state` at T0 by the gateway's answers only."""
    if state is State.CREATED:
        return a_created(flow)
    if state is State.INITIATED:
        held = opened(a_created(flow), Step.PAY, T0, flow)
        return decided(held, answered(held, paid("link"), asked_at_ms=T0), T0, flow)
    page = an_otp_page(flow)
    proof = {
        State.AUTHORIZED: entity(is_captured=False),
        State.CAPTURED: taken(captured_amount=AMOUNT),
        State.VOIDED: entity("VOID"),
        State.FAILED: entity("FAILED"),
    }
    if state in proof:
        page = decided(page, inquired(proof[state], asked_at_ms=T0), T0, flow)
    return page


def order_is(status: str, asked_at_ms: int, expires_at_ms: int | None = None) -> OrderSeen:
    """Return the event of an order that was fetched."""
    return OrderSeen(status, asked_at_ms, expires_at_ms)
