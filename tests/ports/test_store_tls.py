"""`rediss://`: a certificate that is refused is named, and at once."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfflow.errors import ConfigError, StoreUnavailable
from cfflow.store.orders import Orders
from cfflow.store.redis.store import RedisStore
from tests.ports.orders_kit import begin
from tests.ports.servers import (
    Server,
    free_port,
    missing,
    redis7_binary,
    running,
    valkey_binary,
)

SECRET = "correct-horse-battery"

BOTH_LOOPS = True
AT_ONCE_S = 1.5


class Certificate:
    """A certificate that signs itself, with its key, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "cert.pem"
        self.key = folder / "key.pem"

    def make(self, name: str = "IP:127.0.0.1") -> Certificate:
        """Make another one for this subject, in the same place."""
        openssl = shutil.which("openssl")
        if openssl is None:
            missing("openssl is not installed")
        subject = ["-subj", "/CN=cfflow test", "-addext", f"subjectAltName={name}"]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(self.key), "-out", str(self.file)]
        command = [str(openssl), "req", "-x509", "-days", "9", *kind, *subject, *files]
        subprocess.run(command, capture_output=True, check=True)
        return self


class TlsServer(Server):
    """A Redis that takes TLS on a port of its own."""

    def __init__(self, folder: Path, certificate: Certificate, *more: str) -> None:
        self.tls_port = free_port()
        files = ("--tls-cert-file", certificate.file, "--tls-key-file", certificate.key)
        options = (*map(str, files), "--tls-ca-cert-file", str(certificate.file))
        ports = ("--tls-port", str(self.tls_port), "--tls-auth-clients", "no")
        super().__init__(redis7_binary(), folder, *options, *ports, *more)

    @property
    def tls_url(self) -> str:
        """Its URL for TLS."""
        return f"rediss://127.0.0.1:{self.tls_port}"


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A certificate for this machine that no authority signed."""
    return Certificate(tmp_path).make()


@pytest.fixture
def server(tmp_path: Path, certificate: Certificate) -> Iterator[TlsServer]:
    """A server with this certificate."""
    with running(TlsServer(tmp_path / "data", certificate)) as started:
        assert isinstance(started, TlsServer)
        yield started


async def refusal(url: str) -> str:
    """Return why a store is not opened: `ConfigError`, without a wait for the time limit."""
    store = RedisStore(url)
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        await store.open()
    assert time.monotonic() - began < AT_ONCE_S
    return str(refused.value)


async def test_a_certificate_that_no_authority_signed_is_named(
    server: TlsServer, certificate: Certificate
) -> None:
    """With the option that names its authority; with it, the store works."""
    error = await refusal(server.tls_url)
    assert server.tls_url in error
    assert "certificate is refused" in error and "self" in error and "ssl_ca_certs" in error
    store = RedisStore(f"{server.tls_url}?ssl_ca_certs={certificate.file}")
    await store.open()
    await begin(Orders(store))
    await store.aclose()


async def test_a_certificate_of_another_host_is_named(
    server: TlsServer, certificate: Certificate
) -> None:
    """Signed by an authority that is trusted here, for a name that is not in the URL."""
    certificate.make("DNS:redis.example")
    server.restart()
    error = await refusal(f"{server.tls_url}?ssl_ca_certs={certificate.file}")
    assert "certificate is refused" in error and "127.0.0.1" in error
    assert "mismatch" in error and "ssl_ca_certs" not in error


async def test_a_server_that_wants_a_certificate_of_ours_is_named(
    tmp_path: Path, certificate: Certificate
) -> None:
    """It refuses us: an alert of TLS, and no wait."""
    # With TLS 1.3 the alert comes after the handshake, and a reset may be faster than it.
    wants = ("--tls-auth-clients", "yes", "--tls-protocols", "TLSv1.2")
    with running(TlsServer(tmp_path / "data", certificate, *wants)) as server:
        assert isinstance(server, TlsServer)
        url = f"{server.tls_url}?ssl_ca_certs={certificate.file}"
        assert "TLS fails" in await refusal(url)
        ours = f"&ssl_certfile={certificate.file}&ssl_keyfile={certificate.key}"
        store = RedisStore(url + ours)
        await store.open()
        await store.aclose()


async def test_a_server_without_tls_is_named() -> None:
    """It replies in another language than TLS."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR unknown command\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(reply, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        assert "TLS fails" in await refusal(f"rediss://127.0.0.1:{port}")


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
async def test_a_file_of_the_url_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    """It would look like a server that is not there."""
    error = await refusal(f"rediss://127.0.0.1:1?{name}={tmp_path}/none.pem")
    assert "none.pem" in error and name in error


async def test_a_file_that_is_no_certificate_is_named(server: TlsServer, tmp_path: Path) -> None:
    """OpenSSL tells what it misses."""
    (tmp_path / "empty.pem").write_text("")
    error = await refusal(f"{server.tls_url}?ssl_ca_certs={tmp_path}/empty.pem")
    assert "TLS fails" in error


async def test_a_certificate_that_is_refused_later_is_unavailable(
    server: TlsServer, certificate: Certificate, tmp_path: Path
) -> None:
    """A call may have been made: only the errors of a store carry what that means for money."""
    trusted = tmp_path / "trusted.pem"
    shutil.copy(certificate.file, trusted)
    store = RedisStore(f"{server.tls_url}?ssl_ca_certs={trusted}")
    await store.open()
    await begin(Orders(store))
    certificate.make()
    server.restart()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="certificate is refused"):
        await Orders(store).load("order_1")
    assert time.monotonic() - began < AT_ONCE_S
    await store.aclose()


async def test_a_password_that_is_refused_later_is_unavailable(tmp_path: Path) -> None:
    """For the same reason: it was changed while this process runs."""
    with running(Server(valkey_binary(), tmp_path)) as server:
        store = RedisStore(server.url)
        await store.open()
        await begin(Orders(store))
        server.run("CONFIG", "SET", "requirepass", SECRET)
        server.options += ("--requirepass", SECRET)
        server.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(StoreUnavailable, match="refuses the password"):
            await Orders(store).load("order_1")
        await store.aclose()
