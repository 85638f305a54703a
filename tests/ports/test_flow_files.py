"""Flow texts from outside: files of every kind, and what lies in the store under a digest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import cfflow
from cfflow import FlowError
from cfflow.core.bounds import FLOW_MAX_B
from cfflow.core.flow import digest_of
from cfflow.store.catalog import Catalog, read_flow
from cfflow.store.redis.store import RedisStore
from tests.engine.shop import open_shop
from tests.faces.faces_kit import CFFLOW, environment
from tests.ports.servers import Server, running, valkey_binary

OWN = 'name = "own"\ncapture = "manual"\nmethods = ["card"]\n[hold]\non_expiry = "void"\n'


def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `cfflow` with a quarter of a gigabyte of address space more than it needs."""
    command = f"ulimit -v 1500000; exec '{CFFLOW}' \"$@\""
    return subprocess.run(
        ["/bin/bash", "-c", command, "cfflow", *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_device_without_an_end_is_no_flow() -> None:
    """It is not read at all: the memory of the machine is left alone."""
    done = limited("check", "/dev/zero")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "/dev/zero: not a regular file\n"


def test_a_pipe_without_a_writer_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Whether or not somebody writes into it later."""
    os.mkfifo(tmp_path / "flow.toml")
    done = limited("check", str(tmp_path / "flow.toml"))
    assert (done.returncode, done.stdout) == (1, f"{tmp_path}/flow.toml: not a regular file\n")
    with pytest.raises(FlowError, match="not a regular file"):
        Catalog([tmp_path])


def test_a_large_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    """A file of four gigabytes of holes costs what a small one costs."""
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        file.truncate(4 << 30)
    done = limited("check", str(path))
    assert (done.returncode, done.stderr) == (1, "")
    assert f"at most {FLOW_MAX_B} bytes" in done.stdout


@pytest.mark.parametrize("name", ["folder", "nowhere", "nul\0", "link"])
def test_what_is_no_file_is_a_flow_error(tmp_path: Path, name: str) -> None:
    """With the name of the file, and without an error of the system's."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(FlowError, match=str(tmp_path)):
        read_flow(tmp_path / name)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    """Deployments put files in place by links."""
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "link.toml").symlink_to(tmp_path / "own.toml")
    assert read_flow(tmp_path / "link.toml").name == "own"


async def test_a_stored_text_that_is_not_its_digest_s_is_no_flow(tmp_path: Path) -> None:
    """The payment gets no other rules than those it began with, and the error names it."""
    (tmp_path / "own.toml").write_text(OWN)
    with running(Server(valkey_binary(), tmp_path / "server")) as server:
        store = RedisStore(server.url)
        async with open_shop(store=store, flows=[tmp_path / "own.toml"]) as shop:
            payment = await shop.cashier.start("own", order_id="order_1")
            other = await shop.cashier.start("native_otp", order_id="order_2")
            place = ("HSET", store.keys.flows(store.keys.partition("order_1")))
            server.run(*place, digest_of(OWN.encode()), OWN.replace("void", "capture"))
            reader = cfflow.connect(
                redis_url=server.url,
                client_id=shop.emulator.client_id,
                client_secret=shop.emulator.client_secret,
                environment=shop.emulator.base_url,
                log=shop.events,
            )
            async with reader:
                for call in (reader.get, reader.why, reader.refresh, reader.capture):
                    with pytest.raises(FlowError, match=r"order_1\.1: .*has been changed"):
                        await call(payment.id)
                assert (await reader.get(other.id)).flow == "native_otp"
                server.run(*place, digest_of(OWN.encode()), OWN)
                assert (await reader.get(payment.id)).flow == "own"
