"""Movements of money: the only code that changes an attempt's status or writes the ledger.

Each movement is one effect and is recorded once, at its time. Listeners (the webhooks) are
called after the attempt has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Literal

from cfflow.emulator.clock import Timers
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
# The `payment_message` of an open attempt, by its status.
WAITING: Mapping[Status, str] = {
    "PENDING": "Waiting for the customer",
    "NOT_ATTEMPTED": "The customer has not begun",
    "FLAGGED": "Held back for a risk check",
    "INCOMPLETE": "The customer has not finished",
}


# Called with the effect, its attempt, and its time in seconds since the epoch.
Listener = Callable[[Effect, Attempt, float], None]


class Movements:
    """Carries out what the bank decided, at once or at its due time."""

    def __init__(self, ids: Ids, timers: Timers, options: BankOptions) -> None:
        self.ledger: list[LedgerEntry] = []
        self.ledger_by_order: dict[str, list[LedgerEntry]] = {}
        self.listeners: list[Listener] = []
        self._ids = ids
        self._timers = timers
        self._options = options

    def clear(self) -> None:
        """Empty the ledger. The listeners stay."""
        self.ledger.clear()
        self.ledger_by_order.clear()

    def begin(self, attempt: Attempt, now_s: float) -> None:
        """Record a new attempt, and start the timers of its customer and of its limits."""
        self._record("attempt_created", attempt, attempt.amount, now_s)
        method = attempt.method
        scripts: dict[Script | None, Callable[[Attempt, float], None]] = {
            "approve": self._succeed,
            "decline": self._decline,
            "leave": self._leave,
            "late": self._decline_for_now,
        }
        if method.scripted in scripts:
            act = partial(scripts[method.scripted], attempt)
            self._timers.after(self._options.upi_approves_after_s, now_s, act)
        if method.deadline_at_s is not None and method.scripted != "never":
            self._timers.after(method.deadline_at_s - now_s, now_s, partial(self._expire, attempt))
        if self._options.closes_after_s is not None:
            self._timers.after(self._options.closes_after_s, now_s, partial(self._close, attempt))

    def settle(self, attempt: Attempt, now_s: float) -> None:
        """Let the attempt succeed after an accepted OTP, when the customer's bank is done."""
        self._timers.after(
            self._options.otp_settles_after_s, now_s, partial(self._succeed, attempt)
        )

    def fail(self, attempt: Attempt, failure: Failure, now_s: float) -> None:
        """End the attempt as FAILED; no money was taken."""
        self._end(attempt, "FAILED", "failed", "Transaction failed", now_s, failure)

    def capture(self, attempt: Attempt, amount: Decimal, now_s: float) -> None:
        """Take `amount` rupees of the hold; the rest is returned to the customer."""
        attempt.captured_amount = amount
        self._record("captured", attempt, amount, now_s)
        self._act(attempt, "CAPTURE", amount, now_s)

    def void(self, attempt: Attempt, now_s: float) -> None:
        """Release the whole hold for the merchant."""
        self._record("voided", attempt, attempt.amount, now_s)
        self._act(attempt, "VOID", None, now_s)

    def force(self, attempt: Attempt, status: Status, error: str | None, now_s: float) -> None:
        """Force a status. A failed attempt may succeed, as by a late authorization."""
        if status == "SUCCESS":
            self._succeed(attempt, now_s, late=True)
        elif status == "FAILED":
            failure = Failure(error, error.lower(), "bank", "simulated") if error else DECLINED
            self.fail(attempt, failure, now_s)
        elif status == "USER_DROPPED":
            self._drop(attempt, now_s)
        elif status == "CANCELLED":
            self._cancel(attempt, now_s)
        elif status == "VOID":
            self._release(attempt, now_s)
        else:
            attempt.status, attempt.failure, attempt.completed_at_s = status, None, None
            attempt.message = WAITING[status]

    def _succeed(self, attempt: Attempt, now_s: float, *, late: bool = False) -> None:
        if attempt.status == "CANCELLED":
            self._reverse(attempt, now_s)
            return
        if attempt.succeeded or not (attempt.open or late):
            return
        _finish(attempt, "SUCCESS", "Transaction successful", now_s)
        attempt.failure = None
        attempt.bank_reference = self._ids.reference()
        if attempt.holds:
            self._hold(attempt, now_s)
        else:
            attempt.captured_amount = attempt.amount
            self._record("captured", attempt, attempt.amount, now_s)

    def _hold(self, attempt: Attempt, now_s: float) -> None:
        mandate = attempt.method.mandate
        attempt.hold_ends_at_s = mandate.end_at_s if mandate else now_s + self._options.hold_s
        self._record("authorized", attempt, attempt.amount, now_s)
        self._timers.after(attempt.hold_ends_at_s - now_s, now_s, partial(self._release, attempt))

    def _act(
        self,
        attempt: Attempt,
        action: Literal["CAPTURE", "VOID"],
        amount: Decimal | None,
        now_s: float,
    ) -> None:
        done = HoldAction(action, "PENDING", amount, self._ids.reference(), now_s)
        attempt.hold_action = done
        self._timers.after(self._options.confirm_after_s, now_s, partial(_confirm, attempt, done))

    def _decline(self, attempt: Attempt, now_s: float) -> None:
        if attempt.open:
            self.fail(attempt, DECLINED, now_s)

    def _decline_for_now(self, attempt: Attempt, now_s: float) -> None:
        """Late authorization: fail the attempt now, and let it succeed later."""
        self._decline(attempt, now_s)
        come_back = partial(self._succeed, attempt, late=True)
        self._timers.after(self._options.late_after_s, now_s, come_back)

    def _leave(self, attempt: Attempt, now_s: float) -> None:
        if attempt.open:
            self._drop(attempt, now_s)

    def _expire(self, attempt: Attempt, now_s: float) -> None:
        if attempt.open:
            self.fail(attempt, UNANSWERED, now_s)

    def _close(self, attempt: Attempt, now_s: float) -> None:
        if attempt.open:
            self._cancel(attempt, now_s)

    def _cancel(self, attempt: Attempt, now_s: float) -> None:
        self._end(attempt, "CANCELLED", "cancelled", "The gateway closed the payment", now_s)

    def _reverse(self, attempt: Attempt, now_s: float) -> None:
        """Record that the bank took money too late and returned it to the customer."""
        if attempt.reversed_at_s is None:
            attempt.reversed_at_s = now_s
            self._record("reversed", attempt, attempt.amount, now_s)

    def _drop(self, attempt: Attempt, now_s: float) -> None:
        self._end(attempt, "USER_DROPPED", "dropped", "The customer left", now_s)

    def _end(
        self,
        attempt: Attempt,
        status: Status,
        effect: Effect,
        message: str,
        now_s: float,
        failure: Failure | None = None,
    ) -> None:
        """End an attempt that took no money; ending it twice the same way is one effect."""
        repeated = attempt.status == status
        attempt.failure = failure
        _finish(attempt, status, message, now_s)
        if not repeated:
            self._record(effect, attempt, attempt.amount, now_s)

    def _release(self, attempt: Attempt, now_s: float) -> None:
        if attempt.held:
            self._record("released", attempt, attempt.amount, now_s)
            _finish(attempt, "VOID", "The hold ran out", now_s)

    def _record(self, effect: Effect, attempt: Attempt, amount: Decimal, at_s: float) -> None:
        order_id = attempt.order.order_id
        entry = LedgerEntry(effect, order_id, str(attempt.cf_payment_id), amount, at_s)
        self.ledger.append(entry)
        self.ledger_by_order.setdefault(order_id, []).append(entry)
        for listener in self.listeners:
            listener(effect, attempt, at_s)


def _confirm(attempt: Attempt, action: HoldAction, now_s: float) -> None:
    """Confirm a capture or a void for the customer's bank; a void shows only after that."""
    action.status = "SUCCESS"
    if action.action == "VOID":
        _finish(attempt, "VOID", "The hold was given back", now_s)


def _finish(attempt: Attempt, status: Status, message: str, now_s: float) -> None:
    attempt.status, attempt.message, attempt.completed_at_s = status, message, now_s
