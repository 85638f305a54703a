"""The names of keys: partitions spread over any cluster, and an order lies in one slot."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from cfflow.core.arguments import check_order_id
from cfflow.core.chart import State
from cfflow.core.order import REVIEW_INDEX
from cfflow.errors import ConfigError, InvalidInput
from cfflow.store.redis.keys import PARTITIONS, Keys, partition_tags

SLOTS = 16_384


@pytest.mark.parametrize("masters", [3, 4, 8])
def test_partitions_spread_evenly_over_masters(masters: int) -> None:
    """64 partitions on 3, 4 or 8 masters: no master has more than one above its share."""
    shares = [0] * masters
    for tag in partition_tags(PARTITIONS):
        shares[key_slot(tag.encode()) * masters // SLOTS] += 1
    assert sum(shares) == PARTITIONS
    assert max(shares) - min(shares) <= 1


def test_numbered_tags_would_not_spread() -> None:
    """Why tags are searched: sixteen numbered ones leave half of eight masters idle."""
    masters = {key_slot(f"p{i}".encode()) * 8 // SLOTS for i in range(16)}
    assert len(masters) == 4


def test_all_keys_of_an_order_are_in_one_slot() -> None:
    """A commit runs in one slot: order, indexes, events and flows, for any order id."""
    keys = Keys("shop", PARTITIONS)
    for order_id in ("order_1", "{tag}", "}{", "a{b}c", "x" * 45, "{}"):
        place = keys.partition(order_id)
        names = [
            keys.order(order_id),
            keys.order_prefix(place) + order_id,
            keys.actions(order_id),
            keys.notices(order_id),
            keys.marker(order_id),
            keys.wake(place),
            keys.leases(place),
            keys.run(place),
            keys.events(place),
            keys.groups(place),
            keys.flows(place),
            keys.seen(place, "content"),
            *(keys.index(place, index) for index in (*State, REVIEW_INDEX, "unreadable")),
        ]
        assert len({key_slot(name.encode()) for name in names}) == 1
        assert len(set(names)) == len(names) - 1


def test_no_orders_keys_are_those_of_another_order() -> None:
    """What lies beside an order's record has a character that no order id has."""
    keys = Keys("shop", 1)
    for beside in (keys.actions, keys.notices, keys.marker):
        name = beside("order_1").removeprefix(keys.order_prefix(0))
        with pytest.raises(InvalidInput):
            check_order_id(name)


def test_partitions_have_slots_of_their_own() -> None:
    """No two partitions share a slot, so that each can be moved alone."""
    assert len({key_slot(tag.encode()) for tag in partition_tags(PARTITIONS)}) == PARTITIONS


def test_an_order_keeps_its_partition_for_ever() -> None:
    """Stored payments lie there: after a change here they would not be found."""
    keys = Keys("cf", 64)
    found = [keys.order(f"order_{i}") for i in (1, 2, 3)]
    assert found == ["cf:{163}:o:order_1", "cf:{102}:o:order_2", "cf:{8}:o:order_3"]


def test_the_number_of_partitions_is_kept_at_one_place() -> None:
    """The key is the same for every number, so that a wrong number is detected."""
    assert {Keys("cf", count).meta for count in (1, 3, 32, 64, 1000)} == {"cf:meta"}


def test_orders_spread_over_partitions() -> None:
    """No partition of 64 has more than twice its share of 6,400 orders."""
    keys = Keys()
    counts = [0] * PARTITIONS
    for i in range(6_400):
        counts[keys.partition(f"order_{i}")] += 1
    assert min(counts) > 50
    assert max(counts) < 200


@pytest.mark.parametrize("partitions", [0, -1, 16_385])
def test_an_impossible_number_of_partitions_is_refused(partitions: int) -> None:
    """More partitions than slots would search for tags for ever."""
    with pytest.raises(ConfigError, match="partitions"):
        Keys("cf", partitions)


@pytest.mark.parametrize("namespace", ["{a}", "a{", "}"])
def test_a_namespace_with_braces_is_refused(namespace: str) -> None:
    """Its braces would be the hash tag, and all partitions would be one slot."""
    with pytest.raises(ConfigError, match="namespace"):
        Keys(namespace)
