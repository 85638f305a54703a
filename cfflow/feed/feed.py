"""`Feed`: one consumer of the feed. Items come at least once, and in order within an order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self, get_args

import msgspec

from cfflow.core.times import moment
from cfflow.errors import Conflict, InvalidInput, StoreError
from cfflow.feed.groups import GroupFeed
from cfflow.feed.protocol import Member, PartitionRead, Position, Start, StoreWithFeed

_NAME: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_ID: Final = re.compile(r"(\d+):(\d+-\d+):(\d+)")
_LEASE_S: Final = (0.1, 3600.0)
_IDLE_S: Final = (0.01, 3600.0)
_BATCH: Final = (1, 10_000)
#: Leases are renewed once this part of them is over, also while fetched items still wait.
_RENEW_AT: Final = 0.2


class FeedAbout(msgspec.Struct, frozen=True, kw_only=True):
    """What every item about a payment tells of it, as of the commit.

    `id` is the same each time the item comes. `version` is the payment's after the commit; a
    commit that changed several things gives one item for each, all with that version. `amount`
    is what is held, or the order's amount before that is known. No metadata: read the payment.
    """

    id: str
    payment_id: str
    order_id: str
    cf_payment_id: str | None
    flow: str
    version: int
    at: datetime
    amount: Decimal | None = None
    captured_amount: Decimal | None = None
    currency: str = ""
    bank_reference: str | None = None
    created_at: datetime | None = None
    authorized_at: datetime | None = None
    captured_at: datetime | None = None
    hold_expires_at: datetime | None = None


class FeedEvent(FeedAbout, frozen=True, kw_only=True):
    """One transition of a payment, as it was committed.

    `cause` is what made cfflow act: `caller`, `worker`, `expiry`, `resend`, `notification` or
    `person`; `actor` the name that came with it. Entries of version 0.2 have neither.
    """

    from_state: str
    to_state: str
    trigger: str
    step: str | None
    observation: str
    request_id: str
    cause: str = ""
    actor: str = ""


class FeedReview(FeedAbout, frozen=True, kw_only=True):
    """A review was opened (`is_open`), or closed by a person: `actor` and `note` are theirs."""

    state: str
    reason: str
    is_open: bool
    detail: str = ""
    actor: str = ""
    note: str = ""


class FeedHoldExpiring(FeedAbout, frozen=True, kw_only=True):
    """A hold ends within a day, at `hold_expires_at`; told once for each hold.

    What cfflow does about it is the flow's `on_expiry`.
    """

    state: str


class FeedGap(msgspec.Struct, frozen=True, kw_only=True):
    """So many entries of a partition will never come: dropped unread, or impossible to decode."""

    id: str
    partition: int
    lost: int


class FeedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification of the gateway, once. It does not prove the state that it reports.

    `type` is the event's. `data` is its decoded JSON, with amounts as `Decimal`. It is None for
    payment events that name an attempt: an inquiry gives more about it, and no personal data.
    `content_id` is the same each time the gateway sends the same body: one that comes again
    after a day has another `id`. None in entries of older versions.
    """

    id: str
    type: str
    order_id: str | None
    cf_payment_id: str | None
    data: Any
    at: datetime
    content_id: str | None = None


#: What a feed hands out.
FeedItem = FeedEvent | FeedReview | FeedHoldExpiring | FeedGap | FeedNotification


#: The kinds of entries about a payment, and their classes.
_ABOUT_PAYMENTS: Final[Mapping[str, type[FeedEvent | FeedReview | FeedHoldExpiring]]] = {
    "transition": FeedEvent,
    "review": FeedReview,
    "hold_expiring": FeedHoldExpiring,
}


class _Head(msgspec.Struct):
    """The fields of an entry that are read before its kind is known."""

    kind: str = "transition"
    at_ms: int | None = None


_head_decoder = msgspec.msgpack.Decoder(_Head)
_data_decoder = msgspec.json.Decoder(float_hook=Decimal)


class Feed:
    """One consumer of a group; made by `events`, used with `async with` and `async for`.

    The partitions that it reads are leased to it: no other consumer of the group gets their
    items while this one lives and acknowledges. An item that was handed out and not
    acknowledged comes again: to a consumer of the same name as soon as it is back, to others
    once the lease has ended. One loop reads a feed; `ack` may be called from others.
    """

    def __init__(
        self,
        store: StoreWithFeed,
        group: str,
        *,
        consumer: str | None = None,
        start: Start = "oldest",
        lease_s: float = 30.0,
        batch: int = 100,
        idle_s: float = 0.5,
    ) -> None:
        self.group: Final = _checked_name("group", group)
        self.consumer: Final = _checked_name(
            "consumer", _unique_name() if consumer is None else consumer
        )
        if not isinstance(start, str) or start not in get_args(Start):
            raise InvalidInput("start must be 'oldest' or 'now'")
        self._start = start
        self._lease_ms = round(_checked("lease_s", lease_s, _LEASE_S) * 1000)
        self._idle_s = _checked("idle_s", idle_s, _IDLE_S)
        self._batch = int(_checked("batch", batch, _BATCH))
        self._store = store
        self._feed = GroupFeed(store.feed())
        self._member: Member | None = None
        self._consumers: Sequence[str] = ()
        self._read_at_ms = 0
        self._fetched: deque[tuple[int, Position, FeedItem]] = deque()
        # By partition: up to where it was fetched; the last position handed out; the last one
        # handed out that is not acknowledged.
        self._read: dict[int, Position] = {}
        self._handed_out: dict[int, Position] = {}
        self._unacknowledged: dict[int, Position] = {}
        self._lock = asyncio.Lock()

    @property
    def consumers(self) -> tuple[str, ...]:
        """The living consumers of the group, this one included, as of the last read."""
        return tuple(self._consumers)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that are leased to this consumer, as of the last read."""
        return tuple(sorted(self._read))

    async def __aenter__(self) -> Self:
        self._member = Member(self.group, self.consumer, self._store.now_ms(), self._lease_ms)
        self._consumers = sorted(await self._feed.join(self._member, self._start))
        return self

    async def __aexit__(self, *_: object) -> None:
        member, self._member = self._open_member, None
        self._fetched.clear()
        # If the store cannot be reached, the leases end by themselves.
        with contextlib.suppress(StoreError):
            await self._feed.leave(member, list(self._read), leaves_group=True)
        self._read.clear()
        self._unacknowledged.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedItem:
        while True:
            item = await self.poll()
            if item is not None:
                return item
            await asyncio.sleep(self._idle_s)

    async def poll(self) -> FeedItem | None:
        """Return the next item, None if there is none now. It does not wait for one.

        Renews the leases when it is time to. Raises `Conflict` if the group was forgotten,
        `StoreUnavailable` if the store does not respond. No money moves.
        """
        async with self._lock:
            age_ms = self._store.now_ms() - self._read_at_ms
            if self._fetched and age_ms >= self._lease_ms * _RENEW_AT:
                await self._fetch(0)
            if not self._fetched:
                await self._fetch(self._batch)
            if not self._fetched:
                return None
            partition, position, item = self._fetched.popleft()
            self._handed_out[partition] = self._unacknowledged[partition] = position
            return item

    async def ack(self, event: FeedItem) -> None:
        """Acknowledge an item, and with it all that came before it in its partition.

        Raises `Conflict` if the lease was lost meanwhile: the item comes again, to the consumer
        that has the partition now. Raises `InvalidInput` for an item that this feed has not
        handed out, `StoreUnavailable` if the store does not respond. No money moves.
        """
        member, (partition, position) = self._open_member, _position_of(event)
        latest = self._handed_out.get(partition)
        if latest is None or position.is_after(latest):
            raise InvalidInput(f"{event.id} was not handed out by this feed")
        async with self._lock:
            if not await self._feed.ack(member, partition, position):
                self._release(partition)
                raise Conflict(
                    f"{self.consumer} has lost partition {partition} to another consumer of"
                    f" {self.group}: {event.id} comes again there"
                )
            latest = self._unacknowledged.get(partition)
            if latest is not None and not latest.is_after(position):
                del self._unacknowledged[partition]
                await self._give_back()

    async def forget(self) -> bool:
        """Forget the whole group, and return whether there was one.

        A consumer that opens it again begins anew. Until a group is forgotten, the store keeps for
        it what it has not acknowledged.
        Raises `StoreUnavailable` if the store does not respond. No money moves.
        """
        return await self._feed.forget(self.group)

    @property
    def _open_member(self) -> Member:
        if self._member is None:
            raise InvalidInput("the feed is not open: use `async with`")
        return self._member

    def _share(self) -> list[int]:
        """Return this consumer's partitions: all of the group count off in the same order."""
        own = self._consumers.index(self.consumer)
        return list(range(own, self._feed.partitions, len(self._consumers)))

    async def _fetch(self, count: int) -> None:
        """Renew the leases of the share, and fetch so many entries of each partition."""
        member = self._open_member
        await self._give_back()
        positions = {partition: self._read.get(partition) for partition in self._share()}
        consumers, reads = await self._feed.read(member, positions, count)
        self._read_at_ms = self._store.now_ms()
        if not consumers or any(read.status == "gone" for read in reads.values()):
            raise Conflict(f"the group {self.group} was forgotten by another caller")
        before, self._consumers = self._consumers, sorted(consumers)
        for partition, read in reads.items():
            self._add(partition, read, with_entries=count > 0)
        if before != self._consumers:
            await self._give_back()

    async def _give_back(self) -> None:
        """Give back partitions of others' shares, except where an item is not acknowledged yet.

        Such a partition is given back after its acknowledgement, so that the next consumer
        does not handle the same item at the same time.
        """
        share = set(self._share())
        free = []
        for partition in [partition for partition in self._read if partition not in share]:
            latest = self._unacknowledged.get(partition)
            if latest is None:
                free.append(partition)
                self._release(partition)
            else:
                self._drop_fetched(partition)
                self._read[partition] = latest
        if free:
            await self._feed.leave(self._open_member, free, leaves_group=False)

    def _add(self, partition: int, read: PartitionRead, *, with_entries: bool) -> None:
        """Take over what the store has read of a partition."""
        if read.status != "ok":
            self._release(partition)
        if not read.is_leased:
            return
        start = self._read.setdefault(partition, read.start)
        if not with_entries:
            return
        lost = read.skipped_to - start.number
        if lost > 0:
            self._add_gap(partition, Position(start.id, read.skipped_to), lost)
        for number, (identifier, blob) in enumerate(read.entries, read.skipped_to + 1):
            self._add_entry(partition, Position(identifier, number), blob)
        newest = read.entries[-1][0] if read.entries else start.id
        self._read[partition] = Position(newest, read.skipped_to + len(read.entries))

    def _add_entry(self, partition: int, position: Position, blob: bytes) -> None:
        try:
            item = _item(_id_of(partition, position), blob)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, ArithmeticError):
            # One broken entry must not end the feed for ever.
            self._add_gap(partition, position, 1)
            return
        if item is not None:
            self._fetched.append((partition, position, item))

    def _add_gap(self, partition: int, position: Position, lost: int) -> None:
        gap = FeedGap(id=_id_of(partition, position), partition=partition, lost=lost)
        self._fetched.append((partition, position, gap))

    def _release(self, partition: int) -> None:
        """Remove all that this consumer has of a partition: it is not leased any more."""
        self._drop_fetched(partition)
        self._read.pop(partition, None)
        self._unacknowledged.pop(partition, None)

    def _drop_fetched(self, partition: int) -> None:
        kept = [item for item in self._fetched if item[0] != partition]
        if len(kept) < len(self._fetched):
            self._fetched = deque(kept)


def _item(name: str, blob: bytes) -> FeedItem | None:
    """Return a stored entry; None for a kind that only later versions have.

    Such an entry is skipped: the acknowledgement of the next one covers it. Fields that later
    versions have added are ignored.
    """
    head = _head_decoder.decode(blob)
    if head.kind not in _ABOUT_PAYMENTS and head.kind != "notification":
        return None
    if head.at_ms is None:
        raise ValueError("an entry without a time")
    fields = msgspec.msgpack.decode(blob) | {"id": name, "at": moment(head.at_ms)}
    if head.kind in _ABOUT_PAYMENTS:
        return msgspec.convert(_with_times(fields), _ABOUT_PAYMENTS[head.kind])
    data = fields.get("data")
    fields["data"] = None if data is None else _data_decoder.decode(data)
    return msgspec.convert(fields, FeedNotification)


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with their instants as aware datetimes."""
    instants = {
        name.removesuffix("_ms"): moment(at_ms)
        for name, at_ms in fields.items()
        if name.endswith("_at_ms") and isinstance(at_ms, int)
    }
    return fields | instants


def _id_of(partition: int, position: Position) -> str:
    return f"{partition}:{position.id}:{position.number}"


def _position_of(event: FeedItem) -> tuple[int, Position]:
    found = _ID.fullmatch(event.id) if isinstance(event, FeedItem) else None
    if found is None:
        raise InvalidInput("ack takes an event or a gap, as the feed handed it out")
    return int(found[1]), Position(found[2], int(found[3]))


def _unique_name() -> str:
    """Return a name that no other consumer has, and that shows where it runs."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:80]
    return f"{host}:{os.getpid()}:{secrets.token_hex(4)}"


def _checked_name(what: str, name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"{what} must be 1 to 128 letters, digits or any of ._:@-")
    return name


def _checked(what: str, value: float, limits: tuple[float, float]) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and limits[0] <= value <= limits[1]:
        return value
    raise InvalidInput(f"{what} must be a number from {limits[0]:g} to {limits[1]:g}")
