"""The rules of the bank, called directly: time is an argument, so no test waits."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cfflow.emulator import Attempt, Bank, Refused
from tests.emulator.emulator_kit import (
    DAY_S,
    HOLDS,
    NO_OTP_BIN,
    SALES,
    T0,
    a_bank,
    a_hold,
    an_order,
    card,
    effects,
    order_body,
    pay,
    upi,
)


def test_a_sale_is_captured_when_the_otp_is_right() -> None:
    """An accepted OTP moves the money in an account that captures at once."""
    bank = a_bank()
    order = an_order(bank)
    attempt = pay(bank, order)
    bank.submit_otp(attempt.cf_payment_id, "111000", T0)
    assert (attempt.status, attempt.captured_amount) == ("SUCCESS", Decimal("170.00"))
    assert effects(bank, order) == ["captured"]
    assert order.status(T0) == "PAID"


def test_a_card_is_held_in_a_preauthorization_account() -> None:
    """The money is held and not captured."""
    bank = a_bank()
    order, attempt = a_hold(bank)
    assert attempt.held and attempt.captured_amount is None
    assert effects(bank, order) == ["authorized"]


def test_an_order_tag_makes_one_order_a_hold() -> None:
    """One account can have both sales and holds."""
    bank = a_bank()
    order = an_order(bank, order_tags={"cfflow_preauth": "true"})
    attempt = pay(bank, order)
    bank.submit_otp(attempt.cf_payment_id, "111000", T0)
    assert effects(bank, order) == ["authorized"]


def test_the_money_can_move_later_than_the_otp() -> None:
    """After an accepted OTP the attempt stays PENDING until the bank is done, and takes no OTP."""
    bank = a_bank(otp_settles_after_s=20.0)
    attempt = pay(bank, an_order(bank))
    assert bank.submit_otp(attempt.cf_payment_id, "111000", T0).status == "SUCCESS"
    with pytest.raises(Refused, match="already processed"):
        bank.submit_otp(attempt.cf_payment_id, "111000", T0 + 1)
    assert effects(bank, attempt.order) == []
    bank.advance(T0 + 20)
    assert effects(bank, attempt.order) == ["captured"]


def test_three_wrong_otps_fail_the_attempt() -> None:
    """The third wrong submission gets a normal response and is the last one."""
    bank = a_bank()
    order = an_order(bank)
    attempt = pay(bank, order)
    responses = [bank.submit_otp(attempt.cf_payment_id, "000000", T0) for _ in range(3)]
    assert {(a.status, a.message) for a in responses} == {("FAILED", "otp is invalid")}
    assert effects(bank, order) == ["failed"]
    with pytest.raises(Refused, match="Exceeded retry attempts"):
        bank.submit_otp(attempt.cf_payment_id, "111000", T0)


def test_a_finished_payment_takes_no_otp() -> None:
    """A second right OTP is refused and moves no money."""
    bank = a_bank()
    order = an_order(bank)
    attempt = pay(bank, order)
    bank.submit_otp(attempt.cf_payment_id, "111000", T0)
    with pytest.raises(Refused, match="Transaction is already processed"):
        bank.submit_otp(attempt.cf_payment_id, "111000", T0)
    assert effects(bank, order) == ["captured"]


def test_an_otp_is_resent_twice_at_most() -> None:
    """Resends less than 30 seconds apart, and a third one, are refused."""
    bank = a_bank()
    payment = pay(bank, an_order(bank)).cf_payment_id
    with pytest.raises(Refused, match="30 s"):
        bank.resend_otp(payment, T0 + 29)
    bank.resend_otp(payment, T0 + 30)
    with pytest.raises(Refused, match="30 s"):
        bank.resend_otp(payment, T0 + 59)
    bank.resend_otp(payment, T0 + 60)
    with pytest.raises(Refused, match="too often"):
        bank.resend_otp(payment, T0 + 120)


def test_an_otp_page_expires_after_five_minutes() -> None:
    """A later OTP is refused; the attempt stays open for the bank's own page."""
    bank = a_bank()
    attempt = pay(bank, an_order(bank))
    with pytest.raises(Refused, match="expired"):
        bank.submit_otp(attempt.cf_payment_id, "111000", T0 + 300)
    assert attempt.status == "PENDING"


def test_a_bank_without_native_otp_gives_a_link() -> None:
    """Native OTP is best effort: such a card gets `link` where `post` was requested."""
    bank = a_bank()
    attempt = pay(bank, an_order(bank), card(card_number=NO_OTP_BIN))
    assert attempt.method.action == "link"
    with pytest.raises(Refused, match="takes no OTP"):
        bank.submit_otp(attempt.cf_payment_id, "111000", T0)


def test_part_of_a_hold_can_be_captured() -> None:
    """The captured amount is exact, and the hold is used up."""
    bank = a_bank()
    order, attempt = a_hold(bank)
    bank.authorize(HOLDS, order.order_id, "CAPTURE", Decimal("100.5"), T0)
    assert attempt.captured_amount == Decimal("100.50")
    assert effects(bank, order) == ["authorized", "captured"]
    with pytest.raises(Refused, match="already processed"):
        bank.authorize(HOLDS, order.order_id, "VOID", None, T0)


@pytest.mark.parametrize("amount", [Decimal("170.01"), 0, -1, Decimal("1.001"), "10", None, True])
def test_an_invalid_capture_is_refused(amount: object) -> None:
    """More than the hold, zero, negative, three decimals or no number move no money."""
    bank = a_bank()
    order, _ = a_hold(bank)
    with pytest.raises(Refused) as refusal:
        bank.authorize(HOLDS, order.order_id, "CAPTURE", amount, T0)
    assert (refusal.value.status, refusal.value.code) == (400, "order_amount_invalid")
    assert effects(bank, order) == ["authorized"]


def test_a_void_makes_the_order_payable_again() -> None:
    """A released hold leaves the order unpaid."""
    bank = a_bank()
    order, attempt = a_hold(bank)
    bank.authorize(HOLDS, order.order_id, "VOID", None, T0)
    assert (attempt.status, order.status(T0)) == ("VOID", "ACTIVE")
    assert pay(bank, order).status == "PENDING"


def test_an_action_can_wait_for_the_banks_confirmation() -> None:
    """Until then `authorization` is PENDING, and the payment is not VOID."""
    bank = a_bank(confirm_after_s=60.0)
    order, attempt = a_hold(bank)
    bank.authorize(HOLDS, order.order_id, "VOID", None, T0)
    assert _action_and_payment(attempt) == ("PENDING", "SUCCESS")
    bank.advance(T0 + 60)
    assert _action_and_payment(attempt) == ("SUCCESS", "VOID")
    assert effects(bank, order) == ["authorized", "voided"]


def test_a_hold_expires_after_seven_days() -> None:
    """The bank releases it at its due time, and a later capture is refused."""
    bank = a_bank()
    order, attempt = a_hold(bank)
    with pytest.raises(Refused, match="already processed"):
        bank.authorize(HOLDS, order.order_id, "CAPTURE", 170, T0 + 8 * DAY_S)
    assert attempt.status == "VOID"
    assert bank.ledger[-1].effect == "released" and bank.ledger[-1].at == T0 + 7 * DAY_S


def test_a_sale_has_nothing_to_capture() -> None:
    """Authorize is refused without a hold."""
    bank = a_bank()
    order = an_order(bank)
    bank.submit_otp(pay(bank, order).cf_payment_id, "111000", T0)
    with pytest.raises(Refused, match="no authorized payment"):
        bank.authorize(SALES, order.order_id, "CAPTURE", 170, T0)


def test_a_mandate_is_a_hold_with_its_own_end() -> None:
    """A UPI mandate holds in any account, until its own end time."""
    bank = a_bank()
    order = an_order(bank)
    ends = {"end_time": "2027-01-16T00:00:00+05:30"}
    attempt = pay(bank, order, upi(authorize_only=True, authorization=ends))
    assert attempt.held and attempt.method.mandate is not None
    assert attempt.hold_ends_at_s == attempt.method.mandate.end_at_s
    bank.advance(attempt.method.mandate.end_at_s)
    assert effects(bank, order) == ["authorized", "released"]


@pytest.mark.parametrize(
    ("upi_id", "status"),
    [
        ("testsuccess@gocash", "SUCCESS"),
        ("testfailure@gocash", "FAILED"),
        ("someone@bank", "PENDING"),
    ],
)
def test_a_upi_test_id_acts_by_itself(upi_id: str, status: str) -> None:
    """Its customer acts after the set seconds, and not before."""
    bank = a_bank(upi_approves_after_s=5.0)
    attempt = pay(bank, an_order(bank), upi(upi_id))
    bank.advance(T0 + 4.9)
    assert attempt.status == "PENDING"
    bank.advance(T0 + 5)
    assert attempt.status == status


def test_a_failed_attempt_can_still_succeed() -> None:
    """A late authorization follows the failure."""
    bank = a_bank()
    order = an_order(bank)
    attempt = pay(bank, order, card("link"))
    bank.simulate(SALES, attempt.cf_payment_id, "FAILED", "ISSUER_NOT_AVAILABLE", T0)
    assert attempt.failure is not None and attempt.failure.code == "ISSUER_NOT_AVAILABLE"
    bank.simulate(SALES, attempt.cf_payment_id, "SUCCESS", None, T0 + 60)
    assert effects(bank, order) == ["failed", "captured"]
    assert attempt.failure is None


def test_a_simulation_never_undoes_money() -> None:
    """A captured payment stays captured."""
    bank = a_bank()
    order = an_order(bank)
    attempt = pay(bank, order, upi())
    with pytest.raises(Refused, match="already processed"):
        bank.simulate(SALES, attempt.cf_payment_id, "FAILED", None, T0)
    assert effects(bank, order) == ["captured"]


def test_two_attempts_of_one_order_can_both_succeed() -> None:
    """If a customer pays twice, both payments are captured and in the ledger."""
    bank = a_bank()
    order = an_order(bank)
    for attempt in [pay(bank, order, card("link")), pay(bank, order, card("link"))]:
        bank.simulate(SALES, attempt.cf_payment_id, "SUCCESS", None, T0)
    assert effects(bank, order) == ["captured", "captured"]


def test_an_attempt_can_be_closed_by_its_age() -> None:
    """With a time limit the gateway cancels an open attempt; without one it stays open."""
    closing, patient = a_bank(closes_after_s=900.0), a_bank()
    closed, left = (pay(b, an_order(b), card("link")) for b in (closing, patient))
    for bank in (closing, patient):
        bank.advance(T0 + 900)
    assert (closed.status, left.status) == ("CANCELLED", "PENDING")


def test_an_order_that_is_paid_or_expired_takes_no_payment() -> None:
    """Both are inactive, but an attempt that began before may still succeed."""
    bank = a_bank(order_s=600.0)
    paid, expired = an_order(bank), an_order(bank)
    pay(bank, paid, upi())
    late = pay(bank, expired, card("link"))
    for order in (paid, expired):
        with pytest.raises(Refused, match="order_inactive"):
            pay(bank, order, now=T0 + 600)
    bank.simulate(SALES, late.cf_payment_id, "SUCCESS", None, T0 + 601)
    assert expired.status(T0 + 601) == "PAID"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"order_amount": 0}, "order_amount_invalid"),
        ({"order_amount": Decimal("1.001")}, "order_amount_invalid"),
        ({"order_amount": Decimal("1e999999")}, "order_amount_invalid"),
        ({"order_amount": "10"}, "order_amount_invalid"),
        ({"order_id": "ab"}, "order_id_invalid"),
        ({"order_id": "a" * 46}, "order_id_invalid"),
        ({"order_id": "bad id"}, "order_id_invalid"),
        ({"customer_details": {}}, "customer_details_invalid"),
        ({"customer_details": {"customer_id": "abc", "customer_phone": "12"}}, "phone_invalid"),
        ({"order_currency": "rupees"}, "order_currency_invalid"),
        ({"order_expiry_time": "2001-01-01T00:00:00"}, "order_expiry_time_invalid"),
        ({"order_tags": {"a": 1}}, "order_tags_invalid"),
    ],
)
def test_an_invalid_order_is_refused(changes: dict[str, Any], code: str) -> None:
    """Each field has its own error code, and no order is created."""
    bank = a_bank()
    with pytest.raises(Refused) as refusal:
        an_order(bank, **changes)
    assert (refusal.value.status, refusal.value.code) == (400, code)


def test_an_order_id_is_used_once_per_account() -> None:
    """A second use is a conflict; another account may use the same id."""
    bank = a_bank()
    bank.create_order(SALES, order_body(order_id="mine"), T0)
    with pytest.raises(Refused, match="409 order_already_exists"):
        bank.create_order(SALES, order_body(order_id="mine"), T0)
    assert bank.create_order(HOLDS, order_body(order_id="mine"), T0).order_id == "mine"


def test_an_account_sees_its_own_orders_only() -> None:
    """Orders, payments and simulations of other accounts are not found."""
    bank = a_bank()
    order = an_order(bank)
    attempt = pay(bank, order)
    with pytest.raises(Refused, match="404"):
        bank.fetch_payments(HOLDS, order.order_id, T0)
    with pytest.raises(Refused, match="404"):
        bank.simulate(HOLDS, attempt.cf_payment_id, "SUCCESS", None, T0)


def test_a_payment_is_found_in_its_own_order_only() -> None:
    """The id of another order's payment, or an invalid id, is a 404."""
    bank = a_bank()
    attempt, other = pay(bank, an_order(bank)), an_order(bank)
    for cf_payment_id in (attempt.cf_payment_id, "nonsense", "9" * 400):
        with pytest.raises(Refused, match="payment_not_found"):
            bank.fetch_payment(SALES, other.order_id, cf_payment_id, T0)


def test_the_same_seed_gives_the_same_ids() -> None:
    """Two banks with the same calls issue the same ids; another seed gives others."""
    ids = []
    for seed in (7, 7, 8):
        bank = Bank(seed=seed)
        order = bank.create_order(SALES, order_body(order_id="same"), T0)
        ids.append((bank.session_of(order), pay(bank, order).cf_payment_id))
    assert ids[0] == ids[1] != ids[2]
    assert ids[0][0].startswith("session_")


def _action_and_payment(attempt: Attempt) -> tuple[str | None, str]:
    action = attempt.hold_action
    return action.status if action else None, attempt.status
