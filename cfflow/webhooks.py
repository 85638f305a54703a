"""Notifications in: (headers, raw body) → what the gateway has verifiably said.

The signature is checked over the raw bytes, in constant time and against every secret that
is valid now (GATEWAY 7). What is signed is never refused for what it says: a refusal makes
the gateway retry for nothing. Nothing here knows a framework, a store or a clock of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.lenient import UNREADABLE, decoder, without_lone_surrogates
from cfflow.core.arguments import ORDER_ID
from cfflow.core.chart import State
from cfflow.core.sealed import Sealed
from cfflow.errors import ConfigError, InvalidInput, InvalidSignature
from cfflow.store.protocol import Notification

__all__ = ["Headers", "Receipt", "Verifier"]

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

_READ: Final = frozenset({facts.SIGNATURE_HEADER, facts.TIMESTAMP_HEADER})

_MILLISECONDS: Final = re.compile(r"[0-9]{10,15}")
_TYPE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
_ATTEMPT: Final = re.compile(facts.CF_PAYMENT_ID_PATTERN)
_CONTENT_ID_B: Final = 16

#: In which state a payment tells us as much as this status does.
_REPORTED_STATES: Final[Mapping[str, State]] = {
    "SUCCESS": State.CAPTURED,
    "VOID": State.VOIDED,
    "FAILED": State.FAILED,
    "USER_DROPPED": State.FAILED,
    "CANCELLED": State.FAILED,
}

Reason = Literal["missing_header", "bad_timestamp", "stale", "forged", "oversized", "malformed"]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a notification that was accepted: answer 200.

    `type` is the event's. `payment_ids`: the payments that a worker asks about now.
    `duplicate`: the same came before, within a day; the feed does not tell it again.
    """

    type: str
    order_id: str | None = None
    cf_payment_id: str | None = None
    payment_ids: tuple[str, ...] = ()
    duplicate: bool = False


class _Envelope(msgspec.Struct):
    """What every event has; `data` may be of any form, or missing."""

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
    """What is read of `data`, none of which has to be there: refunds, disputes and others too."""

    order: _Named | None = None
    order_details: _Named | None = None
    refund: _Named | None = None
    auto_refund: _Named | None = None
    dispute: _Named | None = None
    payment: _Payment | None = None


_envelope = msgspec.json.Decoder(_Envelope)
_decode_data = decoder(_Data)
#: As the feed decodes it, so that whatever is accepted can be handed out.
_json = msgspec.json.Decoder(float_hook=Decimal)


class Verifier:
    """Knows the gateway by its secrets. `tolerance_s`: how old or how early one may be.

    None is any age: a notification moves no money, and a person may have the gateway send
    one again days later. Raises `ConfigError` for a tolerance or a secret that makes no sense.
    """

    def __init__(self, secrets: Iterable[Sealed[str]], *, tolerance_s: float | None = None) -> None:
        self._secrets: Final = tuple(secrets)
        if not self._secrets or not all(secret.reveal() for secret in self._secrets):
            raise ConfigError("a webhook secret is empty")
        if tolerance_s is not None and not 0 < tolerance_s < float("inf"):
            raise ConfigError(f"webhook_tolerance_s must be above 0 or None, got {tolerance_s!r}")
        self._tolerance_ms = None if tolerance_s is None else tolerance_s * 1000

    def read(self, headers: Headers, body: bytes, now_ms: int) -> Notification:
        """Return what the gateway has said, `now_ms` by the store's clock.

        Raises `InvalidSignature`, with its `reason`, for what is forged, stale, oversized or
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
        """Say whether one of the secrets made this signature; all are tried, whatever comes."""
        message, sent = stamp.encode() + raw, signature.encode("utf-8", "replace")
        found = False
        for secret in self._secrets:
            digest = hmac.digest(secret.reveal().encode(), message, "sha256")
            found |= hmac.compare_digest(base64.b64encode(digest), sent)
        return found


def _given(headers: Headers) -> dict[str, str]:
    """Return the headers that are read, by lower-case name; a name given twice counts once."""
    try:
        items = getattr(headers, "items", None)
        pairs: Any = headers if items is None else items()
        texts = [(_text(name).lower(), value) for name, value in pairs if value is not None]
    except (TypeError, ValueError):
        raise InvalidInput("on_webhook needs headers: a mapping, or pairs") from None
    return {name: _text(value).strip() for name, value in texts if name in _READ}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _notification(raw: bytes) -> Notification:
    try:
        envelope = _opened(raw)
    except UNREADABLE:
        # Without the decoder's own words: they may quote the body.
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
    """Return the order and the attempt of a payment event, None where either is not in our form.

    Other systems of the merchant have other order ids, and no payment here can be theirs.
    """
    order_id = (data.order and data.order.order_id) or ""
    given = data.payment.cf_payment_id if data.payment else None
    attempt = "" if given is None else str(given)
    is_ours = ORDER_ID.fullmatch(order_id) and _ATTEMPT.fullmatch(attempt)
    return (order_id, attempt) if is_ours else None


def _reported_state(data: _Data) -> str:
    return _REPORTED_STATES.get((data.payment and data.payment.payment_status) or "", "")


def _order(kind: str, data: _Data) -> str:
    """Return the order that an event names, "" where none has our form."""
    parts = [data.order]
    if kind not in facts.PAYMENT_EVENTS:
        parts += [data.order_details, data.refund, data.auto_refund, data.dispute]
    named = (part.order_id or "" for part in parts if part)
    return next((name for name in named if ORDER_ID.fullmatch(name)), "")


def _shown(data: msgspec.Raw) -> bytes | None:
    """Return an event's own JSON for the feed; None where the feed's reader could not read it."""
    try:
        _json.decode(data)
    except (*UNREADABLE, ArithmeticError):
        return None
    return bytes(data)


def _content_id(raw: bytes) -> str:
    """Return what is the same whenever the same signed body comes again.

    Made of the raw body alone. The timestamp is left out: a retry may be signed with a new
    one. The key in the header is left out: it is not signed, so with another event's key
    anybody could have a genuine event taken for a duplicate. Two events that look alike
    have different times in their bodies.
    """
    return hashlib.blake2b(raw, digest_size=_CONTENT_ID_B).hexdigest()


def _refused(reason: Reason, text: str) -> InvalidSignature:
    return InvalidSignature(f"notification refused, {reason}: {text}", reason=reason)
