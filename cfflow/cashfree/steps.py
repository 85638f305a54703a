"""The gateway calls of steps: what is sent for an operation, and which answers come back.

Each function returns the `StepCall` that the engine makes once the operation is written
down. Secrets come in sealed, live in the closure of one call and are kept nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial

from cfflow.cashfree.gateway import Gateway, frozen_authorize
from cfflow.cashfree.wire import next_action, observe_authenticate, observe_entity, observe_pay
from cfflow.core.authors import CALLER, Author
from cfflow.core.decide import Answered
from cfflow.core.flow import Flow
from cfflow.core.observation import Call
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Snapshot
from cfflow.core.sealed import Sealed
from cfflow.core.steps import Begin, begin_authorize
from cfflow.errors import GatewayError

#: Makes the gateway call of an operation that has just been committed. The last argument is the
#: store's time now: what comes back is as old as that.
StepCall = Callable[[Snapshot, Operation, Flow, int], Awaitable[Answered]]


def pay_call(gateway: Gateway, body: Sealed[bytes]) -> StepCall:
    """Return the call that starts an attempt with this body, made by `pay_body`."""

    async def call(_: Snapshot, operation: Operation, flow: Flow, asked_at_ms: int) -> Answered:
        answer = await gateway.pay_with(body, key=operation.key, timeout_s=flow.pay.timeout_s)
        return Answered(
            operation.sequence, (observe_pay(answer),), asked_at_ms, next_action(answer)
        )

    return call


def authenticate_call(gateway: Gateway, otp: Sealed[str] | None) -> StepCall:
    """Return the call that submits an OTP, or has it sent again when `otp` is None.

    Neither an accepted OTP nor the last wrong one proves where the money is: a fetch follows.
    """

    async def call(held: Snapshot, operation: Operation, flow: Flow, asked_at_ms: int) -> Answered:
        attempt, limit_s = held.record.cf_payment_id or "", flow.pay.timeout_s
        answer = observe_authenticate(
            await gateway.authenticate(attempt, otp, key=operation.key, timeout_s=limit_s)
        )
        turn = held.record.otp
        used = 0 if turn is None else turn.submits_used + 1
        accepted = answer.authenticate_status == "SUCCESS"
        if otp is None or not (accepted or used >= flow.otp.submits_max):
            return Answered(operation.sequence, (answer,), asked_at_ms)
        try:
            entity = await gateway.fetch_payment(held.order_id, attempt, timeout_s=limit_s)
        except GatewayError:
            # The OTP's own answer must not be lost; the next inquiry finds the money.
            return Answered(operation.sequence, (answer,), asked_at_ms)
        found = observe_entity(entity, Call.FETCH_PAYMENT)
        return Answered(operation.sequence, (answer, found), asked_at_ms)

    return call


def authorize_begin(
    gateway: Gateway, step: Step, amount: Decimal | None = None, *, author: Author = CALLER
) -> Begin:
    """Return what plans a capture of `amount` rupees (None: the whole hold), or a void.

    `author` is who wants it: the history says so.
    """

    def freeze(exact: Decimal | None) -> bytes:
        return frozen_authorize("CAPTURE" if step is Step.CAPTURE else "VOID", exact)

    return partial(
        begin_authorize,
        step=step,
        freeze=freeze,
        api_version=gateway.api_version,
        amount=amount,
        author=author,
    )


def authorize_call(gateway: Gateway) -> StepCall:
    """Return the call that captures or voids, with the request frozen in the operation."""

    async def call(held: Snapshot, operation: Operation, flow: Flow, asked_at_ms: int) -> Answered:
        entity = await gateway.authorize(
            held.order_id,
            operation.body,
            key=operation.key,
            api_version=operation.api_version,
            timeout_s=flow.pay.timeout_s,
        )
        return Answered(operation.sequence, (observe_entity(entity, Call.AUTHORIZE),), asked_at_ms)

    return call
