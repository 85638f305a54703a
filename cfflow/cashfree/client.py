"""`GatewayClient`: sends the calls of `gateway.py`, with time limits.

It has no policy. It never retries, never follows a redirect, and sends to its own base URL only,
whatever an answer contains.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Final, Self, TypeVar

import httpx
import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.call_log import log_call
from cfflow.cashfree.calls import ROUTES
from cfflow.cashfree.clock import GatewayClock
from cfflow.cashfree.environment import base_url_of
from cfflow.cashfree.failures import (
    from_answer,
    from_transport,
    not_sent,
    request_id_of,
    undecodable,
)
from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.lenient import UNREADABLE
from cfflow.cashfree.sending import GatewayAnswer, GatewayRequest, Sender, origin_of, sender_of
from cfflow.cashfree.wire import Answer, PaymentEntity, check_amounts
from cfflow.core.arguments import check_key, check_timeout
from cfflow.core.observation import Call
from cfflow.core.sealed import Sealed
from cfflow.errors import CfflowError, ConfigError, GatewayUnavailable
from cfflow.logs import Log, guarded

_D = TypeVar("_D", bound=Answer | list[PaymentEntity])

#: Answers are small: to inflate one takes longer than to receive it (inflate.py).
_HEADERS: Final = {
    "user-agent": "cfflow",
    "accept": "application/json",
    "accept-encoding": "identity",
}
_WITH_BODY: Final = {"content-type": "application/json"}

_SUCCESS: Final = 200
_REDIRECT: Final = 300

_HEADER_SAFE: Final = re.compile(r"[\x21-\x7e]+")


class GatewayClient(Gateway):
    """Calls the gateway. One instance serves a whole process.

    `client_id`, `client_secret`: the account's credentials. `environment`: `sandbox`,
    `production` or a base URL. `timeout_s` is the limit of a call that names none.
    `transport` is a `GatewaySockets`, or any `httpx.AsyncBaseTransport`, called directly: what an
    `httpx.AsyncClient` adds to it (cookies, redirects, proxies, netrc) must never touch a payment.
    Of a transport of your own no error proves that nothing was sent (`ForeignSender`). `log` is
    a structlog logger.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | Sender,
        *,
        client_id: str,
        client_secret: str,
        environment: str,
        api_version: str = facts.API_VERSION,
        timeout_s: float = 10.0,
        log: Log | None = None,
    ) -> None:
        credentials = Sealed(
            {facts.CLIENT_ID_HEADER: client_id, facts.CLIENT_SECRET_HEADER: client_secret}
        )
        del client_id, client_secret
        if api_version not in facts.API_VERSIONS:
            known = ", ".join(facts.API_VERSIONS)
            raise ConfigError(f"api_version is not one of {known}")
        for name in credentials.reveal():
            # No local variable has the secret: the error's frames would show it.
            if not _HEADER_SAFE.fullmatch(credentials.reveal()[name]):
                raise ConfigError(f"{name} is empty or has a character that no header can carry")
        self.base_url = base_url_of(environment)
        url = httpx.URL(self.base_url)
        self._origin, self._path = origin_of(url), url.raw_path.decode("ascii").rstrip("/")
        self._headers = self._headers_of_every_kind(credentials)
        self.api_version = api_version
        self.clock = GatewayClock()
        self._sender = sender_of(transport)
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
        await self._sender.aclose()

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
        limit_s = check_timeout(timeout_s) or self._timeout_s
        # Our own id, so that support can find a call whose answer never came.
        headers = {
            facts.REQUEST_ID_HEADER: os.urandom(16).hex(),
            facts.API_VERSION_HEADER: api_version or self.api_version,
        }
        if check_key(key):
            headers[facts.IDEMPOTENCY_KEY_HEADER] = key
        began = time.perf_counter()
        answer = await self._send(call, ids, body, headers, limit_s)
        request_id, date, status = headers[facts.REQUEST_ID_HEADER], "", None
        if isinstance(answer, CfflowError):
            found: _D | CfflowError = answer
        else:
            found = _read(call, decode, answer)
            request_id = request_id_of(answer) or request_id
            date, status = answer.header(b"date"), answer.status
        # It leads to the request, and so to a card number: no frame of an error has it.
        del answer
        log_call(self._log, call, found, status=status, request_id=request_id, started_at=began)
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
        limit_s: float,
    ) -> GatewayAnswer | CfflowError:
        """Send one request and return the answer; a failure is returned, not raised.

        The frames below have the request's bytes, card number included. An error raised from
        there would carry them into every crash report that prints local variables.
        """
        route = ROUTES[call]
        if self._closed:
            text = f"{call}: this client is closed; nothing was sent"
            return not_sent(GatewayUnavailable(text))
        try:
            return await self._sender.send(
                GatewayRequest(
                    call,
                    verb=route.verb,
                    origin=self._origin,
                    target=self._path + route.path_of(ids),
                    headers=headers | self._headers[route.credentials, body is not None].reveal(),
                    body=None if body is None else body.reveal(),
                    limit_s=limit_s,
                )
            )
        except Exception as error:  # noqa: BLE001  any error has the request's frames
            return from_transport(call, error, self._sender.never_sent)
        except BaseException as ended:  # noqa: BLE001  a cancellation has them too
            raise ended.with_traceback(None) from None

    def _headers_of_every_kind(
        self, credentials: Sealed[dict[str, str]]
    ) -> dict[tuple[bool, bool], Sealed[dict[str, str]]]:
        """Return what calls of a kind have in common: with credentials or not, a body or not."""
        return {
            (is_own, has_body): Sealed(
                _HEADERS
                | (_WITH_BODY if has_body else {})
                | (credentials.reveal() if is_own else {})
            )
            for is_own in (False, True)
            for has_body in (False, True)
        }


def _read(call: Call, decode: Callable[[bytes], _D], answer: GatewayAnswer) -> _D | CfflowError:
    """Return what an answer decodes to, or its error, which `_send` explains why not to raise."""
    if not _SUCCESS <= answer.status < _REDIRECT:
        return from_answer(call, answer)
    try:
        return check_amounts(decode(answer.body))
    except UNREADABLE:
        # The decoder's own error would quote the answer.
        return undecodable(call, answer)
