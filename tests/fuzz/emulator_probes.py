"""Requests to the local gateway, spoiled: a refusal or an answer, and never a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from cfflow.emulator import DEFAULT_CLIENT_ID, Account, Bank, create_app
from cfflow.emulator.asgi import decode_body
from tests.fuzz import corpus
from tests.fuzz.corpus import StillClock
from tests.fuzz.gateway_probes import LoopProbe
from tests.fuzz.inputs import Document, mostly, spoiled_json, spoiled_text
from tests.fuzz.judge import Broken
from tests.ports.test_methods import METHODS

__all__ = ["BankProbe", "Declined", "ServedProbe", "any_body", "any_request"]

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


def _held(path: str) -> st.SearchStrategy[bool]:
    """Return whether the order's money is held: what captures needs it, what pays does not."""
    usual = "authorization" in path
    return mostly(st.just(usual), st.just(not usual))


def _bodies(body: Any) -> st.SearchStrategy[bytes]:
    """Return spoiled bodies of a call. An order's own id is taken after the first time."""
    documents: tuple[Document, ...] = (Document(json.dumps(body)),)
    if isinstance(body, dict) and "order_id" in body:
        unnamed = {name: value for name, value in body.items() if name != "order_id"}
        documents = (*documents, Document(json.dumps(unnamed)))
    if isinstance(body, dict) and "payment_method" in body:
        # A session that is spoiled hides the method behind it.
        method = spoiled_json((Document(json.dumps(body["payment_method"])),))
        start = b'{"payment_session_id":"SESSION","payment_method":'
        return mostly(method.map(lambda text: start + text + b"}"), spoiled_json(documents))
    return spoiled_json(documents)


def any_request() -> st.SearchStrategy[Call]:
    """Return requests of which any part may be spoiled."""
    return st.one_of([_requests(*call) for call in _CALLS])


def _requests(method: str, path: str, body: Any) -> st.SearchStrategy[Call]:
    text = mostly(st.just(b""), _bodies(None)) if body is None else _bodies(body)
    return st.builds(
        Call,
        mostly(st.just(method), st.sampled_from((method, "PUT"))),
        mostly(st.just(path), spoiled_text(path)),
        _headers(),
        text,
        _held(path),
    )


def any_body() -> st.SearchStrategy[tuple[str, bytes, bool]]:
    """Return spoiled bodies, and for which call."""
    return st.one_of(
        [
            st.tuples(st.just(path), _bodies(body), _held(path))
            for method, path, body in _CALLS
            if method == "POST"
        ]
    )


def _named(text: bytes, fresh: Fresh) -> bytes:
    for word, name in zip((b"ORDER", b"SESSION", b"PAYMENT"), fresh, strict=True):
        text = text.replace(word, name.encode())
    return text


class ServedProbe(LoopProbe):
    """Whole requests to the app: a documented status, JSON, and no effect of a refusal."""

    def __init__(self) -> None:
        super().__init__()
        self._bank = _a_bank()
        self._app = create_app(self._bank, clock=StillClock())

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


def _headers() -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    good = {
        "host": "127.0.0.1:9",
        "x-client-id": DEFAULT_CLIENT_ID,
        "x-client-secret": corpus.CLIENT_SECRET,
        "content-type": "application/json",
    }
    usual = {name: mostly(st.just(value), spoiled_text(value)) for name, value in good.items()}
    usual["x-api-version"] = st.sampled_from(_VERSIONS)
    keys = st.sampled_from(("", "k1", "k2", "k" * 9999))
    headers = st.fixed_dictionaries(usual, optional={"x-idempotency-key": keys})
    return headers.map(
        lambda given: [(n.encode(), v.encode("latin-1", "replace")) for n, v in given.items()]
    )


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
        self._bank = _a_bank()

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
