"""Reviews about the order's other attempts: two with money, foreign ones, late ones of ours.

An order's attempts may come from another page or system of the merchant, and two of them may
take the customer's money. Nothing is undone here: a review is opened, and `order.py` bars the
next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cfflow.core.authors import CALLER, Author
from cfflow.core.chart import HOLDS, State
from cfflow.core.draft import Draft
from cfflow.core.flow import Flow
from cfflow.core.observation import Call, Observation, prove
from cfflow.core.operation import Step
from cfflow.core.order import SEEN_MAX, ForeignMoney
from cfflow.core.plan import Plan, joined
from cfflow.core.record import payment_id
from cfflow.core.reviews import ReviewReason

#: Where the customer may still pay.
_WAITING: Final = frozenset({State.INITIATED, State.OTP_PENDING})

#: A review names so many attempts; a card tester's order has hundreds.
_NAMED_MAX: Final = 8


def warn_of_other(draft: Draft, observation: Observation) -> None:
    """Review a capture or void that acted on another attempt: the call names only the order."""
    other = observation.cf_payment_id
    if observation.call is Call.AUTHORIZE and other not in {None, draft.cf_payment_id}:
        draft.review(
            ReviewReason.OTHER_ATTEMPT, f"the gateway acted on attempt {other}, not on ours"
        )


def warn_of_lost_pay(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """Review what may be a lost pay's attempt after the store lost commits.

    A pay that was committed in the lost time may have an attempt at the gateway. Until a person
    has looked, the order takes no other pay. That the order has seen the attempt before explains
    nothing: it may have been seen since the loss. The payment of the lost pay may be lost too:
    then the order's newest one gets the review. While a pay is open, `find_pay` decides.
    """
    closed = {foreign.cf_payment_id for foreign in draft.foreign_money if foreign.is_closed}
    alive = [
        o
        for o in _not_owned(draft, attempts)
        if o.cf_payment_id not in closed and prove(o).state is not State.FAILED
    ]
    is_newest = draft.snapshot.n == len(draft.order.payments)
    may_be_it = is_newest or (draft.state is State.CREATED and not draft.abandoned)
    is_paying = draft.operation is not None and draft.operation.step is Step.PAY
    if alive and may_be_it and not is_paying:
        detail = f"the store lost commits; attempt {_ids(alive)} may be a lost pay"
        draft.review(ReviewReason.UNCLAIMED_MONEY, detail)


def warn_of_siblings_with_money(draft: Draft) -> None:
    """Review two payments of one order with money: the customer may have paid twice."""
    siblings = draft.snapshot.siblings_with_money
    if draft.state not in HOLDS or not siblings:
        return
    payments = draft.order.siblings
    others = ", ".join(
        f"{payment_id(draft.order.id, n)} (attempt {payments[n].cf_payment_id})" for n in siblings
    )
    ours = f"{draft.snapshot.id} (attempt {draft.cf_payment_id})"
    draft.review(ReviewReason.TWO_HOLDS, f"{ours} and {others} both hold or took money")


def with_siblings_warned(plan: Plan, flow: Flow, now_ms: int, author: Author = CALLER) -> Plan:
    """Return the plan with a review of two holds on each sibling with money, if ours got money.

    In the same commit: no step may be sent on either of them. Nothing else of a sibling changes,
    so it needs no flow of its own.
    """
    change = plan.change
    had_money = change.previous is not None and change.previous.state in HOLDS
    if change.record.state not in HOLDS or had_money:
        return plan
    for sibling in plan.snapshot.siblings_with_money:
        draft = Draft(plan.after.payment(sibling), flow, now_ms, author)
        warn_of_siblings_with_money(draft)
        plan = joined([plan, draft.plan(keeps_wake=True)])
    return plan


def warn_of_foreign_holds(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """Review foreign attempts that an open capture or void may act on: it names only the order."""
    operation = draft.operation
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID}:
        return
    for other in _not_owned(draft, attempts):
        name = other.cf_payment_id
        if other.authorization_action == operation.step.name:
            draft.review(ReviewReason.OTHER_ATTEMPT, f"{operation.step} shows on attempt {name}")
        elif prove(other).state is State.AUTHORIZED:
            detail = f"attempt {name}, which no payment here owns, is held too"
            draft.review(ReviewReason.TWO_HOLDS, detail)


def warn_of_second_taker(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """Review a foreign attempt that holds or took money: the customer pays twice, or is about to.

    In every state: also where ours has no money, the order is paid and no pay may go out.
    """
    takers = [o for o in _not_owned(draft, attempts) if prove(o).state in HOLDS]
    pays_too = draft.state in HOLDS | _WAITING
    if not pays_too:
        closed = {foreign.cf_payment_id for foreign in draft.foreign_money if foreign.is_closed}
        takers = [o for o in takers if o.cf_payment_id not in closed]
    operation = draft.operation
    if operation is not None and operation.step is Step.PAY:
        # One that is not ruled out may be this pay's own attempt: `find_pay` decides that.
        takers = [o for o in takers if o.cf_payment_id in operation.known_attempt_ids]
    if not takers:
        return
    detail = f"attempt {_ids(takers)}, which no payment here owns, holds or took money"
    draft.review(ReviewReason.TWO_HOLDS if pays_too else ReviewReason.UNCLAIMED_MONEY, detail)
    known = {foreign.cf_payment_id for foreign in draft.foreign_money}
    found = (str(o.cf_payment_id) for o in takers)
    new = (ForeignMoney(name, draft.snapshot.n) for name in found if name not in known)
    draft.foreign_money = (*draft.foreign_money, *new)[-SEEN_MAX:]


def warn_of_late_pay(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """Review an attempt that appeared after a pay was given up: perhaps it is that pay's."""
    late = [o for o in _not_owned(draft, attempts) if o.cf_payment_id not in draft.seen_attempt_ids]
    waiting = draft.operation is not None and draft.cf_payment_id is None
    if draft.was.pay_given_up_at_ms is not None and late and not waiting:
        detail = f"a pay was given up, and attempt {_ids(late)} appeared since"
        draft.review(ReviewReason.UNCLAIMED_MONEY, detail)


def _not_owned(draft: Draft, attempts: Iterable[Observation]) -> list[Observation]:
    """Return the attempts that neither this payment nor a sibling owns."""
    owned = {*draft.snapshot.owned_elsewhere, draft.cf_payment_id}
    return [o for o in attempts if o.cf_payment_id not in owned]


def _ids(attempts: Iterable[Observation]) -> str:
    return ", ".join(sorted(str(o.cf_payment_id) for o in attempts)[:_NAMED_MAX])
