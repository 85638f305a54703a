"""The pages of the emulator over HTTP: what each button does, and what a page may show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cfflow.emulator import BankOptions, running_emulator
from cfflow.emulator.pages_html import fill
from tests.emulator.emulator_kit import NO_OTP_BIN, VISA, Shop, a_shop, card, upi
from tests.emulator.pages_kit import (
    MANDATE,
    NETBANKING,
    RETURN_URL,
    TRANSFER,
    UPI_LINK,
    WALLET,
    a_page,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITH_RETURN = {"order_meta": {"return_url": RETURN_URL}}
EVERY_METHOD = [
    pytest.param(card("link"), "Visa credit card", id="card"),
    pytest.param(card(), "Visa credit card", id="native-otp"),
    pytest.param(card(card_number=NO_OTP_BIN), "Mastercard credit card", id="no-native-otp"),
    pytest.param(NETBANKING, "netbanking", id="netbanking"),
    pytest.param(WALLET, "wallet", id="wallet"),
    pytest.param(UPI_LINK, "UPI link", id="upi-link"),
    pytest.param({"upi": {"channel": "qrcode"}}, "UPI qrcode", id="upi-qrcode"),
    pytest.param(upi("someone@bank"), "UPI collect someone@bank", id="upi-collect"),
    pytest.param(MANDATE, "Approve the mandate", id="mandate"),
    pytest.param(TRANSFER, "I have transferred", id="bank-transfer"),
]
BUTTONS = [
    ("pay", "SUCCESS", ["captured"]),
    ("decline", "FAILED", ["failed"]),
    ("cancel", "USER_DROPPED", ["dropped"]),
    ("back", "PENDING", []),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """The merchant of one emulator for the whole module, whose netbanking gets a form."""
    options = BankOptions(form_methods=frozenset({"netbanking"}))
    async with running_emulator(options=options) as emulator, a_shop(emulator) as merchant:
        yield merchant


@pytest.mark.parametrize(("method", "says"), EVERY_METHOD)
async def test_a_page_shows_the_payment_and_that_it_is_not_real(
    shop: Shop, method: Mapping[str, Any], says: str
) -> None:
    """Every page has order, amount and method, and the emulator's own banner."""
    page = await a_page(shop, method)
    text = await page.look()
    wanted = (page.order["order_id"], "₹170.00", says, "This is the emulator of cfflow")
    assert [word for word in wanted if word not in text] == []


@pytest.mark.parametrize("method", [WALLET, UPI_LINK, NETBANKING, TRANSFER, upi("someone@bank")])
@pytest.mark.parametrize(("button", "status", "effects"), BUTTONS)
async def test_each_button_has_its_effect(
    shop: Shop, method: Mapping[str, Any], button: str, status: str, effects: list[str]
) -> None:
    """Pay, decline and cancel decide the attempt; back leaves it open."""
    page = await a_page(shop, method)
    response = await page.press(button)
    assert response.status_code == 303
    assert (await page.status(), await page.effects()) == (status, effects)


@pytest.mark.parametrize("button", ["pay", "decline", "cancel", "back"])
async def test_the_customer_returns_to_the_shop(shop: Shop, button: str) -> None:
    """Every button leads to the order's return_url, with the order id filled in."""
    page = await a_page(shop, WALLET, **WITH_RETURN)
    response = await page.press(button)
    wanted = f"https://shop.example/done?order={page.order['order_id']}"
    assert (response.status_code, response.headers["location"]) == (303, wanted)


@pytest.mark.parametrize(
    ("button", "says"),
    [
        ("pay", "The payment succeeded."),
        ("decline", "The payment failed."),
        ("cancel", "left without paying"),
        ("back", "Nothing was decided"),
    ],
)
async def test_without_a_return_url_the_last_page_shows_the_outcome(
    shop: Shop, button: str, says: str
) -> None:
    """The customer stays on the emulator's page."""
    page = await a_page(shop, WALLET)
    response = await page.press(button)
    last = await shop.http.get(response.next_request.url if response.next_request else "")
    assert says in last.text


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "/done", "http://", "http://[", "ftp://a/b"]
)
async def test_a_return_url_must_be_http_or_https(shop: Shop, url: str) -> None:
    """The page redirects to no other scheme."""
    page = await a_page(shop, WALLET)
    attempt = shop.emulator.bank.customer.find(page.url.rpartition("/")[2])
    assert attempt is not None
    attempt.order.meta = {"return_url": url}
    response = await page.press("pay")
    assert response.headers["location"] == httpx.URL(page.url).path


@pytest.mark.parametrize(("first", "status", "effects"), BUTTONS[:3])
@pytest.mark.parametrize("second", ["pay", "decline", "cancel", "back", "resend"])
async def test_a_decided_attempt_is_not_decided_again(
    shop: Shop, first: str, status: str, effects: list[str], second: str
) -> None:
    """A double click, or a button of an old page, only redirects."""
    page = await a_page(shop, WALLET, **WITH_RETURN)
    led_to = (await page.press(first)).headers["location"]
    again = await page.press(second)
    assert again.headers["location"] == led_to
    assert (await page.status(), await page.effects()) == (status, effects)


async def test_the_page_of_a_decided_attempt_shows_its_outcome(shop: Shop) -> None:
    """It has no buttons, and a link to the shop."""
    page = await a_page(shop, WALLET, **WITH_RETURN)
    await page.press("decline")
    text = await page.look()
    assert 'data-status="FAILED"' in text and "<button" not in text
    assert f'href="https://shop.example/done?order={page.order["order_id"]}"' in text


async def test_the_page_of_a_test_id_shows_its_outcome(shop: Shop) -> None:
    """An attempt that its test id decided needs no customer."""
    page = await a_page(shop, upi("testfailure@gocash"))
    assert 'data-status="FAILED"' in await page.look()


async def test_the_page_of_an_expired_attempt_shows_the_reason(shop: Shop) -> None:
    """A UPI attempt fails after its five minutes."""
    page = await a_page(shop, upi("someone@bank"))
    shop.emulator.clock.advance(300)
    await page.press("pay")
    text = await page.look()
    assert 'data-status="FAILED"' in text and "did not answer in time" in text


async def test_an_approved_mandate_is_a_hold(shop: Shop) -> None:
    """The money is blocked, and the page shows that it is not taken."""
    page = await a_page(shop, MANDATE)
    await page.press("pay")
    assert await page.effects() == ["authorized"]
    assert "The bank holds the money" in await page.look()


# --- opening a page ------------------------------------------------------------------------


async def test_a_form_posted_with_its_payload_opens_the_page(shop: Shop) -> None:
    """A shop's form needs only the response's payload, method and content type."""
    page = await a_page(shop, NETBANKING)
    data = page.paid["data"]
    assert page.paid["action"] == "form"
    headers = {"content-type": data["content_type"]}
    content = str(httpx.QueryParams(data["payload"]))
    response = await shop.http.request(
        data["method"], data["url"], content=content, headers=headers
    )
    assert response.status_code == 200 and "Pay ₹170.00" in response.text
    assert await page.status() == "PENDING"


@pytest.mark.parametrize("fields", [{}, {"PaReq": "forged"}, {"name": "netbanking"}])
async def test_a_form_without_its_token_is_not_found(shop: Shop, fields: dict[str, str]) -> None:
    """The payload of the response must be posted."""
    page = await a_page(shop, NETBANKING)
    assert (await shop.http.post(page.url, data=fields)).status_code == 404


async def test_a_link_opens_by_post_too(shop: Shop) -> None:
    """The response to a link has a method and a payload too; GET and POST both work."""
    page = await a_page(shop, card("link"))
    response = await shop.http.post(page.url, data=page.paid["data"]["payload"])
    assert response.status_code == 200 and "One-time password" in response.text


@pytest.mark.parametrize("kind", ["gateway", "redirecttobank"])
@pytest.mark.parametrize("token", ["", "unknown", "unknown/", "%00", "1000000001"])
async def test_an_unknown_token_is_not_found(shop: Shop, kind: str, token: str) -> None:
    """It shows no page, and its button decides nothing."""
    url = f"{shop.emulator.base_url}/view/{kind}/{token}"
    looked = await shop.http.get(url, follow_redirects=True)
    pressed = await shop.http.post(url, data={"decision": "pay"}, follow_redirects=True)
    assert (looked.status_code, pressed.status_code) == (404, 404)


@pytest.mark.parametrize("method", [card(), card("link")])
async def test_a_token_opens_only_its_own_kind_of_page(
    shop: Shop, method: Mapping[str, Any]
) -> None:
    """It opens the page that the response to its pay has, and not the other kind."""
    page = await a_page(shop, method)
    native = "redirecttobank" in page.url
    names = ("redirecttobank", "gateway") if native else ("gateway", "redirecttobank")
    assert (await shop.http.get(page.url.replace(*names))).status_code == 404


async def test_an_unknown_button_is_refused(shop: Shop) -> None:
    """An unknown decision decides nothing."""
    page = await a_page(shop, WALLET)
    assert (await page.press("refund")).status_code == 400
    assert await page.status() == "PENDING"


async def test_a_body_that_is_no_form_decides_nothing(shop: Shop) -> None:
    """A JSON body with a decision is not a form."""
    page = await a_page(shop, WALLET)
    response = await shop.http.post(page.url, json={"decision": "pay"})
    assert (response.status_code, await page.status()) == (200, "PENDING")


async def test_a_form_that_is_too_long_is_refused(shop: Shop) -> None:
    """The limit is 1 MiB."""
    page = await a_page(shop, WALLET)
    assert (await page.press("pay", otp="1" * (1 << 20))).status_code == 413
    assert await page.status() == "PENDING"


# --- warnings about the order -----------------------------------------------------


async def test_the_page_of_an_expired_order_shows_a_warning(shop: Shop) -> None:
    """An attempt that began before may still pay the order."""
    page = await a_page(shop, WALLET)
    shop.emulator.clock.advance(31 * 86400)
    assert "This order is EXPIRED" in await page.look()
    await page.press("pay")
    assert await page.effects() == ["captured"]


async def test_the_page_of_a_paid_order_warns_of_paying_twice(shop: Shop) -> None:
    """The gateway does not stop a customer who has two pages open."""
    page = await a_page(shop, WALLET)
    other = await shop.pay(page.order, upi())
    assert other.json()["cf_payment_id"] != page.payment_id
    assert "paying here pays it twice" in await page.look()


# --- contents --------------------------------------------------------------


async def test_values_of_a_merchant_are_escaped(shop: Shop) -> None:
    """A return_url appears in the page as text."""
    meta = {"return_url": 'https://shop.example/"><b>?a=1&b=2'}
    page = await a_page(shop, WALLET, order_meta=meta)
    await page.press("cancel")
    assert 'href="https://shop.example/&quot;&gt;&lt;b&gt;?a=1&amp;b=2"' in await page.look()


async def test_a_template_escapes_its_values() -> None:
    """Only `Html` values are not escaped."""
    filled = fill("<p>$text$part</p>", text="<b>&\"'", part=fill("<i>$x</i>", x="<"))
    assert filled == "<p>&lt;b&gt;&amp;&quot;&#x27;<i>&lt;</i></p>"


async def test_no_page_shows_a_card_number_an_otp_or_a_session(shop: Shop) -> None:
    """Neither does the page after a decision, nor the index."""
    page = await a_page(shop, card("link"))
    before = await page.look()
    await page.type_otp("111000")
    index = (await shop.http.get(f"{shop.emulator.admin_url}/")).text
    shown = before + await page.look() + index
    secrets = (VISA, "111000", page.order["payment_session_id"], shop.emulator.client_secret)
    assert [secret for secret in secrets if secret in shown] == []


async def test_a_page_is_not_cached_and_sends_no_referrer(shop: Shop) -> None:
    """Its URL has the attempt's secret, and it loads no external resources."""
    page = await a_page(shop, card("link"))
    headers = (await shop.http.get(page.url)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_index_leads_to_every_page(shop: Shop) -> None:
    """The index lists orders and attempts with links to their pages."""
    untried = await shop.order()
    page = await a_page(shop, upi("someone@bank"))
    response = await shop.http.get(shop.emulator.admin_url, follow_redirects=True)
    wanted = (untried["order_id"], "not tried yet", page.payment_id, "PENDING")
    assert [word for word in wanted if word not in response.text] == []
    assert httpx.URL(page.url).path in response.text


async def test_the_index_of_a_new_emulator_explains_the_start() -> None:
    """It is no error that there is no order."""
    async with running_emulator() as emulator, httpx.AsyncClient() as http:
        assert "No order yet" in (await http.get(f"{emulator.admin_url}/")).text
