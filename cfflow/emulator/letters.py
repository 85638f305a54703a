"""One webhook as it goes out: where to, its headers, its bytes; and how it can be wrong."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from cfflow.emulator.notices import signature
from cfflow.emulator.outbox import Errand
from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION

Alteration = Literal[
    "unsigned",  # without the signature
    "forged",  # signed with another secret
    "tampered",  # another body than the signed one
    "stale",  # signed a day ago
    "bad_timestamp",  # signed, with a timestamp that is no number
    "malformed",  # signed, but half a JSON document
    "oversized",  # signed, and two MiB too long
]
ALTERATIONS: tuple[str, ...] = get_args(Alteration)

_PADDING = b" " * (2 << 20)


class Letter(NamedTuple):
    """One webhook, ready to be sent by POST."""

    url: str
    headers: dict[str, str]
    body: bytes


def letter(errand: Errand, ahead_s: float = 0.0) -> Letter:
    """What this attempt sends. ahead_s: how much the timestamp is to lie before its due time."""
    delivery, alter = errand.delivery, errand.alter
    notice, body = delivery.notice, delivery.notice.body
    if alter == "malformed":
        body = body[: len(body) // 2]
    elif alter == "oversized":
        body += _PADDING
    if alter == "stale":
        ahead_s += 86400.0
    timestamp = str(int((errand.due_at - ahead_s) * 1000))
    if alter == "bad_timestamp":
        timestamp = "yesterday"
    secret = f"not {notice.secret}" if alter == "forged" else notice.secret
    headers = {
        "content-type": "application/json",
        "x-webhook-attempt": str(len(delivery.attempts) + 1),
        "x-webhook-timestamp": timestamp,
        "x-webhook-version": notice.version,
    }
    if alter != "unsigned":
        headers["x-webhook-signature"] = signature(secret, timestamp, body)
    if notice.version == NEWEST_WEBHOOK_VERSION:
        headers["x-idempotency-key"] = notice.idempotency_key
    return Letter(delivery.url or "", headers, body + b" " if alter == "tampered" else body)
