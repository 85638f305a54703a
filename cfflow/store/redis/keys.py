"""Where an order lives: its partition, its keys, and the slots of a cluster.

An order's keys share one hash tag, so that its record, its indexes and its events change
in one script. The partitions' tags are searched for, not counted: `{p0}`, `{p1}`, …
crowd into a few slots, while these fall into equal parts of the 16,384 one by one.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final

from redis.crc import key_slot

from cfflow.core.chart import State
from cfflow.core.observation import Call
from cfflow.errors import ConfigError

__all__ = ["PARTITIONS", "Keys", "partition_tags"]

#: Fixed per deployment and checked at start: an order never moves between partitions.
PARTITIONS: Final = 64

_SLOTS: Final = 16_384


@lru_cache(maxsize=8)
def partition_tags(count: int) -> tuple[str, ...]:
    """Return the hash tags of so many partitions, each in its own part of the slots."""
    tags: dict[int, str] = {}
    candidate = 0
    while len(tags) < count:
        part = key_slot(str(candidate).encode()) * count // _SLOTS
        tags.setdefault(part, str(candidate))
        candidate += 1
    return tuple(tags[part] for part in range(count))


class Keys:
    """Names the keys of one deployment: a namespace and a number of partitions.

    Raises `ConfigError` for names and numbers that could not be kept apart on a cluster.
    """

    def __init__(self, namespace: str = "cf", partitions: int = PARTITIONS) -> None:
        if not 1 <= partitions <= _SLOTS:
            raise ConfigError(f"partitions must be 1 to {_SLOTS}, got {partitions}")
        if "{" in namespace or "}" in namespace:
            raise ConfigError(f"namespace {namespace!r}: braces would name another slot")
        self.namespace: Final = namespace
        self.partitions: Final = partitions
        roots = [f"{namespace}:{{{tag}}}:" for tag in partition_tags(partitions)]
        self._roots: Final = roots
        self._orders: Final = [f"{root}o:" for root in roots]
        self._wakes: Final = [f"{root}wake" for root in roots]
        self._reviews: Final = [f"{root}review" for root in roots]
        self._events: Final = [f"{root}events" for root in roots]
        self._groups: Final = [f"{root}groups" for root in roots]
        self._flows: Final = [f"{root}flows" for root in roots]
        self._runs: Final = [f"{root}run" for root in roots]
        self._states: Final = [{s: f"{root}s:{s.value}" for s in State} for root in roots]
        # The same for every number of partitions: it is what tells them apart.
        self.meta: Final = f"{namespace}:meta"

    def partition(self, order_id: str) -> int:
        """Return the partition of an order: the same on every machine, for ever."""
        return zlib.crc32(order_id.encode()) % self.partitions

    def order_prefix(self, partition: int) -> str:
        """Return what an order's key begins with; its id follows."""
        return self._orders[partition]

    def order(self, order_id: str) -> str:
        """Return the key of an order's hash."""
        return self._orders[self.partition(order_id)] + order_id

    def wake(self, partition: int) -> str:
        """Return the key of a partition's wake index."""
        return self._wakes[partition]

    def state(self, partition: int, state: State) -> str:
        """Return the key of a partition's index of one state."""
        return self._states[partition][state]

    def review(self, partition: int) -> str:
        """Return the key of a partition's index of open reviews."""
        return self._reviews[partition]

    def events(self, partition: int) -> str:
        """Return the key of a partition's event stream."""
        return self._events[partition]

    def groups(self, partition: int) -> str:
        """Return the key of what the feed's groups have read of a partition."""
        return self._groups[partition]

    def home(self, group: str) -> int:
        """Return the partition that keeps which consumers of a group are alive."""
        return zlib.crc32(group.encode()) % self.partitions

    def readers(self, group: str) -> str:
        """Return the key of a group's consumers."""
        return f"{self._roots[self.home(group)]}readers:{group}"

    def flows(self, partition: int) -> str:
        """Return the key of a partition's flow texts."""
        return self._flows[partition]

    def budget(self, call: Call) -> str:
        """Return the key of the rate budget's book of one class of calls."""
        return f"{self._roots[zlib.crc32(call.encode()) % self.partitions]}budget:{call}"

    def mark(self, partition: int, name: str) -> str:
        """Return the key by which a partition knows a notification again."""
        return f"{self._roots[partition]}seen:{name}"

    def run(self, partition: int) -> str:
        """Return the key under which a partition keeps which server process wrote it."""
        return self._runs[partition]
