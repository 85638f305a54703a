"""The store in Redis or Valkey, on one server or on a cluster. common.lua has the key schema."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe
from typing import Any, Final, cast

import msgspec

from cfflow.core.chart import State
from cfflow.core.order import REVIEW_INDEX
from cfflow.core.sealed import Sealed, sealed
from cfflow.errors import ConfigError, StoreError, StoreReplaced, StoreUnavailable
from cfflow.store.codec import encode_notification
from cfflow.store.control import Owner, StoreIdentity, paused
from cfflow.store.protocol import (
    DUPLICATE_WINDOW_MS,
    PAID_MARKER_MS,
    PUT_BACK_INDEX,
    UNREADABLE_INDEX,
    Commit,
    Committed,
    Leased,
    Notification,
    Notified,
    Outcome,
    Overdue,
    Row,
    StoredOrder,
    Window,
    oldest_share,
)
from cfflow.store.redis.control import RedisControl
from cfflow.store.redis.feed import RedisFeed
from cfflow.store.redis.keys import PARTITIONS, Keys
from cfflow.store.redis.ledger import RedisLedger
from cfflow.store.redis.link import RedisLink
from cfflow.store.redis.merge import Merge, Place, name_of
from cfflow.store.redis.replies import (
    OUTCOMES,
    committed_from,
    leased_from,
    notified_from,
    orders_from,
    overdue_from,
    stored_from,
    text_of,
    value_of,
)
from cfflow.store.redis.scripts import Adapt, as_shipped
from cfflow.store.redis.signs import RedisSigns
from cfflow.store.redis.url import shown

#: How many entries a partition of the feed keeps for groups that do not exist yet.
FEED_MAX: Final = 1_000

#: So many keys of the commit come before those of indexes.
_COMMIT_KEYS: Final = 11

#: The indexes that cfflow writes; a store would keep any other one too.
_INDEXES: Final = (*State, REVIEW_INDEX, UNREADABLE_INDEX)
_LEASE_B: Final = 6


class RedisStore:
    """Keeps payments in Redis.

    `url`: `redis://`, `rediss://`, `unix://`; any node of a cluster. `namespace` and
    `partitions` are fixed per deployment: another number of partitions is refused. `feed_max`:
    how many entries of the feed each partition keeps for groups that do not exist yet.
    `deadline_s`: how long one command may take, with its retries. `min_replicas`: so many
    replicas must have a step before it is sent. `owner`: whose payments these
    are; None where that is not known. `read_only`: `open` makes no store where there is none, and
    then every read finds nothing. `keeps_every_commit`: see `RedisControl`. `script`: changes the
    texts of the Lua scripts, for tests that need another clock in them.
    """

    def __init__(
        self,
        url: str | Sealed[str],
        *,
        namespace: str = "cf",
        partitions: int = PARTITIONS,
        feed_max: int = FEED_MAX,
        deadline_s: float = 3.0,
        min_replicas: int = 0,
        owner: Owner | None = None,
        read_only: bool = False,
        keeps_every_commit: bool = False,
        script: Adapt = as_shipped,
    ) -> None:
        # It may have a password, which no frame of an error may show.
        address = sealed(url)
        del url
        self.link: Final = RedisLink(address, deadline_s=deadline_s, script=script)
        if not isinstance(min_replicas, int) or min_replicas < 0:
            raise ConfigError("min_replicas must be a number, 0 or more")
        self.min_replicas: Final = min_replicas
        self.keys: Final = Keys(namespace, partitions)
        self._feed_max = feed_max
        self._lease_turns = 0
        self._histories: dict[int, bytes] = {}
        self._flows: set[tuple[int, str]] = set()
        self._foreign = ""
        self.control: Final = RedisControl(
            self.link,
            self.keys,
            owner,
            keeps_every_commit=keeps_every_commit,
            read_only=read_only,
        )
        self._shared_keys: Final = [
            (
                self.keys.wake(p),
                self.keys.leases(p),
                self.keys.run(p),
                self.keys.flows(p),
                self.keys.events(p),
                self.keys.groups(p),
                self.keys.index(p, PUT_BACK_INDEX),
            )
            for p in range(partitions)
        ]
        self._lease_keys: Final = [
            (
                (
                    self.keys.wake(p),
                    self.keys.leases(p),
                    self.keys.run(p),
                    self.keys.index(p, UNREADABLE_INDEX),
                ),
                self.keys.order_prefix(p),
            )
            for p in range(partitions)
        ]

    def now_ms(self) -> int:
        """Return the server's time in milliseconds."""
        return self.link.clock.now_ms()

    def ledger(self) -> RedisLedger:
        """Return the rate budget's ledger, which is kept beside the payments."""
        return RedisLedger(self.link, self.keys)

    def signs(self) -> RedisSigns:
        """Return the workers' signs of life, which are kept beside the payments."""
        return RedisSigns(self.link, self.keys)

    def feed(self) -> RedisFeed:
        """Return the part of the store that feed consumers use."""
        return RedisFeed(self.link, self.keys)

    async def open(self) -> None:
        """Connect. Raises `ConfigError` for a server that evicts keys or has other partitions."""
        try:
            await self.link.open()
            if self.min_replicas:
                await self.link.check_wait()
            self._foreign = await self.control.identify()
        except BaseException:
            await self.aclose()
            raise

    async def identity(self) -> StoreIdentity:
        """Return whose store this is now. Nothing is written."""
        return await self.control.identity()

    def _replaced(self, why: str) -> StoreReplaced:
        return StoreReplaced(
            f"the store at {shown(self.link.url)} is not this process's: {why}."
            " Nothing begins on it; if it is the right one, a person runs `cfflow accept-store`"
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self.link.aclose()

    async def read(self, order_ids: Sequence[str]) -> Sequence[StoredOrder]:
        """Return those of these orders that exist, in one round trip per node.

        Raises `StoreReplaced` if one is missing because its server lost all of its data.
        """
        if not self.control.store_id:
            # Opened for reading where there was no store: another process may have made one since.
            await self.control.identify()
            if not self.control.store_id:
                return []
        by_partition: dict[int, list[str]] = {}
        for order_id in order_ids:
            by_partition.setdefault(self.keys.partition(order_id), []).append(order_id)
        calls = [
            (
                (*map(self.keys.order, ids), self.keys.run(partition)),
                ("read", self.control.store_id, *ids),
            )
            for partition, ids in by_partition.items()
        ]
        replies = (
            [await self.link.script(*calls[0])]
            if len(calls) == 1
            else (await self.link.scripts(calls))
        )
        for reply in replies:
            if reply[0] == b"replaced":
                held = text_of(reply[2])
                if await self.control.was_accepted(held):
                    return await self.read(order_ids)
                raise self._replaced(_is_store(held))
        found = {stored.id: stored for stored in orders_from(replies)}
        return [found[order_id] for order_id in order_ids if order_id in found]

    async def commit(self, commit: Commit) -> Committed:
        """Write an order over the token that the commit was decided on."""
        begins = not commit.expected or commit.opens
        if begins and self._foreign:
            raise self._replaced(self._foreign)
        partition = self.keys.partition(commit.order_id)
        unsent = commit.flows
        if unsent:
            unsent = {d: text for d, text in unsent.items() if (partition, d) not in self._flows}
        reply, replicas = await self._committed(commit, partition, unsent)
        if reply[0] not in OUTCOMES:
            reply, replicas = await self._committed_again(commit, partition, reply)
        committed = committed_from(reply)
        if commit.flows and committed.outcome is Outcome.APPLIED:
            self._flows.update((partition, digest) for digest in commit.flows)
        if replicas < self.min_replicas:
            return msgspec.structs.replace(committed, replicated=False)
        return committed

    async def _committed_again(
        self, commit: Commit, partition: int, reply: Sequence[Any]
    ) -> tuple[Sequence[Any], int]:
        """Run a commit again that the script refused for a reason which may be over by now.

        Raises `StoreReplaced` or `Paused` where it is not.
        """
        replicas = 0
        if reply[0] == b"replaced" and await self.control.was_accepted(text_of(reply[2])):
            reply, replicas = await self._committed(commit, partition, commit.flows)
        if reply[0] == b"flow":
            # A text that this process stored is gone: the server lost its data.
            reply, replicas = await self._committed(commit, partition, commit.flows)
        if reply[0] == b"replaced":
            raise self._replaced(_is_store(text_of(reply[2])))
        if reply[0] == b"paused":
            raise paused(commit.gate, text_of(reply[2]))
        return reply, replicas

    async def _committed(
        self, commit: Commit, partition: int, texts: Mapping[str, bytes]
    ) -> tuple[Sequence[Any], int]:
        """Run the commit; return its reply, and how many replicas have it where that counts."""
        keys, args = self._commit_call(commit, partition, texts)
        if commit.opens and self.min_replicas:
            return await self.link.replicated(keys, args, self.min_replicas)
        return await self.link.script(keys, args), self.min_replicas

    def _commit_call(
        self, commit: Commit, partition: int, texts: Mapping[str, bytes]
    ) -> tuple[Sequence[str], Sequence[Any]]:
        order_id, record = commit.order_id, commit.record
        keys = [*self.keys.of_order(order_id, partition), *self._shared_keys[partition]]
        first = _COMMIT_KEYS + 1
        keys += [self.keys.index(partition, change.index) for change in commit.index]
        args = [
            "commit",
            order_id,
            commit.expected,
            b"" if record is None else value_of(commit.token, commit.digests, record),
            _word(commit.wake_at_ms),
            b"" if commit.actions is None else b"=" + commit.actions,
            "1" if commit.opens else "",
            commit.gate,
            commit.verified,
            commit.lease,
            self.control.store_id,
            self._feed_max,
            commit.marker,
            PAID_MARKER_MS,
            len(commit.answered),
            len(commit.flows),
            len(commit.index),
        ]
        for pair in commit.answered.items():
            args += pair
        for digest in commit.flows:
            args += (digest, texts.get(digest, b""))
        for i, change in enumerate(commit.index):
            args += (first + i, _word(change.score), change.member)
        return keys, [*args, *commit.events]

    async def notify(self, notification: Notification, digest: bytes) -> Notified:
        """Add a notification to its order, and write it into the feed."""
        keys, order_id = self.keys, notification.order_id
        partition = keys.partition(order_id)
        touched = (
            keys.order(order_id),
            keys.notices(order_id),
            keys.wake(partition),
            keys.leases(partition),
            keys.run(partition),
            keys.events(partition),
            keys.groups(partition),
            keys.seen(partition, notification.content_id),
        )
        args = (
            "notify",
            order_id,
            notification.cf_payment_id,
            notification.reported_state,
            digest,
            self._feed_max,
            DUPLICATE_WINDOW_MS,
            encode_notification(notification, self.now_ms()),
        )
        replicas = self.min_replicas
        if self.min_replicas:
            reply, replicas = await self.link.replicated(touched, args, self.min_replicas)
        else:
            reply = await self.link.script(touched, args)
        if replicas < self.min_replicas:
            raise StoreUnavailable("too few replicas have the notification")
        return notified_from(reply)

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began."""
        key = self.keys.flows(self.keys.partition(order_id))
        return cast("bytes | None", await self.link.command("HGET", key, digest))

    async def lease(self, limit: int, lease_ms: int) -> Leased:
        """Take due orders of every partition, in one round trip per node."""
        turns = self._turns(limit)
        each = limit // max(1, len(turns))
        wanted = []
        for turn, partition in turns:
            oldest = oldest_share(each, turn)
            touched, prefix = self._lease_keys[partition]
            wanted.append((touched, (prefix, each - oldest, oldest)))
        places = [partition for _, partition in turns]
        # A cluster permits the keys of one slot in a script; one server takes them all at once.
        size = 1 if self.link.is_cluster else max(1, len(turns))
        starts = range(0, len(turns), size)
        name = token_urlsafe(_LEASE_B)
        calls = [
            (
                [key for touched, _ in wanted[i : i + size] for key in touched],
                (
                    "lease",
                    lease_ms,
                    name,
                    self._history_of(places[i : i + size]),
                    *(a for _, args in wanted[i : i + size] for a in args),
                ),
            )
            for i in starts
        ]
        replies = await self.link.scripts(calls)
        for i, reply in zip(starts, replies, strict=True):
            self._histories.update(dict.fromkeys(places[i : i + size], reply[4]))
        parts = [places[i : i + size] for i in starts]
        found = leased_from(replies, parts, self.keys.partition)
        return Leased(
            tuple(found.orders),
            (*found.unreadable, *[await self._put_away(*stray) for stray in found.strays]),
            found.until_at_ms,
            tuple(self.keys.of_partition(partition) for partition in found.damaged),
        )

    async def _put_away(self, partition: int, name: str, stored: StoredOrder | None) -> str:
        """Set aside a member of a wake index that belongs to no order there; return what it is.

        Its name may be that of a healthy order in another partition, so it is named with its place.
        """
        if stored is not None:
            # It must not fail the lease of the others: it comes again when its own has ended.
            with contextlib.suppress(StoreError):
                await self._set_aside(partition, name, stored.token)
        return self._placed(partition, name)

    def _placed(self, partition: int, name: str) -> str:
        """Return a member of a partition's `unreadable` as people are to read it."""
        if self.keys.partition(name) == partition:
            return name
        return f"{name} in {self.keys.index(partition, UNREADABLE_INDEX)}"

    def _history_of(self, partitions: Sequence[int]) -> bytes:
        """Return the history in which a lease has seen all of these partitions, or nothing."""
        seen = {self._histories.get(partition, b"") for partition in partitions}
        return seen.pop() if len(seen) == 1 else b""

    def _turns(self, limit: int) -> Sequence[tuple[int, int]]:
        """Return (turn, partition) for each partition to lease from.

        If the limit is lower than the number of partitions, only so many have their turn; the
        next lease goes on after them.
        """
        count, first = self.keys.partitions, self._lease_turns
        self._lease_turns += min(limit, count)
        return [divmod(turn, count) for turn in range(first, self._lease_turns)]

    async def defer(
        self,
        order_id: str,
        wake_at_ms: int,
        *,
        token: str,
        lease: str = "",
        since_at_ms: int | None = None,
    ) -> StoredOrder | None:
        """End this lease of an order, and make the order due at another time."""
        keys, partition = self.keys, self.keys.partition(order_id)
        reply = await self.link.script(
            (
                keys.order(order_id),
                keys.wake(partition),
                keys.leases(partition),
                keys.index(partition, PUT_BACK_INDEX),
            ),
            ("defer", order_id, token, lease, wake_at_ms, _word(since_at_ms)),
        )
        return stored_from(reply[2]) if reply[0] == b"conflict" else None

    async def set_aside(self, order_id: str, *, token: str) -> None:
        """Take an order that cannot be read out of the wake index, into `unreadable`."""
        await self._set_aside(self.keys.partition(order_id), order_id, token)

    async def _set_aside(self, partition: int, order_id: str, token: str) -> None:
        keys = self.keys
        await self.link.script(
            (
                keys.order_prefix(partition) + order_id,
                keys.wake(partition),
                keys.leases(partition),
                keys.index(partition, UNREADABLE_INDEX),
            ),
            ("set_aside", order_id, token),
        )

    async def gates(self) -> Mapping[str, str]:
        """Return who closed each gate that is closed."""
        return await self.control.gates()

    async def set_gate(self, gate: str, closed_by: str) -> None:
        """Close a gate, or open it with an empty `closed_by`."""
        await self.control.set_gate(gate, closed_by)

    async def record_decision(self, decision: str) -> None:
        """Write what a person decided about the store into its audit trail."""
        await self.control.record_decision(decision)

    async def decisions(self, limit: int) -> Sequence[str]:
        """Return the last decisions of the audit trail, newest first."""
        return await self.control.decisions(limit)

    async def overdue(self) -> Overdue:
        """Return how many orders are due or put back and since when, in one round trip per node."""
        partitions = range(self.keys.partitions)
        calls = [self._overdue_call(p) for p in partitions]
        return overdue_from(await self.link.scripts(calls, are_long=True))

    def _overdue_call(self, partition: int) -> tuple[Sequence[str], Sequence[str]]:
        keys = self.keys
        types = {keys.wake(partition): "zset", keys.index(partition, PUT_BACK_INDEX): "zset"}
        types |= {keys.index(partition, name): "zset" for name in _INDEXES}
        types |= {
            keys.leases(partition): "hash",
            keys.run(partition): "hash",
            keys.flows(partition): "hash",
            keys.groups(partition): "hash",
            keys.events(partition): "stream",
        }
        return [*types], ["overdue", *types.values()]

    async def count(self, indexes: Sequence[str]) -> Mapping[str, int]:
        """Return how many members each of these indexes has, in one round trip per node."""
        if not indexes:
            return {}
        calls = [
            ([self.keys.index(partition, name) for name in indexes], ("count",))
            for partition in range(self.keys.partitions)
        ]
        counts = [reply[2] for reply in await self.link.scripts(calls)]
        return {name: sum(each[i] for each in counts) for i, name in enumerate(indexes)}

    async def find(self, window: Window) -> Sequence[Row]:
        """Return members of indexes with their scores, in one round trip per node, seldom in more.

        A name that is no text has escapes for the bytes that are none. Those of `unreadable` are
        returned as people are to read them, and with the name of the key where they belong to no
        order of their partition.
        """
        merge = Merge(window, self.keys.partitions)
        while wanted := [*merge.wanted()]:
            calls = [self._find_call(window, merge.share, *part) for part in wanted]
            replies = await self.link.scripts(calls, are_long=True)
            merge.take({part[0]: reply[2] for part, reply in zip(wanted, replies, strict=True)})
        shown = self._placed if UNREADABLE_INDEX in window.indexes else None
        return [
            (shown(number, text_of(place[1])) if shown else name_of(place), place[0])
            for number, place in merge.rows()
        ]

    def _find_call(
        self, window: Window, limit: int, partition: int, after: Place | None
    ) -> tuple[Sequence[str], Sequence[Any]]:
        to = "+inf" if window.to_at_ms is None else window.to_at_ms
        place = () if after is None else (repr(after[0]), after[1])
        keys = [self.keys.index(partition, name) for name in window.indexes]
        return keys, ("find", window.from_at_ms, to, limit, int(window.highest_first), *place)


def _is_store(name: str) -> str:
    return f"it is store {name}" if name else "it has lost whose store it is"


def _word(number: int | None) -> int | str:
    """Return a time or a score as the script takes it."""
    return "" if number is None else number
