"""`Gateway`: every call of the table in `calls.py`, typed. A subclass sends them.

It is the protocol that the engine, the worker and the blocking version know: a subclass provides
`_exchange` and has all calls. The one that uses the network is in `client.py`, and only
`connect.py` names it. pay and authenticate carry no credentials (gateway.md#hosts).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, TypeVar

from cfflow.cashfree.clock import GatewayClock
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.methods import PaymentMethod, pay_body
from cfflow.cashfree.wire import (
    Answer,
    AuthenticateAnswer,
    FetchedOrder,
    Order,
    PayAnswer,
    PaymentEntity,
    Simulation,
    encode,
)
from cfflow.core.money import amount_of
from cfflow.core.observation import Call
from cfflow.core.sealed import Sealed, sealed
from cfflow.errors import InvalidAmount

_D = TypeVar("_D", bound=Answer | list[PaymentEntity])

_pay = decoder(PayAnswer)
_authenticate = decoder(AuthenticateAnswer)
_entity = decoder(PaymentEntity)
_entities = decoder(list[PaymentEntity])
_created_order = decoder(Order)
_fetched_order = decoder(FetchedOrder)
_simulation = decoder(Simulation)


def frozen_authorize(action: Literal["CAPTURE", "VOID"], amount: Decimal | None = None) -> bytes:
    """Return the body of an authorize call, byte for byte as it will be sent.

    A CAPTURE needs its `amount`, a VOID takes none: it is always whole. Raises
    `InvalidAmount` for a missing amount, one too many, or one with three decimals.
    """
    if action == "VOID" and amount is not None:
        raise InvalidAmount("a VOID releases the whole hold and takes no amount")
    exact = {} if action == "VOID" else {"amount": amount_of(amount)}
    return encode({"action": action} | exact)


class Gateway(ABC):
    """The gateway's calls, one method each.

    Every call raises `GatewayRejected`, `GatewayAuthError`, `RateLimited`,
    `GatewayUnavailable`, and for pay, authenticate and authorize `OutcomeUnknown`.
    `timeout_s` limits the whole call; left out, it is the client's own.
    """

    base_url: str
    api_version: str
    clock: GatewayClock

    @abstractmethod
    async def _exchange(
        self,
        call: Call,
        decode: Callable[[bytes], _D],
        ids: tuple[str, ...] = (),
        *,
        body: Sealed[bytes] | None = None,
        key: str = "",
        timeout_s: float | None = None,
        api_version: str | None = None,
    ) -> _D:
        """Send one call and return what its answer decodes to, or raise what went wrong.

        `ids` fill the call's path, `key` is its idempotency key. Nothing is ever sent twice.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""

    async def pay(
        self,
        payment_session_id: str | Sealed[str],
        method: PaymentMethod,
        *,
        save_instrument: bool | None = None,
        offer_id: str | None = None,
        key: str = "",
        timeout_s: float | None = None,
    ) -> PayAnswer:
        """Start one attempt to pay an order. Moves money: never sent twice by cfflow."""
        session = sealed(payment_session_id)
        del payment_session_id
        body = pay_body(session, method, save_instrument=save_instrument, offer_id=offer_id)
        return await self.pay_with(body, key=key, timeout_s=timeout_s)

    async def pay_with(
        self, body: Sealed[bytes], *, key: str = "", timeout_s: float | None = None
    ) -> PayAnswer:
        """Start one attempt with a body that `pay_body` made."""
        return await self._exchange(Call.PAY, _pay, body=body, key=key, timeout_s=timeout_s)

    async def authenticate(
        self,
        cf_payment_id: str,
        otp: str | Sealed[str] | None = None,
        *,
        key: str = "",
        timeout_s: float | None = None,
    ) -> AuthenticateAnswer:
        """Submit the OTP, or have it sent again when `otp` is None."""
        secret = None if otp is None else sealed(otp)
        del otp
        body = Sealed(
            encode({"action": "RESEND_OTP"})
            if secret is None
            else encode({"action": "SUBMIT_OTP", "otp": secret.reveal()})
        )
        return await self._exchange(
            Call.AUTHENTICATE,
            _authenticate,
            (cf_payment_id,),
            body=body,
            key=key,
            timeout_s=timeout_s,
        )

    async def authorize(
        self,
        order_id: str,
        body: bytes,
        *,
        key: str = "",
        api_version: str | None = None,
        timeout_s: float | None = None,
    ) -> PaymentEntity:
        """Capture or void a held payment; `body` is made by `frozen_authorize`."""
        return await self._exchange(
            Call.AUTHORIZE,
            _entity,
            (order_id,),
            body=Sealed(body),
            key=key,
            timeout_s=timeout_s,
            api_version=api_version,
        )

    async def fetch_payment(
        self, order_id: str, cf_payment_id: str, *, timeout_s: float | None = None
    ) -> PaymentEntity:
        """Return one attempt."""
        return await self._exchange(
            Call.FETCH_PAYMENT, _entity, (order_id, cf_payment_id), timeout_s=timeout_s
        )

    async def fetch_payments(
        self, order_id: str, *, timeout_s: float | None = None
    ) -> tuple[PaymentEntity, ...]:
        """Return every attempt of the order, ours or not."""
        found = await self._exchange(
            Call.FETCH_PAYMENTS, _entities, (order_id,), timeout_s=timeout_s
        )
        return tuple(found)

    async def create_order(
        self,
        amount: Decimal | int | str,
        customer: dict[str, Any],
        *,
        order_id: str | None = None,
        currency: str = "INR",
        order_meta: dict[str, Any] | None = None,
        order_note: str | None = None,
        key: str = "",
        timeout_s: float | None = None,
        **fields: Any,
    ) -> Order:
        """Create an order; `customer` needs `customer_id` and a 10-digit `customer_phone`.

        `amount` in rupees. `order_note` is a text of 3 to 200 characters; in the sandbox
        `preauth_transaction` makes the order's card payments holds, over channel `link`.
        Further fields of the API (`order_tags`, …) go by their own names. Safe to repeat with
        the same `order_id`: the gateway refuses a second one. Raises `InvalidAmount` too, and
        `GatewayUnavailable` for an order without an id or a session.
        """
        body = {
            "order_amount": amount_of(amount),
            "order_currency": currency,
            "customer_details": customer,
            "order_id": order_id,
            "order_meta": order_meta,
            "order_note": order_note,
            **fields,
        }
        given = encode({name: value for name, value in body.items() if value is not None})
        return await self._exchange(
            Call.CREATE_ORDER, _created_order, body=Sealed(given), key=key, timeout_s=timeout_s
        )

    async def fetch_order(self, order_id: str, *, timeout_s: float | None = None) -> FetchedOrder:
        """Return the order: its status, and when it expires."""
        return await self._exchange(
            Call.FETCH_ORDER, _fetched_order, (order_id,), timeout_s=timeout_s
        )

    async def simulate(
        self,
        cf_payment_id: str,
        payment_status: str,
        *,
        payment_error_code: str | None = None,
        timeout_s: float | None = None,
    ) -> Simulation:
        """Force an attempt's status. Sandbox and emulator only."""
        forced = {"payment_status": payment_status}
        if payment_error_code is not None:
            forced["payment_error_code"] = payment_error_code
        body = {"entity": "PAYMENTS", "entity_id": cf_payment_id, "entity_simulation": forced}
        return await self._exchange(
            Call.SIMULATE, _simulation, body=Sealed(encode(body)), timeout_s=timeout_s
        )

    async def fetch_simulation(
        self, simulation_id: str, *, timeout_s: float | None = None
    ) -> Simulation:
        """Return a simulation. Sandbox and emulator only."""
        return await self._exchange(
            Call.FETCH_SIMULATION, _simulation, (simulation_id,), timeout_s=timeout_s
        )
