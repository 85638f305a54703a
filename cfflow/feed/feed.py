"""`Feed`: what was committed, read by groups of consumers, at least once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self, get_args

import msgspec

from cfflow.core.times import moment
from cfflow.errors import Conflict, InvalidInput, StoreError
from cfflow.feed.protocol import FeedKeeper, Member, Portion, Position, Start

__all__ = ["Feed", "FeedEvent", "FeedGap", "FeedItem", "FeedNotification"]

_NAME: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_ID: Final = re.compile(r"(\d+):(\d+-\d+):(\d+)")
_LEASE_S: Final = (0.1, 3600.0)
_IDLE_S: Final = (0.01, 3600.0)
_BATCH: Final = (1, 10_000)
#: Leases are renewed when this part of them is over, also while entries wait to be handed out.
_RENEW_AT: Final = 0.2


class FeedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of a payment, as it was committed.

    `id` names it and is the same each time it comes. `version` is the payment's after the
    commit; a commit that walked several edges tells them one by one under one version.
    """

    id: str
    payment_id: str
    order_id: str
    cf_payment_id: str | None
    flow: str
    from_state: str
    to_state: str
    trigger: str
    step: str | None
    observation: str
    version: int
    request_id: str
    at: datetime


class FeedGap(msgspec.Struct, frozen=True, kw_only=True):
    """So many entries of a partition will never come: dropped unread, or not to be read."""

    id: str
    partition: int
    lost: int


class FeedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification of the gateway's, once: what it says of a payment is not proven by it.

    `type` is the event's. `data` is its decoded JSON, amounts as `Decimal`s; None for the
    payment events that name an attempt: an inquiry tells more of it, and without personal
    data. `content_id` is the same each time the gateway sends the same body: after a day one
    may come again under another `id`. None in entries of older versions.
    """

    id: str
    type: str
    order_id: str | None
    cf_payment_id: str | None
    data: Any
    at: datetime
    content_id: str | None = None


#: What a feed hands out.
FeedItem = FeedEvent | FeedGap | FeedNotification


class _Entry(msgspec.Struct, kw_only=True):
    """The stored fields of a transition; what later versions add is passed over."""

    payment_id: str
    order_id: str
    cf_payment_id: str | None
    flow: str
    from_state: str
    to_state: str
    trigger: str
    step: str | None
    observation: str
    version: int
    request_id: str
    at_ms: int


class _Noted(msgspec.Struct, kw_only=True):
    """The stored fields of a notification."""

    type: str
    order_id: str | None
    cf_payment_id: str | None
    data: bytes | None
    at_ms: int
    content_id: str | None = None


class _Kind(msgspec.Struct):
    kind: str = "transition"


_entry_decoder = msgspec.msgpack.Decoder(_Entry)
_noted_decoder = msgspec.msgpack.Decoder(_Noted)
_kind_decoder = msgspec.msgpack.Decoder(_Kind)
_data_decoder = msgspec.json.Decoder(float_hook=Decimal)


class Feed:
    """One consumer of a group; made by `events`, used with `async with` and `async for`.

    What it hands out is leased to it, partition by partition: nobody else of the group gets
    the same while this consumer lives and acknowledges. What was handed out and not
    acknowledged comes again, to a consumer of the same name as soon as it is back, to
    others once the lease has ended. One loop reads a feed; `ack` may be called from others.
    """

    def __init__(
        self,
        store: FeedKeeper,
        group: str,
        *,
        consumer: str | None = None,
        start: Start = "oldest",
        lease_s: float = 30.0,
        batch: int = 100,
        idle_s: float = 0.5,
    ) -> None:
        self.group: Final = _checked_name("group", group)
        self.consumer: Final = _checked_name("consumer", consumer or _somebody())
        if start not in get_args(Start):
            raise InvalidInput(f"start must be 'oldest' or 'now', got {str(start)[:20]!r}")
        self._start = start
        self._lease_ms = round(_checked("lease_s", lease_s, _LEASE_S) * 1000)
        self._idle_s = _checked("idle_s", idle_s, _IDLE_S)
        self._batch = int(_checked("batch", batch, _BATCH))
        self._store = store
        self._feed = store.feed()
        self._member: Member | None = None
        self._consumers: Sequence[str] = ()
        self._looked_ms = 0
        self._waiting: deque[tuple[int, Position, FeedItem]] = deque()
        # By partition: up to where it was read; handed out at all; handed out and unacknowledged.
        self._read: dict[int, Position] = {}
        self._sent: dict[int, Position] = {}
        self._open: dict[int, Position] = {}
        self._turn = asyncio.Lock()

    @property
    def consumers(self) -> tuple[str, ...]:
        """The living consumers of the group, this one included, as of the last look."""
        return tuple(self._consumers)

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that this consumer holds, as of the last look."""
        return tuple(sorted(self._read))

    async def __aenter__(self) -> Self:
        self._member = Member(self.group, self.consumer, self._store.now_ms(), self._lease_ms)
        self._consumers = sorted(await self._feed.enter(self._member, self._start))
        return self

    async def __aexit__(self, *_: object) -> None:
        member, self._member = self._me, None
        self._waiting.clear()
        # A store that is gone cannot be told; the leases end by themselves.
        with contextlib.suppress(StoreError):
            await self._feed.leave(member, list(self._read), wholly=True)
        self._read.clear()
        self._open.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedItem:
        while True:
            found = await self.poll()
            if found is not None:
                return found
            await asyncio.sleep(self._idle_s)

    async def poll(self) -> FeedItem | None:
        """Return what comes next without waiting for it; None when there is nothing now.

        Renews the leases when it is time to. Raises `Conflict` when somebody forgot the
        group, `StoreUnavailable` when the store does not answer. No money moves.
        """
        async with self._turn:
            age_ms = self._store.now_ms() - self._looked_ms
            if self._waiting and age_ms >= self._lease_ms * _RENEW_AT:
                await self._look(0)
            if not self._waiting:
                await self._look(self._batch)
            if not self._waiting:
                return None
            place, mark, found = self._waiting.popleft()
            self._sent[place] = self._open[place] = mark
            return found

    async def ack(self, event: FeedItem) -> None:
        """Be done with an event or a gap, and with all that came before it in its partition.

        Raises `Conflict` when the lease was lost meanwhile: the event comes again, to
        whoever has the partition now. Raises `InvalidInput` for what this feed has not
        handed out, `StoreUnavailable` when the store does not answer. No money moves.
        """
        member, (place, mark) = self._me, _place_of(event)
        if place not in self._sent or mark.is_behind(self._sent[place]):
            raise InvalidInput(f"{event.id} was not handed out by this feed")
        async with self._turn:
            if not await self._feed.ack(member, place, mark):
                self._lose(place)
                raise Conflict(
                    f"{self.consumer} has lost partition {place} to another consumer of"
                    f" {self.group}: {event.id} comes again there"
                )
            latest = self._open.get(place)
            if latest is not None and not latest.is_behind(mark):
                del self._open[place]
                await self._part()

    async def forget(self) -> None:
        """Forget the whole group: who opens it again begins anew.

        Until a group is forgotten, the store keeps for it what it has not acknowledged.
        Raises `StoreUnavailable` when the store does not answer. No money moves.
        """
        await self._feed.forget(self.group)

    @property
    def _me(self) -> Member:
        if self._member is None:
            raise InvalidInput("the feed is not open: use `async with`")
        return self._member

    def _share(self) -> list[int]:
        """Return this consumer's partitions: all of the group count off in the same order."""
        mine = self._consumers.index(self.consumer)
        return list(range(mine, self._feed.partitions, len(self._consumers)))

    async def _look(self, count: int) -> None:
        member = self._me
        await self._part()
        marks = {place: self._read.get(place) for place in self._share()}
        names, portions = await self._feed.read(member, marks, count)
        self._looked_ms = self._store.now_ms()
        if not names or any(portion.status == "gone" for portion in portions.values()):
            raise Conflict(f"the group {self.group} was forgotten by somebody")
        joined, self._consumers = self._consumers, sorted(names)
        for place, portion in portions.items():
            self._take(place, portion, reads=count > 0)
        if joined != self._consumers:
            await self._part()

    async def _part(self) -> None:
        """Give back what belongs to others, except what a handler still works on."""
        share = set(self._share())
        ready = []
        for place in [place for place in self._read if place not in share]:
            latest = self._open.get(place)
            if latest is None:
                ready.append(place)
                self._lose(place)
            else:
                self._drop(place)
                self._read[place] = latest
        if ready:
            await self._feed.leave(self._me, ready, wholly=False)

    def _take(self, place: int, portion: Portion, *, reads: bool) -> None:
        if portion.status != "ok":
            self._lose(place)
        if not portion.is_ours:
            return
        since = self._read.setdefault(place, portion.since)
        if not reads:
            return
        lost = portion.before - since.seen
        if lost > 0:
            self._tell_gap(place, Position(since.id, portion.before), lost)
        for seen, (identifier, blob) in enumerate(portion.entries, portion.before + 1):
            self._tell(place, Position(identifier, seen), blob)
        newest = portion.entries[-1][0] if portion.entries else since.id
        self._read[place] = Position(newest, portion.before + len(portion.entries))

    def _tell(self, place: int, mark: Position, blob: bytes) -> None:
        try:
            found = _item(_named(place, mark), blob)
        except (msgspec.MsgspecError, ValueError, RecursionError, ArithmeticError):
            self._tell_gap(place, mark, 1)
            return
        if found is not None:
            self._waiting.append((place, mark, found))

    def _tell_gap(self, place: int, mark: Position, lost: int) -> None:
        gap = FeedGap(id=_named(place, mark), partition=place, lost=lost)
        self._waiting.append((place, mark, gap))

    def _lose(self, place: int) -> None:
        self._drop(place)
        self._read.pop(place, None)
        self._open.pop(place, None)

    def _drop(self, place: int) -> None:
        kept = [waiting for waiting in self._waiting if waiting[0] != place]
        if len(kept) < len(self._waiting):
            self._waiting = deque(kept)


def _item(name: str, blob: bytes) -> FeedItem | None:
    """Return a stored entry; None for one of a later version: acknowledging the next covers it."""
    kind = _kind_decoder.decode(blob).kind
    if kind == "notification":
        noted = msgspec.structs.asdict(_noted_decoder.decode(blob))
        data = noted.pop("data")
        at = moment(noted.pop("at_ms"))
        read = None if data is None else _data_decoder.decode(data)
        return FeedNotification(id=name, at=at, data=read, **noted)
    if kind == "transition":
        fields = msgspec.structs.asdict(_entry_decoder.decode(blob))
        at = moment(fields.pop("at_ms"))
        return FeedEvent(id=name, at=at, **fields)
    return None


def _named(place: int, mark: Position) -> str:
    return f"{place}:{mark.id}:{mark.seen}"


def _place_of(event: FeedItem) -> tuple[int, Position]:
    found = _ID.fullmatch(event.id) if isinstance(event, FeedItem) else None
    if found is None:
        raise InvalidInput("ack takes an event or a gap, as the feed handed it out")
    return int(found[1]), Position(found[2], int(found[3]))


def _somebody() -> str:
    """Return a name that no other consumer has, and that says where it runs."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:80]
    return f"{host}:{os.getpid()}:{secrets.token_hex(4)}"


def _checked_name(what: str, name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = str(name)[:60]
        raise InvalidInput(f"{what} {shown!r} must be 1 to 128 letters, digits or any of ._:@-")
    return name


def _checked(what: str, value: float, limits: tuple[float, float]) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and limits[0] <= value <= limits[1]:
        return value
    raise InvalidInput(f"{what} must be {limits[0]:g} to {limits[1]:g}, got {str(value)[:20]}")
