"""What the customer's page shows, for every state, open operation and OTP turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import msgspec
import pytest

from cfflow.core.actions import ApproveInApp, NextAction, Redirect, SubmitForm
from cfflow.core.chart import OPEN, State
from cfflow.core.flow import Flow
from cfflow.core.observation import Failure
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Snapshot, why_not_replaced
from cfflow.core.record import OtpTurn, Record, Review
from cfflow.core.steps import allowed_steps
from cfflow.views import show
from cfflow.views.payment import payment_of
from tests.core.core_kit import (
    BANK_PAGE,
    DAY,
    HOUR,
    NATIVE,
    PREAUTH,
    SECOND,
    STEPS,
    T0,
    a_payment,
    beside,
    with_record,
)

NOW = T0 + 40 * SECOND
PAGE_ENDS = T0 + 300 * SECOND

#: Where each step may be open.
OPEN_IN: dict[Step, set[State]] = {
    Step.PAY: {State.CREATED},
    Step.SUBMIT_OTP: {State.OTP_PENDING},
    Step.RESEND_OTP: {State.OTP_PENDING},
    Step.CAPTURE: {State.AUTHORIZED},
    Step.VOID: {State.AUTHORIZED},
}


def turn(**changes: Any) -> OtpTurn:
    return msgspec.structs.replace(OtpTurn(expires_at_ms=PAGE_ENDS, sent_at_ms=T0), **changes)


TURNS = {
    "fresh": turn(),
    "one try used": turn(submits_used=1),
    "no resend left": turn(resends_used=NATIVE.otp.resends_max),
    "used up": turn(submits_used=NATIVE.otp.submits_max),
    "used up by a lost one": turn(submits_used=NATIVE.otp.submits_max, unsure=True),
    "expired": turn(expires_at_ms=NOW),
    "accepted": turn(accepted=True),
    "accepted and expired": turn(accepted=True, expires_at_ms=NOW),
    "unsure": turn(submits_used=1, unsure=True),
    "inferred": turn(inferred=True),
}


def operation(step: Step, *, accepted: bool) -> Operation:
    return Operation(
        step=step,
        sequence=2,
        key="k",
        began_at_ms=T0,
        deadline_at_ms=T0 + 10 * SECOND,
        accepted=accepted,
    )


def situations() -> Iterator[tuple[str, Snapshot, Flow]]:
    """Yield every combination that can occur, with its name."""
    for state, flow, abandoned in product(State, (NATIVE, PREAUTH), (False, True)):
        turns = TURNS if state is State.OTP_PENDING else {"no page": None}
        steps = [None, *(step for step in STEPS if state in OPEN_IN[step])]
        for (name, otp), step, accepted in product(turns.items(), steps, (False, True)):
            held = a_payment(state, flow)
            open_one = None if step is None else operation(step, accepted=accepted)
            held = with_record(held, otp=otp, operation=open_one, abandoned=abandoned)
            title = f"{state}, {step}{accepted:+d}, {name}, {flow.name}, {abandoned=}"
            yield title, held, flow


ALL = list(situations())


def expected(record: Record, flow: Flow) -> str:
    """Return the class that must be shown, by rules written a second time."""
    step = record.operation.step if record.operation else None
    ends = {State.CAPTURED: "paid", State.VOIDED: "refunded_later", State.FAILED: "failed"}
    if record.state in ends:
        return ends[record.state]
    if record.state is State.AUTHORIZED:
        if step is Step.VOID and record.operation and record.operation.accepted:
            return "refunded_later"
        sale = flow.capture == "automatic" and not record.abandoned
        return "wait" if sale else "on_hold"
    if step is not None:
        return "wait"
    if record.abandoned or record.state is State.CREATED:
        return "start_again"
    if record.state is State.INITIATED:
        return "wait"
    otp = record.otp
    assert otp is not None
    if otp.accepted:
        return "wait"
    if otp.submits_used >= flow.otp.submits_max or otp.expires_at_ms <= NOW:
        return "wait" if otp.unsure else "start_again"
    return "enter_otp"


@pytest.mark.parametrize(("held", "flow"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])
def test_every_state_operation_and_turn_has_its_view(held: Snapshot, flow: Flow) -> None:
    """The table, against rules that were written a second time."""
    payment = payment_of(held, flow, NOW)
    shown = msgspec.to_builtins(payment.customer_view)
    assert shown["show"] == expected(held.record, flow)
    assert json.loads(json.dumps(payment.as_dict()))["customer_view"] == shown


@pytest.mark.parametrize(("held", "flow"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])
def test_the_page_asks_for_what_would_be_taken_and_for_nothing_else(
    held: Snapshot, flow: Flow
) -> None:
    """An OTP is asked for exactly where `submit_otp` begins; so is a pay, and another try."""
    payment = payment_of(held, flow, NOW)
    view, allowed = payment.customer_view, allowed_steps(held, flow, NOW)
    asks = isinstance(view, show.EnterOtp)
    assert asks == ("submit_otp" in allowed)
    assert not asks or (payment.otp is not None)
    assert asks or held.record.state is not State.OTP_PENDING or payment.next_action is None
    may_pay = isinstance(view, show.StartAgain) and not view.replace and not payment.abandoned
    assert may_pay == ("pay" in allowed)
    again = getattr(view, "may_start_again", False) or getattr(view, "replace", False)
    leaves = held.record.state in {State.INITIATED, State.OTP_PENDING}
    if payment.abandoned and held.record.state in {State.CREATED, *OPEN} - {State.AUTHORIZED}:
        # Its order is free: the next payment may begin, whatever became of this one.
        assert again == (held.record.operation is None)
    else:
        assert again == (leaves and why_not_replaced(held) is None)


def seen(held: Snapshot, flow: Flow = NATIVE, now_ms: int = NOW) -> Any:
    return payment_of(held, flow, now_ms).customer_view


def test_the_otp_page_has_its_tries_and_times() -> None:
    """What is left of the turn, and whether the bank's own page can be offered."""
    view = seen(with_record(a_payment(State.OTP_PENDING), otp=TURNS["one try used"]))
    assert isinstance(view, show.EnterOtp)
    assert (view.submits_left, view.resends_left, view.can_leave) == (2, 2, True)
    assert view.expires_at.timestamp() * 1000 == PAGE_ENDS
    assert view.resend_at.timestamp() * 1000 == T0 + NATIVE.otp.resend_after_s * SECOND
    assert view.may_start_again


@pytest.mark.parametrize(
    ("action", "view"),
    [
        (Redirect(BANK_PAGE), show.GoToBank(url=BANK_PAGE, may_start_again=True)),
        (
            SubmitForm(BANK_PAGE, {"a": 1}),
            show.SubmitForm(
                url=BANK_PAGE,
                fields={"a": 1},
                method="post",
                content_type="application/x-www-form-urlencoded",
                may_start_again=True,
            ),
        ),
        (
            ApproveInApp("collect", {"default": "upi://pay"}),
            show.ApproveInApp(
                channel="collect", payload={"default": "upi://pay"}, may_start_again=True
            ),
        ),
    ],
    ids=["bank", "form", "app"],
)
def test_the_next_step_is_shown(action: NextAction, view: show.CustomerView) -> None:
    """The gateway's own way on, with what the page needs for it."""
    held = msgspec.structs.replace(a_payment(State.INITIATED), next_action=action)
    assert seen(held) == view


def test_nobody_pays_twice_by_the_page() -> None:
    """While other money of the order, or a review, stands in the way, the page waits."""
    page, paid = a_payment(State.OTP_PENDING), a_payment(State.CAPTURED).record
    assert isinstance(seen(beside(page, paid)), show.Wait)
    blocked = with_record(a_payment(State.CREATED), reviews=(Review("ambiguous_attempt", T0),))
    assert isinstance(seen(blocked), show.Wait)


@pytest.mark.parametrize("state", [State.CREATED, State.INITIATED, State.OTP_PENDING, State.FAILED])
def test_an_attempt_that_is_over_shows_what_became_of_the_order_s_money(state: State) -> None:
    """An old page of a card whose customer has paid by UPI since: it must not offer to pay."""
    over = with_record(a_payment(state), abandoned=state is not State.FAILED)
    paid, held = a_payment(State.CAPTURED).record, a_payment(State.AUTHORIZED, PREAUTH).record
    assert isinstance(seen(beside(over, paid)), show.Paid)
    assert isinstance(seen(beside(over, held)), show.OnHold)
    page = a_payment(State.OTP_PENDING).record
    again = show.Failed if state is State.FAILED else show.StartAgain
    assert isinstance(seen(beside(over, page)), again)


def test_a_hold_shows_its_amount_and_end() -> None:
    """`until` is when the bank releases it."""
    held = with_record(a_payment(State.AUTHORIZED, PREAUTH), hold_expires_at_ms=T0 + 7 * DAY)
    view = seen(held, PREAUTH)
    assert isinstance(view, show.OnHold)
    assert view.until is not None
    assert view.until.timestamp() * 1000 == T0 + 7 * DAY
    assert str(view.amount) == "10.01"


def test_a_capture_that_the_bank_only_accepted_is_not_confirmed() -> None:
    """Paid, and said to be unconfirmed, on the payment as on the page."""
    taken = a_payment(State.CAPTURED)
    assert payment_of(taken, NATIVE, NOW).confirmed
    accepted = with_record(taken, confirming=True)
    payment = payment_of(accepted, NATIVE, NOW)
    assert not payment.confirmed
    assert isinstance(payment.customer_view, show.Paid)
    assert not payment.customer_view.confirmed


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        ("TRANSACTION_DECLINED", "insufficient_funds", "Try another card"),
        ("OTP_INVALID", "", "one-time password"),
        ("USER_DROPPED", "", "not finished"),
        ("", "payment_cancelled", "cancelled"),
        ("PAYMENT_TIMED_OUT", "", "ran out"),
        ("X", "bank_network_error", "could not be reached"),
        ("STOLEN_CARD", "card_reported_stolen", "declined"),
        ("", "", "declined"),
    ],
)
def test_a_failure_has_words_for_the_customer_and_for_support(
    code: str, reason: str, words: str
) -> None:
    """The gateway's own words are for support: they may help the thief of a card."""
    failed = with_record(
        a_payment(State.FAILED), failure=Failure(code, reason, "bank", "do not honour")
    )
    view = seen(failed)
    assert isinstance(view, show.Failed)
    assert words in view.customer
    assert "stolen" not in view.customer.lower()
    assert "do not honour" in view.support
    assert "do not honour" not in view.customer


def test_without_its_flow_a_payment_asks_for_no_otp() -> None:
    """The store may have lost the flow's text; then nobody knows how many tries are left."""
    payment = payment_of(a_payment(State.OTP_PENDING), None, NOW)
    assert payment.otp is None
    assert isinstance(payment.customer_view, show.Wait)


def test_the_page_of_yesterday_asks_for_nothing() -> None:
    """An OTP page that nobody looked at ends by time alone, without a commit."""
    view = seen(a_payment(State.OTP_PENDING), now_ms=T0 + HOUR)
    assert view == show.StartAgain(replace=True)
