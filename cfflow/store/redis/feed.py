"""The feed in Redis: the `feed` command of deployment.lua."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cfflow.feed.protocol import Reply, Request
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.link import RedisLink


class RedisFeed:
    """The `FeedLog` of a `RedisStore`. Each partition is one run of the script."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys: Final = keys

    @property
    def partitions(self) -> int:
        """How many partitions the feed has."""
        return self._keys.partitions

    async def request(self, group: str, requests: Mapping[int, Request]) -> dict[int, Reply]:
        """Do what a group wants of these partitions, in one round trip per node."""
        calls = [self._call(group, partition, each) for partition, each in requests.items()]
        replies = await self._link.scripts(calls, are_long=True)
        return dict(zip(requests, map(_reply, replies), strict=True))

    def _call(
        self, group: str, partition: int, request: Request
    ) -> tuple[Sequence[str], Sequence[Any]]:
        keys = [self._keys.groups(partition), self._keys.events(partition)]
        old, new = request.old or "", request.new or ""
        args = ["feed", group, old, new, request.after, request.count]
        if request.consumers is not None:
            keys.append(self._keys.readers(partition, group))
            for name, until_at_ms in request.consumers.items():
                args += [name, "" if until_at_ms is None else until_at_ms]
        return keys, args


def _reply(reply: Sequence[Any]) -> Reply:
    _, now_ms, state, trimmed, length, newest, entries, consumers = reply
    return Reply(
        now_ms,
        state or None,
        int(trimmed),
        length,
        newest.decode(),
        tuple((identifier.decode(), fields[1]) for identifier, fields in entries),
        {n.decode(): int(at) for n, at in zip(consumers[::2], consumers[1::2], strict=True)},
    )
