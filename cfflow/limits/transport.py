"""The rate budget on the way to the gateway: counts calls, holds them back, reads the headers.

It stands between the client and the sockets. A call that must wait gets the 429 here that the
gateway would have sent, so that failures.py makes `RateLimited` of it: nothing was sent, so no
outcome is unknown.
"""

from __future__ import annotations

from typing import Final

import httpx
import msgspec

from cfflow.cashfree import facts
from cfflow.cashfree.failures import retry_after_s
from cfflow.core.observation import Call
from cfflow.limits.budget import Budget, LimitHeaders

_TOO_MANY: Final = 429

_LIMIT: Final = facts.LIMIT_HEADER.encode()
_REMAINING: Final = facts.REMAINING_HEADER.encode()
_TYPE: Final = facts.LIMIT_TYPE_HEADER.encode()
_BY_ADDRESS: Final = facts.LIMIT_BY_ADDRESS.encode()
_HELD_BACK: Final = msgspec.json.encode(
    {
        "message": "held back by the rate budget; nothing was sent",
        "code": "rate_budget",
        "type": "rate_limit_error",
    }
)


class BudgetTransport(httpx.AsyncBaseTransport):
    """Sends over `inner` what `budget` lets through. Closing it closes both.

    The client puts into each request which call it is: `extensions["cfflow.call"]`.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, or return a 429 when it must wait; raises what `inner` raises."""
        call: Call = request.extensions["cfflow.call"]
        wait_s = self._budget.enter(call)
        if wait_s:
            return _held_back(wait_s)
        response = await self._inner.handle_async_request(request)
        headers = _limit_headers(response)
        if headers is not None:
            self._budget.apply_limit_headers(call, headers)
        return response

    async def aclose(self) -> None:
        """Report what the ledger lacks, and close the connections."""
        try:
            await self._budget.aclose()
        finally:
            await self._inner.aclose()


def _held_back(wait_s: float) -> httpx.Response:
    headers = {facts.RETRY_HEADER: f"{wait_s:.3f}"}
    return httpx.Response(_TOO_MANY, headers=headers, content=_HELD_BACK)


def _limit_headers(response: httpx.Response) -> LimitHeaders | None:
    """Return what an answer's headers contain about its limit, None where they have nothing."""
    # httpx looks a header up by walking over all of them, four times for these four.
    fields = dict(response.headers.raw)
    if _LIMIT not in fields:
        fields = {name.lower(): value for name, value in response.headers.raw}
    status = response.status_code
    if _LIMIT not in fields and _REMAINING not in fields and status != _TOO_MANY:
        return None
    limit, remaining = _whole(fields.get(_LIMIT)), _whole(fields.get(_REMAINING))
    wait_s = retry_after_s(response.headers) if status == _TOO_MANY or remaining == 0 else 0.0
    return LimitHeaders(limit or None, remaining, wait_s, fields.get(_TYPE) == _BY_ADDRESS)


def _whole(text: bytes | None) -> int | None:
    """Return a header's number, None where it has none or an impossible one."""
    return int(text) if text is not None and text.isdigit() and len(text) < 10 else None
