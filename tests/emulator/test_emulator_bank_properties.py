"""Properties of the bank that hold for any sequence of calls at any times."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from cfflow.emulator import Bank, Refused
from cfflow.emulator.clock import Timers
from cfflow.emulator.records import Status
from tests.emulator.emulator_kit import (
    HOLDS,
    T0,
    a_bank,
    a_hold,
    an_order,
    card,
    effects,
    patient,
    pay,
)

amounts = st.decimals(Decimal(-1), Decimal(400), places=2) | st.none()
actions = st.tuples(st.sampled_from(["CAPTURE", "VOID"]), amounts, st.floats(0, 4 * 86400.0))
statuses = st.sampled_from(get_args(Status))


@patient
@given(st.lists(actions, max_size=8), st.sampled_from([0.0, 3600.0]))
def test_a_hold_ends_at_most_once(
    steps: list[tuple[str, Decimal | None, float]], confirm_after_s: float
) -> None:
    """Captures, voids and time end a hold at most once, within its amount."""
    bank = a_bank(confirm_after_s=confirm_after_s)
    order, attempt = a_hold(bank)
    now = T0
    for action, amount, wait_s in steps:
        now += wait_s
        _try(bank, order.order_id, action, amount, now)
    ends = [effect for effect in effects(bank, order) if effect != "authorized"]
    assert len(ends) <= 1
    assert (attempt.captured_amount or 0) <= attempt.amount
    assert (attempt.captured_amount is not None) == (ends == ["captured"])


@patient
@given(st.lists(st.tuples(statuses, st.booleans()), max_size=8))
def test_an_attempt_takes_the_money_at_most_once(steps: list[tuple[Status, bool]]) -> None:
    """Forced statuses and right OTPs in any order authorize an attempt once."""
    bank = a_bank()
    order = an_order(bank, HOLDS, order_tags=None)
    attempt = pay(bank, order, card())
    for status, submit in steps:
        try:
            if submit:
                bank.submit_otp(attempt.cf_payment_id, "111000", T0)
            else:
                bank.force(attempt.cf_payment_id, status, T0)
        except Refused:
            continue
    recorded = effects(bank, order)
    assert recorded.count("authorized") <= 1
    assert attempt.held == ("authorized" in recorded and "released" not in recorded)


@patient
@given(st.lists(st.tuples(statuses, st.booleans()), max_size=6))
def test_a_cancelled_attempt_takes_no_money(steps: list[tuple[Status, bool]]) -> None:
    """After a cancellation, money can only be reversed, and only once."""
    bank = a_bank(closes_after_s=900.0)
    order = an_order(bank)
    attempt = pay(bank, order, card())
    bank.advance(T0 + 900)
    for status, submit in steps:
        with suppress(Refused):
            if submit:
                bank.submit_otp(attempt.cf_payment_id, "111000", T0 + 901)
            else:
                bank.force(attempt.cf_payment_id, status, T0 + 901)
    assert effects(bank, order) in (["cancelled"], ["cancelled", "reversed"])
    assert (attempt.status, order.status(T0 + 901)) == ("CANCELLED", "ACTIVE")


@patient
@given(st.lists(st.floats(0, 1000), max_size=20), st.lists(st.floats(0, 1000), max_size=5))
def test_small_steps_and_one_skip_of_time_are_equal(
    delays: list[float], stops: list[float]
) -> None:
    """Both run the same actions at the same times."""
    histories = []
    for moments in (sorted(stops), []):
        timers, ran = Timers(), list[tuple[int, float]]()
        for index, delay_s in enumerate(delays):
            timers.after(delay_s, 0.0, partial(_record_run, ran, index))
        for moment in (*moments, 1000.0):
            timers.run(moment)
        histories.append(ran)
    assert histories[0] == histories[1]
    assert len(histories[0]) == len(delays)


def _record_run(ran: list[tuple[int, float]], index: int, at: float) -> None:
    ran.append((index, at))


def _try(bank: Bank, order_id: str, action: str, amount: Decimal | None, now: float) -> None:
    try:
        bank.authorize(HOLDS, order_id, action, amount, now)
    except Refused as refusal:
        assert refusal.status == 400  # noqa: PT017  doing it is as right as refusing it
