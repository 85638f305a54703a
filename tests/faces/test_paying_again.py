"""The table of docs/guides/paying-again.md is true: each situation is made, shown and replaced."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

import cfflow
from cfflow import UPI, NetBanking, Payment, show
from tests.engine.shop import OTP, Shop, card, open_shop
from tests.faces.pages_kit import page

#: Each row by its situation: the names of the views, of the calls, and what `start` does.
ROWS = {
    cells[0]: cells
    for line in re.findall(r"^\| (.*) \|$", page("paying-again"), re.MULTILINE)[1:]
    if not line.startswith("-")
    for cells in [line.split(" | ")]
}
Make = Callable[[Shop], Awaitable[Payment]]


async def created(shop: Shop) -> Payment:
    """Nothing was paid yet."""
    order_id, _ = await shop.order()
    return await shop.cashier.start("native_otp", order_id=order_id)


async def failed(shop: Shop) -> Payment:
    """The bank declined it."""
    payment = await at_otp(shop)
    await shop.cashier.gateway.simulate(str(payment.cf_payment_id), "FAILED")
    return await shop.cashier.refresh(payment)


async def at_otp(shop: Shop) -> Payment:
    """The bank waits for the OTP."""
    return (await shop.at_otp())[0]


async def expired(shop: Shop) -> Payment:
    """Five minutes later."""
    payment = await at_otp(shop)
    shop.pass_time(301)
    return await shop.cashier.get(payment.id)


async def at_bank(shop: Shop) -> Payment:
    """The customer is on the bank's page."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("redirect", order_id=order_id)
    bank = NetBanking(netbanking_bank_code=3333)
    return await shop.cashier.pay(payment, session, bank)


async def in_app(shop: Shop) -> Payment:
    """The customer's app has the request."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("upi", order_id=order_id)
    upi = UPI(channel="collect", upi_id="asha@okbank")
    return await shop.cashier.pay(payment, session, upi)


async def lost_pay(shop: Shop) -> Payment:
    """The answer to a pay was lost, and nothing has arrived."""
    order_id, session = await shop.order()
    payment = await shop.cashier.start("native_otp", order_id=order_id)
    shop.fault("pay", "lost_before")
    with suppress(cfflow.OutcomeUnknown):
        await shop.cashier.pay(payment, session, card())
    return await shop.cashier.get(payment.id)


async def given_up(shop: Shop) -> Payment:
    """Two inquiries found no attempt."""
    payment = await lost_pay(shop)
    for _ in range(2):
        shop.pass_time(26)
        payment = await shop.cashier.refresh(payment)
    return payment


async def otp_on_its_way(shop: Shop) -> Payment:
    """The answer to an OTP was lost a moment ago."""
    payment = await at_otp(shop)
    shop.fault("authenticate", "lost_before")
    with suppress(cfflow.OutcomeUnknown):
        await shop.cashier.submit_otp(payment, OTP)
    return await shop.cashier.get(payment.id)


async def otp_lost(shop: Shop) -> Payment:
    """An inquiry saw no money after it."""
    payment = await otp_on_its_way(shop)
    shop.pass_time(30)
    return await shop.cashier.refresh(payment)


async def otp_accepted(shop: Shop) -> Payment:
    """The money is not seen yet."""
    payment = await at_otp(shop)
    shop.fault("fetch_payment", "lost_before")
    return await shop.cashier.submit_otp(payment, OTP)


async def held(shop: Shop) -> Payment:
    """A hold."""
    return await shop.held()


async def paid(shop: Shop) -> Payment:
    """A sale."""
    return await shop.cashier.submit_otp(await at_otp(shop), OTP)


async def abandoned(shop: Shop) -> Payment:
    """A person freed the order."""
    return await shop.cashier.abandon(await at_otp(shop))


SITUATIONS: dict[str, Make] = {
    "nothing was paid yet": created,
    "it failed": failed,
    "the OTP page is open": at_otp,
    "the OTP page has expired": expired,
    "on the bank's page": at_bank,
    "in the UPI app": in_app,
    "a pay has no outcome": lost_pay,
    "a lost pay was given up": given_up,
    "an OTP has no outcome": otp_on_its_way,
    "an OTP's answer was lost": otp_lost,
    "an OTP was accepted": otp_accepted,
    "the money is held": held,
    "the order is paid": paid,
    "it was abandoned": abandoned,
}


def test_the_table_has_every_situation() -> None:
    """Each row is tried below."""
    assert [*ROWS] == [*SITUATIONS]


async def replaced(shop: Shop, order_id: str) -> Payment | cfflow.CfflowError:
    """Return the next payment of an order, or why there is none."""
    try:
        return await shop.cashier.start("upi", order_id=order_id, replace=True)
    except cfflow.CfflowError as error:
        return error


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_row_is_true(situation: str) -> None:
    """The view that the page has, whether another way is offered, and what `start` does."""
    _, view, _, outcome, *_ = ROWS[situation]
    async with open_shop() as shop:
        payment = await SITUATIONS[situation](shop)
        shown = payment.customer_view
        assert f"`{type(shown).__name__}`" == view
        begins = outcome == "begins the next payment"
        # The page offers exactly what `start` then permits.
        offers = getattr(shown, "may_start_again", begins)
        assert offers == begins
        got = await replaced(shop, payment.order_id)
        if isinstance(got, cfflow.CfflowError):
            name, _, text = outcome.partition(": ")
            assert name == f"`{type(got).__name__}`"
            assert text.removeprefix("it ").removeprefix("its ") in str(got)
            return
        assert begins
        assert got.id == f"{payment.order_id}.2"
        assert isinstance(got.customer_view, show.StartAgain)
        old = await shop.cashier.get(payment.id)
        assert old.abandoned == (situation != "it failed")
