"""What works when nothing goes wrong, over real HTTP."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import pytest

from cfflow import (
    UPI,
    ApproveInApp,
    AskOtp,
    NetBanking,
    Redirect,
    State,
    SubmitForm,
    UPIAuthorization,
    Wallet,
)
from cfflow.core.chart import EDGES
from cfflow.emulator import BankOptions
from tests.engine.shop import CUSTOMER, OTP, Shop, card, open_shop


async def test_a_headless_otp_sale_is_captured(shop: Shop) -> None:
    """created, initiated, otp_pending, authorized, captured: three calls, one capture."""
    payment, _ = await shop.at_otp()
    assert isinstance(payment.next_action, AskOtp)
    assert payment.next_action.redirect_to_bank
    paid = await shop.cashier.submit_otp(payment, OTP)
    assert (paid.state, paid.captured_amount) == (State.CAPTURED, Decimal("170.00"))
    assert paid.next_action is None
    assert shop.effects(paid.order_id) == ["attempt_created", "captured"]


async def test_every_transition_is_logged_once(shop: Shop) -> None:
    """The events of the log are the history's transitions, in order, with their proof."""
    payment, _ = await shop.at_otp()
    paid = await shop.cashier.submit_otp(payment, OTP)
    logged = shop.events.named("payment.transition")
    history = [entry for entry in await shop.cashier.history(paid) if entry.kind == "transition"]
    assert [event["trigger"] for event in logged] == [entry.what for entry in history]
    assert [event["to_state"] for event in logged] == [
        "initiated",
        "otp_pending",
        "authorized",
        "captured",
    ]
    assert logged[-1]["observation"] == "payment_status=SUCCESS is_captured=true"
    assert logged[-1]["step"] == "submit_otp"
    assert all(event["payment_id"] == paid.id and event["request_id"] for event in logged)


async def test_every_history_is_a_path_in_the_chart(shop: Shop) -> None:
    """Each transition's edge is in the chart and begins where the last one ended."""
    payment = await shop.held()
    captured = await shop.cashier.capture(payment)
    walked = [e for e in await shop.cashier.history(captured) if e.kind == "transition"]
    here = State.CREATED
    for entry in walked:
        assert entry.from_state is here
        assert any(edge == (entry.what, entry.from_state, entry.to_state) for edge in EDGES)
        here = entry.to_state or here
    assert here is captured.state


async def test_a_wrong_otp_costs_one_try(shop: Shop) -> None:
    """A wrong OTP is no error: the customer may try again."""
    payment, _ = await shop.at_otp()
    again = await shop.cashier.submit_otp(payment, "999999")
    assert again.state is State.OTP_PENDING
    assert again.otp is not None
    assert again.otp.submits_left == 2
    assert isinstance(again.next_action, AskOtp)


async def test_a_resent_otp_is_counted(shop: Shop) -> None:
    """A resend walks its own edge and moves the next one's time."""
    payment, _ = await shop.at_otp()
    shop.pass_time(30)
    again = await shop.cashier.resend_otp(payment)
    assert again.otp is not None
    assert again.otp.resends_left == 1
    assert [e.what for e in await shop.cashier.history(again)][-2:] == [
        "resend_otp",
        "resend_otp #2",
    ]


async def test_leaving_the_otp_page_leads_to_the_bank(shop: Shop) -> None:
    """The way out costs no call, and the attempt lives on."""
    payment, _ = await shop.at_otp()
    assert isinstance(payment.next_action, AskOtp)
    left = await shop.cashier.leave_otp(payment)
    assert left.state is State.INITIATED
    assert left.next_action == Redirect(payment.next_action.redirect_to_bank or "")
    assert left.cf_payment_id
    await shop.cashier.gateway.simulate(left.cf_payment_id, "SUCCESS")
    assert (await shop.cashier.refresh(left)).state is State.CAPTURED


async def test_native_otp_is_best_effort(shop: Shop) -> None:
    """A bank without native OTP answers with a redirect, and the payment follows it."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    sent = await shop.cashier.pay(payment, session, card("5105105105105100"))
    assert sent.state is State.INITIATED
    assert isinstance(sent.next_action, Redirect)


async def test_a_hold_is_captured_in_part(shop: Shop) -> None:
    """Held now, captured later, the rest released: one capture of the requested amount."""
    payment = await shop.held("5000.00")
    assert payment.state is State.AUTHORIZED
    assert payment.hold_expires_at is not None
    captured = await shop.cashier.capture(payment, "4200.50")
    assert captured.captured_amount == Decimal("4200.50")
    assert captured.amount == Decimal("5000.00")
    assert shop.effects(captured.order_id).count("captured") == 1


async def test_a_hold_is_voided_whole(shop: Shop) -> None:
    """A void releases the hold and ends the payment."""
    voided = await shop.cashier.void(await shop.held())
    assert (voided.state, voided.captured_amount) == (State.VOIDED, None)
    assert shop.effects(voided.order_id)[-1] == "voided"


async def test_a_capture_that_the_bank_confirms_later_stays_open() -> None:
    """PENDING keeps the operation open; SUCCESS closes it; no second step starts meanwhile."""
    async with open_shop(options=BankOptions(confirm_after_s=60)) as shop:
        captured = await shop.cashier.capture(await shop.held())
        assert captured.operation is not None
        assert captured.operation.accepted
        shop.pass_time(61)
        confirmed = await shop.cashier.refresh(captured)
        assert (confirmed.state, confirmed.operation) == (State.CAPTURED, None)
        assert shop.performed("authorize") == 1


async def test_upi_collect_is_approved_in_the_app() -> None:
    """The customer approves later; a refresh then sees the money."""
    async with open_shop(options=BankOptions(upi_approves_after_s=20)) as shop:
        order_id, session = await shop.order()
        payment = await shop.cashier.start("upi", order_id=order_id)
        upi = UPI(channel="collect", upi_id="testsuccess@gocash")
        asked = await shop.cashier.pay(payment, session, upi)
        assert isinstance(asked.next_action, ApproveInApp)
        shop.pass_time(21)
        assert (await shop.cashier.refresh(asked)).state is State.CAPTURED


async def test_a_upi_mandate_holds_until_its_own_end(shop: Shop) -> None:
    """authorization.end_time wins over the flow's seven days."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("upi_mandate", order_id=order_id)
    mandate = UPI(
        channel="collect",
        upi_id="testsuccess@gocash",
        authorize_only=True,
        authorization=UPIAuthorization(
            approve_by="2030-01-02T00:00:00+05:30",
            start_time="2030-01-01T00:00:00+05:30",
            end_time="2030-01-03T12:00:00+05:30",
        ),
    )
    sent = await shop.cashier.pay(payment, session, mandate)
    held = sent if sent.state is State.AUTHORIZED else await shop.cashier.refresh(sent)
    assert held.state is State.AUTHORIZED
    assert held.hold_expires_at is not None
    assert held.hold_expires_at.isoformat() == "2030-01-03T06:30:00+00:00"


@pytest.mark.parametrize("channel", ["link", "qrcode"])
@pytest.mark.parametrize("captures", [True, False])
async def test_a_mandate_by_link_or_qr_code_goes_from_the_app_to_the_money(
    shop: Shop, channel: Literal["link", "qrcode"], captures: bool
) -> None:
    """The customer approves in the app; then the hold is captured in part, or voided."""
    order_id, session = await shop.order("5000.00")
    payment = await shop.cashier.start("upi_mandate", order_id=order_id, amount="5000.00")
    mandate = UPI(channel=channel, authorize_only=True)
    asked = await shop.cashier.pay(payment, session, mandate)
    assert asked.state is State.INITIATED
    assert isinstance(asked.next_action, ApproveInApp)
    assert asked.next_action.channel == channel
    assert asked.next_action.payload
    await shop.cashier.gateway.simulate(asked.cf_payment_id or "", "SUCCESS")
    held = await shop.cashier.refresh(asked)
    assert (held.state, held.amount) == (State.AUTHORIZED, Decimal("5000.00"))
    assert held.hold_expires_at is not None
    if captures:
        done = await shop.cashier.capture(held, "4200.50")
        assert (done.state, done.captured_amount) == (State.CAPTURED, Decimal("4200.50"))
    else:
        done = await shop.cashier.void(held)
        assert (done.state, done.captured_amount) == (State.VOIDED, None)
    effect = "captured" if captures else "voided"
    assert shop.effects(order_id) == ["attempt_created", "authorized", effect]


async def test_the_sandboxs_hold_over_link_is_captured(shop: Shop) -> None:
    """Order note `preauth_transaction` and channel `link`: how to test a hold in the sandbox."""
    order = await shop.cashier.gateway.create_order(
        "5000.00", CUSTOMER, order_note="preauth_transaction"
    )
    payment = await shop.cashier.start("preauth", order_id=order.order_id)
    sent = await shop.cashier.pay(payment, order.payment_session_id, card(channel="link"))
    assert isinstance(sent.next_action, Redirect)
    await shop.cashier.gateway.simulate(sent.cf_payment_id or "", "SUCCESS")
    held = await shop.cashier.refresh(sent)
    assert held.state is State.AUTHORIZED
    captured = await shop.cashier.capture(held, "4200.50")
    assert captured.captured_amount == Decimal("4200.50")


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        (NetBanking(netbanking_bank_code=3333), (Redirect, SubmitForm)),
        (Wallet(provider="phonepe", phone="9898989898"), (Redirect, SubmitForm)),
        (card(channel="link"), (Redirect, SubmitForm)),
    ],
    ids=["netbanking", "wallet", "card on the bank's page"],
)
async def test_what_leaves_the_page_is_a_redirect(
    shop: Shop, method: NetBanking, kinds: tuple[type, ...]
) -> None:
    """The redirect flow: the customer goes elsewhere, the attempt ends by inquiry."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("redirect", order_id=order_id)
    sent = await shop.cashier.pay(payment, session, method)
    assert isinstance(sent.next_action, kinds)
    assert sent.cf_payment_id
    await shop.cashier.gateway.simulate(sent.cf_payment_id, "SUCCESS")
    assert (await shop.cashier.refresh(sent)).state is State.CAPTURED


async def test_a_failed_attempt_has_its_error_code(shop: Shop) -> None:
    """A failed attempt keeps the gateway's error code; the order may be tried again."""
    payment, session = await shop.at_otp()
    await shop.cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
    failed = await shop.cashier.refresh(payment)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    second = await shop.cashier.start("native_otp", order_id=failed.order_id, amount="170")
    assert second.id == f"{failed.order_id}.2"
    assert (await shop.cashier.pay(second, session, card())).state is State.OTP_PENDING


@pytest.mark.parametrize("version", ["2022-09-01", "2023-08-01", "2025-01-01", "2026-01-01"])
async def test_every_api_version_ends_captured(version: str) -> None:
    """Numeric and string ids alike: the payment's own id is always text."""
    async with open_shop(api_version=version) as shop:
        payment, _ = await shop.at_otp()
        assert isinstance(payment.cf_payment_id, str)
        assert (await shop.cashier.submit_otp(payment, OTP)).state is State.CAPTURED
