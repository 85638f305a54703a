"""The rate budget on the way to the gateway: counts calls, holds them back, reads the headers.

It stands between the client and the sockets. A call that must wait ends here in `HeldBack`, of
which failures.py makes `RateLimited`: nothing was sent, so no outcome is unknown.
"""

from __future__ import annotations

from typing import Final

import httpx

from cfflow.cashfree import facts
from cfflow.cashfree.failures import HeldBack, retry_after_s
from cfflow.cashfree.sending import GatewayAnswer, GatewayRequest, Sender, sender_of
from cfflow.limits.budget import Budget, LimitHeaders

_TOO_MANY: Final = 429

_LIMIT: Final = facts.LIMIT_HEADER.encode()
_REMAINING: Final = facts.REMAINING_HEADER.encode()
_TYPE: Final = facts.LIMIT_TYPE_HEADER.encode()
_BY_ADDRESS: Final = facts.LIMIT_BY_ADDRESS.encode()


class BudgetTransport:
    """Sends over `inner` what `budget` lets through. Closing it closes both."""

    def __init__(self, inner: httpx.AsyncBaseTransport | Sender, budget: Budget) -> None:
        self._inner = sender_of(inner)
        self._budget = budget
        #: `HeldBack` is known to be one without being in here.
        self.never_sent = self._inner.never_sent

    async def send(self, request: GatewayRequest) -> GatewayAnswer:
        """Send the request, or raise `HeldBack` when it must wait; raises what `inner` raises."""
        wait_s = self._budget.enter(request.call)
        if wait_s:
            raise HeldBack(wait_s)
        answer = await self._inner.send(request)
        headers = _limit_headers(answer)
        if headers is not None:
            self._budget.apply_limit_headers(request.call, headers)
        return answer

    async def aclose(self) -> None:
        """Report what the ledger lacks, and close the connections."""
        try:
            await self._budget.aclose()
        finally:
            await self._inner.aclose()


def _limit_headers(answer: GatewayAnswer) -> LimitHeaders | None:
    """Return what an answer's headers contain about its limit, None where they have nothing."""
    fields, status = answer.fields, answer.status
    if _LIMIT not in fields and _REMAINING not in fields and status != _TOO_MANY:
        return None
    limit, remaining = _whole(fields.get(_LIMIT)), _whole(fields.get(_REMAINING))
    wait_s = retry_after_s(answer) if status == _TOO_MANY or remaining == 0 else 0.0
    return LimitHeaders(limit or None, remaining, wait_s, fields.get(_TYPE) == _BY_ADDRESS)


def _whole(text: bytes | None) -> int | None:
    """Return a header's number, None where it has none or an impossible one."""
    return int(text) if text is not None and text.isdigit() and len(text) < 10 else None
