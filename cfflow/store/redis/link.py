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
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection as Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,  # noqa: A004  redis-py's own name
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  redis-py's own name
    TryAgainError,
)
from redis.utils import HIREDIS_AVAILABLE

from cfflow.errors import ConfigError, StoreError, StoreUnavailable
from cfflow.store.clock import ServerClock, monotonic_ms
from cfflow.store.redis.url import Client, client_of, shown

__all__ = ["SCRIPT", "RedisLink"]

#: All that cfflow does in Redis. Each process runs its own text, which the server finds by its
#: hash: processes of two versions can work on one server.
SCRIPT: Final = (files("cfflow") / "store" / "redis" / "script.lua").read_text()

#: The server may be back in a moment: a restart, a failover, a broken connection.
_PASSING: Final = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    # Down, or its nodes do not agree who has a slot: what redis-py follows for a while only.
    ClusterError,
    MasterDownError,
    TryAgainError,
    RedisClusterException,
    OSError,
)
#: Words with which a server refuses a command that it would take another time. Redis 6.2
#: wraps them into the script's own error, so they are looked for anywhere in the text.
_REFUSALS: Final = {
    "READONLY": "is read-only: a replica, or a failover under way",
    "OOM": "is out of memory and refuses writes",
    "BUSY": "is busy with somebody's script",
    "MISCONF": "cannot write to its disk and refuses writes",
    "NOREPLICAS": "has too few replicas and refuses writes",
}
_REFUSED: Final = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")

#: So many callers have a connection each; more than these share their round trips.
_ALONE_MAX: Final = 4
_PAUSE_S: Final = 0.05
_TRIES_MAX: Final = 8
_VERSION_MIN: Final = (6, 2)

builtin_timeout: Final = builtins.TimeoutError

_T = TypeVar("_T")

#: Writes down a command six times as fast as a connection does; with the extra `fast`.
_pack_fast: Callable[..., Sequence[bytes]] | None = (
    HiredisRespSerializer().pack if HIREDIS_AVAILABLE else None
)


class RedisLink:
    """Runs the script and plain commands on one server or on a cluster.

    `url`: `redis://`, `rediss://` or `unix://`; a cluster is recognised by itself.
    `deadline_s`: how long one command may take, retries and all. `script`: the text of the
    script, for tests that need another clock in it.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = 3.0,
        connections_max: int = 256,
        script: str = SCRIPT,
    ) -> None:
        self.url: Final = url
        self._script: Final = script
        self._sha: Final = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self.clock: Final = ServerClock()
        self._deadline_s = deadline_s
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[Connection] = []
        self._alone = 0
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._carrier: asyncio.Task[None] | None = None
        self._options: Final[dict[str, Any]] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": deadline_s,
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
        """Connect, find out what kind of server it is, and refuse one that loses keys.

        Whatever it raises, `aclose` is the caller's to call.
        """
        self._client = single = client_of(Redis, self.url, self._options)
        try:
            about = await self._guarded(partial(_about, single))
        except TypeError as error:
            text = f"redis_url {shown(self.url)} has an unknown option: {error}"
            raise ConfigError(text) from None
        self.is_cluster = bool(about.get("cluster_enabled"))
        if not self.is_cluster:
            self._check_server(about)
            await single.connection_pool.disconnect()
            return
        self._client = cluster = client_of(RedisCluster, self.url, self._options)
        await single.aclose()
        await self._guarded(cluster.initialize)
        for node in cluster.get_primaries():
            self._check_server(await self._guarded(partial(_about, cluster, node)))

    async def about(self) -> dict[str, Any]:
        """Return what the server says of itself; of a cluster, one of its primaries.

        Without a `run_id` where the rights of this connection forbid to ask for more.
        """
        client = self.client
        node = client.get_primaries()[0] if isinstance(client, RedisCluster) else None
        return await self._guarded(partial(_about, client, node))

    def _check_server(self, about: dict[str, Any]) -> None:
        """An evicting server drops payments when its memory is full: no money lives there."""
        policy = about.get("maxmemory_policy", "noeviction")
        version = tuple(int(part) for part in str(about["redis_version"]).split(".")[:2])
        why = ""
        if about.get("maxmemory") and policy != "noeviction":
            why = f"evicts keys when full ({policy}): set maxmemory-policy noeviction"
        elif version < _VERSION_MIN:
            why = f"is Redis {about['redis_version']}; 6.2 is the oldest"
        elif about.get("role") == "slave":
            why = "is a read-only replica: name its primary"
        if why:
            raise ConfigError(f"the Redis at {shown(self.url)} {why}")

    async def aclose(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if self._carrier is not None:
            self._carrier.cancel()
        if client is not None:
            await self._let_go()
            await client.aclose()

    async def script(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run the script on the slot of `keys` and return its answer.

        Raises `StoreUnavailable` when the server does not do it within the deadline.
        Sending it twice must be harmless: every commit carries its token.
        """
        return await self._guarded(lambda: self._script_once(keys, args))

    async def replicated(
        self, keys: Sequence[str], args: Sequence[Any], replicas: int
    ) -> tuple[list[Any], int]:
        """Run the script and wait on the same connection for its replicas.

        Returns its answer and how many replicas have it, after a third of the deadline at
        the latest.
        """
        return await self._guarded(lambda: self._replicated_once(keys, args, replicas))

    async def scripts(self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run the script for many partitions, in one round trip per node."""
        return await self._guarded(lambda: self._scripts_once(calls))

    async def command(self, *args: Any) -> Any:
        """Run one plain command that names a key."""
        return await self._guarded(lambda: self._once(*args))

    def _by_hash(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        return "EVALSHA", self._sha, len(keys), *keys, *args

    def _by_text(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        return "EVAL", self._script, len(keys), *keys, *args

    async def _script_once(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        asked_at_ms = monotonic_ms()
        try:
            answer = await self._once(*self._by_hash(keys, args))
        except NoScriptError:
            answer = await self._once(*self._by_text(keys, args))
        self.clock.heard(answer[1], asked_at_ms, monotonic_ms())
        return cast("list[Any]", answer)

    async def _replicated_once(
        self, keys: Sequence[str], args: Sequence[Any], replicas: int
    ) -> tuple[list[Any], int]:
        asked_at_ms = monotonic_ms()
        wait = ("WAIT", replicas, round(self._deadline_s * 1000 / 3))
        answer, count = await self._exchange([self._by_hash(keys, args), wait])
        if isinstance(answer, NoScriptError):
            answer, count = await self._exchange([self._by_text(keys, args), wait])
        for trouble in (answer, count):
            if isinstance(trouble, Exception):
                raise trouble
        self.clock.heard(answer[1], asked_at_ms, monotonic_ms())
        return answer, int(count)

    async def _scripts_once(
        self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]
    ) -> list[Any]:
        asked_at_ms = monotonic_ms()
        commands = [self._by_hash(keys, args) for keys, args in calls]
        if isinstance(self.client, RedisCluster):
            pipeline = self.client.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            answers = list(await pipeline.execute(raise_on_error=False))
        else:
            answers = await self._exchange(commands)
        if answers and isinstance(answers[0], list):
            self.clock.heard(answers[0][1], asked_at_ms, monotonic_ms())
        for i, (keys, args) in enumerate(calls):
            if isinstance(answers[i], (NoScriptError, *_PASSING)):
                # By itself it also finds the node that a failover moved its slot to.
                answers[i] = await self._script_once(keys, args)
            elif isinstance(answers[i], Exception):
                raise answers[i]
        return answers

    async def _once(self, *command: Any) -> Any:
        if isinstance(self.client, RedisCluster):
            return await self.client.execute_command(*command)
        answer = await self._shared(command)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _shared(self, command: tuple[Any, ...]) -> Any:
        """Run one command: by itself while few do, else together with those that wait like it.

        Many callers at once would each pay for their own calls into the kernel.
        """
        if self._alone < _ALONE_MAX:
            self._alone += 1
            try:
                return (await self._exchange([command]))[0]
            finally:
                self._alone -= 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._carrier is None:
            self._carrier = asyncio.create_task(self._carry())
        return await answer

    async def _carry(self) -> None:
        """Send what waits in one round trip, as long as something does."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                answers: Sequence[Any] = [ConnectionError("closed")] * len(batch)
                try:
                    async with asyncio.timeout(self._deadline_s):
                        answers = await self._exchange([command for command, _ in batch])
                except Exception as error:  # noqa: BLE001  each of them must hear of it
                    answers = [error] * len(batch)
                finally:
                    for (_, waiter), answer in zip(batch, answers, strict=True):
                        if not waiter.done():
                            waiter.set_result(answer)
        finally:
            self._carrier = None

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands to the one server and return their answers, in one round trip.

        On redis-py's connections, but past its pool, whose bookkeeping costs more than the
        exchange itself. A connection whose answers were not all read is never used again.
        """
        pool = cast("Any", self.client).connection_pool
        connection = self._idle.pop() if self._idle else pool.make_connection()
        answers: list[Any] = []
        try:
            packed = [part for command in commands for part in _packed(connection, command)]
            await connection.send_packed_command(packed, check_health=False)
            while len(answers) < len(commands):
                try:
                    answers.append(await connection.read_response())
                except ResponseError as error:
                    answers.append(error)
        finally:
            if len(answers) == len(commands) and self._client is not None:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return answers

    async def _guarded(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do it within the deadline, again after passing trouble; translate the rest."""
        place = shown(self.url)
        try:
            async with asyncio.timeout(self._deadline_s), self._free:
                return await self._patiently(work)
        except builtin_timeout:
            text = f"no answer from Redis at {place} in {self._deadline_s:g} s"
        except AuthenticationError as error:
            raise ConfigError(f"Redis at {place} refuses the password: {error}") from None
        except _PASSING as error:
            text = f"Redis at {place} cannot be reached: {error}"
        except RedisError as error:
            word = _refusal(error)
            if word is None:
                raise StoreError(f"Redis at {place}: {str(error)[:200]}") from None
            text = f"Redis at {place} {_REFUSALS[word]}"
        raise StoreUnavailable(text)

    async def _patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        refused = 0
        while True:
            try:
                return await work()
            except (RedisError, RedisClusterException, OSError) as error:
                refused += 1
                if refused > _TRIES_MAX or not _passing(error):
                    raise
                await self._let_go()
                await asyncio.sleep(_PAUSE_S * refused * random.uniform(0.5, 1.0))  # noqa: S311  jitter

    async def _let_go(self) -> None:
        """Close what is idle: it may be broken too, or lead to a primary that is none any more."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


async def _about(client: Client, node: ClusterNode | None = None) -> dict[str, Any]:
    """Return INFO, or the little that HELLO tells to those who may not ask for it."""
    target = {} if node is None else {"target_nodes": node}
    try:
        return cast("dict[str, Any]", await client.execute_command("INFO", **target))
    except NoPermissionError:
        told = await client.execute_command("HELLO", **target)
    said = {str(name, "ascii"): value for name, value in zip(told[::2], told[1::2], strict=True)}
    return {
        "redis_version": said["version"].decode(),
        "cluster_enabled": said["mode"] == b"cluster",
        "role": "slave" if said["role"] == b"replica" else said["role"].decode(),
    }


def _packed(connection: Connection, command: tuple[Any, ...]) -> Sequence[bytes]:
    if _pack_fast is None:
        return connection.pack_command(*command)
    return _pack_fast(*command)


def _passing(error: Exception) -> bool:
    """Say whether the same command may succeed in a moment."""
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, _PASSING) or _refusal(error) in {"READONLY", "BUSY"}


def _refusal(error: Exception) -> str | None:
    """Return the word with which a server refuses for now; redis-py strips some of them."""
    if isinstance(error, ReadOnlyError):
        return "READONLY"
    if isinstance(error, OutOfMemoryError):
        return "OOM"
    found = _REFUSED.search(str(error)) if isinstance(error, ResponseError) else None
    return found[0] if found else None
