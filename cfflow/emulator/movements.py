"""What happens to an attempt: the only place that changes its status or writes the ledger.

Each movement is one effect, recorded once, at the time it happened; whoever listens (the
webhooks) is told of it when the attempt looks as it leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Literal

from cfflow.emulator.ids import Ids
from cfflow.emulator.records import (
    Attempt,
    BankOptions,
    Effect,
    Failure,
    HoldAction,
    LedgerEntry,
    Script,
    Status,
)
from cfflow.emulator.timers import Timers

DECLINED = Failure(
    "TRANSACTION_DECLINED", "auth_declined", "customer", "the bank declined the payment"
)
UNANSWERED = Failure(
    "TRANSACTION_EXPIRED",
    "upi_collect_expired",
    "customer",
    "the customer did not answer in time",
    "U69",
    "COLLECT EXPIRED",
)
# What an attempt says of itself while somebody has yet to answer.
WAITING: Mapping[Status, str] = {
    "PENDING": "Waiting for the customer",
    "NOT_ATTEMPTED": "The customer has not begun",
    "FLAGGED": "Held back for a risk check",
    "INCOMPLETE": "The customer has not finished",
}


# What happened, to which attempt, and when (seconds since the epoch).
Listener = Callable[[Effect, Attempt, float], None]


class Movements:
    """Carries out what the bank decided, now or when its time has come."""

    def __init__(self, ids: Ids, timers: Timers, options: BankOptions) -> None:
        self.ledger: list[LedgerEntry] = []
        self.ledger_by_order: dict[str, list[LedgerEntry]] = {}
        self.listeners: list[Listener] = []
        self._ids = ids
        self._timers = timers
        self._options = options

    def clear(self) -> None:
        """Empty the ledger; whoever listens goes on listening."""
        self.ledger.clear()
        self.ledger_by_order.clear()

    def begin(self, attempt: Attempt, now: float) -> None:
        """A new attempt, and what its customer will do without being asked."""
        self._record("attempt_created", attempt, attempt.amount, now)
        method = attempt.method
        scripts: dict[Script | None, Callable[[Attempt, float], None]] = {
            "approve": self._succeed,
            "decline": self._decline,
            "leave": self._leave,
            "late": self._decline_for_now,
        }
        if method.scripted in scripts:
            answer = partial(scripts[method.scripted], attempt)
            self._timers.after(self._options.upi_approves_after_s, now, answer)
        if method.answer_by is not None and method.scripted != "never":
            self._timers.after(method.answer_by - now, now, partial(self._expire, attempt))
        if self._options.closes_after_s is not None:
            self._timers.after(self._options.closes_after_s, now, partial(self._close, attempt))

    def settle(self, attempt: Attempt, now: float) -> None:
        """The OTP was right; the money moves when the customer's bank says so."""
        self._timers.after(self._options.otp_settles_after_s, now, partial(self._succeed, attempt))

    def fail(self, attempt: Attempt, failure: Failure, now: float) -> None:
        """The attempt is over, and nothing was taken."""
        self._end(attempt, "FAILED", "failed", "Transaction failed", now, failure)

    def capture(self, attempt: Attempt, amount: Decimal, now: float) -> None:
        """Take `amount` rupees out of the hold, once; the rest goes back to the customer."""
        attempt.captured_amount = amount
        self._record("captured", attempt, amount, now)
        self._act(attempt, "CAPTURE", amount, now)

    def void(self, attempt: Attempt, now: float) -> None:
        """Give the whole hold back, once."""
        self._record("voided", attempt, attempt.amount, now)
        self._act(attempt, "VOID", None, now)

    def force(self, attempt: Attempt, status: Status, error: str | None, now: float) -> None:
        """A status by somebody's word: one that failed may come back, as banks do answer late."""
        if status == "SUCCESS":
            self._succeed(attempt, now, late=True)
        elif status == "FAILED":
            failure = Failure(error, error.lower(), "bank", "simulated") if error else DECLINED
            self.fail(attempt, failure, now)
        elif status == "USER_DROPPED":
            self._drop(attempt, now)
        elif status == "CANCELLED":
            self._cancel(attempt, now)
        elif status == "VOID":
            self._release(attempt, now)
        else:
            attempt.status, attempt.failure, attempt.completed_at = status, None, None
            attempt.message = WAITING[status]

    def _succeed(self, attempt: Attempt, now: float, *, late: bool = False) -> None:
        if attempt.status == "CANCELLED":
            self._reverse(attempt, now)
            return
        if attempt.succeeded or not (attempt.open or late):
            return
        _finish(attempt, "SUCCESS", "Transaction successful", now)
        attempt.failure = None
        attempt.bank_reference = self._ids.reference()
        if attempt.holds:
            self._hold(attempt, now)
        else:
            attempt.captured_amount = attempt.amount
            self._record("captured", attempt, attempt.amount, now)

    def _hold(self, attempt: Attempt, now: float) -> None:
        mandate = attempt.method.mandate
        attempt.hold_until = mandate.end_at if mandate else now + self._options.hold_s
        self._record("authorized", attempt, attempt.amount, now)
        self._timers.after(attempt.hold_until - now, now, partial(self._release, attempt))

    def _act(
        self,
        attempt: Attempt,
        action: Literal["CAPTURE", "VOID"],
        amount: Decimal | None,
        now: float,
    ) -> None:
        done = HoldAction(action, "PENDING", amount, self._ids.reference(), now)
        attempt.hold_action = done
        self._timers.after(self._options.confirm_after_s, now, partial(_confirm, attempt, done))

    def _decline(self, attempt: Attempt, now: float) -> None:
        if attempt.open:
            self.fail(attempt, DECLINED, now)

    def _decline_for_now(self, attempt: Attempt, now: float) -> None:
        """Late authorization: the bank says no, and pays after all."""
        self._decline(attempt, now)
        come_back = partial(self._succeed, attempt, late=True)
        self._timers.after(self._options.late_after_s, now, come_back)

    def _leave(self, attempt: Attempt, now: float) -> None:
        if attempt.open:
            self._drop(attempt, now)

    def _expire(self, attempt: Attempt, now: float) -> None:
        if attempt.open:
            self.fail(attempt, UNANSWERED, now)

    def _close(self, attempt: Attempt, now: float) -> None:
        if attempt.open:
            self._cancel(attempt, now)

    def _cancel(self, attempt: Attempt, now: float) -> None:
        self._end(attempt, "CANCELLED", "cancelled", "The gateway closed the payment", now)

    def _reverse(self, attempt: Attempt, now: float) -> None:
        """Too late: the bank took the money, and the customer has it back."""
        if attempt.reversed_at is None:
            attempt.reversed_at = now
            self._record("reversed", attempt, attempt.amount, now)

    def _drop(self, attempt: Attempt, now: float) -> None:
        self._end(attempt, "USER_DROPPED", "dropped", "The customer left", now)

    def _end(
        self,
        attempt: Attempt,
        status: Status,
        effect: Effect,
        message: str,
        now: float,
        failure: Failure | None = None,
    ) -> None:
        """End an attempt that took no money; ending it twice the same way is one effect."""
        repeated = attempt.status == status
        attempt.failure = failure
        _finish(attempt, status, message, now)
        if not repeated:
            self._record(effect, attempt, attempt.amount, now)

    def _release(self, attempt: Attempt, now: float) -> None:
        if attempt.held:
            self._record("released", attempt, attempt.amount, now)
            _finish(attempt, "VOID", "The hold ran out", now)

    def _record(self, effect: Effect, attempt: Attempt, amount: Decimal, at: float) -> None:
        order_id = attempt.order.order_id
        entry = LedgerEntry(effect, order_id, str(attempt.cf_payment_id), amount, at)
        self.ledger.append(entry)
        self.ledger_by_order.setdefault(order_id, []).append(entry)
        for listener in self.listeners:
            listener(effect, attempt, at)


def _confirm(attempt: Attempt, action: HoldAction, now: float) -> None:
    """The customer's bank confirms a capture or a void; only then is a void visible."""
    action.status = "SUCCESS"
    if action.action == "VOID":
        _finish(attempt, "VOID", "The hold was given back", now)


def _finish(attempt: Attempt, status: Status, message: str, now: float) -> None:
    attempt.status, attempt.message, attempt.completed_at = status, message, now
