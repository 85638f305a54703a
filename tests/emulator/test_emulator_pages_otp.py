"""The OTP pages of the emulator: one page for the bank's own form and the merchant's calls."""

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
    """One emulator for the whole module."""
    async with running_emulator() as emulator, a_shop(emulator) as merchant:
        yield merchant


async def resend(page: Page) -> str:
    """Ask for the OTP again; what the page says of it."""
    answer = await page.press("resend")
    return answer.headers["location"].rpartition("note=")[2]


@pytest.mark.parametrize("method", OTP_METHODS)
async def test_a_wrong_otp_leaves_two_tries_and_the_right_one_pays(
    shop: Shop, method: Mapping[str, Any]
) -> None:
    """The page says that it was wrong and how often one may try."""
    page = await a_page(shop, method)
    answer = await page.type_otp("123456")
    said = await shop.http.get(answer.headers["location"].removeprefix("/pg"))
    assert "That one-time password is wrong" in said.text and "2 tries left" in said.text
    await page.type_otp("111000")
    assert (await page.status(), await page.effects()) == ("SUCCESS", ["captured"])


@pytest.mark.parametrize("method", OTP_METHODS)
async def test_the_third_wrong_otp_fails_the_attempt(shop: Shop, method: Mapping[str, Any]) -> None:
    """And sends the customer back to the shop."""
    page = await a_page(shop, method, order_meta={"return_url": RETURN_URL})
    for _ in range(2):
        await page.type_otp("123456")
    assert "1 try left" in await page.look()
    last = await page.type_otp("123456")
    assert last.headers["location"].startswith("https://shop.example/done")
    assert await page.effects() == ["failed"]


async def test_the_same_wrong_otp_pressed_twice_counts_once(shop: Shop) -> None:
    """The second click brings the count of a page that has passed."""
    page = await a_page(shop, card("link"))
    seen = page.seen(await page.look())
    for _ in range(4):
        await page.type_otp("123456", seen=seen)
    assert "2 tries left" in await page.look()


async def test_the_right_otp_counts_on_a_page_that_has_passed_too(shop: Shop) -> None:
    """A wrong one typed elsewhere meanwhile must not cost the customer the right one."""
    page = await a_page(shop, card())
    seen = page.seen(await page.look())
    await shop.submit(page.payment_id, "123456")
    await page.type_otp("111000", seen=seen)
    assert await page.status() == "SUCCESS"


@pytest.mark.parametrize("otp", ["", "   "])
async def test_an_empty_otp_counts_for_nothing(shop: Shop, otp: str) -> None:
    """Pressing the button too early uses up no try."""
    page = await a_page(shop, card("link"))
    answer = await page.type_otp(otp)
    assert answer.headers["location"].endswith("note=empty")
    assert "3 tries left" in await page.look()


async def test_an_otp_is_sent_again_twice_thirty_seconds_apart(shop: Shop) -> None:
    """Too soon, sent, too soon, sent, too often: as for the merchant's own call."""
    page = await a_page(shop, card("link"))
    await page.look()
    said = [await resend(page)]
    for _ in range(2):
        shop.emulator.clock.advance(30)
        said += [await resend(page), await resend(page)]
    assert said == ["too_soon", "sent", "too_soon", "sent", "too_often"]


@pytest.mark.parametrize("method", OTP_METHODS)
async def test_an_otp_page_that_expired_says_so_and_takes_no_otp(
    shop: Shop, method: Mapping[str, Any]
) -> None:
    """After five minutes the customer's turn is over; the attempt is not."""
    page = await a_page(shop, method)
    seen = page.seen(await page.look())
    shop.emulator.clock.advance(300)
    assert "This page has expired" in await page.look()
    notes = [await resend(page), (await page.type_otp("111000", seen=seen)).headers["location"]]
    assert notes[0] == "gone" and notes[1].endswith("note=gone")
    assert await page.status() == "PENDING"


async def test_a_payment_reopened_by_simulate_gets_no_new_tries(shop: Shop) -> None:
    """Three wrong ones are three, here as in the merchant's own calls."""
    page = await a_page(shop, card("link"))
    for _ in range(3):
        await page.type_otp("123456")
    shop.emulator.bank.force(page.payment_id, "PENDING", shop.emulator.clock.now())
    await page.type_otp("111000")
    assert "No try is left" in await page.look()
    assert await page.status() == "PENDING"


async def test_an_expired_otp_page_can_still_be_left(shop: Shop) -> None:
    """Cancelling is the one decision that remains."""
    page = await a_page(shop, card())
    shop.emulator.clock.advance(300)
    await page.press("cancel")
    assert await page.status() == "USER_DROPPED"


async def test_a_bank_s_own_page_lives_five_minutes_from_its_first_look(shop: Shop) -> None:
    """A bank sends its OTP when the customer arrives, not when the shop asked for the page."""
    page = await a_page(shop, card("link"))
    shop.emulator.clock.advance(3600)
    await page.type_otp("111000")
    assert await page.status() == "SUCCESS"


async def test_the_bank_s_page_and_the_merchant_s_calls_count_together(shop: Shop) -> None:
    """Two wrong ones here and one there are three."""
    page = await a_page(shop, card())
    await shop.submit(page.payment_id, "123456")
    await page.type_otp("123456")
    answer = await shop.submit(page.payment_id, "123456")
    assert answer.json()["authenticate_status"] == "FAILED"
    assert await page.status() == "FAILED"


async def test_an_otp_accepted_on_the_bank_s_page_is_taken_by_no_call(shop: Shop) -> None:
    """The merchant's submit after it learns that the payment is processed."""
    page = await a_page(shop, card())
    await page.type_otp("111000")
    answer = await shop.submit(page.payment_id)
    assert (answer.status_code, answer.json()["code"]) == (400, "request_invalid")
    assert await page.effects() == ["captured"]


async def test_the_merchant_s_call_takes_no_otp_of_a_redirect(shop: Shop) -> None:
    """Opening the bank's page of a link does not turn it into native OTP."""
    page = await a_page(shop, card("link"))
    await page.look()
    assert (await shop.submit(page.payment_id)).status_code == 400
    assert await page.status() == "PENDING"


@pytest.mark.parametrize(("button", "status"), [("decline", "FAILED"), ("cancel", "USER_DROPPED")])
async def test_an_otp_page_has_the_other_buttons_too(shop: Shop, button: str, status: str) -> None:
    """No OTP is needed to refuse or to leave."""
    page = await a_page(shop, card())
    await page.press(button)
    assert await page.status() == status


async def test_money_that_moves_later_is_no_success_yet() -> None:
    """An accepted OTP takes no second one, and the page says that the bank is still at it."""
    options = BankOptions(otp_settles_after_s=60)
    async with running_emulator(options=options) as emulator, a_shop(emulator) as shop:
        page = await a_page(shop, card("link"))
        await page.type_otp("111000")
        waiting, refused = await page.look(), await page.press("decline")
        assert "The bank has yet to move the money" in waiting and refused.status_code == 303
        emulator.clock.advance(60)
        assert 'data-status="SUCCESS"' in await page.look()
