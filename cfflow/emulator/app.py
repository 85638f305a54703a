"""The emulator as an ASGI app: the gateway's calls below /pg, its own below /_emulator."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from cfflow.emulator import admin, calls, pages, pages_html, spoiling
from cfflow.emulator.bank import Bank
from cfflow.emulator.calls import Incoming
from cfflow.emulator.clock import Clock
from cfflow.emulator.exchange import (
    Answer,
    DatedSend,
    Headers,
    decode_body,
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
from cfflow.emulator.spoiling import Spoiled, send_spoiled
from cfflow.emulator.versions import VERSIONS
from cfflow.emulator.webhooks import Webhooks

PREFIX = "/pg"


class EmulatorApp(Starlette):
    """A local gateway in one ASGI app.

    `state.bank`, `.faults`, `.clock`, `.limits` and `.webhooks` are its parts. A server
    that runs it with its lifespan delivers the webhooks; in-process, `deliver` does.

    Calls below /pg skip Starlette's middleware: they are what a benchmark measures, and a
    lost answer needs the server's own `send`. Everything else is an ordinary route.
    """

    def __init__(
        self,
        bank: Bank,
        faults: Faults,
        clock: Clock,
        limits: Limits | None = None,
        webhooks: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(routes=[*admin.routes(), *pages.routes()], lifespan=_delivering)
        self.state.bank = self._bank = bank
        self.state.faults = self._faults = faults
        self.state.clock = self._clock = clock
        self.state.limits = self._limits = Limits() if limits is None else limits
        self.state.webhooks = self._webhooks = Webhooks(bank, clock)
        if webhooks is not None:
            self._webhooks.configure(**webhooks)
        self._postman = self._webhooks.postman
        # Arrivals by call, counted within the limits and before any fault; the bank's own
        # counter is what got through.
        self.state.received = self._received = Counter[str]()
        self._keys = IdempotencyKeys()
        self._request_ids = count(1)
        self._closing = asyncio.Event()
        # Where `reset` goes back to.
        self._first_chaos = faults.chaos
        self._first_limits = dict(self._limits.per_minute)
        self._first_settings = self._webhooks.settings

    def close(self) -> None:
        """Let the calls that a fault delays go on, so that the server can end in order."""
        self._closing.set()

    def reset(self) -> None:
        """Forget all that happened and every rule; limits and settings are those of the start.

        Ids go on where they were, and so does the clock.
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
        """Return when every webhook that is due by now was attempted."""
        await self._webhooks.deliver()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: the gateway's own calls here, the rest by Starlette."""
        path = scope["path"] if scope["type"] == "http" else ""
        send = DatedSend(send, self._clock) if path else send
        if path.startswith(f"{PREFIX}/") and not path.startswith(f"{pages_html.VIEW}/"):
            await self._serve(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope)
        request_id = headers.request_id or f"{next(self._request_ids):032x}".encode()
        answer: Answer | Spoiled
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
        if isinstance(answer, Answer):
            await send_answer(send, answer, request_id, admission)
        else:
            await send_spoiled(answer, receive, send, request_id, self._pause, admission)

    def _identify(
        self, scope: Scope, headers: Headers
    ) -> tuple[str, tuple[str, ...], Account | None]:
        """The call, its ids and who calls, once address, version and credentials hold."""
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

    async def _answer(self, incoming: Incoming, raw: bytes, headers: Headers) -> Answer | Spoiled:
        """The answer, or what a fault makes of it."""
        self._received[incoming.call] += 1
        fault = self._next_fault(incoming)
        if fault is None:
            return self._perform(incoming, raw, headers.idempotency_key)
        if fault.kind == "delay_before":
            await self._pause(fault.delay_s)
        elif fault.kind == "status_stored":
            return self._store(incoming, raw, headers.idempotency_key, fault)
        elif (unheard := spoiling.unheard(fault, incoming.call)) is not None:
            return unheard
        answer = self._perform(incoming, raw, headers.idempotency_key)
        if fault.kind == "delay_after":
            await self._pause(fault.delay_s)
        return spoiling.unlearned(fault, incoming.call, answer)

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
            return self._do(incoming, now)
        try:
            stored = self._keys.find(scope, raw, now)
        except Refused as refusal:
            return _refused(refusal)
        if stored is not None:
            return Answer(stored.status, stored.answer, replayed=True)
        return self._keep(incoming, raw, key, self._do(incoming, now))

    def _do(self, incoming: Incoming, now: float) -> Answer:
        answer = Answer(*calls.perform(self._bank, incoming, now))
        # What the bank does by itself, and tells by webhook, may now come sooner than known.
        due_at = self._bank.next_due_at
        if due_at is not None and due_at < self._postman.sleeps_until:
            self._postman.wake()
        return answer

    def _store(self, incoming: Incoming, raw: bytes, key: str, fault: Fault) -> Spoiled:
        """An error that this key replays although nothing was done."""
        spoiled = spoiling.with_status(fault, incoming.call)
        if spoiled.answer is not None:
            self._keep(incoming, raw, key, spoiled.answer)
        return spoiled

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
    webhooks: Mapping[str, Any] | None = None,
) -> EmulatorApp:
    """A local gateway as an ASGI app, for a server or to be called in-process.

    Without arguments it knows the two default accounts and limits no calls. rate_limits:
    "production", "sandbox", or calls per minute by call. webhooks: settings of them, as
    `Webhooks.configure` takes them. An answer told to be lost raises
    `ConnectionDropped` in-process, where there is no connection to drop.
    Raises `ValueError` for rate limits and settings that make no sense.
    """
    return EmulatorApp(
        Bank() if bank is None else bank,
        Faults() if faults is None else faults,
        Clock() if clock is None else clock,
        Limits(rate_limits),
        webhooks,
    )


@asynccontextmanager
async def _delivering(app: EmulatorApp) -> AsyncIterator[None]:
    """Deliver webhooks for as long as the app is served."""
    task = asyncio.create_task(app.state.webhooks.postman.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _key_scope(incoming: Incoming, key: str) -> tuple[str, str, str] | None:
    """Where a key counts: per endpoint and credentials, so never without credentials."""
    if not key or incoming.account is None or incoming.call not in calls.WITH_IDEMPOTENCY:
        return None
    endpoint = "/".join((incoming.call, *incoming.ids))
    return endpoint, incoming.account.client_id, key


def _refused(refusal: Refused) -> Answer:
    return Answer(refusal.status, calls.refusal_body(refusal))
