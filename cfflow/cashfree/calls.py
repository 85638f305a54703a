"""The table of the gateway's calls: the client, its errors and the rate budget are driven by it.

A new call is one row here, one typed method in `gateway.py` and the answer's fields in `wire.py`
(CONTRIBUTING.md has the recipe). The emulator has a table of its own on purpose: it must not
inherit a mistake of this one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cfflow.cashfree.environment import path_segment
from cfflow.core.observation import Call

__all__ = ["LIMITED", "ROUTES", "Route"]


class PerMinute(NamedTuple):
    """How often an account may make a call in one minute, where nothing else is agreed."""

    production: int
    sandbox: int


class Route(NamedTuple):
    """One call: how it is sent, and what it means for the money.

    `path` has `{}` for each id. `moves`: it may move money or use up a customer's try, so a lost
    answer leaves its outcome unknown. `per_minute`: its own rate limit, None for none.
    `credentials`: whether it carries the account's; pay and authenticate do not, because the
    session and the attempt's id are bearer secrets themselves.
    """

    verb: str
    path: str
    moves: bool = False
    per_minute: PerMinute | None = None
    credentials: bool = True

    def path_of(self, ids: tuple[str, ...]) -> str:
        """Return the path with these ids, each quoted as exactly one segment."""
        return self.path.format(*map(path_segment, ids)) if ids else self.path


#: gateway.md#calls, gateway.md#rate-limits. The gateway publishes no sandbox limit for fetching
#: one payment; the lowest of the others is assumed.
ROUTES: Final = {
    Call.CREATE_ORDER: Route("POST", "/orders", per_minute=PerMinute(200, 30)),
    Call.FETCH_ORDER: Route("GET", "/orders/{}", per_minute=PerMinute(400, 60)),
    Call.FETCH_PAYMENTS: Route("GET", "/orders/{}/payments", per_minute=PerMinute(100, 30)),
    Call.FETCH_PAYMENT: Route("GET", "/orders/{}/payments/{}", per_minute=PerMinute(130, 30)),
    Call.PAY: Route(
        "POST", "/orders/sessions", moves=True, per_minute=PerMinute(100, 30), credentials=False
    ),
    Call.AUTHENTICATE: Route("POST", "/orders/pay/authenticate/{}", moves=True, credentials=False),
    Call.AUTHORIZE: Route("POST", "/orders/{}/authorization", moves=True),
    Call.SIMULATE: Route("POST", "/simulate"),
    Call.FETCH_SIMULATION: Route("GET", "/simulate/{}"),
}

#: The calls that have a rate limit, each a class of its own.
LIMITED: Final = {call: row.per_minute for call, row in ROUTES.items() if row.per_minute}
