"""The bytes that stores keep: of orders, of next actions and of feed entries.

A store never looks into them. Fields are only ever appended (`order.SCHEMA`); bytes that earlier
versions wrote lie in `tests/ports/stored/` and must load for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import starmap
from typing import Any, Final, TypeVar

import msgspec

from cfflow.core.actions import NextAction
from cfflow.core.authors import Cause
from cfflow.core.bounds import ACTION_MAX_B
from cfflow.core.chart import State, Trigger
from cfflow.core.news import hold_expires_soon, reviews_changed
from cfflow.core.order import (
    SCHEMA,
    ForeignMoney,
    Notice,
    Order,
    index_changes,
    notice_digests,
    paid_by,
)
from cfflow.core.plan import Change, Plan
from cfflow.core.record import Details, Record, payment_id
from cfflow.errors import StoreError
from cfflow.store.protocol import (
    UNREADABLE_INDEX,
    Commit,
    IndexChange,
    Notification,
    StoredOrder,
)

_T = TypeVar("_T")


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """An order's record: a schema number leads, and payments stay bytes until they are needed."""

    schema: int
    payments: tuple[msgspec.Raw, ...]
    seen_attempt_ids: tuple[str, ...] = ()
    foreign_money: tuple[ForeignMoney, ...] = ()
    verified_in: str = ""
    first_verified_at_ms: int = 0


class _About(msgspec.Struct):
    """What every feed entry tells of its payment, as it is stored.

    Without the metadata, which may be 2 KB: the stream would grow to a multiple of its size.
    """

    payment_id: str
    order_id: str
    cf_payment_id: str | None
    flow: str
    version: int
    at_ms: int
    amount: Decimal | None
    captured_amount: Decimal | None
    currency: str
    bank_reference: str | None
    created_at_ms: int
    authorized_at_ms: int | None
    captured_at_ms: int | None
    hold_expires_at_ms: int | None


class _Transition(_About):
    """The feed entry of an edge that was walked."""

    from_state: State
    to_state: State
    trigger: Trigger
    step: str | None
    observation: str
    request_id: str
    cause: Cause
    actor: str


class _Review(_About):
    """The feed entry of a review that was opened or closed."""

    kind: str
    state: State
    reason: str
    is_open: bool
    detail: str
    actor: str
    note: str


class _HoldExpiring(_About):
    """The feed entry of a hold that ends within a day."""

    kind: str
    state: State


_NO_DETAILS: Final = Details()

#: The first version of the stored form: there is no reader for what is lower.
_SCHEMA_FIRST: Final = 2

#: More digits than the number of any notification has.
_NUMBER_DIGITS_MAX: Final = 18

_encode: Final = msgspec.msgpack.Encoder().encode
_outline_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_schema_decoder: Final = msgspec.msgpack.Decoder(int)
_order_decoder: Final = msgspec.msgpack.Decoder(_Stored)
_actions_decoder: Final = msgspec.msgpack.Decoder(dict[int, msgspec.Raw])
_action_decoder: Final = msgspec.msgpack.Decoder(NextAction)


def encode_order(order: Order) -> bytes:
    """Return the stored bytes of an order."""
    return _encode(
        (
            order.schema,
            order.payments,
            order.seen_attempt_ids,
            order.foreign_money,
            order.verified_in,
            order.first_verified_at_ms,
        )
    )


def decode_order(stored: StoredOrder) -> Order:
    """Return an order from its stored bytes. Raises `StoreError` for bytes that do not decode.

    An order that a newer version of cfflow wrote can be read, and has no token: to write it back
    would drop the fields that this version does not have.
    """
    found = _decoded(_order_decoder, stored.record, "order")
    if found.schema < _SCHEMA_FIRST:
        raise StoreError(f"a stored order has the schema {found.schema}, which never was")
    return Order(
        id=stored.id,
        payments=found.payments,
        seen_attempt_ids=found.seen_attempt_ids,
        foreign_money=found.foreign_money,
        verified_in=found.verified_in,
        first_verified_at_ms=found.first_verified_at_ms,
        actions=decode_actions(stored.actions) if stored.actions else {},
        notices=tuple(_notice(attempt, text) for attempt, text in stored.notices.items()),
        token=stored.token if found.schema <= SCHEMA else "",
        stamp=stored.stamp,
        schema=found.schema,
    )


def readable(stored: StoredOrder) -> Order | None:
    """Return an order all of whose payments decode, None where something of it does not."""
    try:
        order = decode_order(stored)
        order.all_payments  # noqa: B018  decodes all of it
    except StoreError:
        return None
    return order


def is_of_newer_version(stored: StoredOrder) -> bool:
    """Whether a newer version of cfflow wrote this order, even one whose form is not known here."""
    try:
        outline = _outline_decoder.decode(stored.record)
        return bool(outline) and _schema_decoder.decode(outline[0]) > SCHEMA
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _notice(attempt: str, text: str) -> Notice:
    number, _, state = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) <= _NUMBER_DIGITS_MAX):
        raise StoreError(f"a stored notification has the number {number[:20]!r}")
    return Notice(int(number), attempt, state)


def _notice_text(notice: Notice) -> str:
    return f"{notice.number}:{notice.reported_state}"


def decode_actions(blob: bytes) -> Mapping[int, NextAction]:
    """Return the next actions of an order's payments from their bytes. Raises `StoreError`."""
    packed = _decoded(_actions_decoder, blob, "next_action")
    return {n: _decoded(_action_decoder, raw, "next_action") for n, raw in packed.items()}


def encode_actions(actions: Mapping[int, NextAction]) -> bytes:
    """Return the stored bytes of next actions, without those that cannot be stored.

    They hold the gateway's own JSON, which may have a number that msgpack cannot hold. The
    outcome of the pay must be stored all the same, so such an action is left out.
    """
    packed: dict[int, msgspec.Raw] = {}
    for n, action in actions.items():
        try:
            blob = _encode(action)
        except (OverflowError, ValueError, RecursionError):
            continue
        if len(blob) <= ACTION_MAX_B:
            packed[n] = msgspec.Raw(blob)
    return _encode(packed) if packed else b""


def _decoded(decoder: msgspec.msgpack.Decoder[_T], blob: bytes | msgspec.Raw, what: str) -> _T:
    try:
        return decoder.decode(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored {what} does not decode: {error}") from None


def commit_of(plan: Plan, *, lease: str = "") -> Commit:
    """Return the commit that writes a plan under its token."""
    before, after = plan.before, plan.after
    changed = before.actions is not after.actions and dict(before.actions) != dict(after.actions)
    return Commit(
        order_id=after.id,
        expected=before.token,
        token=after.token,
        record=encode_order(after),
        digests=notice_digests(after),
        actions=encode_actions(after.actions) if changed else None,
        wake_at_ms=after.wake_at_ms,
        index=tuple(starmap(IndexChange, index_changes(before, after))),
        events=tuple(_events(plan)),
        answered={notice.cf_payment_id: _notice_text(notice) for notice in plan.answered},
        flows={flow.digest: flow.source for flow in plan.flows},
        opens=plan.opens,
        gate=plan.gate or "",
        verified=plan.verified,
        lease=lease,
    )


def removal_of(order: Order) -> Commit:
    """Return the commit that removes an order; one that was paid leaves its payment's id.

    An order that was set aside once, and repaired, leaves the index `unreadable` too.
    """
    paid = paid_by(order)
    nothing = Order(id=order.id)
    changes = (*index_changes(order, nothing), (UNREADABLE_INDEX, order.id, None))
    return Commit(
        order_id=order.id,
        expected=order.token,
        token="",
        record=None,
        index=tuple(starmap(IndexChange, changes)),
        marker="" if paid is None else payment_id(order.id, paid),
    )


def _events(plan: Plan) -> list[bytes]:
    """Return the feed entries of a plan."""
    events: list[bytes] = []
    for change in plan.changes:
        events += _events_of(plan.after.id, change)
    return events


def _events_of(order_id: str, change: Change) -> list[bytes]:
    """Return the feed entries of one payment: its transitions, its reviews, its hold's end."""
    reviews, expires = reviews_changed(change), hold_expires_soon(change)
    if not (change.walked or reviews or expires):
        return []
    about, state = _about(order_id, change), change.record.state
    entries: list[_About] = []
    for walked in change.walked:
        proved = (walked.step, walked.proof, walked.request_id)
        by = (walked.author.cause, walked.author.actor)
        edge = (walked.from_state, walked.to_state, walked.trigger)
        entries.append(_Transition(*(*about, *edge, *proved, *by)))
    for news in reviews:
        review = news.review
        shown = (review.reason, news.is_open, review.detail, review.actor, review.note)
        entries.append(_Review(*(*about, "review", state, *shown)))
    if expires:
        entries.append(_HoldExpiring(*(*about, "hold_expiring", state)))
    return list(map(_encode, entries))


def _about(order_id: str, change: Change) -> tuple[Any, ...]:
    """Return what every feed entry tells of its payment: the fields of `_About`."""
    record = change.record
    details = record.details or _NO_DETAILS
    return (
        payment_id(order_id, change.n),
        order_id,
        record.cf_payment_id,
        record.flow,
        record.version,
        record.updated_at_ms,
        record.amount if record.amount_held is None else record.amount_held,
        record.captured_amount,
        record.currency,
        details.bank_reference,
        record.created_at_ms,
        _later(record, details.authorized_after_ms),
        _later(record, details.captured_after_ms),
        record.hold_expires_at_ms,
    )


def _later(record: Record, after_ms: int | None) -> int | None:
    return None if after_ms is None else record.created_at_ms + after_ms


def encode_notification(notification: Notification, at_ms: int) -> bytes:
    """Return the feed entry of a notification."""
    return _encode(
        {
            "kind": "notification",
            "type": notification.type,
            "order_id": notification.order_id or None,
            "cf_payment_id": notification.cf_payment_id or None,
            "data": notification.data,
            "content_id": notification.content_id,
            "at_ms": at_ms,
        }
    )
