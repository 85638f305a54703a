"""The emulator's own calls, below /_emulator: what a test or a demo asks of it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cfflow.emulator import wire
from cfflow.emulator.bank import Bank
from cfflow.emulator.faults import Fault
from cfflow.emulator.limits import COUNTED_BY, Limits, TableName

PREFIX = "/_emulator"
ADVANCE_S_MAX = 10 * 365 * 86400


class Advance(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /_emulator/clock: how many seconds to skip."""

    advance_s: Annotated[float, msgspec.Meta(ge=0, le=ADVANCE_S_MAX)]


class NewLimits(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /_emulator/limits: a table's name, or calls per minute by call."""

    rate_limits: TableName | dict[str, int]


def routes() -> list[Route]:
    """Every route of the emulator's own."""
    return [
        Route(f"{PREFIX}/health", health),
        Route(f"{PREFIX}/ledger", ledger),
        Route(f"{PREFIX}/clock", clock, methods=["GET", "POST"]),
        Route(f"{PREFIX}/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route(f"{PREFIX}/limits", limits, methods=["GET", "PUT", "POST", "DELETE"]),
    ]


async def health(request: Request) -> Response:
    """It listens; and what time it is here."""
    return _json({"status": "ok", "now": wire.timestamp(request.app.state.clock.now())})


async def ledger(request: Request) -> Response:
    """Every effect on money, of one order with ?order_id=, and how often each call came."""
    state = request.app.state
    bank: Bank = state.bank
    bank.advance(state.clock.now())
    order_id = request.query_params.get("order_id")
    entries = bank.ledger if order_id is None else bank.ledger_of(order_id)
    calls = {"received": dict(state.received), "performed": dict(bank.calls)}
    return _json({"ledger": [wire.ledger_entry(entry) for entry in entries], "calls": calls})


async def clock(request: Request) -> Response:
    """Skip time: everything that was due meanwhile has happened when this answers."""
    state = request.app.state
    if request.method == "POST":
        try:
            body = msgspec.json.decode(await request.body(), type=Advance)
        except msgspec.DecodeError as error:
            return _json({"message": str(error)}, 400)
        state.clock.advance(body.advance_s)
        state.bank.advance(state.clock.now())
    now, offset_s = state.clock.now(), state.clock.offset_s
    return _json({"now": wire.timestamp(now), "offset_s": offset_s})


async def faults(request: Request) -> Response:
    """Add one fault rule, forget all of them, or list those that wait."""
    waiting = request.app.state.faults
    if request.method == "DELETE":
        waiting.clear()
    elif request.method == "POST":
        try:
            waiting.add(msgspec.json.decode(await request.body(), type=Fault))
        except msgspec.DecodeError as error:
            return _json({"message": str(error)}, 400)
    return _json({"faults": waiting.waiting()})


async def limits(request: Request) -> Response:
    """Set the rate limits, switch them off, or show them and how many calls were refused."""
    enforced: Limits = request.app.state.limits
    if request.method == "DELETE":
        enforced.clear()
    elif request.method in {"PUT", "POST"}:
        try:
            enforced.set(msgspec.json.decode(await request.body(), type=NewLimits).rate_limits)
        except ValueError as error:
            return _json({"message": str(error)}, 400)
    refused = {call: enforced.refused[call] for call in COUNTED_BY}
    return _json({"rate_limits": dict(enforced.per_minute), "refused": refused})


def _json(body: object, status: int = 200) -> Response:
    return Response(wire.encode(body), status, media_type="application/json")
