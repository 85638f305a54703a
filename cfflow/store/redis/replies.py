"""The script's replies as the store's own types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import floor
from typing import Any, Final, NamedTuple

from cfflow.core.restart import Restart
from cfflow.store.protocol import Committed, Notified, Outcome, Overdue, StoredOrder

_STAMP_B: Final = 8
_TOKEN_B: Final = 8
_DIGEST_B: Final = 6

#: How a commit may end, by the script's word for it.
OUTCOMES: Final = {outcome.value.encode(): outcome for outcome in Outcome}

#: A time or score beyond this was not written by cfflow; it must not fail what else is read.
_MS_MAX: Final = 2**53


def value_of(token: str, digests: bytes, record: bytes) -> bytes:
    """Return what the script stores behind the stamp: a head of fixed places, and the record."""
    return b"".join((token.encode(), bytes([len(digests) // _DIGEST_B]), digests, record))


def stored_from(row: Sequence[Any], lease: str = "") -> StoredOrder | None:
    """Return an order as the script reads it: id, value, actions, notices; None if there is none.

    A value that is shorter than its head is returned without a record: it does not decode. So is
    one whose token or notifications are no text, because no commit could name them.
    """
    name, value, actions, notices = row
    if value is None:
        return None
    count_at = _STAMP_B + _TOKEN_B
    token, texts = _token_of(value[_STAMP_B:count_at]), _texts(notices)
    if len(value) <= count_at or not token or texts is None:
        return StoredOrder(text_of(name), stamp="", token=token, record=b"", lease=lease)
    record_at = count_at + 1 + value[count_at] * _DIGEST_B
    return StoredOrder(
        id=text_of(name),
        stamp=text_of(value[:_STAMP_B]),
        token=token,
        record=value[record_at:],
        actions=actions or b"",
        notices=texts,
        lease=lease,
    )


def _token_of(raw: bytes) -> str:
    """Return a token as the script compares it, "" for bytes that are none."""
    text = raw.decode("latin-1")
    return text if len(text) == _TOKEN_B and text.isascii() and text.isprintable() else ""


def _texts(pairs: Sequence[bytes]) -> Mapping[str, str] | None:
    """Return fields and values as text, None where one of them is no text."""
    try:
        texts = [part.decode() for part in pairs]
    except UnicodeDecodeError:
        return None
    return dict(zip(texts[::2], texts[1::2], strict=True))


def committed_from(reply: Sequence[Any]) -> Committed:
    """Return the result of a commit."""
    outcome, at_ms = OUTCOMES[reply[0]], int(reply[1])
    match outcome:
        case Outcome.APPLIED:
            return Committed(outcome, at_ms)
        case Outcome.CONFLICT:
            return Committed(outcome, at_ms, stored_from(reply[2]))
        case Outcome.RESTARTED:
            return Committed(outcome, at_ms, restart=Restart(text_of(reply[2]), int(reply[3])))
        case Outcome.GONE:
            return Committed(outcome, at_ms, marker=text_of(reply[2]))


def notified_from(reply: Sequence[Any]) -> Notified:
    """Return the result of a notification."""
    return Notified(stored_from(reply[4]), bool(reply[3]), duplicate=bool(reply[2]))


class Found(NamedTuple):
    """What several runs of the script have leased.

    `strays`: members that are no order of the partition in which they lie, each with that
    partition, and with its token where there is an order behind it all the same. `damaged`: the
    partitions that cannot be used, because a key of them has another type than ours.
    """

    orders: Sequence[tuple[StoredOrder, Restart]]
    unreadable: Sequence[str]
    strays: Sequence[tuple[int, str, StoredOrder | None]]
    damaged: Sequence[int]
    until_at_ms: int


def leased_from(
    replies: Sequence[Any], runs: Sequence[Sequence[int]], partition_of: Callable[[str], int]
) -> Found:
    """Return what several runs of the script have leased, each from these partitions.

    Each node of a cluster ends its leases by its own clock: the first end counts for all.
    """
    orders, unreadable, strays, damaged = [], [], [], []
    ends_at_ms: list[int] = []
    for reply, partitions in zip(replies, runs, strict=True):
        lease = text_of(reply[2])
        ends_at_ms.append(int(lease.partition(":")[0]))
        for index, history, since, rows in reply[3]:
            place = partitions[index]
            if history is None:
                damaged.append(place)
                continue
            restart = Restart(text_of(history), int(since))
            for row in rows:
                name, stored = text_of(row[0]), stored_from(row, lease)
                if partition_of(name) != place:
                    strays.append((place, name, stored))
                elif stored is None:
                    unreadable.append(name)
                else:
                    orders.append((stored, restart))
    return Found(orders, unreadable, strays, damaged, min(ends_at_ms, default=0))


def orders_from(replies: Sequence[Any]) -> Iterator[StoredOrder]:
    """Yield the orders that several runs of the script have read, without those that are gone."""
    for reply in replies:
        for row in reply[2]:
            stored = stored_from(row)
            if stored is not None:
                yield stored


def fields_from(reply: Sequence[Any]) -> dict[str, str]:
    """Return the fields of a partition's `run`."""
    texts = [text_of(part) for part in reply[2]]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def overdue_from(replies: Sequence[Any]) -> Overdue:
    """Return how far behind the workers are, from the replies of all partitions."""
    since = [ms_of(reply[at + 1]) for reply in replies for at in (2, 5) if reply[at]]
    return Overdue(
        sum(int(reply[2]) for reply in replies),
        min(since, default=None),
        tuple(text_of(key) for reply in replies for key in reply[4]),
        sum(int(reply[5]) for reply in replies),
    )


def score_of(score: bytes) -> float:
    """Return a score exactly: whole milliseconds as an int, anything else as it is.

    A list goes on from the score of its last member, so no two scores may become one.
    """
    number = float(score)
    return int(number) if number.is_integer() and abs(number) <= _MS_MAX else number


def ms_of(score: bytes) -> int:
    """Return a score in whole milliseconds, within what a score can represent exactly."""
    return floor(min(max(float(score), -_MS_MAX), _MS_MAX))


def text_of(value: bytes) -> str:
    """Return bytes as text that can be shown and logged; what is no text is shown as escapes."""
    return value.decode("utf-8", "backslashreplace")
