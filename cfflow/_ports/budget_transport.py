"""The rate budget on the way to the gateway: counts calls, holds back, listens to answers.

It stands between the client and the sockets and knows a call by its method and path. What
must wait is answered here with the 429 that the gateway would have sent, so that the
client's one seam makes `RateLimited` of it: nothing was sent, so nothing is unknown.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import httpx
import msgspec

from cfflow._core.observation import Call
from cfflow._ports.budget import Budget, Said

__all__ = ["BudgetTransport"]

_TOO_MANY: Final = 429
#: As the seam has them: what a 429 means that does not say, and what nobody would mean.
_WAIT_S: Final = 60.0
_WAIT_MAX_S: Final = 3600.0

_LIMIT: Final = b"x-ratelimit-limit"
_REMAINING: Final = b"x-ratelimit-remaining"
_HELD_BACK: Final = msgspec.json.encode(
    {
        "message": "held back by the rate budget; nothing was sent",
        "code": "rate_budget",
        "type": "rate_limit_error",
    }
)


class BudgetTransport(httpx.AsyncBaseTransport):
    """Sends over `inner` what `budget` lets through.

    `base_url`: the gateway's; below it lie the paths of its calls. Closing it closes both.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, budget: Budget, base_url: str) -> None:
        self._inner = inner
        self._budget = budget
        self._base = len(httpx.URL(base_url).raw_path.rstrip(b"/"))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, or answer it here when it must wait; raises what `inner` raises."""
        call = _call_of(request.method, request.url.raw_path[self._base :])
        if call is None:
            return await self._inner.handle_async_request(request)
        wait_s = self._budget.enter(call)
        if wait_s:
            return _held_back(wait_s)
        response = await self._inner.handle_async_request(request)
        said = _said(response.status_code, response.headers.raw)
        if said is not None:
            self._budget.heard(call, said)
        return response

    async def aclose(self) -> None:
        """Tell the others what they do not know yet, and close the connections."""
        try:
            await self._budget.aclose()
        finally:
            await self._inner.aclose()


def _call_of(method: str, path: bytes) -> Call | None:
    """Return the class of a call that has a limit, None for one that has none."""
    match (method, *path.split(b"/")[1:]):
        case "GET", b"orders", _, b"payments", _:
            return Call.FETCH_PAYMENT
        case "GET", b"orders", _, b"payments":
            return Call.FETCH_PAYMENTS
        case "GET", b"orders", _:
            return Call.FETCH_ORDER
        case "POST", b"orders":
            return Call.CREATE_ORDER
        case "POST", b"orders", b"sessions":
            return Call.PAY
    return None


def _held_back(wait_s: float) -> httpx.Response:
    headers = {"x-ratelimit-retry": f"{wait_s:.3f}"}
    return httpx.Response(_TOO_MANY, headers=headers, content=_HELD_BACK)


def _said(status: int, headers: list[tuple[bytes, bytes]]) -> Said | None:
    """Return what an answer says of its limit, None where it says nothing."""
    # httpx looks a header up by walking over all of them, four times for these four.
    fields = dict(headers)
    if _LIMIT not in fields:
        fields = {name.lower(): value for name, value in headers}
    if _LIMIT not in fields and _REMAINING not in fields and status != _TOO_MANY:
        return None
    limit, remaining = _whole(fields.get(_LIMIT)), _whole(fields.get(_REMAINING))
    wait_s = _wait_s(headers) if status == _TOO_MANY or remaining == 0 else 0.0
    return Said(limit or None, remaining, wait_s, fields.get(b"x-ratelimit-type") == b"ip")


def _whole(text: bytes | None) -> int | None:
    """Return a header's number, None where it has none or one that makes no sense."""
    return int(text) if text is not None and text.isdigit() and len(text) < 10 else None


def _wait_s(headers: list[tuple[bytes, bytes]]) -> float:
    """Return how many seconds the gateway, or a proxy before it, wants no call.

    The first header that names a sane number counts. The pages write them in different case.
    """
    fields = {name.lower(): value for name, value in headers}
    for name in (b"x-ratelimit-retry", b"x-ratelimit-reset", b"retry-after"):
        with suppress(ValueError):
            wait_s = float(fields.get(name, b""))
            if 0 <= wait_s <= _WAIT_MAX_S:
                return wait_s
    return _WAIT_S
