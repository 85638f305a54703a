"""`Orchestrator`: the names that users type, each checked first and then handed to the engine."""

from __future__ import annotations

import secrets
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal, Self

from cfflow._core.decide import resend, resendable
from cfflow._core.draft import Plan
from cfflow._core.flow import Flow
from cfflow._core.money import amount_of
from cfflow._core.observation import Call
from cfflow._core.record import Operation, Snapshot, Step
from cfflow._core.steps import (
    begin_authorize,
    begin_pay,
    begin_resend,
    begin_submit,
    create,
    leave_otp,
)
from cfflow._ports.catalog import Catalog
from cfflow._ports.checks import (
    check_currency,
    check_metadata,
    check_order_id,
    check_otp,
    check_session,
)
from cfflow._ports.gateway import GatewayClient, frozen_authorize
from cfflow._ports.logs import Log, default_log
from cfflow._ports.methods import PaymentMethod, pay_body
from cfflow._ports.sealed import Sealed
from cfflow._ports.store import Started, Store
from cfflow._ports.wire import (
    next_action,
    observe_authenticate,
    observe_entity,
    observe_pay,
)
from cfflow.engine import Answer, Engine
from cfflow.errors import (
    AlreadyPaid,
    Conflict,
    GatewayError,
    InvalidAmount,
    InvalidInput,
)
from cfflow.payment import Payment, snapshot_in
from cfflow.reader import Reader, place_of

__all__ = ["Orchestrator"]


class Orchestrator(Reader):
    """Drives payments through a gateway and keeps them in a store; one per process is enough.

    Made by `cfflow.connect`, used as an async context manager. Every step takes a payment
    or its id, returns the committed `Payment`, and raises only `CfflowError`s. Passing the
    payment is what protects against the same button pressed twice; where only an id
    travels, carry `payment.version` along as `expected_version`.
    """

    def __init__(
        self,
        store: Store,
        gateway: GatewayClient,
        *,
        catalog: Catalog | None = None,
        log: Log | None = None,
    ) -> None:
        super().__init__(store, catalog or Catalog())
        self.gateway: Final = gateway
        self._engine = Engine(self, gateway, log or default_log())

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
    ) -> Payment:
        """Begin to pay an order, or return the payment with which it is being paid.

        `flow` is a flow's name; `amount` the order's, in rupees, None to take the
        gateway's word. Idempotent: an open payment is returned as it is. Moves no money.
        Raises `FlowError` (unknown flow), `Conflict` (the open payment has another flow,
        amount or currency), `AlreadyPaid`, `InvalidInput`, `StoreUnavailable`.
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
        started = await self.store.start(check_order_id(order_id), record, rules)
        payment = await self.shown(started.snapshot)
        _check_started(started, payment, flow, exact, currency)
        return payment

    async def pay(
        self,
        payment: Payment | str,
        payment_session_id: str,
        method: PaymentMethod,
        *,
        save_instrument: bool | None = None,
        offer_id: str | None = None,
        expected_version: int | None = None,
    ) -> Payment:
        """Start the attempt: the customer's next step is in `next_action`.

        `payment_session_id` comes from the order. Never sent twice. Raises `IllegalStep`
        (nothing sent), `GatewayRejected` and other `GatewayError`s (no effect),
        `OutcomeUnknown` (the attempt may exist: `refresh` finds it), `Conflict`.
        """
        session = Sealed(payment_session_id)
        del payment_session_id
        check_session(session.reveal())
        if not isinstance(method, PaymentMethod):
            del method
            raise InvalidInput("method must be one of cfflow's, such as Card or UPI")

        body = pay_body(session, method, save_instrument=save_instrument, offer_id=offer_id)

        async def call(_: Snapshot, operation: Operation, flow: Flow) -> Answer:
            answer = await self.gateway.pay_with(
                body, key=operation.key, timeout_s=flow.pay.timeout_s
            )
            return Answer((observe_pay(answer),), next_action(answer))

        begin = partial(begin_pay, instrument=method.instrument())
        held, fresh = await self._held(payment, expected_version)
        return await self.shown(await self._engine.step(held, begin, call, fresh=fresh))

    async def submit_otp(
        self, payment: Payment | str, otp: str, *, expected_version: int | None = None
    ) -> Payment:
        """Submit the OTP; on success the payment is asked for at once.

        `otp` is 4 to 8 digits, sent to the gateway's own base URL and kept nowhere. A wrong
        one is no error: the payment comes back in `otp_pending` with one try less. Never
        sent twice. Raises `OtpLimit`, `IllegalStep`, `Conflict`, `OutcomeUnknown`.
        """
        sealed = Sealed(otp)
        del otp
        check_otp(sealed.reveal())
        return await self._authenticate(payment, begin_submit, sealed, expected_version)

    async def resend_otp(
        self, payment: Payment | str, *, expected_version: int | None = None
    ) -> Payment:
        """Have the bank send the OTP again, within the flow's number and waiting time.

        Raises `OtpLimit` with `retry_at`, `IllegalStep`, `Conflict`, `OutcomeUnknown`.
        """
        return await self._authenticate(payment, begin_resend, None, expected_version)

    async def leave_otp(
        self, payment: Payment | str, *, expected_version: int | None = None
    ) -> Payment:
        """Give the customer the bank's own page instead: `next_action` becomes a `Redirect`.

        No gateway call. Raises `IllegalStep` where that page's address is not known.
        """
        held, fresh = await self._held(payment, expected_version)
        return await self.shown(await self._engine.local(held, leave_otp, fresh=fresh))

    async def capture(
        self,
        payment: Payment | str,
        amount: Decimal | int | str | None = None,
        *,
        expected_version: int | None = None,
    ) -> Payment:
        """Take held money: all of it, or `amount` in rupees; the rest is released.

        Exactly one capture per hold. While the bank has only accepted it, the payment
        comes back with its `operation` open. While a lost capture is open, `amount` None means
        that one's amount. Raises `InvalidAmount` (over the hold, three
        decimals, …), `IllegalStep`, `Conflict`, `OutcomeUnknown`: then `refresh`, or the
        same call again, which asks first and sends again only under the same key.
        """
        exact = None if amount is None else amount_of(amount)
        return await self._authorize(payment, Step.CAPTURE, exact, expected_version)

    async def void(self, payment: Payment | str, *, expected_version: int | None = None) -> Payment:
        """Release the whole hold. Raises as `capture` does."""
        return await self._authorize(payment, Step.VOID, None, expected_version)

    async def refresh(self, payment: Payment | str) -> Payment:
        """Ask the gateway now, and commit what it says.

        A step still within its time limit: the payment comes back as it is. Raises
        `GatewayError` when there is no answer; nothing has changed then.
        """
        order_id, n = place_of(payment)
        return await self.shown(await self._engine.inquire(await self.snapshot(order_id, n)))

    async def _authenticate(
        self,
        payment: Payment | str,
        begin: Any,
        otp: Sealed[str] | None,
        expected_version: int | None,
    ) -> Payment:
        async def call(held: Snapshot, operation: Operation, flow: Flow) -> Answer:
            attempt, limit_s = held.record.cf_payment_id or "", flow.pay.timeout_s
            answer = observe_authenticate(
                await self.gateway.authenticate(attempt, otp, key=operation.key, timeout_s=limit_s)
            )
            turn = held.record.otp
            used = 0 if turn is None else turn.submits_used + 1
            accepted = answer.authenticate_status == "SUCCESS"
            if otp is None or not (accepted or used >= flow.otp.submits_max):
                return Answer((answer,))
            try:
                entity = await self.gateway.fetch_payment(held.order_id, attempt, timeout_s=limit_s)
            except GatewayError:
                # The OTP's own answer is in hand; whoever asks next learns of the money.
                return Answer((answer,))
            return Answer((answer, observe_entity(entity, Call.FETCH_PAYMENT)))

        held, fresh = await self._held(payment, expected_version)
        return await self.shown(await self._engine.step(held, begin, call, fresh=fresh))

    async def _authorize(
        self,
        payment: Payment | str,
        step: Literal[Step.CAPTURE, Step.VOID],
        amount: Decimal | None,
        expected_version: int | None,
    ) -> Payment:
        def freeze(exact: Decimal | None) -> bytes:
            return frozen_authorize("CAPTURE" if step is Step.CAPTURE else "VOID", exact)

        def begin(held: Snapshot, flow: Flow, now_ms: int) -> Plan:
            open_one = held.record.operation
            if open_one is not None and open_one.step is step and resendable(held, now_ms):
                if amount not in (None, open_one.amount):
                    text = f"{held.id}: a capture of {open_one.amount} is still open"
                    raise InvalidAmount(f"{text}; only the same one can be sent again")
                return resend(held, flow, now_ms)
            return begin_authorize(
                held,
                flow,
                now_ms,
                step,
                freeze=freeze,
                api_version=self.gateway.api_version,
                amount=amount,
            )

        async def call(held: Snapshot, operation: Operation, flow: Flow) -> Answer:
            entity = await self.gateway.authorize(
                held.order_id,
                operation.body,
                key=operation.key,
                api_version=operation.api_version,
                timeout_s=flow.pay.timeout_s,
            )
            return Answer((observe_entity(entity, Call.AUTHORIZE),))

        held, fresh = await self._held(payment, expected_version)
        return await self.shown(await self._engine.step(held, begin, call, fresh=fresh))

    async def _held(
        self, payment: Payment | str, expected_version: int | None
    ) -> tuple[Snapshot, bool]:
        """Return the snapshot that the caller holds, or else the stored one, and which it is."""
        snapshot = snapshot_in(payment) if isinstance(payment, Payment) else None
        fresh = snapshot is None
        if snapshot is None:
            snapshot = await self.snapshot(*place_of(payment))
            if isinstance(payment, Payment):
                expected_version = payment.version
        if expected_version is not None and expected_version != snapshot.record.version:
            raise Conflict(
                f"{snapshot.id} is at version {snapshot.record.version},"
                f" not {expected_version}; nothing was sent",
                payment=await self.shown(snapshot),
            )
        return snapshot, fresh


def _check_started(
    started: Started, payment: Payment, flow: str, amount: Decimal | None, currency: str
) -> None:
    """Refuse to return a payment that the caller did not ask for."""
    if started.outcome == "paid":
        raise AlreadyPaid(f"order {payment.order_id} was paid by {payment.id}", payment=payment)
    asked = started.snapshot.record.amount
    differs: dict[str, tuple[object, object]] = {
        "flow": (payment.flow, flow),
        "currency": (payment.currency, currency),
        "amount": (asked, amount if amount is not None else asked),
    }
    for name, (has, wanted) in differs.items():
        if has != wanted:
            raise Conflict(f"{payment.id} is open with {name} {has}, not {wanted}", payment=payment)
