"""The bank: every rule of the local gateway about money. It has no I/O and no clock.

    pay ──► PENDING ──► SUCCESS (sale: captured at once)
               │    └─► SUCCESS (hold) ──► CAPTURE, or VOID ──► status VOID
               │                       └─► expires ───────────► status VOID
               ├──────► FAILED, USER_DROPPED ──► SUCCESS, if the bank authorizes late
               └──────► CANCELLED, by the gateway: money that the bank takes later is returned

Every method takes `now_s` (seconds since the epoch) and first runs what is due by then. The
bank decides what is permitted; `movements` carries it out and writes the ledger.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

from cfflow.emulator import otp
from cfflow.emulator.cards import SavedCards, Terms
from cfflow.emulator.clock import Timers
from cfflow.emulator.customer import Customer
from cfflow.emulator.holds import becomes_hold, capturable, held_attempt
from cfflow.emulator.ids import Ids, fingerprint
from cfflow.emulator.methods import read_method
from cfflow.emulator.movements import Listener, Movements
from cfflow.emulator.orders import check_permitted, read_offer, read_order
from cfflow.emulator.records import (
    DEFAULT_ACCOUNTS,
    Account,
    Attempt,
    BankOptions,
    LedgerEntry,
    Method,
    Order,
    OtpPage,
    OtpResult,
    Simulation,
    Status,
)
from cfflow.emulator.refusals import Refused, conflict, invalid, not_found
from cfflow.emulator.request_fields import AUTHORIZE, FORCED_STATUS, PAY, TERMINATE_ORDER


class Bank:
    """Accounts, orders, attempts and the ledger of one emulator.

    accounts: the merchants. options: how the bank behaves. seed: of its ids. `calls` counts
    the calls that reached the bank, by name, including refused ones.
    """

    def __init__(
        self,
        *,
        accounts: Iterable[Account] = DEFAULT_ACCOUNTS,
        options: BankOptions | None = None,
        seed: int = 0,
    ) -> None:
        self.options = options or BankOptions()
        self.calls: Counter[str] = Counter()
        self._accounts = {account.client_id: account for account in accounts}
        self._ids = Ids(seed)
        self._timers = Timers()
        self._orders: dict[tuple[str, str], Order] = {}
        self._sessions: dict[bytes, Order] = {}
        self._attempts: dict[int, Attempt] = {}
        self._simulations: dict[str, Simulation] = {}
        self._saved_cards = SavedCards()
        self._movements = Movements(self._ids, self._timers, self.options)
        self.customer = Customer(self._movements, self.options)

    # --- accounts, time and ledger -----------------------------------------------------

    def account(self, client_id: str, client_secret: str) -> Account | None:
        """Return the account with these credentials, or None if they are wrong."""
        account = self._accounts.get(client_id)
        if account is None:
            return None
        same = hmac.compare_digest(account.client_secret.encode(), client_secret.encode())
        return account if same else None

    def advance(self, now_s: float) -> None:
        """Run what is due at `now_s`: acts of banks and customers, and expiring holds."""
        self._timers.run(now_s)

    @property
    def next_due_at_s(self) -> float | None:
        """When the next timer is due (seconds since the epoch), or None."""
        return self._timers.next_at_s

    @property
    def ledger(self) -> list[LedgerEntry]:
        """Every effect on money so far, oldest first."""
        return self._movements.ledger

    def ledger_of(self, order_id: str) -> list[LedgerEntry]:
        """Return the effects on one order, oldest first; none for an unknown order."""
        return list(self._movements.ledger_by_order.get(order_id, ()))

    def listen(self, listener: Listener) -> None:
        """Call `listener` for every later effect."""
        self._movements.listeners.append(listener)

    def reset(self) -> None:
        """Remove every order, attempt, saved card and effect. Ids are not used again."""
        for kept in (self._orders, self._sessions, self._attempts, self._simulations, self.calls):
            kept.clear()
        self._saved_cards = SavedCards()
        self._timers.clear()
        self._movements.clear()
        self.customer.clear()

    # --- orders ------------------------------------------------------------------------

    def create_order(self, account: Account, body: Mapping[str, Any], now_s: float) -> Order:
        """Create an order. Raises `Refused`: 400 for a wrong field, 409 for a used order id."""
        self._begin("create_order", now_s)
        number = self._ids.order_number()
        order = read_order(
            body,
            account=account,
            number=number,
            generated_id=self._ids.order_id(number),
            options=self.options,
            now_s=now_s,
        )
        key = (account.client_id, order.order_id)
        if key in self._orders:
            raise conflict("order_already_exists", "an order with this id exists")
        self._orders[key] = order
        self._sessions[fingerprint(self.session_of(order))] = order
        return order

    def fetch_order(self, account: Account, order_id: str, now_s: float) -> Order:
        """Return an order of this account. Raises `Refused` (404)."""
        self._begin("fetch_order", now_s)
        return self._order(account, order_id)

    def terminate_order(
        self, account: Account, order_id: str, order_status: object, now_s: float
    ) -> Order:
        """Close the order for new attempts; an open attempt may still succeed.

        Repeating it changes nothing (gateway.md#terminate). Raises `Refused`: 404, and 400
        for a paid or expired order and for any `order_status` but TERMINATED.
        """
        self._begin("terminate_order", now_s)
        order = self._order(account, order_id)
        TERMINATE_ORDER["order_status"].check(order_status)
        if order.status(now_s) in ("PAID", "EXPIRED"):
            raise invalid("order_inactive", f"the order is {order.status(now_s)}, not ACTIVE")
        order.terminated = True
        return order

    def attempts_of(self, order_id: str) -> list[Attempt]:
        """Return the attempts of every order with this id. Runs no timer and counts no call."""
        orders = (self._orders.get((client_id, order_id)) for client_id in self._accounts)
        return [attempt for order in orders if order for attempt in order.attempts]

    def latest_orders(self, count: int) -> list[Order]:
        """Return the newest `count` orders of all accounts, newest first."""
        return list(islice(reversed(self._orders.values()), count))

    def session_of(self, order: Order) -> str:
        """Return the order's `payment_session_id`. It is the only secret that a pay needs."""
        return self._ids.session(order.number)

    def order_id_of_session(self, session_id: object) -> str | None:
        """Return the order id of a session, or None. Runs no timer and counts no call."""
        order = self._order_of_session(session_id)
        return order.order_id if order else None

    def order_id_of_payment(self, cf_payment_id: object) -> str | None:
        """Return the order id of a payment, or None. Runs no timer and counts no call."""
        attempt = self._attempts.get(_number(cf_payment_id))
        return attempt.order.order_id if attempt else None

    # --- paying ------------------------------------------------------------------------

    def pay(
        self,
        session_id: object,
        payment_method: object,
        now_s: float,
        *,
        save_instrument: object = None,
        offer_id: object = None,
    ) -> Attempt:
        """Start one attempt with one payment method.

        save_instrument: whether to save the card; the payment shows its `instrument_id` after
        it has succeeded. offer_id: an offer that may reduce the amount. Raises `Refused`: 404
        `orderpay_not_found` for an unknown session, 400 `order_inactive` for an order that is
        paid, expired or terminated, 400 for a wrong field.
        """
        self._begin("pay", now_s)
        order = self._order_of_session(session_id)
        if order is None:
            raise not_found("orderpay_not_found", "no order has this session")
        status = order.status(now_s)
        if status != "ACTIVE":
            raise invalid("order_inactive", f"the order is {status}, not ACTIVE")
        terms = Terms(self.options, now_s, partial(self._saved_cards.find, order))
        method = read_method(payment_method, terms)
        check_permitted(order, method)
        saves = PAY["save_instrument"].check(save_instrument)
        offer, amount = read_offer(offer_id, order, self.options)
        attempt = self._open(order, method, amount, now_s)
        attempt.offer_id = offer
        if saves:
            self._saved_cards.save(attempt, self._ids.instrument_id(attempt.cf_payment_id))
        return attempt

    def _open(self, order: Order, method: Method, amount: Decimal, now_s: float) -> Attempt:
        cf_payment_id = self._ids.cf_payment_id()
        attempt = Attempt(
            cf_payment_id=cf_payment_id,
            order=order,
            method=method,
            amount=amount,
            created_at_s=now_s,
            holds=becomes_hold(order, method),
            page_token=self._ids.page_token(cf_payment_id),
        )
        if method.action == "post":
            attempt.otp_page = OtpPage(expires_at_s=now_s + otp.PAGE_S, last_sent_at_s=now_s)
        order.attempts.append(attempt)
        self._attempts[cf_payment_id] = attempt
        self.customer.receive(attempt)
        self._movements.begin(attempt, now_s)
        return attempt

    def submit_otp(self, cf_payment_id: object, code: object, now_s: float) -> OtpResult:
        """Check the customer's one-time password.

        A wrong one gives FAILED and uses up a submission; the third one fails the attempt
        (gateway.md#authenticate). Raises `Refused`: 404 for an unknown payment, 400 if it
        expects no OTP.
        """
        attempt, page = self._otp_page(cf_payment_id, now_s)
        if self.customer.submit_otp(attempt, page, code, now_s):
            return OtpResult(attempt, "SUBMIT_OTP", "SUCCESS", "otp accepted")
        return OtpResult(attempt, "SUBMIT_OTP", "FAILED", "otp is invalid")

    def resend_otp(self, cf_payment_id: object, now_s: float) -> OtpResult:
        """Send the one-time password again.

        Raises `Refused` as `submit_otp` does, and 400 if it is too soon or was done twice.
        """
        attempt, page = self._otp_page(cf_payment_id, now_s)
        otp.resend(page, now_s)
        return OtpResult(attempt, "RESEND_OTP", "SUCCESS", "otp sent again")

    def _otp_page(self, cf_payment_id: object, now_s: float) -> tuple[Attempt, OtpPage]:
        self._begin("authenticate", now_s)
        attempt = self._attempt(cf_payment_id)
        page = attempt.otp_page
        if page is None:
            raise invalid("request_invalid", "This payment takes no OTP here")
        if otp.exhausted(page):
            raise invalid("request_invalid", "Exceeded retry attempts")
        if not attempt.open or page.accepted:
            raise invalid("request_invalid", "Transaction is already processed")
        return attempt, page

    # --- holds -------------------------------------------------------------------------

    def authorize(
        self, account: Account, order_id: str, action: object, amount: object, now_s: float
    ) -> Attempt:
        """CAPTURE `amount` rupees of the order's hold, or VOID the whole hold.

        A hold permits one of them, once (gateway.md#authorize). Raises `Refused`: 404 for an
        unknown order, 400 for everything else.
        """
        self._begin("authorize", now_s)
        order = self._order(account, order_id)
        AUTHORIZE["action"].check(action)
        attempt = held_attempt(order)
        if action == "VOID":
            self._movements.void(attempt, now_s)
        else:
            self._movements.capture(attempt, capturable(attempt, amount, now_s), now_s)
        return attempt

    # --- fetching ----------------------------------------------------------------------

    def fetch_payment(
        self, account: Account, order_id: str, cf_payment_id: object, now_s: float
    ) -> Attempt:
        """Return one attempt of the order. Raises `Refused` (404)."""
        self._begin("fetch_payment", now_s)
        order = self._order(account, order_id)
        attempt = self._attempts.get(_number(cf_payment_id))
        if attempt is None or attempt.order is not order:
            raise _no_payment()
        return attempt

    def fetch_payments(self, account: Account, order_id: str, now_s: float) -> list[Attempt]:
        """Return every attempt of the order, oldest first. Raises `Refused` (404)."""
        self._begin("fetch_payments", now_s)
        return list(self._order(account, order_id).attempts)

    # --- forcing a status --------------------------------------------------------------

    def simulate(
        self, account: Account, cf_payment_id: object, status: object, error: object, now_s: float
    ) -> Simulation:
        """Force an attempt to SUCCESS, FAILED, PENDING or USER_DROPPED.

        A failed attempt may still succeed, as by a late authorization. An attempt that took
        or held money keeps its status. A CANCELLED attempt stays CANCELLED: on SUCCESS its
        money is returned. Raises `Refused` (404, 400).
        """
        self._begin("simulate", now_s)
        attempt = self._attempt(cf_payment_id)
        if attempt.order.account is not account:
            raise _no_payment()
        forced: Status = FORCED_STATUS["payment_status"].check(status)
        error_code: str | None = FORCED_STATUS["payment_error_code"].check(error)
        self._force(attempt, forced, error_code or None, now_s)
        simulation_id = self._ids.simulation_id(len(self._simulations) + 1)
        done = Simulation(simulation_id, account, str(attempt.cf_payment_id), forced, error_code)
        self._simulations[simulation_id] = done
        return done

    def force(
        self, cf_payment_id: object, status: Status, now_s: float, error: str | None = None
    ) -> Attempt:
        """Force an attempt to any status of the gateway.

        NOT_ATTEMPTED, FLAGGED and INCOMPLETE are open, like PENDING. After CANCELLED, money
        that the bank takes later is returned. VOID releases a hold. Raises `Refused`: 404,
        and 400 where `simulate` would.
        """
        self._begin("force", now_s)
        attempt = self._attempt(cf_payment_id)
        self._force(attempt, status, error, now_s)
        return attempt

    def _force(self, attempt: Attempt, status: Status, error: str | None, now_s: float) -> None:
        # An attempt that took or held money keeps it; a closed attempt stays closed.
        released = attempt.held and status == "VOID"
        if attempt.succeeded and status != attempt.status and not released:
            raise invalid("request_invalid", "Transaction is already processed")
        if attempt.status == "CANCELLED" and status not in ("CANCELLED", "SUCCESS"):
            raise invalid("request_invalid", "Transaction is already processed")
        if status == "VOID" and not attempt.succeeded:
            raise invalid("request_invalid", "The payment holds nothing")
        self._movements.force(attempt, status, error, now_s)

    def fetch_simulation(self, account: Account, simulation_id: str, now_s: float) -> Simulation:
        """Return an earlier simulation. Raises `Refused` (404)."""
        self._begin("fetch_simulation", now_s)
        simulation = self._simulations.get(simulation_id)
        if simulation is None or simulation.account is not account:
            raise not_found("simulation_not_found", "no such simulation")
        return simulation

    # --- lookups -----------------------------------------------------------------------

    def _begin(self, call: str, now_s: float) -> None:
        self.calls[call] += 1
        self._timers.run(now_s)

    def _order(self, account: Account, order_id: str) -> Order:
        order = self._orders.get((account.client_id, order_id))
        if order is None:
            raise not_found("order_not_found", "this account has no such order")
        return order

    def _order_of_session(self, session_id: object) -> Order | None:
        return self._sessions.get(fingerprint(session_id)) if isinstance(session_id, str) else None

    def _attempt(self, cf_payment_id: object) -> Attempt:
        attempt = self._attempts.get(_number(cf_payment_id))
        if attempt is None:
            raise _no_payment()
        return attempt


def _number(cf_payment_id: object) -> int:
    """Return a payment id as a number; -1, which no payment has, for anything else."""
    text = str(cf_payment_id)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _no_payment() -> Refused:
    return not_found("payment_not_found", "no such payment")
