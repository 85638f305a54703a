"""What a store must do. It keeps bytes under names, and has no rule about payments.

A store gets a `Commit`, in which everything to write is decided, and writes it. Four promises
make that safe, and every store must keep them:

- A commit is written whole or not at all: record, actions, indexes, wake time and events.
- A commit is written only over the token that it was decided on. Of two commits for one token
  the first wins, and the second gets `Outcome.CONFLICT` and what is stored now.
- A commit that is sent twice, because its result was lost, is applied once.
- A notification that comes between a read and a commit is not lost: only those that the commit
  lists are removed, and while one is left the order is due.

`cfflow.testing.StoreConformance` is a test suite for these promises and for everything that
`Store` describes. `docs/guides/your-own-store.md` builds a store on SQLite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from cfflow.core.restart import Restart
from cfflow.feed.protocol import FeedLog

#: For how long the marker of a paid order stays after the order was purged.
PAID_MARKER_MS: Final = 365 * 86_400_000

#: For how long a second notification with the same content is a duplicate.
DUPLICATE_WINDOW_MS: Final = 86_400_000

#: So many notifications of one order are kept one by one; the next becomes one about everything.
NOTICES_MAX: Final = 16

#: The index of what could not be read: orders' ids, and members of other indexes without an order.
UNREADABLE_INDEX: Final = "unreadable"

#: The index of orders that were due, and that a worker has put back because it failed.
PUT_BACK_INDEX: Final = "put_back"

#: An order that begins within this time after a restart may be one that was lost in it.
BEGUN_ANEW_MS: Final = 600_000


class Outcome(StrEnum):
    """How a commit ended. Only `APPLIED` has written anything."""

    APPLIED = "applied"
    #: The order has another token than the commit was decided on, or, where the commit removes
    #: it, a notification is left.
    CONFLICT = "conflict"
    #: The store may have lost commits of this order: it must be verified first.
    RESTARTED = "restarted"
    #: There is no such order, or the one that would begin was purged and left a marker.
    GONE = "gone"


class StoredOrder(msgspec.Struct, frozen=True):
    """An order's bytes as a store returns them.

    `record` are those of `Commit.record`; `actions` are empty where there are none. `notices` has
    the notifications that no commit has removed yet: attempt → number and reported state, as
    `number:state`. `lease` is the lease under which `Store.lease` returned it.
    """

    id: str
    stamp: str
    token: str
    record: bytes
    actions: bytes = b""
    notices: Mapping[str, str] = {}
    lease: str = ""


class IndexChange(msgspec.Struct, frozen=True):
    """A member that enters an index with this score, or leaves it (None)."""

    index: str
    member: str
    score: int | None


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic write of one order.

    `expected`: the token that the commit was decided on, "" for an order that begins. `token`:
    the new one, 8 ASCII characters. `record`: None removes the order with all that lies beside it,
    and leaves `marker` in its place for `PAID_MARKER_MS` if it is not empty. `digests`: those of
    notifications that would report nothing new, 6 bytes each, one behind the other, at most
    `NOTICES_MAX`. `actions`: None leaves them as they are, b"" removes them.
    `wake_at_ms`: when the order is due, None for never. `answered`: the notifications to remove,
    each only if it is still the same. `flows`: text by digest, of payments that begin. `opens`:
    a step will be sent once this is written. `gate`: it is refused while a person has this gate
    closed. `verified`: the history in which an inquiry has verified the order. `lease`: the lease
    under which this order is worked on, "" for none.
    """

    order_id: str
    expected: str
    token: str
    record: bytes | None
    digests: bytes = b""
    actions: bytes | None = None
    wake_at_ms: int | None = None
    index: tuple[IndexChange, ...] = ()
    events: tuple[bytes, ...] = ()
    answered: Mapping[str, str] = {}
    flows: Mapping[str, bytes] = {}
    opens: bool = False
    gate: str = ""
    verified: str = ""
    lease: str = ""
    marker: str = ""


class Committed(msgspec.Struct, frozen=True):
    """The result of a commit, at the store's own time.

    `stored`: what is stored, with `CONFLICT`. `restart`: the present history, with `RESTARTED`.
    `marker`: what a purged order has left, with `GONE`. `replicated`: whether as many replicas
    have the commit as the deployment asks for; no step is sent without them.
    """

    outcome: Outcome
    at_ms: int
    stored: StoredOrder | None = None
    restart: Restart = Restart("")
    marker: str = ""
    replicated: bool = True


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """An event that the gateway sent, with a valid signature.

    `content_id` is the same each time the same body comes. `order_id` and `cf_payment_id` are
    empty if it names none in our form. `reported_state` is the state that it reports, empty if
    it reports none. `data` is the event's JSON, for the feed; None if the event names an attempt.
    """

    type: str
    content_id: str
    order_id: str = ""
    cf_payment_id: str = ""
    reported_state: str = ""
    data: bytes | None = None


class Notified(msgspec.Struct, frozen=True):
    """The result of a notification.

    `stored`: its order as it is now, None if the store does not have it. `is_news`: it was added
    to the order, which is due now. `duplicate`: it came before, so the feed did not get it again.
    """

    stored: StoredOrder | None = None
    is_news: bool = False
    duplicate: bool = False


class Leased(msgspec.Struct, frozen=True):
    """The orders that a worker has leased, until `until_at_ms`, each in the history it lies in.

    `unreadable` are members of the wake index that have no order: they are set aside now.
    `damaged` are parts of the store out of which nothing can be leased until a person repairs them.
    """

    orders: tuple[tuple[StoredOrder, Restart], ...] = ()
    unreadable: tuple[str, ...] = ()
    until_at_ms: int = 0
    damaged: tuple[str, ...] = ()


class Overdue(msgspec.Struct, frozen=True):
    """How far behind the workers are: how many orders are due, and since when the oldest is.

    `put_back`: so many orders were due, and a worker has put them back to a later time because it
    failed or had to wait (`Store.defer`); no commit has changed them since. One whose later time
    has come is in `count` too. `since_at_ms` is since when the oldest of both was due.
    `damaged` are parts of the store that cannot be read, such as a key that another program wrote:
    what is due in them is not counted.
    """

    count: int = 0
    since_at_ms: int | None = None
    damaged: tuple[str, ...] = ()
    put_back: int = 0

    def lag_ms(self, now_ms: int) -> int:
        """Return for how long the oldest order has been due, 0 if none is."""
        return 0 if self.since_at_ms is None else max(0, now_ms - self.since_at_ms)


#: A member of an index with its score.
Row = tuple[str, float]


class Window(msgspec.Struct, frozen=True):
    """Which members of indexes to return: those with scores from `from_at_ms` to `to_at_ms`.

    Both ends of the time belong to it. The lowest score comes first, and of equal ones the first
    by name; with `highest_first` it is the other way round. `after`: only what comes behind this
    row in that order. It is a row of an earlier result, and need not be stored any more: so a list
    goes on where it stopped, however many members have one score.
    """

    indexes: tuple[str, ...]
    from_at_ms: int = 0
    to_at_ms: int | None = None
    limit: int = 100
    highest_first: bool = False
    after: Row | None = None


class Store(Protocol):
    """Keeps orders. All times are milliseconds of the store's own clock.

    Every call raises `StoreUnavailable` if the store cannot be reached or refuses writes, and
    `StoreError` for other trouble. After `StoreUnavailable` from a call that writes, the write
    may have happened.
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

    async def read(self, order_ids: Sequence[str]) -> Sequence[StoredOrder]:
        """Return those of these orders that exist, in the same order.

        Raises `StoreReplaced` if one is missing and the store is not the one that it was.
        """
        ...

    async def commit(self, commit: Commit) -> Committed:
        """Write an order over the token that the commit was decided on.

        The checks, in this order; the first that fails is the outcome, and nothing is written:

        1. The stored token is the commit's own: `APPLIED`. Its reply was lost.
        2. For an order that begins or is not there, a commit that `opens` and one with a `gate`:
           `StoreReplaced` if the store is not the one that it was.
        3. `GONE`: there is no such order and the commit does not begin it; or the commit begins
           it, and a marker of it is left.
        4. `CONFLICT`: the stored token is not `expected`, or an order that begins exists.
        5. For a commit with a `gate`: `Paused` if it is closed.
        6. `RESTARTED`: for a commit that is `verified`: that is not the present history; for
           another one that `opens`: the order's stamp is not. An order that begins counts with
           the stamp that it would get.
        7. `CONFLICT`: the commit removes the order, and a notification is left.

        Then all of it is written at once. An order that begins gets the present history as its
        stamp, unless it begins within `BEGUN_ANEW_MS` of a restart; a verified one gets it too;
        all others keep theirs. Notifications that the commit lists are removed. If one is left
        the order is due now. The order leaves the index `PUT_BACK_INDEX`. While another worker has
        leased the order, it is due when the lease ends, at the earliest; the commit of the lease's
        holder ends the lease.
        """
        ...

    async def notify(self, notification: Notification, digest: bytes) -> Notified:
        """Add a notification to its order, and write it into the feed.

        It is added only to an order that exists, if it names an attempt, and if `digest` is not
        one of the order's digests. Then the order is due now, or when its lease ends. One is
        kept for each attempt: the newest, without a state if an open one reports another. Beyond
        `NOTICES_MAX` attempts, one under the attempt `*` stands for all, without a state. Each
        gets a higher number than all before it, those that were removed too. The feed's entry is
        that of `codec.encode_notification`; a duplicate is not written again. Raises
        `StoreUnavailable` if fewer replicas have it than the deployment asks for.
        """
        ...

    async def flow_text(self, order_id: str, digest: str) -> bytes | None:
        """Return the text of the flow with which a payment began, None if it is not stored."""
        ...

    async def lease(self, limit: int, lease_ms: int) -> Leased:
        """Take due orders for `lease_ms`: no other worker gets them in this time.

        Three quarters of them became due last, one quarter are the oldest (`oldest_share`). A
        store with partitions divides `limit` among them, and takes at least one from each that
        it asks. A member of the wake index without an order is set aside, as by `set_aside`.
        """
        ...

    async def defer(
        self,
        order_id: str,
        wake_at_ms: int,
        *,
        token: str,
        lease: str = "",
        since_at_ms: int | None = None,
    ) -> StoredOrder | None:
        """End this lease of an order, and make the order due at another time.

        `since_at_ms`: it was due since then, and what was due has failed. It enters the index
        `PUT_BACK_INDEX` with this score, or stays there with an earlier one. None: it leaves that
        index, as it does with every commit.

        While another worker has leased it, it is due when that lease ends, at the earliest. One
        that is never due stays so. Nothing happens if the order's token is not this one any more:
        returns the order as it is now. Returns None otherwise.
        """
        ...

    async def set_aside(self, order_id: str, *, token: str) -> None:
        """Take an order that cannot be read out of the wake index, into the index `unreadable`.

        Its lease ends, and its score there is the present time. All else of it stays as it is: a
        newer version may have written it. Nothing happens if the order's token is not this one any
        more: a person has repaired it meanwhile. `token` is "" for a name without an order.
        """
        ...

    async def gates(self) -> Mapping[str, str]:
        """Return the gates that are closed, each with who closed it, as text."""
        ...

    async def set_gate(self, gate: str, closed_by: str) -> None:
        """Close a gate, or open it with an empty `closed_by`.

        `closed_by` is the text of a person's decision. A commit at a closed gate raises what
        `cfflow.store.paused` makes of it.
        """
        ...

    async def record_decision(self, decision: str) -> None:
        """Write what a person decided about the store into its audit trail."""
        ...

    async def decisions(self, limit: int) -> Sequence[str]:
        """Return the last decisions of the audit trail, newest first."""
        ...

    async def overdue(self) -> Overdue:
        """Return how many orders are due, how many were put back, and since when."""
        ...

    async def count(self, indexes: Sequence[str]) -> Mapping[str, int]:
        """Return how many members each of these indexes has."""
        ...

    async def find(self, window: Window) -> Sequence[Row]:
        """Return members of indexes with their scores, `window.limit` at most.

        Fewer than that only if there are no more. Names are compared as bytes. A member that
        is in one of the indexes during the whole call is not left out, also when it moves from
        one of them to another meanwhile.
        """
        ...


def oldest_share(limit: int, turn: int) -> int:
    """Return how many of `limit` leased orders are the oldest: a quarter, over four turns.

    `turn` counts the leases. Without the oldest, an order could wait for ever while new ones
    become due faster than the workers look at them. Without the newest, no order of a long
    queue would be looked at in time.
    """
    return (limit + turn % 4) // 4
