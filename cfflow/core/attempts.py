"""Reviews about the order's other attempts: two that hold money, strangers', late ones of ours.

An order's attempts may come from another page or system of the merchant, and two of them may
take the customer's money. Nothing is undone here: a person is told, and `siblings.py` keeps
the next step back.
"""

from __future__ import annotations

from typing import Final

from cfflow.core.chart import HOLDS, State
from cfflow.core.draft import Draft
from cfflow.core.observation import Call, Observation, prove
from cfflow.core.record import Operation, Step

__all__ = [
    "suspect_lost_pay",
    "warn_of_late_pay",
    "warn_of_other",
    "warn_of_second_taker",
    "warn_of_siblings_with_money",
    "warn_of_strangers",
]

#: Where the customer may still pay.
_WAITING: Final = frozenset({State.INITIATED, State.OTP_PENDING})


def warn_of_other(draft: Draft, observation: Observation) -> None:
    """Capture and void name the order: this one acted on an attempt that is not ours."""
    other = observation.cf_payment_id
    if observation.call is Call.AUTHORIZE and other not in {None, draft.get("cf_payment_id")}:
        draft.review("other_attempt", f"the gateway acted on attempt {other}, not on ours")


def suspect_lost_pay(
    draft: Draft, attempts: tuple[Observation, ...], *, nonce: str, named: tuple[str, ...]
) -> None:
    """The store came back without its last moments: a pay of ours may be missing from it."""
    draft.set(nonce=nonce)
    ours = {*draft.get("seen"), *named, draft.get("cf_payment_id")}
    known = draft.snapshot.owned_elsewhere | ours
    alive = [
        str(o.cf_payment_id)
        for o in attempts
        if o.cf_payment_id not in known and prove(o).state is not State.FAILED
    ]
    if draft.state is State.CREATED and draft.get("operation") is None and alive:
        ids = ", ".join(sorted(alive)[:8])
        draft.review("unclaimed_money", f"the store lost commits; attempt {ids} may be a lost pay")


def warn_of_siblings_with_money(draft: Draft) -> None:
    """Two payments of one order hold or took money: the customer may have paid twice."""
    siblings_with_money = draft.snapshot.siblings_with_money
    if draft.state not in HOLDS or not siblings_with_money:
        return
    order_id, attempts = draft.snapshot.order_id, draft.snapshot.attempts
    others = ", ".join(
        f"{order_id}.{n} (attempt {attempts[n - 1].cf_payment_id})" for n in siblings_with_money
    )
    ours = f"{draft.snapshot.id} (attempt {draft.get('cf_payment_id')})"
    draft.review("two_holds", f"{ours} and {others} both hold or took money")


def warn_of_strangers(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """An open capture or void named the order only: perhaps it acts on another attempt."""
    operation: Operation | None = draft.get("operation")
    if operation is None or operation.step not in {Step.CAPTURE, Step.VOID}:
        return
    known = draft.snapshot.owned_elsewhere | {draft.get("cf_payment_id")}
    for other in (o for o in attempts if o.cf_payment_id not in known):
        if other.authorization_action == operation.step.name:
            draft.review(
                "other_attempt", f"{operation.step} shows on attempt {other.cf_payment_id}"
            )
        elif prove(other).state is State.AUTHORIZED:
            draft.review(
                "two_holds", f"attempt {other.cf_payment_id}, of no payment here, is held too"
            )


def warn_of_second_taker(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """An attempt of no payment here holds or took money: the customer pays twice, or is about to.

    In every state: also where ours has no money, the order is paid and no pay may go out.
    """
    operation: Operation | None = draft.get("operation")
    known = draft.snapshot.owned_elsewhere | {draft.get("cf_payment_id")}
    takers = [o for o in attempts if o.cf_payment_id not in known and prove(o).state in HOLDS]
    if operation is not None and operation.step is Step.PAY:
        # One that is not ruled out may be this pay's own attempt: `find_pay` decides that.
        takers = [o for o in takers if o.cf_payment_id in operation.known]
    if not takers:
        return
    ids = ", ".join(sorted(str(o.cf_payment_id) for o in takers)[:8])
    detail = f"attempt {ids}, of no payment here, holds or took money"
    draft.review("two_holds" if draft.state in HOLDS | _WAITING else "unclaimed_money", detail)


def warn_of_late_pay(draft: Draft, attempts: tuple[Observation, ...]) -> None:
    """A pay was given up, and now an attempt is there that nobody knew: perhaps that one."""
    pay_given_up_at_ms = draft.was.pay_given_up_at_ms
    known = draft.snapshot.owned_elsewhere | {*draft.get("seen"), draft.get("cf_payment_id")}
    late = [o.cf_payment_id for o in attempts if o.cf_payment_id not in known]
    waiting = draft.get("operation") is not None and draft.get("cf_payment_id") is None
    if pay_given_up_at_ms is not None and late and not waiting:
        ids = ", ".join(sorted(str(name) for name in late)[:8])
        draft.review("unclaimed_money", f"a pay was given up, and attempt {ids} appeared since")
