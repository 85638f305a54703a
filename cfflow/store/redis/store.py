"""The store in Redis or Valkey, on one server or on a cluster (cfflow.lua, DESIGN 5)."""

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
    committed,
    opening,
    readable,
    review_change,
    snapshots,
    started,
)
from cfflow.store.redis.url import shown

__all__ = ["RedisStore"]

#: How many events a partition keeps for consumers that have not come yet.
FEED_MAX: Final = 1_000

_TOKEN_B: Final = 6


class RedisStore:
    """Keeps payments in Redis.

    `url`: `redis://`, `rediss://`, `unix://`; any node of a cluster. `namespace` and
    `partitions` are fixed per deployment: another number of partitions is refused.
    `deadline_s` limits one command with its retries. `min_replicas`: so many replicas must
    have a step before it is sent; a cluster cannot promise that. `script`: the text of the
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
        self._claims = 0

    def now_ms(self) -> int:
        """Return the server's time in milliseconds."""
        return self.link.clock.now_ms()

    def ledger(self) -> RedisLedger:
        """Return the books of the rate budget, kept beside the payments."""
        return RedisLedger(self.link, self.keys)

    def feed(self) -> RedisFeed:
        """Return what the feed's readers need."""
        return RedisFeed(self.link, self.keys)

    async def open(self) -> None:
        """Connect; raises `ConfigError` for a server that evicts or another partitioning."""
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
                " commit, so nothing could be promised; use one primary with its replicas"
            )

    async def _check_partitions(self) -> None:
        asked = self.keys.partitions
        new = await self.link.command("HSETNX", self.keys.meta, "partitions", asked)
        held = int(await self.link.command("HGET", self.keys.meta, "partitions"))
        if held != asked:
            raise ConfigError(
                f"the store at {shown(self.link.url)} has {held} partitions,"
                f" not {asked}: the number is fixed for its life"
            )
        # Any script: its answer sets the clock.
        await self.link.script([self.keys.wake(0)], ["read", ""])
        if new:
            places = range(asked)
            await self.link.scripts([((self.keys.run(p),), ("create",)) for p in places])

    async def aclose(self) -> None:
        """Close the connections."""
        await self.link.aclose()

    async def start(
        self, order_id: str, record: Record, flow: Flow, *, n: int | None = None
    ) -> Started:
        """Begin the order's next payment, or return the one that stands in its way."""
        keys, place = self.keys, self.keys.partition(order_id)
        named = msgspec.structs.replace(record, token=token_urlsafe(_TOKEN_B))
        answer = await self.link.script(
            (
                keys.order(order_id),
                keys.wake(place),
                keys.state(place, record.state),
                keys.flows(place),
                keys.run(place),
            ),
            (
                "start",
                order_id,
                flow.digest,
                flow.source,
                encode_record(named),
                "" if record.wake_at_ms is None else record.wake_at_ms,
                record.created_at_ms,
                named.token,
                n or "",
            ),
        )
        return started(order_id, answer)

    async def load(self, order_id: str, n: int) -> Snapshot | None:
        """Return a payment, None where there is none."""
        key = self.keys.order(order_id)
        found = await self.link.command("HMGET", key, n, f"{n}a", "o", f"{n}n")
        return snapshot_of(f"{order_id}.{n}", *found) if found[0] else None

    async def commit(self, plan: Plan) -> Committed:
        """Write a plan over the version that it was decided on, under a fresh token."""
        record = msgspec.structs.replace(plan.record, token=token_urlsafe(_TOKEN_B))
        keys, args = self._commit_call(plan, record)
        if not (plan.opens and self._min_replicas):
            return committed(plan.snapshot, record, await self.link.script(keys, args))
        answer, replicas = await self.link.replicated(keys, args, self._min_replicas)
        enough = replicas >= self._min_replicas
        done = committed(plan.snapshot, record, answer)
        return msgspec.structs.replace(done, replicated=enough)

    def _commit_call(self, plan: Plan, record: Record) -> tuple[Sequence[str], Sequence[Any]]:
        keys, snapshot = self.keys, plan.snapshot
        place = keys.partition(snapshot.order_id)
        action, blob = action_change(plan)
        return (
            keys.order(snapshot.order_id),
            keys.wake(place),
            keys.state(place, plan.previous.state),
            keys.state(place, record.state),
            keys.review(place),
            keys.events(place),
            keys.run(place),
            keys.groups(place),
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
            "" if record.wake_at_ms is None else record.wake_at_ms,
            record.created_at_ms,
            opening(plan),
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
        """Make the payments that a notification is about due now; tell the feed once."""
        keys, order_id = self.keys, notification.order_id
        place = keys.partition(order_id)
        named = (
            keys.order(order_id),
            keys.wake(place),
            keys.events(place),
            keys.groups(place),
            keys.mark(place, notification.content_id),
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
        answer = await self._kept(named, args)
        return Notified(tuple(int(n) for n in answer[3]), duplicate=bool(answer[2]))

    async def _kept(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run the script and have its replicas keep what it wrote, where some must."""
        if not self._min_replicas:
            return await self.link.script(keys, args)
        answer, replicas = await self.link.replicated(keys, args, self._min_replicas)
        if replicas < self._min_replicas:
            raise StoreUnavailable("too few replicas have the notification")
        return answer

    async def clear_notifications(self, snapshot: Snapshot, settles_until_at_ms: int) -> Snapshot:
        """Be done with a payment's notifications up to then, without a new version of it."""
        place, record = self.keys.partition(snapshot.order_id), snapshot.record
        wake_at_ms = "" if record.wake_at_ms is None else record.wake_at_ms
        await self.link.script(
            (self.keys.wake(place), self.keys.order(snapshot.order_id)),
            (
                "clear_notifications",
                snapshot.id,
                snapshot.n,
                record.token,
                settles_until_at_ms,
                wake_at_ms,
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
        asked = [
            (
                self.keys.wake(place),
                (
                    self.keys.order_prefix(place),
                    each - oldest_share(each, turn),
                    oldest_share(each, turn),
                ),
            )
            for turn, place in turns
        ]
        # A cluster wants the keys of one slot in a script; one server takes them all at once.
        parts = [[one] for one in asked] if self.link.is_cluster else [asked] if asked else []
        calls = [
            (
                [wake for wake, _ in part],
                ("lease", lease_ms, *(word for _, words in part for word in words)),
            )
            for part in parts
        ]
        return readable(await self.link.scripts(calls))

    def _turns(self, limit: int) -> Sequence[tuple[int, int]]:
        """Return which partitions to claim from, each with how often it had its turn.

        All of them, or so few that the limit holds; then the next ones come next time.
        """
        count, first = self.keys.partitions, self._claims
        self._claims += min(limit, count)
        return [divmod(claim, count) for claim in range(first, self._claims)]

    async def defer(self, snapshot: Snapshot, wake_at_ms: int) -> None:
        """Look at a claimed payment at another time, unless somebody has moved it since."""
        place = self.keys.partition(snapshot.order_id)
        await self.link.script(
            (self.keys.wake(place), self.keys.order(snapshot.order_id)),
            ("defer", snapshot.id, snapshot.n, snapshot.record.token, wake_at_ms),
        )

    async def overdue(self) -> Overdue:
        """Return how many payments are due and since when, in one round trip per node."""
        places = range(self.keys.partitions)
        answers = await self.link.scripts([((self.keys.wake(p),), ("overdue",)) for p in places])
        since = [int(answer[3]) for answer in answers if answer[2]]
        return Overdue(sum(int(answer[2]) for answer in answers), min(since, default=None))

    async def purge(self, payments: Sequence[Snapshot]) -> bool:
        """Remove an order whose payments are exactly these; False if one has moved."""
        order_id, keys = payments[0].order_id, self.keys
        place = keys.partition(order_id)
        states = [keys.state(place, state) for state in State]
        answer = await self.link.script(
            (keys.order(order_id), keys.wake(place), keys.review(place), *states),
            ("purge", order_id, PAID_MARKER_MS, *(snapshot.record.token for snapshot in payments)),
        )
        return bool(answer[0] == b"ok")

    async def list(self, page: Page) -> Sequence[Snapshot]:
        """Return payments by index, oldest first: their ids first, then only those wanted."""
        to = "+inf" if page.to_at_ms is None else page.to_at_ms
        asked = ("find", page.from_at_ms, to, page.limit, int(page.review))
        places = range(self.keys.partitions)
        answers = await self.link.scripts([(self._indexes(p, page), asked) for p in places])
        rows = sorted((int(at), name.decode()) for answer in answers for name, at in answer[2])
        found = await self._read([name for _, name in rows[: page.limit]])
        # Between the two questions a payment may have left the page.
        there = [snapshot for snapshot in found if page.has(snapshot.record)]
        return sorted(there, key=lambda snapshot: (snapshot.record.created_at_ms, snapshot.id))

    def _indexes(self, place: int, page: Page) -> Sequence[str]:
        states = [self.keys.state(place, state) for state in page.states]
        return [self.keys.review(place), *states] if page.review else states

    async def _read(self, names: Sequence[str]) -> Sequence[Snapshot]:
        places: dict[int, Sequence[str]] = {}
        for name in names:
            place = self.keys.partition(name.rpartition(".")[0])
            places[place] = (*places.get(place, ()), name)
        calls = [
            ((self.keys.wake(place),), ("read", self.keys.order_prefix(place), *ids))
            for place, ids in places.items()
        ]
        return snapshots(await self.link.scripts(calls))
