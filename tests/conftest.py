"""Fixtures for the whole suite: real servers, one of each kind per xdist worker."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.ports.servers import (
    Cluster,
    Server,
    redis7_binary,
    running,
    valkey_binary,
)

TESTS: Final = Path(__file__).parent
#: The files that take longest, longest first. A worker takes a file at a time: were one of these
#: begun late, the others would be idle while it ends.
LONGEST: Final = (
    "fuzz/test_fuzz.py",
    "sim/test_mutations.py",
    "sim/test_simulation.py",
    "ports/test_store_conformance.py",
    "crash/test_crash_matrix.py",
    "faces/test_pytest_plugin_runs.py",
    "faces/test_cli.py",
    "test_packaging.py",
    "faces/test_cli_recovery.py",
    "engine/test_retention.py",
    "crash/test_chaos.py",
    "crash/test_process_races.py",
    "faces/test_guides.py",
    "faces/test_sync.py",
    "ports/test_embedded_private.py",
    "engine/test_log_failures.py",
    "test_tidy.py",
    "core/test_schedule.py",
    "ports/test_feed.py",
    "ports/test_embedded.py",
    "faces/test_cli_feed.py",
)
_PLACES: Final = {TESTS / name: place for place, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; xdist hands files out in this order."""
    items.sort(key=lambda item: _PLACES.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Take all that was collected out of the garbage collector's sight.

    It lives as long as the process: without this, each full collection looks at the objects of ten
    thousand tests again, for half a second, also within a test that measures time.
    """
    gc.freeze()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey server of this worker."""
    with running(Server(valkey_binary(), tmp_path_factory.mktemp("valkey"))) as started:
        yield started


@pytest.fixture(scope="session")
def redis7_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis 7.0 server of this worker."""
    with running(Server(redis7_binary(), tmp_path_factory.mktemp("redis7"))) as started:
        yield started


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three masters of this worker."""
    binary = redis7_binary() if shutil.which("redis-server") else valkey_binary()
    folders = [tmp_path_factory.mktemp(f"node{i}") for i in range(3)]
    # With DEBUG a test gives a master another history of its data, as a failover would.
    debug = ("--enable-debug-command", "yes")
    started = Cluster([Server(binary, folder, *debug, cluster=True) for folder in folders])
    try:
        yield started.start()
    finally:
        started.kill()


@pytest.fixture
def redis_url(valkey_server: Server) -> str:
    """The URL of an empty Valkey server."""
    valkey_server.run("FLUSHALL")
    return valkey_server.url


@pytest.fixture
def redis7_url(redis7_server: Server) -> str:
    """The URL of an empty Redis 7.0 server."""
    redis7_server.run("FLUSHALL")
    return redis7_server.url


@pytest.fixture
def cluster_url(cluster: Cluster) -> str:
    """The URL of one node of an empty cluster."""
    for node in cluster.nodes:
        node.run("FLUSHALL")
    return cluster.url
