"""A plan: what a decision returns, and what one commit writes whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import reduce

import msgspec

from cfflow.core.authors import CALLER, Author
from cfflow.core.chart import State, Trigger
from cfflow.core.flow import Flow
from cfflow.core.order import Notice, Order, Snapshot
from cfflow.core.record import Record


class Gate(StrEnum):
    """What a person can stop for all orders; a commit that opens a step passes one of these."""

    PAY = "pay"
    AUTO = "auto"
    RESEND = "resend"


class Walked(msgspec.Struct, frozen=True):
    """One edge that a plan walked, and what proved it: one event in log and feed."""

    trigger: Trigger
    from_state: State
    to_state: State
    proof: str
    step: str | None = None
    request_id: str = ""
    author: Author = CALLER


class Change(msgspec.Struct, frozen=True):
    """What a plan changes of one payment. `previous` is None for a payment that begins."""

    n: int
    previous: Record | None
    record: Record
    walked: tuple[Walked, ...] = ()

    @property
    def is_visible(self) -> bool:
        """Whether a caller can see the change: it is a new version. Else it is bookkeeping."""
        return self.previous is None or self.record.version != self.previous.version


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it was decided on and as it shall be, and what happened in between.

    `opens`: it stores a step that will be sent. After a restart the store refuses it until the
    order is verified, and it waits for the replicas. `gate`: a person can stop such a step.
    `verified`: the history of the server's data in which the inquiry verified this order; ""
    for a plan that verifies nothing. `answered`: the notifications that it settles. `flows`:
    those of payments that begin.
    """

    before: Order
    after: Order
    changes: tuple[Change, ...] = ()
    opens: bool = False
    gate: Gate | None = None
    verified: str = ""
    answered: tuple[Notice, ...] = ()
    flows: tuple[Flow, ...] = ()

    @property
    def change(self) -> Change:
        """The first change: that of the payment which was decided on."""
        return self.changes[0]

    @property
    def snapshot(self) -> Snapshot:
        """The payment that was decided on, as this plan leaves it."""
        return self.after.payment(self.change.n)

    @property
    def record(self) -> Record:
        """The record that this plan writes of the payment that was decided on."""
        return self.change.record

    @property
    def walked(self) -> tuple[Walked, ...]:
        """All edges that this plan walks."""
        return tuple(edge for change in self.changes for edge in change.walked)


def joined(plans: Iterable[Plan]) -> Plan:
    """Return one plan of several, each decided on the order as the one before leaves it."""
    return reduce(_join, plans)


def _join(first: Plan, then: Plan) -> Plan:
    return Plan(
        before=first.before,
        after=then.after,
        changes=_chained(first.changes, then.changes),
        opens=first.opens or then.opens,
        gate=first.gate or then.gate,
        verified=first.verified or then.verified,
        answered=(*first.answered, *then.answered),
        flows=(*first.flows, *then.flows),
    )


def _chained(first: tuple[Change, ...], then: tuple[Change, ...]) -> tuple[Change, ...]:
    """Return one change per payment: a second one of the same payment goes on from the first."""
    by_number = {change.n: change for change in first}
    for change in then:
        before = by_number.get(change.n)
        by_number[change.n] = (
            change
            if before is None
            else Change(change.n, before.previous, change.record, (*before.walked, *change.walked))
        )
    return tuple(by_number.values())


def under_token(plan: Plan, token: str) -> Plan:
    """Return the plan with its commit's token, in the order and in each payment that it changes.

    A caller who finds this token in a payment after a lost reply has proof that the commit was
    applied, whatever was committed to the order since.
    """
    payments = list(plan.after.payments)
    changes = []
    for change in plan.changes:
        own = token if change.is_visible else change.record.token
        record = msgspec.structs.replace(change.record, token=own)
        payments[change.n - 1] = record
        changes.append(msgspec.structs.replace(change, record=record))
    after = msgspec.structs.replace(plan.after, token=token, payments=tuple(payments))
    return msgspec.structs.replace(plan, after=after, changes=tuple(changes))
