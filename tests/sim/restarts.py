"""When an order may count as verified after a restart of the store (design.md#restart).

A server that comes back may have lost commits, and the calls of lost steps may still be on their
way. An order takes part in the present history of the data when it begins in it, or once the
gateway was asked late enough; only then it opens a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from cfflow.core.chart import State
from cfflow.core.operation import Step
from cfflow.core.record import Record
from tests.sim.books import Books
from tests.sim.disk import Command
from tests.sim.network import Sent
from tests.sim.truth import world_s

#: An order that begins so soon after a restart may be one that the restart has lost.
_BEGUN_ANEW_S = 600.0
#: A call is surely over so long after its time limit, and two lists are so far apart.
_MARGIN_S = 15.0
#: Processes' clocks are wrong by less.
_SKEW_S = 0.1


class Restarts:
    """Follows the stamps of orders; `complain` is called for each that nothing has verified."""

    def __init__(
        self, books: Books, now: Callable[[], float], complain: Callable[[str], None]
    ) -> None:
        self._books = books
        self._now = now
        self._complain = complain
        self._stamps: dict[str, str] = {}
        self._payments: dict[str, Mapping[str, Record]] = {}

    def follow(self, command: Command, changed: Sequence[str]) -> None:
        """Look at the stamps of the orders that a command wrote."""
        for order_id in changed:
            payments = self._books.payments_of(order_id)
            before = self._payments.pop(order_id, {})
            was, is_now = self._stamps.pop(order_id, ""), self._stamp(order_id)
            if payments:
                self._stamps[order_id], self._payments[order_id] = is_now, payments
            if not was:
                self._check_begun(order_id, is_now)
            elif payments and is_now != was:
                self._check_verified(command, order_id, before)

    def roll_back(self) -> None:
        """The store has lost its last commits, and orders are verified in another history."""
        names = self._books.orders
        self._stamps = {name: self._stamp(name) for name in names}
        self._payments = {name: self._books.payments_of(name) for name in names}

    def _stamp(self, order_id: str) -> str:
        seen = self._books.orders.get(order_id)
        return "" if seen is None else seen.stored.stamp

    def _check_begun(self, order_id: str, stamp: str) -> None:
        """Check that an order which begins soon after a restart is not verified by that."""
        restart = self._books.restart
        soon = len(self._books.histories) > 1 and (
            self._now() < world_s(restart.since_at_ms) + _BEGUN_ANEW_S
        )
        if stamp and stamp != ("????????" if soon else restart.history):
            self._complain(f"{order_id}: began as verified in {stamp}")

    def _check_verified(
        self, command: Command, order_id: str, before: Mapping[str, Record]
    ) -> None:
        """Check that the gateway was asked late enough, and that no old key is used again."""
        who = f"{order_id}: verified by {command.process.name}"
        if self._stamp(order_id) != self._books.histories[-1]:
            self._complain(f"{who} in a history that is not the present one")
        flows = [self._books.flow_of(record.flow) for record in before.values()]
        ready_s = world_s(self._books.restart.since_at_ms) + _MARGIN_S - _SKEW_S
        ready_s += max(flow.pay.timeout_s for flow in flows)
        asked = [
            sent
            for sent in self._books.inquiries.get(order_id, ())
            if sent.call == "fetch_payments" and sent.at_s >= ready_s
        ]
        if not any(sent.process is command.process for sent in asked):
            self._complain(f"{who} without an inquiry since the restart")
        elif _may_have_lost_pay(before.values()) and not _far_apart(asked):
            self._complain(f"{who} with one inquiry, and a pay may be lost")
        kept = [
            n
            for n, r in self._books.payments_of(order_id).items()
            if n in before and before[n].nonce == r.nonce
        ]
        if kept:
            self._complain(f"{who}, and {kept[0]} has the nonce that it had")


def _may_have_lost_pay(payments: Iterable[Record]) -> bool:
    """Whether a pay is open, or one could have been made.

    A payment waits for it, or none is under way or has money.
    """
    records = list(payments)
    if any(r.operation is not None and r.operation.step is Step.PAY for r in records):
        return True
    if any(r.state is State.CREATED and not r.abandoned for r in records):
        return True
    has_money = {State.AUTHORIZED, State.CAPTURED}
    under_way = {State.INITIATED, State.OTP_PENDING}
    return not any(
        r.state in has_money or (r.state in under_way and not r.abandoned) for r in records
    )


def _far_apart(asked: Sequence[Sent]) -> bool:
    """Whether two of these inquiries were asked a margin apart."""
    times_s = [sent.at_s for sent in asked]
    return max(times_s) - min(times_s) >= _MARGIN_S - _SKEW_S
