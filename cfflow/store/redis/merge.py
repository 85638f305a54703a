"""One list out of the indexes of many partitions, without reading the whole list from each.

A partition has about its share of the first members, so no more is asked of it at first. Whoever
turns out to have more is asked again, from where its reply ended. To ask each partition for the
whole number would transfer 64 times as many rows as the list has.

One reply has all indexes of its partition as they were in one moment, and only rows up to the place
where its shortest cut ended are used. So a payment that moves to another index meanwhile is seen in
one of the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cfflow.store.protocol import Row, Window
from cfflow.store.redis.replies import score_of

#: Where a member stands: its score, and its name as bytes, because the server compares those.
Place = tuple[float, bytes]

_ESCAPE: Final = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")

#: The share of a partition that has more than the others: so many times the usual deviation.
_DEVIATIONS: Final = 4


class _Part:
    """What was read of a partition: its rows up to the place `after`, and whether it has more."""

    def __init__(self, after: Place | None) -> None:
        self.rows: list[Place] = []
        self.after = after
        self.has_more = True


class Merge:
    """The rows of a window, as they come in from the partitions."""

    def __init__(self, window: Window, partitions: int) -> None:
        place = None if window.after is None else _place(window.after)
        self._limit: Final = window.limit
        self._descends: Final = window.highest_first
        self._parts: Final = [_Part(place) for _ in range(partitions)]
        mean = window.limit / partitions
        share = math.ceil(mean + _DEVIATIONS * math.sqrt(mean)) + _DEVIATIONS
        #: How many rows of each index to ask for now.
        self.share = min(window.limit, share)

    def wanted(self) -> Iterator[tuple[int, Place | None]]:
        """Yield each partition that may have more of the result, and the place to go on from."""
        rows = self.rows()
        last = rows[-1][1] if len(rows) == self._limit else None
        for number, part in enumerate(self._parts):
            if part.has_more and (last is None or self._is_before(part.after, last)):
                yield number, part.after

    def take(self, replies: Mapping[int, Sequence[Sequence[bytes]]]) -> None:
        """Add the replies of partitions: for each of their indexes, names and scores in turn."""
        for number, indexes in replies.items():
            self._take(self._parts[number], indexes)
        self.share = min(self._limit, 2 * self.share)

    def _take(self, part: _Part, indexes: Sequence[Sequence[bytes]]) -> None:
        read = [
            [(score_of(flat[i + 1]), flat[i]) for i in range(0, len(flat), 2)] for flat in indexes
        ]
        # The script's rows ascend, so one that was cut ends with its last or its first row.
        ends = [rows[0 if self._descends else -1] for rows in read if len(rows) == self.share]
        part.has_more = bool(ends)
        if ends:
            part.after = max(ends) if self._descends else min(ends)
        part.rows += [
            row
            for rows in read
            for row in rows
            if not (ends and part.after and self._is_before(part.after, row))
        ]

    def rows(self) -> list[tuple[int, Place]]:
        """Return the first rows in the order of the window, each with its partition."""
        rows = [(row, number) for number, part in enumerate(self._parts) for row in part.rows]
        rows.sort(reverse=self._descends)
        return [(number, row) for row, number in rows[: self._limit]]

    def _is_before(self, place: Place | None, other: Place) -> bool:
        if place is None:
            return True
        return place > other if self._descends else place < other


def name_of(place: Place) -> str:
    r"""Return the name at a place as text, the same one for no two names.

    `\` and bytes that are no text, which no payment's id has, are escapes.
    """
    return place[1].replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def _place(row: Row) -> Place:
    return row[1], _ESCAPE.sub(_unescaped, row[0].encode())


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if found[1] else b"\\"
