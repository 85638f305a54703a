"""The network between cfflow's processes and the bank, which loses, delays and repeats.

The bank is the emulator's own app, called in-process: its idempotency keys, its checks and
its wire format are in force. What has been posted arrives, whoever dies or hangs up then.
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

#: The calls that are steps: they may move money or end a customer's chance.
STEPS = frozenset({"pay", "authenticate", "authorize"})

_MAYBE_DONE = frozenset({408, 409, 422, 425})
#: What an attempt's entity says that has money.
_MONEY = (b'"payment_status":"SUCCESS"', b'"payment_status":"VOID"')
#: The order whose answer came instead of ours.
_ELSEWHERE = b"order_elsewhere"
_PAGE = b"<html><body>Please wait</body></html>"


@dataclass(slots=True, eq=False)
class Sent:
    """One request as a process sent it, and what is known of it outside of all processes."""

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
    told: str = ""
    told_at_s: float = 0.0
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
class LimitHeaders:
    """An answer as the bank gave it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Watcher(Protocol):
    """Who is told of every request, arrival and answer."""

    def sending(self, sent: Sent) -> None:
        """A process sends a request."""

    def arrived(self, sent: Sent) -> None:
        """The bank has dealt with a request."""

    def answered(self, sent: Sent) -> None:
        """A living process hears the answer, or that there is none."""


class BankClock(Clock):
    """The bank's clock: the world's."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._world_now = now

    def now(self) -> float:
        return self._world_now()


class Network:
    """Carries requests to the bank and answers back, as the weather has it."""

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
        self._past: dict[tuple[str, ...], LimitHeaders] = {}
        self._loop = loop
        self._bank = bank
        self._clock = clock
        self._weather = weather
        self._story = story
        self._origins = origins
        self._faults = Faults()
        self._app = create_app(bank, faults=self._faults, clock=clock)

    def post(self, process: Process, request: httpx.Request) -> asyncio.Future[httpx.Response]:
        """Send a request; the future is its answer, or the error that the sender sees."""
        process.check()
        sent = self._read(process, request)
        fate = self._weather.fate(sent.call, sent.limit_s)
        self._story.tell(process.name, f"sends {sent}{f' ({fate.name})' if fate.name else ''}")
        self.sent.append(sent)
        if self.watcher is not None:
            self.watcher.sending(sent)
        answer: asyncio.Future[httpx.Response] = self._loop.create_future()
        later = self._loop.call_later
        for turn, delay_s in enumerate(fate.arrives):
            self.in_flight += 1
            later(delay_s, self._arrive, sent, fate, turn, request, answer)
        if not fate.arrives and fate.answer_after_s is not None:
            response = _spoiled(fate, LimitHeaders(0, [], b""))
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
        said = self._perform(request)
        effects = self._bank.ledger[before:]
        sent.effects += effects
        sent.arrived_at_s.append(self._loop.time())
        told = "".join(f" {entry.effect} {entry.cf_payment_id}" for entry in effects)
        self._story.tell("bank", f"gets {sent}: {said.status}{told}")
        if self.watcher is not None:
            self.watcher.arrived(sent)
        said = self._aged(sent, fate, said)
        if turn == fate.answered_by and fate.answer_after_s is not None:
            response = _spoiled(fate, said)
            self._loop.call_later(fate.answer_after_s, self._answer, sent, answer, response)
        if self._weather.strikes():
            sent.process.die(f"when #{sent.number} reached the bank")

    def _aged(self, sent: Sent, fate: Fate, said: LimitHeaders) -> LimitHeaders:
        """Return the answer, or an older one about the same attempt, from before any money."""
        if fate.spoil == "mixed":
            return _mixed(said)
        if fate.spoil == "stale":
            return self._past.get(sent.ids, said)
        if sent.call == "fetch_payment" and not any(word in said.body for word in _MONEY):
            self._past[sent.ids] = said
        return said

    def _perform(self, request: httpx.Request) -> LimitHeaders:
        """Call the app, which never waits for anything in here."""
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": request.content, "more_body": False}

        async def send(message: Any) -> None:
            told.append(message)

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
        return LimitHeaders(told[0]["status"], told[0]["headers"], told[1]["body"])

    def _answer(
        self, sent: Sent, answer: asyncio.Future[httpx.Response], response: httpx.Response
    ) -> None:
        if answer.done() or not sent.process.alive:
            return
        mixed = _ELSEWHERE in response.content
        meaning = "unknown" if mixed else _meaning(response)
        self._tell(sent, meaning, str(response.status_code))
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
        self._tell(sent, "refused" if never_sent else "unknown", error.__name__)
        answer.set_exception(error("simulated"))

    def _tell(self, sent: Sent, meaning: str, shown: str) -> None:
        sent.told, sent.told_at_s = meaning, self._loop.time()
        self._story.tell(sent.process.name, f"hears {shown} to #{sent.number}")
        if self.watcher is not None:
            self.watcher.answered(sent)


class SimTransport(httpx.AsyncBaseTransport):
    """One process's way to the gateway."""

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
    raise RuntimeError("it had to wait, which nothing in here may do")


def _mixed(said: LimitHeaders) -> LimitHeaders:
    """Return an answer as if it were about an order that was paid, elsewhere."""
    found = json.loads(said.body) if said.status == 200 else None
    for entity in found if isinstance(found, list) else [found]:
        if isinstance(entity, dict) and "payment_status" in entity:
            entity |= {"order_id": _ELSEWHERE.decode(), "payment_status": "SUCCESS"}
            entity |= {"is_captured": True, "authorization": None}
    return (
        said
        if found is None
        else LimitHeaders(said.status, said.headers, json.dumps(found).encode())
    )


def _spoiled(fate: Fate, said: LimitHeaders) -> httpx.Response:
    """Return what is left of an answer on its way back."""
    if fate.spoil in {"instead", "status"}:
        words = {"message": fate.message or "simulated", "code": fate.code or "internal_error"}
        fields = {"x-ratelimit-retry": "7"} if fate.status == 429 else {}
        content = json.dumps(words | {"type": "api_error"}).encode()
        return httpx.Response(fate.status, headers=fields, content=content)
    if fate.spoil == "page":
        return httpx.Response(fate.status, headers={"content-type": "text/html"}, content=_PAGE)
    content = said.body[: len(said.body) // 2] if fate.spoil == "half" else said.body
    kept = [pair for pair in said.headers if pair[0] != b"content-length"]
    return httpx.Response(said.status, headers=kept, content=content)


def _meaning(response: httpx.Response) -> str:
    """Say what an answer proves about a step: refused, unknown, replayed or answered."""
    status = response.status_code
    if status < 300:
        return "answered"
    if status < 500 and status not in _MAYBE_DONE:
        return "refused"
    return "replayed" if "x-idempotency-replayed" in response.headers else "unknown"
