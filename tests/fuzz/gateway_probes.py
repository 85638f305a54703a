"""What the gateway sends: its answers through the client, and through whole steps of a payment."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx
import msgspec
from hypothesis import strategies as st

from cfflow import Payment
from cfflow.cashfree.answers import AnswerReader
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.gateway import frozen_authorize
from cfflow.cashfree.inflate import inflated
from cfflow.cashfree.wire import next_action, observe_authenticate, observe_entity, observe_pay
from cfflow.core.bounds import TEXT_MAX
from cfflow.core.observation import Call, Observation, prove
from cfflow.errors import CfflowError
from cfflow.logs import silent_log
from cfflow.orchestrator import Orchestrator
from cfflow.store.codec import encode_actions
from cfflow.testing import FakeClock, MemoryStore
from tests.fuzz import corpus
from tests.fuzz.corpus import Swap
from tests.fuzz.inputs import Document, mostly, spoiled_bytes, spoiled_json, spoiled_text
from tests.fuzz.judge import Broken, texts_of
from tests.ports.bounds_kit import over_bounds

__all__ = [
    "AnswerProbe",
    "InflateProbe",
    "LoopProbe",
    "Reply",
    "StepProbe",
    "WireProbe",
    "any_answer",
    "any_packed",
    "any_wire",
    "step_answers",
]

SESSION: Final = "session_LnO-vcZ9znG_swyugIFmZRtvP3ZC7euzAq4Gq8IfNjt68OFCJ31mbJsN8SWZ169G8y0"

#: What the request of each call carries, and no error may repeat whatever the answer echoes.
_CARRIED: Final = {
    "pay": (corpus.CARD_NUMBER, corpus.CVV, SESSION),
    "submit": (corpus.CARD_NUMBER, corpus.OTP),
}
_CARRIED_BY_OTHERS: Final = (corpus.CARD_NUMBER, corpus.CLIENT_SECRET)

_CAPTURE: Final = frozen_authorize("CAPTURE", Decimal("1.00"))
_ECHO: Final = {
    "message": f"{corpus.CARD_NUMBER} {corpus.CVV} {corpus.OTP} {SESSION} exceeded",
    "code": SESSION,
    "type": f"{corpus.OTP}_error",
}
_STATUSES: Final = (200,) * 12 + (201, 204, 302, 400, 401, 404, 409, 422, 429, 500, 502, 503)
_HEADERS: Final = {
    "x-request-id": "r-1",
    "x-ratelimit-retry": "7",
    "x-ratelimit-reset": "11",
    "retry-after": "60",
    "x-idempotency-replayed": "true",
    "content-type": "application/json",
}

Observe = Callable[[Any], tuple[Observation, ...]]


def _of_entity(call: Call) -> Observe:
    return lambda entity: (observe_entity(entity, call),)


def _of_entities(entities: Any) -> tuple[Observation, ...]:
    return tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in entities)


def _of_nothing(answer: Any) -> tuple[Observation, ...]:
    return ()


#: Every call of the client, and what is read out of its answer.
CALLS: Final[dict[str, tuple[Callable[[GatewayClient], Awaitable[Any]], Observe]]] = {
    "pay": (lambda c: c.pay(SESSION, corpus.CARD, key="k"), lambda a: (observe_pay(a),)),
    "submit": (
        lambda c: c.authenticate("12376124", corpus.OTP, key="k"),
        lambda a: (observe_authenticate(a),),
    ),
    "capture": (
        lambda c: c.authorize("order_8123", _CAPTURE, key="k"),
        _of_entity(Call.AUTHORIZE),
    ),
    "fetch one": (
        lambda c: c.fetch_payment("order_8123", "12376123"),
        _of_entity(Call.FETCH_PAYMENT),
    ),
    "fetch all": (lambda c: c.fetch_payments("order_8123"), _of_entities),
    "create order": (lambda c: c.create_order(170, corpus.CUSTOMER), _of_nothing),
    "fetch order": (lambda c: c.fetch_order("order_8123"), _of_nothing),
    "simulate": (lambda c: c.simulate("12376124", "FAILED"), _of_nothing),
    "fetch simulation": (lambda c: c.fetch_simulation("sim_1"), _of_nothing),
}


class Reply(NamedTuple):
    """An answer of the gateway, spoiled."""

    call: str
    status: int
    headers: dict[str, str]
    body: bytes


class LoopProbe:
    """A probe that needs an event loop of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, call: Awaitable[Any]) -> Any:
        """Run one call to its end."""

        async def whole() -> Any:
            return await call

        return self._runner.run(whole())

    def close(self) -> None:
        """Close the loop."""
        self._runner.close()


class AnswerProbe(LoopProbe):
    """Answers through the client: an observation that can be used, or an error of the tree."""

    def __init__(self) -> None:
        super().__init__()
        self._gateway = Swap()
        self._client = corpus.client(self._gateway)

    def attempt(self, given: Reply) -> None:
        """Let the client read it, and the engine's eyes too."""
        make, observe = CALLS[given.call]
        _set(self._gateway, given)
        try:
            answer = self.run(make(self._client))
        except CfflowError as error:
            texts = "".join(texts_of(error))
            if any(secret in texts for secret in _CARRIED.get(given.call, _CARRIED_BY_OTHERS)):
                raise Broken(f"an error of {given.call} shows what the request carried") from None
            raise
        for observation in observe(answer):
            prove(observation)
            observation.summary()
            observation.brief()
            _check_money(observation)
            _check_texts(observation)
            msgspec.msgpack.encode(observation)
        if given.call == "pay":
            next_action(answer)


def any_answer() -> st.SearchStrategy[Reply]:
    """Return spoiled answers to any of the calls."""
    bodies = mostly(_body(corpus.corpus().documents), _body((Document(json.dumps(_ECHO)),)))
    statuses = st.sampled_from(_STATUSES)
    return st.builds(Reply, st.sampled_from(list(CALLS)), statuses, _headers(), bodies)


def step_answers() -> st.SearchStrategy[list[Reply]]:
    """Return an answer for each of two or three steps, spoiled or nearly good."""
    courses = st.sampled_from((("pay", "submit", "capture"), ("pay", "refresh"), ("pay", "submit")))
    replies = {call: _fitting(call) for call in ("pay", "submit", "capture", "refresh")}
    return courses.flatmap(lambda calls: st.tuples(*map(replies.__getitem__, calls)).map(list))


def _fitting(call: str) -> st.SearchStrategy[Reply]:
    """Return answers to a step, mostly of the kind that it asks for."""
    key = {"pay": b'"action"', "submit": b'"authenticate_status"'}.get(call, b'"is_captured"')
    documents = corpus.corpus().documents
    fitting = tuple(document for document in documents if key in document.keys)
    statuses = st.just(200) | st.sampled_from(_STATUSES)
    bodies = mostly(_body(fitting), _body(documents))
    return st.builds(Reply, st.just(call), statuses, _headers(), bodies)


def _body(documents: tuple[Document, ...]) -> st.SearchStrategy[bytes]:
    page = spoiled_bytes(b"<html><body>Please wait</body></html>")
    return mostly(mostly(spoiled_json(documents), page), spoiled_json(documents))


def _headers() -> st.SearchStrategy[dict[str, str]]:
    spoiled = {name: spoiled_text(value).map(_header) for name, value in _HEADERS.items()}
    good = {name: st.just(value) for name, value in _HEADERS.items()}
    some = st.fixed_dictionaries(
        {}, optional={name: good[name] | spoiled[name] for name in _HEADERS}
    )
    return st.just({}) | some


def _header(text: str) -> str:
    """Return a text that a header can carry; the transport refuses others before we see them."""
    return text.encode("ascii", "ignore").decode().translate(_UNPRINTABLE)[:2000]


_UNPRINTABLE: Final = dict.fromkeys(range(32))


def _set(gateway: Swap, given: Reply) -> None:
    gateway.status, gateway.headers, gateway.body = given.status, given.headers, given.body


def _check_money(observation: Observation) -> None:
    amounts = (
        observation.payment_amount,
        observation.order_amount,
        observation.captured_amount,
    )
    for amount in amounts:
        if amount is not None and not (amount.is_finite() and 0 <= amount < 10**12):
            raise Broken("an amount that is not money was taken for one")


def _check_texts(observation: Observation) -> None:
    failure = observation.failure
    parts = msgspec.structs.astuple(failure) if failure else ()
    for text in (*msgspec.structs.astuple(observation), *parts):
        if isinstance(text, str) and len(text) > TEXT_MAX:
            raise Broken(f"an observation has a text of {len(text)} characters")


#: Less than the client's own limit, so that inputs can be over it in no time.
_INFLATED_MAX_B: Final = 65_536


class InflateProbe:
    """A compressed answer: what it inflates to stays under the limit."""

    def attempt(self, given: tuple[str, bytes]) -> None:
        """Inflate it as the transport does."""
        encoding, body = given
        _, found = inflated([(b"content-encoding", encoding.encode())], body, _INFLATED_MAX_B)
        if len(found) > _INFLATED_MAX_B:
            raise Broken(f"it was inflated to {len(found)} bytes")

    def close(self) -> None:
        """Nothing is open."""


def any_packed() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return answers that were compressed once or twice, some spoiled, some of them bombs."""
    plain = st.sampled_from(corpus.corpus().answers) | st.sampled_from(
        [b"", b" " * _INFLATED_MAX_B, b" " * (_INFLATED_MAX_B + 1), b" " * (20 << 20)]
    )
    names = st.lists(st.sampled_from(list(_PACKERS)), min_size=1, max_size=2)
    packed = st.builds(_packed, names, plain)
    spoiled = packed.flatmap(
        lambda pair: st.tuples(st.just(pair[0]), spoiled_bytes(pair[1]).filter(bool))
    )
    odd = st.tuples(spoiled_text("gzip, deflate").map(_header), st.binary(max_size=40))
    return mostly(packed, spoiled | odd)


def _packed(names: list[str], body: bytes) -> tuple[str, bytes]:
    for name in names:
        body = _PACKERS[name](body)
    return ", ".join(names), body


_PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda body: gzip.compress(body, 6, mtime=0),
    "deflate": zlib.compress,
}


class StepProbe(LoopProbe):
    """Spoiled answers to the steps of one payment: it can be read after each of them.

    Each input is a new payment: pay, then whatever the state permits, with an answer each.
    """

    def __init__(self) -> None:
        super().__init__()
        self._gateway = Swap()
        self._clock = FakeClock(corpus.NOW_MS)
        self._cashier = Orchestrator(
            MemoryStore(self._clock),
            corpus.client(self._gateway),
            catalog=corpus.CATALOG,
            log=silent_log(),
        )
        self._orders = 0

    def attempt(self, given: list[Reply]) -> None:
        """Take a payment through these answers."""
        self.run(self._through(given))

    async def _through(self, given: list[Reply]) -> None:
        self._orders += 1
        order_id = f"order_{self._orders}"
        payment = await self._cashier.start("preauth", order_id=order_id)
        refusal: CfflowError | None = None
        for reply in given:
            _set(self._gateway, reply)
            try:
                payment = await self._step(payment, reply.call)
            except CfflowError as error:
                refusal = error
            self._clock.advance(12)
            payment = await self._read(payment)
        if refusal is not None:
            raise refusal

    async def _step(self, payment: Payment, call: str) -> Payment:
        if call == "pay":
            return await self._cashier.pay(payment, SESSION, corpus.CARD)
        if call == "submit":
            return await self._cashier.submit_otp(payment, corpus.OTP)
        if call == "capture":
            return await self._cashier.capture(payment)
        return await self._cashier.refresh(payment)

    async def _read(self, payment: Payment) -> Payment:
        try:
            found = await self._cashier.get(payment.id)
            await self._cashier.history(payment.id)
            await self._cashier.why(payment.id)
        except CfflowError as error:
            raise Broken(f"a payment cannot be read after an answer: {error}") from error
        if found.next_action is not None:
            encode_actions({1: found.next_action})
        (stored,) = await self._cashier.store.read([found.order_id])
        if over := over_bounds(stored):
            raise Broken(f"the store has {', '.join(over)}")
        return found


#: Less than the client's own limit, so that inputs can be over it in no time.
_WIRE_BODY_MAX_B: Final = 4096


class WireProbe:
    """Bytes in place of an answer: an answer or one kind of error, in whatever pieces they come.

    What is read must not depend on the pieces, and nothing behind an answer may get into it.
    """

    def attempt(self, given: tuple[bytes, list[int]]) -> None:
        """Read it whole, and in pieces."""
        wire, sizes = given
        whole = _read_wire([wire])
        if _read_wire(_pieces(wire, sizes)) != whole:
            raise Broken("what is read depends on the pieces in which it comes")
        if whole is None:
            raise httpx.RemoteProtocolError("no answer")
        if len(whole.body) > _WIRE_BODY_MAX_B:
            raise Broken(f"an answer of {len(whole.body)} bytes was read")
        # A body that only the connection ends has no behind.
        if whole.is_framed and _read_wire([wire, _INTRUDER]) != whole:
            raise Broken("what came behind an answer got into it")

    def close(self) -> None:
        """Nothing is open."""


_INTRUDER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nintruder"


class Wire(NamedTuple):
    """What was read. `is_framed`: it was whole before its connection ended."""

    status: int
    pairs: tuple[tuple[bytes, bytes], ...]
    body: bytes
    is_framed: bool


def _read_wire(parts: list[bytes]) -> Wire | None:
    """Return the answer in these pieces, None where they are none."""
    reader = AnswerReader(_WIRE_BODY_MAX_B)
    try:
        for part in parts:
            reader.feed(part)
        is_framed = reader.is_complete
        reader.end()
    except httpx.RemoteProtocolError:
        return None
    return Wire(reader.status, tuple(reader.pairs), reader.body, is_framed)


def _pieces(wire: bytes, sizes: list[int]) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(wire):
        size = sizes[len(found) % len(sizes)]
        found.append(wire[at : at + size])
        at += size
    return found


def any_wire() -> st.SearchStrategy[tuple[bytes, list[int]]]:
    """Return answers of every framing, most of them spoiled, and how they are cut."""
    good = st.sampled_from(_WIRES)
    several = st.lists(good, min_size=1, max_size=3).map(b"".join)
    sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)
    return st.tuples(mostly(several.flatmap(spoiled_bytes), good) | st.binary(max_size=200), sizes)


_WIRES: Final = (
    b"HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\n{\r\n0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (_WIRE_BODY_MAX_B + 1),
)
