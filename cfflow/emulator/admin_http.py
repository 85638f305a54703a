"""Reading requests and writing responses of the emulator's own API."""

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
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "call": get_args(Call),
    "calls": get_args(Call),
    "kind": (*KINDS, "chaos"),
    "kinds": KINDS,
    "alter": get_args(Alteration),
}

Body = TypeVar("Body")


def json_response(body: object, status: int = 200) -> Response:
    """Return a JSON response; amounts keep their two decimals."""
    return Response(wire.encode(body), status, media_type="application/json")


def error_response(error: Exception, status: int = 400) -> Response:
    """Return the error as `{"message"}`."""
    text = str(error.args[0] if isinstance(error, LookupError) and error.args else error)
    return json_response({"message": text + _choices(text)}, status)


def _choices(error: str) -> str:
    """Return the permitted values of a wrong enum value; the decoder names only its field."""
    field = _ENUM.search(error)
    choices = _CHOICES.get(field[1], ()) if field else ()
    return f": it is one of {', '.join(choices)}" if choices else ""


async def read_json(request: Request, kind: type[Body]) -> Body:
    """Return the body as this type; no body counts as `{}`. Raises `ValueError`."""
    return decode(await request.body() or b"{}", kind)


def decode(raw: bytes, kind: type[Body]) -> Body:
    """Return JSON text as this type. Raises `ValueError`, also for thousands of brackets."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None


def chosen(request: Request, name: str, choices: tuple[str, ...]) -> str | None:
    """Return a word of the query, None if it is not there. Raises `ValueError` for another word.

    A word that nothing can have would find nothing, and look like an empty list.
    """
    word = request.query_params.get(name)
    if word is not None and word not in choices:
        raise ValueError(f"there is no {name} {word!r}: it is one of {', '.join(choices)}")
    return word


def parse_time(text: str | float) -> float:
    """Return seconds since the epoch, from those or from an ISO 8601 time.

    A time without an offset is Indian time. Raises `ValueError` for anything else.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        # An unescaped plus sign in a query is decoded as a space.
        parsed = datetime.fromisoformat(str(text).replace(" ", "+"))
    except ValueError:
        raise ValueError("a time is ISO 8601 or seconds since the epoch") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=IST)).timestamp()


def delivery_json(delivery: Delivery, *, body: bool = False) -> dict[str, Any]:
    """A webhook and every attempt to deliver it; body: with the text that is sent."""
    event = delivery.event
    found = {
        "id": delivery.id,
        "type": delivery.type,
        "order_id": delivery.order_id,
        "cf_payment_id": event.cf_payment_id,
        "event_time": wire.timestamp(event.at_s),
        "version": event.version,
        "idempotency_key": event.idempotency_key,
        "url": delivery.url,
        "status": delivery.status,
        "attempts": [_attempt(made) for made in delivery.attempts],
    }
    return found | {"body": event.body.decode()} if body else found


def _attempt(made: DeliveryAttempt) -> dict[str, Any]:
    return {
        "number": made.number,
        "at": wire.timestamp(made.at),
        "outcome": made.outcome,
        "status": made.status,
        "error": made.error,
        "altered": made.altered,
    }
