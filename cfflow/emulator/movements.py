"""What happens to an attempt: the only place that changes its status or writes the ledger.

Each movement is one effect, recorded once, at the time it happened. Later listeners (a
webhook, a page that waits) belong here, beside the ledger.
"""

from __future__ import annotations

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
    Status,
)
from cfflow.emulator.timers import Timers

DECLINED = Failure(
    "TRANSACTION_DECLINED", "auth_declined", "customer", "the bank declined the payment"
)


class Movements:
    """Carries out what the bank decided, now or when its time has come."""

    def __init__(self, ids: Ids, timers: Timers, options: BankOptions) -> None:
        self.ledger: list[LedgerEntry] = []
        self.ledger_by_order: dict[str, list[LedgerEntry]] = {}
        self._ids = ids
        self._timers = timers
        self._options = options

    def begin(self, attempt: Attempt, now: float) -> None:
        """A new attempt, and what its customer will do without being asked."""
        self._record("attempt_created", attempt, attempt.amount, now)
        scripts = {"approve": self._succeed, "decline": self._decline}
        if attempt.method.scripted is not None:
            answer = partial(scripts[attempt.method.scripted], attempt)
            self._timers.after(self._options.upi_approves_after_s, now, answer)
        if self._options.closes_after_s is not None:
            self._timers.after(self._options.closes_after_s, now, partial(self._close, attempt))

    def settle(self, attempt: Attempt, now: float) -> None:
        """The OTP was right; the money moves when the customer's bank says so."""
        self._timers.after(self._options.otp_settles_after_s, now, partial(self._succeed, attempt))

    def fail(self, attempt: Attempt, failure: Failure, now: float) -> None:
        """The attempt is over, and nothing was taken."""
        if attempt.status != "FAILED":
            self._record("failed", attempt, attempt.amount, now)
        attempt.failure = failure
        _finish(attempt, "FAILED", "Transaction failed", now)

    def capture(self, attempt: Attempt, amount: Decimal, now: float) -> None:
        """Take `amount` rupees out of the hold, once; the rest goes back to the customer."""
        attempt.captured_amount = amount
        self._record("captured", attempt, amount, now)
        self._act(attempt, "CAPTURE", amount, now)

    def void(self, attempt: Attempt, now: float) -> None:
        """Give the whole hold back, once."""
        self._record("voided", attempt, attempt.amount, now)
        self._act(attempt, "VOID", None, now)

    def force(self, attempt: Attempt, status: str, error: str | None, now: float) -> None:
        """A simulated status. An attempt that failed may come back: banks do answer late."""
        if status == "SUCCESS":
            self._succeed(attempt, now, late=True)
        elif status == "FAILED":
            failure = Failure(error, error.lower(), "bank", "simulated") if error else DECLINED
            self.fail(attempt, failure, now)
        elif status == "USER_DROPPED":
            self._drop(attempt, now)
        else:
            attempt.status, attempt.failure, attempt.completed_at = "PENDING", None, None
            attempt.message = "Waiting for the customer"

    def _succeed(self, attempt: Attempt, now: float, *, late: bool = False) -> None:
        if attempt.status in ("SUCCESS", "VOID") or (attempt.status != "PENDING" and not late):
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
        if attempt.status == "PENDING":
            self.fail(attempt, DECLINED, now)

    def _close(self, attempt: Attempt, now: float) -> None:
        if attempt.status == "PENDING":
            self._drop(attempt, now)

    def _drop(self, attempt: Attempt, now: float) -> None:
        if attempt.status != "USER_DROPPED":
            self._record("dropped", attempt, attempt.amount, now)
        attempt.failure = None
        _finish(attempt, "USER_DROPPED", "The customer left", now)

    def _release(self, attempt: Attempt, now: float) -> None:
        if attempt.held:
            self._record("released", attempt, attempt.amount, now)
            _finish(attempt, "VOID", "The hold ran out", now)

    def _record(self, effect: Effect, attempt: Attempt, amount: Decimal, at: float) -> None:
        order_id = attempt.order.order_id
        entry = LedgerEntry(effect, order_id, str(attempt.cf_payment_id), amount, at)
        self.ledger.append(entry)
        self.ledger_by_order.setdefault(order_id, []).append(entry)


def _confirm(attempt: Attempt, action: HoldAction, now: float) -> None:
    """The customer's bank confirms a capture or a void; only then is a void visible."""
    action.status = "SUCCESS"
    if action.action == "VOID":
        _finish(attempt, "VOID", "The hold was given back", now)


def _finish(attempt: Attempt, status: Status, message: str, now: float) -> None:
    attempt.status, attempt.message, attempt.completed_at = status, message, now
