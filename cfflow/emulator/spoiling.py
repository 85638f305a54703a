"""What becomes of an answer that a fault strikes, and how it goes out."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import Receive, Send

from cfflow.emulator import calls, wire
from cfflow.emulator.exchange import Answer, answer_start, drop_connection, transport_of
from cfflow.emulator.faults import Fault
from cfflow.emulator.limits import COUNTED_BY, TABLES, Admission
from cfflow.emulator.refusals import rate_limited

DRIPS = 20
# Whatever was written must have left the machine: a reset throws away what still waits.
FLUSH_S = 0.02

_PROXY_PAGE = b"<html><head><title>Gateway</title></head><body>Please wait</body></html>"
# Closing a socket that lingers for zero seconds sends a reset instead of an end.
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Spoiled:
    """An answer as a fault left it; None: nothing was answered.

    manner: it goes out whole, in drips over `delay_s`, breaks in the middle by a reset, or
    the connection drops without a word. admission: what its headers say of the rate limit.
    """

    answer: Answer | None
    manner: Literal["whole", "drips", "reset", "dropped"] = "whole"
    delay_s: float = 0.0
    admission: Admission | None = None


def unheard(fault: Fault, call: str) -> Spoiled | None:
    """The end of a call that the bank never hears of; None when it does hear of it."""
    if fault.kind == "lost_before":
        return Spoiled(None, "dropped")
    if fault.kind == "reset_before":
        return Spoiled(None, "reset")
    return with_status(fault, call) if fault.kind == "status_before" else None


def unlearned(fault: Fault, call: str, answer: Answer) -> Spoiled | Answer:
    """What the caller gets of a good answer; a delayed one is still good."""
    match fault.kind:
        case "lost_after":
            return Spoiled(None, "dropped")
        case "reset_after":
            return Spoiled(answer, "reset")
        case "slow_body":
            return Spoiled(answer, "drips", fault.delay_s)
        case "status_after":
            return with_status(fault, call)
        case "html":
            return Answer(fault.status or 200, _PROXY_PAGE, b"text/html")
        case "garbage":
            return Answer(fault.status or 200, answer.body[: len(answer.body) // 2])
    return answer


def with_status(fault: Fault, call: str) -> Spoiled:
    """An error of this status, in the gateway's words; a 429 with the headers of one."""
    status = fault.status or 500
    if status == 429:
        limit = TABLES["production"].get(call, TABLES["production"]["pay"])
        counted_by = COUNTED_BY.get(call, "app_id")
        admission = Admission(False, limit, 0, fault.retry_s, counted_by)
        return Spoiled(Answer(429, calls.refusal_body(rate_limited())), admission=admission)
    code = fault.code or ("bank_processing_failure" if status == 502 else "internal_error")
    body = wire.error(code, "the emulator was told to fail here", fault.type or "api_error")
    return Spoiled(Answer(status, wire.encode(body)))


async def send_spoiled(
    spoiled: Spoiled,
    receive: Receive,
    send: Send,
    request_id: bytes,
    pause: Callable[[float], Awaitable[None]],
    admission: Admission | None = None,
) -> None:
    """Do to the caller what the fault says.

    admission: what the rate limit said of the call, unless the fault says otherwise.
    pause: sleeps, unless the server is ending. Raises `ConnectionDropped` where there is
    no connection to drop.
    """
    answer = spoiled.answer
    if answer is None:
        await (_reset if spoiled.manner == "reset" else drop_connection)(receive, send)
        return
    start = answer_start(answer, request_id, spoiled.admission or admission)
    if spoiled.manner == "reset":
        await _break(answer, start, receive, send)
    elif spoiled.manner == "drips":
        await _drip(answer, start, send, spoiled.delay_s, pause)
    else:
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})


async def _drip(
    answer: Answer,
    start: Mapping[str, Any],
    send: Send,
    delay_s: float,
    pause: Callable[[float], Awaitable[None]],
) -> None:
    """Headers at once, then the body in small pieces: no single wait is a long one."""
    await send(dict(start))
    size = max(1, -(-len(answer.body) // DRIPS))
    for begin in range(0, len(answer.body), size):
        await pause(delay_s / DRIPS)
        piece = answer.body[begin : begin + size]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _break(answer: Answer, start: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Headers, half the body, and a reset."""
    if transport_of(send) is not None:
        await send(dict(start))
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await asyncio.sleep(FLUSH_S)
    await _reset(receive, send)


async def _reset(receive: Receive, send: Send) -> None:
    transport = transport_of(send)
    if transport is not None:
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    await drop_connection(receive, send)
