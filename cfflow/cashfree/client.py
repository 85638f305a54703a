"""`GatewayClient`: sends the calls of `gateway.py`, with time limits.

It has no policy. It never retries, never follows a redirect, and sends to its own base URL only,
whatever an answer contains.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Final, Self, TypeVar

import httpx
import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.calls import ROUTES, Route
from cfflow.cashfree.clock import GatewayClock
from cfflow.cashfree.environment import base_url_of
from cfflow.cashfree.failures import from_answer, from_transport, request_id_of, undecodable
from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.lenient import UNREADABLE
from cfflow.cashfree.wire import Answer, PaymentEntity, check_amounts
from cfflow.core.observation import Call
from cfflow.core.sealed import Sealed
from cfflow.errors import CfflowError, ConfigError, GatewayUnavailable
from cfflow.logs import Log, guarded

_D = TypeVar("_D", bound=Answer | list[PaymentEntity])

#: The deadline comes just after httpx's own limits, whose errors show whether anything was sent.
_CONNECT_FIRST_S: Final = 0.05

_LIMITS: Final = ("connect", "read", "write", "pool")

#: Answers are small: to inflate one takes longer than to receive it (inflate.py).
_HEADERS: Final = {
    "user-agent": "cfflow",
    "accept": "application/json",
    "accept-encoding": "identity",
}

_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


class GatewayClient(Gateway):
    """Calls the gateway. One instance serves a whole process.

    `client_id`, `client_secret`: the account's credentials. `environment`: `sandbox`,
    `production` or a base URL. `timeout_s` is the limit of a call that names none.
    `transport` is any `httpx.AsyncBaseTransport`, called directly: what an `httpx.AsyncClient`
    adds to it (cookies, redirects, proxies, netrc) must never touch a payment. `log` is a
    structlog logger.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        client_id: str,
        client_secret: str,
        environment: str,
        api_version: str = facts.API_VERSION,
        timeout_s: float = 10.0,
        log: Log | None = None,
    ) -> None:
        self._credentials = Sealed(
            {facts.CLIENT_ID_HEADER: client_id, facts.CLIENT_SECRET_HEADER: client_secret}
        )
        del client_id, client_secret
        if api_version not in facts.API_VERSIONS:
            known = ", ".join(facts.API_VERSIONS)
            raise ConfigError(f"api_version is not one of {known}")
        for name in self._credentials.reveal():
            # No local variable has the secret: the error's frames would show it.
            if not _HEADER_SAFE.fullmatch(self._credentials.reveal()[name]):
                raise ConfigError(f"{name} is empty or has a character that no header can carry")
        self.base_url = base_url_of(environment)
        self.api_version = api_version
        self.clock = GatewayClock()
        self._transport = transport
        self._closed = False
        self._timeout_s = timeout_s
        self._log = guarded(log)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._transport.aclose()

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
        """Send one call and return what its answer decodes to, or raise what went wrong."""
        began = time.perf_counter()
        # Our own id, so that support can find a call whose answer never came.
        own_id = token_hex(16)
        headers = _HEADERS | {
            facts.REQUEST_ID_HEADER: own_id,
            facts.API_VERSION_HEADER: api_version or self.api_version,
        }
        if key:
            headers[facts.IDEMPOTENCY_KEY_HEADER] = key
        answer = await self._send(call, ids, body, headers, timeout_s)
        response = None if isinstance(answer, CfflowError) else answer
        found = answer if isinstance(answer, CfflowError) else _read(call, decode, answer)
        request_id = (response and request_id_of(response)) or own_id
        status = None if response is None else response.status_code
        date = None if response is None else response.headers.get("date")
        # They lead to the request, and so to a card number: no frame of an error has them.
        del answer, response
        self._log.info(
            "gateway.call",
            call=call.value,
            status=status,
            outcome=type(found).__name__ if isinstance(found, CfflowError) else "answered",
            request_id=request_id,
            duration_ms=round((time.perf_counter() - began) * 1000, 3),
        )
        if isinstance(found, CfflowError):
            raise found
        # Only of an answer that decodes: a proxy's error page has the proxy's clock.
        self.clock.read(date)
        for part in found if isinstance(found, list) else (found,):
            # It was decoded here and no other code has it yet: a copy would only cost time.
            msgspec.structs.force_setattr(part, "request_id", request_id)
        return found

    async def _send(
        self,
        call: Call,
        ids: tuple[str, ...],
        body: Sealed[bytes] | None,
        headers: dict[str, str],
        timeout_s: float | None,
    ) -> httpx.Response | CfflowError:
        """Send one request and return the answer; a failure is returned, not raised.

        The frames below have the request's bytes, card number included. An error raised from
        there would carry them into every crash report that prints local variables.
        """
        route, limit_s = ROUTES[call], self._timeout_s if timeout_s is None else timeout_s
        if self._closed:
            return GatewayUnavailable(f"{call}: this client is closed; nothing was sent")
        try:
            # httpx limits each read and write; the deadline limits the call as a whole.
            async with asyncio.timeout(limit_s + _CONNECT_FIRST_S):
                request = httpx.Request(
                    route.verb,
                    self.base_url + route.path_of(ids),
                    content=None if body is None else body.reveal(),
                    headers=headers | self._own_headers(route, has_body=body is not None),
                    extensions={"timeout": dict.fromkeys(_LIMITS, limit_s), "cfflow.call": call},
                )
                response = await self._transport.handle_async_request(request)
                await response.aread()
                response.request = request
                return response
        except Exception as error:  # noqa: BLE001  any error has the request's frames
            return from_transport(call, error)
        except BaseException as ended:  # noqa: BLE001  a cancellation has them too
            raise ended.with_traceback(None) from None

    def _own_headers(self, route: Route, *, has_body: bool) -> dict[str, str]:
        kind = {"content-type": "application/json"} if has_body else {}
        return kind | self._credentials.reveal() if route.credentials else kind


def _read(call: Call, decode: Callable[[bytes], _D], response: httpx.Response) -> _D | CfflowError:
    """Return what an answer decodes to, or its error, which `_send` explains why not to raise."""
    if not response.is_success:
        return from_answer(call, response)
    try:
        return check_amounts(decode(response.content))
    except UNREADABLE:
        # The decoder's own error would quote the answer.
        return undecodable(call, response)
