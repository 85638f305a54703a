"""A merchant whose every response is checked against the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from cfflow.emulator import BankOptions, RunningEmulator, running_emulator
from tests.emulator.emulator_kit import Shop, card
from tests.emulator.fidelity.contract import check

PHONE = "9898989898"
#: What a refusal must be: status, code, type.
Refusal = tuple[int, str, str]
INVALID = "invalid_request_error"


class Desk(Shop):
    """A shop with the further calls of this folder's tests."""

    async def pay_in(
        self,
        version: str,
        order: Mapping[str, Any],
        method: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """Pay this order in this API version, with further fields of the request."""
        session = order["payment_session_id"]
        body = {"payment_session_id": session, "payment_method": method or card(), **fields}
        headers = {"x-api-version": version}
        return await self.http.post("/orders/sessions", headers=headers, json=body)

    async def attempt(
        self, method: Mapping[str, Any] | None = None, **changes: Any
    ) -> tuple[dict[str, Any], str]:
        """Create an order with one attempt; return the order and the payment's id."""
        order = await self.order(**changes)
        response = await self.pay(order, method)
        assert response.status_code == 200, response.text
        return order, response.json()["cf_payment_id"]

    async def payments(
        self, order: Mapping[str, Any], version: str = "2025-01-01"
    ) -> list[dict[str, Any]]:
        """Return every payment of the order."""
        response = await self.fetch(f"/orders/{order['order_id']}/payments", version)
        found: list[dict[str, Any]] = response.json()
        return found

    async def payment(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Return the only payment of the order."""
        (found,) = await self.payments(order)
        return found

    async def status(self, order: Mapping[str, Any]) -> str:
        """Return the status of the order."""
        response = await self.fetch(f"/orders/{order['order_id']}")
        return str(response.json()["order_status"])

    async def create(self, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        """Create an order with this body, valid or not."""
        return await self.http.post("/orders", headers=self.credentials | headers, json=body)

    async def terminate(
        self, order: Mapping[str, Any], order_status: object = "TERMINATED"
    ) -> httpx.Response:
        """Terminate this order."""
        path = f"/orders/{order['order_id']}"
        body = {"order_status": order_status}
        return await self.http.patch(path, headers=self.credentials, json=body)

    async def simulate(
        self, cf_payment_id: str, status: str, error: str | None = None
    ) -> httpx.Response:
        """Force the status of a payment."""
        forced = {"payment_status": status, "payment_error_code": error}
        body = {"entity": "PAYMENTS", "entity_id": cf_payment_id, "entity_simulation": forced}
        return await self.http.post("/simulate", headers=self.credentials, json=body)

    async def resend(self, cf_payment_id: str) -> httpx.Response:
        """Request the one-time password again."""
        path, body = f"/orders/pay/authenticate/{cf_payment_id}", {"action": "RESEND_OTP"}
        return await self.http.post(path, headers=self.version, json=body)

    def advance(self, seconds: float) -> None:
        """Skip time."""
        self.emulator.clock.advance(seconds)

    @property
    def now(self) -> float:
        """Return the emulator's time, in seconds since the epoch."""
        return self.emulator.clock.now()


def refusal(response: httpx.Response) -> Refusal:
    """Return status, code and type of a refused call."""
    body = response.json()
    return response.status_code, body["code"], body["type"]


@asynccontextmanager
async def a_desk(emulator: RunningEmulator) -> AsyncIterator[Desk]:
    """Return a merchant of this emulator."""
    hooks = {"response": [check]}
    async with httpx.AsyncClient(base_url=emulator.base_url, event_hooks=hooks) as http:
        yield Desk(http, emulator)


@asynccontextmanager
async def open_desk(**options: Any) -> AsyncIterator[Desk]:
    """Return a merchant of a new emulator."""
    async with running_emulator(options=BankOptions(**options)) as emulator, a_desk(emulator) as it:
        yield it
