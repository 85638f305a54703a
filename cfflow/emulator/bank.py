"""The bank: every rule of the local gateway about money, without I/O and without a clock.

    pay ──► PENDING ──► SUCCESS (sale: captured at once)
               │    └─► SUCCESS (hold) ──► CAPTURE, or VOID ──► status VOID
               │                       └─► runs out ──────────► status VOID
               ├──────► FAILED, USER_DROPPED ──► SUCCESS, when the bank answers late
               └──────► CANCELLED, by the gateway: what the bank takes later goes back

Every method takes `now` (seconds since the epoch) and first lets happen what was due by
then. It decides who may do what; `movements` carries it out and writes the ledger.
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

    accounts: who may call, by client id. options: how the bank behaves. seed: where its
    ids come from. `calls` counts the calls that reached the bank, by name, refused ones
    included.
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

    # --- who, and what time it is ------------------------------------------------------

    def account(self, client_id: str, client_secret: str) -> Account | None:
        """The account of these credentials, if they are right."""
        account = self._accounts.get(client_id)
        if account is None:
            return None
        same = hmac.compare_digest(account.client_secret.encode(), client_secret.encode())
        return account if same else None

    def advance(self, now_s: float) -> None:
        """Let happen what is due at `now`: answers of banks and customers, holds running out."""
        self._timers.run(now_s)

    @property
    def next_due_at_s(self) -> float | None:
        """When something happens by itself next (seconds since the epoch), if anything does."""
        return self._timers.next_at_s

    @property
    def ledger(self) -> list[LedgerEntry]:
        """Every effect on money so far, in the order it happened."""
        return self._movements.ledger

    def ledger_of(self, order_id: str) -> list[LedgerEntry]:
        """The effects on one order, oldest first; empty for an order that never was."""
        return list(self._movements.ledger_by_order.get(order_id, ()))

    def listen(self, listener: Listener) -> None:
        """Tell this listener of every effect from now on, as it happens."""
        self._movements.listeners.append(listener)

    def reset(self) -> None:
        """Forget every order, attempt, saved card and effect; ids go on where they were."""
        for kept in (self._orders, self._sessions, self._attempts, self._simulations, self.calls):
            kept.clear()
        self._saved_cards = SavedCards()
        self._timers.clear()
        self._movements.clear()
        self.customer.clear()

    # --- orders ------------------------------------------------------------------------

    def create_order(self, account: Account, body: Mapping[str, Any], now_s: float) -> Order:
        """A new order. Raises `Refused`: 400 for a field, 409 when the account has this id."""
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
        """An order of this account. Raises `Refused` (404)."""
        self._begin("fetch_order", now_s)
        return self._order(account, order_id)

    def terminate_order(
        self, account: Account, order_id: str, order_status: object, now_s: float
    ) -> Order:
        """Let the order take no new payment; one that is under way may still succeed.

        Doing it again changes nothing. Raises `Refused`: 404, 400 for an order that is paid
        or expired, and for any `order_status` but TERMINATED.
        """
        self._begin("terminate_order", now_s)
        order = self._order(account, order_id)
        TERMINATE_ORDER["order_status"].check(order_status)
        if order.status(now_s) in ("PAID", "EXPIRED"):
            raise invalid("order_inactive", f"the order is {order.status(now_s)}, not ACTIVE")
        order.terminated = True
        return order

    def attempts_of(self, order_id: str) -> list[Attempt]:
        """Every attempt on the orders of this name, whosever; moves nothing, counts as no call."""
        orders = (self._orders.get((client_id, order_id)) for client_id in self._accounts)
        return [attempt for order in orders if order for attempt in order.attempts]

    def latest_orders(self, count: int) -> list[Order]:
        """The last so many orders of all accounts, newest first, for whoever looks on."""
        return list(islice(reversed(self._orders.values()), count))

    def session_of(self, order: Order) -> str:
        """The order's `payment_session_id`: whoever holds it may pay."""
        return self._ids.session(order.number)

    def order_id_of_session(self, session_id: object) -> str | None:
        """Which order a session pays, if any; moves nothing and counts as no call."""
        order = self._order_of_session(session_id)
        return order.order_id if order else None

    def order_id_of_payment(self, cf_payment_id: object) -> str | None:
        """Which order a payment belongs to, if any; moves nothing and counts as no call."""
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
        """Begin one attempt with one payment method.

        save_instrument: whether the card may be paid with again, by the `instrument_id`
        that the payment shows once it succeeded. offer_id: what may make it cheaper.
        Raises `Refused`: 404 `orderpay_not_found` for an unknown session, 400
        `order_inactive` for an order that is paid, expired or terminated, 400 for a field.
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
        """The customer's one-time password.

        A wrong one answers FAILED and uses up a submission; the third fails the attempt.
        Raises `Refused`: 404 for the payment, 400 where no OTP is expected (any more).
        """
        attempt, page = self._otp_page(cf_payment_id, now_s)
        if self.customer.submit_otp(attempt, page, code, now_s):
            return OtpResult(attempt, "SUBMIT_OTP", "SUCCESS", "otp accepted")
        return OtpResult(attempt, "SUBMIT_OTP", "FAILED", "otp is invalid")

    def resend_otp(self, cf_payment_id: object, now_s: float) -> OtpResult:
        """Send the one-time password again.

        Raises `Refused` like `submit_otp`, and 400 when it is too soon or was done twice.
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
        """CAPTURE `amount` rupees of the order's hold, or VOID the whole of it.

        One of them, once: a hold that was captured, voided or ran out takes no more.
        Raises `Refused`: 404 for the order, 400 for everything else.
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

    # --- asking ------------------------------------------------------------------------

    def fetch_payment(
        self, account: Account, order_id: str, cf_payment_id: object, now_s: float
    ) -> Attempt:
        """One attempt of the order. Raises `Refused` (404)."""
        self._begin("fetch_payment", now_s)
        order = self._order(account, order_id)
        attempt = self._attempts.get(_number(cf_payment_id))
        if attempt is None or attempt.order is not order:
            raise _no_payment()
        return attempt

    def fetch_payments(self, account: Account, order_id: str, now_s: float) -> list[Attempt]:
        """Every attempt of the order, oldest first. Raises `Refused` (404)."""
        self._begin("fetch_payments", now_s)
        return list(self._order(account, order_id).attempts)

    # --- the sandbox's own hand --------------------------------------------------------

    def simulate(
        self, account: Account, cf_payment_id: object, status: object, error: object, now_s: float
    ) -> Simulation:
        """Force an attempt to SUCCESS, FAILED, PENDING or USER_DROPPED.

        An attempt that failed may still succeed, as when its bank answers late; one that
        took or held money keeps what it did; one that the gateway has CANCELLED stays so,
        and a SUCCESS goes back to the customer. Raises `Refused` (404, 400).
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
        """Force an attempt to any status the gateway knows, from Python only.

        NOT_ATTEMPTED, FLAGGED and INCOMPLETE are open like PENDING; CANCELLED gives back
        what the bank takes later; VOID is a hold that the bank gave back by itself.
        Raises `Refused`: 404, and 400 where `simulate` would.
        """
        self._begin("force", now_s)
        attempt = self._attempt(cf_payment_id)
        self._force(attempt, status, error, now_s)
        return attempt

    def _force(self, attempt: Attempt, status: Status, error: str | None, now_s: float) -> None:
        # What took or held money keeps it, and what the gateway closed stays closed.
        given_back = attempt.held and status == "VOID"
        if attempt.succeeded and status != attempt.status and not given_back:
            raise invalid("request_invalid", "Transaction is already processed")
        if attempt.status == "CANCELLED" and status not in ("CANCELLED", "SUCCESS"):
            raise invalid("request_invalid", "Transaction is already processed")
        if status == "VOID" and not attempt.succeeded:
            raise invalid("request_invalid", "The payment holds nothing")
        self._movements.force(attempt, status, error, now_s)

    def fetch_simulation(self, account: Account, simulation_id: str, now_s: float) -> Simulation:
        """A simulation made before. Raises `Refused` (404)."""
        self._begin("fetch_simulation", now_s)
        simulation = self._simulations.get(simulation_id)
        if simulation is None or simulation.account is not account:
            raise not_found("simulation_not_found", "no such simulation")
        return simulation

    # --- looking up --------------------------------------------------------------------

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
    """A payment id as the bank counts; anything else is an id that no payment has."""
    text = str(cf_payment_id)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _no_payment() -> Refused:
    return not_found("payment_not_found", "no such payment")
