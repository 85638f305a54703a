"""Faults on demand: what a network, a proxy or a bank can do to one call.

A `*_before` fault strikes before the bank heard of the call, a `*_after` one when it has
done its work and the caller does not learn of it. `html`, `garbage` and `slow_body` strike
after. Which calls they strike is told by rules, or left to chance with a seed.
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
    "delay_before",  # late, then as usual: the effect comes even if the caller hung up
    "delay_after",  # done at once, answered late
    "lost_before",  # the connection drops, nothing was done
    "lost_after",  # the connection drops, everything was done
    "reset_before",  # the same by a TCP reset
    "reset_after",  # everything was done, and a TCP reset comes amid the answer
    "status_before",  # an error status, nothing was done
    "status_after",  # an error status, everything was done
    "status_stored",  # nothing was done, and the idempotency key replays the error
    "html",  # done, answered by a proxy's page
    "garbage",  # done, answered by half a JSON document
    "slow_body",  # done, headers at once, the body in drips
]

KINDS: tuple[Kind, ...] = get_args(Kind)
DELAY_S_MAX = 600

Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Delay = Annotated[float, msgspec.Meta(ge=0, le=DELAY_S_MAX)]
HttpStatus = Annotated[int, msgspec.Meta(ge=200, le=599)]


# An error's code or type: the gateway's are of small letters.
Word = Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,64}$")]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule: what happens to the next `count` calls that match.

    call: which call, or "any". kind: what happens. status: the HTTP status of `status_*`
    (500 unless given), `html` and `garbage` (200 unless given). delay_s: how long a
    `delay_*` or the drips of a `slow_body` take, in real seconds. count: how often, then the
    rule is gone; None for ever. order_id: only calls about this order. after: the first so
    many calls that match pass. probability: how likely a call that matches is struck.
    retry_s: what a 429 says of when to come again, in seconds. code, type: the error's own
    words in a `status_*`, where the usual ones are not what is wanted.
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
    code: Word | None = None
    type: Word | None = None

    def matches(self, call: str, order_id: str | None) -> bool:
        """Whether this call is one of those that the rule is about."""
        return self.call in ("any", call) and self.order_id in (None, order_id)


class Chaos(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults by chance, over every call that no rule strikes.

    The same seed strikes the same calls in the same way, if they come in the same order.
    kinds: drawn from with equal chances; every kind by default. calls: only these. statuses:
    what a `status_*` may answer. delay_s: what delays and drips take, in real seconds.
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
    """The rules that wait, oldest first: each call meets at most one fault.

    seed: of the chances. `struck` counts the calls that met a fault, by its kind.
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
        """Whether nothing can strike, so that a call need not be looked at."""
        return not self._rules and self._chaos is None

    @property
    def chaos(self) -> Chaos | None:
        """The faults by chance, if there are any."""
        return self._chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._chaos = chaos if chaos is not None and chaos.probability > 0 else None
        if chaos is not None:
            self._draws.seed(chaos.seed)

    def add(self, fault: Fault) -> None:
        """Let the next calls that match meet this fault, `fault.count` times."""
        self._rules.append(_Rule(fault, fault.count, fault.after))

    def clear(self) -> None:
        """Forget every rule and the chaos; chances are drawn from the seed again."""
        self._rules.clear()
        self._chaos = None
        self._chances.seed(self._seed)

    def waiting(self) -> list[Fault]:
        """The rules that still wait, with the count that is left."""
        replace = msgspec.structs.replace
        return [replace(rule.fault, count=rule.left, after=rule.passing) for rule in self._rules]

    def take(self, call: str, order_id: str | None) -> Fault | None:
        """The fault that this call meets, if any; it is used up by one."""
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
