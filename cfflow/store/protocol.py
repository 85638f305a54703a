"""What a store must do, and the bytes it keeps.

Three promises make the engine simple: a plan is written whole or not at all; it is
written only over the version that it was decided on; the same commit sent twice is
applied once. `cfflow.testing` has the suite that every store must pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, Protocol

import msgspec

from cfflow.core.actions import NextAction
from cfflow.core.chart import State
from cfflow.core.draft import Plan
from cfflow.core.flow import Flow
from cfflow.core.record import Attempt, Notice, Record, Snapshot, split_id
from cfflow.core.siblings import attempt_of
from cfflow.errors import PaymentNotFound, StoreError
from cfflow.feed.protocol import FeedStore

__all__ = [
    "ACTION_MAX_B",
    "DUPLICATE_WINDOW_MS",
    "PAID_MARKER_MS",
    "Committed",
    "Notification",
    "Notified",
    "Outcome",
    "Overdue",
    "Page",
    "Started",
    "Store",
    "decode_action",
    "decode_attempts",
    "decode_notice",
    "decode_record",
    "encode_action",
    "encode_attempt",
    "encode_events",
    "encode_notification",
    "encode_record",
    "load_order",
    "load_payment",
    "oldest_of",
    "snapshot_of",
]

#: A QR image or a form fits; what does not is shown to the caller and not kept.
ACTION_MAX_B: Final = 65_536

#: So long an order that was paid is known as paid after its payments were purged.
PAID_MARKER_MS: Final = 365 * 86_400_000

#: So long a notification is known, and a second one like it is a duplicate.
DUPLICATE_WINDOW_MS: Final = 86_400_000

_encode = msgspec.msgpack.Encoder().encode
_record_decoder = msgspec.msgpack.Decoder(Record)
_action_decoder = msgspec.msgpack.Decoder(NextAction)
_attempts_decoder = msgspec.msgpack.Decoder(tuple[Attempt, ...])
_notice_decoder = msgspec.msgpack.Decoder(Notice)


class Outcome(StrEnum):
    """How a commit ended."""

    OK = "ok"
    CONFLICT = "conflict"
    GONE = "gone"
    OWNED = "owned"
    HOLDER = "holder"
    BLOCKED = "blocked"
    RESTARTED = "restarted"
    SCHEMA = "schema"


class Committed(msgspec.Struct, frozen=True):
    """The answer to a commit: what is stored now, at the store's own time.

    `other` is the payment number that stood in the way of a claimed attempt, a hold or a
    new pay; `since_at_ms` is when a store that may have lost commits began anew. `replicated`:
    as many replicas have it as the deployment asks for.
    """

    outcome: Outcome
    at_ms: int
    snapshot: Snapshot | None = None
    other: int = 0
    since_at_ms: int = 0
    replicated: bool = True


class Started(msgspec.Struct, frozen=True):
    """The answer to a start: a new payment, the open one, or the one that took money.

    `exists`: a payment of the wanted number exists already, or the order is not so far.
    """

    outcome: Literal["ok", "open", "paid", "exists"]
    snapshot: Snapshot


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway has sent us, once its signature was found right.

    `content_id` is the same whenever the same body comes again. `order_id` and
    `cf_payment_id` are empty where it names none in our form. A payment that is in the
    `reported_state` needs no inquiry; empty where it reports none. `data` is its own JSON,
    kept for the feed where it is about no attempt.
    """

    type: str
    content_id: str
    order_id: str = ""
    cf_payment_id: str = ""
    reported_state: str = ""
    data: bytes | None = None


class Notified(msgspec.Struct, frozen=True):
    """The answer to a notification: the payments that are due now, and whether it came before."""

    payments: tuple[int, ...] = ()
    duplicate: bool = False


class Overdue(msgspec.Struct, frozen=True):
    """How far behind the workers are: what is due now, and since when at the longest."""

    count: int = 0
    since_at_ms: int | None = None


class Page(msgspec.Struct, frozen=True):
    """Which payments to list: by index and time of creation, oldest first."""

    states: tuple[State, ...] = tuple(State)
    review: bool = False
    from_at_ms: int = 0
    to_at_ms: int | None = None
    limit: int = 100

    def has(self, record: Record) -> bool:
        """Say whether a payment belongs on this page, its limit aside."""
        from_then = self.from_at_ms <= record.created_at_ms
        in_time = from_then and (self.to_at_ms is None or record.created_at_ms <= self.to_at_ms)
        wanted = bool(record.open_reviews) if self.review else True
        return in_time and wanted and record.state in self.states


class Store(Protocol):
    """Keeps payments. Times are milliseconds of the store's own clock.

    Every call raises `StoreUnavailable` when the store cannot be reached or does not
    accept writes, and `StoreError` when what it holds cannot be read.
    """

    def now_ms(self) -> int:
        """Return the store's time, by this process's monotonic clock and a known offset."""
        ...

    def feed(self) -> FeedStore:
        """Return what the feed's readers need; usable once the store is open."""
        ...

    async def open(self) -> None:
        """Connect, and refuse a store that could lose payments (`ConfigError`)."""
        ...

    async def aclose(self) -> None:
        """Let go of the connections."""
        ...

    async def start(
        self, order_id: str, record: Record, flow: Flow, *, n: int | None = None
    ) -> Started:
        """Begin the order's next payment, unless one is open or took money.

        With `n` begin exactly that one, whatever the others are: `adopt` writes down what
        the gateway says has happened. Raises `AlreadyPaid` where the payment that took
        money is past its retention.
        """
        ...

    async def load(self, order_id: str, n: int) -> Snapshot | None:
        """Return a payment, None where there is none."""
        ...

    async def commit(self, plan: Plan) -> Committed:
        """Write a plan over the version that it was decided on."""
        ...

    async def notify(self, notification: Notification) -> Notified:
        """Make the payments that a notification is about due now; tell the feed once.

        It is about the one that has its attempt; where none has, about those that have no
        attempt yet or that hold or took money, or else about the newest. One that says
        already what is said stays asleep, and one that names no attempt wakes nobody.
        Raises `StoreUnavailable` when too few replicas have it, where some must.
        """
        ...

    async def clear_notifications(self, snapshot: Snapshot, settles_until_at_ms: int) -> Snapshot:
        """Be done with a payment's notifications up to then, without a new version of it.

        It wakes when its record says so again. Somebody who has moved it since has answered,
        or left it due. Returns the payment without its notice.
        """
        ...

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began."""
        ...

    async def lease(self, limit: int, lease_ms: int) -> Sequence[Snapshot]:
        """Take due payments for `lease_ms`: nobody else gets them meanwhile.

        Three quarters the newest overdue, one quarter the oldest. A store in parts divides
        `limit` among them and takes at least one of each.
        """
        ...

    async def defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look at a claimed payment at another time, unless somebody has moved it since."""
        ...

    async def overdue(self) -> Overdue:
        """Return how many payments are due and since when."""
        ...

    async def purge(self, payments: Sequence[Snapshot]) -> bool:
        """Remove an order whose payments are exactly these; False if one has moved.

        One that took money leaves a mark for a year: it is never paid again.
        """
        ...

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by index, oldest first."""
        ...


async def load_payment(store: Store, order_id: str, n: int) -> Snapshot:
    """Return a payment's snapshot; raises `PaymentNotFound`."""
    found = await store.load(order_id, n)
    if found is None:
        raise PaymentNotFound(f"there is no payment {order_id}.{n}")
    return found


async def load_order(store: Store, order_id: str) -> list[Snapshot]:
    """Return the snapshots of an order's payments, the first one first."""
    first = await store.load(order_id, 1)
    if first is None:
        return []
    others = [await store.load(order_id, n) for n in range(2, len(first.attempts) + 1)]
    return [first, *(other for other in others if other is not None)]


def encode_record(record: Record) -> bytes:
    """Return a record as it is kept."""
    return _encode(record)


def decode_record(blob: bytes) -> Record:
    """Return a record as it was kept; raises `StoreError` for bytes that are none."""
    try:
        return _record_decoder.decode(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored record does not decode: {error}") from None


def encode_action(action: NextAction) -> bytes:
    """Return a next action as it is kept; empty for one with a value that no store holds.

    It is the gateway's own JSON: what is odd about it is no reason to lose an answer to a pay.
    """
    try:
        return _encode(action)
    except (OverflowError, ValueError, RecursionError):
        return b""


def decode_action(blob: bytes | None) -> NextAction | None:
    """Return a next action as it was kept."""
    try:
        return _action_decoder.decode(blob) if blob else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored next_action does not decode: {error}") from None


def encode_attempt(record: Record) -> bytes:
    """Return what the order's entry says of a payment, as it is kept."""
    return _encode(attempt_of(record))


def decode_attempts(packed: bytes | None) -> tuple[Attempt, ...]:
    """Return what an order's entry says of its payments."""
    try:
        return _attempts_decoder.decode(packed) if packed else ()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored order does not decode: {error}") from None


def encode_events(plan: Plan) -> list[bytes]:
    """Return the feed entries of a plan, one per transition."""
    snapshot, record = plan.snapshot, plan.record
    return [
        _encode(
            {
                "payment_id": snapshot.id,
                "order_id": snapshot.order_id,
                "cf_payment_id": record.cf_payment_id,
                "flow": record.flow,
                "from_state": walked.from_state.value,
                "to_state": walked.to_state.value,
                "trigger": walked.trigger.value,
                "step": walked.step,
                "observation": walked.proof,
                "version": record.version,
                "request_id": walked.request_id,
                "at_ms": record.updated_at_ms,
            }
        )
        for walked in plan.walked
    ]


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


def snapshot_of(
    identifier: str,
    blob: bytes,
    action: bytes | None,
    packed: bytes | None,
    notice: bytes | None = None,
) -> Snapshot:
    """Return the snapshot of one stored payment."""
    place = split_id(identifier)
    if place is None:
        raise StoreError(f"{identifier!r} in an index is no payment id")
    record, attempts = decode_record(blob), decode_attempts(packed)
    return Snapshot(*place, record, decode_action(action), attempts, decode_notice(notice))


def decode_notice(blob: bytes | None) -> Notice | None:
    """Return a notice as it was kept."""
    try:
        return _notice_decoder.decode(blob) if blob else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored notice does not decode: {error}") from None


def oldest_of(limit: int, turn: int) -> int:
    """Return how many of a claim are the oldest due: a quarter, over every four turns.

    Without them the oldest would wait for ever while new ones fall due faster than they
    are looked at; without the newest, nobody in a queue would be served in time.
    """
    return (limit + turn % 4) // 4
