"""The gateway's client: every call of GATEWAY 2, typed, with time limits and one error seam.

It has no policy. It never retries, never follows a redirect, never sends anything but to
its own base URL, whatever an answer says. pay and authenticate carry no credentials: the
session and the attempt's id are their own bearer secrets.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from decimal import Decimal
from secrets import token_hex
from typing import Any, Final, Literal, Self, TypeVar

import httpx
import msgspec

from cfflow._core.money import amount_of
from cfflow._core.observation import Call
from cfflow._ports.environment import API_VERSIONS, base_url_of, path_segment
from cfflow._ports.gateway_clock import GatewayClock
from cfflow._ports.lenient import UNREADABLE, decoder
from cfflow._ports.logs import Log, default_log
from cfflow._ports.methods import PaymentMethod, pay_body
from cfflow._ports.sealed import Sealed, sealed
from cfflow._ports.seam import from_answer, from_transport, request_id_of, undecodable
from cfflow._ports.wire import (
    Answer,
    AuthenticateAnswer,
    Order,
    PayAnswer,
    PaymentEntity,
    Simulation,
    believed,
    encode,
)
from cfflow.errors import CfflowError, ConfigError, GatewayUnavailable, InvalidAmount

__all__ = ["GatewayClient", "frozen_authorize"]

_A = TypeVar("_A", bound=Answer)
_D = TypeVar("_D")

_decode_pay = decoder(PayAnswer)
_decode_authenticate = decoder(AuthenticateAnswer)
_decode_entity = decoder(PaymentEntity)
_decode_entities = decoder(list[PaymentEntity])
_decode_order = decoder(Order)
_decode_simulation = decoder(Simulation)

#: The deadline comes just after httpx's own limits, which know whether anything was sent.
_CONNECT_FIRST_S: Final = 0.05

_LIMITS: Final = ("connect", "read", "write", "pool")

#: Answers are small: compressed ones would only need a second limit, on their size.
_HEADERS: Final = {
    "user-agent": "cfflow",
    "accept": "application/json",
    "accept-encoding": "identity",
}

_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


def frozen_authorize(action: Literal["CAPTURE", "VOID"], amount: Decimal | None = None) -> bytes:
    """Return the body of an authorize call, byte for byte as it will be sent.

    A CAPTURE needs its `amount`, a VOID takes none: it is always whole. Raises
    `InvalidAmount` for a missing one, one too many, or one with three decimals.
    """
    if action == "VOID" and amount is not None:
        raise InvalidAmount("a VOID releases the whole hold and takes no amount")
    exact = {} if action == "VOID" else {"amount": amount_of(amount)}
    return encode({"action": action} | exact)


class GatewayClient:
    """Calls the gateway. One instance serves a whole process.

    `client_id`, `client_secret`: the account's credentials. `environment`: `sandbox`,
    `production` or a base URL. `timeout_s` is the limit of a call that names none.
    `transport` is any `httpx.AsyncBaseTransport`, called directly: what an `httpx.AsyncClient`
    adds to it (cookies, redirects, proxies, netrc) must never touch a payment. `log` is a
    structlog logger.

    Every call raises `GatewayRejected`, `GatewayAuthError`, `RateLimited`,
    `GatewayUnavailable`, and for pay, authenticate and authorize `OutcomeUnknown`.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        client_id: str,
        client_secret: str,
        environment: str,
        api_version: str = "2025-01-01",
        timeout_s: float = 10.0,
        log: Log | None = None,
    ) -> None:
        self._credentials = Sealed({"x-client-id": client_id, "x-client-secret": client_secret})
        del client_id, client_secret
        if api_version not in API_VERSIONS:
            raise ConfigError(f"API version {api_version!r} is none of {', '.join(API_VERSIONS)}")
        for name in ("x-client-id", "x-client-secret"):
            if not _HEADER_SAFE.fullmatch(self._credentials.reveal()[name]):
                raise ConfigError(f"{name} is empty or has a character that no header can carry")
        self.base_url: Final = base_url_of(environment)
        self.api_version: Final = api_version
        self.clock: Final = GatewayClock()
        self._transport = transport
        self._closed = False
        self._timeout_s = timeout_s
        self._log = log or default_log()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._transport.aclose()

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
        return await self._call(
            Call.PAY, "POST", "/orders/sessions", _decode_pay, body, key, timeout_s
        )

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
        path = f"/orders/pay/authenticate/{path_segment(cf_payment_id)}"
        return await self._call(
            Call.AUTHENTICATE, "POST", path, _decode_authenticate, body, key, timeout_s
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
        path = f"/orders/{path_segment(order_id)}/authorization"
        return await self._call(
            Call.AUTHORIZE,
            "POST",
            path,
            _decode_entity,
            Sealed(body),
            key,
            timeout_s,
            api_version,
        )

    async def fetch_payment(
        self, order_id: str, cf_payment_id: str, *, timeout_s: float | None = None
    ) -> PaymentEntity:
        """Return one attempt."""
        path = f"/orders/{path_segment(order_id)}/payments/{path_segment(cf_payment_id)}"
        return await self._call(
            Call.FETCH_PAYMENT, "GET", path, _decode_entity, timeout_s=timeout_s
        )

    async def fetch_payments(
        self, order_id: str, *, timeout_s: float | None = None
    ) -> tuple[PaymentEntity, ...]:
        """Return every attempt of the order, ours or not."""
        path = f"/orders/{path_segment(order_id)}/payments"
        found, request_id = await self._exchange(
            Call.FETCH_PAYMENTS, "GET", path, _decode_entities, None, "", timeout_s, None
        )
        return tuple(msgspec.structs.replace(entity, request_id=request_id) for entity in found)

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
        the same `order_id`: the gateway refuses a second one. Raises `InvalidAmount` too.
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
        return await self._call(
            Call.CREATE_ORDER, "POST", "/orders", _decode_order, Sealed(given), key, timeout_s
        )

    async def fetch_order(self, order_id: str, *, timeout_s: float | None = None) -> Order:
        """Return the order: its status, and when it expires."""
        path = f"/orders/{path_segment(order_id)}"
        return await self._call(Call.FETCH_ORDER, "GET", path, _decode_order, timeout_s=timeout_s)

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
        return await self._call(
            Call.SIMULATE,
            "POST",
            "/simulate",
            _decode_simulation,
            Sealed(encode(body)),
            timeout_s=timeout_s,
        )

    async def fetch_simulation(
        self, simulation_id: str, *, timeout_s: float | None = None
    ) -> Simulation:
        """Return a simulation. Sandbox and emulator only."""
        path = f"/simulate/{path_segment(simulation_id)}"
        return await self._call(Call.SIMULATE, "GET", path, _decode_simulation, timeout_s=timeout_s)

    async def _call(
        self,
        call: Call,
        verb: str,
        path: str,
        decode: Callable[[bytes], _A],
        body: Sealed[bytes] | None = None,
        key: str = "",
        timeout_s: float | None = None,
        api_version: str | None = None,
    ) -> _A:
        found, request_id = await self._exchange(
            call, verb, path, decode, body, key, timeout_s, api_version
        )
        return msgspec.structs.replace(found, request_id=request_id)

    async def _exchange(
        self,
        call: Call,
        verb: str,
        path: str,
        decode: Callable[[bytes], _D],
        body: Sealed[bytes] | None,
        key: str,
        timeout_s: float | None,
        api_version: str | None,
    ) -> tuple[_D, str]:
        """Make one call and return (what it says, request id), or raise what it means."""
        began = time.perf_counter()
        # Ours goes along, so that support can find a call whose answer never came.
        own_id = token_hex(16)
        headers = _HEADERS | {
            "x-request-id": own_id,
            "x-api-version": api_version or self.api_version,
        }
        if key:
            headers["x-idempotency-key"] = key
        answer = await self._send(call, verb, path, body, headers, timeout_s)
        response = None if isinstance(answer, CfflowError) else answer
        found = answer if isinstance(answer, CfflowError) else _read(call, decode, answer)
        request_id = (response and request_id_of(response)) or own_id
        self._log.info(
            "gateway.call",
            call=call.value,
            status=None if response is None else response.status_code,
            outcome=type(found).__name__ if isinstance(found, CfflowError) else "answered",
            request_id=request_id,
            duration_ms=round((time.perf_counter() - began) * 1000, 3),
        )
        if isinstance(found, CfflowError):
            raise found
        if response is not None:
            # Only of an answer that was understood: what lies between has clocks of its own.
            self.clock.read(response.headers.get("date"))
        return found, request_id

    async def _send(
        self,
        call: Call,
        verb: str,
        path: str,
        body: Sealed[bytes] | None,
        headers: dict[str, str],
        timeout_s: float | None,
    ) -> httpx.Response | CfflowError:
        """Send one request; a failure comes back as a value, so that its frames go.

        The frames below hold the request's bytes, card number and all: an error raised
        from there would carry them into every crash report that prints local variables.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        if self._closed:
            return GatewayUnavailable(f"{call}: this client is closed; nothing was sent")
        try:
            # httpx limits each read and write; the deadline limits the call as a whole.
            async with asyncio.timeout(limit_s + _CONNECT_FIRST_S):
                request = httpx.Request(
                    verb,
                    self.base_url + path,
                    content=None if body is None else body.reveal(),
                    headers=headers | self._own_headers(call, has_body=body is not None),
                    extensions={"timeout": dict.fromkeys(_LIMITS, limit_s)},
                )
                response = await self._transport.handle_async_request(request)
                await response.aread()
                response.request = request
                return response
        except Exception as error:  # noqa: BLE001  any of them carries the request's frames
            return from_transport(call, error)
        except BaseException as ended:  # noqa: BLE001  a cancellation carries them too
            raise ended.with_traceback(None) from None

    def _own_headers(self, call: Call, *, has_body: bool) -> dict[str, str]:
        kind = {"content-type": "application/json"} if has_body else {}
        return kind if call in _BEARER else kind | self._credentials.reveal()


#: The calls that carry no credentials (GATEWAY 1).
_BEARER: Final = frozenset({Call.PAY, Call.AUTHENTICATE})


def _read(call: Call, decode: Callable[[bytes], _D], response: httpx.Response) -> _D | CfflowError:
    """Return what an answer says, or the error that it is; not raised here, see `_send`."""
    if not response.is_success:
        return from_answer(call, response)
    try:
        return believed(decode(response.content))
    except UNREADABLE:
        # The decoder's own error would quote the answer.
        return undecodable(call, response)
