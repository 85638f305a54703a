"""The script's replies as the store's own types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from cfflow.core.restart import Restart
from cfflow.store.protocol import Committed, Leased, Notified, Outcome, StoredOrder

_STAMP_B: Final = 8
_TOKEN_B: Final = 8
_DIGEST_B: Final = 6


def value_of(token: str, digests: bytes, record: bytes) -> bytes:
    """Return what the script stores behind the stamp: a head of fixed places, and the record."""
    return b"".join((token.encode(), bytes([len(digests) // _DIGEST_B]), digests, record))


def stored_from(row: Sequence[Any], lease: str = "") -> StoredOrder | None:
    """Return an order as the script reads it: id, value, actions, notices; None if there is none.

    A value that is shorter than its head is returned without a record: it does not decode.
    """
    name, value, actions, notices = row
    if value is None:
        return None
    count_at = _STAMP_B + _TOKEN_B
    if len(value) <= count_at:
        return StoredOrder(_text(name), stamp="", token="", record=b"", lease=lease)
    record_at = count_at + 1 + value[count_at] * _DIGEST_B
    texts = [_text(part) for part in notices]
    return StoredOrder(
        id=_text(name),
        stamp=_text(value[:_STAMP_B]),
        token=_text(value[_STAMP_B:count_at]),
        record=value[record_at:],
        actions=actions or b"",
        notices=dict(zip(texts[::2], texts[1::2], strict=True)),
        lease=lease,
    )


def committed_from(reply: Sequence[Any]) -> Committed:
    """Return the result of a commit."""
    outcome, at_ms = Outcome(reply[0].decode()), int(reply[1])
    match outcome:
        case Outcome.CONFLICT:
            return Committed(outcome, at_ms, stored_from(reply[2]))
        case Outcome.RESTARTED:
            return Committed(outcome, at_ms, restart=Restart(_text(reply[2]), int(reply[3])))
        case Outcome.GONE:
            return Committed(outcome, at_ms, marker=_text(reply[2]))
    return Committed(outcome, at_ms)


def notified_from(reply: Sequence[Any]) -> Notified:
    """Return the result of a notification."""
    return Notified(stored_from(reply[4]), bool(reply[3]), duplicate=bool(reply[2]))


def leased_from(
    replies: Sequence[Any], runs: Sequence[Sequence[int]], partition_of: Callable[[str], int]
) -> Leased:
    """Return what several runs of the script have leased, each from these partitions.

    Of the members without an order, only those in the partition of their name are returned: a
    name that lies in another one may be that of a healthy order. Each node of a cluster ends its
    leases by its own clock: the first end counts for all.
    """
    orders, unreadable, ends_at_ms = [], [], []
    for reply, partitions in zip(replies, runs, strict=True):
        lease = _text(reply[2])
        ends_at_ms.append(int(lease.partition(":")[0]))
        for index, history, since, rows in reply[3]:
            restart, place = Restart(_text(history), int(since)), partitions[index]
            for row in rows:
                stored = stored_from(row, lease)
                if stored is not None:
                    orders.append((stored, restart))
                elif partition_of(_text(row[0])) == place:
                    unreadable.append(_text(row[0]))
    return Leased(tuple(orders), tuple(unreadable), min(ends_at_ms, default=0))


def orders_from(replies: Sequence[Any]) -> Iterator[StoredOrder]:
    """Yield the orders that several runs of the script have read, without those that are gone."""
    for reply in replies:
        for row in reply[2]:
            stored = stored_from(row)
            if stored is not None:
                yield stored


def fields_from(reply: Sequence[Any]) -> dict[str, str]:
    """Return the fields of a partition's `run`."""
    texts = [_text(part) for part in reply[2]]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def members_from(replies: Sequence[Any]) -> list[tuple[str, int]]:
    """Return the members of indexes that several runs of the script have found, with scores."""
    return [(_text(name), int(at)) for reply in replies for name, at in reply[2]]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
