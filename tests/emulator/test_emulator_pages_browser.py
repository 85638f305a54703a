"""The emulator's pages in a real browser, with scripts switched off."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from cfflow.emulator import BankOptions, running_emulator
from tests.emulator import pages_kit
from tests.emulator.emulator_kit import Shop, a_shop, card
from tests.emulator.pages_kit import NETBANKING, UPI_LINK, WALLET, a_page
from tests.ports.servers import missing

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_MS = 10_000
# What a shop's own page does with a `form` answer.
SUBMIT = """({url, method, payload}) => {
  const form = Object.assign(document.createElement("form"), {action: url, method});
  for (const [name, value] of Object.entries(payload))
    form.append(Object.assign(document.createElement("input"), {type: "hidden", name, value}));
  document.body.append(form);
  form.submit();
}"""


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer with a phone, on the pages of one shop's payments."""

    shop: Shop
    browser: Browser
    screen: Page

    async def press(self, label: str) -> None:
        """Press the button with this label, and wait for the next page."""
        async with self.screen.expect_navigation():
            await self.screen.get_by_role("button", name=label).click()

    async def type_otp(self, otp: str) -> None:
        """Type an OTP and press Enter."""
        await self.screen.get_by_label("One-time password").fill(otp)
        async with self.screen.expect_navigation():
            await self.screen.keyboard.press("Enter")

    async def outcome(self) -> str:
        """Return the outcome that the last page shows."""
        return str(await self.screen.locator("#outcome").get_attribute("data-status"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for the whole module; without it, skip locally and fail in CI."""
    found = shutil.which("chromium")
    if found is None:
        missing("chromium is not installed")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=cast("str", found), args=["--no-sandbox"]
        )
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """The merchant of one emulator for the whole module, whose netbanking gets a form."""
    options = BankOptions(form_methods=frozenset({"netbanking"}))
    async with running_emulator(options=options) as emulator, a_shop(emulator) as merchant:
        yield merchant


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def customer(shop: Shop, browser: Browser) -> AsyncIterator[Customer]:
    """A customer with a window of a phone's size that runs no scripts."""
    window = await browser.new_context(
        java_script_enabled=False, viewport={"width": 390, "height": 740}
    )
    window.set_default_timeout(PATIENCE_MS)
    yield Customer(shop, browser, await window.new_page())
    await window.close()


async def opened(customer: Customer, page: pages_kit.Page) -> pages_kit.Page:
    """Open the page of this attempt in the customer's browser."""
    await customer.screen.goto(page.url)
    return page


@pytest.mark.parametrize(
    ("label", "status"),
    [
        ("Approve ₹170.00", "SUCCESS"),
        ("Decline", "FAILED"),
        ("Cancel the payment", "USER_DROPPED"),
        ("Back to the shop, undecided", "PENDING"),
    ],
)
async def test_a_button_of_a_link_page_decides_the_payment(
    customer: Customer, label: str, status: str
) -> None:
    """The last page shows the status that the merchant's fetch has."""
    page = await opened(customer, await a_page(customer.shop, UPI_LINK))
    await customer.press(label)
    assert (await customer.outcome(), await page.status()) == (status, status)


async def test_only_the_first_press_decides(customer: Customer) -> None:
    """A press in a second tab or a reload changes nothing."""
    page = await opened(customer, await a_page(customer.shop, WALLET))
    other = await customer.screen.context.new_page()
    await other.goto(page.url)
    await other.get_by_role("button", name="Decline").click()
    await other.locator("#outcome").wait_for()
    await customer.press("Pay ₹170.00")
    await customer.screen.reload()
    assert (await customer.outcome(), await page.effects()) == ("FAILED", ["failed"])


async def test_the_back_button_shows_the_outcome(customer: Customer) -> None:
    """Pages are not cached, so the buttons do not come back."""
    await opened(customer, await a_page(customer.shop, WALLET))
    await customer.press("Decline")
    await customer.screen.go_back()
    assert await customer.outcome() == "FAILED"


async def test_a_wrong_otp_then_the_right_one(customer: Customer) -> None:
    """The page shows that the first was wrong, and takes the next."""
    page = await opened(customer, await a_page(customer.shop, card("link")))
    await customer.type_otp("123456")
    assert "wrong" in await customer.screen.get_by_role("alert").inner_text()
    await customer.type_otp("111000")
    assert (await customer.outcome(), await page.status()) == ("SUCCESS", "SUCCESS")


async def test_native_otp_can_continue_on_the_bank_s_page(customer: Customer) -> None:
    """A wrong OTP on the shop's page counts there; the end is the return_url."""
    url = f"{customer.shop.emulator.admin_url}/health?order={{order_id}}"
    page = await a_page(customer.shop, card(), order_meta={"return_url": url})
    await customer.shop.submit(page.payment_id, "123456")
    await opened(customer, page)
    assert "2 tries left" in await customer.screen.locator("#tries").inner_text()
    await customer.type_otp("111000")
    assert customer.screen.url.endswith(f"/health?order={page.order['order_id']}")
    assert await page.effects() == ["captured"]


async def test_a_form_submitted_by_the_shop_opens_the_bank_s_page(customer: Customer) -> None:
    """The shop's page posts the response's payload to its url by its method."""
    page = await a_page(customer.shop, NETBANKING)
    shop_page = await customer.browser.new_page()
    await shop_page.set_content("<p>One moment</p>")
    await shop_page.evaluate(SUBMIT, page.paid["data"])
    await shop_page.get_by_role("button", name="Pay ₹170.00").click(timeout=PATIENCE_MS)
    await shop_page.locator("#outcome").wait_for(timeout=PATIENCE_MS)
    await shop_page.close()
    assert await page.effects() == ["captured"]


async def test_a_page_fits_a_phone(customer: Customer) -> None:
    """Nothing is cut off, and there is no horizontal scrolling."""
    await opened(customer, await a_page(customer.shop, card("link"), order_id="o" * 45))
    width = await customer.screen.locator("main").evaluate(
        "main => Math.max(main.scrollWidth, document.documentElement.scrollWidth)"
    )
    assert width <= 390
