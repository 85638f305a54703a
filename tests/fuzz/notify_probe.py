"""What any sender may post: notifications, signed and forged, through `on_webhook`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from cfflow import FeedNotification, InvalidSignature
from cfflow.core.sealed import Sealed
from cfflow.feed.feed import Feed
from cfflow.orchestrator import Orchestrator
from cfflow.testing import FakeClock, MemoryStore
from cfflow.webhooks import Verifier
from tests.fuzz import corpus
from tests.fuzz.corpus import Swap
from tests.fuzz.gateway_probes import SESSION, LoopProbe
from tests.fuzz.inputs import Document, mostly, spoiled_bytes, spoiled_json, spoiled_text
from tests.fuzz.judge import Broken, texts_of

__all__ = ["NotifyProbe", "Post", "any_posts", "signature_of"]

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


class LastEvent:
    """A log that keeps its last event."""

    def __init__(self) -> None:
        self.text = ""

    def info(self, event: str, **fields: Any) -> None:
        """Keep an event, but for the type: the gateway signed it, and any word may be one."""
        self.text = f"{event} {fields | {'type': ''}}"

    warning = info


class NotifyProbe(LoopProbe):
    """What is accepted is signed, and what is refused leaves the store as it was."""

    def __init__(self) -> None:
        super().__init__()
        self._log, self._gateway = LastEvent(), Swap()
        self._store = MemoryStore(FakeClock(corpus.NOW_MS), feed_max=20)
        self._cashier = Orchestrator(
            self._store,
            corpus.client(self._gateway),
            catalog=corpus.CATALOG,
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
        await _unread(self._feed)

    def attempt(self, given: Sequence[Post]) -> None:
        """Post one after the other. Raises the refusal of the last one, if it is refused."""
        for number, post in enumerate(given, 1):
            try:
                self.post(post)
            except InvalidSignature:
                if number == len(given):
                    raise

    def post(self, given: Post) -> None:
        """Post one, and look at what it changed."""
        before, payments = _all_of(self._store), _payments_of(self._store)
        try:
            receipt = self.run(self._cashier.on_webhook(given.headers, given.body))
        except InvalidSignature as refused:
            if _all_of(self._store) != before:
                raise Broken("a refused notification touched the store") from refused
            if refused.reason == "malformed" and _is_event(given.body):
                raise Broken("a well-formed event was refused as malformed") from refused
            self._check_refusal(refused)
            raise
        finally:
            self._check_log()
        if not _is_genuine(given):
            raise Broken("accepted although it is not signed with a known secret")
        if _payments_of(self._store) != payments:
            raise Broken("a notification changed a payment")
        expected = [] if receipt.duplicate else [receipt.type]
        found = self.run(_unread(self._feed))
        if [event.type for event in found if isinstance(event, FeedNotification)] != expected:
            raise Broken(f"the feed has {found} for {receipt}")

    def _check_refusal(self, refused: InvalidSignature) -> None:
        text = "".join(texts_of(refused))
        if refused.reason not in _REASONS:
            raise Broken(f"refused for {refused.reason!r}")
        if any(secret in text for secret in (SESSION, _OLD_SECRET, corpus.CLIENT_SECRET)):
            raise Broken("a refusal shows a secret")

    def _check_log(self) -> None:
        if corpus.CARD_NUMBER in self._log.text or SESSION in self._log.text:
            raise Broken(f"the log shows a secret: {self._log.text[:60]}")


def signature_of(secret: str, stamp: str, body: bytes) -> str:
    """Return the gateway's signature (gateway.md#webhooks)."""
    message = stamp.encode("utf-8", "surrogatepass") + body
    return base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()


def any_posts() -> st.SearchStrategy[list[Post]]:
    """Return some posts, of which the last may repeat the first."""
    posts = st.lists(_posts(), min_size=1, max_size=2)
    return mostly(posts, posts.map(lambda found: [*found, found[0]]))


@st.composite
def _posts(draw: st.DrawFn) -> Post:
    """Draw a notification: mostly signed after it was spoiled, at times not."""
    body = draw(_BODIES)
    stamp = draw(_STAMPS)
    secret = draw(_SECRETS)
    headers = [
        ("x-webhook-signature", signature_of(secret, stamp, body)),
        ("x-webhook-timestamp", stamp),
        ("x-webhook-version", "2025-01-01"),
        ("x-idempotency-key", draw(_KEYS)),
    ]
    headers = draw(mostly(st.just(headers), _spoiled(headers)))
    body = draw(mostly(st.just(body), spoiled_bytes(body)))
    return Post(draw(st.sampled_from(_SHAPES))(headers), body)


_DOCUMENTS: Final = tuple(Document(json.dumps(event)) for event in _EVENTS)
_SPACES: Final = st.sampled_from((65_000, 65_536, 2_000_000)).map(lambda size: b" " * size)
_BODIES: Final = mostly(
    spoiled_json(_DOCUMENTS),
    mostly(spoiled_json(_DOCUMENTS), st.builds(bytes.__add__, spoiled_json(_DOCUMENTS), _SPACES)),
)
_AGES_MS: Final = st.sampled_from((0, 0, 0, -5_000, 3_599_999, -3_600_001, 10**9))
_STAMPS: Final = mostly(
    _AGES_MS.map(lambda age_ms: str(corpus.NOW_MS + age_ms)), spoiled_text(str(corpus.NOW_MS))
)
_SECRETS: Final = st.sampled_from(
    (corpus.CLIENT_SECRET, corpus.CLIENT_SECRET, _OLD_SECRET, "guess")
)
_KEYS: Final = st.sampled_from(("", "k1", "k2", "\ud800", "k" * 9999))
#: Values of a header that are out of form, where the good one is `value`.
_HEADERS: Final = ("", " ", "0", "9" * 15, "9" * 5_000, "١" * 13, "\x00")


def _spoiled(headers: list[tuple[str, str]]) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Return headers of which one is out, named otherwise, doubled or out of form."""

    def of(at: int) -> st.SearchStrategy[list[tuple[str, str]]]:
        name, value = headers[at]
        names = st.sampled_from((name.upper(), name.title(), f" {name}", name[:-1]))
        values = spoiled_text(value) | st.sampled_from((*_HEADERS, value * 99))
        one: st.SearchStrategy[list[tuple[str, str]]] = st.one_of(
            st.just([]),
            names.map(lambda other: [(other, value)]),
            values.map(lambda other: [(name, other)]),
            values.map(lambda other: [(name, value), (name, other)]),
            values.map(lambda other: [(name, other), (name, value)]),
        )
        return one.map(lambda changed: [*headers[:at], *changed, *headers[at + 1 :]])

    return st.integers(0, len(headers) - 1).flatmap(of)


def _as_bytes(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(_encoded(name), _encoded(value)) for name, value in headers]


#: Headers as frameworks have them: a mapping, pairs of text, pairs of bytes.
_SHAPES: Final[tuple[Any, ...]] = (dict, list, _as_bytes)


def _encoded(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def _is_genuine(given: Post) -> bool:
    """Return by the gateway's rule whether any of the headers' values make it signed."""
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
    """Return by Python's own reader whether a body is an object with a type of the usual form."""
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


def _payments_of(store: MemoryStore) -> list[bytes]:
    return [order.record for order in store._orders.values()]


async def _unread(feed: Feed) -> list[Any]:
    found = []
    while (event := await feed.poll()) is not None:
        found.append(event)
        await feed.ack(event)
    return found
