"""Helpers of the emulator's tests: request bodies, direct calls of a bank, an HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import httpx
from hypothesis import HealthCheck, settings

from cfflow.emulator import Account, Attempt, Bank, BankOptions, Order, RunningEmulator
from cfflow.emulator.records import DEFAULT_ACCOUNTS

T0 = 1_800_000_000.0
DAY_S = 86400.0
SALES, HOLDS = DEFAULT_ACCOUNTS
VISA = "4111111111111111"
NO_OTP_BIN = "5105105105105100"

# A property must not fail because the machine is busy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

_order_numbers = count(1)


def order_body(**changes: Any) -> dict[str, Any]:
    """Return a valid create-order body with an unused order id."""
    customer = {"customer_id": "customer_7", "customer_phone": "9908734801"}
    body = {
        "order_id": f"order_{next(_order_numbers)}",
        "order_amount": 170,
        "order_currency": "INR",
        "customer_details": customer,
    }
    return {name: value for name, value in (body | changes).items() if value is not None}


def card(channel: str = "post", **changes: Any) -> dict[str, Any]:
    """Return a card payment method with test data."""
    fields = {
        "channel": channel,
        "card_number": VISA,
        "card_holder_name": "Test",
        "card_expiry_mm": "12",
        "card_expiry_yy": "30",
        "card_cvv": "123",
    }
    return {"card": {k: v for k, v in (fields | changes).items() if v is not None}}


def upi(upi_id: str = "testsuccess@gocash", **changes: Any) -> dict[str, Any]:
    """Return a UPI collect payment method."""
    return {"upi": {"channel": "collect", "upi_id": upi_id, **changes}}


def a_bank(**options: Any) -> Bank:
    """Return a bank with the default accounts."""
    return Bank(options=BankOptions(**options))


def an_order(bank: Bank, account: Account = SALES, now: float = T0, **changes: Any) -> Order:
    """Create an order of this account."""
    return bank.create_order(account, order_body(**changes), now)


def pay(
    bank: Bank, order: Order, method: Mapping[str, Any] | None = None, now: float = T0
) -> Attempt:
    """Start one attempt on this order, by native OTP card unless given otherwise."""
    return bank.pay(bank.session_of(order), method or card(), now)


def a_hold(bank: Bank, now: float = T0) -> tuple[Order, Attempt]:
    """Return an order with 170 rupees held on a card, and its attempt."""
    order = an_order(bank, HOLDS, now)
    attempt = pay(bank, order, now=now)
    bank.submit_otp(attempt.cf_payment_id, "111000", now)
    return order, attempt


def effects(bank: Bank, order: Order) -> list[str]:
    """Return the effects on this order without `attempt_created`."""
    return [e.effect for e in bank.ledger_of(order.order_id) if e.effect != "attempt_created"]


class Shop:
    """A merchant that talks to a running emulator over real HTTP."""

    def __init__(self, http: httpx.AsyncClient, emulator: RunningEmulator) -> None:
        self.http = http
        self.emulator = emulator
        self.version = {"x-api-version": "2025-01-01"}
        self.credentials = {
            **self.version,
            "x-client-id": emulator.client_id,
            "x-client-secret": emulator.client_secret,
        }

    async def order(self, **changes: Any) -> dict[str, Any]:
        """Create an order; it must succeed."""
        response = await self.http.post(
            "/orders", headers=self.credentials, json=order_body(**changes)
        )
        assert response.status_code == 200, response.text
        created: dict[str, Any] = response.json()
        return created

    async def pay(
        self, order: Mapping[str, Any], method: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        """Pay this order, by native OTP card unless given otherwise."""
        body = {
            "payment_session_id": order["payment_session_id"],
            "payment_method": method or card(),
        }
        return await self.http.post("/orders/sessions", headers=self.version, json=body)

    async def submit(self, cf_payment_id: str, otp: str = "111000") -> httpx.Response:
        """Submit the one-time password."""
        path = f"/orders/pay/authenticate/{cf_payment_id}"
        body = {"action": "SUBMIT_OTP", "otp": otp}
        return await self.http.post(path, headers=self.version, json=body)

    async def authorize(
        self, order: Mapping[str, Any], key: str = "", **body: Any
    ) -> httpx.Response:
        """Capture or void the order's hold."""
        headers = self.credentials | ({"x-idempotency-key": key} if key else {})
        path = f"/orders/{order['order_id']}/authorization"
        return await self.http.post(path, headers=headers, json=body)

    async def held(self) -> dict[str, Any]:
        """Create an order with its money held on a card."""
        order = await self.order(order_tags={"cfflow_preauth": "true"})
        await self.submit((await self.pay(order)).json()["cf_payment_id"])
        return order

    async def fetch(self, path: str, version: str = "2025-01-01") -> httpx.Response:
        """Send a GET with this account's credentials."""
        return await self.http.get(path, headers=self.credentials | {"x-api-version": version})

    async def admin(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        """Send a request to the emulator's own API and return the decoded body of the response."""
        response = await self.http.request(method, f"{self.emulator.admin_url}{path}", json=body)
        assert response.status_code == status, response.text
        return response.json()

    async def ledger(self, order: Mapping[str, Any]) -> list[str]:
        """Return the effects on this order from the emulator's own API."""
        params = {"order_id": order["order_id"]}
        response = await self.http.get(f"{self.emulator.admin_url}/ledger", params=params)
        return [entry["effect"] for entry in response.json()["ledger"]]


@asynccontextmanager
async def a_shop(emulator: RunningEmulator) -> AsyncIterator[Shop]:
    """Return a merchant of this emulator."""
    async with httpx.AsyncClient(base_url=emulator.base_url) as http:
        yield Shop(http, emulator)
