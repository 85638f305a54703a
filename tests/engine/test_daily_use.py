"""What a page, a clerk and a reader of the feed need: replacing, receipts, who did what."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

import cfflow
from cfflow import (
    UPI,
    AlreadyPaid,
    Conflict,
    FeedEvent,
    FeedHoldExpiring,
    FeedItem,
    FeedReview,
    HistoryEntry,
    InvalidInput,
    OutcomeUnknown,
    Payment,
    State,
    Worker,
    show,
)
from tests.engine.shop import OTP, Shop, card, open_shop
from tests.engine.signing import event, signed

WHO = {"actor": "asha", "note": "by phone"}
DAY_S = 86_400


async def feed_of(shop: Shop, group: str = "g") -> list[FeedItem]:
    """Return all that the feed has now."""
    found: list[FeedItem] = []
    async with shop.cashier.events(group) as feed:
        while (item := await feed.poll()) is not None:
            found.append(item)
            await feed.ack(item)
    return found


async def moves(shop: Shop, payment: Payment) -> list[HistoryEntry]:
    """Return the transitions and steps of a payment, oldest first."""
    lines = await shop.cashier.history(payment)
    return [line for line in lines if line.kind in {"transition", "operation"}]


# paying again


async def test_a_customer_changes_from_card_to_upi(shop: Shop) -> None:
    """The old payment is abandoned, the next one begins with its metadata and amount."""
    order_id, session = await shop.order()
    first = await shop.cashier.start(
        "native_otp", order_id=order_id, amount="170.00", metadata={"cart": 7}
    )
    first = await shop.cashier.pay(first, session, card())
    next_one = await shop.cashier.start("upi", order_id=order_id, replace=True, actor="cust:9")
    assert (next_one.id, next_one.flow, next_one.state) == (f"{order_id}.2", "upi", State.CREATED)
    assert (next_one.metadata, next_one.amount) == ({"cart": 7}, first.amount)
    old = await shop.cashier.get(first.id)
    assert old.abandoned
    assert old.customer_view == show.StartAgain(replace=True)
    line = (await shop.cashier.history(old))[-1]
    assert (line.what, line.cause, line.actor) == ("abandoned", "caller", "cust:9")
    upi = UPI(channel="collect", upi_id="somebody@gocash")
    paid = await shop.cashier.pay(next_one, session, upi)
    assert isinstance(paid.customer_view, show.ApproveInApp)


async def test_replacing_twice_at_once_leaves_one_open_payment(shop: Shop) -> None:
    """Two tabs: each replaces what it finds, and the order has one open payment."""
    order_id, _ = await shop.order()
    await shop.cashier.start("native_otp", order_id=order_id)
    again = [shop.cashier.start("upi", order_id=order_id, replace=True) for _ in range(4)]
    await asyncio.gather(*again)
    found = await shop.cashier.find(order_id=order_id)
    assert [payment.abandoned for payment in found] == [True] * 4 + [False]


async def test_without_an_open_payment_replace_is_a_start(shop: Shop) -> None:
    """The first payment, and the next one after a failure."""
    order_id, session = await shop.order()
    first = await shop.cashier.start("native_otp", order_id=order_id, replace=True)
    first = await shop.cashier.pay(first, session, card())
    await shop.cashier.gateway.simulate(str(first.cf_payment_id), "FAILED")
    failed = await shop.cashier.refresh(first)
    assert isinstance(failed.customer_view, show.Failed)
    second = await shop.cashier.start("native_otp", order_id=order_id, replace=True)
    assert second.id == f"{order_id}.2"
    assert not (await shop.cashier.get(failed.id)).abandoned


async def test_all_open_payments_of_an_adopted_order_are_replaced(shop: Shop) -> None:
    """Adoption can leave two open ones; beside either, the next would be a second open payment."""
    order_id, session = await shop.order()
    for _ in range(2):
        await shop.cashier.gateway.pay(session, card())
        shop.pass_time(1)
    adopted = await shop.cashier.adopt(order_id, flow="native_otp")
    assert [payment.state for payment in adopted] == [State.INITIATED, State.INITIATED]
    third = await shop.cashier.start("native_otp", order_id=order_id, replace=True)
    found = await shop.cashier.find(order_id=order_id)
    assert third.id == f"{order_id}.3"
    assert [payment.abandoned for payment in found] == [True, True, False]


async def test_what_may_take_the_money_within_seconds_is_not_replaced(shop: Shop) -> None:
    """A pay on its way, an OTP of unknown outcome, a hold: `Conflict` says which."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    shop.fault("pay", "lost_after")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    with pytest.raises(Conflict, match="pay has no outcome yet") as refused:
        await shop.cashier.start("upi", order_id=order_id, replace=True)
    assert refused.value.payment is not None
    assert isinstance(refused.value.payment.customer_view, show.Wait)
    payment = await shop.cashier.refresh(payment)
    shop.fault("authenticate", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.submit_otp(payment, OTP)
    with pytest.raises(Conflict, match="submit_otp has no outcome yet"):
        await shop.cashier.start("upi", order_id=order_id, replace=True)
    shop.pass_time(30)
    await shop.cashier.refresh(payment)
    with pytest.raises(Conflict, match="may have been right"):
        await shop.cashier.start("upi", order_id=order_id, replace=True)
    held = await shop.held()
    with pytest.raises(Conflict, match="it is authorized"):
        await shop.cashier.start("preauth", order_id=held.order_id, replace=True)


async def test_an_accepted_otp_is_not_asked_for_again(shop: Shop) -> None:
    """The money is not seen yet: the page waits, and the payment is not replaced."""
    payment, _ = await shop.at_otp()
    shop.fault("fetch_payment", "lost_before")
    accepted = await shop.cashier.submit_otp(payment, OTP)
    assert accepted.state is State.OTP_PENDING
    assert isinstance(accepted.customer_view, show.Wait)
    assert (accepted.otp, accepted.next_action) == (None, None)
    with pytest.raises(Conflict, match="was accepted"):
        await shop.cashier.start("native_otp", order_id=payment.order_id, replace=True)


async def test_replace_never_changes_what_is_paid(shop: Shop) -> None:
    """Another amount or currency is a mistake, a paid order is paid, and `replace` is a bool."""
    payment, _ = await shop.at_otp()
    with pytest.raises(Conflict, match="amount"):
        await shop.cashier.start("upi", order_id=payment.order_id, amount="171", replace=True)
    with pytest.raises(Conflict, match="currency"):
        await shop.cashier.start("upi", order_id=payment.order_id, currency="USD", replace=True)
    with pytest.raises(InvalidInput, match="replace"):
        await shop.cashier.start("upi", order_id=payment.order_id, replace="yes")  # type: ignore[arg-type]  # the mistake itself
    await shop.cashier.submit_otp(payment, OTP)
    with pytest.raises(AlreadyPaid):
        await shop.cashier.start("upi", order_id=payment.order_id, replace=True)


# a lost capture or void


async def test_a_void_takes_the_place_of_a_capture_that_never_arrived(shop: Shop) -> None:
    """Not before an inquiry 15 s after the first deadline; then the bank gets one void."""
    held = await shop.held()
    shop.fault("authorize", "lost_before")
    with pytest.raises(OutcomeUnknown):
        await shop.cashier.capture(held, "100")
    with pytest.raises(OutcomeUnknown, match="capture"):
        await shop.cashier.void(held.id)
    shop.pass_time(24)
    with pytest.raises(OutcomeUnknown, match="capture"):
        await shop.cashier.void(held.id)
    shop.pass_time(1.1)
    voided = await shop.cashier.void(held.id)
    assert voided.state is State.VOIDED
    assert isinstance(voided.customer_view, show.RefundedLater)
    assert shop.effects(held.order_id) == ["attempt_created", "authorized", "voided"]
    lines = [(line.what, line.proof) for line in await moves(shop, voided)]
    assert ("capture #3", "given up: no effect was seen") in lines


# receipts


async def test_a_receipt_has_what_the_gateway_shows(shop: Shop) -> None:
    """Method, channel, group, card, references and times; the same after a read."""
    payment, _ = await shop.at_otp()
    assert (payment.method, payment.channel, payment.masked) == ("card", "post", "xxxxxx1111")
    assert (payment.authorized_at, payment.captured_at) == (None, None)
    shop.pass_time(7)
    paid = await shop.cashier.submit_otp(payment, OTP)
    seen = await shop.cashier.gateway.fetch_payment(paid.order_id, str(paid.cf_payment_id))
    assert (paid.bank_reference, paid.auth_id) == (seen.bank_reference, seen.auth_id)
    assert paid.bank_reference
    assert paid.payment_group == seen.payment_group
    assert paid.authorized_at is not None
    assert paid.captured_at is not None
    assert paid.created_at <= paid.authorized_at <= paid.captured_at <= paid.updated_at
    assert paid.authorized_at - paid.created_at >= timedelta(seconds=6)
    assert paid.confirmed
    assert paid == await shop.cashier.get(paid.id)
    assert "1111" not in repr(paid)


async def test_a_capture_days_later_has_its_own_time(shop: Shop) -> None:
    """The hold's time stays; the capture's is the bank's."""
    held = await shop.held()
    shop.pass_time(2 * DAY_S)
    taken = await shop.cashier.capture(held, "100")
    assert taken.authorized_at == held.authorized_at
    assert held.authorized_at is not None
    assert taken.captured_at is not None
    assert taken.captured_at - held.authorized_at >= timedelta(days=2, seconds=-1)


async def test_an_adopted_payment_has_its_receipt_too(shop: Shop) -> None:
    """What the store had lost comes back from the gateway's own answer."""
    order_id, session = await shop.order()
    answer = await shop.cashier.gateway.pay(session, card())
    await shop.cashier.gateway.simulate(str(answer.cf_payment_id), "SUCCESS")
    shop.pass_time(1)
    (adopted,) = await shop.cashier.adopt(order_id, flow="native_otp", actor="asha")
    assert (adopted.method, adopted.masked) == ("card", "xxxxxx1111")
    assert adopted.bank_reference
    assert adopted.captured_at is not None
    lines = await shop.cashier.history(adopted)
    assert {(line.cause, line.actor) for line in lines} == {("person", "asha")}


async def test_as_dict_is_plain_json(shop: Shop) -> None:
    """It survives `json.dumps` and back, with its amounts exact and its view inside."""
    payment, _ = await shop.at_otp()
    for shown in (payment, await shop.cashier.submit_otp(payment, OTP), await shop.held()):
        data = shown.as_dict()
        assert json.loads(json.dumps(data)) == data
        assert data["amount"] == "170.00"
        assert data["state"] == shown.state.value
    assert payment.as_dict()["customer_view"]["show"] == "enter_otp"


# who


async def test_history_feed_and_log_name_the_caller(shop: Shop) -> None:
    """The name that came with the step, the request's id, at the step and at what it moved."""
    payment, _ = await shop.at_otp(flow="preauth")
    held = await shop.cashier.submit_otp(payment, OTP, actor="customer")
    taken = await shop.cashier.capture(held, "100", actor="desk:asha")
    lines = await moves(shop, taken)
    by = {line.what: (line.cause, line.actor) for line in lines}
    assert by["require_otp"] == by["pay #1"] == ("caller", "")
    assert by["hold"] == by["submit_otp #2"] == ("caller", "customer")
    assert by["capture"] == by["capture #3"] == ("caller", "desk:asha")
    assert all(line.request_id for line in lines if line.kind == "transition")
    logged = {entry["trigger"]: entry for entry in shop.events.named("payment.transition")}
    assert (logged["capture"]["cause"], logged["capture"]["actor"]) == ("caller", "desk:asha")
    events = {item.trigger: item for item in await feed_of(shop) if isinstance(item, FeedEvent)}
    assert (events["hold"].cause, events["hold"].actor) == ("caller", "customer")
    assert events["capture"].actor == "desk:asha"
    ids = {line.what: line.request_id for line in lines}
    assert events["capture"].request_id == ids["capture"]
    assert ids["initiate"] == ids["require_otp"] != ids["hold"]


async def test_a_step_that_was_refused_has_the_request_that_refused_it(shop: Shop) -> None:
    """The gateway's support finds the call by it."""
    held = await shop.held()
    shop.fault("authorize", "status_before", status=400)
    with pytest.raises(cfflow.GatewayRejected) as refused:
        await shop.cashier.capture(held, actor="desk:asha")
    line = (await moves(shop, held))[-1]
    assert (line.what, line.actor) == ("capture #3", "desk:asha")
    assert line.request_id == refused.value.request_id != ""


async def test_history_names_the_worker_the_notification_and_the_person(tmp_path: Path) -> None:
    """An inquiry by the schedule, the end of a hold, a notification, a decision."""
    async with open_shop() as shop:
        worker = Worker(shop.cashier)
        held = await shop.held()
        shop.pass_time(7 * DAY_S - 6 * 3600)
        await worker.run_once()
        voided = {line.what: line.cause for line in await moves(shop, held)}
        assert (voided["void"], voided["void #3"]) == ("expiry", "expiry")

        lost = await shop.held()
        shop.fault("authorize", "lost_before")
        with pytest.raises(OutcomeUnknown):
            await shop.cashier.capture(lost, actor="desk:asha")
        shop.pass_time(12)
        await worker.run_once()
        lines = await moves(shop, lost)
        again = next(line for line in lines if line.proof == "sent again")
        assert (again.cause, again.actor) == ("resend", "")
        assert (lines[-1].what, lines[-1].cause, lines[-1].actor) == (
            ("capture #3", "caller", "desk:asha")
        )

        order_id, session = await shop.order()
        payment = await shop.cashier.start("upi", order_id=order_id)
        payment = await shop.cashier.pay(
            payment, session, UPI(channel="collect", upi_id="somebody@gocash")
        )
        await shop.cashier.gateway.simulate(str(payment.cf_payment_id), "SUCCESS")
        body = event(order_id, str(payment.cf_payment_id))
        await shop.cashier.on_webhook(signed(body, shop.store.now_ms()), body)
        await worker.run_once()
        assert (await moves(shop, payment))[-1].cause == "notification"

        polled, _ = await shop.at_otp()
        await shop.cashier.gateway.simulate(str(polled.cf_payment_id), "FAILED")
        shop.pass_time(301)
        await worker.run_once()
        failed = {line.what: line.cause for line in await moves(shop, polled)}
        assert failed["fail"] == "worker"


async def test_the_feed_tells_of_reviews_and_amounts(shop: Shop) -> None:
    """A review that opens, the same one closed by a person, and the money of each event."""
    payment, _ = await shop.at_otp()
    await shop.cashier.abandon(payment, actor="asha")
    await shop.cashier.gateway.simulate(str(payment.cf_payment_id), "SUCCESS")
    paid = await shop.cashier.refresh(payment)
    assert paid.review == ("abandoned_and_paid",)
    paid = await shop.cashier.acknowledge(paid, "abandoned_and_paid", **WHO)
    (kept,) = paid.reviews
    assert (kept.reason, kept.actor, kept.note) == ("abandoned_and_paid", "asha", "by phone")
    assert kept.closed_at is not None
    assert paid.review == ()
    items = await feed_of(shop)
    opened, closed = [item for item in items if isinstance(item, FeedReview)]
    assert (opened.is_open, opened.reason, opened.actor) == (True, "abandoned_and_paid", "")
    assert (closed.is_open, closed.actor, closed.note) == (False, "asha", "by phone")
    last = [item for item in items if isinstance(item, FeedEvent)][-1]
    assert (last.amount, last.captured_amount) == (paid.amount, paid.captured_amount)
    assert last.bank_reference == paid.bank_reference
    assert paid.bank_reference
    lines = await moves(shop, paid)
    references = {line.what: line.bank_reference for line in lines if line.kind == "transition"}
    assert references["initiate"] is None
    assert references["hold"] == references["capture"] == paid.bank_reference
    assert (last.currency, last.created_at, last.captured_at) == (
        ("INR", paid.created_at, paid.captured_at)
    )


async def test_the_feed_tells_once_of_a_hold_that_ends_within_a_day(shop: Shop) -> None:
    """A day before its end, by the worker's look, and not again at the end."""
    held = await shop.held()
    assert held.hold_expires_at is not None
    worker = Worker(shop.cashier)
    life_s = (held.hold_expires_at - held.created_at).total_seconds()
    shop.pass_time(life_s - DAY_S - 60)
    await worker.run_once()
    assert not [item for item in await feed_of(shop) if isinstance(item, FeedHoldExpiring)]
    shop.pass_time(61)
    await worker.run_once()
    (told,) = [item for item in await feed_of(shop) if isinstance(item, FeedHoldExpiring)]
    assert (told.payment_id, told.hold_expires_at) == (held.id, held.hold_expires_at)
    assert told.amount == held.amount
    await shop.cashier.refresh(held)
    shop.pass_time(DAY_S - 7 * 3600)
    await worker.run_once()
    await shop.cashier.refresh(held)
    assert not [item for item in await feed_of(shop) if isinstance(item, FeedHoldExpiring)]


@pytest.mark.parametrize("actor", ["", " ", "x" * 65, "two\nlines", 7, b"asha"])
async def test_an_actor_is_one_short_line(shop: Shop, actor: object) -> None:
    """Before anything is sent."""
    payment, _ = await shop.at_otp()
    with pytest.raises(InvalidInput, match="actor"):
        await shop.cashier.submit_otp(payment, OTP, actor=actor)  # type: ignore[arg-type]  # the mistake itself
    assert shop.performed("authenticate") == 0
