"""Faults on demand: what a network, a proxy or a bank can do to one call.

A `*_before` fault strikes before the bank heard of the call, a `*_after` one when it has
done its work and the caller does not learn of it. `html` and `garbage` strike after.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Call = Literal[
    "any",
    "create_order",
    "fetch_order",
    "pay",
    "authenticate",
    "authorize",
    "fetch_payment",
    "fetch_payments",
    "simulate",
    "fetch_simulation",
]
Kind = Literal[
    "delay_before",  # late, then as usual: the effect comes even if the caller hung up
    "delay_after",  # done at once, answered late
    "lost_before",  # the connection drops, nothing was done
    "lost_after",  # the connection drops, everything was done
    "status_before",  # an error status, nothing was done
    "status_after",  # an error status, everything was done
    "status_stored",  # nothing was done, and the idempotency key replays the error
    "html",  # done, answered by a proxy's page
    "garbage",  # done, answered by half a JSON document
]

DELAY_S_MAX = 600


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule: what happens to the next `count` calls that match.

    call: which call, or "any". kind: what happens. status: the HTTP status of `status_*`
    (500 unless given), `html` and `garbage` (200 unless given). delay_s: how long a
    `delay_*` takes, in real seconds. count: how often, then the rule is gone. order_id:
    only calls about this order.
    """

    call: Call
    kind: Kind
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=DELAY_S_MAX)] = 5.0
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    order_id: str | None = None

    def matches(self, call: str, order_id: str | None) -> bool:
        """Whether this call is one of those that the rule is about."""
        return self.call in ("any", call) and self.order_id in (None, order_id)


class Faults:
    """The rules that wait, oldest first: each call meets at most one of them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Fault, int]] = []

    @property
    def empty(self) -> bool:
        """Whether no rule waits, so that a call need not be looked at."""
        return not self._waiting

    def add(self, fault: Fault) -> None:
        """Let the next calls that match meet this fault, `fault.count` times."""
        self._waiting.append((fault, fault.count))

    def clear(self) -> None:
        """Forget every rule that still waits."""
        self._waiting.clear()

    def waiting(self) -> list[Fault]:
        """The rules that still wait, with the count that is left."""
        return [msgspec.structs.replace(fault, count=left) for fault, left in self._waiting]

    def take(self, call: str, order_id: str | None) -> Fault | None:
        """The fault that this call meets, if any; it is used up by one."""
        for index, (fault, left) in enumerate(self._waiting):
            if fault.matches(call, order_id):
                self._waiting[index : index + 1] = [(fault, left - 1)] if left > 1 else []
                return fault
        return None
