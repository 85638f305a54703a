"""The connection to Redis: runs the script and single commands, with its own deadline and retries.

redis-py would retry by itself and hide what happened, so its retries are off. A script whose
reply was lost is sent again with the same token. "ok" then means that the commit is stored,
whichever of the two runs stored it.
"""

from __future__ import annotations

import asyncio
import builtins
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection as Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)

from cfflow.core.sealed import Sealed, sealed
from cfflow.errors import ConfigError, StoreError, StoreUnavailable
from cfflow.store.clock import ServerClock, monotonic_ms
from cfflow.store.redis.failures import (
    REFUSALS,
    TEMPORARY,
    is_no_right,
    is_temporary,
    not_permitted,
    refusal_word,
    tls_problem,
)
from cfflow.store.redis.scripts import Adapt, Scripts, as_shipped
from cfflow.store.redis.shared import Command, SharedConnection
from cfflow.store.redis.url import Client, client_of, shown

_CONNECTIONS_MAX: Final = 256
_PAUSE_S: Final = 0.05
_TRIES_MAX: Final = 8
_VERSION_MIN: Final = (6, 2)

builtin_timeout: Final = builtins.TimeoutError

_T = TypeVar("_T")


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
        self._shared: dict[str, SharedConnection] = {}
        self._idle: dict[str, list[Connection]] = {}
        #: Nodes of a cluster that gave no reply: until one comes, redis-py finds who has a slot.
        self._doubted: set[str] = set()
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
        shared, self._shared = self._shared, {}
        for each in shared.values():
            await each.aclose()
        if client is not None:
            await self._close_idle()
            await client.aclose()

    async def script(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """Run the script on the slot of `keys` and return its reply.

        Raises `StoreUnavailable` if there is no reply within the deadline. The script may run
        twice, so that must be harmless: every commit carries its token.
        """
        began_s, asked_at_ms = asyncio.get_running_loop().time(), monotonic_ms()
        place, reply = self._place_of(keys[0]), None
        if place is not None:
            reply = await self._shared_at(place).ask(self._by_hash(keys, args))
            self._doubt(place, reply)
            if type(reply) is list:
                self.clock.adjust(reply[1], asked_at_ms, monotonic_ms())
                return reply
            if isinstance(reply, TimeoutError):
                raise self._no_reply()

        async def further() -> list[Any]:
            nonlocal reply
            first, reply = reply, None
            # A script that failed on its way may have written: only what is temporary is repeated.
            if isinstance(first, Exception) and not isinstance(first, (NoScriptError, AskError)):
                raise first
            return await self._script_once(keys, args)

        return await self._guarded(further, began_s)

    async def replicated(
        self, keys: Sequence[str], args: Sequence[Any], replicas: int
    ) -> tuple[list[Any], int]:
        """Run the script, then wait on the same connection for so many replicas to have it.

        Returns the reply and how many replicas have it. It waits a third of the deadline at
        most.
        """
        return await self._guarded(lambda: self._replicated_once(keys, args, replicas))

    async def check_wait(self) -> None:
        """Wait for no replica, on each primary: a user who may not run WAIT learns it now."""
        await self._guarded(self._check_wait_once)

    async def scripts(
        self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]], *, are_long: bool = False
    ) -> list[Any]:
        """Run the script for many partitions, in one round trip per node.

        `are_long`: the replies may be long, so that they come over connections of their own.
        """
        if len(calls) == 1 and not are_long:
            return [await self.script(*calls[0])]
        return await self._guarded(lambda: self._scripts_once(calls, are_long=are_long))

    async def command(self, *args: Any) -> Any:
        """Run one command that names a key, and return its reply."""
        return await self._guarded(lambda: self._once(args))

    def _by_hash(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        return "EVALSHA", self._scripts.hash_of(args[0]), len(keys), *keys, *args

    def _by_text(self, keys: Sequence[str], args: Sequence[Any]) -> Command:
        return "EVAL", self._scripts.text_of(args[0]), len(keys), *keys, *args

    async def _script_once(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        asked_at_ms = monotonic_ms()
        try:
            reply = await self._once(self._by_hash(keys, args), keys[0])
        except NoScriptError:
            reply = await self._once(self._by_text(keys, args), keys[0])
        self.clock.adjust(reply[1], asked_at_ms, monotonic_ms())
        return cast("list[Any]", reply)

    async def _replicated_once(
        self, keys: Sequence[str], args: Sequence[Any], replicas: int
    ) -> tuple[list[Any], int]:
        place = self._place_of(keys[0])
        if place is None:
            place = await self._place_found(keys[0])
        asked_at_ms = monotonic_ms()
        wait = ("WAIT", replicas, round(self._deadline_s * 1000 / 3))
        reply, count = await self._exchange(place, [self._by_hash(keys, args), wait])
        if isinstance(reply, NoScriptError):
            reply, count = await self._exchange(place, [self._by_text(keys, args), wait])
        if isinstance(reply, AskError):
            place = await self._place_found(keys[0])
            reply, count = await self._exchange(place, [self._by_text(keys, args), wait])
        for error in (reply, count):
            if isinstance(error, Exception):
                raise error
        self.clock.adjust(reply[1], asked_at_ms, monotonic_ms())
        return reply, int(count)

    async def _check_wait_once(self) -> None:
        client = self.client
        places = [""]
        if isinstance(client, RedisCluster):
            places = [node.name for node in client.get_primaries()]
        for place in places:
            (reply,) = await self._exchange(place, [("WAIT", 0, 0)])
            if isinstance(reply, Exception):
                raise reply

    async def _scripts_once(
        self, calls: Sequence[tuple[Sequence[str], Sequence[Any]]], *, are_long: bool
    ) -> list[Any]:
        asked_at_ms = monotonic_ms()
        numbers: dict[str | None, list[int]] = {}
        for i, (keys, _) in enumerate(calls):
            numbers.setdefault(self._place_of(keys[0]), []).append(i)
        # Sent by itself, each of these finds the node to which a failover moved its slot.
        replies: dict[int, Any] = dict.fromkeys(numbers.pop(None, ()))
        ask = self._asked_apart if are_long else self._asked
        found = await asyncio.gather(
            *(
                ask(place or "", [self._by_hash(*calls[i]) for i in its])
                for place, its in numbers.items()
            )
        )
        for its, answers in zip(numbers.values(), found, strict=True):
            replies.update(zip(its, answers, strict=True))
        if replies and isinstance(replies[0], list):
            self.clock.adjust(replies[0][1], asked_at_ms, monotonic_ms())
        for i, reply in replies.items():
            if reply is None or isinstance(reply, (NoScriptError, AskError, *TEMPORARY)):
                replies[i] = await self._script_once(*calls[i])
            elif isinstance(reply, Exception):
                raise reply
        return [replies[i] for i in range(len(calls))]

    async def _once(self, command: Command, key: str | None = None) -> Any:
        """Run one command; without its `key` redis-py finds the node of a cluster."""
        place = self._place_of(key)
        if place is None:
            return await self._found(command, key)
        reply = await self._shared_at(place).ask(command)
        self._doubt(place, reply)
        if isinstance(reply, AskError):
            return await self._found(command, key)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _asked(self, place: str, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, errors too, over the connection that all callers share."""
        replies = await self._shared_at(place).replies(commands)
        for reply in replies:
            self._doubt(place, reply)
        return replies

    def _shared_at(self, place: str) -> SharedConnection:
        """Return the connection to a node that all callers share."""
        shared = self._shared.get(place)
        if shared is None:
            made = partial(self._made, place)
            shared = self._shared[place] = SharedConnection(made, self._deadline_s)
        return shared

    def _doubt(self, place: str, reply: object) -> None:
        """Doubt a node of a cluster that gave no reply."""
        if place and isinstance(reply, TEMPORARY):
            self._doubted.add(place)

    async def _asked_apart(self, place: str, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, errors too, over a connection of their own."""
        try:
            return await self._exchange(place, commands)
        except TEMPORARY as error:
            return [error] * len(commands)

    async def _exchange(self, place: str, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies, in one round trip over an own connection.

        It uses redis-py's connections without redis-py's pool, whose bookkeeping costs more
        than the exchange. A connection with unread replies is closed: its next caller would
        read the replies of this one.
        """
        idle = self._idle.setdefault(place, [])
        connection = idle.pop() if idle else self._made(place)
        replies: list[Any] = []
        try:
            parts = map(hiredis.pack_command, commands)
            await connection.send_packed_command(parts, check_health=False)
            while len(replies) < len(commands):
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        except TEMPORARY:
            self._doubted.add(place)
            raise
        finally:
            if len(replies) == len(commands) and self._client is not None:
                idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return replies

    def _place_of(self, key: str | None) -> str | None:
        """Return the name of the node that has a key; None where redis-py must find it out.

        The only server has the name "".
        """
        client = self.client
        if not self.is_cluster:
            return ""
        if key is None:
            return None
        try:
            node = cast("RedisCluster", client).get_node_from_key(key)
        except SlotNotCoveredError:
            return None
        return None if node is None or node.name in self._doubted else str(node.name)

    async def _found(self, command: Command, key: str | None) -> Any:
        """Run a command on the node of a cluster that redis-py finds.

        It follows a slot that has moved, and asks the nodes anew who has which when one is gone.
        """
        reply = await self.client.execute_command(*command)
        if key is not None:
            node = cast("RedisCluster", self.client).get_node_from_key(key)
            self._doubted.discard("" if node is None else node.name)
        return reply

    async def _place_found(self, key: str) -> str:
        """Return the name of the node that has a key, as redis-py has found it out now."""
        await self._found(("EXISTS", key), key)
        place = self._place_of(key)
        if place is None:
            raise TryAgainError(f"no node has {key}")
        return place

    def _made(self, place: str) -> Connection:
        """Return a connection to a node that is not open yet."""
        client = cast("Any", self.client)
        if not place:
            return cast("Connection", client.connection_pool.make_connection())
        node = client.get_node(node_name=place)
        options = node.connection_kwargs | {"retry": self._options["retry"]}
        return cast("Connection", node.connection_class(**options))

    async def _guarded(self, call: Callable[[], Awaitable[_T]], began_s: float | None = None) -> _T:
        """Run a call within the deadline, retry temporary errors, and translate all others.

        `began_s`: the loop's time from which the deadline counts, by default now.

        A password or a certificate that is refused is a wrong setting while the store opens. Later
        it is `StoreUnavailable`: a gateway call may have been made, and only the errors of a store
        get to carry that.
        """
        place = shown(self.url)
        began_s = asyncio.get_running_loop().time() if began_s is None else began_s
        try:
            async with asyncio.timeout_at(began_s + self._deadline_s), self._slots:
                return await self._retried(call)
        except builtin_timeout:
            raise self._no_reply() from None
        except AuthenticationError as error:
            text = f"Redis at {place} refuses the password: {error}"
            if self._is_opening:
                raise ConfigError(text) from None
        except TEMPORARY as error:
            problem = tls_problem(error)
            text = f"Redis at {place} cannot be reached: {problem or error}"
            if problem and self._is_opening:
                raise ConfigError(text) from None
        except RedisError as error:
            word = refusal_word(error)
            if is_no_right(error):
                commands = " or ".join(self._scripts.commands_at(str(error)))
                raise StoreUnavailable(not_permitted(self.url, commands, error)) from None
            if word is None:
                raise StoreError(f"Redis at {place}: {str(error)[:200]}") from None
            text = f"Redis at {place} {REFUSALS[word]}"
        raise StoreUnavailable(text)

    def _no_reply(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"no reply from Redis at {shown(self.url)} in {self._deadline_s:g} s"
        )

    async def _retried(self, call: Callable[[], Awaitable[_T]]) -> _T:
        failed, loop = 0, asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                return await call()
            except (RedisError, RedisClusterException, OSError) as error:
                failed += 1
                if failed > _TRIES_MAX or not is_temporary(error):
                    raise
                for shared in self._shared.values():
                    shared.retire(began_s)
                await self._close_idle()
                await asyncio.sleep(_PAUSE_S * failed * random.uniform(0.5, 1.0))  # noqa: S311  jitter

    async def _close_idle(self) -> None:
        """Close idle connections: they may be broken too, or lead to a demoted primary."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
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
