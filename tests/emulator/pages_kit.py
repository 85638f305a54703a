"""What the tests of the emulator's pages share: a customer with a browser that has no script."""

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
    """One attempt's page, as its customer has it open."""

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
        """The page as it is now."""
        answer = await self.shop.http.get(self.url)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def press(self, decision: str, **fields: str) -> httpx.Response:
        """Press one of its buttons; redirects are looked at, not followed."""
        return await self.shop.http.post(self.url, data={"decision": decision, **fields})

    async def type_otp(self, otp: str, seen: str | None = None) -> httpx.Response:
        """Type an OTP and press the first button, as the page shows itself now or did before."""
        shown = self.seen(await self.look()) if seen is None else seen
        return await self.press("pay", otp=otp, seen=shown)

    @staticmethod
    def seen(page: str) -> str:
        """What the page remembers of the wrong ones so far."""
        found = re.search(r'name="seen" value="(\d)"', page)
        return found[1] if found else ""

    async def status(self) -> str:
        """What the merchant's fetch says of the attempt."""
        path = f"/orders/{self.order['order_id']}/payments/{self.payment_id}"
        return str((await self.shop.fetch(path)).json()["payment_status"])

    async def effects(self) -> list[str]:
        """What happened to the order's money, after the attempts themselves."""
        return [e for e in await self.shop.ledger(self.order) if e != "attempt_created"]


async def a_page(shop: Shop, method: Mapping[str, Any] | None = None, **order: Any) -> Page:
    """The page of a new attempt on a new order."""
    created = await shop.order(**order)
    answer = await shop.pay(created, method)
    assert answer.status_code == 200, answer.text
    page = Page(shop, created, answer.json())
    page.url = _address(page.paid["data"]) or await _listed(shop, page.payment_id)
    return page


def _address(data: Mapping[str, Any]) -> str:
    return str(data.get("redirect_to_bank") or data["url"] or data["payload"].get("web", ""))


async def _listed(shop: Shop, payment_id: str) -> str:
    """Where the index leads to for a payment whose answer names no page."""
    index = await shop.http.get(f"{shop.emulator.admin_url}/")
    found = re.search(rf'<td>{payment_id}</td>.*?href="([^"]+)"', index.text)
    assert found, index.text
    return shop.emulator.base_url.removesuffix("/pg") + found[1]
