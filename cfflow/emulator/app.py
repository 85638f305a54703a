"""The emulator as an ASGI app: the gateway's API below /pg, its own API below /_emulator."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from cfflow.emulator import admin, admin_http, calls, fault_responses, guard, pages, pages_html
from cfflow.emulator.asgi import (
    DatedSend,
    RequestHeaders,
    Response,
    decode_body,
    peer_address,
    read_body,
    read_headers,
    read_whole,
    send_response,
    transport_of,
)
from cfflow.emulator.bank import Bank
from cfflow.emulator.calls import Incoming
from cfflow.emulator.clock import Clock
from cfflow.emulator.fault_responses import FaultResponse, send_fault_response
from cfflow.emulator.faults import Fault, Faults
from cfflow.emulator.guard import Guard
from cfflow.emulator.idempotency import IdempotencyKeys
from cfflow.emulator.limits import Admission, Limits, RateLimits
from cfflow.emulator.records import Account
from cfflow.emulator.refusals import Refused, invalid, rate_limited, unauthenticated
from cfflow.emulator.versions import VERSIONS
from cfflow.emulator.webhooks import Webhooks

PREFIX = "/pg"


class EmulatorApp(Starlette):
    """A local gateway in one ASGI app.

    `state.bank`, `.faults`, `.clock`, `.limits` and `.webhooks` are its parts. Its lifespan
    delivers the webhooks; without a server, call `deliver`. allowed_hosts: see `create_app`.

    Calls below /pg skip Starlette's middleware: benchmarks measure them, and a dropped
    connection needs the server's own `send`. Everything else is an ordinary route.
    """

    def __init__(
        self,
        bank: Bank,
        faults: Faults,
        clock: Clock,
        limits: Limits | None = None,
        webhooks: Mapping[str, Any] | None = None,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        super().__init__(routes=[*admin.routes(), *pages.routes()], lifespan=_delivering)
        self.state.bank = self._bank = bank
        self.state.faults = self._faults = faults
        self.state.clock = self._clock = clock
        self.state.limits = self._limits = Limits() if limits is None else limits
        self.state.webhooks = self._webhooks = Webhooks(bank, clock)
        if webhooks is not None:
            self._webhooks.configure(**webhooks)
        self._sender = self._webhooks.sender
        # Calls received, by name: within the rate limits, before any fault. `bank.calls`
        # counts the ones that reached the bank.
        self.state.received = self._received = Counter[str]()
        self._keys = IdempotencyKeys()
        self._request_ids = count(1)
        self._closing = asyncio.Event()
        self._guard = Guard(allowed_hosts)
        # The settings that `reset` restores.
        self._first_chaos = faults.chaos
        self._first_limits = dict(self._limits.per_minute)
        self._first_settings = self._webhooks.settings

    def close(self) -> None:
        """End the pauses of faults, so that the server can shut down cleanly."""
        self._closing.set()

    def reset(self) -> None:
        """Remove every order, webhook, key and fault rule, and restore the first settings.

        The sequences of ids and the clock are not reset.
        """
        self._bank.reset()
        self._faults.clear()
        self._faults.struck.clear()
        self._faults.chaos = self._first_chaos
        self._limits.clear()
        self._limits.refused.clear()
        self._limits.set(self._first_limits)
        self._webhooks.reset(self._first_settings)
        self._keys.clear()
        self._received.clear()

    async def deliver(self) -> None:
        """Return when every webhook that is due by now has been attempted."""
        await self._webhooks.deliver()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: the gateway's calls here, everything else by Starlette."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path, send = scope["path"], DatedSend(send, self._clock)
        is_page = path.startswith(f"{pages_html.VIEW}/")
        if path.startswith(f"{PREFIX}/") and not is_page:
            await self._serve(scope, receive, send)
        else:
            await self._serve_own(scope, receive, send, is_page=is_page)

    async def _serve_own(
        self, scope: Scope, receive: Receive, send: Send, *, is_page: bool
    ) -> None:
        """Serve a page, or a call of the emulator's own API.

        A page checks the origin itself: a shop may send its customer there by a form.
        """
        headers = read_headers(scope)
        try:
            self._check_host(headers, send)
            if scope["method"] not in guard.SAFE and not is_page:
                guard.check_origin(headers.host, headers.origin)
                guard.check_json(Headers(scope=scope))
                receive = await read_whole(receive)
        except ConnectionResetError:
            return
        except Refused as refusal:
            response = admin_http.json_response({"message": refusal.message}, refusal.status)
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _check_host(self, headers: RequestHeaders, send: Send) -> None:
        """Raise `Refused` (403) if the request was sent to another host.

        A call in this process, without a socket, may name any: no page can make one.
        """
        if transport_of(send) is not None:
            self._guard.check_host(headers.host)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope)
        request_id = headers.request_id or f"{next(self._request_ids):032x}".encode()
        response: Response | FaultResponse
        admission: Admission | None = None
        try:
            raw = await read_body(receive)
            self._check_host(headers, send)
            if scope["method"] not in guard.SAFE:
                guard.check_origin(headers.host, headers.origin)
            call, ids, account = self._identify(scope, headers)
            if not self._limits.empty:
                admission = self._admit(call, account, peer_address(scope, send))
            if admission is not None and not admission.admitted:
                raise rate_limited()
            base_url = f"{scope['scheme']}://{headers.host}{PREFIX}"
            incoming = Incoming(call, ids, headers.version, account, decode_body(raw), base_url)
        except ConnectionResetError:
            return
        except Refused as refusal:
            response = _refused(refusal)
        else:
            response = await self._respond(incoming, raw, headers)
        if isinstance(response, Response):
            await send_response(send, response, request_id, admission)
        else:
            await send_fault_response(response, receive, send, request_id, self._pause, admission)

    def _identify(
        self, scope: Scope, headers: RequestHeaders
    ) -> tuple[str, tuple[str, ...], Account | None]:
        """Return the call, its ids and the account. Raises `Refused`.

        It checks address, version and credentials, in the gateway's order
        (gateway.md#hosts).
        """
        call, ids = calls.route(scope["method"], scope["path"][len(PREFIX) :])
        if not headers.version:
            raise invalid("version_missing", "x-api-version : is missing in the request")
        if headers.version not in VERSIONS:
            raise invalid("version_invalid", "x-api-version : is not a version of this API")
        account = self._bank.account(headers.client_id, headers.client_secret)
        if account is None and call not in calls.WITHOUT_CREDENTIALS:
            raise unauthenticated()
        return call, ids, account

    def _admit(self, call: str, account: Account | None, address: str) -> Admission | None:
        client_id = "" if account is None else account.client_id
        return self._limits.admit(call, client_id, address, self._clock.now())

    async def _respond(
        self, incoming: Incoming, raw: bytes, headers: RequestHeaders
    ) -> Response | FaultResponse:
        """Return the response, or what a fault makes of it."""
        self._received[incoming.call] += 1
        fault = self._next_fault(incoming)
        if fault is None:
            return self._perform(incoming, raw, headers.idempotency_key)
        if fault.kind == "delay_before":
            await self._pause(fault.delay_s)
        elif fault.kind == "status_stored":
            return self._store(incoming, raw, headers.idempotency_key, fault)
        elif (before_bank := fault_responses.before_bank(fault, incoming.call)) is not None:
            return before_bank
        response = self._perform(incoming, raw, headers.idempotency_key)
        if fault.kind == "delay_after":
            await self._pause(fault.delay_s)
        return fault_responses.after_bank(fault, incoming.call, response)

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()

    def _next_fault(self, incoming: Incoming) -> Fault | None:
        if self._faults.empty:
            return None
        return self._faults.take(incoming.call, calls.order_of(self._bank, incoming))

    def _perform(self, incoming: Incoming, raw: bytes, key: str) -> Response:
        """Carry out the call, or replay the response stored under its idempotency key."""
        now_s = self._clock.now()
        scope = _key_scope(incoming, key)
        if scope is None:
            return self._ask_bank(incoming, now_s)
        try:
            stored = self._keys.find(scope, raw, now_s)
        except Refused as refusal:
            return _refused(refusal)
        if stored is not None:
            return Response(stored.status, stored.response, replayed=True)
        return self._keep(incoming, raw, key, self._ask_bank(incoming, now_s))

    def _ask_bank(self, incoming: Incoming, now_s: float) -> Response:
        response = Response(*calls.perform(self._bank, incoming, now_s))
        # The call may have started a timer that is due before the sender's next round.
        due_at_s = self._bank.next_due_at_s
        if due_at_s is not None and due_at_s < self._sender.wakes_at_s:
            self._sender.wake()
        return response

    def _store(self, incoming: Incoming, raw: bytes, key: str, fault: Fault) -> FaultResponse:
        """Return an error and store it under the idempotency key; the bank does nothing."""
        struck = fault_responses.error_response(fault, incoming.call)
        if struck.response is not None:
            self._keep(incoming, raw, key, struck.response)
        return struck

    def _keep(self, incoming: Incoming, raw: bytes, key: str, response: Response) -> Response:
        scope = _key_scope(incoming, key)
        if scope is not None:
            self._keys.keep(scope, raw, response.status, response.body, self._clock.now())
        return response


def create_app(
    bank: Bank | None = None,
    *,
    faults: Faults | None = None,
    clock: Clock | None = None,
    rate_limits: RateLimits | None = None,
    webhooks: Mapping[str, Any] | None = None,
    allowed_hosts: Iterable[str] = (),
) -> EmulatorApp:
    """Return a local gateway as an ASGI app, for a server or for in-process calls.

    Without arguments it has the two default accounts and no rate limits. rate_limits:
    "production", "sandbox", or calls per minute by call. webhooks: settings, as
    `Webhooks.configure` takes them. allowed_hosts: names and addresses under which it may be
    called, besides those of loopback: where a server of your own listens. In-process, a fault that
    drops the connection raises `ConnectionDropped` instead. Raises `ValueError` for invalid rate
    limits or settings.
    """
    return EmulatorApp(
        Bank() if bank is None else bank,
        Faults() if faults is None else faults,
        Clock() if clock is None else clock,
        Limits(rate_limits),
        webhooks,
        allowed_hosts,
    )


@asynccontextmanager
async def _delivering(app: EmulatorApp) -> AsyncIterator[None]:
    """Deliver webhooks while the app is served."""
    task = asyncio.create_task(app.state.webhooks.sender.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _key_scope(incoming: Incoming, key: str) -> tuple[str, str, str] | None:
    """Return the scope of a key, or None where the gateway ignores keys.

    A key belongs to an endpoint and credentials: a call without credentials has no scope
    (gateway.md#idempotency).
    """
    if not key or incoming.account is None or incoming.call not in calls.WITH_IDEMPOTENCY:
        return None
    endpoint = "/".join((incoming.call, *incoming.ids))
    return endpoint, incoming.account.client_id, key


def _refused(refusal: Refused) -> Response:
    return Response(refusal.status, calls.refusal_body(refusal))
