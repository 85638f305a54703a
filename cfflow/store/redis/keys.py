"""The names of keys: an order's partition, and the slots of a cluster.

All keys of a partition share one hash tag, so that an order's record, indexes and events
change in one run of the script. The tags are not simply numbered: `{p0}`, `{p1}`, … fall into
few slots. They are searched, so that each lies in its own equal part of the 16,384 slots.
"""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import Final

from redis.crc import key_slot

from cfflow.core.observation import Call
from cfflow.errors import ConfigError

#: Fixed per deployment and checked by `open`: an order never moves between partitions.
PARTITIONS: Final = 64

_SLOTS: Final = 16_384
_NAMESPACE: Final = re.compile(r"[!-z|~]{1,64}")


@lru_cache(maxsize=8)
def partition_tags(count: int) -> tuple[str, ...]:
    """Return the hash tags of `count` partitions, each in its own equal part of the slots."""
    tags: dict[int, str] = {}
    candidate = 0
    while len(tags) < count:
        part = key_slot(str(candidate).encode()) * count // _SLOTS
        tags.setdefault(part, str(candidate))
        candidate += 1
    return tuple(tags[part] for part in range(count))


class Keys:
    """Names the keys of one deployment: a namespace and a number of partitions.

    Raises `ConfigError` for a number of partitions that is out of range, and for a namespace
    with braces, which would change the hash tag.
    """

    def __init__(self, namespace: str = "cf", partitions: int = PARTITIONS) -> None:
        if type(partitions) is not int or not 1 <= partitions <= _SLOTS:
            raise ConfigError(f"partitions must be a number from 1 to {_SLOTS}")
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
            raise ConfigError(
                "namespace must be 1 to 64 letters, digits or punctuation; braces would name"
                " another slot"
            )
        self.namespace: Final = namespace
        self.partitions: Final = partitions
        roots = [f"{namespace}:{{{tag}}}:" for tag in partition_tags(partitions)]
        self._roots: Final = roots
        self._orders: Final = [f"{root}o:" for root in roots]
        self._wakes: Final = [f"{root}wake" for root in roots]
        self._leases: Final = [f"{root}leases" for root in roots]
        self._events: Final = [f"{root}events" for root in roots]
        self._groups: Final = [f"{root}groups" for root in roots]
        self._flows: Final = [f"{root}flows" for root in roots]
        self._runs: Final = [f"{root}run" for root in roots]
        self._indexes: Final = [f"{root}i:" for root in roots]
        # The same key for every number of partitions: `open` compares the number with it.
        self.meta: Final = f"{namespace}:meta"
        self.audit: Final = f"{namespace}:audit"
        self.workers: Final = f"{namespace}:workers"

    def partition(self, order_id: str) -> int:
        """Return the partition of an order. It must never change: stored orders lie there."""
        return zlib.crc32(order_id.encode()) % self.partitions

    def of_partition(self, partition: int) -> str:
        """Return the pattern of all keys of a partition."""
        return f"{self._roots[partition]}*"

    def order_prefix(self, partition: int) -> str:
        """Return the beginning of the keys of a partition's orders; the order id follows."""
        return self._orders[partition]

    def order(self, order_id: str) -> str:
        """Return the key of an order's record."""
        return self._orders[self.partition(order_id)] + order_id

    def of_order(self, order_id: str, partition: int) -> tuple[str, str, str, str]:
        """Return the keys of an order's record, next actions, open notifications and marker."""
        order = self._orders[partition] + order_id
        return order, f"{order}:a", f"{order}:n", f"{order}:m"

    def actions(self, order_id: str) -> str:
        """Return the key of an order's next actions."""
        return self.of_order(order_id, self.partition(order_id))[1]

    def notices(self, order_id: str) -> str:
        """Return the key of an order's open notifications."""
        return self.of_order(order_id, self.partition(order_id))[2]

    def marker(self, order_id: str) -> str:
        """Return the key of what a purged order has left."""
        return self.of_order(order_id, self.partition(order_id))[3]

    def wake(self, partition: int) -> str:
        """Return the key of a partition's wake index."""
        return self._wakes[partition]

    def leases(self, partition: int) -> str:
        """Return the key of a partition's leases."""
        return self._leases[partition]

    def index(self, partition: int, name: str) -> str:
        """Return the key of a partition's index of this name."""
        return self._indexes[partition] + name

    def events(self, partition: int) -> str:
        """Return the key of a partition's event stream."""
        return self._events[partition]

    def groups(self, partition: int) -> str:
        """Return the key of how far the feed's groups have read a partition."""
        return self._groups[partition]

    def readers(self, partition: int, group: str) -> str:
        """Return the key of a group's living consumers; the partition is the group's home."""
        return f"{self._roots[partition]}readers:{group}"

    def flows(self, partition: int) -> str:
        """Return the key of a partition's flow texts."""
        return self._flows[partition]

    def budget(self, call: Call) -> str:
        """Return the key of the rate budget's book for one class of calls."""
        return f"{self._roots[zlib.crc32(call.encode()) % self.partitions]}budget:{call}"

    def seen(self, partition: int, content_id: str) -> str:
        """Return the key that exists while a notification with this content is a duplicate."""
        return f"{self._roots[partition]}seen:{content_id}"

    def run(self, partition: int) -> str:
        """Return the key of whose data a partition has, in which history, and its closed gates."""
        return self._runs[partition]
