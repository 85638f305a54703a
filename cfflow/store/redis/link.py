"""The connection to Redis: runs the script and single commands, with its own deadline and retries.

redis-py would retry by itself and hide what happened, so its retries are off. A script whose
reply was lost is sent again with the same token. "ok" then means that the commit is stored,
whichever of the two runs stored it.
"""

from __future__ import annotations

import asyncio
import builtins
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
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

from cfflow.core.sealed import Sealed, sealed
from cfflow.errors import ConfigError, StoreError, StoreUnavailable
from cfflow.store.clock import ServerClock, monotonic_ms
from cfflow.store.redis.scripts import Adapt, Scripts, as_shipped
from cfflow.store.redis.url import Client, client_of, shown

#: Errors that may be over in a moment: a restart, a failover, a broken connection.
_TEMPORARY: Final = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    # The cluster is down, or its nodes disagree who has a slot; redis-py follows that only so far.
    ClusterError,
    MasterDownError,
    TryAgainError,
    RedisClusterException,
    OSError,
)
#: A server that ends in the middle of a TLS connection: it may be back in a moment.
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
#: OpenSSL's numbers for a certificate whose issuer is not among the trusted authorities.
_UNKNOWN_ISSUER: Final = frozenset({18, 19, 20, 21})
_OWN_AUTHORITY: Final = "; if it is the right one, name its authority: ?ssl_ca_certs=FILE"
#: Words with which a server refuses a command that it would accept at another time. Redis 6.2
#: wraps them into the script's error, so they are searched for in the whole text.
_REFUSALS: Final = {
    "READONLY": "is read-only: a replica, or a failover under way",
    "OOM": "is out of memory and refuses writes",
    "BUSY": "is busy with another client's script",
    "MISCONF": "cannot write to its disk and refuses writes",
    "NOREPLICAS": "has too few replicas and refuses writes",
}
_REFUSED: Final = re.compile(rf"\b({'|'.join(_REFUSALS)})\b")

#: What a server replies to a user who may not do something; inside a script it is an `ERR`.
_NO_RIGHT: Final = re.compile(
    r"NOPERM|no permissions|ACL failure in script|The user executing the script can't",
    re.IGNORECASE,
)

#: Where a person reads which rights cfflow needs.
_RIGHTS_PAGE: Final = "docs/guides/redis-user.md"

#: So many commands at once have a connection each; further ones share round trips.
_UNBATCHED_MAX: Final = 4
_CONNECTIONS_MAX: Final = 256
_PAUSE_S: Final = 0.05
_TRIES_MAX: Final = 8
_VERSION_MIN: Final = (6, 2)

builtin_timeout: Final = builtins.TimeoutError

_T = TypeVar("_T")

#: Encodes a command six times as fast as redis-py does; with the extra `fast`.
_pack_fast: Callable[..., Sequence[bytes]] | None = (
    HiredisRespSerializer().pack if HIREDIS_AVAILABLE else None
)


class RedisLink:
    """Runs the script and single commands on one server or on a cluster.

    `url`: `redis://`, `rediss://` or `unix://`; whether it is a cluster is found out. `deadline_s`:
    how long one command may take, with its retries. `script`: changes the texts of the scripts,
    for tests that need another clock in them.
    """

    def __init__(
        self, url: str | Sealed[str], *, deadline_s: float = 3.0, script: Adapt = as_shipped
    ) -> None:
        self.url: Final = sealed(url).reveal()
        del url
        self._scripts: Final = Scripts(script)
        self.clock: Final = ServerClock()
        self._deadline_s = deadline_s
        self._slots = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._idle: list[Connection] = []
        self._unbatched = 0
        self._queue: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._batcher: asyncio.Task[None] | None = None
        self._options: Final[dict[str, Any]] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": deadline_s,
            "protocol": 2,
        }
        self._client: Client | None = None
        self._was_opened = False
        self._is_opening = False
        self.is_cluster = False

    @property
    def client(self) -> Client:
        """The redis-py client. Raises `ConfigError` before `open`, else `StoreUnavailable`."""
        if self._client is not None:
            return self._client
        if not self._was_opened:
            raise ConfigError(
                "the store is not open; write `async with cfflow.connect(...) as cashier:`"
            )
        raise StoreUnavailable("the store is closed")

    async def open(self) -> None:
        """Connect, find out whether it is a cluster, and refuse a server that could lose keys.

        Raises `ConfigError`, `StoreUnavailable` or `StoreError`. If it does, the caller must still
        call `aclose`.
        """
        self._was_opened = self._is_opening = True
        try:
            await self._connect()
        finally:
            self._is_opening = False

    async def _connect(self) -> None:
        self._client = single = client_of(Redis, Sealed(self.url), self._options)
        unknown, about = "", {}
        try:
            about = await self._guarded(partial(_about, single))
        except TypeError as error:
            unknown = f"redis_url {shown(self.url)} has an unknown option: {error}"
        if unknown:
            # Raised here, outside: the frames of redis-py's own error show the options' values.
            raise ConfigError(unknown)
        self.is_cluster = bool(about.get("cluster_enabled"))
        if not self.is_cluster:
            self._check_server(about)
            await single.connection_pool.disconnect()
            return
        # redis-py hides why this fails: a missing right would look like a server without cluster.
        await self._guarded(partial(single.execute_command, "CLUSTER SLOTS"))
        self._client = cluster = client_of(RedisCluster, Sealed(self.url), self._options)
        await single.aclose()
        await self._guarded(cluster.initialize)
        for node in cluster.get_primaries():
            self._check_server(await self._guarded(partial(_about, cluster, node)))

    async def about(self) -> list[dict[str, Any]]:
        """Return the INFO of each primary.

        It has no `run_id` if this connection has no right to use INFO. It has `appendfsync` if this
        connection may read the server's configuration, which INFO does not show.
        """
        client = self.client
        primaries = client.get_primaries() if isinstance(client, RedisCluster) else [None]
        return [
            await self._guarded(partial(_about, client, node))
            | await self._guarded(partial(_setting, "appendfsync", client, node))
            for node in primaries
        ]

    def _check_server(self, about: dict[str, Any]) -> None:
        """Raise `ConfigError` for a server that evicts keys, is too old, or is a replica.

        A server that evicts drops payments when its memory is full.
        """
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
        if self._batcher is not None:
            self._batcher.cancel()
        if client is not None:
            await self._close_idle()
            await client.aclose()

    async def script(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run the script on the slot of `keys` and return its reply.

        Raises `StoreUnavailable` if there is no reply within the deadline. The script may run
        twice, so that must be harmless: every commit carries its token.
        """
        return await self._guarded(lambda: self._script_once(keys, args))

    async def replicated(
        self, keys: Sequence[str], args: Sequence[Any], replicas: int
    ) -> tuple[list[Any], int]:
        """Run the script, then wait on the same connection for so many replicas to have it.

        Returns the reply and how many replicas have it. It waits a third of the deadline at
        most.
        """
        return await self._guarded(lambda: self._replicated_once(keys, args, replicas))

    async def scripts(self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run the script for many partitions, in one round trip per node."""
        return await self._guarded(lambda: self._scripts_once(calls))

    async def command(self, *args: Any) -> Any:
        """Run one command that names a key, and return its reply."""
        return await self._guarded(lambda: self._once(*args))

    def _by_hash(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        return "EVALSHA", self._scripts.hash_of(args[0]), len(keys), *keys, *args

    def _by_text(self, keys: Sequence[str], args: Sequence[Any]) -> tuple[Any, ...]:
        return "EVAL", self._scripts.text_of(args[0]), len(keys), *keys, *args

    async def _script_once(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        asked_at_ms = monotonic_ms()
        try:
            reply = await self._once(*self._by_hash(keys, args))
        except NoScriptError:
            reply = await self._once(*self._by_text(keys, args))
        self.clock.adjust(reply[1], asked_at_ms, monotonic_ms())
        return cast("list[Any]", reply)

    async def _replicated_once(
        self, keys: Sequence[str], args: Sequence[Any], replicas: int
    ) -> tuple[list[Any], int]:
        asked_at_ms = monotonic_ms()
        wait = ("WAIT", replicas, round(self._deadline_s * 1000 / 3))
        reply, count = await self._exchange([self._by_hash(keys, args), wait])
        if isinstance(reply, NoScriptError):
            reply, count = await self._exchange([self._by_text(keys, args), wait])
        for error in (reply, count):
            if isinstance(error, Exception):
                raise error
        self.clock.adjust(reply[1], asked_at_ms, monotonic_ms())
        return reply, int(count)

    async def _scripts_once(
        self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]
    ) -> list[Any]:
        asked_at_ms = monotonic_ms()
        commands = [self._by_hash(keys, args) for keys, args in calls]
        if isinstance(self.client, RedisCluster):
            pipeline = self.client.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            replies = list(await pipeline.execute(raise_on_error=False))
        else:
            replies = await self._exchange(commands)
        if replies and isinstance(replies[0], list):
            self.clock.adjust(replies[0][1], asked_at_ms, monotonic_ms())
        for i, (keys, args) in enumerate(calls):
            if isinstance(replies[i], (NoScriptError, *_TEMPORARY)):
                # Sent by itself, it also finds the node to which a failover moved its slot.
                replies[i] = await self._script_once(keys, args)
            elif isinstance(replies[i], Exception):
                raise replies[i]
        return replies

    async def _once(self, *command: Any) -> Any:
        if isinstance(self.client, RedisCluster):
            return await self.client.execute_command(*command)
        reply = await self._send_one(command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _send_one(self, command: tuple[Any, ...]) -> Any:
        """Send one command to the one server; together with others if many wait at once.

        With a round trip of its own, each of many callers would pay for its own system calls.
        """
        if self._unbatched < _UNBATCHED_MAX:
            self._unbatched += 1
            try:
                return (await self._exchange([command]))[0]
            finally:
                self._unbatched -= 1
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, reply))
        if self._batcher is None:
            self._batcher = asyncio.create_task(self._send_batches())
        return await reply

    async def _send_batches(self) -> None:
        """Send all queued commands in one round trip, until the queue is empty."""
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                replies: Sequence[Any] = [ConnectionError("closed")] * len(batch)
                try:
                    async with asyncio.timeout(self._deadline_s):
                        replies = await self._exchange([command for command, _ in batch])
                except Exception as error:  # noqa: BLE001  every caller of the batch must get it
                    replies = [error] * len(batch)
                finally:
                    for (_, waiter), reply in zip(batch, replies, strict=True):
                        if not waiter.done():
                            waiter.set_result(reply)
        finally:
            self._batcher = None

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands to the one server and return their replies, in one round trip.

        It uses redis-py's connections without redis-py's pool, whose bookkeeping costs more
        than the exchange. A connection with unread replies is closed: its next caller would
        read the replies of this one.
        """
        pool = cast("Any", self.client).connection_pool
        connection = self._idle.pop() if self._idle else pool.make_connection()
        replies: list[Any] = []
        try:
            packed = [part for command in commands for part in _packed(connection, command)]
            await connection.send_packed_command(packed, check_health=False)
            while len(replies) < len(commands):
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        finally:
            if len(replies) == len(commands) and self._client is not None:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return replies

    async def _guarded(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Run a call within the deadline, retry temporary errors, and translate all others.

        A password or a certificate that is refused is a wrong setting while the store opens. Later
        it is `StoreUnavailable`: a gateway call may have been made, and only the errors of a store
        get to carry that.
        """
        place = shown(self.url)
        try:
            async with asyncio.timeout(self._deadline_s), self._slots:
                return await self._retried(call)
        except builtin_timeout:
            text = f"no reply from Redis at {place} in {self._deadline_s:g} s"
        except AuthenticationError as error:
            text = f"Redis at {place} refuses the password: {error}"
            if self._is_opening:
                raise ConfigError(text) from None
        except _TEMPORARY as error:
            problem = tls_problem(error)
            text = f"Redis at {place} cannot be reached: {problem or error}"
            if problem and self._is_opening:
                raise ConfigError(text) from None
        except RedisError as error:
            word = _refusal_word(error)
            if _is_no_right(error):
                commands = " or ".join(self._scripts.commands_at(str(error)))
                raise StoreUnavailable(not_permitted(self.url, commands, error)) from None
            if word is None:
                raise StoreError(f"Redis at {place}: {str(error)[:200]}") from None
            text = f"Redis at {place} {_REFUSALS[word]}"
        raise StoreUnavailable(text)

    async def _retried(self, call: Callable[[], Awaitable[_T]]) -> _T:
        failed = 0
        while True:
            try:
                return await call()
            except (RedisError, RedisClusterException, OSError) as error:
                failed += 1
                if failed > _TRIES_MAX or not _is_temporary(error):
                    raise
                await self._close_idle()
                await asyncio.sleep(_PAUSE_S * failed * random.uniform(0.5, 1.0))  # noqa: S311  jitter

    async def _close_idle(self) -> None:
        """Close idle connections: they may be broken too, or lead to a demoted primary."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


async def _about(client: Client, node: ClusterNode | None = None) -> dict[str, Any]:
    """Return INFO; without the right to use it, the part of it that HELLO has."""
    target = {} if node is None else {"target_nodes": node}
    try:
        return cast("dict[str, Any]", await client.execute_command("INFO", **target))
    except NoPermissionError:
        flat = await client.execute_command("HELLO", **target)
    hello = {str(name, "ascii"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return {
        "redis_version": hello["version"].decode(),
        "cluster_enabled": hello["mode"] == b"cluster",
        "role": "slave" if hello["role"] == b"replica" else hello["role"].decode(),
    }


async def _setting(name: str, client: Client, node: ClusterNode | None) -> dict[str, str]:
    """Return a setting of a server's; nothing for a user or a server that does not permit it."""
    target = {} if node is None else {"target_nodes": node}
    try:
        found = await client.execute_command("CONFIG GET", name, **target)
    except ResponseError:
        return {}
    return {name: str(found[name])} if name in found else {}


def _packed(connection: Connection, command: tuple[Any, ...]) -> Sequence[bytes]:
    if _pack_fast is None:
        return connection.pack_command(*command)
    return _pack_fast(*command)


def _is_temporary(error: Exception) -> bool:
    """Return whether the same command may succeed in a moment."""
    if isinstance(error, AuthenticationError) or tls_problem(error):
        return False
    return isinstance(error, _TEMPORARY) or _refusal_word(error) in {"READONLY", "BUSY"}


def _is_no_right(error: Exception) -> bool:
    return isinstance(error, NoPermissionError) or bool(_NO_RIGHT.search(str(error)))


def not_permitted(url: str, commands: str, error: Exception | None = None) -> str:
    """Return the text for a user of Redis who may not run commands, or reach their keys."""
    what = f"to run {commands}" if commands else "this"
    reply = f" ({str(error)[:160]})" if error else ""
    return (
        f"the Redis at {shown(url)} does not permit its user {what}{reply};"
        f" {_RIGHTS_PAGE} has the ACL line that cfflow needs"
    )


def tls_problem(error: Exception) -> str | None:
    """Return why no TLS connection can be made until a person acts; None for any other error.

    redis-py hides the cause behind an error of its own, and a certificate stays refused however
    often the connection is tried.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = _OWN_AUTHORITY if cause.verify_code in _UNKNOWN_ISSUER else ""
            return f"its certificate is refused: {cause.verify_message}{advice}"
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT):
            return f"TLS fails: {cause.reason or cause}"
        cause = cause.__cause__ or cause.__context__
    return None


def _refusal_word(error: Exception) -> str | None:
    """Return the word of a temporary refusal, None for another error; redis-py drops some words."""
    if isinstance(error, ReadOnlyError):
        return "READONLY"
    if isinstance(error, OutOfMemoryError):
        return "OOM"
    found = _REFUSED.search(str(error)) if isinstance(error, ResponseError) else None
    return found[0] if found else None
