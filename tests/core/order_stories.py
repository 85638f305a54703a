"""Lives of whole orders written by hand: what random rules rarely come to."""

from __future__ import annotations

from cfflow.core.chart import State
from cfflow.core.due import Ask, Look
from cfflow.core.operation import Step
from cfflow.core.people import acknowledge, resolve
from cfflow.core.steps import leave_otp
from tests.core.core_kit import DAY, HOUR, NATIVE, PREAUTH, SECOND
from tests.core.order_desk import Desk

WHO = {"actor": "a person", "note": "as the bank's page shows"}


def pass_one(desk: Desk, went: str) -> None:
    """Let the newest payment go this way, and free the order if that is possible."""
    n = len(desk.order.payments)
    if went in {"given up", "late"}:
        desk.step(n, Step.PAY, "lost" if went == "given up" else "late")
        for _ in range(2):
            desk.now_ms += 16 * SECOND
            listed(desk, n)
    elif went != "unpaid" and desk.step(n, Step.PAY):
        if went == "fails":
            moved(desk, n, "decline")
        elif went in {"held", "voided", "taken"}:
            desk.step(n, Step.SUBMIT_OTP)
        if went in {"voided", "taken"}:
            desk.step(n, Step.VOID if went == "voided" else Step.CAPTURE)
    desk.abandon(n)


def a_desk(*course: str, manual: bool = True) -> Desk:
    """Return the desk of an order whose payments went these ways; the last one is just started."""
    desk = Desk(manual=manual)
    for went in course:
        assert desk.start(PREAUTH if manual else NATIVE)
        pass_one(desk, went)
    assert desk.start(PREAUTH if manual else NATIVE)
    return desk


def attempt_of(desk: Desk, n: int) -> str:
    """Return the attempt of a payment."""
    return str(desk.payment(n).record.cf_payment_id)


def moved(desk: Desk, n: int, to: str) -> None:
    """Let the bank change the attempt of a payment, and ask about it."""
    desk.bank.move(attempt_of(desk, n), to, desk.now_ms)
    desk.now_ms += SECOND
    desk.refresh(n)


def listed(desk: Desk, *numbers: int, late: bool = False) -> None:
    """Ask for all attempts of the order, for these payments or for all."""
    desk.inquire(Look(Ask.PAYMENTS, numbers or tuple(desk.order.siblings)), late=late)


def states(desk: Desk) -> list[State]:
    """Return the states of the payments."""
    return [payment.state for payment in desk.order.siblings.values()]


def reasons(desk: Desk, n: int) -> list[str]:
    """Return the open reviews of a payment."""
    return [review.reason for review in desk.payment(n).record.open_reviews]


def closes(desk: Desk, n: int, reason: str) -> None:
    """Let a person close a review."""
    assert desk.decide(n, acknowledge, reason=reason, **WHO)


def verified(desk: Desk, n: int, step: Step) -> None:
    """Try a step after a restart until it is neither too early nor on an order not verified."""
    assert not desk.step(n, step)
    for wait_s in (26, 16):
        desk.now_ms += wait_s * SECOND
        if desk.step(n, step):
            return


def a_card_tester() -> Desk:
    """Sixteen payments fail, and there is no seventeenth; an attempt with money finds no place."""
    desk = a_desk(*["fails"] * 15)
    pass_one(desk, "fails")
    assert not desk.start()
    desk.bank.move(desk.bank.another_page("2222", desk.now_ms), "decline", desk.now_ms)
    desk.adopt(PREAUTH)
    desk.bank.move(desk.bank.another_page("2222", desk.now_ms), "approve", desk.now_ms)
    desk.adopt(PREAUTH)
    assert len(desk.order.payments) == 16
    return desk


def many_notifications() -> Desk:
    """The seventeenth stands for all; one that is old goes with any commit, the others stay."""
    desk = a_desk(manual=False)
    desk.step(1, Step.PAY)
    desk.notify(attempt_of(desk, 1), "captured")
    desk.notify("190", "captured")
    desk.step(1, Step.SUBMIT_OTP)
    assert [notice.cf_payment_id for notice in desk.order.notices] == ["190"]
    desk.notify(attempt_of(desk, 1), "captured")
    for number in range(180, 198):
        desk.notify(str(number), "failed")
    assert "*" in {notice.cf_payment_id for notice in desk.order.notices}
    desk.work()
    return desk


def a_number_that_comes_again() -> Desk:
    """An inquiry of before the restart settles no notification of after it."""
    desk = a_desk("left")
    desk.notify("190", "captured")
    listed(desk, late=True)
    desk.restart_store(1)
    desk.notify("191", "captured")
    desk.arrives(0)
    assert [notice.cf_payment_id for notice in desk.order.notices] == ["191"]
    return desk


def a_lost_pay() -> Desk:
    """The disk loses a pay, which is still on its way: the next one waits for two inquiries."""
    desk = a_desk()
    desk.step(1, Step.PAY, "late")
    desk.restart_store(1)
    verified(desk, 1, Step.PAY)
    assert desk.payment(1).record.cf_payment_id is not None
    desk.request_arrives(0)
    desk.arrives(0)
    return desk


def a_lost_pay_that_arrived() -> Desk:
    """Its attempt is a review, and the next pay waits for a person."""
    desk = a_desk()
    desk.step(1, Step.PAY)
    desk.restart_store(2)
    verified(desk, 1, Step.PAY)
    assert reasons(desk, 1) == ["unclaimed_money"]
    assert not desk.step(1, Step.PAY)
    closes(desk, 1, "unclaimed_money")
    assert desk.step(1, Step.PAY)
    return desk


def a_lost_payment() -> Desk:
    """The disk loses a payment with its pay: the one that is left gets the review."""
    desk = a_desk("fails")
    desk.step(2, Step.PAY)
    desk.restart_store(3)
    desk.now_ms += 26 * SECOND
    desk.work()
    assert reasons(desk, 1) == ["unclaimed_money"]
    assert desk.start(PREAUTH)
    assert not desk.step(2, Step.PAY)
    return desk


def a_lost_capture() -> Desk:
    """One inquiry is enough where no pay can be lost; the lost capture is found by it."""
    desk = a_desk("held")
    pass_one(desk, "unpaid")
    desk.restart_store()
    verified(desk, 1, Step.CAPTURE)
    desk.restart_store(2)
    verified(desk, 1, Step.VOID)
    assert states(desk)[0] is State.CAPTURED
    return desk


def a_pay_that_arrives_late() -> Desk:
    """While a review about another attempt is open, the late one is named there too."""
    desk = a_desk("late")
    desk.bank.another_page("1111", desk.now_ms)
    listed(desk, 1)
    desk.request_arrives(0)
    listed(desk, 1)
    closes(desk, 1, "unclaimed_money")
    assert desk.step(2, Step.PAY)
    desk.bank.move("101", "approve", desk.now_ms)
    return desk


def a_pay_that_a_siblings_list_shows() -> Desk:
    """It is not remembered as seen before its own payment was asked about."""
    desk = a_desk("left")
    desk.step(2, Step.PAY, "late")
    for _ in range(2):
        desk.now_ms += 16 * SECOND
        listed(desk, 2, late=True)
    desk.request_arrives(0)
    listed(desk, 1)
    desk.arrives(0)
    desk.arrives(0)
    listed(desk, 1)
    listed(desk, 2)
    assert reasons(desk, 2) == ["unclaimed_money"]
    return desk


def two_with_money() -> Desk:
    """Both get the review at once, and neither is captured until one is over."""
    desk = a_desk("left")
    assert desk.step(2, Step.PAY)
    desk.step(2, Step.SUBMIT_OTP)
    moved(desk, 1, "approve")
    assert reasons(desk, 1) == reasons(desk, 2) == ["two_holds"]
    assert not desk.step(2, Step.CAPTURE)
    closes(desk, 2, "two_holds")
    assert not desk.step(2, Step.CAPTURE)
    assert not desk.start(PREAUTH)
    return desk


def beside_what_is_not_over() -> Desk:
    """A capture waits for a sibling's pay and its attempt; an OTP waits for a sibling's money."""
    desk = a_desk("fails")
    desk.step(2, Step.PAY, "slow")
    moved(desk, 1, "approve")
    assert not desk.step(1, Step.CAPTURE)
    desk.arrives(0)
    assert not desk.step(1, Step.CAPTURE)
    desk.now_ms += 31 * SECOND
    assert not desk.step(2, Step.RESEND_OTP)
    assert not desk.step(2, Step.SUBMIT_OTP)
    assert not desk.leave(2)
    return desk


def beside_an_otp() -> Desk:
    """A capture waits for a sibling's OTP that is on its way."""
    desk = a_desk("fails")
    desk.step(2, Step.PAY)
    desk.step(2, Step.SUBMIT_OTP, "lost")
    moved(desk, 1, "approve")
    assert not desk.step(1, Step.CAPTURE)
    desk.notify(attempt_of(desk, 2), "captured")
    return desk


def beside_a_capture() -> Desk:
    """A pay waits for a sibling's capture, which is sent again under its key and a new one."""
    desk = a_desk("held")
    desk.step(1, Step.CAPTURE, "lost")
    assert not desk.step(2, Step.PAY)
    for fate, mood in (("answered", "fault"), ("answered", "right"), ("answered", "unconfirmed")):
        desk.now_ms += 301 * SECOND
        listed(desk)
        assert desk.send_again(1, fate, mood)
    return desk


def two_open_payments() -> Desk:
    """An earlier version left two open payments: only one of them pays."""
    desk = a_desk()
    desk.start_beside(PREAUTH)
    assert desk.step(1, Step.PAY, "slow")
    assert not desk.step(2, Step.PAY)
    desk.arrives(0)
    assert desk.step(2, Step.PAY, "refused")
    return desk


def foreign_money() -> Desk:
    """Until a person has closed the reviews of all of it, nothing is paid and nothing captured."""
    desk = a_desk("held", manual=True)
    desk.bank.move(desk.bank.another_page("2222", desk.now_ms), "approve", desk.now_ms)
    listed(desk)
    assert not desk.step(1, Step.CAPTURE)
    only = a_desk()
    for _ in range(2):
        only.bank.move(only.bank.another_page("2222", only.now_ms), "approve", only.now_ms)
        listed(only)
    assert not only.step(1, Step.PAY)
    closes(only, 1, "unclaimed_money")
    assert only.step(1, Step.PAY, "mixed up")
    only.live_to_the_end()
    desk.rules.count.update(only.rules.count)
    return desk


def another_hold_was_captured() -> Desk:
    """The gateway took a foreign attempt's money; after a person's decision ours is released."""
    desk = a_desk()
    desk.step(1, Step.PAY)
    desk.step(1, Step.SUBMIT_OTP)
    desk.bank.move(desk.bank.another_page("2222", desk.now_ms), "approve", desk.now_ms)
    desk.step(1, Step.CAPTURE, "answered", "other")
    assert reasons(desk, 1) == ["other_attempt"]
    assert desk.decide(1, resolve, state=State.AUTHORIZED, amount=None, **WHO)
    assert desk.step(1, Step.VOID)
    assert states(desk) == [State.VOIDED]
    return desk


def a_sibling_s_attempt() -> Desk:
    """The gateway answers a pay with a sibling's attempt, which stays the sibling's."""
    desk = a_desk("left")
    desk.step(2, Step.PAY, "mixed up")
    assert reasons(desk, 2) == ["attempt_claimed"]
    assert desk.decide(2, resolve, state=State.FAILED, amount=None, **WHO)
    return desk


def an_order_that_nobody_pays() -> Desk:
    """It fails when the order is closed."""
    desk = a_desk("unpaid")
    desk.now_ms += 4 * DAY
    desk.work()
    assert states(desk) == [State.FAILED, State.FAILED]
    return desk


def a_taken_order() -> Desk:
    """It takes no other payment, and later answers change nothing."""
    desk = a_desk(manual=False)
    desk.step(1, Step.PAY)
    desk.step(1, Step.SUBMIT_OTP, "slow")
    desk.notify(attempt_of(desk, 1), "captured")
    desk.arrives(0)
    assert not desk.start()
    desk.work()
    assert desk.order.notices == ()
    desk.now_ms += SECOND
    listed(desk)
    return desk


def adopted_beside_a_start() -> Desk:
    """A payment that begins while an order is adopted is left to its customer."""
    desk = a_desk("fails")
    pass_one(desk, "unpaid")
    desk.bank.another_page("2222", desk.now_ms)
    desk.adopt(PREAUTH, late=True)
    desk.start(NATIVE)
    desk.arrives(0)
    assert [s.cf_payment_id for s in desk.order.siblings.values()] == ["100", None, None, "101"]
    return desk


def old_copies() -> Desk:
    """A step on an old copy is planned again if only a sibling has changed, else it is refused."""
    desk = a_desk("left")
    listed(desk, 1)
    assert desk.step(2, Step.PAY, age=1)
    assert desk.step(2, Step.SUBMIT_OTP, mood="wrong")
    assert not desk.step(2, Step.SUBMIT_OTP, age=2)
    return desk


def an_order_that_is_gone() -> Desk:
    """What was under way when the store lost all of it changes nothing."""
    desk = a_desk("left")
    desk.step(2, Step.PAY, "slow")
    desk.refresh(1, late=True)
    desk.now_ms += SECOND
    desk.restart_store(1)
    desk.now_ms += 26 * SECOND
    desk.work(late=True)
    desk.restart_store(99)
    held = desk.read[-1].payment(1)
    assert desk.begin(held, lambda held: leave_otp(held, PREAUTH, desk.now_ms), "leave") is None
    while desk.under_way:
        desk.arrives(0)
    desk.work()
    assert not desk.order.payments
    desk.notify("100", "captured")
    desk.adopt(PREAUTH)
    assert states(desk) == [State.INITIATED, State.INITIATED]
    return desk


def an_answer_to_a_payment_that_is_gone() -> Desk:
    """The caller of a step gets its answer after the store has lost the payment."""
    desk = a_desk()
    desk.step(1, Step.PAY, "slow")
    desk.restart_store(99)
    desk.arrives(0)
    desk.start(PREAUTH)
    verified(desk, 1, Step.PAY)
    return desk


def calls_that_end_in_every_way() -> Desk:
    """A refusal is about one call only, and a call that broke off may have acted."""
    desk = a_desk()
    for fate in ("refused", "ended after"):
        desk.step(1, Step.PAY, fate)
    desk.now_ms += 11 * SECOND
    desk.work()
    assert not desk.send_again(1)
    moved(desk, 1, "approve")
    desk.step(1, Step.CAPTURE, "late ended")
    for fate in ("lost", "refused"):
        desk.now_ms += 301 * SECOND
        listed(desk)
        assert desk.send_again(1, fate)
        assert not desk.send_again(1)
    assert desk.payment(1).record.operation is None
    desk.bank.move(attempt_of(desk, 1), "lapse", desk.now_ms)
    assert desk.step(1, Step.CAPTURE)
    desk.request_arrives(0)
    return desk


def inquiries_with_flaws() -> Desk:
    """What is not about the order settles nothing and verifies nothing."""
    desk = a_desk("left")
    desk.notify("190", "captured")
    desk.notify(attempt_of(desk, 1), "failed")
    for flaw in ("mixed", "not found"):
        for look in (Look(Ask.PAYMENT, (1,)), Look(Ask.PAYMENTS, (1, 2)), Look(Ask.ORDER, (2,))):
            desk.now_ms += 61 * SECOND
            desk.inquire(look, flaw=flaw)
        desk.notify("190", "captured")
    desk.restart_store()
    for flaw in ("mixed", "not found", ""):
        desk.now_ms += 26 * SECOND
        desk.work(flaw=flaw)
    assert not desk.step(2, Step.PAY)
    desk.now_ms += 16 * SECOND
    desk.work()
    assert reasons(desk, 2) == ["other_answer", "order_not_found"]
    assert desk.step(2, Step.PAY, "lost")
    desk.adopt(PREAUTH)
    assert len(desk.order.payments) == 2
    return desk


def a_hold_that_ends() -> Desk:
    """The worker releases it in time, once a sibling's attempt is over."""
    desk = a_desk()
    desk.step(1, Step.PAY)
    assert desk.leave(1)
    moved(desk, 1, "approve")
    desk.now_ms += 3 * DAY - 5 * HOUR
    desk.work()
    assert states(desk) == [State.VOIDED]
    desk.notify(attempt_of(desk, 1), "captured")
    desk.work()
    return desk


LIVES = (
    an_order_that_is_gone,
    an_answer_to_a_payment_that_is_gone,
    calls_that_end_in_every_way,
    inquiries_with_flaws,
    a_hold_that_ends,
    a_card_tester,
    many_notifications,
    a_number_that_comes_again,
    a_lost_pay,
    a_lost_pay_that_arrived,
    a_lost_payment,
    a_lost_capture,
    a_pay_that_arrives_late,
    a_pay_that_a_siblings_list_shows,
    two_with_money,
    beside_what_is_not_over,
    beside_an_otp,
    beside_a_capture,
    two_open_payments,
    foreign_money,
    another_hold_was_captured,
    a_sibling_s_attempt,
    an_order_that_nobody_pays,
    a_taken_order,
    adopted_beside_a_start,
    old_copies,
)
