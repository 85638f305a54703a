"""Which step is permitted when, and the operation that is written down before its call.

Every `begin_*` takes a snapshot and returns the plan that opens an operation. It raises
`IllegalStep` where the state or an open operation forbids the step, `OtpLimit` where the
flow's OTP limits do, `InvalidAmount` for an amount over the hold. Nothing has been sent then.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha1
from typing import Any, Final
from uuid import UUID

import msgspec

from cfflow.core.actions import AskOtp, Redirect
from cfflow.core.authors import CALLER, CAUSES, Author
from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Draft
from cfflow.core.flow import Flow
from cfflow.core.money import amount_of, without_noise
from cfflow.core.operation import Operation, OperationStatus, Step
from cfflow.core.order import (
    AUTHORIZES,
    PAYMENTS_MAX,
    SEEN_MAX,
    Order,
    Snapshot,
    may_act_on_another,
    why_barred,
)
from cfflow.core.plan import Change, Gate, Plan
from cfflow.core.record import GIVEN_UP, OtpTurn, Record, hyphened
from cfflow.core.schedule import next_wake, surely_over
from cfflow.errors import CfflowError, IllegalStep, InvalidAmount, OtpLimit, TooManyPayments

#: Plans a step on a snapshot at a time in ms, or raises why it is not permitted there.
Begin = Callable[[Snapshot, Flow, int], Plan]

#: A process that was paused this long after its commit does not send any more: another process
#: may have decided by now that the call was lost.
SEND_WITHIN_MS: Final = 2_000

#: cfflow's own namespace of idempotency keys. Never changed: with another one, the same step
#: would have another key.
_KEYS: Final = UUID("9972b366-ce53-4eb4-a4dd-734aab38c571").bytes


class Instrument(msgspec.Struct, frozen=True):
    """What may be stored of a payment method: enough to find the attempt of a lost pay."""

    method: str
    channel: str | None = None
    last_four: str | None = None


def create(
    flow: Flow,
    now_ms: int,
    *,
    nonce: str,
    currency: str,
    amount: Decimal | None,
    metadata: dict[str, Any] | None,
    created_at_ms: int | None = None,
) -> Record:
    """Return the record of a payment that has just been started.

    `created_at_ms` is given for an adopted one: it is as old as its attempt.
    """
    created_at_ms = now_ms if created_at_ms is None else created_at_ms
    record = Record(
        flow=flow.name,
        digest=flow.digest,
        nonce=nonce,
        currency=currency,
        amount=amount,
        metadata=metadata,
        created_at_ms=created_at_ms,
        updated_at_ms=now_ms,
        moved_at_ms=created_at_ms,
        since_at_ms=now_ms,
    )
    return msgspec.structs.replace(record, wake_at_ms=next_wake(record, flow))


def begin_payment(order: Order, record: Record, flow: Flow) -> Plan:
    """Return the plan to store an order's next payment. Raises `TooManyPayments`.

    Whether the order may have another payment is not asked here (`order.standing_payment`).
    """
    n = len(order.payments) + 1
    if n > PAYMENTS_MAX:
        raise TooManyPayments(f"order {order.id} has {PAYMENTS_MAX} payments: make a new order")
    after = msgspec.structs.replace(order, payments=(*order.payments, record))
    return Plan(before=order, after=after, changes=(Change(n, None, record),), flows=(flow,))


def begin_pay(
    snapshot: Snapshot,
    flow: Flow,
    now_ms: int,
    instrument: Instrument,
    *,
    gateway_at_ms: int | None = None,
    author: Author = CALLER,
) -> Plan:
    """Open a pay. One payment is one attempt, so only `created` permits it.

    `gateway_at_ms` is the earliest time that the gateway's clock can show now, None where it is
    not known. Only by that clock can an attempt be proved older than this pay.
    """
    record = snapshot.record
    _permit(snapshot, Step.PAY, State.CREATED)
    if instrument.method not in flow.methods:
        raise _illegal(snapshot, f"flow {flow.name} does not take {instrument.method}")
    channels = flow.channels_of(instrument.method)
    if instrument.channel is not None and instrument.channel not in channels:
        wrong = f"flow {flow.name} does not take {instrument.method} over {instrument.channel}"
        raise _illegal(snapshot, f"{wrong}, only over {', '.join(channels)}")
    return _open(
        Draft(snapshot, flow, now_ms, author),
        Step.PAY,
        amount=record.amount,
        method=instrument.method,
        channel=instrument.channel,
        last_four=instrument.last_four,
        known_attempt_ids=tuple(
            sorted({*snapshot.owned_elsewhere, *snapshot.order.seen_attempt_ids})[-SEEN_MAX:]
        ),
        gateway_at_ms=gateway_at_ms,
    )


def begin_submit(snapshot: Snapshot, flow: Flow, now_ms: int, *, author: Author = CALLER) -> Plan:
    """Open a submission of the OTP, within the flow's tries and the page's life."""
    otp = _otp_page(snapshot, Step.SUBMIT_OTP, now_ms)
    if otp.submits_used >= flow.otp.submits_max:
        raise _limit(snapshot, f"all {flow.otp.submits_max} OTP submissions are used")
    return _open(Draft(snapshot, flow, now_ms, author), Step.SUBMIT_OTP)


def begin_resend(snapshot: Snapshot, flow: Flow, now_ms: int, *, author: Author = CALLER) -> Plan:
    """Open a resend of the OTP, within the flow's number and waiting time."""
    otp = _otp_page(snapshot, Step.RESEND_OTP, now_ms)
    if otp.submits_used >= flow.otp.submits_max:
        raise _limit(snapshot, "a new OTP is of no use, all submissions are used")
    if otp.resends_used >= flow.otp.resends_max:
        raise _limit(snapshot, f"all {flow.otp.resends_max} OTP resends are used")
    ready_at_ms = otp.sent_at_ms + flow.otp.resend_after_s * 1000
    if now_ms < ready_at_ms:
        wait_s = (ready_at_ms - now_ms + 999) // 1000
        raise _limit(snapshot, f"the OTP can be sent again in {wait_s} s", at_ms=ready_at_ms)
    return _open(Draft(snapshot, flow, now_ms, author), Step.RESEND_OTP)


def leave_otp(snapshot: Snapshot, flow: Flow, now_ms: int, *, author: Author = CALLER) -> Plan:
    """Let the customer go to the bank's own page. No call is made: the attempt lives on."""
    _otp_page(snapshot, None, now_ms)
    barred = why_barred(snapshot, Step.SUBMIT_OTP)
    if barred is not None:
        # On the bank's page the customer would pay as surely as with an OTP on ours.
        raise _illegal(snapshot, f"leave_otp: {barred}")
    action = snapshot.next_action
    if not isinstance(action, AskOtp) or action.redirect_to_bank is None:
        raise _illegal(snapshot, "the way to the bank's page is not known; its answer was lost")
    draft = Draft(snapshot, flow, now_ms, author)
    draft.fire(Trigger.LEAVE_OTP, None, "the customer took redirect_to_bank")
    draft.next_action = Redirect(action.redirect_to_bank)
    return draft.plan()


def amount_to_capture(snapshot: Snapshot, amount: object = None) -> Decimal:
    """Return the amount of a capture: the whole hold, or the part that was asked for.

    Raises `InvalidAmount` for zero, negative, three decimals or more than the hold.
    """
    held = snapshot.record.amount_held
    if amount is None:
        if held is None:
            raise InvalidAmount("the amount held is not known yet: refresh, or pass an amount")
        return without_noise(held)
    exact = amount_of(amount)
    if held is not None and exact > held:
        raise InvalidAmount(f"{exact} is more than the {held} held")
    return exact


def begin_authorize(
    snapshot: Snapshot,
    flow: Flow,
    now_ms: int,
    step: Step,
    *,
    freeze: Callable[[Decimal | None], bytes],
    api_version: str,
    amount: Decimal | None = None,
    author: Author = CALLER,
) -> Plan:
    """Open a capture or a void, its request frozen byte for byte for a later resend.

    `freeze` makes the request's body out of the amount, which only a capture has. A lost step of
    the other kind is given up for this one where it surely had no effect. It stays in the
    history, so that a late effect of it is recognised.
    """
    _permit_authorize(snapshot, step, flow, now_ms)
    exact = amount_to_capture(snapshot, amount) if step is Step.CAPTURE else None
    draft = Draft(snapshot, flow, now_ms, author)
    draft.close_operation(GIVEN_UP)
    return _open(
        draft,
        step,
        body=freeze(exact),
        api_version=api_version,
        amount=exact,
    )


def allowed_steps(snapshot: Snapshot, flow: Flow, now_ms: int) -> tuple[str, ...]:
    """Return the names of the calls that would be permitted now, for `why` and for pages."""
    instrument = Instrument(flow.methods[0])
    attempts: dict[str, Callable[[], object]] = {
        "pay": lambda: begin_pay(snapshot, flow, now_ms, instrument),
        "submit_otp": lambda: begin_submit(snapshot, flow, now_ms),
        "resend_otp": lambda: begin_resend(snapshot, flow, now_ms),
        "leave_otp": lambda: leave_otp(snapshot, flow, now_ms),
        "capture": lambda: _permit_authorize(snapshot, Step.CAPTURE, flow, now_ms),
        "void": lambda: _permit_authorize(snapshot, Step.VOID, flow, now_ms),
    }
    names = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except CfflowError:
            continue
        names.append(name)
    return (*names, "refresh")


def _permit_authorize(snapshot: Snapshot, step: Step, flow: Flow, now_ms: int) -> None:
    _permit(snapshot, step, State.AUTHORIZED, gives_up=_had_no_effect(snapshot, step, flow, now_ms))
    if snapshot.record.confirming:
        raise _illegal(snapshot, f"{step}: the bank is still confirming another capture or void")


def _had_no_effect(snapshot: Snapshot, step: Step, flow: Flow, now_ms: int) -> bool:
    """Whether the open capture or void is not this step and surely did nothing.

    An inquiry asked a margin after its first deadline saw the hold untouched.
    """
    open_one = snapshot.record.operation
    if open_one is None or open_one.step not in AUTHORIZES or open_one.step is step:
        return False
    not_done = open_one.status(now_ms) is OperationStatus.NOT_DONE
    elsewhere = may_act_on_another(snapshot.record, open_one)
    return not_done and surely_over(open_one, flow) and not elsewhere


def _open(
    draft: Draft,
    step: Step,
    *,
    body: bytes = b"",
    api_version: str = "",
    amount: Decimal | None = None,
    method: str | None = None,
    channel: str | None = None,
    last_four: str | None = None,
    known_attempt_ids: tuple[str, ...] = (),
    gateway_at_ms: int | None = None,
) -> Plan:
    sequence = draft.was.sequence + 1
    operation = Operation(
        step=step,
        sequence=sequence,
        key=_key(draft, step, sequence),
        began_at_ms=draft.now_ms,
        deadline_at_ms=draft.now_ms + round(draft.flow.pay.timeout_s * 1000),
        body=body,
        api_version=api_version,
        amount=amount,
        method=method,
        channel=channel,
        last_four=last_four,
        known_attempt_ids=known_attempt_ids,
        gateway_at_ms=gateway_at_ms,
        cause=CAUSES.index(draft.author.cause),
        actor=draft.author.actor,
    )
    draft.operation = operation
    draft.sequence = sequence
    return draft.plan(opens=True, gate=Gate.PAY if step is Step.PAY else None)


def renewed(draft: Draft, operation: Operation) -> Operation:
    """Return an open operation under the next number and a key that was never used.

    `began_at_ms` stays: a gateway that keeps failing must not renew the time after which a
    person is called.
    """
    sequence = draft.was.sequence + 1
    draft.sequence = sequence
    key = _key(draft, operation.step, sequence)
    return msgspec.structs.replace(
        operation, sequence=sequence, key=key, key_began_at_ms=draft.now_ms, replayed=False, sends=1
    )


def idempotency_key(payment: str, step: Step, sequence: int, nonce: str) -> str:
    """Return the idempotency key of one step: a UUID made from the step's own name.

    The gateway types its keys as UUIDs (gateway.md#idempotency). A name-based one can be
    derived again from the payment's id, the step, its number and the payment's nonce. The nonce
    is in it because a store that lost its last commits counts the same numbers again.
    """
    name = f"{payment}-{step}-{sequence}-{nonce}".encode()
    raw = bytearray(sha1(_KEYS + name, usedforsecurity=False).digest()[:16])
    # Version 5 and variant 1, as `uuid.uuid5` writes them, which takes four times as long.
    raw[6], raw[8] = raw[6] & 0x0F | 0x50, raw[8] & 0x3F | 0x80
    return hyphened(raw.hex())


def _key(draft: Draft, step: Step, sequence: int) -> str:
    return idempotency_key(draft.snapshot.id, step, sequence, draft.was.nonce)


def _permit(snapshot: Snapshot, step: Step | None, state: State, *, gives_up: bool = False) -> None:
    """Refuse a step that this state, or an operation still open, does not permit.

    `gives_up`: the open operation had no effect, and this step takes its place.
    """
    record = snapshot.record
    wanted = step or "leave_otp"
    if record.abandoned and step not in {Step.CAPTURE, Step.VOID}:
        raise _illegal(snapshot, f"{wanted}: this payment was abandoned")
    if record.operation is not None and not gives_up:
        raise _illegal(snapshot, f"{wanted}: {record.operation.step} is still open")
    if record.state is not state:
        raise _illegal(snapshot, f"{wanted} needs a payment in {state}; this one is {record.state}")
    barred = None if step is None else why_barred(snapshot, step)
    if barred is not None:
        raise _illegal(snapshot, barred)


def _otp_page(snapshot: Snapshot, step: Step | None, now_ms: int) -> OtpTurn:
    """Return the customer's OTP turn, or raise where it is over."""
    _permit(snapshot, step, State.OTP_PENDING)
    otp = snapshot.record.otp
    if otp is None or otp.accepted:
        raise _illegal(snapshot, "the OTP was accepted already; refresh shows where the money is")
    if now_ms >= otp.expires_at_ms:
        raise _limit(snapshot, "the OTP page has expired")
    return otp


def _illegal(snapshot: Snapshot, text: str) -> IllegalStep:
    return IllegalStep(f"{snapshot.id}: {text}")


def _limit(snapshot: Snapshot, text: str, *, at_ms: int | None = None) -> OtpLimit:
    retry_at = None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
    return OtpLimit(f"{snapshot.id}: {text}", retry_at=retry_at)
