"""Requests to the local gateway, spoiled: a refusal or an answer, and never a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from random import Random
from typing import Any, Final, NamedTuple

from cfflow.emulator import DEFAULT_CLIENT_ID, Account, Bank, create_app
from cfflow.emulator.asgi import decode_body
from tests.fuzz import corpus
from tests.fuzz.corpus import StillClock
from tests.fuzz.gateway_probes import LoopProbe
from tests.fuzz.mutate import Node, Obj, spoil_bytes, spoil_text, spoil_tree, tree_of
from tests.fuzz.runner import Broken
from tests.ports.test_methods import METHODS

__all__ = ["BankProbe", "Declined", "ServedProbe"]

_NOW_S: Final = corpus.NOW_MS / 1000
_MERCHANT: Final = Account(DEFAULT_CLIENT_ID, corpus.CLIENT_SECRET, preauth=True)
_CARD: Final = {
    "channel": "post",
    "card_number": corpus.CARD_NUMBER,
    "card_holder_name": "Test",
    "card_expiry_mm": "12",
    "card_expiry_yy": "31",
    "card_cvv": corpus.CVV[:3],
}
_ORDER: Final = {
    "order_id": "order_8123",
    "order_amount": 170.00,
    "order_currency": "INR",
    "order_expiry_time": "2026-07-23T12:15:06+05:30",
    "order_note": "a note",
    "order_tags": {"cfflow_preauth": "true"},
    "order_meta": {
        "return_url": "https://shop.example/{order_id}",
        "notify_url": "http://127.0.0.1:9/hook",
        "payment_methods": "cc,dc,upi",
    },
    "customer_details": corpus.CUSTOMER | {"customer_name": "Test", "customer_email": "a@b.in"},
}
_SIMULATION: Final = {
    "entity": "PAYMENTS",
    "entity_id": "PAYMENT",
    "entity_simulation": {"payment_status": "FAILED", "payment_error_code": "OTP_EXPIRED"},
}
_VERSIONS: Final = ("2022-09-01", "2023-08-01", "2025-01-01", "2026-01-01")

#: ORDER, SESSION and PAYMENT stand for those of a fresh order, whose money may be held.
_PAYS: Final = tuple(
    {"payment_session_id": "SESSION", "payment_method": method}
    for method in (*(documented for _, documented in METHODS.values()), {"card": _CARD})
)
_CALLS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("POST", "/pg/orders", _ORDER),
    ("POST", "/pg/orders", {name: _ORDER[name] for name in list(_ORDER)[1:3]}),
    *(("POST", "/pg/orders/sessions", body) for body in _PAYS),
    ("POST", "/pg/orders/pay/authenticate/PAYMENT", {"action": "SUBMIT_OTP", "otp": "111000"}),
    ("POST", "/pg/orders/pay/authenticate/PAYMENT", {"action": "RESEND_OTP"}),
    ("POST", "/pg/orders/ORDER/authorization", {"action": "CAPTURE", "amount": 99.50}),
    ("POST", "/pg/orders/ORDER/authorization", {"action": "VOID"}),
    ("PATCH", "/pg/orders/ORDER", {"order_status": "TERMINATED"}),
    ("GET", "/pg/orders/ORDER", None),
    ("GET", "/pg/orders/ORDER/payments", None),
    ("GET", "/pg/orders/ORDER/payments/PAYMENT", None),
    ("POST", "/pg/simulate", _SIMULATION),
    ("GET", "/pg/simulate/sim_1", None),
)


class Declined(Exception):
    """The emulator answered with an error of the gateway's."""


class Fresh(NamedTuple):
    """What a request may name: an order that can be paid, and one whose money is held."""

    order_id: str
    session: str
    payment: str


class Call(NamedTuple):
    """One request before it names anything."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    held: bool


def _a_bank() -> Bank:
    return Bank(accounts=(_MERCHANT,))


def _fresh(bank: Bank, *, held: bool) -> Fresh:
    """Return a new order that awaits its payment, or its OTP, or has its money held."""
    body = {
        "order_amount": 170,
        "order_currency": "INR",
        "customer_details": corpus.CUSTOMER,
    }
    order = bank.create_order(_MERCHANT, body, _NOW_S)
    attempt = bank.pay(bank.session_of(order), {"card": _CARD}, _NOW_S)
    if held:
        bank.submit_otp(attempt.cf_payment_id, "111000", _NOW_S)
    return Fresh(order.order_id, bank.session_of(order), str(attempt.cf_payment_id))


def _held_share(path: str) -> float:
    """Return how often the order's money is held: what captures wants it, what pays does not."""
    return 0.9 if "authorization" in path else 0.1


def _body(rng: Random, tree: Node, trees: tuple[Node, ...]) -> bytes:
    if isinstance(tree, Obj) and rng.random() < 0.3:
        # An id of the caller's own is taken after the first time.
        tree = Obj(pair for pair in tree if pair[0] != b'"order_id"')
    if isinstance(tree, Obj) and tree[-1][0] == b'"payment_method"' and rng.random() < 0.85:
        # An order's session cannot be guessed: what is spoiled is the method.
        method = spoil_tree(tree[-1][1], rng, trees)
        return b'{"payment_session_id":"SESSION","payment_method":' + method + b"}"
    return spoil_tree(tree, rng, trees)


def _named(text: bytes, fresh: Fresh) -> bytes:
    for word, name in zip((b"ORDER", b"SESSION", b"PAYMENT"), fresh, strict=True):
        text = text.replace(word, name.encode())
    return text


class ServedProbe(LoopProbe):
    """Whole requests to the app: a documented status, JSON, and no effect of a refusal."""

    def __init__(self) -> None:
        super().__init__()
        self._trees = tuple(tree_of(json.dumps(body)) for _, _, body in _CALLS)
        self._bank = _a_bank()
        self._app = create_app(self._bank, clock=StillClock())

    def draw(self, rng: Random) -> Call:
        """Return a request of which any part may be spoiled."""
        number = rng.randrange(len(_CALLS))
        method, path, body = _CALLS[number]
        if rng.random() < 0.1:
            path = spoil_text(path, rng)
        text = b"" if body is None and rng.random() < 0.9 else _body(rng, self._trees[number], ())
        held = rng.random() < _held_share(path)
        return Call(rng.choice((method,) * 19 + ("PUT",)), path, _headers(rng), text, held)

    def attempt(self, given: Call) -> None:
        """Send it, and look at the answer and the bank's books."""
        fresh = _fresh(self._bank, held=given.held)
        before = len(self._bank.ledger)
        body = _named(given.body, fresh)
        path = _named(given.path.encode("utf-8", "replace"), fresh).decode()
        status, headers, answer = self.run(self._ask(given, path, body))
        if status == 404 and not path.startswith("/pg/"):
            raise Declined("not the gateway's")
        _check_answer(status, headers, answer)
        if status >= 400:
            if len(self._bank.ledger) != before:
                raise Broken(f"a refusal ({status}) moved money")
            raise Declined(answer.decode())

    async def _ask(
        self, given: Call, path: str, body: bytes
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": given.method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": given.headers,
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 9),
        }
        await self._app(scope, receive, send)
        whole = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], dict(sent[0]["headers"]), whole


def _headers(rng: Random) -> list[tuple[bytes, bytes]]:
    headers = [
        ("host", "127.0.0.1:9"),
        ("x-api-version", rng.choice(_VERSIONS)),
        ("x-client-id", DEFAULT_CLIENT_ID),
        ("x-client-secret", corpus.CLIENT_SECRET),
        ("content-type", "application/json"),
    ]
    if rng.random() < 0.1:
        headers.append(("x-idempotency-key", rng.choice(("", "k1", "k2", "k" * 9999))))
    if rng.random() < 0.15:
        at = rng.randrange(len(headers))
        headers[at] = headers[at][0], spoil_text(headers[at][1], rng)
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]


def _check_answer(status: int, headers: Mapping[bytes, bytes], answer: bytes) -> None:
    if status >= 500:
        raise Broken(f"status {status}: {answer[:200]!r}")
    if headers.get(b"content-type") != b"application/json":
        raise Broken(f"status {status} is {headers.get(b'content-type')!r}")
    if not headers.get(b"x-request-id"):
        raise Broken("an answer without a request id")
    found = json.loads(answer.decode())
    if status >= 400 and not {"message", "code", "type"} <= found.keys():
        raise Broken(f"status {status} is no error of the gateway's")
    if corpus.CARD_NUMBER in answer.decode():
        raise Broken(f"status {status} shows a whole card number")


class BankProbe:
    """Bodies through the emulator's own parsers: good values, or `Refused`."""

    def __init__(self) -> None:
        calls = [call for call in _CALLS if call[0] == "POST"]
        self._calls = [(path, tree_of(json.dumps(body))) for _, path, body in calls]
        self._trees = tuple(tree for _, tree in self._calls)
        self._bank = _a_bank()

    def draw(self, rng: Random) -> tuple[str, bytes, bool]:
        """Return a spoiled body, and for which call."""
        path, tree = rng.choice(self._calls)
        body = _body(rng, tree, self._trees)
        text = spoil_bytes(body, rng) if rng.random() < 0.02 else body
        return path, text, rng.random() < _held_share(path)

    def attempt(self, given: tuple[str, bytes, bool]) -> None:
        """Read it as the call does, on a bank that has what it names."""
        path, raw, held = given
        bank, fresh = self._bank, _fresh(self._bank, held=held)
        body = decode_body(_named(raw, fresh))
        if path == "/pg/orders":
            bank.create_order(_MERCHANT, body, _NOW_S)
        elif path == "/pg/orders/sessions":
            bank.pay(body.get("payment_session_id"), body.get("payment_method"), _NOW_S)
        elif path.endswith("authorization"):
            bank.authorize(
                _MERCHANT, fresh.order_id, body.get("action"), body.get("amount"), _NOW_S
            )
        elif path == "/pg/simulate":
            bank.simulate(_MERCHANT, body.get("entity_id"), body.get("status"), None, _NOW_S)
        else:
            bank.submit_otp(body.get("cf_payment_id", fresh.payment), body.get("otp"), _NOW_S)

    def close(self) -> None:
        """Nothing is open."""
