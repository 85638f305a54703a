"""Steps: when one may begin, what is stored for it, and what no step may do."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from uuid import UUID

import msgspec
import pytest

from cfflow.core.actions import AskOtp, Redirect
from cfflow.core.chart import State
from cfflow.core.decide import Refused, TimePassed
from cfflow.core.operation import Step
from cfflow.core.order import Snapshot
from cfflow.core.record import Review
from cfflow.core.steps import (
    Instrument,
    allowed_steps,
    begin_pay,
    idempotency_key,
    leave_otp,
)
from cfflow.errors import IllegalStep, InvalidAmount, OtpLimit
from tests.core.core_kit import (
    AMOUNT,
    BANK_PAGE,
    CARD,
    NATIVE,
    OURS,
    PREAUTH,
    SECOND,
    STEPS,
    T0,
    a_created,
    a_payment,
    after,
    alone,
    an_otp_page,
    answered,
    begun,
    beside,
    decided,
    entity,
    inquired,
    opened,
    otp_result,
    paid,
    sequence_of,
    shipped,
)

HOME = {
    Step.PAY: State.CREATED,
    Step.SUBMIT_OTP: State.OTP_PENDING,
    Step.RESEND_OTP: State.OTP_PENDING,
    Step.CAPTURE: State.AUTHORIZED,
    Step.VOID: State.AUTHORIZED,
}
LATER = T0 + 31 * SECOND


@pytest.mark.parametrize(("state", "step"), tuple(product(State, STEPS)))
def test_each_step_begins_only_in_its_own_state(state: State, step: Step) -> None:
    """A step is stored in its own state, and refused in every other one."""
    held = a_payment(state)
    if HOME[step] is not state:
        with pytest.raises(IllegalStep, match=r"order_1\.1"):
            begun(held, step, LATER)
        return
    plan = begun(held, step, LATER)
    operation = plan.record.operation
    assert operation is not None
    assert (operation.step, operation.began_at_ms) == (step, LATER)
    assert operation.deadline_at_ms == LATER + 10 * SECOND
    assert operation.sequence == held.record.sequence + 1 == plan.record.sequence
    assert plan.record.version == held.record.version + 1
    assert plan.record.state is state
    assert plan.walked == ()
    assert plan.record.wake_at_ms is not None
    assert (
        operation.deadline_at_ms < plan.record.wake_at_ms <= operation.deadline_at_ms + 5 * SECOND
    )


@pytest.mark.parametrize(("first", "second"), tuple(product(STEPS, STEPS)))
def test_no_step_begins_while_another_is_open(first: Step, second: Step) -> None:
    """One operation at a time, of whatever kind; to leave the OTP page must wait too."""
    held = opened(a_payment(HOME[first]), first, LATER)
    with pytest.raises(IllegalStep):
        begun(held, second, LATER)
    with pytest.raises(IllegalStep):
        leave_otp(held, NATIVE, LATER)
    assert allowed_steps(held, NATIVE, LATER) == ("refresh",)


def test_sequence_and_key_never_repeat() -> None:
    """The pay after a refused pay has another number and another key."""
    held, keys = a_created(), set()
    for number in (1, 2, 3):
        held = opened(held, Step.PAY, T0)
        assert held.record.operation is not None
        assert sequence_of(held) == number
        keys.add(held.record.operation.key)
        held = decided(held, Refused(number, "refused: card_unsupported"), T0)
    assert len(keys) == 3
    assert keys == {idempotency_key("order_1.1", Step.PAY, n, "n0") for n in (1, 2, 3)}


def test_a_key_is_a_uuid_made_from_the_step_s_name() -> None:
    """The same step always has the same key, and two steps never share one."""
    keys = [
        idempotency_key(payment, step, sequence, nonce)
        for payment, step, sequence, nonce in product(
            ("order_1.1", "order_1.2", "order_11.1"), Step, (1, 2, 11), ("n0", "n1")
        )
    ]
    assert len(set(keys)) == len(keys)
    assert {UUID(key).version for key in keys} == {5}
    assert all(str(UUID(key)) == key for key in keys)


def test_the_key_of_a_step_stays_what_it_is() -> None:
    """A process of another version that takes over must derive the same key."""
    key = idempotency_key("order_1.1", Step.PAY, 1, "0a1b2c3d")
    assert key == "1977495f-3c33-5211-bb32-f2a9efa9288d"


@pytest.mark.parametrize("channel", ["post", "collect", "", "LINK"])
def test_a_pay_over_a_channel_that_the_flow_does_not_permit_is_illegal(channel: str) -> None:
    """The refusal names the channels that are permitted."""
    redirect = shipped("redirect")
    with pytest.raises(IllegalStep, match=f"does not take card over {channel}, only over link"):
        begin_pay(a_created(), redirect, T0, Instrument("card", channel, "1111"))
    plan = begin_pay(a_created(), redirect, T0, Instrument("card", "link", "1111"))
    assert plan.record.operation is not None
    assert plan.record.operation.channel == "link"


@pytest.mark.parametrize("name", ["native_otp", "preauth", "redirect", "upi", "upi_mandate"])
def test_a_pay_is_listed_as_allowed_whatever_channels_the_flow_has(name: str) -> None:
    """Some channel of the flow's first method is always possible."""
    assert "pay" in allowed_steps(a_created(), shipped(name), T0)


def test_a_pay_freezes_what_identifies_its_attempt_and_no_body() -> None:
    """Method, channel, amount, last four, the order's known ids; never a request body."""
    failed = msgspec.structs.replace(a_payment(State.FAILED).record, cf_payment_id="77")
    held = beside(a_created(), failed)
    operation = begun(held, Step.PAY, T0).record.operation
    assert operation is not None
    assert (operation.method, operation.channel, operation.last_four) == ("card", "post", "1111")
    assert (operation.amount, operation.known_attempt_ids, operation.body) == (AMOUNT, ("77",), b"")


def test_a_pay_takes_only_the_flows_methods() -> None:
    """A method that the flow does not name is refused before anything is written."""
    with pytest.raises(IllegalStep, match="upi"):
        begun(a_created(), Step.PAY, T0, instrument=Instrument("upi"))


@pytest.mark.parametrize("reason", ["ambiguous_attempt", "unclaimed_money"])
def test_unclaimed_money_bars_a_new_pay(reason: str) -> None:
    """While such a review is open the order takes no pay; acknowledged, it does."""
    review = Review(reason, T0)
    record = msgspec.structs.replace(a_created().record, reviews=(review,))
    with pytest.raises(IllegalStep, match=reason):
        begun(alone(record), Step.PAY, T0)
    done = msgspec.structs.replace(review, acknowledged_at_ms=T0)
    record = msgspec.structs.replace(record, reviews=(done,))
    assert begun(alone(record), Step.PAY, T0).record.operation


def rejected(held: Snapshot, now_ms: int) -> Snapshot:
    """Submit a wrong OTP."""
    held = opened(held, Step.SUBMIT_OTP, now_ms)
    return decided(held, answered(held, otp_result("FAILED"), asked_at_ms=now_ms), now_ms)


def resent(held: Snapshot, now_ms: int) -> Snapshot:
    """Have the OTP sent again."""
    held = opened(held, Step.RESEND_OTP, now_ms)
    return decided(held, answered(held, otp_result("SUCCESS"), asked_at_ms=now_ms), now_ms)


def test_the_flow_limits_the_submissions() -> None:
    """After three wrong OTPs there is no fourth try and no next action."""
    held = an_otp_page()
    for _ in range(3):
        assert held.next_action == AskOtp(BANK_PAGE)
        held = rejected(held, T0 + SECOND)
    assert held.record.state is State.OTP_PENDING
    assert held.next_action is None
    with pytest.raises(OtpLimit) as refused:
        begun(held, Step.SUBMIT_OTP, T0 + SECOND)
    assert refused.value.retry_at is None


def test_the_flow_limits_the_resends_and_spaces_them() -> None:
    """30 s after the page and after each resend, twice at the most, to the millisecond."""
    held = an_otp_page()
    for sent_at_ms in (T0, T0 + 30 * SECOND):
        with pytest.raises(OtpLimit) as early:
            begun(held, Step.RESEND_OTP, sent_at_ms + 30 * SECOND - 1)
        assert early.value.retry_at is not None
        assert early.value.retry_at.timestamp() * 1000 == sent_at_ms + 30 * SECOND
        held = resent(held, sent_at_ms + 30 * SECOND)
    with pytest.raises(OtpLimit) as refused:
        begun(held, Step.RESEND_OTP, T0 + 200 * SECOND)
    assert refused.value.retry_at is None


def test_the_page_lives_to_the_millisecond_and_no_resend_prolongs_it() -> None:
    """One millisecond before the end a step may begin, at the end none may."""
    held = resent(an_otp_page(), T0 + 100 * SECOND)
    end_ms = T0 + 300 * SECOND
    for step in (Step.SUBMIT_OTP, Step.RESEND_OTP):
        assert begun(held, step, end_ms - 1).record.operation
        with pytest.raises(OtpLimit, match="expired"):
            begun(held, step, end_ms)
    assert leave_otp(held, NATIVE, end_ms - 1).walked
    with pytest.raises(OtpLimit, match="expired"):
        leave_otp(held, NATIVE, end_ms)


def test_leaving_the_otp_page_takes_the_way_out() -> None:
    """The bank's own page becomes the next action, without a call and without an end."""
    plan = leave_otp(an_otp_page(), NATIVE, T0 + SECOND)
    assert plan.record.state is State.INITIATED
    assert plan.snapshot.next_action == Redirect(BANK_PAGE)
    assert plan.record.operation is None
    assert plan.record.wake_at_ms is not None


@pytest.mark.parametrize("action", [None, AskOtp(), Redirect("https://a.example")])
def test_there_is_no_leaving_without_a_way_out(action: AskOtp | Redirect | None) -> None:
    """Where the address of the bank's page is not known, the step is refused."""
    held = msgspec.structs.replace(an_otp_page(), next_action=action)
    with pytest.raises(IllegalStep):
        leave_otp(held, NATIVE, T0)


def test_an_accepted_otp_ends_the_customers_turn() -> None:
    """After an accepted OTP no submit, resend or leave, even before the money is seen."""
    held = opened(an_otp_page(), Step.SUBMIT_OTP, LATER)
    held = decided(held, answered(held, otp_result("SUCCESS"), asked_at_ms=LATER), LATER)
    assert (held.record.state, held.next_action) == (State.OTP_PENDING, None)
    for step in (Step.SUBMIT_OTP, Step.RESEND_OTP):
        with pytest.raises(IllegalStep):
            begun(held, step, LATER + 60 * SECOND)
    with pytest.raises(IllegalStep):
        leave_otp(held, NATIVE, LATER)


@pytest.mark.parametrize("amount", ["10.02", "100", "0", "-5", "1.001"])
def test_a_capture_over_the_hold_or_of_no_amount_is_never_written_down(amount: str) -> None:
    """What the bank cannot take is refused before any call."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    with pytest.raises(InvalidAmount):
        begun(held, Step.CAPTURE, T0, PREAUTH, amount=Decimal(amount))


def test_a_capture_takes_the_hold_or_the_part_asked_for() -> None:
    """Without an amount the whole hold; the frozen body and the operation agree."""
    held = a_payment(State.AUTHORIZED, PREAUTH)
    for asked, exact in ((None, AMOUNT), (Decimal(4), Decimal("4.00")), (AMOUNT, AMOUNT)):
        plan = begun(held, Step.CAPTURE, T0, PREAUTH, amount=asked)
        operation = plan.record.operation
        assert operation is not None
        assert (operation.amount, operation.body) == (exact, f"capture:{exact}".encode())
        assert operation.api_version == "2025-01-01"
        assert plan.opens


def test_a_void_has_no_amount_and_asks_to_be_the_sole_holder() -> None:
    """A void is always for the whole hold, and names only the order, as a capture does."""
    plan = begun(a_payment(State.AUTHORIZED, PREAUTH), Step.VOID, T0, PREAUTH)
    assert plan.record.operation is not None
    assert plan.record.operation.amount is None
    assert plan.opens


def test_a_hold_of_unknown_amount_needs_the_callers_amount() -> None:
    """When the held amount is unknown, "all of it" is not an amount."""
    held = an_otp_page()
    seen = entity(payment_amount=None)
    held = decided(held, inquired(seen, asked_at_ms=T0), T0)
    assert held.record.amount_held is None
    with pytest.raises(InvalidAmount):
        begun(held, Step.CAPTURE, T0)
    assert begun(held, Step.CAPTURE, T0, amount=Decimal(3)).record.operation


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (State.CREATED, {"pay"}),
        (State.INITIATED, set()),
        (State.OTP_PENDING, {"submit_otp", "resend_otp", "leave_otp"}),
        (State.AUTHORIZED, {"capture", "void"}),
        (State.CAPTURED, set()),
        (State.VOIDED, set()),
        (State.FAILED, set()),
    ],
)
def test_why_names_exactly_the_steps_that_would_begin(state: State, names: set[str]) -> None:
    """`why` lists exactly the steps that can begin."""
    assert set(allowed_steps(a_payment(state), NATIVE, LATER)) == names | {"refresh"}


def test_the_turn_ends_on_the_page_by_time_alone_but_the_attempt_lives() -> None:
    """At the end of the page only `next_action` goes; inquiries go on."""
    held = decided(an_otp_page(), TimePassed(), T0 + 300 * SECOND)
    assert held.next_action is None
    assert held.record.state is State.OTP_PENDING
    assert held.record.wake_at_ms is not None
    before = decided(an_otp_page(), TimePassed(), T0 + 300 * SECOND - 1)
    assert before.next_action == AskOtp(BANK_PAGE)


def test_no_step_writes_card_data_down() -> None:
    """Of a card only the last four digits reach the record."""
    plan = begun(a_created(), Step.PAY, T0, instrument=CARD)
    held = after(plan)
    held = decided(held, answered(held, paid(), asked_at_ms=T0), T0)
    assert held.record.cf_payment_id == OURS
    stored = msgspec.msgpack.encode(held.record)
    assert stored.replace(b"xxxxxx1111", b"").find(b"1111") < 0
    assert stored.count(b"xxxxxx1111") == 1
