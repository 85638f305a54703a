"""A bank that has the true state of each attempt, and the rules that every plan must keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from cfflow.core.actions import AskOtp, NextAction, Redirect
from cfflow.core.chart import FINAL, State
from cfflow.core.decide import Answered, Event, Inquired, OrderSeen, decide
from cfflow.core.due import resendable
from cfflow.core.flow import Flow
from cfflow.core.observation import Call, Observation
from cfflow.core.operation import Operation, Step
from cfflow.core.order import Snapshot
from cfflow.core.plan import Plan
from cfflow.core.record import HISTORY_MAX, Record
from tests.core.core_kit import (
    AMOUNT,
    BANK_PAGE,
    CHART,
    DAY,
    otp_result,
    paid,
    proven,
    states_walked,
)
from tests.core.schedule_model import expected_wake, since_may_change

MONEY = {State.AUTHORIZED, State.CAPTURED, State.VOIDED}
ORDER_LIVES_MS = 3 * DAY


@dataclass
class Attempt:
    """One attempt in the bank's books; cfflow sees `truth` only in an entity."""

    since_at_ms: int
    truth: str = "waiting"
    last_four: str = "1111"
    captured: Decimal | None = None
    unconfirmed: bool = False


@dataclass
class Bank:
    """Takes requests, moves money, and answers every inquiry truthfully."""

    manual: bool
    attempts: dict[str, Attempt] = field(default_factory=dict)
    pays: dict[int, str] = field(default_factory=dict)

    def attempt(self, now_ms: int, last_four: str = "1111") -> str:
        """Begin an attempt and return its id."""
        name = str(100 + len(self.attempts))
        self.attempts[name] = Attempt(now_ms, last_four=last_four)
        return name

    def move(self, name: str, to: str, now_ms: int) -> None:
        """Change the true state of an attempt, where a bank could do so."""
        known = self.attempts[name]
        ways = {
            ("waiting", "approve"): "held" if self.manual else "captured",
            ("waiting", "hold"): "held",
            ("waiting", "decline"): "failed",
            ("failed", "approve"): "held",
            ("held", "capture"): "captured",
            ("held", "lapse"): "voided",
        }
        if to == "confirm":
            known.unconfirmed = False
        elif (known.truth, to) in ways:
            known.truth, known.since_at_ms = ways[known.truth, to], now_ms

    def entity(self, name: str, now_ms: int, call: Call = Call.FETCH_PAYMENT) -> Observation:
        """Return the true state as an entity; end an attempt that waits or is held too long."""
        known = self.attempts[name]
        if known.truth == "waiting" and now_ms - known.since_at_ms > 3 * DAY:
            known.truth = "failed"
        if known.truth == "held" and now_ms - known.since_at_ms > 7 * DAY:
            known.truth = "voided"
        truth = known.truth
        status = {"waiting": "PENDING", "failed": "FAILED", "voided": "VOID"}.get(truth, "SUCCESS")
        action = {"captured": "CAPTURE", "voided": "VOID"}.get(truth) if self.manual else None
        return Observation(
            call=call,
            cf_payment_id=name,
            payment_status=status,
            is_captured=truth == "captured",
            authorization_action=action,
            authorization_status=action and ("PENDING" if known.unconfirmed else "SUCCESS"),
            captured_amount=known.captured,
            payment_amount=AMOUNT,
            method="card",
            last_four=known.last_four,
        )

    def everything(self, now_ms: int) -> tuple[Observation, ...]:
        """Return all attempts of the order."""
        return tuple(self.entity(name, now_ms, Call.FETCH_PAYMENTS) for name in self.attempts)

    def order(self, now_ms: int, t0_ms: int) -> OrderSeen:
        """Return the order in its present state."""
        is_paid = any(known.truth == "captured" for known in self.attempts.values())
        closed = "EXPIRED" if now_ms - t0_ms >= ORDER_LIVES_MS else "ACTIVE"
        return OrderSeen("PAID" if is_paid else closed, now_ms, t0_ms + ORDER_LIVES_MS)

    def serve(
        self, operation: Operation, ours: str | None, mood: str, now_ms: int
    ) -> tuple[Observation, NextAction | None]:
        """Carry out a request and return its answer."""
        if operation.step is Step.PAY:
            name = self.pays[operation.sequence] = self.attempt(now_ms)
            page = mood != "redirect"
            shown: NextAction = AskOtp(BANK_PAGE) if page else Redirect(BANK_PAGE)
            return paid("post" if page else "link", cf_payment_id=name), shown
        assert ours is not None
        if operation.step is Step.RESEND_OTP:
            return otp_result("SUCCESS", cf_payment_id=ours), None
        if operation.step is Step.SUBMIT_OTP:
            if mood == "wrong":
                return otp_result("FAILED", cf_payment_id=ours), None
            self.move(ours, "approve", now_ms)
            return otp_result("SUCCESS", cf_payment_id=ours), None
        known = self.attempts[ours]
        if known.truth == "held":
            self.move(ours, "capture" if operation.step is Step.CAPTURE else "lapse", now_ms)
            known.captured = operation.amount
            known.unconfirmed = mood == "unconfirmed"
        return self.entity(ours, now_ms, Call.AUTHORIZE), None


def facts(held: Snapshot) -> Record:
    """Return the record without what an inquiry that proves nothing may change."""
    return msgspec.structs.replace(
        held.record,
        version=0,
        updated_at_ms=0,
        wake_at_ms=None,
        asked_at_ms=0,
        moved_at_ms=0,
    )


def is_visible(before: Snapshot, plan: Plan) -> bool:
    """Whether a caller can see what a plan changed: more than when it was asked and is due."""
    bookkeeping = {
        "version",
        "updated_at_ms",
        "wake_at_ms",
        "asked_at_ms",
        "since_at_ms",
        "nonce",
        "order_expires_at_ms",
        "pay_given_up_at_ms",
        "hold_began_at_ms",
        "details",
        "moved_at_ms",
    }
    facts_of = [
        {
            name: getattr(record, name)
            for name in record.__struct_fields__
            if name not in bookkeeping
        }
        for record in (before.record, plan.record)
    ]
    return facts_of[0] != facts_of[1] or before.next_action != plan.snapshot.next_action


def check(before: Snapshot, plan: Plan, event: Event | None, flow: Flow, now_ms: int) -> None:
    """Fail if a plan broke an invariant of the design."""
    was, record = before.record, plan.record
    assert plan.change.previous == was
    assert record.version == was.version + is_visible(before, plan)
    assert len(record.history) <= HISTORY_MAX
    assert states_walked(record)[-1] == record.state
    here: str = was.state
    for walked in plan.walked:
        assert walked.from_state == here
        here = CHART[walked.trigger][here]
        assert walked.to_state == here
    assert here == record.state
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record
    _check_money(was, record)
    _check_operation(was, record, event)
    assert record.wake_at_ms == expected_wake(record, flow)
    _check_since(was, record, event)
    _check_turn(plan.snapshot, flow, now_ms)
    _check_proof(was, record, event)
    if event is not None:
        assert decide(before, event, flow, now_ms) == plan
        again = decide(plan.snapshot, event, flow, now_ms)
        assert again.walked == ()
        assert facts(again.snapshot) == facts(plan.snapshot)
        assert again.snapshot.next_action == plan.snapshot.next_action


def _check_money(was: Record, record: Record) -> None:
    captured, amount_held = record.captured_amount, record.amount_held
    if was.captured_amount is not None:
        assert captured == was.captured_amount
    if was.state in MONEY and was.amount_held is not None:
        assert amount_held == was.amount_held
    if captured is not None:
        assert record.state is State.CAPTURED
        assert captured >= 0
        assert amount_held is None or captured <= amount_held
    if was.state in FINAL:
        assert record.state is was.state
    if was.cf_payment_id is not None:
        assert record.cf_payment_id == was.cf_payment_id


def _check_operation(was: Record, record: Record, event: Event | None) -> None:
    old, new = was.operation, record.operation
    if old is not None and new is not None and new.sequence != old.sequence:
        assert event is None
        _check_given_up(old, new)
    elif old is not None and new is not None:
        assert (new.step, new.sequence, new.key) == (old.step, old.sequence, old.key)
        assert (new.body, new.amount, new.began_at_ms) == (old.body, old.amount, old.began_at_ms)
    if old is None and new is not None:
        assert event is None
        assert new.sequence == was.sequence + 1
    assert record.sequence >= was.sequence


def _check_given_up(old: Operation, new: Operation) -> None:
    """A capture or void took the place of the other, which an inquiry saw to have done nothing."""
    assert {old.step, new.step} == {Step.CAPTURE, Step.VOID}
    assert new.sequence == old.sequence + 1
    assert new.key != old.key
    assert not old.accepted
    assert old.not_seen_at_ms is not None
    assert old.not_seen_at_ms >= old.deadline_at_ms
    assert old.not_seen_at_ms >= old.began_at_ms + 10_000 + 15_000


def _check_since(was: Record, record: Record, event: Event | None) -> None:
    """The wait begins anew only by what really happened, never by having been asked about."""
    if record.since_at_ms == was.since_at_ms:
        return
    assert since_may_change(was, record), event


def _check_turn(held: Snapshot, flow: Flow, now_ms: int) -> None:
    record, otp = held.record, held.record.otp
    if record.state not in {State.INITIATED, State.OTP_PENDING}:
        assert held.next_action is None
    if record.state is State.OTP_PENDING:
        assert otp is not None
        over = otp.accepted or otp.submits_used >= flow.otp.submits_max
        if over or now_ms >= otp.expires_at_ms:
            assert held.next_action is None or record.operation is not None
    if record.operation is not None and record.operation.step not in {Step.CAPTURE, Step.VOID}:
        assert not resendable(held, now_ms)


def _check_proof(was: Record, record: Record, event: Event | None) -> None:
    """A state is only ever reached by an event that proves it, asked after the last move."""
    if record.state is was.state:
        return
    if isinstance(event, OrderSeen):
        assert (was.state, record.state) == (State.CREATED, State.FAILED)
        assert event.status in {"EXPIRED", "TERMINATED", "PAID", "NOT_FOUND"}
        assert was.operation is None
        return
    if event is None:
        assert (was.state, record.state) == (State.OTP_PENDING, State.INITIATED)
        return
    assert isinstance(event, Answered | Inquired)
    shown = [o for o in event.observations if o.cf_payment_id == record.cf_payment_id]
    proofs = {proven(o)[1] for o in shown}
    if record.state in MONEY | {State.FAILED}:
        assert record.state in proofs
        undone = was.state is State.FAILED or record.state is State.FAILED
        if undone and was.state in MONEY | {State.FAILED}:
            assert event.asked_at_ms >= was.moved_at_ms
    else:
        assert shown
        assert record.state in proofs or record.state in _page_of_found_pay(was, event)


def _page_of_found_pay(was: Record, event: Event) -> set[State]:
    """Return where an inquiry that finds a lost pay leads: to the page that it was sent for."""
    is_lost_pay = isinstance(event, Inquired) and was.operation and was.cf_payment_id is None
    page = was.operation and was.operation.channel == "post"
    return {State.OTP_PENDING if page else State.INITIATED} if is_lost_pay else set()
