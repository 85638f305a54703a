"""`embedded:` trusts no other user: folders, files, links and sockets of others are refused."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cfflow.connecting import open_store
from cfflow.errors import ConfigError
from cfflow.store.embedded import EmbeddedStore
from cfflow.store.orders import Orders
from tests.ports.orders_kit import begin
from tests.ports.test_embedded import alive, server_of

OTHER = 65_534
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SO_PEERCRED")

#: A process of another user that holds the folder's lock and listens on its socket.
IMPOSTOR = """
import fcntl, os, socket, sys
lock = open(f"{sys.argv[1]}/server.lock", "a")
fcntl.flock(lock, fcntl.LOCK_EX)
listener = socket.socket(socket.AF_UNIX)
listener.bind(f"{sys.argv[1]}/valkey.sock")
os.setuid(int(sys.argv[2]))
listener.listen()
print("listens", flush=True)
while True:
    connection, _ = listener.accept()
    while connection.recv(4096):
        connection.sendall(b"+PONG\\r\\n" * 4)
"""

#: A process of another user that wants to keep payments in a folder.
VISITOR = """
import os, sys
from pathlib import Path
from cfflow.errors import CfflowError
from cfflow.store.private import make_folder

os.setuid(int(sys.argv[2]))
try:
    make_folder(Path(sys.argv[1]), Path(sys.argv[1]))
except CfflowError as error:
    print(type(error).__name__, error)
"""


async def refusal(folder: Path) -> str:
    """Return why a folder is refused."""
    with pytest.raises(ConfigError) as refused:
        await EmbeddedStore(folder).open()
    return str(refused.value)


async def works(folder: Path) -> None:
    """Open and close a store in a folder."""
    store = EmbeddedStore(folder)
    await store.open()
    await begin(Orders(store))
    await store.aclose()


def mend(error: str) -> None:
    """Run the command that an error names."""
    command = re.search(r"(?:chmod|rm|sudo chown|sudo kill) .*", error)
    assert command is not None, error
    subprocess.run(shlex.split(command[0].removeprefix("sudo ")), check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of this user, with a name that a shell must see in quotes."""
    made = tmp_path / "my payments"
    made.mkdir(mode=0o700)
    return made


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750, 0o770, 0o701, 0o704, 0o1777])
async def test_a_folder_that_others_may_open_is_refused(folder: Path, mode: int) -> None:
    """Nothing is made in it; the command in the error mends it."""
    folder.chmod(mode)
    error = await refusal(folder)
    assert f"mode {mode & 0o777:o}" in error and list(folder.iterdir()) == []
    mend(error)
    await works(folder)


@ROOT
async def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    """Who owns it can change it at any time, whatever its mode is now."""
    os.chown(folder, OTHER, OTHER)
    error = await refusal(folder)
    assert f"belongs to user {OTHER}" in error and list(folder.iterdir()) == []
    mend(error)
    await works(folder)


@ROOT
def test_a_user_gets_no_folder_of_root_s() -> None:
    """Even one in which the user may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", VISITOR, folder, str(OTHER)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert list(Path(folder).iterdir()) == []
    assert done.stdout.startswith("ConfigError"), done.stderr
    assert f"belongs to user 0, and this process is of user {OTHER}" in done.stdout


@pytest.mark.parametrize("exists", [True, False])
async def test_a_symbolic_link_is_refused(tmp_path: Path, folder: Path, exists: bool) -> None:
    """Who made it can lead it elsewhere tomorrow; the error names the folder itself."""
    target = folder if exists else tmp_path / "nowhere"
    link = tmp_path / "link"
    link.symlink_to(target)
    error = await refusal(link)
    assert "symbolic link" in error and f"embedded:{target}" in error
    assert target.exists() is exists
    await works(target)


@ROOT
@pytest.mark.parametrize("name", ["lock", "server.lock", "valkey.sock", "valkey.log", "any"])
async def test_what_another_user_left_in_the_folder_is_refused(folder: Path, name: str) -> None:
    """It may be from the time when the folder was open to others."""
    (folder / name).touch()
    os.chown(folder / name, OTHER, OTHER)
    error = await refusal(folder)
    assert name in error and str(OTHER) in error
    mend(error)
    await works(folder)


@pytest.mark.parametrize("name", ["lock", "server.lock"])
async def test_a_lock_that_is_a_link_is_not_followed(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """The file that it leads to is not touched."""
    (folder / name).symlink_to(tmp_path / "made")
    error = await refusal(folder)
    assert "symbolic link" in error and not (tmp_path / "made").exists()
    mend(error)
    await works(folder)


async def test_all_files_are_of_this_user_alone(folder: Path) -> None:
    """Whatever this process's mask is: locks, log, socket and data; older ones are closed too."""
    before = os.umask(0)
    try:
        (folder / "lock").touch(0o644)
        store = EmbeddedStore(folder)
        await store.open()
        await begin(Orders(store))
        modes = {str(path): path.lstat().st_mode & 0o777 for path in folder.rglob("*")}
        await store.aclose()
    finally:
        os.umask(before)
    assert len(modes) > 6
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}


@pytest.fixture
def impostor(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another user's process that listens on the folder's socket."""
    process = subprocess.Popen(
        [sys.executable, "-c", IMPOSTOR, str(folder), str(OTHER)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listens\n"
    yield process
    process.kill()
    process.communicate()


@ROOT
@LINUX
async def test_a_server_of_another_user_is_refused(
    folder: Path, impostor: subprocess.Popen[str]
) -> None:
    """It answers like a server, and the folder is right: the kernel tells whose it is."""
    error = await refusal(folder)
    assert f"process of user {OTHER}" in error
    assert error.endswith(f"sudo kill {impostor.pid}")
    mend(error)
    impostor.wait(timeout=10)
    await works(folder)


# without a folder


OWNER = """
import asyncio, sys
from cfflow.connecting import open_store

async def main():
    store = open_store("embedded:")
    await store.open()
    about = await store.link.client.info("server")
    print(about["process_id"], store.server.folder, flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""


def an_owner(place: Path) -> subprocess.Popen[str]:
    """Start a process that opens `embedded:`; its temporary files are in this place."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    )


def a_fork() -> int:
    """Start a copy of this process that only sleeps, for half a minute at most."""
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    return child


async def soon(reached: Callable[[], bool]) -> bool:
    """Wait until something is so, ten seconds at most."""
    for _ in range(200):
        if reached():
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.mark.parametrize("how", ["kill", "terminate", "exit"])
async def test_without_a_folder_nothing_outlives_its_process(tmp_path: Path, how: str) -> None:
    """SIGKILL, a signal, or an end without `aclose`: the server ends and its folder goes."""
    place = tmp_path / ("t" * 110)
    place.mkdir()
    owner = an_owner(place)
    assert owner.stdout is not None
    pid, _, folder = owner.stdout.readline().strip().partition(" ")
    assert alive(int(pid)) and Path(folder).parent == place
    links = [path for path in Path("/tmp").glob("cfflow-*") if path.is_symlink()]  # noqa: S108  where links to long paths are
    ours = [path for path in links if str(path.readlink()) == folder]
    assert len(ours) == 1
    if how == "exit":
        owner.communicate("\n", timeout=20)
    else:
        getattr(owner, how)()
        owner.communicate(timeout=20)
    assert await soon(lambda: not alive(int(pid)) and not Path(folder).exists())
    # The link goes after the folder that it leads to.
    assert await soon(lambda: not ours[0].is_symlink())


async def test_a_stopped_server_without_a_folder_ends_too() -> None:
    """One that does not respond is killed like any other."""
    store = open_store("embedded:")
    assert isinstance(store, EmbeddedStore)
    await store.open()
    pid = await server_of(store)
    os.kill(pid, signal.SIGSTOP)
    await store.aclose()
    assert not alive(pid) and not store.server.folder.exists()


async def test_a_forked_process_keeps_nothing_alive() -> None:
    """It has a copy of the pipe to the watcher; closing the store ends the server all the same."""
    store = open_store("embedded:")
    assert isinstance(store, EmbeddedStore)
    await store.open()
    pid = await server_of(store)
    child = a_fork()
    try:
        async with asyncio.timeout(10):
            await store.aclose()
        assert not alive(pid) and not store.server.folder.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, child, 0)
