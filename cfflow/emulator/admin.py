"""The emulator's own API below /_emulator: clock, faults, limits, ledger and reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cfflow.emulator import admin_http, admin_orders, admin_webhooks, openapi, wire
from cfflow.emulator.admin_http import PREFIX, json_response
from cfflow.emulator.bank import Bank
from cfflow.emulator.faults import Chaos, Fault, Faults
from cfflow.emulator.limits import COUNTED_BY, Limits, TableName
from cfflow.emulator.records import Effect, LedgerEntry
from cfflow.emulator.versions import VERSIONS

ADVANCE_S_MAX = 10 * 365 * 86400


class Jump(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /_emulator/clock: how many seconds to skip, or a time to skip to."""

    advance_s: Annotated[float, msgspec.Meta(ge=0, le=ADVANCE_S_MAX)] | None = None
    at: str | float | None = None


class NewLimits(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /_emulator/limits: the name of a table, or calls per minute by call."""

    rate_limits: TableName | dict[str, int]


class NewChaos(Chaos, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The body of POST /_emulator/faults for random faults."""

    kind: Literal["chaos"]


def routes() -> list[Route]:
    """Return every route of the emulator's own API."""
    return [
        Route(f"{PREFIX}/health", health),
        Route(f"{PREFIX}/ledger", ledger),
        Route(f"{PREFIX}/clock", clock, methods=["GET", "POST"]),
        Route(f"{PREFIX}/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route(f"{PREFIX}/limits", limits, methods=["GET", "PUT", "POST", "DELETE"]),
        Route(f"{PREFIX}/reset", reset, methods=["POST"]),
        Route(f"{PREFIX}/openapi.json", openapi_json),
        *admin_orders.routes(),
        *admin_webhooks.routes(),
    ]


async def health(request: Request) -> Response:
    """Respond with the status and the emulator's time."""
    return json_response({"status": "ok", "now": wire.timestamp(request.app.state.clock.now())})


async def ledger(request: Request) -> Response:
    """Respond with the effects that match the query, and how often each call was made."""
    state = request.app.state
    bank: Bank = state.bank
    bank.advance(state.clock.now())
    query = request.query_params
    order_id = query.get("order_id")
    try:
        since = admin_http.parse_time(query.get("since", 0))
        admin_http.chosen(request, "effect", get_args(Effect))
    except ValueError as error:
        return admin_http.error_response(error)
    wanted: dict[str, Any] = {n: query[n] for n in ("cf_payment_id", "effect") if n in query}
    entries = bank.ledger if order_id is None else bank.ledger_of(order_id)
    found = [wire.ledger_entry(entry) for entry in entries if _matches(entry, wanted, since)]
    calls = {"received": dict(state.received), "performed": dict(bank.calls)}
    return json_response({"ledger": found, "calls": calls})


def _matches(entry: LedgerEntry, wanted: dict[str, Any], since: float) -> bool:
    return entry.at >= since and all(getattr(entry, n) == v for n, v in wanted.items())


async def clock(request: Request) -> Response:
    """Skip time, run what is due, attempt its webhooks, and respond with the time."""
    state = request.app.state
    if request.method == "POST":
        try:
            jump = await admin_http.read_json(request, Jump)
            if (jump.advance_s is None) == (jump.at is None):
                raise ValueError("either advance_s or at : is needed")
            if jump.advance_s is not None:
                state.clock.advance(jump.advance_s)
            elif jump.at is not None:
                _go_on_to(admin_http.parse_time(jump.at), state.clock.now, state.clock.advance)
        except ValueError as error:
            return admin_http.error_response(error)
        state.bank.advance(state.clock.now())
        await state.webhooks.deliver()
    now_s, offset_s = state.clock.now(), state.clock.offset_s
    return json_response({"now": wire.timestamp(now_s), "epoch_s": now_s, "offset_s": offset_s})


def _go_on_to(at_s: float, now: Callable[[], float], advance: Callable[[float], None]) -> None:
    if at_s - now() > ADVANCE_S_MAX:
        raise ValueError("at : is more than ten years ahead")
    advance(at_s - now())


async def faults(request: Request) -> Response:
    """Add a fault rule or random faults, or remove them all; respond with those that remain."""
    waiting: Faults = request.app.state.faults
    if request.method == "DELETE":
        waiting.clear()
    elif request.method == "POST":
        try:
            _add_fault(waiting, await request.body())
        except ValueError as error:
            return admin_http.error_response(error)
    rules = {"faults": waiting.waiting(), "chaos": waiting.chaos, "struck": dict(waiting.struck)}
    return json_response(rules)


def _add_fault(waiting: Faults, raw: bytes) -> None:
    kind = admin_http.decode(raw, dict[str, Any]).get("kind")
    if kind == "chaos":
        fields = msgspec.structs.asdict(admin_http.decode(raw, NewChaos))
        waiting.chaos = Chaos(**{name: fields[name] for name in Chaos.__struct_fields__})
    else:
        waiting.add(admin_http.decode(raw, Fault))


async def limits(request: Request) -> Response:
    """Set or remove the rate limits; respond with them and the number of refused calls."""
    enforced: Limits = request.app.state.limits
    if request.method == "DELETE":
        enforced.clear()
    elif request.method in {"PUT", "POST"}:
        try:
            enforced.set((await admin_http.read_json(request, NewLimits)).rate_limits)
        except ValueError as error:
            return admin_http.error_response(error)
    refused = {call: enforced.refused[call] for call in COUNTED_BY}
    return json_response({"rate_limits": dict(enforced.per_minute), "refused": refused})


async def openapi_json(request: Request) -> Response:
    """Respond with the OpenAPI document of the gateway's calls, in one version if given."""
    version = request.query_params.get("version")
    if version is not None and version not in VERSIONS:
        return admin_http.error_response(
            ValueError(f"version : is one of {', '.join(sorted(VERSIONS))}")
        )
    return json_response(openapi.document(version))


async def reset(request: Request) -> Response:
    """Reset the emulator to its state at the start, except its clock."""
    request.app.reset()
    return await health(request)
