"""The way out through a company's proxy: a tunnel, or a call that provably was not sent.

The proxy is a process of its own. The gateway behind it has TLS, checked through the tunnel.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import cfflow
from cfflow import ConfigError, GatewayUnavailable
from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.proxy import proxy_of
from cfflow.cashfree.transport import GatewaySockets
from cfflow.cli.doctor import examine
from cfflow.connecting import gateway_client, settings_of
from cfflow.core.sealed import Sealed
from cfflow.testing import MemoryStore
from tests.ports.gateway_kit import CARD, SESSION, KeptLog, a_gateway, answer
from tests.ports.test_transport import Server, http, serving, trusting_context

#: Read by conftest.py.
BOTH_LOOPS = True

PASSWORD = "hunter2-p%40ss"
PLAIN_PASSWORD = "hunter2-p@ss"
VARIABLES = ("CFFLOW_PROXY", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class RunningProxy:
    """The proxy's process: where it is, and what it was asked."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self._process = process

    def url(self, pair: str = "") -> str:
        """Its URL, with credentials."""
        return f"http://{pair}{'@' if pair else ''}127.0.0.1:{self.port}"

    async def asked(self) -> list[str]:
        """End it; the requests that it got."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        assert self._process.stdout is not None
        lines = await self._process.stdout.read()
        await self._process.wait()
        return lines.decode().splitlines()


@contextlib.asynccontextmanager
async def a_proxy(*arguments: str) -> AsyncIterator[RunningProxy]:
    """Run a proxy."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.ports.proxy_process", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    proxy = RunningProxy(int(await process.stdout.readline()), process)
    try:
        yield proxy
    finally:
        await proxy.asked()


def client_through(server: Server, proxy_url: str, **limits: float) -> GatewayClient:
    """A client that trusts the test's authority, through a proxy."""
    proxy = proxy_of(Sealed(proxy_url), server.url)
    return GatewayClient(
        GatewaySockets(server.url, ssl_context=trusting_context(), proxy=proxy),
        client_id="id",
        client_secret="a-secret-of-the-tests",
        environment=f"{server.url}/pg",
        timeout_s=limits.get("timeout_s", 10.0),
        log=KeptLog(),
    )


async def answers_json(_: Server, writer: asyncio.StreamWriter, seen: object) -> None:
    writer.write(http(b"{}"))


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_calls_go_through_one_tunnel_and_the_proxy_sees_the_name_only(tls: bool) -> None:
    """A gateway with TLS is verified through the tunnel; the connection is kept."""
    async with serving(answers_json, tls=tls) as server, a_proxy("tunnel") as proxy:
        async with client_through(server, proxy.url()) as client:
            for _ in range(3):
                await client.pay(SESSION, CARD)
        assert (server.accepted, len(server.requests)) == (1, 3)
        place = server.url.rpartition("//")[2]
        assert await proxy.asked() == [f"CONNECT {place} HTTP/1.1"]


async def test_a_proxy_that_wants_credentials_gets_them_and_nobody_else() -> None:
    """Percent-encoded in the URL, as URLs have them; the gateway never sees them."""
    async with (
        serving(answers_json, tls=True) as server,
        a_proxy("tunnel", f"user:{PLAIN_PASSWORD}") as proxy,
    ):
        async with client_through(server, proxy.url(f"user:{PASSWORD}")) as client:
            await client.pay(SESSION, CARD)
        assert b"proxy-authorization" not in server.requests[0].head.lower()
        async with client_through(server, proxy.url("user:wrong")) as client:
            with pytest.raises(GatewayUnavailable, match="nothing was sent"):
                await client.pay(SESSION, CARD)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "mode", ["refuse-407", "refuse-502", "refuse-301", "hang", "close", "garbage", "speak"]
)
async def test_a_proxy_that_makes_no_tunnel_never_sent_anything(mode: str) -> None:
    """Whatever it does instead: not a byte of the pay left."""
    async with serving(answers_json, tls=True) as server, a_proxy(mode) as proxy:
        async with client_through(server, proxy.url(f"user:{PASSWORD}"), timeout_s=1) as client:
            with pytest.raises(GatewayUnavailable, match="nothing was sent") as caught:
                await client.pay(SESSION, CARD)
        assert server.requests == []
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown


async def test_no_proxy_at_the_place_never_sent_anything() -> None:
    """It cannot be connected to, so nothing was sent."""
    async with serving(answers_json, tls=True) as server:
        async with client_through(server, "http://127.0.0.1:1") as client:
            with pytest.raises(GatewayUnavailable, match="nothing was sent"):
                await client.pay(SESSION, CARD)
        assert server.accepted == 0


async def test_a_gateway_without_a_trusted_certificate_is_refused_through_a_proxy_too() -> None:
    """A proxy that reads along has no certificate of the gateway's."""
    async with a_gateway(answer(200, {}), tls=True) as gateway, a_proxy("tunnel") as proxy:
        settings = settings_of(
            redis_url="redis://unused",
            client_id="id",
            client_secret=Sealed("a-secret-of-the-tests"),
            environment=gateway.base_url,
        )
        client = gateway_client(settings, KeptLog(), proxy=Sealed(proxy.url()))
        async with client:
            with pytest.raises(GatewayUnavailable, match="nothing was sent"):
                await client.pay(SESSION, CARD)
        assert gateway.requests == []
        assert len(await proxy.asked()) == 1


async def test_cancelled_at_any_step_a_tunnel_leaves_no_socket_open() -> None:
    """Also between the proxy's answer and the handshake."""
    async with serving(answers_json, tls=True) as server, a_proxy("tunnel") as proxy:
        open_before = _open_files()
        client = client_through(server, proxy.url())
        for steps in range(0, 60, 3):
            call = asyncio.create_task(client.fetch_order("order_1"))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
        await client.aclose()
        await asyncio.sleep(0.1)
        assert _open_files() <= open_before + 1


def _open_files() -> int:
    """How many this process has open; 0 where the system does not show it."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


# Which proxy

GATEWAY = "https://api.cashfree.com/pg"


@pytest.mark.parametrize(
    ("given", "environ", "base_url", "expected"),
    [
        (None, {}, GATEWAY, None),
        ("http://proxy:3128", {}, GATEWAY, "proxy:3128"),
        ("proxy:3128", {}, GATEWAY, "proxy:3128"),
        ("http://user:pw@proxy", {}, GATEWAY, "proxy:80"),
        ("http://[::1]:3128/", {}, GATEWAY, "[::1]:3128"),
        (None, {"CFFLOW_PROXY": "http://a:1"}, GATEWAY, "a:1"),
        (None, {"HTTPS_PROXY": "http://b:2"}, GATEWAY, "b:2"),
        (None, {"https_proxy": "http://c:3", "HTTPS_PROXY": "http://b:2"}, GATEWAY, "c:3"),
        ("http://p:9", {"CFFLOW_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}, GATEWAY, "p:9"),
        (None, {"CFFLOW_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}, GATEWAY, "a:1"),
        ("direct", {"CFFLOW_PROXY": "http://a:1"}, GATEWAY, None),
        (None, {"CFFLOW_PROXY": "direct", "HTTPS_PROXY": "http://b:2"}, GATEWAY, None),
        (None, {"HTTPS_PROXY": "http://b:2"}, "http://127.0.0.1:8000/pg", None),
        ("http://p:9", {}, "http://127.0.0.1:8000/pg", "p:9"),
        (None, {"HTTP_PROXY": "http://b:2", "ALL_PROXY": "http://b:2"}, GATEWAY, None),
        *(
            (None, {"HTTPS_PROXY": "http://b:2", "NO_PROXY": no}, GATEWAY, None)
            for no in ("*", "x, api.cashfree.com", ".cashfree.com", "*.CASHFREE.com")
        ),
        *(
            (None, {"HTTPS_PROXY": "http://b:2", "NO_PROXY": no}, GATEWAY, "b:2")
            for no in ("", ",", "free.com", "sandbox.cashfree.com", "api.cashfree.com:8443")
        ),
        (None, {"HTTPS_PROXY": "http://b:2", "no_proxy": "10.0.0.0/8"}, "https://10.1.2.3", None),
        (None, {"HTTPS_PROXY": "http://b:2", "no_proxy": "10.0.0.0/8"}, "https://11.1.2.3", "b:2"),
        ("http://p:9", {"NO_PROXY": "*"}, GATEWAY, "p:9"),
    ],
)
def test_which_proxy_is_used(
    given: str | None,
    environ: dict[str, str],
    base_url: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The argument, then CFFLOW_PROXY, then HTTPS_PROXY, which alone NO_PROXY limits."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = proxy_of(Sealed(given), base_url)
    assert (None if found is None else str(found)) == expected


UNFIT = [
    "socks5://user:hunter2@proxy:1080",
    "https://user:hunter2@proxy:3128",
    "http://user:hunter2@",
    "http://user:hunter2@proxy:port",
    "http://user:hunter2@proxy:99999",
    "http://user:hunter2@proxy:0",
    "http://user:hunter2@pro xy:3128",
    "http://user:hunter2@proxy:3128/path",
    "http://user:hunter2@[::1:3128",
    "hunter2://",
]


@pytest.mark.parametrize("url", UNFIT)
@pytest.mark.parametrize("by", ["argument", *VARIABLES[:2]])
def test_what_is_no_proxy_is_a_config_error_that_repeats_nothing(
    url: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error at `connect`, whose frames have no password either."""
    given: dict[str, Any] = {"proxy": url} if by == "argument" else {}
    if not given:
        monkeypatch.setenv(by, url)
    settings: dict[str, Any] = {"client_id": "id", "client_secret": "a-secret-of-the-tests"}
    with pytest.raises(ConfigError) as caught:
        cfflow.connect(store=MemoryStore(), environment="sandbox", **settings, **given)
    assert list(_shown(caught.value)) == []


def _shown(error: BaseException) -> Iterator[str]:
    """The texts with the password: of the error, its causes, and the variables of its frames."""
    seen: BaseException | None = error
    while seen is not None:
        shown = traceback.TracebackException.from_exception(seen, capture_locals=True)
        for frame in shown.stack:
            if Path(frame.filename).is_relative_to(Path(cfflow.__file__).parent):
                yield from (text for text in (frame.locals or {}).values() if "hunter2" in text)
        yield from (text for text in (str(seen), repr(seen)) if "hunter2" in text)
        seen = None if seen.__suppress_context__ and seen.__cause__ is None else seen.__context__


def test_no_repr_of_a_proxy_has_its_credentials() -> None:
    """Its place only."""
    proxy = proxy_of(Sealed("http://user:hunter2@proxy:3128"), GATEWAY)
    assert proxy is not None
    assert f"{proxy} {proxy!r}" == "proxy:3128 Proxy('proxy:3128')"
    assert "hunter2" not in repr(vars(proxy))


async def test_doctor_names_the_proxy_without_its_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it can be used is the gateway's finding."""
    monkeypatch.setenv("CFFLOW_PROXY", f"http://user:{PASSWORD}@127.0.0.1:1")
    monkeypatch.setenv("CASHFREE_CLIENT_ID", "id")
    monkeypatch.setenv("CASHFREE_CLIENT_SECRET", "a-secret-of-the-tests")
    monkeypatch.setenv("CASHFREE_ENVIRONMENT", "sandbox")
    found = await examine("redis://127.0.0.1:1")
    by_subject = {finding.subject: finding for finding in found}
    assert "through the proxy 127.0.0.1:1" in by_subject["settings"].detail
    assert by_subject["gateway"].verdict == "bad"
    assert "nothing was sent" in by_subject["gateway"].detail
    assert "hunter2" not in repr(found)


def test_a_transport_of_ones_own_and_a_proxy_are_a_config_error() -> None:
    """It has its own way to the gateway."""
    settings: dict[str, Any] = {"client_id": "id", "client_secret": "a-secret-of-the-tests"}
    for given in (
        {"transport": httpx.MockTransport(lambda _: httpx.Response(200)), "proxy": "http://a:1"},
        {"transport": httpx.AsyncClient()},
        {"proxy": 3128},
    ):
        with pytest.raises(ConfigError):
            cfflow.connect(store=MemoryStore(), environment="sandbox", **settings, **given)
