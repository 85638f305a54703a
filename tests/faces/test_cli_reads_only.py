"""The commands that read write nothing: not even whose store it is, into an empty Redis."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cfflow
from cfflow.connecting import open_reader, open_store
from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import CFFLOW, Till, environment, run, spawn
from tests.ports.servers import Server, running, valkey_binary

pytestmark = pytest.mark.timeout(240)

#: Each command that reads, and its exit status on an empty Redis.
READERS = {
    ("doctor",): {0, 1},
    ("status",): {1},
    ("status", "--json"): {1},
    ("list",): {0},
    ("list", "--review"): {0},
    ("list", "--order", "order_1"): {0},
    ("show", "order_1.1"): {1},
    ("why", "order_1.1"): {1},
    ("graph", "--payment", "order_1.1"): {1},
    ("events", "mailer"): {0},
    ("events", "mailer", "--now"): {0},
    ("events", "mailer", "--forget"): {0},
    ("check", "flows/upi.toml"): {0},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these tests alone."""
    with running(Server(valkey_binary(), tmp_path_factory.mktemp("empty"))) as started:
        yield started


@pytest.fixture
def empty(server: Server) -> Server:
    """The server, without any key."""
    server.run("FLUSHALL")
    return server


def size(server: Server) -> int:
    """Return how many keys a server has."""
    return int(server.run("DBSIZE"))


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_command_that_reads_writes_nothing_into_an_empty_redis(
    empty: Server, bank: EmulatorProcess, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Whatever the settings of the gateway are; with the store's first key it would be a store."""
    settings = Till(bank, tmp_path).settings | {"CFFLOW_REDIS_URL": empty.url}
    done = run(*command, **settings)
    assert done.returncode in READERS[command], done.stderr
    assert size(empty) == 0


def test_a_follower_of_an_empty_redis_waits_for_the_store(empty: Server) -> None:
    """It registers its group only where a store is."""
    with subprocess.Popen(
        [str(CFFLOW), "events", "mailer", "--follow", "--json"],
        env=environment(CFFLOW_REDIS_URL=empty.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        with pytest.raises(subprocess.TimeoutExpired):
            follower.wait(timeout=3)
        assert size(empty) == 0
        follower.send_signal(signal.SIGINT)


async def test_a_reader_finds_the_store_that_another_process_makes_later(empty: Server) -> None:
    """One that was opened before the first process of the deployment."""
    async with open_reader(empty.url) as reader:
        assert await reader.find(order_id="order_1") == []
        with pytest.raises(cfflow.PaymentNotFound):
            await reader.get("order_1.1")
        async with cfflow.connect(
            redis_url=empty.url,
            client_id="a",
            client_secret="16-characters-min",
            environment="sandbox",
        ) as cashier:
            await cashier.start("upi", order_id="order_1", amount="1.00")
        assert (await reader.get("order_1.1")).order_id == "order_1"
        empty.run("FLUSHALL")
        with pytest.raises(cfflow.StoreReplaced):
            await reader.get("order_1.1")


async def test_a_reader_takes_over_the_name_that_the_partitions_have(empty: Server) -> None:
    """As after the loss of one master of a cluster: nothing is repaired by reading."""
    store = open_store(empty.url)
    await store.open()
    name = store.control.store_id
    await store.aclose()
    empty.run("DEL", "cf:meta")
    before = size(empty)
    reading = open_store(empty.url, read_only=True)
    await reading.open()
    assert (reading.control.store_id, list(await reading.read(["order_1"]))) == (name, [])
    await reading.aclose()
    assert size(empty) == before


def test_the_number_of_partitions_is_compared_when_reading(empty: Server) -> None:
    """A reader with another number would look for orders in other places."""

    async def made() -> None:
        store = open_store(empty.url, partitions=16)
        await store.open()
        await store.aclose()

    asyncio.run(made())
    done = spawn("list", CFFLOW_REDIS_URL=empty.url)
    assert (done.returncode, "16 partitions" in done.stderr) == (1, True)
