"""What anybody may post: notifications, signed and forged, through `on_webhook` into a store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from random import Random
from typing import Any, Final, NamedTuple

from cfflow import FeedNotification, InvalidSignature
from cfflow.core.sealed import Sealed
from cfflow.feed.feed import Feed
from cfflow.orchestrator import Orchestrator
from cfflow.testing import FakeClock, MemoryStore
from cfflow.webhooks import Verifier
from tests.fuzz import corpus
from tests.fuzz.corpus import Swap
from tests.fuzz.gateway_probes import SESSION, LoopProbe
from tests.fuzz.mutate import spoil_bytes, spoil_text, spoil_tree, tree_of
from tests.fuzz.runner import Broken, texts_of

__all__ = ["NotifyProbe"]

_OLD_SECRET: Final = "cfsk_fuzz_before_0ddba11"
_REASONS: Final = {"missing_header", "bad_timestamp", "forged", "oversized", "malformed"}

_ORDER: Final = {"order_id": "order_01", "order_amount": 170.00, "order_currency": "INR"}
_PAYMENT: Final = {
    "cf_payment_id": "12376123",
    "payment_status": "SUCCESS",
    "payment_amount": 170.00,
    "payment_currency": "INR",
    "payment_message": "Transaction successful",
    "payment_time": "2025-10-09T14:23:20+05:30",
    "bank_reference": "234928698581",
    "auth_id": None,
    "payment_method": {"card": {"channel": None, "card_number": corpus.CARD_NUMBER}},
    "payment_group": "credit_card",
}
_CUSTOMER: Final = {"customer_name": None, "customer_id": "c_7", "customer_phone": "9908734801"}
_FAILURE: Final = {
    "error_code": "TRANSACTION_DECLINED",
    "error_reason": "auth_declined",
    "error_source": "customer",
}
_WHEN: Final = "2025-10-09T14:23:20+05:30"


def _event(kind: str, **changes: Any) -> dict[str, Any]:
    data = {"order": _ORDER, "payment": _PAYMENT | changes, "customer_details": _CUSTOMER}
    return {"data": data | {"error_details": None}, "event_time": _WHEN, "type": kind}


_FAILED: Final = _event("PAYMENT_FAILED_WEBHOOK", payment_status="FAILED", cf_payment_id=12376124)
_FAILED["data"]["error_details"] = _FAILURE
_EVENTS: Final[tuple[dict[str, Any], ...]] = (
    _event("PAYMENT_SUCCESS_WEBHOOK"),
    _event("PAYMENT_SUCCESS_WEBHOOK", payment_status="PENDING"),
    _event("PAYMENT_USER_DROPPED_WEBHOOK", payment_status="USER_DROPPED"),
    _FAILED,
    {"data": {"refund": {"order_id": "order_01", "refund_amount": 2.50}}, "type": "REFUND_STATUS"},
    {"data": {"auto_refund": {"order_id": "order_01"}}, "type": "AUTO_REFUND_STATUS_WEBHOOK"},
    {"data": {"dispute": {"order_id": "order_02", "at": _WHEN}}, "type": "DISPUTE_CREATED"},
    {"data": {"order_details": {"order_id": "order_02"}}, "type": "DISPUTE_UPDATED"},
    {"data": {"settlement": {"settlement_id": 1, "sent": [1.5, None]}}, "type": "SETTLEMENT"},
    {"data": {"session": SESSION}, "event_time": _WHEN, "type": "VENDOR.NEW:THING-1"},
)


class Post(NamedTuple):
    """One POST as a framework hands it over: a mapping or pairs, and the raw body."""

    headers: Any
    body: bytes


class Listening:
    """A log that keeps its last words."""

    def __init__(self) -> None:
        self.said = ""

    def info(self, event: str, **fields: Any) -> None:
        """Keep an event."""
        self.said = f"{event} {fields}"

    warning = info


class NotifyProbe(LoopProbe):
    """Accepted means signed; refused means that the store is as it was before."""

    def __init__(self) -> None:
        super().__init__()
        self._trees = tuple(tree_of(json.dumps(event)) for event in _EVENTS)
        self._log, self._gateway = Listening(), Swap()
        self._store = MemoryStore(FakeClock(corpus.NOW_MS), feed_max=20)
        self._cashier = Orchestrator(
            self._store,
            corpus.client(self._gateway),
            log=self._log,
            verifier=Verifier([Sealed(corpus.CLIENT_SECRET), Sealed(_OLD_SECRET)]),
        )
        self._feed = self._cashier.events("fuzz")
        self.run(self._begin())

    async def _begin(self) -> None:
        await self._feed.__aenter__()
        await self._cashier.start("native_otp", order_id="order_02")
        payment = await self._cashier.start("native_otp", order_id="order_01")
        answer = {"cf_payment_id": "12376123", "action": "post", "payment_amount": 170.0}
        self._gateway.body = json.dumps(answer).encode()
        await self._cashier.pay(payment, SESSION, corpus.CARD)
        await _told(self._feed)

    def draw(self, rng: Random) -> Post:
        """Return a spoiled notification: mostly signed after it was spoiled, at times not."""
        body = spoil_tree(rng.choice(self._trees), rng, self._trees)
        if rng.random() < 0.01:
            body += b" " * rng.choice((65_000, 65_536, 2_000_000))
        stamp = str(corpus.NOW_MS + rng.choice((0, 0, 0, -5_000, 3_599_999, -3_600_001, 10**9)))
        secret = rng.choice((corpus.CLIENT_SECRET, corpus.CLIENT_SECRET, _OLD_SECRET, "guess"))
        if rng.random() < 0.05:
            stamp = spoil_text(stamp, rng)
        headers = [
            ("x-webhook-signature", signature_of(secret, stamp, body)),
            ("x-webhook-timestamp", stamp),
            ("x-webhook-version", "2025-01-01"),
        ]
        if rng.random() < 0.5:
            headers.append(
                ("x-idempotency-key", rng.choice(("", "k1", "k2", "\ud800", "k" * 9999)))
            )
        if rng.random() < 0.1:
            body = spoil_bytes(body, rng)
        return Post(_shaped(_spoiled(headers, rng), rng), body)

    def attempt(self, given: Post) -> None:
        """Post it, and look at what it changed."""
        before, payments = _all_of(self._store), _payments_of(self._store)
        try:
            receipt = self.run(self._cashier.on_webhook(given.headers, given.body))
        except InvalidSignature as refused:
            if _all_of(self._store) != before:
                raise Broken("a refused notification touched the store") from refused
            if refused.reason == "malformed" and _is_event(given.body):
                raise Broken("an event was refused for what it says") from refused
            self._check_told(refused)
            raise
        finally:
            self._check_said()
        if not _is_genuine(given):
            raise Broken("accepted, though it is not signed with a known secret")
        if _payments_of(self._store) != payments:
            raise Broken("a notification changed a payment")
        told = [] if receipt.duplicate else [receipt.type]
        found = self.run(_told(self._feed))
        if [event.type for event in found if isinstance(event, FeedNotification)] != told:
            raise Broken(f"the feed tells {found} of {receipt}")

    def _check_told(self, refused: InvalidSignature) -> None:
        text = "".join(texts_of(refused))
        if refused.reason not in _REASONS:
            raise Broken(f"refused for {refused.reason!r}")
        if any(secret in text for secret in (SESSION, _OLD_SECRET, corpus.CLIENT_SECRET)):
            raise Broken("a refusal tells a secret")

    def _check_said(self) -> None:
        if corpus.CARD_NUMBER in self._log.said or SESSION in self._log.said:
            raise Broken(f"the log tells a secret: {self._log.said[:60]}")


def signature_of(secret: str, stamp: str, body: bytes) -> str:
    """Return the gateway's signature (GATEWAY 7)."""
    message = stamp.encode("utf-8", "surrogatepass") + body
    return base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()


def _spoiled(headers: list[tuple[str, str]], rng: Random) -> list[tuple[str, str]]:
    if rng.random() < 0.7:
        return headers
    at, chosen = rng.randrange(len(headers)), rng.random()
    name, value = headers[at]
    if chosen < 0.3:
        headers[at] = name, spoil_text(value, rng)
    elif chosen < 0.5:
        del headers[at]
    elif chosen < 0.7:
        headers[at] = rng.choice((name.upper(), name.title(), f" {name}", name[:-1])), value
    elif chosen < 0.9:
        headers.insert(rng.randrange(len(headers) + 1), (name, spoil_text(value, rng)))
    else:
        headers[at] = (
            name,
            rng.choice(("", " ", "0", "9" * 15, "9" * 5_000, "١" * 13, "\x00", value * 99)),
        )
    return headers


def _shaped(headers: list[tuple[str, str]], rng: Random) -> Any:
    """Return headers as frameworks have them: a mapping, pairs of text, pairs of bytes."""
    chosen = rng.random()
    if chosen < 0.4:
        return dict(headers)
    if chosen < 0.7:
        return headers
    return [(_encoded(name), _encoded(value)) for name, value in headers]


def _encoded(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _is_genuine(given: Post) -> bool:
    """Say by the gateway's rule whether any of the headers' values make it signed."""
    items = given.headers.items() if isinstance(given.headers, Mapping) else given.headers
    pairs = [(_decoded(name).lower(), _decoded(value).strip()) for name, value in items]
    stamps = [value for name, value in pairs if name == "x-webhook-timestamp"]
    signed = [value for name, value in pairs if name == "x-webhook-signature"]
    return any(
        signature_of(secret, stamp, given.body) in signed
        for secret in (corpus.CLIENT_SECRET, _OLD_SECRET)
        for stamp in stamps
    )


def _is_event(body: bytes) -> bool:
    """Say by Python's own reader whether a body is an object with a type of the usual form."""
    try:
        # NaN and Infinity are no JSON: int() takes neither.
        found = json.loads(body.decode(), parse_constant=int)
    except (ValueError, RecursionError):
        return False
    if body.count(b'"type"') != 1:
        # Which of two types counts is the reader's own affair.
        return False
    kind = found.get("type") if isinstance(found, dict) else None
    return isinstance(kind, str) and re.fullmatch("[A-Za-z0-9_.:-]{1,80}", kind) is not None


def _decoded(text: str | bytes) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text


def _all_of(store: MemoryStore) -> str:
    """Return everything that a store holds, as one text."""
    kept = {name: value for name, value in vars(store).items() if name not in {"clock", "_feed"}}
    return repr((kept, vars(store.feed())))


def _payments_of(store: MemoryStore) -> list[dict[int, bytes]]:
    return [dict(order.records) for order in store._orders.values()]


async def _told(feed: Feed) -> list[Any]:
    found = []
    while (event := await feed.poll()) is not None:
        found.append(event)
        await feed.ack(event)
    return found
