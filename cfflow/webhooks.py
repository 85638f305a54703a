"""Verifies a webhook: (headers, raw body) → a notification that the gateway has signed.

The signature is checked over the raw bytes, in constant time and against every secret that is
valid now (gateway.md#webhooks). A signed notification is never refused for its content: the
gateway would only send it again. This module uses no web framework, no store and no clock.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.lenient import UNREADABLE, decoder, without_lone_surrogates
from cfflow.core.arguments import ORDER_ID
from cfflow.core.chart import State
from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError, InvalidInput, InvalidSignature, Reason
from cfflow.store.protocol import Notification

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

_READ: Final = frozenset({facts.SIGNATURE_HEADER, facts.TIMESTAMP_HEADER})

_MILLISECONDS: Final = re.compile(r"[0-9]{10,15}")
_TYPE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
_ATTEMPT: Final = re.compile(facts.CF_PAYMENT_ID_PATTERN)
_CONTENT_ID_B: Final = 16
_SECRET_MIN: Final = 16

#: The state of a payment that has nothing to learn from this status.
_REPORTED_STATES: Final[Mapping[str, State]] = {
    "SUCCESS": State.CAPTURED,
    "VOID": State.VOIDED,
    **dict.fromkeys(facts.STATUSES_WITHOUT_MONEY, State.FAILED),
}


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The result for a notification that is stored: return status 200.

    `type` is the event's. `payment_ids` are the payments that a worker asks about now.
    `duplicate`: the same body came before, within a day; the feed gets no second entry.
    """

    type: str
    order_id: str | None = None
    cf_payment_id: str | None = None
    payment_ids: tuple[str, ...] = ()
    duplicate: bool = False


class _Envelope(msgspec.Struct):
    """The fields of every event; `data` may have any form or be missing."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    """A part of `data` that may name an order."""

    order_id: str | None = None


class _Payment(msgspec.Struct):
    """The attempt that a payment event is about."""

    cf_payment_id: str | int | None = None
    payment_status: str | None = None


class _Data(msgspec.Struct):
    """The fields of `data` that are read, of all kinds of events. Each may be missing."""

    order: _Named | None = None
    order_details: _Named | None = None
    refund: _Named | None = None
    auto_refund: _Named | None = None
    dispute: _Named | None = None
    payment: _Payment | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_decode_data = decoder(_Data)
#: Decodes as the feed does, so that the feed can return all that is stored.
_json = msgspec.json.Decoder(float_hook=Decimal)


def _may_sign(secret: Sealed[str]) -> bool:
    """Whether nobody can find this secret by trying all of them on one signature."""
    text = secret.reveal()
    return isinstance(text, str) and len(text) >= _SECRET_MIN and text.isprintable()


def _is_tolerance(value: object) -> bool:
    return type(value) in {int, float} and 0 < cast("float", value) < float("inf")


class Verifier:
    """Verifies notifications. `secrets` are all that may have signed one.

    `tolerance_s`: how far its timestamp may be from now, before or after. None permits any age:
    a notification moves no money, and a person may let the gateway send one again days later.
    Raises `ConfigError` for a secret that is shorter than 16 characters, which could be guessed
    from a signature, and for a tolerance that is not above 0.
    """

    def __init__(self, secrets: Iterable[Sealed[str]], *, tolerance_s: float | None = None) -> None:
        self._secrets: Final = tuple(secrets)
        if not self._secrets or not all(map(_may_sign, self._secrets)):
            raise ConfigError(
                "a secret that signs notifications (the client secret does, too) must be a string"
                f" of {_SECRET_MIN} characters or more"
            )
        if tolerance_s is not None and not _is_tolerance(tolerance_s):
            raise ConfigError("webhook_tolerance_s must be seconds above 0, or None")
        self._tolerance_ms = None if tolerance_s is None else tolerance_s * 1000

    def read(self, headers: Headers, body: bytes, now_ms: int) -> Notification:
        """Return the notification in a webhook's body. `now_ms` is the store's time.

        Raises `InvalidSignature`, with its `reason`, for one that is forged, stale, oversized or
        malformed; `InvalidInput` for a body that is not the raw bytes. No money moves.
        """
        if not isinstance(body, bytes | bytearray | memoryview):
            raise InvalidInput(
                "on_webhook needs the raw body, as bytes: JSON read and written anew"
                " has another signature"
            )
        if len(body) > facts.WEBHOOK_MAX_B:
            # Megabytes of a foreign sender are not even hashed.
            raise _refused("oversized", f"the body has more than {facts.WEBHOOK_MAX_B} bytes")
        raw, given = bytes(body), _given(headers)
        stamp, signature = given.get(facts.TIMESTAMP_HEADER), given.get(facts.SIGNATURE_HEADER)
        if not stamp or not signature:
            missing = facts.SIGNATURE_HEADER if stamp else facts.TIMESTAMP_HEADER
            raise _refused("missing_header", f"{missing} is missing")
        if not _MILLISECONDS.fullmatch(stamp):
            raise _refused(
                "bad_timestamp", f"{facts.TIMESTAMP_HEADER} is not milliseconds since the epoch"
            )
        if not self._signed(stamp, raw, signature):
            raise _refused("forged", "the signature is not the gateway's")
        if self._tolerance_ms is not None and abs(now_ms - int(stamp)) > self._tolerance_ms:
            raise _refused("stale", "it was signed too long ago, or in the future")
        return _notification(raw)

    def _signed(self, stamp: str, raw: bytes, signature: str) -> bool:
        """Return whether one of the secrets made this signature.

        All are tried, so that the time it takes does not show which one matched.
        """
        message, sent = stamp.encode() + raw, signature.encode("utf-8", "replace")
        found = False
        for secret in self._secrets:
            digest = hmac.digest(secret.reveal().encode(), message, "sha256")
            found |= hmac.compare_digest(base64.b64encode(digest), sent)
        return found


def _given(headers: Headers) -> dict[str, str]:
    """Return the headers that are read, by lower-case name; of a repeated one the last."""
    try:
        items = getattr(headers, "items", None)
        pairs: Any = headers if items is None else items()
        texts = [(_text(name).lower(), value) for name, value in pairs if value is not None]
        return {name: _text(value).strip() for name, value in texts if name in _READ}
    except Exception:  # noqa: BLE001  a framework's own headers may raise anything
        failure = InvalidInput("on_webhook needs headers: a mapping, or pairs")
    raise failure


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _notification(raw: bytes) -> Notification:
    try:
        envelope = _opened(raw)
    except UNREADABLE:
        # Without the decoder's message: it may quote the body.
        raise _refused("malformed", "the body is no event of the gateway's") from None
    if not _TYPE.fullmatch(envelope.type):
        raise _refused("malformed", "the event's type is out of form")
    try:
        data = _decode_data(envelope.data)
    except UNREADABLE:
        data = _Data()
    content_id = _content_id(raw)
    about = _attempt(data) if envelope.type in facts.PAYMENT_EVENTS else None
    if about is not None:
        order_id, cf_payment_id = about
        return Notification(
            type=envelope.type,
            content_id=content_id,
            order_id=order_id,
            cf_payment_id=cf_payment_id,
            reported_state=_reported_state(data),
        )
    return Notification(
        type=envelope.type,
        content_id=content_id,
        order_id=_order(envelope.type, data),
        data=_shown(envelope.data),
    )


def _opened(raw: bytes) -> _Envelope:
    try:
        return _envelope.decode(raw)
    except msgspec.DecodeError:
        return _envelope.decode(without_lone_surrogates(raw))


def _attempt(data: _Data) -> tuple[str, str] | None:
    """Return the order and the attempt of a payment event; None if an id cannot be in the store.

    Other systems of the merchant may use order ids that cfflow does not permit.
    """
    order_id = (data.order and data.order.order_id) or ""
    given = data.payment.cf_payment_id if data.payment else None
    attempt = "" if given is None else str(given)
    is_ours = ORDER_ID.fullmatch(order_id) and _ATTEMPT.fullmatch(attempt)
    return (order_id, attempt) if is_ours else None


def _reported_state(data: _Data) -> str:
    return _REPORTED_STATES.get((data.payment and data.payment.payment_status) or "", "")


def _order(kind: str, data: _Data) -> str:
    """Return the order id that an event names, "" for one that cannot be in the store."""
    parts = [data.order]
    if kind not in facts.PAYMENT_EVENTS:
        parts += [data.order_details, data.refund, data.auto_refund, data.dispute]
    named = (part.order_id or "" for part in parts if part)
    return next((name for name in named if ORDER_ID.fullmatch(name)), "")


def _shown(data: msgspec.Raw) -> bytes | None:
    """Return an event's JSON for the feed; None if a reader of the feed could not decode it."""
    try:
        _json.decode(data)
    except (*UNREADABLE, ArithmeticError):
        return None
    return bytes(data)


def _content_id(raw: bytes) -> str:
    """Return a digest of the raw body: it is the same whenever the same event comes again.

    The timestamp is left out, because a retry may be signed with a new one. The key in the header
    is left out, because it is not signed: an attacker could send a genuine event with the key of
    another one, and the other one would count as a duplicate. Two events of the same kind differ
    in the times in their bodies.
    """
    return hashlib.blake2b(raw, digest_size=_CONTENT_ID_B).hexdigest()


def _refused(reason: Reason, text: str) -> InvalidSignature:
    return InvalidSignature(f"notification refused, {reason}: {text}", reason=reason)
