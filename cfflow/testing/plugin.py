"""The pytest plugin: fixtures for a checkout backend that tests its payment code.

It is loaded in every pytest run of an environment that has cfflow, so importing it imports
nothing but pytest: what a fixture needs is imported by that fixture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cfflow import Orchestrator, sync
    from cfflow.store.embedded import EmbeddedServer
    from cfflow.testing.cashfree import LocalCashfree
    from cfflow.testing.gateway_thread import GatewayThread

STORES = ("memory", "embedded")
#: Under either name: by its entry point, or by `-p` where entry points are switched off.
ASYNCIO = ("asyncio", "pytest_asyncio.plugin")
LOOP_SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the store of the `orchestrator` fixture."""
    meaning = "where the orchestrator fixture keeps payments: memory, or embedded (a real Valkey)"
    parser.getgroup("cfflow").addoption("--cfflow-store", choices=STORES, help=meaning)
    parser.addini("cfflow_store", meaning, default="memory")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the async fixtures with the plugin that runs async tests."""
    config.addinivalue_line("markers", "cashfree(**options): how the local gateway behaves")
    config.addinivalue_line("markers", "cfflow(store): memory or embedded, for this test")
    if _has_asyncio(config):
        config.pluginmanager.register(_fixtures_of_asyncio(), "cfflow-asyncio")


@pytest.fixture(scope="session")
def _cfflow_gateway() -> Iterator[GatewayThread]:
    """The gateway's socket, one for the whole run, in a thread of its own."""
    from cfflow.testing.gateway_thread import running_gateway

    with ExitStack() as stack:
        try:
            gateway = stack.enter_context(running_gateway())
        except ImportError as missing:
            pytest.fail(f"the fixture `cashfree`: {missing}", pytrace=False)
        yield gateway


@pytest.fixture
def cashfree(request: pytest.FixtureRequest, _cfflow_gateway: GatewayThread) -> LocalCashfree:
    """A local Cashfree on a real socket, empty for each test: faults, clock, ledger, webhooks.

    `@pytest.mark.cashfree(otp_settles_after_s=5, rate_limits="sandbox")` changes how it
    behaves. It takes the fields of `BankOptions`, and `rate_limits` and `seed`.
    """
    from cfflow.testing.cashfree import LocalCashfree

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("cashfree"))):
        options |= marker.kwargs
    return LocalCashfree(_cfflow_gateway, _cfflow_gateway.emulator(**options))


@pytest.fixture
def cfflow_settings() -> dict[str, Any]:
    """Further arguments of `cfflow.connect` for the orchestrators, such as `flows`: override it."""
    return {}


@pytest.fixture(scope="session")
def _cfflow_embedded(_cfflow_gateway: GatewayThread) -> Iterator[EmbeddedServer]:
    """A private Valkey, one for the whole run."""
    from cfflow.errors import ConfigError
    from cfflow.store.embedded import EmbeddedServer

    server = EmbeddedServer()
    try:
        _cfflow_gateway.wait(server.start)
    except ConfigError as missing:
        pytest.fail(f"the store `embedded`: {missing}", pytrace=False)
    yield server
    _cfflow_gateway.wait(server.stop)


@pytest.fixture
def _cfflow_settings(
    request: pytest.FixtureRequest, cashfree: LocalCashfree, cfflow_settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All arguments of `connect`, so that it reads no variable of the tester's environment."""
    from cfflow.connecting import VARIABLES
    from cfflow.testing.shared_time import GatewayTimeStore, embedded_store

    settings = {"api_version": VARIABLES["api_version"][1], **cashfree.settings}
    if _store_of(request) == "memory":
        yield settings | {"store": GatewayTimeStore(cashfree.clock.now_s)} | cfflow_settings
        return
    server = request.getfixturevalue("_cfflow_embedded")
    with embedded_store(server, cashfree.clock) as store:
        yield settings | {"store": store} | cfflow_settings


def _store_of(request: pytest.FixtureRequest) -> str:
    marker = request.node.get_closest_marker("cfflow")
    asked = marker.kwargs.get("store") if marker else None
    config = request.config
    chosen: str = asked or config.getoption("--cfflow-store") or config.getini("cfflow_store")
    if chosen not in STORES:
        pytest.fail(f"cfflow_store is {' or '.join(STORES)}, not {chosen!r}", pytrace=False)
    return chosen


@pytest.fixture
def orchestrator(request: pytest.FixtureRequest) -> Orchestrator:
    """An open `cfflow.Orchestrator` on the local gateway, its store on the gateway's clock.

    On memory, or on a real embedded Valkey: by `--cfflow-store`, the ini option
    `cfflow_store`, or `@pytest.mark.cfflow(store="embedded")`. For tests that pytest-asyncio
    runs, in either mode, and for those that anyio's plugin runs on asyncio.
    """
    opened: Orchestrator = request.getfixturevalue(f"_cfflow_orchestrator_{_loop_of(request)}")
    return opened


def _loop_of(request: pytest.FixtureRequest) -> str:
    """Return which loop runs the test: "anyio", or the scope of pytest-asyncio's loop."""
    if "anyio_backend" in request.fixturenames:
        return "anyio"
    if not _has_asyncio(request.config):
        text = "the fixture `orchestrator` needs pytest-asyncio or anyio's plugin"
        pytest.fail(f"{text}; without an event loop, use `sync_orchestrator`", pytrace=False)
    marker = request.node.get_closest_marker("asyncio")
    asked: str | None = marker.kwargs.get("loop_scope") if marker else None
    return asked or str(request.config.getini("asyncio_default_test_loop_scope"))


@pytest.fixture
async def _cfflow_orchestrator_anyio(
    _cfflow_settings: dict[str, Any],
) -> AsyncIterator[Orchestrator]:
    """The orchestrator on anyio's loop."""
    import cfflow

    async with cfflow.connect(**_cfflow_settings) as opened:
        yield opened


def _has_asyncio(config: pytest.Config) -> bool:
    return any(config.pluginmanager.hasplugin(name) for name in ASYNCIO)


def _fixtures_of_asyncio() -> ModuleType:
    """Return a plugin with the same fixture for each scope of pytest-asyncio's loops."""
    import pytest_asyncio

    def fixture_of(scope: Any) -> Any:
        @pytest_asyncio.fixture(loop_scope=scope)
        async def opened_there(_cfflow_settings: dict[str, Any]) -> AsyncIterator[Orchestrator]:
            import cfflow

            async with cfflow.connect(**_cfflow_settings) as opened:
                yield opened

        return opened_there

    fixtures = ModuleType("cfflow_asyncio_fixtures")
    for scope in LOOP_SCOPES:
        setattr(fixtures, f"_cfflow_orchestrator_{scope}", fixture_of(scope))
    return fixtures


@pytest.fixture
def sync_orchestrator(_cfflow_settings: dict[str, Any]) -> Iterator[sync.Orchestrator]:
    """An open `cfflow.sync` orchestrator on the local gateway, for blocking tests."""
    from cfflow import sync

    with sync.connect(**_cfflow_settings) as opened:
        yield opened
