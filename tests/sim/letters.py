"""Notifications that lie beside an order until an inquiry has settled them.

One must not get lost: what the gateway reported is what the store has, or an inquiry that was
asked after the notification came could show it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from cfflow.core.chart import HOLDS, State
from cfflow.core.record import Record
from cfflow.store.protocol import Notification, Notified
from tests.sim.books import Books
from tests.sim.disk import Command
from tests.sim.network import Sent
from tests.sim.truth import world_s

#: What stands for every attempt: more notifications came than are kept one by one.
_EVERY = "*"
#: Processes' clocks are wrong by less.
_SKEW_S = 0.1


class Letters:
    """Follows the notifications of every order; `complain` is called for each that got lost."""

    def __init__(
        self,
        books: Books,
        now: Callable[[], float],
        complain: Callable[[str], None],
    ) -> None:
        self._books = books
        self._now = now
        self._complain = complain
        #: By order: attempt → what is stored of its notification. Last seen so.
        self._open: dict[str, dict[str, str]] = {}
        #: When a notification came: by order, attempt, and what is stored of it.
        self._came_s: dict[tuple[str, str, str], float] = {}
        self._numbers: dict[str, int] = {}

    def follow(self, command: Command, done: object, changed: Sequence[str]) -> None:
        """Look at the notifications after a command."""
        if isinstance(done, Notified):
            self._notified(command.args[0], done)
        for order_id in changed:
            self._committed(command, order_id)
        for order_id in self._books.touched:
            notices = self._books.orders[order_id].stored.notices
            if notices != self._open.get(order_id, {}):
                self._complain(f"{order_id}: its notifications changed by {command.name}")

    def roll_back(self) -> None:
        """The store has lost its last commits, and its last notifications with them."""
        orders = self._books.orders.items()
        self._open = {name: dict(seen.stored.notices) for name, seen in orders}
        self._numbers.clear()

    def _notified(self, notification: Notification, done: Notified) -> None:
        """A notification that reports something new must lie beside its order now."""
        order_id, attempt = notification.order_id, notification.cf_payment_id
        seen = self._books.orders.get(order_id)
        if seen is None:
            return
        states = [
            record.state.value
            for record in self._books.payments_of(order_id).values()
            if record.cf_payment_id == attempt
        ]
        kept = attempt if attempt in seen.stored.notices else _EVERY
        if notification.reported_state in states:
            # What the record shows already makes nothing due.
            if done.is_news:
                self._complain(f"{order_id}: {attempt} was {states[0]} before it was notified so")
            return
        if not done.is_news or kept not in seen.stored.notices:
            self._complain(f"{order_id}: the notification about {attempt} got lost")
            return
        text = seen.stored.notices[kept]
        number = int(text.partition(":")[0])
        if number <= self._numbers.get(order_id, 0):
            self._complain(f"{order_id}: notification {number} came after a higher number")
        self._numbers[order_id] = number
        self._came_s.setdefault((order_id, kept, text), self._now())
        self._open.setdefault(order_id, {})[kept] = text

    def _committed(self, command: Command, order_id: str) -> None:
        """Check that each notification which a commit has removed was settled."""
        seen = self._books.orders.get(order_id)
        left = {} if seen is None else dict(seen.stored.notices)
        for attempt, text in self._open.get(order_id, {}).items():
            if attempt not in left and not self._settled(command, order_id, attempt, text):
                self._complain(f"{order_id}: a commit removed the notification about {attempt}")
        self._open[order_id] = {name: self._open.get(order_id, {}).get(name, "") for name in left}

    def _settled(self, command: Command, order_id: str, attempt: str, text: str) -> bool:
        """Whether a payment shows what was reported, or an inquiry asked since could show it."""
        payments = self._books.payments_of(order_id).values()
        owners = [record for record in payments if record.cf_payment_id == attempt]
        if owners and owners[0].state == text.partition(":")[2]:
            return True
        came_s = self._came_s[order_id, attempt, text]
        about = [record for record in payments if _may_be_about(record, came_s)]
        if not owners and any(world_s(record.asked_at_ms) < came_s - _SKEW_S for record in about):
            return False
        return any(
            sent.process is command.process
            and sent.at_s >= came_s
            and _shows(sent, attempt, payments)
            for sent in self._books.inquiries.get(order_id, ())
        )


def _may_be_about(record: Record, came_s: float) -> bool:
    """Whether a notification about an attempt that no payment owns concerns this payment.

    Not one that began after the notification came: the attempt cannot be its own.
    """
    waits = record.state is State.CREATED and record.cf_payment_id is None
    return world_s(record.created_at_ms) <= came_s and (waits or record.state in HOLDS)


def _shows(sent: Sent, attempt: str, payments: Collection[Record]) -> bool:
    """Whether this inquiry could show what was reported about an attempt."""
    if sent.call == "fetch_payment":
        return sent.ids[-1] == attempt
    if sent.call == "fetch_order":
        # The order shows an attempt of a payment that has none yet, and of no other one.
        attempts = {record.cf_payment_id for record in payments} - {None}
        return attempt not in attempts and not (attempt == _EVERY and attempts)
    return sent.call == "fetch_payments"
