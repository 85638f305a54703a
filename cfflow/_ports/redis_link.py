"""The connection to Redis: one command at a time, with our own deadline and our own retries.

redis-py would retry by itself and hide what happened. Here its retries are off, and a
script whose answer was lost is sent again under the same token: the server's "ok" then
means that it is in, whichever of the two did it.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  redis-py's own name
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  redis-py's own name
    TryAgainError,
)

from cfflow._ports.server_clock import ServerClock, monotonic_ms
from cfflow.errors import ConfigError, StoreError, StoreUnavailable

__all__ = ["RedisLink"]

SCRIPT: Final = (files("cfflow") / "_ports" / "cfflow.lua").read_text()
SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

#: The server may be back in a moment: a restart, a failover, a broken connection.
_PASSING: Final = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    OSError,
)
_PAUSE_S: Final = 0.05
_TRIES_MAX: Final = 8
_VERSION_MIN: Final = (6, 2)

builtin_timeout: Final = builtins.TimeoutError

_T = TypeVar("_T")

Client = Redis | RedisCluster


class RedisLink:
    """Runs the script and plain commands on one server or on a cluster.

    `url`: `redis://`, `rediss://` or `unix://`; a cluster is recognised by itself.
    `deadline_s`: how long one command may take, retries and all.
    """

    def __init__(self, url: str, *, deadline_s: float = 3.0, connections_max: int = 256) -> None:
        self.url: Final = url
        self.clock: Final = ServerClock()
        self._deadline_s = deadline_s
        self._options: Final[dict[str, Any]] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": deadline_s,
            "max_connections": connections_max,
            "protocol": 2,
        }
        self._client: Client | None = None
        self.is_cluster = False

    @property
    def client(self) -> Client:
        """The redis-py client; `open` comes first."""
        if self._client is None:
            raise StoreUnavailable("the store is not open: use `async with cfflow.connect(...)`")
        return self._client

    async def open(self) -> None:
        """Connect, find out what kind of server it is, and refuse one that loses keys."""
        single = _from_url(self.url, self._options)
        try:
            about = cast("dict[str, Any]", await self._guarded(single.info))
        except BaseException:
            await single.aclose()
            raise
        self.is_cluster = bool(about.get("cluster_enabled"))
        if not self.is_cluster:
            self._client = single
            await self._check_server(about)
            return
        await single.aclose()
        self._client = await self._open_cluster()
        for node in self._client.get_primaries():
            await self._check_server(await self._guarded(partial(self._info, node)))

    async def _open_cluster(self) -> RedisCluster:
        options = {k: v for k, v in self._options.items() if k != "max_connections"}
        cluster = RedisCluster.from_url(self.url, **options)
        await self._guarded(cluster.initialize)
        return cluster

    async def about(self) -> dict[str, Any]:
        """Return what the server says of itself; of a cluster, one of its primaries."""
        client = self.client
        if isinstance(client, RedisCluster):
            node = client.get_primaries()[0]
            return await self._guarded(partial(self._info, node))
        return cast("dict[str, Any]", await self._guarded(client.info))

    async def _info(self, node: ClusterNode) -> dict[str, Any]:
        answer = await self.client.execute_command("INFO", target_nodes=node)
        return cast("dict[str, Any]", answer)

    async def _check_server(self, about: dict[str, Any]) -> None:
        """An evicting server drops payments when its memory is full: no money lives there."""
        policy = about.get("maxmemory_policy", "noeviction")
        if about.get("maxmemory") and policy != "noeviction":
            raise await self._refusal(
                f"evicts keys when full (maxmemory-policy {policy}):"
                " set maxmemory-policy noeviction"
            )
        version = tuple(int(part) for part in str(about["redis_version"]).split(".")[:2])
        if version < _VERSION_MIN:
            raise await self._refusal(f"is Redis {about['redis_version']}; 6.2 is the oldest")
        if about.get("role") == "slave" and not self.is_cluster:
            raise await self._refusal("is a read-only replica: name its primary")

    async def _refusal(self, why: str) -> ConfigError:
        await self.aclose()
        return ConfigError(f"the Redis at {shown(self.url)} {why}")

    async def aclose(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def script(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run the script on the slot of `keys` and return its answer.

        Raises `StoreUnavailable` when the server does not do it within the deadline.
        Sending it twice must be harmless: every commit carries its token.
        """
        return await self._guarded(lambda: self._script_once(keys, args))

    async def scripts(self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run the script for many partitions, in one round trip per node."""
        return await self._guarded(lambda: self._scripts_once(calls))

    async def command(self, *args: Any) -> Any:
        """Run one plain command that names a key."""
        return await self._guarded(lambda: self.client.execute_command(*args))

    async def _script_once(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        asked_ms = monotonic_ms()
        try:
            answer = await self.client.execute_command("EVALSHA", SHA, len(keys), *keys, *args)
        except NoScriptError:
            answer = await self.client.execute_command("EVAL", SCRIPT, len(keys), *keys, *args)
        self.clock.heard(answer[1], asked_ms, monotonic_ms())
        return cast("list[Any]", answer)

    async def _scripts_once(
        self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]
    ) -> list[Any]:
        pipeline = (
            self.client.pipeline()
            if isinstance(self.client, RedisCluster)
            else self.client.pipeline(transaction=False)
        )
        for keys, args in calls:
            pipeline.execute_command("EVALSHA", SHA, len(keys), *keys, *args)
        answers = list(await pipeline.execute(raise_on_error=False))
        for i, (keys, args) in enumerate(calls):
            if isinstance(answers[i], NoScriptError):
                answers[i] = await self._script_once(keys, args)
            elif isinstance(answers[i], Exception):
                raise answers[i]
        return answers

    async def _guarded(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do it within the deadline, again after passing trouble; translate the rest."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._patiently(work)
        except builtin_timeout:
            text = f"no answer from Redis at {shown(self.url)} in {self._deadline_s:g} s"
        except AuthenticationError as error:
            raise ConfigError(f"Redis at {shown(self.url)} refuses the password: {error}") from None
        except _PASSING as error:
            text = f"Redis at {shown(self.url)} cannot be reached: {error}"
        except ReadOnlyError:
            text = f"Redis at {shown(self.url)} is read-only: a replica, or a failover under way"
        except OutOfMemoryError:
            text = f"Redis at {shown(self.url)} is out of memory and refuses writes"
        except ResponseError as error:
            text = _refused_text(self.url, str(error))
        except RedisError as error:
            raise StoreError(f"Redis at {shown(self.url)}: {error}") from None
        raise StoreUnavailable(text)

    async def _patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        refused = 0
        while True:
            try:
                return await work()
            except AuthenticationError:
                raise
            except _PASSING:
                refused += 1
                if refused > _TRIES_MAX:
                    raise
                await asyncio.sleep(_PAUSE_S * refused * random.uniform(0.5, 1.0))  # noqa: S311  jitter


def _from_url(url: str, options: dict[str, Any]) -> Redis:
    try:
        return Redis.from_url(url, **options)
    except ValueError as error:
        raise ConfigError(f"redis_url {shown(url)!r}: {error}") from None


def _refused_text(url: str, said: str) -> str:
    """A server that refuses writes says so in words: full, misconfigured, no disk."""
    word = said.split(" ", 1)[0]
    if word in {"OOM", "MISCONF", "READONLY", "NOREPLICAS", "LOADING"} or "OOM" in said:
        return f"Redis at {shown(url)} refuses writes: {said[:200]}"
    raise StoreError(f"Redis at {shown(url)}: {said[:200]}")


def shown(url: str) -> str:
    """Return a URL without its password, for messages."""
    parts = urlsplit(url)
    if parts.password is None and parts.username is None:
        return url
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"***@{place}").geturl()
