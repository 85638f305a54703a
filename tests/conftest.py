"""Fixtures for the whole suite: real servers, one of each kind per xdist worker."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator

import pytest

from tests.ports.servers import (
    Cluster,
    Server,
    redis7_binary,
    running,
    valkey_binary,
)


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
