"""What must hold of a folder, its files and its socket before payments are kept there.

Other users of the machine must not read or change them, nor put a server of their own in place of
ours: it would get every payment and could return any state. Each error names the command that
mends it.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import struct
from pathlib import Path
from typing import Final, TextIO

from cfflow.errors import ConfigError

_OTHERS: Final = 0o077
_CREDENTIALS: Final = struct.Struct("3i")
_CONNECT_S: Final = 2.0


def make_folder(given: Path, folder: Path) -> None:
    """Make a folder that is only this user's, or check that the one that is there is.

    `given` is the path as a person wrote it, `folder` the one it leads to. Raises `ConfigError`
    for a symbolic link, another user's folder or content, or one that others may open.
    """
    if given.is_symlink():
        raise ConfigError(
            f"embedded:{given} is a symbolic link, and whoever made it can change it;"
            f" name the folder itself: embedded:{folder}"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found, user = folder.stat(), os.geteuid()
    if found.st_uid != user:
        raise ConfigError(
            f"embedded:{folder} belongs to user {found.st_uid}, and this process is of user {user};"
            f" name another folder, or take this one: sudo chown -R {user} {_quoted(folder)}"
        )
    if found.st_mode & _OTHERS:
        raise ConfigError(
            f"embedded:{folder} can be opened by other users (mode {found.st_mode & 0o777:o}):"
            f" chmod 700 {_quoted(folder)}"
        )
    for path in folder.iterdir():
        # Left there while the folder was still open to others.
        if path.lstat().st_uid != user:
            raise ConfigError(
                f"embedded:{folder} has {path.name}, of user {path.lstat().st_uid}: remove it,"
                f" rm -r {_quoted(path)}"
            )


def private_file(path: Path) -> TextIO:
    """Open a file to append to it, or make it. No other user may open it.

    Raises `ConfigError` for a symbolic link, which is not followed, and `OSError`.
    """
    return open(path, "a", opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        text = f"{path} is a symbolic link: remove it, rm {shlex.quote(path)}"
        raise ConfigError(text) from None
    # One that an older version made may be open to others.
    os.fchmod(descriptor, 0o600)
    return descriptor


def check_listener(path: str) -> None:
    """Raise `ConfigError` if a process of another user listens on a socket.

    Linux tells who listens. Elsewhere the owner and the mode of the folder have to do.
    """
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_S)
        connection.connect(path)
        found = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(found)
    if user != os.geteuid():
        raise ConfigError(
            f"a process of user {user} listens on {path}, and this process is of user"
            f" {os.geteuid()}; end it: sudo kill {pid}"
        )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
