"""Faults on demand: failures of a network, a proxy or a bank during one call.

A `*_before` fault strikes before the call reaches the bank. A `*_after` fault strikes when
the bank has done its work, so that the client does not get the result; so do `html`,
`garbage` and `slow_body`. Rules or a seeded random choice select the calls.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import msgspec

Call = Literal[
    "any",
    "create_order",
    "fetch_order",
    "terminate_order",
    "pay",
    "authenticate",
    "authorize",
    "fetch_payment",
    "fetch_payments",
    "simulate",
    "fetch_simulation",
]
Kind = Literal[
    "delay_before",  # late, then as usual; the call is done even if the client disconnects
    "delay_after",  # the call is done at once, the response is late
    "lost_before",  # the connection drops, the call is not done
    "lost_after",  # the connection drops, the call is done
    "reset_before",  # as lost_before, by a TCP reset
    "reset_after",  # the call is done, and a TCP reset comes in the middle of the response
    "status_before",  # an error status, the call is not done
    "status_after",  # an error status, the call is done
    "status_stored",  # not done; the error is stored under the idempotency key
    "html",  # done; the response is a proxy's page
    "garbage",  # done; the response is half a JSON document
    "slow_body",  # done; headers at once, the body slowly in pieces
]

KINDS: tuple[Kind, ...] = get_args(Kind)
DELAY_S_MAX = 600

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Delay = Annotated[float, msgspec.Meta(ge=0, le=DELAY_S_MAX)]
HttpStatus = Annotated[int, msgspec.Meta(ge=200, le=599)]


# The code or type of an error: lower case, as the gateway's are.
ErrorName = Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,64}$")]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule: what happens to the next `count` calls that match.

    call: the name of a call, or "any". kind: what happens. status: the HTTP status of
    `status_*` (default 500), `html` and `garbage` (default 200). delay_s: the duration of a
    `delay_*` or of a `slow_body`, in real seconds. count: how many calls it strikes before it
    is removed; None: no limit. order_id: only calls for this order. after: how many matching
    calls pass first. probability: how likely it strikes a matching call. retry_s: the
    `x-ratelimit-retry` of a 429. code, type: the error's code and type in a `status_*`,
    instead of the usual ones.
    """

    call: Call
    kind: Kind
    status: HttpStatus | None = None
    delay_s: Delay = 5.0
    count: Annotated[int, msgspec.Meta(ge=1)] | None = 1
    order_id: str | None = None
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    probability: Chance = 1.0
    retry_s: Annotated[int, msgspec.Meta(ge=0)] = 60
    code: ErrorName | None = None
    type: ErrorName | None = None

    def matches(self, call: str, order_id: str | None) -> bool:
        """Return whether the rule applies to this call."""
        return self.call in ("any", call) and self.order_id in (None, order_id)


class Chaos(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Random faults, for calls that no rule strikes.

    The same seed gives the same faults, if the calls come in the same order. kinds: each is
    equally likely; every kind by default. calls: only these calls. statuses: for `status_*`.
    delay_s: the duration of delays and slow bodies, in real seconds.
    """

    seed: int = 0
    probability: Chance
    kinds: Annotated[tuple[Kind, ...], msgspec.Meta(min_length=1)] = KINDS
    calls: Annotated[tuple[Call, ...], msgspec.Meta(min_length=1)] = ("any",)
    statuses: Annotated[tuple[HttpStatus, ...], msgspec.Meta(min_length=1)] = (500, 502, 503, 504)
    delay_s: Delay = 0.2


@dataclass(slots=True)
class _Rule:
    fault: Fault
    left: int | None
    passing: int


class Faults:
    """The rules, oldest first. At most one fault strikes a call.

    seed: of the random choices. `struck` counts the calls with a fault, by its kind.
    """

    def __init__(self, seed: int = 0) -> None:
        self.struck = Counter[str]()
        self._rules: list[_Rule] = []
        self._chaos: Chaos | None = None
        self._seed = seed
        self._chances = random.Random(seed)  # noqa: S311  a run can be repeated by its seed
        self._draws = random.Random(seed)  # noqa: S311  a run can be repeated by its seed

    @property
    def empty(self) -> bool:
        """Whether no fault can strike."""
        return not self._rules and self._chaos is None

    @property
    def chaos(self) -> Chaos | None:
        """The random faults, or None."""
        return self._chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._chaos = chaos if chaos is not None and chaos.probability > 0 else None
        if chaos is not None:
            self._draws.seed(chaos.seed)

    def add(self, fault: Fault) -> None:
        """Add a rule after the others."""
        self._rules.append(_Rule(fault, fault.count, fault.after))

    def clear(self) -> None:
        """Remove every rule and the random faults; restart the random choices at the seed."""
        self._rules.clear()
        self._chaos = None
        self._chances.seed(self._seed)

    def waiting(self) -> list[Fault]:
        """Return the remaining rules, with the counts that are left."""
        replace = msgspec.structs.replace
        return [replace(rule.fault, count=rule.left, after=rule.passing) for rule in self._rules]

    def take(self, call: str, order_id: str | None) -> Fault | None:
        """Return the fault of this call, or None, and count it down."""
        fault = self._by_rule(call, order_id) or self._by_chance(call)
        if fault is not None:
            self.struck[fault.kind] += 1
        return fault

    def _by_rule(self, call: str, order_id: str | None) -> Fault | None:
        for index, rule in enumerate(self._rules):
            if not rule.fault.matches(call, order_id):
                continue
            if rule.passing:
                rule.passing -= 1
            elif rule.fault.probability == 1 or self._chances.random() < rule.fault.probability:
                if rule.left is not None:
                    rule.left -= 1
                if rule.left == 0:
                    del self._rules[index]
                return rule.fault
        return None

    def _by_chance(self, call: str) -> Fault | None:
        chaos = self._chaos
        if chaos is None or not {"any", call} & set(chaos.calls):
            return None
        if self._draws.random() >= chaos.probability:
            return None
        kind = self._draws.choice(chaos.kinds)
        status = self._draws.choice(chaos.statuses) if kind.startswith("status") else None
        return Fault(call="any", kind=kind, status=status, delay_s=chaos.delay_s)
