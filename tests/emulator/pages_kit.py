"""Helpers of the tests of pages: a customer with a browser without scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from tests.emulator.emulator_kit import Shop

RETURN_URL = "https://shop.example/done?order={order_id}"
WALLET = {"app": {"channel": "link", "provider": "phonepe", "phone": "9898989898"}}
NETBANKING = {"netbanking": {"channel": "link", "netbanking_bank_code": 3333}}
TRANSFER = {"banktransfer": {"channel": "link"}}
UPI_LINK = {"upi": {"channel": "link"}}
MANDATE = {
    "upi": {
        "channel": "collect",
        "upi_id": "someone@bank",
        "authorize_only": True,
        "authorization": {"end_time": "2100-01-01T00:00:00+05:30"},
    }
}


class Page:
    """The page of one attempt, as its customer has it open."""

    def __init__(self, shop: Shop, order: Mapping[str, Any], paid: Mapping[str, Any]) -> None:
        self.shop = shop
        self.order = order
        self.paid = paid
        self.url = ""

    @property
    def payment_id(self) -> str:
        """The attempt's id."""
        return str(self.paid["cf_payment_id"])

    async def look(self) -> str:
        """Return the page in its present state."""
        response = await self.shop.http.get(self.url)
        assert response.status_code == 200, response.text
        return response.text

    async def press(self, decision: str, **fields: str) -> httpx.Response:
        """Press one of its buttons; redirects are not followed."""
        return await self.shop.http.post(self.url, data={"decision": decision, **fields})

    async def type_otp(self, otp: str, seen: str | None = None) -> httpx.Response:
        """Type an OTP and press the first button. seen: the count of an older page."""
        shown = self.seen(await self.look()) if seen is None else seen
        return await self.press("pay", otp=otp, seen=shown)

    @staticmethod
    def seen(page: str) -> str:
        """Return the count of wrong OTPs in the page's hidden field."""
        found = re.search(r'name="seen" value="(\d)"', page)
        return found[1] if found else ""

    async def status(self) -> str:
        """Return the status from the merchant's fetch of the attempt."""
        path = f"/orders/{self.order['order_id']}/payments/{self.payment_id}"
        return str((await self.shop.fetch(path)).json()["payment_status"])

    async def effects(self) -> list[str]:
        """Return the effects on the order without `attempt_created`."""
        return [e for e in await self.shop.ledger(self.order) if e != "attempt_created"]


async def a_page(shop: Shop, method: Mapping[str, Any] | None = None, **order: Any) -> Page:
    """Return the page of a new attempt on a new order."""
    created = await shop.order(**order)
    response = await shop.pay(created, method)
    assert response.status_code == 200, response.text
    page = Page(shop, created, response.json())
    page.url = _address(page.paid["data"]) or await _listed(shop, page.payment_id)
    return page


def _address(data: Mapping[str, Any]) -> str:
    return str(data.get("redirect_to_bank") or data["url"] or data["payload"].get("web", ""))


async def _listed(shop: Shop, payment_id: str) -> str:
    """Return the URL that the index has for a payment whose response has none."""
    index = await shop.http.get(f"{shop.emulator.admin_url}/")
    found = re.search(rf'<td>{payment_id}</td>.*?href="([^"]+)"', index.text)
    assert found, index.text
    return shop.emulator.base_url.removesuffix("/pg") + found[1]
