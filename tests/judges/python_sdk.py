"""The official Python SDK, pointed at the emulator, and a merchant that uses it.

Importing it takes two seconds: tests import this module inside a fixture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
from cashfree_pg import api_client as sdk
from cashfree_pg.api_client import ApiClient, CFEnvironment

from cfflow.emulator import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, EmulatorProcess
from tests.judges.receiver import Received

CARD: Mapping[str, Any] = {
    "card_number": "4111111111111111",
    "card_expiry_mm": "12",
    "card_holder_name": "Test",
    "card_cvv": "123",
    "card_expiry_yy": "25",
}


class Cashfree(sdk.Cashfree):
    """The SDK's only entrance, with the sandbox's environment and the test credentials.

    `XApiVersion` is what it sends: an `x_api_version` that a caller passes is accepted
    and ignored by this release.
    """

    def __init__(self) -> None:
        super().__init__(CFEnvironment.SANDBOX, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)


class LocalClient(ApiClient):
    """The SDK's HTTP client. Every call gives it a configuration with a host fixed in code."""

    _configuration: Any = None

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        super().__init__()  # type: ignore[no-untyped-call]  # the SDK's calls have no types

    @property
    def configuration(self) -> Any:
        """What the last call asked for, but for the host."""
        return self._configuration

    @configuration.setter
    def configuration(self, asked: Any) -> None:
        asked.host = self.base_url
        self._configuration = asked


class Merchant:
    """A merchant that calls the emulator through the SDK."""

    def __init__(self, gateway: EmulatorProcess) -> None:
        self._gateway = gateway
        self.client = LocalClient(gateway.base_url)
        ApiClient.set_default(self.client)

    def raw(self) -> Any:
        """The JSON of the last answer, as the SDK got it."""
        return json.loads(self.client.last_response.data)

    def order(
        self,
        amount: float = 22.42,
        *,
        key: str | None = None,
        notify_url: str | None = None,
        **fields: Any,
    ) -> Any:
        """A new order; its webhooks go to `notify_url`."""
        if notify_url is not None:
            fields["order_meta"] = sdk.OrderMeta(notify_url=notify_url)
        customer = sdk.CustomerDetails(customer_id="customer_7", customer_phone="9908734801")
        request = sdk.CreateOrderRequest(
            order_amount=amount, order_currency="INR", customer_details=customer, **fields
        )
        return Cashfree().PGCreateOrder(request, x_idempotency_key=key).data

    def fetch_order(self, order_id: str) -> Any:
        """The order as it is now."""
        return Cashfree().PGFetchOrder(order_id).data

    def terminate(self, order_id: str) -> Any:
        """Let an order take no new payment."""
        request = sdk.TerminateOrderRequest(order_status="TERMINATED")
        return Cashfree().PGTerminateOrder(order_id, request).data

    def verified(self, sent: Received) -> Any:
        """The event of a webhook whose signature is right."""
        signature = sent.headers["x-webhook-signature"]
        timestamp = sent.headers["x-webhook-timestamp"]
        verify: Any = Cashfree().PGVerifyWebhookSignature
        return verify(signature, sent.body.decode(), timestamp)

    def pay(self, order: Any, channel: str = "post") -> Any:
        """Begin to pay an order by card."""
        card = sdk.CardPaymentMethod(card=sdk.Card(channel=channel, **CARD))
        request = sdk.PayOrderRequest(
            payment_session_id=order.payment_session_id,
            payment_method=sdk.PayOrderRequestPaymentMethod(card),
        )
        return Cashfree().PGPayOrder(request).data

    def submit(self, cf_payment_id: str, otp: str = "111000") -> Any:
        """Type the OTP."""
        request = sdk.OrderAuthenticatePaymentRequest(action="SUBMIT_OTP", otp=otp)
        return Cashfree().PGOrderAuthenticatePayment(cf_payment_id, request).data

    def held(self, amount: float = 22.42) -> tuple[Any, str]:
        """An order whose money is held on a card, and the payment that holds it."""
        order = self.order(amount, order_tags={"cfflow_preauth": "true"})
        paid = self.pay(order)
        self.submit(paid.cf_payment_id)
        return order, paid.cf_payment_id

    def authorize(self, order: Any, action: str, amount: float | None = None) -> Any:
        """Capture or void what the order holds."""
        request = sdk.AuthorizeOrderRequest(action=action, amount=amount)
        return Cashfree().PGAuthorizeOrder(order.order_id, request).data

    def fetch(self, order: Any, cf_payment_id: str) -> Any:
        """One payment of an order."""
        return Cashfree().PGOrderFetchPayment(order.order_id, cf_payment_id).data

    def simulate(self, cf_payment_id: str, status: str) -> Any:
        """Force a payment's status."""
        request = sdk.SimulateRequest(
            entity="PAYMENTS",
            entity_id=cf_payment_id,
            entity_simulation=sdk.EntitySimulationRequest(payment_status=status),
        )
        return Cashfree().PGSimulatePayment(request).data

    def fetch_simulation(self, simulation_id: str) -> Any:
        """What was simulated."""
        return Cashfree().PGFetchSimulation(simulation_id).data

    def effects(self, order: Any) -> list[str]:
        """What happened to the order's money, by the emulator's ledger."""
        answer = httpx.get(
            f"{self._gateway.admin_url}/ledger", params={"order_id": order.order_id}
        ).json()
        return [entry["effect"] for entry in answer["ledger"]]
