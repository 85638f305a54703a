"""What the emulator's own calls share: how they read a request, and how they answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cfflow.emulator import wire
from cfflow.emulator.clock import IST
from cfflow.emulator.faults import KINDS, Call
from cfflow.emulator.webhook_outbox import Delivery, DeliveryAttempt
from cfflow.emulator.webhook_requests import Alteration

PREFIX = "/_emulator"

_ENUM = re.compile(r"Invalid enum value .* at `\$\.(\w+)")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "call": get_args(Call),
    "calls": get_args(Call),
    "kind": (*KINDS, "chaos"),
    "kinds": KINDS,
    "alter": get_args(Alteration),
}

Body = TypeVar("Body")


def json_response(body: object, status: int = 200) -> Response:
    """An answer in JSON, amounts with their two decimals."""
    return Response(wire.encode(body), status, media_type="application/json")


def error_response(error: Exception, status: int = 400) -> Response:
    """What was wrong, as `{"message"}`."""
    said = str(error.args[0] if isinstance(error, LookupError) and error.args else error)
    return json_response({"message": said + _choices(said)}, status)


def _choices(said: str) -> str:
    """What a word may be where one is none of them: the decoder tells only its place."""
    place = _ENUM.search(said)
    words = _WORDS.get(place[1], ()) if place else ()
    return f": it is one of {', '.join(words)}" if words else ""


async def read_json(request: Request, kind: type[Body]) -> Body:
    """The body as this kind; no body is an empty one. Raises `ValueError` on any other."""
    return msgspec.json.decode(await request.body() or b"{}", type=kind)


def parse_time(said: str | float) -> float:
    """An ISO 8601 time (Indian without an offset) or seconds since the epoch, as the latter.

    Raises `ValueError` for anything else.
    """
    try:
        return float(said)
    except ValueError:
        pass
    try:
        # A plus sign that nobody escaped arrives in a query as a space.
        parsed = datetime.fromisoformat(str(said).replace(" ", "+"))
    except ValueError:
        raise ValueError("a time is ISO 8601 or seconds since the epoch") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=IST)).timestamp()


def delivery_json(told: Delivery, *, body: bool = False) -> dict[str, Any]:
    """A webhook and every attempt to deliver it; body: with the text that is sent."""
    event = told.event
    said = {
        "id": told.id,
        "type": told.type,
        "order_id": told.order_id,
        "cf_payment_id": event.cf_payment_id,
        "event_time": wire.timestamp(event.at_s),
        "version": event.version,
        "idempotency_key": event.idempotency_key,
        "url": told.url,
        "status": told.status,
        "attempts": [_attempt(made) for made in told.attempts],
    }
    return said | {"body": event.body.decode()} if body else said


def _attempt(made: DeliveryAttempt) -> dict[str, Any]:
    return {
        "number": made.number,
        "at": wire.timestamp(made.at),
        "outcome": made.outcome,
        "status": made.status,
        "error": made.error,
        "altered": made.altered,
    }
