"""The gateway calls of steps: what is sent for an operation, and which answers come back.

Each function returns the `StepCall` that the engine makes once the operation is written
down. Secrets come in sealed, live in the closure of one call and are kept nowhere.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial

from cfflow._core.flow import Flow
from cfflow._core.observation import Call
from cfflow._core.record import Operation, Snapshot, Step
from cfflow._core.steps import begin_authorize
from cfflow._ports.gateway import GatewayClient, frozen_authorize
from cfflow._ports.sealed import Sealed
from cfflow._ports.wire import next_action, observe_authenticate, observe_entity, observe_pay
from cfflow.engine import Answer, Begin, StepCall
from cfflow.errors import GatewayError

__all__ = ["authenticate_call", "authorize_begin", "authorize_call", "pay_call"]


def pay_call(gateway: GatewayClient, body: Sealed[bytes]) -> StepCall:
    """Return the call that starts an attempt with this body, made by `pay_body`."""

    async def call(_: Snapshot, operation: Operation, flow: Flow) -> Answer:
        answer = await gateway.pay_with(body, key=operation.key, timeout_s=flow.pay.timeout_s)
        return Answer((observe_pay(answer),), next_action(answer))

    return call


def authenticate_call(gateway: GatewayClient, otp: Sealed[str] | None) -> StepCall:
    """Return the call that submits an OTP, or has it sent again when `otp` is None.

    An accepted OTP, and a last wrong one, say nothing of the money: it is asked for at once.
    """

    async def call(held: Snapshot, operation: Operation, flow: Flow) -> Answer:
        attempt, limit_s = held.record.cf_payment_id or "", flow.pay.timeout_s
        answer = observe_authenticate(
            await gateway.authenticate(attempt, otp, key=operation.key, timeout_s=limit_s)
        )
        turn = held.record.otp
        used = 0 if turn is None else turn.submits_used + 1
        accepted = answer.authenticate_status == "SUCCESS"
        if otp is None or not (accepted or used >= flow.otp.submits_max):
            return Answer((answer,))
        try:
            entity = await gateway.fetch_payment(held.order_id, attempt, timeout_s=limit_s)
        except GatewayError:
            # The OTP's own answer is in hand; whoever asks next learns of the money.
            return Answer((answer,))
        return Answer((answer, observe_entity(entity, Call.FETCH_PAYMENT)))

    return call


def authorize_begin(gateway: GatewayClient, step: Step, amount: Decimal | None = None) -> Begin:
    """Return what plans a capture of `amount` rupees (None: the whole hold), or a void."""

    def freeze(exact: Decimal | None) -> bytes:
        return frozen_authorize("CAPTURE" if step is Step.CAPTURE else "VOID", exact)

    return partial(
        begin_authorize, step=step, freeze=freeze, api_version=gateway.api_version, amount=amount
    )


def authorize_call(gateway: GatewayClient) -> StepCall:
    """Return the call that captures or voids, with the request frozen in the operation."""

    async def call(held: Snapshot, operation: Operation, flow: Flow) -> Answer:
        entity = await gateway.authorize(
            held.order_id,
            operation.body,
            key=operation.key,
            api_version=operation.api_version,
            timeout_s=flow.pay.timeout_s,
        )
        return Answer((observe_entity(entity, Call.AUTHORIZE),))

    return call
