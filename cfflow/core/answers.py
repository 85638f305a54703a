"""What the answers to pay and authenticate change, and how a lost pay is found again.

A lost answer is not a lost payment: the attempt is looked for among the order's attempts
on what was frozen with the operation (DESIGN 4). Its `action` is gone for good, so a
guess is made that costs one refused call at worst, and marked as one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cfflow.core.absorb import absorb, own
from cfflow.core.actions import AskOtp, NextAction
from cfflow.core.chart import State, Trigger
from cfflow.core.draft import Draft
from cfflow.core.matching import is_older, matches
from cfflow.core.observation import Observation, prove
from cfflow.core.record import STEPS, EntryKind, Operation, OtpTurn, Step
from cfflow.core.schedule import LATE_PAY_MS, PAY_MARGIN_MS

__all__ = [
    "authenticate_answered",
    "count_lost_otp",
    "end_turn",
    "find_pay",
    "pay_answered",
    "show",
]


def pay_answered(draft: Draft, observation: Observation, sequence: int) -> None:
    """Rows 7 and 8. A faster worker may have claimed the attempt already: then merge."""
    ours = draft.get("cf_payment_id")
    if observation.cf_payment_id is None:
        return
    if ours is None:
        own(draft, observation)
        _warn_of_two(draft, sequence)
    elif ours != observation.cf_payment_id:
        draft.review("unclaimed_money", f"pay answered with attempt {observation.cf_payment_id}")
    if ours in (None, observation.cf_payment_id):
        _enter(draft, observation)
    _close(draft, sequence, "done")


def _warn_of_two(draft: Draft, sequence: int) -> None:
    """A pay that was given up is answered after all, while the customer pays once more."""
    operation: Operation | None = draft.get("operation")
    if operation is not None and operation.step is Step.PAY and operation.sequence != sequence:
        draft.review(
            "unclaimed_money",
            f"pay #{sequence} arrived late, pay #{operation.sequence}"
            " is on its way: two attempts, one payment",
        )


def _enter(draft: Draft, observation: Observation) -> None:
    target = prove(observation).state
    otp: OtpTurn | None = draft.get("otp")
    if draft.state is State.CREATED and target is not None:
        draft.walk_to(target, observation)
    elif draft.state is State.INITIATED and target is State.OTP_PENDING and otp is None:
        # A worker found the attempt and guessed no page; the answer itself knows better.
        draft.fire(Trigger.REQUIRE_OTP, observation)
    elif draft.state is State.OTP_PENDING and target is State.INITIATED and otp and otp.inferred:
        # A worker guessed an OTP page from channel=post; the answer itself knows better.
        draft.fire(Trigger.LEAVE_OTP, observation)
    if draft.state is State.OTP_PENDING:
        _begin_turn(draft, inferred=False)


def authenticate_answered(draft: Draft, observation: Observation, sequence: int) -> None:
    """Rows 9 and 10. A try that was counted as lost meanwhile is not counted twice."""
    operation: Operation | None = draft.get("operation")
    otp: OtpTurn | None = draft.get("otp")
    foreign = observation.cf_payment_id not in (None, draft.get("cf_payment_id"))
    status = observation.authenticate_status
    if otp is None or foreign or status not in {"SUCCESS", "FAILED"}:
        return
    if operation is None or operation.sequence != sequence:
        if status == "SUCCESS" and _was_submit(draft, sequence):
            _accept(draft)
        return
    _use(draft, operation.step)
    if draft.state is State.OTP_PENDING:
        _judge(draft, operation.step, observation, accepted=status == "SUCCESS")
    _close(draft, sequence, f"{status}"[:16].lower())


def _was_submit(draft: Draft, sequence: int) -> bool:
    """Whether the step of this number, closed by now, was a submission."""
    submit = (EntryKind.OPERATION, STEPS.index(Step.SUBMIT_OTP), sequence)
    return any((e.kind, e.code, e.by) == submit for e in draft.was.history)


def _judge(draft: Draft, step: Step, observation: Observation, *, accepted: bool) -> None:
    if step is Step.RESEND_OTP and accepted:
        draft.fire(Trigger.RESEND_OTP, observation)
        draft.set(otp=msgspec.structs.replace(draft.get("otp"), sent_at_ms=draft.now_ms))
    elif step is Step.SUBMIT_OTP and accepted:
        _accept(draft)
    elif step is Step.SUBMIT_OTP:
        draft.fire(Trigger.REJECT_OTP, observation)
        draft.set(otp=msgspec.structs.replace(draft.get("otp"), unsure=False))


def _accept(draft: Draft) -> None:
    """The OTP was right: from now on the bank owes an answer about the money."""
    otp: OtpTurn = draft.get("otp")
    if not otp.accepted:
        draft.set(otp=msgspec.structs.replace(otp, accepted=True), since_at_ms=draft.now_ms)


def count_lost_otp(draft: Draft, asked_at_ms: int) -> None:
    """A submit or resend whose answer is lost, with the bank still waiting: one try used."""
    operation: Operation | None = draft.get("operation")
    if operation is None or operation.step not in {Step.SUBMIT_OTP, Step.RESEND_OTP}:
        return
    if asked_at_ms < operation.deadline_at_ms:
        return
    _use(draft, operation.step)
    if operation.step is Step.RESEND_OTP:
        draft.set(otp=msgspec.structs.replace(draft.get("otp"), sent_at_ms=draft.now_ms))
    else:
        # It may have been right, and then the bank owes an answer since it was sent.
        otp = msgspec.structs.replace(draft.get("otp"), unsure=True)
        draft.set(otp=otp, since_at_ms=max(draft.get("since_at_ms"), operation.began_at_ms))
    draft.close_operation("answer lost, counted as used")


def _use(draft: Draft, step: Step) -> None:
    otp: OtpTurn | None = draft.get("otp")
    if otp is None:
        return
    submits = otp.submits_used + (step is Step.SUBMIT_OTP)
    resends = otp.resends_used + (step is Step.RESEND_OTP)
    draft.set(otp=msgspec.structs.replace(otp, submits_used=submits, resends_used=resends))
    if step is Step.SUBMIT_OTP and submits >= draft.flow.otp.submits_max:
        # No try is left, so the customer's turn is over and the bank has to say how it ended.
        draft.set(since_at_ms=draft.now_ms)


def _close(draft: Draft, sequence: int, outcome: str) -> None:
    operation: Operation | None = draft.get("operation")
    if operation is not None and operation.sequence == sequence:
        draft.close_operation(outcome)


def _begin_turn(draft: Draft, *, inferred: bool) -> None:
    """Start the customer's turn, or confirm the one that was only inferred."""
    otp: OtpTurn | None = draft.get("otp")
    if otp is None:
        ends_at_ms = draft.now_ms + draft.flow.otp.expires_after_s * 1000
        otp = OtpTurn(expires_at_ms=ends_at_ms, sent_at_ms=draft.now_ms, inferred=inferred)
    elif not inferred:
        otp = msgspec.structs.replace(otp, inferred=False)
    draft.set(otp=otp)


def show(draft: Draft, action: NextAction | None) -> None:
    """Keep what the customer has to do, if the payment is still where it was asked for."""
    wanted = State.OTP_PENDING if isinstance(action, AskOtp) else State.INITIATED
    if action is not None and draft.state is wanted:
        draft.next_action = action


def end_turn(draft: Draft) -> None:
    """Local limits end the customer's turn, never the attempt: only `next_action` goes."""
    otp: OtpTurn | None = draft.get("otp")
    if draft.state is not State.OTP_PENDING or otp is None:
        return
    used_up = otp.submits_used >= draft.flow.otp.submits_max
    if otp.accepted or used_up or draft.now_ms >= otp.expires_at_ms:
        draft.next_action = None


def find_pay(
    draft: Draft, attempts: Iterable[Observation], asked_at_ms: int, *, whole: bool = True
) -> None:
    """Look for the attempt of a lost pay among all attempts of the order.

    An attempt is ruled out only by proof: its id was known before the pay was written down,
    another payment owns it, or the gateway's own clock shows that it began before. The one
    other attempt that agrees in method, channel, amount and last four digits is ours. Every
    further attempt that may have money is a review that blocks the next pay: it may be ours
    after all, and the customer would pay twice. A list that is not `whole` can show our
    attempt and never its absence.
    """
    if whole:
        draft.asked(asked_at_ms)
    operation: Operation | None = draft.get("operation")
    if operation is None or operation.step is not Step.PAY or asked_at_ms < operation.began_at_ms:
        return
    known = draft.snapshot.owned_elsewhere | set(operation.known)
    possible = [o for o in attempts if o.cf_payment_id not in known and not is_older(operation, o)]
    unknown = list({o.cf_payment_id: o for o in possible}.values())
    ours = [o for o in unknown if matches(operation, o)]
    took_nothing = len(ours) == 1 and prove(ours[0]).state is State.FAILED
    if took_nothing and not _over(draft, asked_at_ms):
        # Perhaps an older try of the customer's, with ours still on its way: look again.
        return
    # Beside another attempt a failed one proves too little: ours may be the other.
    alone = len(ours) == 1 and not (took_nothing and len(unknown) > 1)
    if alone and not _awaited_elsewhere(draft):
        _adopt(draft, operation, ours[0], asked_at_ms)
        _warn_of_others(draft, [o for o in unknown if o is not ours[0]])
    elif ours or (whole and unknown and _missed_twice(draft, operation, asked_at_ms)):
        _warn_of_others(draft, unknown)
    elif whole and not unknown and _missed_twice(draft, operation, asked_at_ms):
        draft.close_operation("never arrived")
        draft.set(pay_given_up_at_ms=draft.now_ms, since_at_ms=draft.now_ms)


def _warn_of_others(draft: Draft, attempts: list[Observation]) -> None:
    """Have a person look at attempts that may be this pay's and were not ruled out."""
    found = draft.get("cf_payment_id") is not None
    # Once ours is found, another one that took nothing is no second payment.
    doubtful = [o for o in attempts if not (found and prove(o).state is State.FAILED)]
    if doubtful:
        ids = ", ".join(sorted(str(o.cf_payment_id) for o in doubtful)[:8])
        draft.review("ambiguous_attempt", f"which of these attempts is ours: {ids}?")


def _awaited_elsewhere(draft: Draft) -> bool:
    """Whether another payment's given-up pay may still arrive: nobody can tell the two apart."""
    others = draft.snapshot.others
    return any(draft.now_ms < other.pay_given_up_at_ms + LATE_PAY_MS for _, other in others)


def _over(draft: Draft, asked_at_ms: int) -> bool:
    """Whether our own call must have arrived by now, if it ever does."""
    return asked_at_ms >= _call_ends_ms(draft, draft.get("operation")) + PAY_MARGIN_MS


def _call_ends_ms(draft: Draft, operation: Operation) -> int:
    """Return when a pay's call must be over.

    One that broke off early may still be on its way for as long as it was given.
    """
    whole_ms = operation.began_at_ms + round(draft.flow.pay.timeout_s * 1000)
    return max(operation.deadline_at_ms, whole_ms)


def _adopt(draft: Draft, operation: Operation, found: Observation, asked_at_ms: int) -> None:
    own(draft, found)
    if prove(found).state is not None:
        absorb(draft, found, asked_at_ms)
        if draft.state is State.FAILED:
            # It may have been another try, with ours still on its way: look out for that one.
            draft.set(pay_given_up_at_ms=draft.now_ms)
        return
    draft.fire(Trigger.INITIATE, found)
    if operation.channel == "post":
        draft.fire(Trigger.REQUIRE_OTP, None, "inferred from channel=post")
        _begin_turn(draft, inferred=True)
        draft.next_action = AskOtp()
    draft.close_operation("found by inquiry")


def _missed_twice(draft: Draft, operation: Operation, asked_at_ms: int) -> bool:
    """Keep that this inquiry did not find our attempt; True for the second one that counts.

    Row 11: only two inquiries a margin apart, both past the time limit, mean "no attempt".
    """
    if asked_at_ms < _call_ends_ms(draft, operation):
        return False
    if operation.not_seen_at_ms is None:
        draft.set(operation=msgspec.structs.replace(operation, not_seen_at_ms=asked_at_ms))
        return False
    return asked_at_ms - operation.not_seen_at_ms >= PAY_MARGIN_MS
