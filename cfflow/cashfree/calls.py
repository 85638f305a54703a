"""The table of the gateway's calls (gateway.md#calls): it drives client, errors and rate budget.

A new call is one row here, one typed method in `gateway.py`, the fields of its response in
`wire.py`, and its number of calls per minute in `facts.py` if it is limited. CONTRIBUTING.md has
the recipe. The emulator has a table of its own on purpose: a mistake here is not repeated there.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from cfflow.cashfree.environment import path_segment
from cfflow.core.observation import Call


class Route(NamedTuple):
    """One call: how it is sent, and what it means for the money.

    `path` has `{}` for each id. `moves`: it may move money or use up a customer's try, so a lost
    answer leaves its outcome unknown. `limited_by`: what its rate limit counts, the calls of the
    account or of this machine's address; None where it has no limit. `credentials`: whether it
    carries the account's. Pay and authenticate do not (gateway.md#hosts): the session and the
    attempt's id are the secrets.
    """

    verb: str
    path: str
    moves: bool = False
    limited_by: Literal["account", "address"] | None = None
    credentials: bool = True

    def path_of(self, ids: tuple[str, ...]) -> str:
        """Return the path with these ids, each quoted as exactly one segment."""
        return self.path.format(*map(path_segment, ids)) if ids else self.path


ROUTES: Final = {
    Call.CREATE_ORDER: Route("POST", "/orders", limited_by="account"),
    Call.FETCH_ORDER: Route("GET", "/orders/{}", limited_by="account"),
    Call.FETCH_PAYMENTS: Route("GET", "/orders/{}/payments", limited_by="account"),
    Call.FETCH_PAYMENT: Route("GET", "/orders/{}/payments/{}", limited_by="account"),
    Call.PAY: Route(
        "POST", "/orders/sessions", moves=True, limited_by="address", credentials=False
    ),
    Call.AUTHENTICATE: Route("POST", "/orders/pay/authenticate/{}", moves=True, credentials=False),
    Call.AUTHORIZE: Route("POST", "/orders/{}/authorization", moves=True),
    Call.SIMULATE: Route("POST", "/simulate"),
    Call.FETCH_SIMULATION: Route("GET", "/simulate/{}"),
}
