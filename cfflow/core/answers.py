"""What the answers to pay and authenticate change, and how the attempt of a lost pay is found.

A lost answer is not a lost payment: the attempt is looked for among the order's attempts, by
what was frozen with the operation (design.md#which-attempt-is-ours). The answer's `action` is
lost for good. So an OTP page is assumed where the channel was `post`, and stored as assumed:
if that is wrong, one `submit_otp` is refused by the gateway and no money is at risk.
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
from cfflow.core.operation import Operation, Step
from cfflow.core.record import STEPS, EntryKind, OtpTurn, payment_id
from cfflow.core.reviews import ReviewReason
from cfflow.core.schedule import LATE_PAY_MS, PAY_MARGIN_MS


def pay_answered(draft: Draft, observation: Observation, sequence: int) -> None:
    """Apply the answer to a pay (gateway.md#proof, rows 7 and 8).

    A worker may have found the attempt already; then only what is new is taken over.
    """
    ours, theirs = draft.cf_payment_id, observation.cf_payment_id
    if theirs is None:
        return
    owner = draft.snapshot.owned_elsewhere.get(theirs)
    if owner is not None:
        detail = f"attempt {theirs} belongs to {payment_id(draft.order.id, owner)}"
        draft.review(ReviewReason.ATTEMPT_CLAIMED, detail)
        return
    if ours is None:
        own(draft, observation)
        _warn_of_two_pays(draft, sequence)
    elif ours != theirs:
        draft.review(ReviewReason.UNCLAIMED_MONEY, f"pay answered with attempt {theirs}")
    if ours in {None, theirs}:
        _enter(draft, observation)
    _close(draft, sequence, "done", observation.request_id)


def _warn_of_two_pays(draft: Draft, sequence: int) -> None:
    """A pay that was given up is answered after all, while the customer pays once more."""
    operation = draft.operation
    if operation is not None and operation.step is Step.PAY and operation.sequence != sequence:
        draft.review(
            ReviewReason.UNCLAIMED_MONEY,
            f"pay #{sequence} arrived late, pay #{operation.sequence}"
            " is on its way: two attempts, one payment",
        )


def _enter(draft: Draft, observation: Observation) -> None:
    target, otp = prove(observation).state, draft.otp
    if draft.state is State.CREATED and target is not None:
        draft.walk_to(target, observation)
    elif draft.state is State.INITIATED and target is State.OTP_PENDING and otp is None:
        # A worker found the attempt in a list, which does not show an OTP page. The answer does.
        draft.fire(Trigger.REQUIRE_OTP, observation)
    elif draft.state is State.OTP_PENDING and target is State.INITIATED and otp and otp.inferred:
        # A worker assumed an OTP page because of channel=post. The answer shows that there is none.
        draft.fire(Trigger.LEAVE_OTP, observation)
    if draft.state is State.OTP_PENDING:
        _begin_turn(draft, inferred=False)


def authenticate_answered(draft: Draft, observation: Observation, sequence: int) -> None:
    """Apply the answer to an OTP or a resend (gateway.md#proof, rows 9 and 10).

    A try that was counted while its answer was missing is not counted twice.
    """
    operation, status = draft.operation, observation.authenticate_status
    foreign = observation.cf_payment_id not in {None, draft.cf_payment_id}
    if draft.otp is None or foreign or status not in {"SUCCESS", "FAILED"}:
        return
    if operation is None or operation.sequence != sequence:
        if status == "SUCCESS" and _was_submit(draft, sequence):
            draft.otp = _accepted(draft, draft.otp)
        return
    otp = draft.otp = _used(draft, draft.otp, operation.step)
    if draft.state is State.OTP_PENDING:
        draft.otp = _judged(draft, otp, operation.step, observation)
    _close(draft, sequence, f"{status}"[:16].lower(), observation.request_id)


def _was_submit(draft: Draft, sequence: int) -> bool:
    """Whether the step of this number, which is closed by now, was a submission."""
    submit = (EntryKind.OPERATION, STEPS.index(Step.SUBMIT_OTP), sequence)
    return any((e.kind, e.code, e.by) == submit for e in draft.was.history)


def _judged(draft: Draft, otp: OtpTurn, step: Step, observation: Observation) -> OtpTurn:
    """Walk the edge that the answer proves, and return the turn as it is after it."""
    succeeded = observation.authenticate_status == "SUCCESS"
    if step is Step.RESEND_OTP and succeeded:
        draft.fire(Trigger.RESEND_OTP, observation)
        return msgspec.structs.replace(otp, sent_at_ms=draft.now_ms)
    if step is Step.SUBMIT_OTP and succeeded:
        return _accepted(draft, otp)
    if step is Step.SUBMIT_OTP:
        draft.fire(Trigger.REJECT_OTP, observation)
        return msgspec.structs.replace(otp, unsure=False)
    return otp


def _accepted(draft: Draft, otp: OtpTurn) -> OtpTurn:
    """The OTP was right: from now on the bank owes an answer about the money."""
    if otp.accepted:
        return otp
    draft.since_at_ms = draft.now_ms
    return msgspec.structs.replace(otp, accepted=True)


def count_lost_otp(draft: Draft, asked_at_ms: int) -> None:
    """Count one try for a submit or resend without an answer, while the bank still waits.

    The gateway may have counted it; to count one too few would offer a try that is not there.
    """
    operation = draft.operation
    if operation is None or operation.step not in {Step.SUBMIT_OTP, Step.RESEND_OTP}:
        return
    if asked_at_ms < operation.deadline_at_ms:
        return
    if draft.otp is not None:
        otp = _used(draft, draft.otp, operation.step)
        if operation.step is Step.RESEND_OTP:
            draft.otp = msgspec.structs.replace(otp, sent_at_ms=draft.now_ms)
        else:
            # It may have been right, and then the bank owes an answer since it was sent.
            draft.otp = msgspec.structs.replace(otp, unsure=True)
            draft.since_at_ms = max(draft.since_at_ms, operation.began_at_ms)
    draft.close_operation("answer lost, counted as used")


def _used(draft: Draft, otp: OtpTurn, step: Step) -> OtpTurn:
    """Return the turn with one more submission or resend used."""
    submits = otp.submits_used + (step is Step.SUBMIT_OTP)
    resends = otp.resends_used + (step is Step.RESEND_OTP)
    if step is Step.SUBMIT_OTP and submits >= draft.flow.otp.submits_max:
        # No try is left: the customer's turn is over, and the bank has to report how it ended.
        draft.since_at_ms = draft.now_ms
    return msgspec.structs.replace(otp, submits_used=submits, resends_used=resends)


def _close(draft: Draft, sequence: int, outcome: str, request_id: str) -> None:
    operation = draft.operation
    if operation is not None and operation.sequence == sequence:
        draft.close_operation(outcome, request_id)


def _begin_turn(draft: Draft, *, inferred: bool) -> None:
    """Start the customer's turn, or confirm the one that was only inferred."""
    otp = draft.otp
    if otp is None:
        ends_at_ms = draft.now_ms + draft.flow.otp.expires_after_s * 1000
        draft.otp = OtpTurn(expires_at_ms=ends_at_ms, sent_at_ms=draft.now_ms, inferred=inferred)
    elif not inferred:
        draft.otp = msgspec.structs.replace(otp, inferred=False)


def show(draft: Draft, action: NextAction | None) -> None:
    """Store what the customer has to do, if the payment is still where it was asked for."""
    wanted = State.OTP_PENDING if isinstance(action, AskOtp) else State.INITIATED
    if action is not None and draft.state is wanted:
        draft.next_action = action


def end_turn(draft: Draft) -> None:
    """End the customer's turn when a local limit is reached; the attempt lives on.

    Only `next_action` goes: the gateway alone can end an attempt (gateway.md#late-money).
    """
    otp = draft.otp
    if draft.state is not State.OTP_PENDING or otp is None:
        return
    used_up = otp.submits_used >= draft.flow.otp.submits_max
    if otp.accepted or used_up or draft.now_ms >= otp.expires_at_ms:
        draft.next_action = None


def find_pay(
    draft: Draft, attempts: Iterable[Observation], asked_at_ms: int, *, whole: bool = True
) -> None:
    """Look for the attempt of a lost pay among all attempts of the order.

    An attempt is ruled out only by proof: its id was there before the pay was written down,
    another payment owns it, or the gateway's own clock shows that it began before. The one
    other attempt that agrees in method, channel, amount and last four digits is ours. Every
    further attempt that may have money is a review that blocks the next pay: it may be ours
    after all, and the customer would pay twice. A list that is not `whole` can show our
    attempt and never its absence.
    """
    if whole:
        draft.asked(asked_at_ms)
    operation = draft.operation
    if operation is None or operation.step is not Step.PAY or asked_at_ms < operation.began_at_ms:
        return
    excluded = {*draft.snapshot.owned_elsewhere, *operation.known_attempt_ids}
    possible = [
        o for o in attempts if o.cf_payment_id not in excluded and not is_older(operation, o)
    ]
    unknown = list({o.cf_payment_id: o for o in possible}.values())
    ours = [o for o in unknown if matches(operation, o)]
    took_nothing = len(ours) == 1 and prove(ours[0]).state is State.FAILED
    call_ends_at_ms = _call_ends_at_ms(draft, operation)
    if took_nothing and asked_at_ms < call_ends_at_ms + PAY_MARGIN_MS:
        # Perhaps an older try of the customer's, with ours still on its way: look again.
        return
    # Beside another attempt a failed one proves too little: ours may be the other.
    alone = len(ours) == 1 and not (took_nothing and len(unknown) > 1)
    if alone and not _awaited_elsewhere(draft):
        _take_over(draft, operation, ours[0], asked_at_ms)
        _warn_of_others(draft, [o for o in unknown if o is not ours[0]])
    elif ours or (whole and unknown and _not_seen_twice(draft, operation, asked_at_ms)):
        _warn_of_others(draft, unknown)
    elif whole and not unknown and _not_seen_twice(draft, operation, asked_at_ms):
        draft.close_operation("no attempt found by two inquiries")
        draft.pay_given_up_at_ms = draft.since_at_ms = draft.now_ms


def _warn_of_others(draft: Draft, attempts: list[Observation]) -> None:
    """Have a person look at attempts that may be this pay's and were not ruled out."""
    found = draft.cf_payment_id is not None
    # Once ours is found, another one that took nothing is no second payment.
    doubtful = [o for o in attempts if not (found and prove(o).state is State.FAILED)]
    if doubtful:
        ids = ", ".join(sorted(str(o.cf_payment_id) for o in doubtful)[:8])
        draft.review(
            ReviewReason.AMBIGUOUS_ATTEMPT, f"which of these attempts is this payment's: {ids}?"
        )


def _awaited_elsewhere(draft: Draft) -> bool:
    """Whether another payment's given-up pay may still arrive: the two cannot be distinguished."""
    given_up = (other.pay_given_up_at_ms for _, other in draft.snapshot.others)
    return any(at_ms is not None and draft.now_ms < at_ms + LATE_PAY_MS for at_ms in given_up)


def _call_ends_at_ms(draft: Draft, operation: Operation) -> int:
    """Return when a pay's call must be over.

    One that broke off early may still be on its way for as long as it was given.
    """
    whole_ms = operation.began_at_ms + round(draft.flow.pay.timeout_s * 1000)
    return max(operation.deadline_at_ms, whole_ms)


def _take_over(draft: Draft, operation: Operation, found: Observation, asked_at_ms: int) -> None:
    """Own the attempt that was found, and go where it is."""
    own(draft, found)
    if prove(found).state is not None:
        absorb(draft, found, asked_at_ms)
        if draft.state is State.FAILED:
            # It may have been another try, with ours still on its way: watch for that one.
            draft.pay_given_up_at_ms = draft.now_ms
        return
    draft.fire(Trigger.INITIATE, found)
    if operation.channel == "post":
        draft.fire(Trigger.REQUIRE_OTP, None, "inferred from channel=post")
        _begin_turn(draft, inferred=True)
        draft.next_action = AskOtp()
    draft.close_operation("found by inquiry")


def _not_seen_twice(draft: Draft, operation: Operation, asked_at_ms: int) -> bool:
    """Store that this inquiry did not see our attempt; return True for the second that counts.

    Only two inquiries a margin apart, both past the deadline, mean "no attempt": a pay that the
    gateway is still working on shows up late (gateway.md#proof, row 11).
    """
    if asked_at_ms < _call_ends_at_ms(draft, operation):
        return False
    if operation.not_seen_at_ms is None:
        draft.operation = msgspec.structs.replace(operation, not_seen_at_ms=asked_at_ms)
        return False
    return asked_at_ms - operation.not_seen_at_ms >= PAY_MARGIN_MS
