"""The store in Redis or Valkey, on one server or on a cluster. script.lua has the key schema."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_urlsafe
from typing import Any, Final, cast

import msgspec

from cfflow.core.chart import State
from cfflow.core.draft import Plan
from cfflow.core.flow import Flow
from cfflow.core.record import SCHEMA, Record, Snapshot
from cfflow.errors import ConfigError, StoreUnavailable
from cfflow.store.protocol import (
    DUPLICATE_WINDOW_MS,
    PAID_MARKER_MS,
    Committed,
    Notification,
    Notified,
    Overdue,
    Page,
    Started,
    encode_attempt,
    encode_events,
    encode_notification,
    encode_record,
    oldest_share,
    snapshot_of,
)
from cfflow.store.redis.feed import RedisFeed
from cfflow.store.redis.keys import PARTITIONS, Keys
from cfflow.store.redis.ledger import RedisLedger
from cfflow.store.redis.link import SCRIPT, RedisLink
from cfflow.store.redis.replies import (
    action_change,
    barred_step_bit,
    committed_from,
    leased_from,
    review_change,
    snapshots_from,
    started_from,
)
from cfflow.store.redis.url import shown

#: How many entries a partition of the feed keeps for groups that do not exist yet.
FEED_MAX: Final = 1_000

_TOKEN_B: Final = 6


class RedisStore:
    """Keeps payments in Redis.

    `url`: `redis://`, `rediss://`, `unix://`; any node of a cluster. `namespace` and
    `partitions` are fixed per deployment: another number of partitions is refused. `feed_max`:
    how many entries of the feed each partition keeps for groups that do not exist yet.
    `deadline_s`: how long one command may take, with its retries. `min_replicas`: so many
    replicas must have a step before it is sent; not on a cluster. `script`: the text of the
    Lua script, for tests that need another clock in it.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "cf",
        partitions: int = PARTITIONS,
        feed_max: int = FEED_MAX,
        deadline_s: float = 3.0,
        min_replicas: int = 0,
        script: str = SCRIPT,
    ) -> None:
        self.link: Final = RedisLink(url, deadline_s=deadline_s, script=script)
        if not isinstance(min_replicas, int) or min_replicas < 0:
            raise ConfigError(f"min_replicas must be 0 or more, got {min_replicas!r}")
        self._min_replicas: Final = min_replicas
        self.keys: Final = Keys(namespace, partitions)
        self._feed_max = feed_max
        self._lease_turns = 0

    def now_ms(self) -> int:
        """Return the server's time in milliseconds."""
        return self.link.clock.now_ms()

    def ledger(self) -> RedisLedger:
        """Return the rate budget's ledger, which is kept beside the payments."""
        return RedisLedger(self.link, self.keys)

    def feed(self) -> RedisFeed:
        """Return the part of the store that feed consumers use."""
        return RedisFeed(self.link, self.keys)

    async def open(self) -> None:
        """Connect. Raises `ConfigError` for a server that evicts keys or has other partitions."""
        try:
            await self.link.open()
            self._check_replicas()
            await self._check_partitions()
        except BaseException:
            await self.aclose()
            raise

    def _check_replicas(self) -> None:
        if self._min_replicas and self.link.is_cluster:
            raise ConfigError(
                "min_replicas: a cluster's client may send the WAIT to another node than the"
                " commit, so it would prove nothing; use one primary with its replicas"
            )

    async def _check_partitions(self) -> None:
        wanted = self.keys.partitions
        is_new = await self.link.command("HSETNX", self.keys.meta, "partitions", wanted)
        stored = int(await self.link.command("HGET", self.keys.meta, "partitions"))
        if stored != wanted:
            raise ConfigError(
                f"the store at {shown(self.link.url)} has {stored} partitions,"
                f" not {wanted}: the number is fixed for its life"
            )
        # Any run of the script will do: its reply sets the clock.
        await self.link.script([self.keys.wake(0)], ["read", ""])
        if is_new:
            await self.link.scripts([((self.keys.run(p),), ("create",)) for p in range(wanted)])

    async def aclose(self) -> None:
        """Close the connections."""
        await self.link.aclose()

    async def start(
        self, order_id: str, record: Record, flow: Flow, *, n: int | None = None
    ) -> Started:
        """Store the order's next payment, or return the one that stands in its way."""
        keys, partition = self.keys, self.keys.partition(order_id)
        new = msgspec.structs.replace(record, token=token_urlsafe(_TOKEN_B))
        reply = await self.link.script(
            (
                keys.order(order_id),
                keys.wake(partition),
                keys.state(partition, record.state),
                keys.flows(partition),
                keys.run(partition),
            ),
            (
                "start",
                order_id,
                flow.digest,
                flow.source,
                encode_record(new),
                _wake_word(record),
                record.created_at_ms,
                new.token,
                n or "",
            ),
        )
        return started_from(order_id, reply)

    async def load(self, order_id: str, n: int) -> Snapshot | None:
        """Return a payment, None if there is none."""
        key = self.keys.order(order_id)
        found = await self.link.command("HMGET", key, n, f"{n}a", "o", f"{n}n")
        return snapshot_of(f"{order_id}.{n}", *found) if found[0] else None

    async def commit(self, plan: Plan) -> Committed:
        """Write a plan over the version that it was decided on, under a fresh token."""
        record = msgspec.structs.replace(plan.record, token=token_urlsafe(_TOKEN_B))
        keys, args = self._commit_call(plan, record)
        if not (plan.opens and self._min_replicas):
            return committed_from(plan.snapshot, record, await self.link.script(keys, args))
        reply, replicas = await self.link.replicated(keys, args, self._min_replicas)
        committed = committed_from(plan.snapshot, record, reply)
        return msgspec.structs.replace(committed, replicated=replicas >= self._min_replicas)

    def _commit_call(self, plan: Plan, record: Record) -> tuple[Sequence[str], Sequence[Any]]:
        keys, snapshot = self.keys, plan.snapshot
        partition = keys.partition(snapshot.order_id)
        action, blob = action_change(plan)
        return (
            keys.order(snapshot.order_id),
            keys.wake(partition),
            keys.state(partition, plan.previous.state),
            keys.state(partition, record.state),
            keys.review(partition),
            keys.events(partition),
            keys.run(partition),
            keys.groups(partition),
        ), (
            "commit",
            snapshot.id,
            snapshot.n,
            SCHEMA,
            plan.previous.version,
            record.token,
            encode_record(record),
            record.state.value,
            record.cf_payment_id or "",
            self._feed_max,
            _wake_word(record),
            record.created_at_ms,
            barred_step_bit(plan),
            review_change(plan),
            action,
            blob,
            plan.previous.token,
            encode_attempt(record),
            len(plan.before.siblings_with_money),
            "" if plan.verified_after_restart else plan.previous.updated_at_ms,
            plan.settles_until_at_ms,
            *encode_events(plan),
        )

    async def notify(self, notification: Notification) -> Notified:
        """Make the payments that a notification concerns due now, and write it into the feed."""
        keys, order_id = self.keys, notification.order_id
        partition = keys.partition(order_id)
        touched = (
            keys.order(order_id),
            keys.wake(partition),
            keys.events(partition),
            keys.groups(partition),
            keys.seen(partition, notification.content_id),
        )
        args = (
            "notify",
            order_id,
            notification.cf_payment_id,
            notification.reported_state,
            self._feed_max,
            DUPLICATE_WINDOW_MS,
            encode_notification(notification, self.now_ms()),
        )
        replicas = self._min_replicas
        if self._min_replicas:
            reply, replicas = await self.link.replicated(touched, args, self._min_replicas)
        else:
            reply = await self.link.script(touched, args)
        if replicas < self._min_replicas:
            raise StoreUnavailable("too few replicas have the notification")
        return Notified(tuple(int(n) for n in reply[3]), duplicate=bool(reply[2]))

    async def clear_notifications(self, snapshot: Snapshot, settles_until_at_ms: int) -> Snapshot:
        """Remove a payment's open notification up to then, without a new version of it."""
        partition, record = self.keys.partition(snapshot.order_id), snapshot.record
        await self.link.script(
            (self.keys.wake(partition), self.keys.order(snapshot.order_id)),
            (
                "clear_notifications",
                snapshot.id,
                snapshot.n,
                record.token,
                settles_until_at_ms,
                _wake_word(record),
            ),
        )
        return msgspec.structs.replace(snapshot, notice=None)

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began."""
        key = self.keys.flows(self.keys.partition(order_id))
        return cast("bytes | None", await self.link.command("HGET", key, digest))

    async def lease(self, limit: int, lease_ms: int) -> Sequence[Snapshot]:
        """Take due payments of every partition, in one round trip per node."""
        turns = self._turns(limit)
        each = limit // max(1, len(turns))
        wanted = [
            (
                self.keys.wake(partition),
                (
                    self.keys.order_prefix(partition),
                    each - oldest_share(each, turn),
                    oldest_share(each, turn),
                ),
            )
            for turn, partition in turns
        ]
        # A cluster permits the keys of one slot in a script; one server takes them all at once.
        runs = [[one] for one in wanted] if self.link.is_cluster else [wanted] if wanted else []
        calls = [
            (
                [wake for wake, _ in run],
                ("lease", lease_ms, *(arg for _, args in run for arg in args)),
            )
            for run in runs
        ]
        return leased_from(await self.link.scripts(calls))

    def _turns(self, limit: int) -> Sequence[tuple[int, int]]:
        """Return (turn, partition) for each partition to lease from.

        If the limit is lower than the number of partitions, only so many have their turn; the
        next lease goes on after them.
        """
        count, first = self.keys.partitions, self._lease_turns
        self._lease_turns += min(limit, count)
        return [divmod(turn, count) for turn in range(first, self._lease_turns)]

    async def defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Give a leased payment another wake time, unless it has changed since it was leased."""
        partition = self.keys.partition(snapshot.order_id)
        await self.link.script(
            (self.keys.wake(partition), self.keys.order(snapshot.order_id)),
            ("defer", snapshot.id, snapshot.n, snapshot.record.token, wake_at_ms),
        )

    async def overdue(self) -> Overdue:
        """Return how many payments are due and since when, in one round trip per node."""
        partitions = range(self.keys.partitions)
        replies = await self.link.scripts(
            [((self.keys.wake(p),), ("overdue",)) for p in partitions]
        )
        since = [int(reply[3]) for reply in replies if reply[2]]
        return Overdue(sum(int(reply[2]) for reply in replies), min(since, default=None))

    async def purge(self, payments: Sequence[Snapshot]) -> bool:
        """Remove an order whose payments are exactly these; False if one has changed."""
        order_id, keys = payments[0].order_id, self.keys
        partition = keys.partition(order_id)
        states = [keys.state(partition, state) for state in State]
        reply = await self.link.script(
            (keys.order(order_id), keys.wake(partition), keys.review(partition), *states),
            ("purge", order_id, PAID_MARKER_MS, *(snapshot.record.token for snapshot in payments)),
        )
        return bool(reply[0] == b"ok")

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by index, oldest first.

        Two round trips per node: one for the ids of every partition, one for the payments of
        the first `limit` ids only.
        """
        to = "+inf" if page.to_at_ms is None else page.to_at_ms
        args = ("find", page.from_at_ms, to, page.limit, int(page.review))
        partitions = range(self.keys.partitions)
        replies = await self.link.scripts([(self._indexes(p, page), args) for p in partitions])
        rows = sorted((int(at), name.decode()) for reply in replies for name, at in reply[2])
        found = await self._read([name for _, name in rows[: page.limit]])
        # Between the two round trips a payment may have left the page.
        found = [snapshot for snapshot in found if page.has(snapshot.record)]
        return sorted(found, key=lambda snapshot: (snapshot.record.created_at_ms, snapshot.id))

    def _indexes(self, partition: int, page: Page) -> Sequence[str]:
        states = [self.keys.state(partition, state) for state in page.states]
        return [self.keys.review(partition), *states] if page.review else states

    async def _read(self, names: Sequence[str]) -> Sequence[Snapshot]:
        by_partition: dict[int, list[str]] = {}
        for name in names:
            partition = self.keys.partition(name.rpartition(".")[0])
            by_partition.setdefault(partition, []).append(name)
        calls = [
            ((self.keys.wake(partition),), ("read", self.keys.order_prefix(partition), *ids))
            for partition, ids in by_partition.items()
        ]
        return snapshots_from(await self.link.scripts(calls))


def _wake_word(record: Record) -> int | str:
    """Return the record's wake time as the script takes it."""
    return "" if record.wake_at_ms is None else record.wake_at_ms
