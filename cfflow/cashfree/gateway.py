"""`Gateway`: every call of the table in `calls.py`, typed. A subclass sends them.

It is the protocol that the engine, the worker and the blocking version know: a subclass provides
`_exchange` and has all calls. The one that uses the network is in `client.py`, and only
`connecting.py` names it. pay and authenticate carry no credentials (gateway.md#hosts).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from uuid import UUID, uuid5

from cfflow.cashfree.clock import GatewayClock
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.methods import PaymentMethod, method_in, pay_body
from cfflow.cashfree.wire import (
    Answer,
    AuthenticateAnswer,
    Customer,
    FetchedOrder,
    Order,
    PayAnswer,
    PaymentEntity,
    Simulation,
    encode,
    json_body,
)
from cfflow.core.arguments import (
    check_attempt_id,
    check_currency,
    check_key,
    check_order_id,
    check_otp,
    check_session,
)
from cfflow.core.money import amount_of
from cfflow.core.observation import Call
from cfflow.core.sealed import Sealed, sealed
from cfflow.errors import Conflict, GatewayRejected, InvalidAmount, InvalidInput

_D = TypeVar("_D", bound=Answer | list[PaymentEntity])

_pay = decoder(PayAnswer)
_authenticate = decoder(AuthenticateAnswer)
_entity = decoder(PaymentEntity)
_entities = decoder(list[PaymentEntity])
_created_order = decoder(Order)
_fetched_order = decoder(FetchedOrder)
_simulation = decoder(Simulation)


#: The gateway's keys are UUIDs (gateway.md#idempotency): this one names the orders' keys.
_ORDER_KEYS: Final = UUID("0b8d3f6e-6c7e-4c19-9a2d-5f0f3a1c8e47")
_PHONE_DIGITS: Final = 10


def same_order(found: FetchedOrder, wanted: dict[str, Any]) -> Order:
    """Return an order that exists already, if it is the one that was wanted.

    Raises `Conflict` where amount, currency or customer differ, and where it has no session: it
    takes no payment any more. The error names the field and not its values.
    """
    customer, given = found.customer_details or Customer(), wanted.get("customer_details")
    asked = given if isinstance(given, dict) else {}
    differs: dict[str, tuple[object, object]] = {
        "order_id": (found.order_id, wanted["order_id"]),
        "amount": (found.order_amount, wanted["order_amount"]),
        "currency": (found.order_currency, wanted["order_currency"]),
        "customer_id": (customer.customer_id, asked.get("customer_id")),
        "customer_phone": (_digits(customer.customer_phone), _digits(asked.get("customer_phone"))),
    }
    for name, (has, wants) in differs.items():
        if has != wants:
            raise Conflict(f"an order of this id exists, with another {name}")
    if not (found.payment_session_id or "").strip():
        raise Conflict(f"the order exists, and takes no payment any more: {found.order_status}")
    return Order(**{name: getattr(found, name) for name in found.__struct_fields__})


def _digits(phone: object) -> str:
    """Return the last digits of a phone number: the gateway may add the country's."""
    return re.sub(r"\D", "", str(phone or ""))[-_PHONE_DIGITS:]


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

        `ids` fill the call's path, `key` is its idempotency key. `key`, `timeout_s` and
        `api_version` come from the caller as they are: every call's are checked here, before
        anything is sent (`InvalidInput`). Nothing is ever sent twice.
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
        session, given = sealed(payment_session_id), Sealed(method)
        del payment_session_id, method
        check_session(session.reveal())
        body = pay_body(
            session, method_in(given), save_instrument=save_instrument, offer_id=offer_id
        )
        return await self.pay_with(body, key=key, timeout_s=timeout_s)

    async def pay_with(
        self, body: Sealed[bytes], *, key: str = "", timeout_s: float | None = None
    ) -> PayAnswer:
        """Start one attempt with a body that `pay_body` made."""
        return await self._exchange(Call.PAY, _pay, body=body, key=key, timeout_s=timeout_s)

    async def authenticate(
        self,
        cf_payment_id: str | int,
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
            else encode({"action": "SUBMIT_OTP", "otp": check_otp(secret.reveal())})
        )
        return await self._exchange(
            Call.AUTHENTICATE,
            _authenticate,
            (check_attempt_id(cf_payment_id),),
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
        if not isinstance(body, bytes):
            raise InvalidInput("body must be the bytes that frozen_authorize returns")
        return await self._exchange(
            Call.AUTHORIZE,
            _entity,
            (check_order_id(order_id),),
            body=Sealed(body),
            key=key,
            timeout_s=timeout_s,
            api_version=None if api_version is None else check_key(api_version),
        )

    async def fetch_payment(
        self, order_id: str, cf_payment_id: str | int, *, timeout_s: float | None = None
    ) -> PaymentEntity:
        """Return one attempt."""
        ids = (check_order_id(order_id), check_attempt_id(cf_payment_id))
        return await self._exchange(Call.FETCH_PAYMENT, _entity, ids, timeout_s=timeout_s)

    async def fetch_payments(
        self, order_id: str, *, timeout_s: float | None = None
    ) -> tuple[PaymentEntity, ...]:
        """Return every attempt of the order, ours or not."""
        ids = (check_order_id(order_id),)
        found = await self._exchange(Call.FETCH_PAYMENTS, _entities, ids, timeout_s=timeout_s)
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
        Further fields of the API (`order_tags`, …) go by their own names. Give an `order_id`: then
        the call may be repeated after any error, and returns the one order of this id. Without
        `key`, its idempotency key comes from the order id. Raises `Conflict` where an order of
        this id has another amount, currency or customer, or takes no payment any more,
        `InvalidInput`, `InvalidAmount`, and `GatewayUnavailable` for an order without an id or a
        session. cfflow does not keep the session: `fetch_order` returns it again.
        """
        if order_id is not None:
            check_order_id(order_id)
        if not isinstance(customer, dict):
            raise InvalidInput("customer must be a dict")
        wanted = {
            "order_amount": amount_of(amount),
            "order_currency": check_currency(currency),
            "customer_details": customer,
            "order_id": order_id,
            "order_meta": order_meta,
            "order_note": order_note,
        }
        if wanted.keys() & fields.keys():
            raise InvalidInput("a field has an argument of its own: amount, customer, currency")
        given = wanted | fields
        derived = "" if order_id is None else str(uuid5(_ORDER_KEYS, order_id))
        try:
            return await self._exchange(
                Call.CREATE_ORDER,
                _created_order,
                body=json_body(Sealed(given)),
                key=check_key(key) or derived,
                timeout_s=timeout_s,
            )
        except GatewayRejected as refused:
            # Another call of this id was first, or this key was used for another body.
            if order_id is None or refused.status not in {409, 422}:
                raise
        return same_order(await self.fetch_order(order_id, timeout_s=timeout_s), given)

    async def fetch_order(self, order_id: str, *, timeout_s: float | None = None) -> FetchedOrder:
        """Return the order: its status, and when it expires."""
        ids = (check_order_id(order_id),)
        return await self._exchange(Call.FETCH_ORDER, _fetched_order, ids, timeout_s=timeout_s)

    async def simulate(
        self,
        cf_payment_id: str | int,
        payment_status: str,
        *,
        payment_error_code: str | None = None,
        timeout_s: float | None = None,
    ) -> Simulation:
        """Force an attempt's status. Sandbox and emulator only."""
        forced = {"payment_status": payment_status}
        if payment_error_code is not None:
            forced["payment_error_code"] = payment_error_code
        attempt = check_attempt_id(cf_payment_id)
        body = {"entity": "PAYMENTS", "entity_id": attempt, "entity_simulation": forced}
        return await self._exchange(
            Call.SIMULATE,
            _simulation,
            body=json_body(Sealed(body)),
            timeout_s=timeout_s,
        )

    async def fetch_simulation(
        self, simulation_id: str | int, *, timeout_s: float | None = None
    ) -> Simulation:
        """Return a simulation. Sandbox and emulator only."""
        ids = (check_attempt_id(simulation_id),)
        return await self._exchange(Call.FETCH_SIMULATION, _simulation, ids, timeout_s=timeout_s)
