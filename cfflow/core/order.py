"""The order and its payments beside each other: every rule about more than one payment.

Pay, capture and void name the order and not the attempt, and two attempts of one order can both
take the customer's money. So the order is what is stored, locked and scheduled: one record with
all of its payments, and one token that changes with every commit. A decision about one payment
sees the others as they are, because the store refuses it once the token has changed
(design.md#the-order-is-the-unit). No store has a rule of its own: the rules are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

import msgspec

from cfflow.core.actions import NextAction
from cfflow.core.chart import FINAL, HOLDS, OPEN, State
from cfflow.core.lazy import lazy
from cfflow.core.operation import Operation, Step
from cfflow.core.record import Record, Sibling, payment_id
from cfflow.core.reviews import Effect, ReviewReason, effect_of
from cfflow.errors import StoreError

#: The version of the stored form; it rises with each field that is appended.
SCHEMA: Final = 3

#: A card tester must not grow an order without end.
PAYMENTS_MAX: Final = 16

#: Of the attempts that the order has seen, so many ids are kept.
SEEN_MAX: Final = 64

#: The index of payments with an open review; the other indexes have the names of states.
REVIEW_INDEX: Final = "review"

#: The steps after which the customer's money may be gone.
TAKES_MONEY: Final = frozenset({Step.PAY, Step.SUBMIT_OTP})

#: The steps that name the order only: the gateway chooses the attempt (gateway.md#authorize).
AUTHORIZES: Final = frozenset({Step.CAPTURE, Step.VOID})

#: An order is purged only when all of its payments are in one of these.
ENDS: Final = (*FINAL, State.FAILED)

#: Stands for every attempt: more notifications came than are kept one by one.
EVERY_ATTEMPT: Final = "*"

_ALIVE: Final = frozenset({State.INITIATED, State.OTP_PENDING})
_DIGEST_B: Final = 6

_T = TypeVar("_T")

_sibling_decoder = msgspec.msgpack.Decoder(Sibling)
_record_decoder = msgspec.msgpack.Decoder(Record)


class Notice(msgspec.Struct, frozen=True):
    """A notification that no commit has settled yet.

    `number` rises with every notification, so that a commit settles those that it was decided
    on and no later one. `cf_payment_id` is the attempt that it is about, which need not be ours.
    `reported_state` is empty where it reports none, or after two that contradict each other.
    """

    number: int
    cf_payment_id: str
    reported_state: str = ""


class ForeignMoney(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that no payment here owns, and that holds or took money.

    It blocks the order until a person closes the review that it opened on payment `n`
    (`is_closed`). Then it opens no `unclaimed_money` again, on whichever payment of the order it
    is seen; beside a payment that waits or has money too it is still a second one.
    """

    cf_payment_id: str
    n: int
    is_closed: bool = False


class Order(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An order as it was read, or as a plan writes it.

    `payments` are the stored bytes of the payments that were not decoded yet. `actions` are the
    customers' next steps by payment number, `notices` the notifications that are not settled;
    both lie beside the record. `stamp` is the history of the server's data in which the
    order was last verified. `first_verified_at_ms` is when the first of the two inquiries was
    asked that verify an order after a restart, in the history `verified_in`.
    """

    id: str
    payments: tuple[msgspec.Raw | Record, ...] = ()
    seen_attempt_ids: tuple[str, ...] = ()
    foreign_money: tuple[ForeignMoney, ...] = ()
    verified_in: str = ""
    first_verified_at_ms: int = 0
    actions: Mapping[int, NextAction] = {}
    notices: tuple[Notice, ...] = ()
    token: str = ""
    stamp: str = ""
    schema: int = SCHEMA

    @lazy
    def siblings(self) -> Mapping[int, Sibling]:
        """The leading fields of every payment, by number. Raises `StoreError`."""
        return {
            n: blob
            if isinstance(blob, Record)
            else self._records.get(n) or _decoded(_sibling_decoder, blob)
            for n, blob in enumerate(self.payments, 1)
        }

    @lazy
    def _records(self) -> dict[int, Record]:
        """The records that were decoded already: one look at an order reads each several times."""
        return {}

    def record(self, n: int) -> Record:
        """Return the record of a payment that exists. Raises `StoreError`."""
        blob = self.payments[n - 1]
        if isinstance(blob, Record):
            return blob
        found = self._records.get(n)
        if found is None:
            found = self._records[n] = _decoded(_record_decoder, blob)
        return found

    def payment(self, n: int) -> Snapshot:
        """Return a payment that exists. Raises `StoreError`."""
        return Snapshot(self, n, self.record(n), self.actions.get(n))

    def has(self, n: int) -> bool:
        """Whether the order has a payment of this number."""
        return 1 <= n <= len(self.payments)

    @property
    def all_payments(self) -> tuple[Snapshot, ...]:
        """All payments by number. Raises `StoreError`."""
        record, action = self.record, self.actions.get
        numbers = range(1, len(self.payments) + 1)
        return tuple([Snapshot(self, n, record(n), action(n)) for n in numbers])

    @property
    def wake_at_ms(self) -> int | None:
        """When a worker must look at this order: the earliest wake time of its payments."""
        times = [s.wake_at_ms for s in self.siblings.values() if s.wake_at_ms is not None]
        return min(times, default=None)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], blob: msgspec.Raw) -> _T:
    try:
        return decoder.decode(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored payment does not decode: {error}") from None


class Snapshot(msgspec.Struct, frozen=True):
    """A payment as it was read: its order, its record, and what the customer has to do next."""

    order: Order
    n: int
    record: Record
    next_action: NextAction | None = None

    @property
    def order_id(self) -> str:
        """The id of its order."""
        return self.order.id

    @property
    def id(self) -> str:
        """The payment's id, `<order_id>.<n>`."""
        return payment_id(self.order.id, self.n)

    @property
    def others(self) -> tuple[tuple[int, Sibling], ...]:
        """The order's other payments by number."""
        if len(self.order.payments) == 1:
            return ()
        return tuple((n, s) for n, s in self.order.siblings.items() if n != self.n)

    @property
    def owned_elsewhere(self) -> Mapping[str, int]:
        """The attempts that other payments of this order own, each with its payment's number."""
        return {s.cf_payment_id: n for n, s in self.others if s.cf_payment_id}

    @property
    def siblings_with_money(self) -> tuple[int, ...]:
        """The order's other payments that hold or took money."""
        return tuple(n for n, sibling in self.others if sibling.state in HOLDS)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The notifications that concern this payment and may report something new."""
        if not self.order.notices:
            return ()
        return tuple(
            notice
            for notice in self.order.notices
            if self.n in concerned(self.order, notice.cf_payment_id)
            and not adds_nothing(self.order, notice)
        )


# which payment is in the way of another


class Standing(NamedTuple):
    """A payment that keeps the order from another one: it is open, or it took the money."""

    n: int
    is_paid: bool


def standing_payment(order: Order) -> Standing | None:
    """Return the payment because of which no other may be started, None if one may.

    One open payment at a time, or the customer could pay twice. An abandoned one is watched to
    its end, and keeps the order only once it took the money.
    """
    for n, payment in order.siblings.items():
        if payment.state in OPEN and not payment.abandoned:
            return Standing(n, is_paid=False)
        if payment.state is State.CAPTURED:
            return Standing(n, is_paid=True)
    return None


def owner_of(order: Order, cf_payment_id: str) -> int | None:
    """Return the payment that owns this attempt, None if none does.

    An attempt belongs to one payment at most: its money must not be counted twice.
    """
    owners = (n for n, s in order.siblings.items() if s.cf_payment_id == cf_payment_id)
    return next(owners, None)


class Situation(NamedTuple):
    """One row of the table: a situation of a payment, and the steps that it bars to the others."""

    name: str
    applies: Callable[[Sibling], bool]
    bars: frozenset[Step]


def _has_open(payment: Sibling, *steps: Step) -> bool:
    return payment.operation is not None and payment.operation.step in steps


#: Which situation of a payment bars which step of another one of its order.
SITUATIONS: Final = (
    Situation("holds or took money", lambda s: s.state in HOLDS, frozenset(Step)),
    Situation("has a pay open", lambda s: _has_open(s, Step.PAY), TAKES_MONEY | AUTHORIZES),
    Situation("has an OTP on its way", lambda s: _has_open(s, Step.SUBMIT_OTP), AUTHORIZES),
    Situation("has a capture or void open", lambda s: _has_open(s, *AUTHORIZES), TAKES_MONEY),
    Situation("has an attempt that is not over", lambda s: s.state in _ALIVE, AUTHORIZES),
    Situation("has a review that must be closed first", lambda s: s.blocks_pay, TAKES_MONEY),
)


def why_barred(snapshot: Snapshot, step: Step) -> str | None:
    """Return why this step must not begin now, beside the order's other money; None if it may.

    Its own open reviews count, foreign money, and the situation of every other payment.
    """
    open_reasons = [review.reason for review in snapshot.record.open_reviews]
    reasons = [reason for reason in open_reasons if Effect.BLOCKS_PAY in effect_of(reason)]
    if reasons and step in TAKES_MONEY:
        return f"review {reasons[0]} must be closed first: the customer might pay twice"
    if ReviewReason.TWO_HOLDS in reasons and step in AUTHORIZES:
        return f"{step} names the order only, and two of its attempts hold money: see two_holds"
    for foreign in snapshot.order.foreign_money:
        if not foreign.is_closed and step in TAKES_MONEY | AUTHORIZES:
            attempt = f"attempt {foreign.cf_payment_id}, which no payment here owns, has money"
            return (
                f"{step}: {attempt}: see the review of {payment_id(snapshot.order_id, foreign.n)}"
            )
    for n, sibling in snapshot.others:
        for situation in SITUATIONS:
            if step in situation.bars and situation.applies(sibling):
                return (
                    f"{step} waits for {payment_id(snapshot.order_id, n)}, which {situation.name}"
                )
    return None


def may_act_on_another(record: Record, operation: Operation) -> bool:
    """Whether the order has another attempt for this open step to act on.

    Once it acted on another one, the gateway repeats that outcome for its key, whatever a person
    has acknowledged.
    """
    if any(review.reason == ReviewReason.TWO_HOLDS for review in record.open_reviews):
        return True
    reviews = (r for r in record.reviews if r.reason == ReviewReason.OTHER_ATTEMPT)
    return any(review.at_ms >= operation.began_at_ms for review in reviews)


def why_not_replaced(payment: Snapshot) -> str | None:
    """Return why a customer may not give this open payment up for another try, None if they may.

    Only where no answer is owed: a step without an outcome, or an OTP that was accepted or may
    have been, can take the money within seconds, and the next payment would take it again.
    """
    record, otp = payment.record, payment.record.otp
    if record.operation is not None:
        return f"{record.operation.step} has no outcome yet"
    if record.state not in {State.CREATED, *_ALIVE}:
        return f"it is {record.state}"
    if otp is not None and otp.accepted:
        return "its OTP was accepted, and the bank owes the outcome"
    if otp is not None and otp.unsure:
        return "the answer to its OTP was lost: it may have been right"
    return None


# notifications


def concerned(order: Order, cf_payment_id: str) -> tuple[int, ...]:
    """Return the payments that a notification about this attempt concerns.

    The one that owns it. If none does: those without an attempt, whose lost pay it may be, and
    those that hold or took money, since the customer may have paid twice. If there are none of
    these: the newest one. All, for a notification that stands for every attempt.
    """
    if cf_payment_id == EVERY_ATTEMPT:
        return tuple(order.siblings)
    owner = owner_of(order, cf_payment_id) if cf_payment_id else None
    if owner is not None or not cf_payment_id:
        return () if owner is None else (owner,)
    waiting = tuple(
        n
        for n, s in order.siblings.items()
        if s.state in HOLDS or (s.cf_payment_id is None and s.state is State.CREATED)
    )
    return waiting or tuple(order.siblings)[-1:]


def adds_nothing(order: Order, notice: Notice) -> bool:
    """Whether the payment of this attempt is already in the state that a notification reports."""
    owner = owner_of(order, notice.cf_payment_id)
    return owner is not None and order.siblings[owner].state == notice.reported_state


def notice_digest(cf_payment_id: str, state: str) -> bytes:
    """Return what the store compares to find out that a notification says nothing new."""
    return blake2b(f"{cf_payment_id}:{state}".encode(), digest_size=_DIGEST_B).digest()


def notice_digests(order: Order) -> bytes:
    """Return the digests of all notifications that would say nothing new.

    Notifications report ends only, so a payment that is not at its end has none.
    """
    return b"".join(
        [
            notice_digest(s.cf_payment_id, s.state)
            for s in order.siblings.values()
            if s.cf_payment_id and s.state in ENDS
        ]
    )


# what is stored beside the record


def index_changes(before: Order, after: Order) -> tuple[tuple[str, str, int | None], ...]:
    """Return how the indexes change: (index, payment id, score), None for one that leaves.

    The score is the payment's time of creation in ms. When the order is due is in the wake index,
    under the order's id and not in here.
    """
    left: list[tuple[str, str, None]] = []
    entered: list[tuple[str, str, int]] = []
    for n in {**before.siblings, **after.siblings}:
        old, new = before.siblings.get(n), after.siblings.get(n)
        if old is not None and new is not None and _is_indexed_alike(old, new):
            continue
        name = payment_id(after.id, n)
        was, now = _indexes_of(old), _indexes_of(new)
        left += [(index, name, None) for index in was if index not in now]
        entered += [(i, name, at_ms) for i, at_ms in now.items() if was.get(i) != at_ms]
    return (*left, *entered)


def _is_indexed_alike(one: Sibling, other: Sibling) -> bool:
    """Whether two versions of a payment are in the same indexes; most commits move none."""
    return (
        one.state is other.state
        and one.created_at_ms == other.created_at_ms
        and one.reviews == other.reviews
    )


def _indexes_of(payment: Sibling | None) -> dict[str, int]:
    """Return the indexes that a payment is in, each with its score."""
    if payment is None:
        return {}
    names = (payment.state, REVIEW_INDEX) if payment.open_reviews else (payment.state,)
    return dict.fromkeys(names, payment.created_at_ms)


# the end of an order


def may_be_purged(order: Order, retention_s: Mapping[int, int], now_ms: int) -> bool:
    """Whether all payments ended so long ago that their flows keep them no longer.

    `retention_s` is each payment's, by number. Not while a review or a notification is open: a
    person or an inquiry still has to look.
    """
    return not order.notices and all(
        payment.record.state in ENDS
        and payment.record.wake_at_ms is None
        and not payment.record.open_reviews
        and now_ms >= payment.record.updated_at_ms + retention_s[payment.n] * 1000
        for payment in order.all_payments
    )


def paid_by(order: Order) -> int | None:
    """Return the payment that took the order's money, None if none did.

    An order that was paid must not be paid again after its payments are purged.
    """
    taken = (n for n, s in order.siblings.items() if s.state is State.CAPTURED)
    return next(taken, None)
