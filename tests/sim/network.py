"""The network between cfflow's processes and the bank, which loses, delays and repeats.

The bank is the emulator's own app, called in-process: its idempotency keys, its checks and
its wire format are in force. A request that was posted arrives,
even if its sender dies or cancels the call then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from cfflow.emulator import Bank, Fault, Faults, create_app
from cfflow.emulator.calls import route
from cfflow.emulator.clock import Clock
from cfflow.emulator.records import LedgerEntry
from tests.sim.loop import VirtualLoop
from tests.sim.origins import Origin, Origins
from tests.sim.process import ACTION, Action, Process
from tests.sim.story import Story
from tests.sim.weather import Fate, Weather

BASE_URL = "http://127.0.0.1:1/pg"

#: The calls that are steps: they may move money or use up a customer's try.
STEPS = frozenset({"pay", "authenticate", "authorize"})

_MAYBE_DONE = frozenset({408, 409, 422, 425})
#: What the entity of an attempt with money contains.
_MONEY = (b'"payment_status":"SUCCESS"', b'"payment_status":"VOID"')
#: The order of an answer that came in place of the right one.
_ELSEWHERE = b"order_elsewhere"
_PAGE = b"<html><body>Please wait</body></html>"


@dataclass(slots=True, eq=False)
class Sent:
    """One request as a process sent it, and what happened to it outside of all processes."""

    number: int
    process: Process
    action: Action | None
    call: str
    ids: tuple[str, ...]
    key: str
    body: bytes
    api_version: str
    limit_s: float
    at_s: float
    origin: Origin | None = None
    outcome: str = ""
    status: int = 0
    ended_at_s: float = 0.0
    arrived_at_s: list[float] = field(default_factory=list)
    effects: list[LedgerEntry] = field(default_factory=list)

    @property
    def payment_id(self) -> str:
        """The payment whose step this is; "" for an inquiry, which carries no key."""
        return "" if self.origin is None else self.origin.payment_id

    def __str__(self) -> str:
        about = self.origin or self.key or "/".join(self.ids)
        return f"#{self.number} {self.call} {about}"


@dataclass(frozen=True, slots=True)
class BankResponse:
    """An answer as the bank gave it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Watcher(Protocol):
    """Gets every request, arrival and answer."""

    def sending(self, sent: Sent) -> None:
        """A process sends a request."""

    def arrived(self, sent: Sent) -> None:
        """The bank has dealt with a request."""

    def answered(self, sent: Sent) -> None:
        """A living process gets the answer, or an error in its place."""


class BankClock(Clock):
    """The bank's clock, which is the world's clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._world_now = now

    def now(self) -> float:
        return self._world_now()


class Network:
    """Carries requests to the bank and answers back; the weather decides how."""

    def __init__(
        self,
        loop: VirtualLoop,
        bank: Bank,
        clock: Clock,
        *,
        weather: Weather,
        story: Story,
        origins: Origins,
    ) -> None:
        self.sent: list[Sent] = []
        self.watcher: Watcher | None = None
        self.in_flight = 0
        self._past: dict[tuple[str, ...], BankResponse] = {}
        self._loop = loop
        self._bank = bank
        self._clock = clock
        self._weather = weather
        self._story = story
        self._origins = origins
        self._faults = Faults()
        self._app = create_app(bank, faults=self._faults, clock=clock)

    def post(self, process: Process, request: httpx.Request) -> asyncio.Future[httpx.Response]:
        """Send a request; the future is its answer, or the error that the sender gets."""
        process.check()
        sent = self._read(process, request)
        fate = self._weather.fate(sent.call, sent.limit_s)
        self._story.add(process.name, f"sends {sent}{f' ({fate.name})' if fate.name else ''}")
        self.sent.append(sent)
        if self.watcher is not None:
            self.watcher.sending(sent)
        answer: asyncio.Future[httpx.Response] = self._loop.create_future()
        later = self._loop.call_later
        for turn, delay_s in enumerate(fate.arrives):
            self.in_flight += 1
            later(delay_s, self._arrive, sent, fate, turn, request, answer)
        if not fate.arrives and fate.answer_after_s is not None:
            response = _spoiled(fate, BankResponse(0, [], b""))
            later(fate.answer_after_s, self._answer, sent, answer, response)
        if fate.breaks_after_s is not None:
            later(fate.breaks_after_s, self._break, sent, answer, fate.error)
        # As httpx does: its own limit comes before the client's deadline.
        silence = later(sent.limit_s, self._break, sent, answer, httpx.ReadTimeout)
        answer.add_done_callback(lambda _: silence.cancel())
        if self._weather.strikes():
            process.die(f"after it sent #{sent.number}")
        process.check()
        return answer

    def _read(self, process: Process, request: httpx.Request) -> Sent:
        headers = request.headers
        call, ids = route(request.method, request.url.path.removeprefix("/pg"))
        action = ACTION.get()
        key = headers.get("x-idempotency-key", "")
        sent = Sent(
            number=len(self.sent) + 1,
            process=process,
            action=action,
            call=call,
            ids=ids,
            key=key,
            body=request.content,
            api_version=headers.get("x-api-version", ""),
            limit_s=request.extensions["timeout"]["read"],
            at_s=self._loop.time(),
            origin=self._origins.find(key),
        )
        if action is not None and call in STEPS:
            action.sent.append(sent)
        return sent

    def _arrive(
        self,
        sent: Sent,
        fate: Fate,
        turn: int,
        request: httpx.Request,
        answer: asyncio.Future[httpx.Response],
    ) -> None:
        self.in_flight -= 1
        self._bank.advance(self._clock.now())
        before = len(self._bank.ledger)
        if fate.spoil == "stored":
            self._faults.add(Fault(call="any", kind="status_stored", status=fate.status))
        response = self._perform(request)
        effects = self._bank.ledger[before:]
        sent.effects += effects
        sent.arrived_at_s.append(self._loop.time())
        done = "".join(f" {entry.effect} {entry.cf_payment_id}" for entry in effects)
        self._story.add("bank", f"gets {sent}: {response.status}{done}")
        if self.watcher is not None:
            self.watcher.arrived(sent)
        response = self._aged(sent, fate, response)
        if turn == fate.answered_by and fate.answer_after_s is not None:
            spoiled = _spoiled(fate, response)
            self._loop.call_later(fate.answer_after_s, self._answer, sent, answer, spoiled)
        if self._weather.strikes():
            sent.process.die(f"when #{sent.number} reached the bank")

    def _aged(self, sent: Sent, fate: Fate, response: BankResponse) -> BankResponse:
        """Return the answer, or an older one about the same attempt, from before it had money."""
        if fate.spoil == "mixed":
            return _mixed(response)
        if fate.spoil == "stale":
            return self._past.get(sent.ids, response)
        if sent.call == "fetch_payment" and not any(word in response.body for word in _MONEY):
            self._past[sent.ids] = response
        return response

    def _perform(self, request: httpx.Request) -> BankResponse:
        """Call the app, which never waits in this simulation."""
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": request.content, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": request.method,
            "path": request.url.path,
            "raw_path": request.url.raw_path,
            "scheme": "http",
            "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
        }
        at_once(self._app(scope, receive, send))
        return BankResponse(messages[0]["status"], messages[0]["headers"], messages[1]["body"])

    def _answer(
        self, sent: Sent, answer: asyncio.Future[httpx.Response], response: httpx.Response
    ) -> None:
        if answer.done() or not sent.process.alive:
            return
        mixed = _ELSEWHERE in response.content
        meaning = "unknown" if mixed else _meaning(response)
        sent.status = response.status_code
        self._finish(sent, meaning, str(response.status_code))
        answer.set_result(response)

    def _break(
        self,
        sent: Sent,
        answer: asyncio.Future[httpx.Response],
        error: type[httpx.TransportError],
    ) -> None:
        if answer.done() or not sent.process.alive:
            return
        never_sent = error in (httpx.ConnectError, httpx.ConnectTimeout)
        self._finish(sent, "refused" if never_sent else "unknown", error.__name__)
        answer.set_exception(error("simulated"))

    def _finish(self, sent: Sent, meaning: str, shown: str) -> None:
        sent.outcome, sent.ended_at_s = meaning, self._loop.time()
        self._story.add(sent.process.name, f"gets {shown} for #{sent.number}")
        if self.watcher is not None:
            self.watcher.answered(sent)


class SimTransport(httpx.AsyncBaseTransport):
    """One process's way to the gateway."""

    #: What the weather breaks with these has not arrived.
    never_sent = (httpx.ConnectError, httpx.ConnectTimeout)

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._process.wait(self._network.post(self._process, request))


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, and return its result."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise RuntimeError("the coroutine waited, which no call in the simulation may do")


def _mixed(response: BankResponse) -> BankResponse:
    """Return an answer changed so that it is about another order, which is paid."""
    found = json.loads(response.body) if response.status == 200 else None
    for entity in found if isinstance(found, list) else [found]:
        if isinstance(entity, dict) and "payment_status" in entity:
            entity |= {"order_id": _ELSEWHERE.decode(), "payment_status": "SUCCESS"}
            entity |= {"is_captured": True, "authorization": None}
    return (
        response
        if found is None
        else BankResponse(response.status, response.headers, json.dumps(found).encode())
    )


def _spoiled(fate: Fate, response: BankResponse) -> httpx.Response:
    """Return the answer as the fault leaves it on its way back."""
    if fate.spoil in {"instead", "status"}:
        error = {"message": fate.message or "simulated", "code": fate.code or "internal_error"}
        fields = {"x-ratelimit-retry": "7"} if fate.status == 429 else {}
        content = json.dumps(error | {"type": "api_error"}).encode()
        return httpx.Response(fate.status, headers=fields, content=content)
    if fate.spoil == "page":
        return httpx.Response(fate.status, headers={"content-type": "text/html"}, content=_PAGE)
    content = response.body[: len(response.body) // 2] if fate.spoil == "half" else response.body
    kept = [pair for pair in response.headers if pair[0] != b"content-length"]
    return httpx.Response(response.status, headers=kept, content=content)


def _meaning(response: httpx.Response) -> str:
    """Return what an answer proves about a step: refused, unknown, replayed or answered."""
    status = response.status_code
    if status < 300:
        return "answered"
    if status < 500 and status not in _MAYBE_DONE:
        return "refused"
    return "replayed" if "x-idempotency-replayed" in response.headers else "unknown"
