"""What a store must do, and the bytes that it keeps.

A store keeps payments. It decides nothing about money: it gets a `Plan`, in which everything
to write is decided, and writes it. Three promises make that safe, and every store must keep them:

- A plan is written whole or not at all: record, indexes, next action and events.
- A plan is written only over the version that it was decided on. Of two plans for one
  version the first wins, and the second gets `Outcome.CONFLICT` and the newest payment.
- A commit that is sent twice, because its result was lost, is applied once.

`cfflow.testing.StoreConformance` is a test suite for these promises and for everything that
`Store` describes. The functions at the end of this module make and read the stored bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from cfflow.core.actions import NextAction
from cfflow.core.chart import State
from cfflow.core.draft import Plan
from cfflow.core.flow import Flow
from cfflow.core.record import Attempt, Notice, Record, Snapshot, split_id
from cfflow.core.siblings import attempt_of
from cfflow.errors import PaymentNotFound, StoreError
from cfflow.feed.protocol import FeedLog

#: The largest next action that is kept. A QR image or a form fits. A larger one is returned to
#: the caller of `pay` and not stored.
ACTION_MAX_B: Final = 65_536

#: For how long the marker of a paid order stays after its payments were purged.
PAID_MARKER_MS: Final = 365 * 86_400_000

#: For how long a second notification with the same content is a duplicate.
DUPLICATE_WINDOW_MS: Final = 86_400_000

_T = TypeVar("_T")

_encode = msgspec.msgpack.Encoder().encode
_record_decoder = msgspec.msgpack.Decoder(Record)
_action_decoder = msgspec.msgpack.Decoder(NextAction)
_attempts_decoder = msgspec.msgpack.Decoder(tuple[Attempt, ...])
_notice_decoder = msgspec.msgpack.Decoder(Notice)


class Outcome(StrEnum):
    """How a commit ended. Only `OK` has written anything."""

    OK = "ok"
    #: The payment has another version or token than the plan was decided on, or more siblings
    #: hold or took money than it had in view.
    CONFLICT = "conflict"
    #: There is no such payment.
    GONE = "gone"
    #: Another payment of the order owns the attempt that the plan writes.
    OWNED = "owned"
    #: The plan opens a step, or is barred like one, and a sibling holds or took money.
    HOLDER = "holder"
    #: The entry of a sibling bars the step (`Attempt.bars`).
    BLOCKED = "blocked"
    #: The store may have lost commits of this payment: the gateway must be asked first.
    RESTARTED = "restarted"
    #: A newer cfflow wrote the record; this one would drop fields that it does not have.
    SCHEMA = "schema"


class Committed(msgspec.Struct, frozen=True):
    """The result of a commit, at the store's own time.

    `snapshot`: the payment as it is stored now, with `OK` and `CONFLICT`. `other`: the number
    of the payment that stood in the way, with `OWNED`, `HOLDER` and `BLOCKED`. `since_at_ms`:
    when the store restarted, with `RESTARTED`. `replicated`: whether as many replicas have the
    commit as the deployment asks for; no step is sent without them.
    """

    outcome: Outcome
    at_ms: int
    snapshot: Snapshot | None = None
    other: int = 0
    since_at_ms: int = 0
    replicated: bool = True


class Started(msgspec.Struct, frozen=True):
    """The result of a start.

    `ok`: the snapshot is a new payment. `open`: the order has an open payment, which is
    returned. `paid`: so is the one that took money. `exists`: a payment of the wanted number
    exists, and is returned.
    """

    outcome: Literal["ok", "open", "paid", "exists"]
    snapshot: Snapshot


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """An event that the gateway sent, with a valid signature.

    `content_id` is the same each time the same body comes. `order_id` and `cf_payment_id` are
    empty if it names none in our form. `reported_state` is the state that it reports, empty if
    it reports none: a payment in that state needs no inquiry. `data` is the event's JSON, for
    the feed; None if the event names an attempt.
    """

    type: str
    content_id: str
    order_id: str = ""
    cf_payment_id: str = ""
    reported_state: str = ""
    data: bytes | None = None


class Notified(msgspec.Struct, frozen=True):
    """The result of a notification: the payments that are due now, and whether it came before."""

    payments: tuple[int, ...] = ()
    duplicate: bool = False


class Overdue(msgspec.Struct, frozen=True):
    """How far behind the workers are: how many payments are due, and since when the oldest is."""

    count: int = 0
    since_at_ms: int | None = None


class Page(msgspec.Struct, frozen=True):
    """Which payments to list: by state and time of creation, oldest first.

    `review`: only those with an open review. Both ends of the time belong to it.
    """

    states: tuple[State, ...] = tuple(State)
    review: bool = False
    from_at_ms: int = 0
    to_at_ms: int | None = None
    limit: int = 100

    def has(self, record: Record) -> bool:
        """Return whether a payment belongs on this page, regardless of the limit."""
        from_then = self.from_at_ms <= record.created_at_ms
        in_time = from_then and (self.to_at_ms is None or record.created_at_ms <= self.to_at_ms)
        wanted = bool(record.open_reviews) if self.review else True
        return in_time and wanted and record.state in self.states


class Store(Protocol):
    """Keeps the payments of orders. All times are milliseconds of the store's own clock.

    An order has payments with the numbers 1, 2, ... and, for each of them, an `Attempt`: what
    its siblings need of it. A payment has a record, may have a next action and an open
    notification, and has a wake time while a worker must look at it.

    Every call raises `StoreUnavailable` if the store cannot be reached or refuses writes, and
    `StoreError` if stored bytes cannot be read. After `StoreUnavailable` from a call that
    writes, the write may have happened.
    """

    def now_ms(self) -> int:
        """Return the store's time without asking the store.

        It is this process's monotonic clock plus an offset that earlier calls have measured.
        Wake times and leases of all processes go by it, so no process may use a clock of its
        own machine.
        """
        ...

    def feed(self) -> FeedLog:
        """Return the part of the store that keeps the feed. The store must be open."""
        ...

    async def open(self) -> None:
        """Connect. Raises `ConfigError` for a store that could lose payments."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...

    async def start(
        self, order_id: str, record: Record, flow: Flow, *, n: int | None = None
    ) -> Started:
        """Store the first record of the order's next payment, and its flow's text.

        If one of the order's payments is open and not abandoned, or took money, that one is
        returned and nothing is written. With `n`, the payment with exactly this number is
        stored, whatever the others are: `adopt` writes what has already happened. Raises
        `AlreadyPaid` if the order was paid and its payments are purged, `Conflict` if `n` is
        beyond the next number.
        """
        ...

    async def load(self, order_id: str, n: int) -> Snapshot | None:
        """Return a payment, None if there is none."""
        ...

    async def commit(self, plan: Plan) -> Committed:
        """Write a plan over the version that it was decided on.

        The checks, in this order; the first that fails is the outcome, and nothing is written:

        1. `GONE`, `SCHEMA`: the payment exists, and its record's schema is not a newer one.
        2. `CONFLICT`: version and token are those of `plan.previous`. For a plan that is
           `barred_as` no step: not more siblings have money than in `plan.before`.
        3. `RESTARTED`: the store cannot have lost commits since this record was written, or
           the plan is `verified_after_restart`.
        4. `OWNED`, `HOLDER`, `BLOCKED`: the order's other payments permit it.

        Then all of it is written at once: the record under a new random token, the order's
        entry, the next action if it changed, the indexes, and one event for each walked edge.
        Notifications up to `settles_until_at_ms`, and those that report the new state, are
        removed. If one is left the payment is due now, otherwise at the record's wake time.
        If the payment got money by this commit, its siblings with money are due now.
        """
        ...

    async def notify(self, notification: Notification) -> Notified:
        """Make the payments that a notification concerns due now, and write it into the feed.

        It concerns the payment that owns its attempt. If none does, it concerns those without
        an attempt yet and those that hold or took money; if there are none of these, the
        newest one. It concerns none if it names no attempt, and none that is already in the
        state that it reports. A duplicate is not written into the feed again. Raises
        `StoreUnavailable` if fewer replicas have it than the deployment asks for.
        """
        ...

    async def clear_notifications(self, snapshot: Snapshot, settles_until_at_ms: int) -> Snapshot:
        """Remove a payment's open notification up to then, without a new version of it.

        The payment is due again at its record's wake time. Nothing happens if another commit
        has changed the payment since it was read. Returns the payment without its
        notification.
        """
        ...

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began, None if it is not stored."""
        ...

    async def lease(self, limit: int, lease_ms: int) -> Sequence[Snapshot]:
        """Take due payments for `lease_ms`: no other worker gets them in this time.

        Three quarters of them became due last, one quarter are the oldest (`oldest_share`). A
        store with partitions divides `limit` among them, and takes at least one from each that
        it asks.
        """
        ...

    async def defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Give a leased payment another wake time, unless it has changed since it was leased."""
        ...

    async def overdue(self) -> Overdue:
        """Return how many payments are due and since when."""
        ...

    async def purge(self, payments: Sequence[Snapshot]) -> bool:
        """Remove an order whose payments are exactly these.

        Returns False, and removes nothing, if one of them has changed, has an open
        notification, or if there are more. An order that took money leaves a marker for
        `PAID_MARKER_MS`: it must not be paid again.
        """
        ...

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by index, oldest first."""
        ...


async def load_payment(store: Store, order_id: str, n: int) -> Snapshot:
    """Return a payment's snapshot. Raises `PaymentNotFound`."""
    found = await store.load(order_id, n)
    if found is None:
        raise PaymentNotFound(f"there is no payment {order_id}.{n}")
    return found


async def load_order(store: Store, order_id: str) -> list[Snapshot]:
    """Return the snapshots of an order's payments by number; empty if there is no such order."""
    first = await store.load(order_id, 1)
    if first is None:
        return []
    others = [await store.load(order_id, n) for n in range(2, len(first.attempts) + 1)]
    return [first, *(other for other in others if other is not None)]


def encode_record(record: Record) -> bytes:
    """Return the stored bytes of a record."""
    return _encode(record)


def decode_record(blob: bytes) -> Record:
    """Return a record from its stored bytes. Raises `StoreError`, as all `decode_` do."""
    return _decoded(_record_decoder, blob, "record")


def encode_action(action: NextAction) -> bytes:
    """Return the stored bytes of a next action, empty for one that cannot be encoded.

    It holds the gateway's own JSON, which may have a number that msgpack cannot hold. The
    outcome of the pay must be stored all the same, so the action is left out.
    """
    try:
        return _encode(action)
    except (OverflowError, ValueError, RecursionError):
        return b""


def decode_action(blob: bytes | None) -> NextAction | None:
    """Return a next action from its stored bytes."""
    return _decoded(_action_decoder, blob, "next_action") if blob else None


def encode_attempt(record: Record) -> bytes:
    """Return the stored bytes of what the order's entry has of a payment."""
    return _encode(attempt_of(record))


def decode_attempts(packed: bytes | None) -> tuple[Attempt, ...]:
    """Return an order's entry from its stored bytes: one `Attempt` for each payment."""
    return _decoded(_attempts_decoder, packed, "order") if packed else ()


def decode_notice(blob: bytes | None) -> Notice | None:
    """Return an open notification from its stored bytes."""
    return _decoded(_notice_decoder, blob, "notice") if blob else None


def _decoded(decoder: msgspec.msgpack.Decoder[_T], blob: bytes, what: str) -> _T:
    try:
        return decoder.decode(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"a stored {what} does not decode: {error}") from None


def encode_events(plan: Plan) -> list[bytes]:
    """Return the feed entries of a plan, one for each transition."""
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
    """Return a payment from its id and the stored bytes of its parts."""
    place = split_id(identifier)
    if place is None:
        raise StoreError(f"an index has {identifier!r}, which is not a payment id")
    record, attempts = decode_record(blob), decode_attempts(packed)
    return Snapshot(*place, record, decode_action(action), attempts, decode_notice(notice))


def oldest_share(limit: int, turn: int) -> int:
    """Return how many of `limit` leased payments are the oldest: a quarter, over four turns.

    `turn` counts the leases. Without the oldest, a payment could wait for ever while new ones
    become due faster than the workers look at them. Without the newest, no payment of a long
    queue would be looked at in time.
    """
    return (limit + turn % 4) // 4
