"""The table of the gateway's calls (gateway.md#calls): the client and its errors are driven by it.

A new call is one row here, one typed method in `gateway.py`, the fields of its response in
`wire.py`, and its rate limit in `facts.py` if it has one. CONTRIBUTING.md has the recipe. The
emulator has a table of its own on purpose: it must not inherit a mistake of this one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cfflow.cashfree.environment import path_segment
from cfflow.core.observation import Call

__all__ = ["ROUTES", "Route"]


class Route(NamedTuple):
    """One call: how it is sent, and what it means for the money.

    `path` has `{}` for each id. `moves`: it may move money or use up a customer's try, so a lost
    answer leaves its outcome unknown. `credentials`: whether it carries the account's. Pay and
    authenticate do not (gateway.md#hosts): the session and the attempt's id are the secrets.
    """

    verb: str
    path: str
    moves: bool = False
    credentials: bool = True

    def path_of(self, ids: tuple[str, ...]) -> str:
        """Return the path with these ids, each quoted as exactly one segment."""
        return self.path.format(*map(path_segment, ids)) if ids else self.path


ROUTES: Final = {
    Call.CREATE_ORDER: Route("POST", "/orders"),
    Call.FETCH_ORDER: Route("GET", "/orders/{}"),
    Call.FETCH_PAYMENTS: Route("GET", "/orders/{}/payments"),
    Call.FETCH_PAYMENT: Route("GET", "/orders/{}/payments/{}"),
    Call.PAY: Route("POST", "/orders/sessions", moves=True, credentials=False),
    Call.AUTHENTICATE: Route("POST", "/orders/pay/authenticate/{}", moves=True, credentials=False),
    Call.AUTHORIZE: Route("POST", "/orders/{}/authorization", moves=True),
    Call.SIMULATE: Route("POST", "/simulate"),
    Call.FETCH_SIMULATION: Route("GET", "/simulate/{}"),
}
