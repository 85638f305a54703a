"""`Orchestrator`: the public calls. Each checks its arguments and hands over to the engine."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal, Self

import msgspec

from cfflow.cashfree.gateway import Gateway
from cfflow.cashfree.methods import PaymentMethod, method_in, pay_body, with_channel
from cfflow.cashfree.steps import authenticate_call, authorize_begin, authorize_call, pay_call
from cfflow.cashfree.wire import observe_entity
from cfflow.core.adoption import adopt
from cfflow.core.arguments import (
    LEFT_OUT,
    LeftOut,
    check_actor,
    check_amount,
    check_currency,
    check_metadata,
    check_order_id,
    check_otp,
    check_session,
    check_text,
    check_version,
)
from cfflow.core.authors import Author, Cause
from cfflow.core.chart import State
from cfflow.core.decide import Inquired, is_about
from cfflow.core.due import resend, resendable
from cfflow.core.flow import Flow
from cfflow.core.money import amount_of
from cfflow.core.observation import Call, Observation
from cfflow.core.operation import Step
from cfflow.core.order import (
    Order,
    Snapshot,
    Standing,
    concerned,
    notice_digest,
    standing_payment,
    why_not_replaced,
)
from cfflow.core.people import abandon, acknowledge, resolve
from cfflow.core.plan import Plan, joined
from cfflow.core.record import Record, payment_id
from cfflow.core.sealed import Sealed
from cfflow.core.steps import (
    Begin,
    begin_pay,
    begin_payment,
    begin_resend,
    begin_submit,
    create,
    leave_otp,
)
from cfflow.engine import Engine
from cfflow.errors import (
    AlreadyPaid,
    ConfigError,
    Conflict,
    GatewayUnavailable,
    InvalidAmount,
    InvalidInput,
    InvalidSignature,
)
from cfflow.limits.budget import Budget
from cfflow.logs import Log, guarded
from cfflow.store.catalog import Catalog
from cfflow.store.codec import readable
from cfflow.store.memory.ledger import ledger_of
from cfflow.store.protocol import Outcome, Store
from cfflow.views.find import state_named
from cfflow.views.payment import Payment, attach_payment, snapshot_in
from cfflow.views.reader import Reader, place_of
from cfflow.webhooks import Headers, Receipt, Verifier

#: An order may change between a start's tries; beyond this something is wrong.
_STARTS_MAX: Final = 64


class Orchestrator(Reader):
    """Drives payments through a gateway and keeps them in a store; one per process is enough.

    Made by `cfflow.connect`, used as an async context manager. Every step takes a payment
    or its id, returns the committed `Payment`, and raises only `CfflowError`s. Passing the
    payment protects against the same button pressed twice; where only an id travels, pass
    `payment.version` along as `expected_version`. `gateway` makes the gateway's own calls,
    `budget` has its rate limits.
    """

    def __init__(
        self,
        store: Store,
        gateway: Gateway,
        *,
        catalog: Catalog | None = None,
        log: Log | None = None,
        budget: Budget | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        super().__init__(store, catalog or Catalog())
        self._verifier = verifier
        self.gateway: Final = gateway
        self.budget: Final = budget or Budget({}, ledger_of(store))
        self.log: Final = guarded(log)
        self.engine: Final = Engine(self.orders, self.flows, gateway, self.log, attach_payment)

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            await self.gateway.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connections. Open operations stay open; the next process finds them."""
        await self.gateway.aclose()
        await super().aclose()

    async def start(
        self,
        flow: str,
        *,
        order_id: str,
        amount: Decimal | int | str | None = None,
        currency: str = "INR",
        metadata: dict[str, Any] | None = None,
        replace: bool = False,
        actor: str | None = None,
    ) -> Payment:
        """Begin to pay an order, or return the payment with which it is being paid.

        `flow` is a flow's name; `amount` the order's, in rupees, None to take over the
        gateway's. Idempotent: an open payment is returned as it is. Moves no money.

        `replace`: abandon the open payment and begin the next one, of this flow and with its
        metadata unless you pass some. The old attempt can still take money; it is watched to
        its end. Not while the bank owes an outcome: `Conflict` says which. `actor` is who abandons
        it. Raises `FlowError` (unknown flow), `Conflict` (the open payment has another flow,
        amount or currency), `AlreadyPaid`, `TooManyPayments`, `InvalidInput`,
        `StoreUnavailable`, `StoreReplaced`.
        """
        rules = self.flows.named(flow)
        exact = None if amount is None else amount_of(amount)
        record = create(
            rules,
            self.store.now_ms(),
            nonce=secrets.token_hex(4),
            currency=check_currency(currency),
            amount=exact,
            metadata=check_metadata(metadata),
        )
        order, author = Order(id=check_order_id(order_id)), _caller(actor)
        if type(replace) is not bool:
            raise InvalidInput("replace must be True or False")
        for _ in range(_STARTS_MAX):
            standing = standing_payment(order)
            if standing is None:
                plan = begin_payment(order, record, rules)
            elif replace and not standing.is_paid:
                plan = await self._replacing(order, record, rules, author)
            else:
                return await self._standing(order, standing, record)
            written = await self.orders.commit(plan)
            if written.outcome is Outcome.APPLIED:
                return await self.shown(written.order.payment(len(written.order.payments)))
            if written.marker:
                raise AlreadyPaid(
                    f"order {order_id} was paid by {written.marker}, which has been purged"
                )
            # An order that is gone was purged meanwhile: it begins anew.
            gone = written.outcome is Outcome.GONE
            order = Order(id=order_id) if gone else written.order
        raise Conflict(f"order {order_id} is being changed without end; nothing was started")

    async def _replacing(self, order: Order, wanted: Record, rules: Flow, author: Author) -> Plan:
        """Return the plan that abandons the open payments and begins the next one.

        An adopted order can have more than one of them.
        """
        plans: list[Plan] = []
        while (standing := standing_payment(order)) is not None:
            held = order.payment(standing.n)
            if standing.is_paid:
                raise AlreadyPaid(f"order {order.id} was paid by {held.id}")
            await self._check_same(held, wanted, "currency", "amount")
            reason = why_not_replaced(held)
            if reason is not None:
                text = f"{held.id} cannot be replaced: {reason}"
                raise Conflict(text, payment=await self.shown(held))
            flow = await self._flow_of(held)
            plans.append(abandon(held, flow, self.store.now_ms(), author=author))
            order = plans[-1].after
            wanted = msgspec.structs.replace(
                wanted,
                metadata=wanted.metadata or held.record.metadata,
                amount=held.record.amount if wanted.amount is None else wanted.amount,
            )
        return joined([*plans, begin_payment(order, wanted, rules)])

    async def _standing(self, order: Order, standing: Standing, wanted: Record) -> Payment:
        """Return the payment that keeps its order, or raise where it is not what was wanted."""
        held = order.payment(standing.n)
        payment = await self.shown(held)
        if standing.is_paid:
            raise AlreadyPaid(f"order {order.id} was paid by {payment.id}", payment=payment)
        await self._check_same(held, wanted, "flow", "currency", "amount")
        return payment

    async def _check_same(self, held: Snapshot, wanted: Record, *names: str) -> None:
        """Raise `Conflict` where an open payment is not of what was wanted."""
        record = held.record
        for name in names:
            has, asked = getattr(record, name), getattr(wanted, name)
            if has != asked and not (name == "amount" and asked is None):
                text = f"{held.id} is open with {name} {has}, not {asked}"
                raise Conflict(text, payment=await self.shown(held))

    async def pay(
        self,
        payment: Payment | str,
        payment_session_id: str,
        method: PaymentMethod,
        *,
        save_instrument: bool | None = None,
        offer_id: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Start the attempt: the customer's next step is in `next_action`.

        `payment_session_id` comes from the order. A channel that the method leaves out comes
        from the payment's flow. Never sent twice. Raises `IllegalStep` (nothing sent; also for
        a method or channel that the flow does not permit), `GatewayRejected` and other
        `GatewayError`s (no effect), `OutcomeUnknown` (the attempt may exist: `refresh` finds
        it), `Conflict`, `Paused`, `StoreUnavailable` (also after a restart of the store: try
        again), `StoreReplaced`, `PaymentNotFound`, `InvalidInput`.
        """
        # Sealed first: it may be a dict with a card in it, which no frame of an error may show.
        session, given = Sealed(payment_session_id), Sealed(method)
        del payment_session_id, method
        check_session(session.reveal())
        chosen = method_in(given)
        held, fresh = await self._held(payment, expected_version)
        # A flow never changes during a payment, so the channel is right on a newer record too.
        chosen = with_channel(chosen, await self._flow_of(held))
        body = pay_body(session, chosen, save_instrument=save_instrument, offer_id=offer_id)
        begin = partial(
            begin_pay,
            author=_caller(actor),
            instrument=chosen.instrument(),
            gateway_at_ms=self.gateway.clock.earliest_at_ms(),
        )
        call = pay_call(self.gateway, body)
        return await self.shown(await self.engine.step(held, begin, call, fresh=fresh))

    async def submit_otp(
        self,
        payment: Payment | str,
        otp: str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Submit the OTP; on success the payment is asked for at once.

        `otp` is 4 to 8 digits, sent to the gateway's own base URL and kept nowhere. A wrong
        one is no error: the payment comes back in `otp_pending` with one try less. Never
        sent twice. Raises `OtpLimit` and `IllegalStep` (nothing sent), `GatewayError` (refused,
        no effect), `OutcomeUnknown` (the OTP may count: `refresh` finds out), `Conflict`,
        `StoreUnavailable`, `StoreReplaced`, `PaymentNotFound`, `InvalidInput`.
        """
        sealed = Sealed(otp)
        del otp
        check_otp(sealed.reveal())
        begin = partial(begin_submit, author=_caller(actor))
        held, fresh = await self._held(payment, expected_version)
        call = authenticate_call(self.gateway, sealed)
        return await self.shown(await self.engine.step(held, begin, call, fresh=fresh))

    async def resend_otp(
        self,
        payment: Payment | str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Have the bank send the OTP again, within the flow's number and waiting time.

        Raises `OtpLimit` with `retry_at` and `IllegalStep` (nothing sent), `GatewayError`
        (refused), `OutcomeUnknown` (it may have been sent), `Conflict`, `StoreUnavailable`,
        `StoreReplaced`, `PaymentNotFound`, `InvalidInput`. Moves no money.
        """
        begin = partial(begin_resend, author=_caller(actor))
        held, fresh = await self._held(payment, expected_version)
        call = authenticate_call(self.gateway, None)
        return await self.shown(await self.engine.step(held, begin, call, fresh=fresh))

    async def leave_otp(
        self,
        payment: Payment | str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Give the customer the bank's own page instead: `next_action` becomes a `Redirect`.

        No gateway call. Raises `IllegalStep` where that page's address is not known, `Conflict`,
        `StoreUnavailable`, `StoreReplaced`, `PaymentNotFound`, `InvalidInput`.
        """
        begin = partial(leave_otp, author=_caller(actor))
        held, fresh = await self._held(payment, expected_version)
        return await self.shown(await self.engine.local(held, begin, fresh=fresh))

    async def capture(
        self,
        payment: Payment | str,
        amount: Decimal | int | str | LeftOut = LEFT_OUT,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Take held money: all of it, or `amount` in rupees; the rest is released.

        Leave `amount` out to take the whole hold; None is an `InvalidAmount`. Exactly one
        capture per hold. While the bank has only accepted it, the payment comes back with
        its `operation` open. While a lost capture is open, leaving `amount` out means the
        amount of that one. Raises `InvalidAmount` (None, over the hold, three decimals, …) and
        `IllegalStep` (nothing sent), `GatewayError` (refused, no effect), `OutcomeUnknown`: then
        `refresh`, or the same call again, which asks first and sends again only under the same
        key. Also `Conflict`, `Paused` (a person stopped sending lost steps again),
        `StoreUnavailable`, `StoreReplaced`, `PaymentNotFound`, `InvalidInput`.
        """
        exact = check_amount(amount)
        return await self._authorize(payment, Step.CAPTURE, exact, expected_version, actor)

    async def void(
        self,
        payment: Payment | str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Release the whole hold.

        Raises `IllegalStep` (nothing sent), `GatewayError` (refused, no effect), `OutcomeUnknown`
        (then as with `capture`), `Conflict`, `Paused`, `StoreUnavailable`, `StoreReplaced`,
        `PaymentNotFound`, `InvalidInput`.
        """
        return await self._authorize(payment, Step.VOID, None, expected_version, actor)

    async def refresh(self, payment: Payment | str) -> Payment:
        """Ask the gateway now, and commit the answer.

        While a step is within its time limit the payment comes back as it is. Raises
        `GatewayError` when there is no answer, `PaymentNotFound`, `StoreUnavailable`,
        `InvalidInput`; nothing has changed then. Moves no money.
        """
        held = await self.orders.payment(*place_of(payment))
        return await self.shown(await self.engine.inquire(held))

    async def adopt(
        self, order_id: str, *, flow: str | Sequence[str], actor: str | None = None
    ) -> list[Payment]:
        """Rebuild an order's payments from the gateway's list of its attempts; return them all.

        For a store that was lost or rolled back. `flow` is for attempts that no payment of
        the store owns: one name, or several where the order was paid by several methods;
        each attempt gets the first one that takes its method. Times are the gateway's.
        Idempotent; moves no money and invents none. Raises `InvalidInput` for a method that
        none of the flows takes, `Conflict` while a pay of the order is open, `TooManyPayments`
        for more attempts with money than an order may have payments, `GatewayError` when the
        gateway does not answer, or about another order.
        """
        rules, author = self.flows.all_named(flow), Author(Cause.PERSON, check_actor(actor))
        found = await self.orders.load(check_order_id(order_id))
        order = Order(id=order_id) if found is None else found
        asked_at_ms = self.store.now_ms()
        listed = await self.gateway.fetch_payments(order_id)
        attempts = tuple(observe_entity(entity, Call.FETCH_PAYMENTS) for entity in listed)
        if found is not None:
            order = await self._caught_up(found, attempts, asked_at_ms)
        if not is_about(order_id, attempts):
            # Payments would begin for another order's attempts, and ours may be missing.
            raise GatewayUnavailable(f"{order_id}: the answer has another order's attempts")
        left_out = 0

        def plan(newest: Order, now_ms: int) -> Plan:
            nonlocal left_out
            adoption = adopt(
                newest,
                attempts,
                rules,
                flows,
                asked_at_ms=asked_at_ms,
                now_ms=now_ms,
                nonce=partial(secrets.token_hex, 4),
                author=author,
            )
            left_out = adoption.left_out
            return adoption.plan

        flows = await self.engine.flows_of(order)
        order = await self.engine.write(order, plan)
        if left_out:
            self.log.warning("adopt.left_out", order_id=order_id, failed_attempts=left_out)
        return [await self.shown(payment) for payment in order.all_payments]

    async def abandon(
        self,
        payment: Payment | str,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> Payment:
        """Free the order for another payment. This one is watched to its end.

        Where it still gets money, a hold is voided if the flow wants that, and all else is
        reviewed. Raises `Conflict` while a step is open, `IllegalStep` when it is over.
        """
        begin = partial(abandon, author=Author(Cause.PERSON, check_actor(actor)))
        held, fresh = await self._held(payment, expected_version)
        return await self.shown(await self.engine.local(held, begin, fresh=fresh))

    async def acknowledge(
        self, payment: Payment | str, reason: str, *, actor: str, note: str
    ) -> Payment:
        """Close one open review by name. The payment stays as it is; no money moves.

        `actor` and `note`, who decided and why, are stored in the history. Raises
        `InvalidInput` when no review of this name is open.
        """
        decision = partial(
            acknowledge,
            reason=reason,
            actor=check_text("actor", actor),
            note=check_text("note", note),
        )
        return await self._decide(payment, decision)

    async def resolve(
        self,
        payment: Payment | str,
        state: State | str,
        *,
        amount: Decimal | int | str | LeftOut = LEFT_OUT,
        actor: str,
        note: str,
    ) -> Payment:
        """Take a person's decision on where a payment is, while a review is open on it.

        Along the chart only. `amount` in rupees is what was captured; leave it out for the
        whole hold, None is an `InvalidAmount`. Closes the open step and all reviews; makes no
        call and moves no money. Raises `IllegalStep`, `InvalidAmount`, `Conflict` (a step is
        on its way).
        """
        decision = partial(
            resolve,
            state=state_named(state),
            amount=check_amount(amount),
            actor=check_text("actor", actor),
            note=check_text("note", note),
        )
        return await self._decide(payment, decision)

    async def on_webhook(self, headers: Headers, body: bytes) -> Receipt:
        """Take a notification of the gateway's: once this returns, respond with 200.

        `headers`: as they came, names in any case; `body`: the raw bytes. It moves no money
        and no payment: it makes the payment due, and a worker asks the gateway. One round
        trip to the store. Raises `InvalidSignature` with a `reason` (respond with 400; nothing was
        changed) and `StoreUnavailable` (respond with 503; the gateway sends it again).
        """
        if self._verifier is None:
            raise ConfigError("this orchestrator was made without webhook secrets: use connect")
        try:
            notification = self._verifier.read(headers, body, self.store.now_ms())
        except InvalidSignature as refused:
            self.log.warning("webhook.refused", reason=refused.reason, size_b=len(body))
            raise
        attempt, state = notification.cf_payment_id, notification.reported_state
        notified = await self.store.notify(notification, notice_digest(attempt, state))
        numbers: tuple[int, ...] = ()
        if notified.is_news and notified.stored is not None:
            order = readable(notified.stored)
            numbers = () if order is None else concerned(order, attempt)
        receipt = Receipt(
            type=notification.type,
            order_id=notification.order_id or None,
            cf_payment_id=notification.cf_payment_id or None,
            payment_ids=tuple(payment_id(notification.order_id, n) for n in numbers),
            duplicate=notified.duplicate,
        )
        if self.log.is_on():
            self.log.info("webhook.accepted", **msgspec.structs.asdict(receipt))
        return receipt

    async def _caught_up(
        self, order: Order, attempts: tuple[Observation, ...], asked_at_ms: int
    ) -> Order:
        """Decide the list for the payments that are here, with a fresh nonce: steps may be lost.

        Raises `Conflict` while a pay is open: which attempt is its own must be found first.
        """
        event = Inquired(attempts, asked_at_ms, everything=True, nonce=secrets.token_hex(4))
        flows = await self.engine.flows_of(order)
        events = dict.fromkeys(flows, event)
        order = await self.engine.settle_all(order, events, flows)
        for payment in order.all_payments:
            operation = payment.record.operation
            if operation is not None and operation.step is Step.PAY:
                text = f"{payment.id}: a pay is open; refresh finds its attempt, or resolve it"
                raise Conflict(text, payment=await self.shown(payment))
        return order

    async def _flow_of(self, snapshot: Snapshot) -> Flow:
        return await self.flows.flow_of(snapshot, self.store)

    async def _decide(self, payment: Payment | str, decision: Begin) -> Payment:
        """Commit a person's decision on the newest record: what their page showed may be older."""
        held = await self.orders.payment(*place_of(payment))
        return await self.shown(
            await self.engine.local(held, decision, fresh=True, ask_first=False)
        )

    async def _authorize(
        self,
        payment: Payment | str,
        step: Literal[Step.CAPTURE, Step.VOID],
        amount: Decimal | None,
        expected_version: int | None,
        actor: str | None,
    ) -> Payment:
        author = _caller(actor)
        first = authorize_begin(self.gateway, step, amount, author=author)

        def begin(held: Snapshot, flow: Flow, now_ms: int) -> Plan:
            open_one = held.record.operation
            if open_one is not None and open_one.step is step and resendable(held, now_ms):
                if amount not in (None, open_one.amount):
                    text = f"{held.id}: a capture of {open_one.amount} is still open"
                    raise InvalidAmount(f"{text}; only the same one can be sent again")
                return resend(held, flow, now_ms, author=author)
            return first(held, flow, now_ms)

        held, fresh = await self._held(payment, expected_version)
        call = authorize_call(self.gateway)
        return await self.shown(await self.engine.step(held, begin, call, fresh=fresh))

    async def _held(
        self, payment: Payment | str, expected_version: int | None
    ) -> tuple[Snapshot, bool]:
        """Return the snapshot that the caller holds, or else the stored one, and which it is."""
        check_version(expected_version)
        snapshot = snapshot_in(payment) if isinstance(payment, Payment) else None
        fresh = snapshot is None
        if snapshot is None:
            snapshot = await self.orders.payment(*place_of(payment))
            if isinstance(payment, Payment):
                expected_version = payment.version
        if expected_version is not None and expected_version != snapshot.record.version:
            raise Conflict(
                f"{snapshot.id} is at version {snapshot.record.version},"
                " not the expected one; nothing was sent",
                payment=await self.shown(snapshot),
            )
        return snapshot, fresh


def _caller(actor: str | None) -> Author:
    """Return the merchant's own code as the author of a step, with the name that it gave."""
    return Author(Cause.CALLER, check_actor(actor))
