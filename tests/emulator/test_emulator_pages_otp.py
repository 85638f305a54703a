"""The OTP pages of the emulator: the bank's own form and the merchant's calls share one page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from cfflow.emulator import BankOptions, running_emulator
from tests.emulator.emulator_kit import NO_OTP_BIN, Shop, a_shop, card
from tests.emulator.pages_kit import RETURN_URL, Page, a_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTP_METHODS = [
    pytest.param(card("link"), id="link"),
    pytest.param(card(card_number=NO_OTP_BIN), id="no-native-otp"),
    pytest.param(card(), id="redirect-to-bank"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """The merchant of one emulator for the whole module."""
    async with running_emulator() as emulator, a_shop(emulator) as merchant:
        yield merchant


async def resend(page: Page) -> str:
    """Request the OTP again and return the text that the page shows."""
    response = await page.press("resend")
    return response.headers["location"].rpartition("note=")[2]


@pytest.mark.parametrize("method", OTP_METHODS)
async def test_a_wrong_otp_leaves_two_tries_and_the_right_one_pays(
    shop: Shop, method: Mapping[str, Any]
) -> None:
    """The page shows that it was wrong and how many tries are left."""
    page = await a_page(shop, method)
    response = await page.type_otp("123456")
    texts = await shop.http.get(response.headers["location"].removeprefix("/pg"))
    assert "That one-time password is wrong" in texts.text and "2 tries left" in texts.text
    await page.type_otp("111000")
    assert (await page.status(), await page.effects()) == ("SUCCESS", ["captured"])


@pytest.mark.parametrize("method", OTP_METHODS)
async def test_the_third_wrong_otp_fails_the_attempt(shop: Shop, method: Mapping[str, Any]) -> None:
    """The customer is then redirected to the shop."""
    page = await a_page(shop, method, order_meta={"return_url": RETURN_URL})
    for _ in range(2):
        await page.type_otp("123456")
    assert "1 try left" in await page.look()
    last = await page.type_otp("123456")
    assert last.headers["location"].startswith("https://shop.example/done")
    assert await page.effects() == ["failed"]


async def test_the_same_wrong_otp_pressed_twice_counts_once(shop: Shop) -> None:
    """The second click sends an old count of wrong OTPs."""
    page = await a_page(shop, card("link"))
    seen = page.seen(await page.look())
    for _ in range(4):
        await page.type_otp("123456", seen=seen)
    assert "2 tries left" in await page.look()


async def test_the_right_otp_counts_on_an_old_page_too(shop: Shop) -> None:
    """A wrong OTP submitted elsewhere in the meantime must not block the right one."""
    page = await a_page(shop, card())
    seen = page.seen(await page.look())
    await shop.submit(page.payment_id, "123456")
    await page.type_otp("111000", seen=seen)
    assert await page.status() == "SUCCESS"


@pytest.mark.parametrize("otp", ["", "   "])
async def test_an_empty_otp_uses_up_no_try(shop: Shop, otp: str) -> None:
    """A press without an OTP is not a submission."""
    page = await a_page(shop, card("link"))
    response = await page.type_otp(otp)
    assert response.headers["location"].endswith("note=empty")
    assert "3 tries left" in await page.look()


async def test_an_otp_is_resent_twice_thirty_seconds_apart(shop: Shop) -> None:
    """The limits are those of the merchant's own call."""
    page = await a_page(shop, card("link"))
    await page.look()
    texts = [await resend(page)]
    for _ in range(2):
        shop.emulator.clock.advance(30)
        texts += [await resend(page), await resend(page)]
    assert texts == ["too_soon", "sent", "too_soon", "sent", "too_often"]


@pytest.mark.parametrize("method", OTP_METHODS)
async def test_an_expired_otp_page_takes_no_otp(shop: Shop, method: Mapping[str, Any]) -> None:
    """The page shows that it has expired after five minutes; the attempt stays open."""
    page = await a_page(shop, method)
    seen = page.seen(await page.look())
    shop.emulator.clock.advance(300)
    assert "This page has expired" in await page.look()
    notes = [await resend(page), (await page.type_otp("111000", seen=seen)).headers["location"]]
    assert notes[0] == "gone" and notes[1].endswith("note=gone")
    assert await page.status() == "PENDING"


async def test_a_payment_reopened_by_simulate_gets_no_new_tries(shop: Shop) -> None:
    """Three wrong OTPs are the limit, as in the merchant's own calls."""
    page = await a_page(shop, card("link"))
    for _ in range(3):
        await page.type_otp("123456")
    shop.emulator.bank.force(page.payment_id, "PENDING", shop.emulator.clock.now())
    await page.type_otp("111000")
    assert "No try is left" in await page.look()
    assert await page.status() == "PENDING"


async def test_an_expired_otp_page_can_still_be_left(shop: Shop) -> None:
    """Cancelling is the only decision that remains."""
    page = await a_page(shop, card())
    shop.emulator.clock.advance(300)
    await page.press("cancel")
    assert await page.status() == "USER_DROPPED"


async def test_a_bank_s_own_page_expires_five_minutes_after_it_is_opened(shop: Shop) -> None:
    """A bank sends its OTP when the customer arrives, not at the time of the pay."""
    page = await a_page(shop, card("link"))
    shop.emulator.clock.advance(3600)
    await page.type_otp("111000")
    assert await page.status() == "SUCCESS"


async def test_the_bank_s_page_and_the_merchant_s_calls_count_together(shop: Shop) -> None:
    """Two wrong OTPs on one and one on the other are three."""
    page = await a_page(shop, card())
    await shop.submit(page.payment_id, "123456")
    await page.type_otp("123456")
    response = await shop.submit(page.payment_id, "123456")
    assert response.json()["authenticate_status"] == "FAILED"
    assert await page.status() == "FAILED"


async def test_after_an_otp_on_the_bank_s_page_a_call_is_refused(shop: Shop) -> None:
    """The merchant's submit gets "Transaction is already processed"."""
    page = await a_page(shop, card())
    await page.type_otp("111000")
    response = await shop.submit(page.payment_id)
    assert (response.status_code, response.json()["code"]) == (400, "request_invalid")
    assert await page.effects() == ["captured"]


async def test_the_merchant_s_call_takes_no_otp_of_a_redirect(shop: Shop) -> None:
    """Opening the bank's page of a link does not make it native OTP."""
    page = await a_page(shop, card("link"))
    await page.look()
    assert (await shop.submit(page.payment_id)).status_code == 400
    assert await page.status() == "PENDING"


@pytest.mark.parametrize(("button", "status"), [("decline", "FAILED"), ("cancel", "USER_DROPPED")])
async def test_an_otp_page_has_the_other_buttons_too(shop: Shop, button: str, status: str) -> None:
    """Declining and cancelling need no OTP."""
    page = await a_page(shop, card())
    await page.press(button)
    assert await page.status() == status


async def test_money_that_moves_later_is_no_success_yet() -> None:
    """After an accepted OTP the page takes no second one and shows that the bank is not done."""
    options = BankOptions(otp_settles_after_s=60)
    async with running_emulator(options=options) as emulator, a_shop(emulator) as shop:
        page = await a_page(shop, card("link"))
        await page.type_otp("111000")
        waiting, refused = await page.look(), await page.press("decline")
        assert "The bank has yet to move the money" in waiting and refused.status_code == 303
        emulator.clock.advance(60)
        assert 'data-status="SUCCESS"' in await page.look()
