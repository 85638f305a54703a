"""The HTTP request of one attempt to deliver a webhook, and the ways to make it wrong.

gateway.md#webhooks
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from cfflow.emulator.versions import NEWEST_WEBHOOK_VERSION
from cfflow.emulator.webhook_events import signature
from cfflow.emulator.webhook_outbox import PendingAttempt

Alteration = Literal[
    "unsigned",  # without the signature
    "forged",  # signed with another secret
    "tampered",  # another body than the signed one
    "stale",  # signed a day ago
    "bad_timestamp",  # signed, with a timestamp that is not a number
    "malformed",  # signed, but only half of the JSON
    "oversized",  # signed, and two MiB too long
]
ALTERATIONS: tuple[str, ...] = get_args(Alteration)

DAY_S = 86400.0
_PADDING = b" " * (2 << 20)


class WebhookRequest(NamedTuple):
    """One webhook, ready to be sent by POST."""

    url: str
    headers: dict[str, str]
    body: bytes


def webhook_request(pending: PendingAttempt, earlier_s: float = 0.0) -> WebhookRequest:
    """Return what this attempt sends. earlier_s: puts its timestamp before its due time."""
    delivery, alter = pending.delivery, pending.alter
    event, body = delivery.event, delivery.event.body
    if alter == "malformed":
        body = body[: len(body) // 2]
    elif alter == "oversized":
        body += _PADDING
    if alter == "stale":
        earlier_s += DAY_S
    timestamp = str(int((pending.due_at_s - earlier_s) * 1000))
    if alter == "bad_timestamp":
        timestamp = "yesterday"
    secret = f"not {event.secret}" if alter == "forged" else event.secret
    headers = {
        "content-type": "application/json",
        "x-webhook-attempt": str(len(delivery.attempts) + 1),
        "x-webhook-timestamp": timestamp,
        "x-webhook-version": event.version,
    }
    if alter != "unsigned":
        headers["x-webhook-signature"] = signature(secret, timestamp, body)
    if event.version == NEWEST_WEBHOOK_VERSION:
        headers["x-idempotency-key"] = event.idempotency_key
    sent = body + b" " if alter == "tampered" else body
    return WebhookRequest(delivery.url or "", headers, sent)
