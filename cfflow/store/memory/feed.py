"""The feed in memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from cfflow.feed.groups import entries_to_keep
from cfflow.feed.protocol import Reply, Request

_PARTITIONS: Final = 4


class _Partition(msgspec.Struct):
    entries: list[tuple[str, bytes]] = []
    trimmed: int = 0
    states: dict[str, bytes] = {}
    consumers: dict[str, dict[str, int]] = {}


class MemoryFeed:
    """The `FeedLog` of a `MemoryStore`, on its clock. Entries have the ids 1-0, 2-0, ..."""

    def __init__(self, now_ms: Callable[[], int], *, feed_max: int = 1_000) -> None:
        self._now_ms = now_ms
        self._feed_max = feed_max
        self._partitions = [_Partition() for _ in range(_PARTITIONS)]

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        return _PARTITIONS

    def append(self, order_id: str, entries: Sequence[bytes]) -> None:
        """Write entries, and drop those that every group has acknowledged or that are too many."""
        partition = self._partitions[zlib.crc32(order_id.encode()) % _PARTITIONS]
        written = partition.trimmed + len(partition.entries)
        partition.entries += [(f"{n}-0", entry) for n, entry in enumerate(entries, written + 1)]
        written += len(entries)
        first = written - entries_to_keep(partition.states.values(), written, self._feed_max)
        if first > partition.trimmed:
            del partition.entries[: first - partition.trimmed]
            partition.trimmed = first

    async def request(self, group: str, requests: Mapping[int, Request]) -> dict[int, Reply]:
        """Do what a group wants of these partitions."""
        return {p: self._reply(group, self._partitions[p], each) for p, each in requests.items()}

    def _reply(self, group: str, partition: _Partition, request: Request) -> Reply:
        entries, states = partition.entries, partition.states
        if states.get(group) == request.old:
            states.pop(group, None)
            if request.new is not None:
                states[group] = request.new
        if request.consumers is not None:
            alive = {**partition.consumers.pop(group, {}), **request.consumers}
            if group in states:
                partition.consumers[group] = {n: at for n, at in alive.items() if at is not None}
        first = max(int(request.after.partition("-")[0]) - partition.trimmed, 0)
        return Reply(
            self._now_ms(),
            states.get(group),
            partition.trimmed,
            len(entries),
            entries[-1][0] if entries else "0-0",
            tuple(entries[first : first + request.count]),
            {} if request.consumers is None else partition.consumers.get(group, {}),
        )
