"""What `cfflow doctor` says of a server: what it can lose, its replicas, and who works on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfflow.connecting import open_store
from cfflow.testing.conformance.helpers import due
from cfflow.views.doctor import examine_store
from cfflow.views.durability import durability
from cfflow.views.finding import Finding
from tests.faces.faces_kit import run
from tests.ports.servers import Server, running, valkey_binary

pytestmark = pytest.mark.timeout(240)

WHO = "shop"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an append-only file."""
    folder = tmp_path_factory.mktemp("durable")
    with running(Server(valkey_binary(), folder, "--appendonly", "yes")) as started:
        yield started


def findings(url: str, *options: str) -> list[Finding]:
    """Return what doctor finds in a store; the settings of the gateway are missing."""
    done = run("doctor", "--json", *options, CFFLOW_REDIS_URL=url)
    return [Finding(**each) for each in json.loads(done.stdout)]


def of(found: list[Finding], subject: str) -> list[Finding]:
    """Return the findings about one subject."""
    return [each for each in found if each.subject == subject]


@pytest.mark.parametrize(
    ("policy", "verdict", "loses"),
    [
        ("no", "note", "up to 30 seconds"),
        ("everysec", "note", "one to two seconds"),
        ("always", "good", "nothing that was acknowledged"),
    ],
)
def test_each_policy_says_what_a_power_cut_loses(
    server: Server, policy: str, verdict: str, loses: str
) -> None:
    """INFO does not show it: it is read from the configuration."""
    server.run("CONFIG", "SET", "appendfsync", policy)
    (found,) = of(findings(server.url), "durability")
    assert found.verdict == verdict
    assert f"appendfsync {policy}:" in found.detail
    assert loses in found.detail


def test_a_user_who_may_not_read_the_policy_learns_of_all_three(server: Server) -> None:
    """The user of docs/guides/redis-user.md may not; doctor names the right, and goes on."""
    server.run("ACL", "SETUSER", WHO, "reset", "on", ">pw", "~cf:*", "+@all", "-config")
    (found,) = of(findings(server.url.replace("//", f"//{WHO}:pw@")), "durability")
    assert found.verdict == "note"
    assert all(text in found.detail for text in ("+config|get", "no loses", "everysec", "always"))


def test_a_stopped_replica_is_seen(server: Server, tmp_path: Path) -> None:
    """It is online for a minute to its primary, and has stopped to listen."""
    follows = ("--replicaof", f"127.0.0.1 {server.port}")
    with running(Server(valkey_binary(), tmp_path, *follows)) as replica:
        wait_for_lag(server, most=1)
        (found,) = of(findings(server.url, "--min-replicas", "1"), "replicas")
        assert (found.verdict, found.detail[:2]) == ("note", "1;")
        too_few = of(findings(server.url, "--min-replicas", "2"), "replicas")
        assert [each.verdict for each in too_few] == ["bad"]
        assert "nothing is sent" in too_few[0].detail
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            wait_for_lag(server, least=6)
            (stale,) = of(findings(server.url), "replicas")
            assert stale.verdict == "bad"
            assert f":{replica.port}" in stale.detail
            wanted = of(findings(server.url, "--min-replicas", "1"), "replicas")
            assert [each.verdict for each in wanted] == ["bad", "bad"]
        finally:
            os.kill(replica.pid, signal.SIGCONT)
    (gone,) = of(findings(server.url, "--min-replicas", "1"), "replicas")
    assert gone.detail.startswith("0 keep up")


def wait_for_lag(server: Server, *, least: int = 0, most: int = 60) -> None:
    """Wait until the one replica was last heard so many seconds ago."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        replica = server.run("INFO", "replication").get("slave0")
        if replica and replica["state"] == "online" and least <= replica["lag"] <= most:
            return
        time.sleep(0.1)
    raise AssertionError(server.run("INFO", "replication"))


@pytest.mark.parametrize("state", ["wait_bgsave", "send_bulk", "bg_transfer"])
def test_a_replica_that_is_not_online_has_nothing_yet(state: str) -> None:
    """It still loads: a failover to it loses more than the last second."""
    replica = {"ip": "10.0.0.2", "port": 6379, "state": state, "offset": 0, "lag": 0}
    about = {"aof_enabled": 1, "appendfsync": "always", "connected_slaves": 1, "slave0": replica}
    found = durability(about, min_replicas=0)
    assert [(each.verdict, each.subject) for each in found] == [
        ("good", "durability"),
        ("bad", "replicas"),
    ]
    assert state in found[1].detail


async def test_due_orders_on_which_nobody_works_are_bad(server: Server) -> None:
    """Whoever reads the report is told to start a worker."""
    server.run("FLUSHALL")
    store = open_store(server.url)
    await store.open()
    found = await examine_store(open_store(server.url, read_only=True))
    assert of(found, "workers") == []
    await due(store)
    await store.aclose()
    (found_due,) = of(await examine_store(open_store(server.url, read_only=True)), "workers")
    assert found_due.verdict == "bad"
    assert "1 orders are due" in found_due.detail
    assert "cfflow worker" in found_due.detail
    done = await asyncio.to_thread(run, "doctor", CFFLOW_REDIS_URL=server.url)
    assert done.returncode == 1
