"""The responses that a fault causes, and how they are sent."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import Receive, Send

from cfflow.emulator import calls, wire
from cfflow.emulator.asgi import Response, drop_connection, response_start, transport_of
from cfflow.emulator.faults import Fault
from cfflow.emulator.limits import COUNTED_BY, TABLES, Admission
from cfflow.emulator.refusals import rate_limited

PIECES = 20
# A reset discards what the socket has not yet sent, so the first half gets time to leave.
FLUSH_S = 0.02

_PROXY_PAGE = b"<html><head><title>Gateway</title></head><body>Please wait</body></html>"
# Closing a socket that lingers for zero seconds sends a reset instead of an end.
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class FaultResponse:
    """What a fault sends in place of a response; `response` is None for nothing at all.

    manner: it is sent whole, slowly in pieces over `delay_s`, or up to a TCP reset in the
    middle; or the connection is dropped. admission: the rate limit that its headers show.
    """

    response: Response | None
    manner: Literal["whole", "slow", "reset", "dropped"] = "whole"
    delay_s: float = 0.0
    admission: Admission | None = None


def before_bank(fault: Fault, call: str) -> FaultResponse | None:
    """Return the response to a call that does not reach the bank, or None if it does."""
    if fault.kind == "lost_before":
        return FaultResponse(None, "dropped")
    if fault.kind == "reset_before":
        return FaultResponse(None, "reset")
    return error_response(fault, call) if fault.kind == "status_before" else None


def after_bank(fault: Fault, call: str, response: Response) -> FaultResponse | Response:
    """Return what the client gets after the bank has done its work."""
    match fault.kind:
        case "lost_after":
            return FaultResponse(None, "dropped")
        case "reset_after":
            return FaultResponse(response, "reset")
        case "slow_body":
            return FaultResponse(response, "slow", fault.delay_s)
        case "status_after":
            return error_response(fault, call)
        case "html":
            return Response(fault.status or 200, _PROXY_PAGE, b"text/html")
        case "garbage":
            return Response(fault.status or 200, response.body[: len(response.body) // 2])
    return response


def error_response(fault: Fault, call: str) -> FaultResponse:
    """Return an error response of the fault's status; a 429 has its rate limit headers."""
    status = fault.status or 500
    if status == 429:
        limit = TABLES["production"].get(call, TABLES["production"]["pay"])
        counted_by = COUNTED_BY.get(call, "app_id")
        admission = Admission(False, limit, 0, fault.retry_s, counted_by)
        return FaultResponse(Response(429, calls.refusal_body(rate_limited())), admission=admission)
    code = fault.code or ("bank_processing_failure" if status == 502 else "internal_error")
    body = wire.error(
        code, "a fault rule of the emulator caused this error", fault.type or "api_error"
    )
    return FaultResponse(Response(status, wire.encode(body)))


async def send_fault_response(
    struck: FaultResponse,
    receive: Receive,
    send: Send,
    request_id: bytes,
    pause: Callable[[float], Awaitable[None]],
    admission: Admission | None = None,
) -> None:
    """Send what the fault causes.

    pause: sleeps, and returns early when the server ends. admission: the rate limit's
    decision about the call; the fault's own takes precedence. Raises `ConnectionDropped` if
    there is no connection to drop.
    """
    response = struck.response
    if response is None:
        await (_reset if struck.manner == "reset" else drop_connection)(receive, send)
        return
    start = response_start(response, request_id, struck.admission or admission)
    if struck.manner == "reset":
        await _send_half(response, start, receive, send)
    elif struck.manner == "slow":
        await _send_slowly(response, start, send, struck.delay_s, pause)
    else:
        await send(start)
        await send({"type": "http.response.body", "body": response.body})


async def _send_slowly(
    response: Response,
    start: Mapping[str, Any],
    send: Send,
    delay_s: float,
    pause: Callable[[float], Awaitable[None]],
) -> None:
    """Send the headers at once, then the body in small pieces.

    Each pause is short, so that only a limit on the whole call ends it, not one on a read.
    """
    await send(dict(start))
    size = max(1, -(-len(response.body) // PIECES))
    for begin in range(0, len(response.body), size):
        await pause(delay_s / PIECES)
        piece = response.body[begin : begin + size]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _send_half(
    response: Response, start: Mapping[str, Any], receive: Receive, send: Send
) -> None:
    """Send the headers and half of the body, then reset the connection."""
    if transport_of(send) is not None:
        await send(dict(start))
        half = response.body[: len(response.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await asyncio.sleep(FLUSH_S)
    await _reset(receive, send)


async def _reset(receive: Receive, send: Send) -> None:
    transport = transport_of(send)
    if transport is not None:
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    await drop_connection(receive, send)
