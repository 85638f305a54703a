"""The emulator as an ASGI app: the gateway's calls below /pg, its own below /_emulator."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from itertools import count

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from cfflow.emulator import admin, calls, wire
from cfflow.emulator.bank import Bank
from cfflow.emulator.calls import Incoming
from cfflow.emulator.clock import Clock
from cfflow.emulator.exchange import (
    Answer,
    Headers,
    decode_body,
    drop_connection,
    peer_address,
    read_body,
    read_headers,
    send_answer,
)
from cfflow.emulator.faults import Fault, Faults
from cfflow.emulator.idempotency import IdempotencyKeys
from cfflow.emulator.limits import Admission, Limits, RateLimits
from cfflow.emulator.records import Account
from cfflow.emulator.refusals import Refused, invalid, rate_limited, unauthenticated

PREFIX = "/pg"

_PROXY_PAGE = b"<html><head><title>Gateway</title></head><body>Please wait</body></html>"


class EmulatorApp(Starlette):
    """A local gateway in one ASGI app.

    `state.bank`, `.faults`, `.clock` and `.limits` are its parts.

    Calls below /pg skip Starlette's middleware: they are what a benchmark measures, and a
    lost answer needs the server's own `send`. Everything else is an ordinary route.
    """

    def __init__(
        self, bank: Bank, faults: Faults, clock: Clock, limits: Limits | None = None
    ) -> None:
        super().__init__(routes=admin.routes())
        self.state.bank = self._bank = bank
        self.state.faults = self._faults = faults
        self.state.clock = self._clock = clock
        self.state.limits = self._limits = Limits() if limits is None else limits
        # Arrivals by call, counted within the limits and before any fault; the bank's own
        # counter is what got through.
        self.state.received = self._received = Counter[str]()
        self._keys = IdempotencyKeys()
        self._request_ids = count(1)
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Let the calls that a fault delays go on, so that the server can end in order."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: the gateway's own calls here, the rest by Starlette."""
        if scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/"):
            await self._serve(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope)
        request_id = headers.request_id or f"{next(self._request_ids):032x}".encode()
        answer: Answer | None
        admission: Admission | None = None
        try:
            raw = await read_body(receive)
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
            answer = _refused(refusal)
        else:
            answer = await self._answer(incoming, raw, headers)
        if answer is None:
            await drop_connection(receive, send)
        else:
            await send_answer(send, answer, request_id, admission)

    def _identify(
        self, scope: Scope, headers: Headers
    ) -> tuple[str, tuple[str, ...], Account | None]:
        """The call, its ids and who calls, once address, version and credentials hold."""
        call, ids = calls.route(scope["method"], scope["path"][len(PREFIX) :])
        if not headers.version:
            raise invalid("version_missing", "x-api-version : is missing in the request")
        if headers.version not in wire.VERSIONS:
            raise invalid("version_invalid", "x-api-version : is not a version of this API")
        account = self._bank.account(headers.client_id, headers.client_secret)
        if account is None and call not in calls.WITHOUT_CREDENTIALS:
            raise unauthenticated()
        return call, ids, account

    def _admit(self, call: str, account: Account | None, address: str) -> Admission | None:
        client_id = "" if account is None else account.client_id
        return self._limits.admit(call, client_id, address, self._clock.now())

    async def _answer(self, incoming: Incoming, raw: bytes, headers: Headers) -> Answer | None:
        """The answer, or None when the connection is to be dropped instead."""
        self._received[incoming.call] += 1
        fault = self._next_fault(incoming)
        if fault is None:
            return self._perform(incoming, raw, headers.idempotency_key)
        if fault.kind == "delay_before":
            await self._pause(fault.delay_s)
        elif fault.kind == "lost_before":
            return None
        elif fault.kind == "status_before":
            return _faulty(fault)
        elif fault.kind == "status_stored":
            return self._keep(incoming, raw, headers.idempotency_key, _faulty(fault))
        answer = self._perform(incoming, raw, headers.idempotency_key)
        if fault.kind == "delay_after":
            await self._pause(fault.delay_s)
        return _spoiled(fault, answer)

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), delay_s)

    def _next_fault(self, incoming: Incoming) -> Fault | None:
        if self._faults.empty:
            return None
        return self._faults.take(incoming.call, calls.order_of(self._bank, incoming))

    def _perform(self, incoming: Incoming, raw: bytes, key: str) -> Answer:
        """Do it, or answer again what this idempotency key was answered before."""
        now = self._clock.now()
        scope = _key_scope(incoming, key)
        if scope is None:
            return Answer(*calls.perform(self._bank, incoming, now))
        try:
            stored = self._keys.find(scope, raw, now)
        except Refused as refusal:
            return _refused(refusal)
        if stored is not None:
            return Answer(stored.status, stored.answer, replayed=True)
        answer = Answer(*calls.perform(self._bank, incoming, now))
        return self._keep(incoming, raw, key, answer)

    def _keep(self, incoming: Incoming, raw: bytes, key: str, answer: Answer) -> Answer:
        scope = _key_scope(incoming, key)
        if scope is not None:
            self._keys.keep(scope, raw, answer.status, answer.body, self._clock.now())
        return answer


def create_app(
    bank: Bank | None = None,
    *,
    faults: Faults | None = None,
    clock: Clock | None = None,
    rate_limits: RateLimits | None = None,
) -> EmulatorApp:
    """A local gateway as an ASGI app, for a server or to be called in-process.

    Without arguments it knows the two default accounts and limits no calls. rate_limits:
    "production", "sandbox", or calls per minute by call. An answer told to be lost raises
    `ConnectionDropped` in-process, where there is no connection to drop.
    Raises `ValueError` for rate limits that make no sense.
    """
    return EmulatorApp(
        Bank() if bank is None else bank,
        Faults() if faults is None else faults,
        Clock() if clock is None else clock,
        Limits(rate_limits),
    )


def _key_scope(incoming: Incoming, key: str) -> tuple[str, str, str] | None:
    """Where a key counts: per endpoint and credentials, so never without credentials."""
    if not key or incoming.account is None or incoming.call not in calls.WITH_IDEMPOTENCY:
        return None
    endpoint = "/".join((incoming.call, *incoming.ids))
    return endpoint, incoming.account.client_id, key


def _refused(refusal: Refused) -> Answer:
    return Answer(refusal.status, calls.refusal_body(refusal))


def _faulty(fault: Fault) -> Answer:
    body = wire.error("internal_error", "the emulator was told to fail here", "api_error")
    return Answer(fault.status or 500, wire.encode(body))


def _spoiled(fault: Fault, answer: Answer) -> Answer | None:
    """What becomes of a good answer on its way back; None: nothing comes back."""
    if fault.kind in ("delay_before", "delay_after"):
        return answer
    if fault.kind == "lost_after":
        return None
    if fault.kind == "status_after":
        return _faulty(fault)
    if fault.kind == "html":
        return Answer(fault.status or 200, _PROXY_PAGE, b"text/html")
    return Answer(fault.status or 200, answer.body[: len(answer.body) // 2])
