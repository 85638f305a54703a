"""Notifications with the gateway's signature, for tests that make their own."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

SECRET = "cfflow-test-secret"
SUCCESS, FAILED = "PAYMENT_SUCCESS_WEBHOOK", "PAYMENT_FAILED_WEBHOOK"


def signed(body: bytes, at_ms: int, *, secret: str = SECRET, **headers: str) -> dict[str, str]:
    """Return the headers of a body that was signed at that time; a `_` in a name is a `-`."""
    stamp = str(at_ms)
    digest = hmac.digest(secret.encode(), stamp.encode() + body, "sha256")
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "X-Webhook-Signature": base64.b64encode(digest).decode(),
        "X-Webhook-Timestamp": stamp,
        "X-Webhook-Version": "2025-01-01",
        **given,
    }


def event(
    order_id: str = "order_1",
    cf_payment_id: object = "77",
    status: str = "SUCCESS",
    kind: str = SUCCESS,
    **payment: Any,
) -> bytes:
    """Return the body of a payment event; further fields go into its payment."""
    body = {
        "type": kind,
        "event_time": "2025-10-09T14:23:20+05:30",
        "data": {
            "order": {"order_id": order_id, "order_amount": 170.00, "order_currency": "INR"},
            "payment": {"cf_payment_id": cf_payment_id, "payment_status": status, **payment},
            "customer_details": {"customer_phone": "9898989898"},
        },
    }
    return json.dumps(body).encode()
