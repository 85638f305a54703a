"""Running the emulator: its own process, its end, its port, and its imports."""

from __future__ import annotations

import ast
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import cfflow.emulator
from cfflow.emulator import BankOptions, EmulatorProcess, running_emulator, serve
from cfflow.emulator.__main__ import main
from tests.emulator.emulator_kit import order_body
from tests.faces.faces_kit import environment

PACKAGE = Path(cfflow.emulator.__file__).parent
EVERYWHERE = "0.0.0.0"  # noqa: S104  a host that a user may ask for
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def test_a_process_serves_until_it_is_stopped() -> None:
    """It prints its address, accepts its credentials, and ends with status 0."""
    process = EmulatorProcess(client_id="mine", client_secret="secret")
    with process:
        headers = {
            "x-api-version": "2025-01-01",
            "x-client-id": "mine",
            "x-client-secret": "secret",
        }
        response = httpx.post(f"{process.base_url}/orders", headers=headers, json=order_body())
        assert response.status_code == 200
        assert httpx.get(f"{process.admin_url}/health").json()["status"] == "ok"
        assert process.stop() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.admin_url}/health")


async def test_a_process_takes_options_and_is_an_async_context_too() -> None:
    """The options reach the bank in the other process."""
    options = BankOptions(order_s=60.0)
    async with EmulatorProcess(options=options) as process, httpx.AsyncClient() as http:
        headers = {
            "x-api-version": "2025-01-01",
            "x-client-id": process.client_id,
            "x-client-secret": process.client_secret,
        }
        body = order_body(order_id="expires")
        await http.post(f"{process.base_url}/orders", headers=headers, json=body)
        await http.post(f"{process.admin_url}/clock", json={"advance_s": 61})
        order = (await http.get(f"{process.base_url}/orders/expires", headers=headers)).json()
        assert order["order_status"] == "EXPIRED"


@POSIX
def test_a_process_ends_with_its_parent() -> None:
    """A parent that is killed cannot stop it, but it ends."""
    script = (
        "import time\n"
        "from cfflow.emulator import EmulatorProcess\n"
        "emulator = EmulatorProcess().start()\n"
        "print(emulator.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(child)


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0(number: signal.Signals) -> None:
    """Both signals end it cleanly and print nothing on stderr."""
    command = [sys.executable, "-m", "cfflow.emulator"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert b"http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(number)
    _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, b"")


def test_a_used_port_is_an_error_before_the_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`serve` raises `OSError`; the command prints one sentence and ends with status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            serve(port=port, announce=lambda _: pytest.fail("it announced itself"))
        assert main(["--port", str(port)]) == 1
    assert "cannot listen" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["cfflow", "cfflow.emulator"])
@pytest.mark.parametrize(("host", "warns"), [(EVERYWHERE, True), ("127.0.0.1", False)])
def test_a_host_for_the_network_is_warned_about(module: str, host: str, warns: bool) -> None:
    """On standard error: programs read the other one."""
    command = [sys.executable, "-m", module, *(["emulator"] if module == "cfflow" else [])]
    with subprocess.Popen(
        [*command, "--host", host, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline().startswith("{")
        finally:
            process.terminate()
        complaints = process.stderr.read()
    assert ("anybody in the network" in complaints) is warns
    assert warns or complaints == ""


def test_an_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and the error has the name of the option."""
    with pytest.raises(SystemExit, match="2"):
        main(["--options", '{"speed": 1}'])
    assert "speed" in capsys.readouterr().err


async def test_two_emulators_run_side_by_side_and_share_nothing() -> None:
    """Two on one event loop have their own ports and banks."""
    async with running_emulator() as one, running_emulator(seed=1) as two:
        assert one.base_url != two.base_url
        one.clock.advance(60)
        assert two.clock.offset_s == 0


async def test_a_response_does_not_wait_for_an_acknowledgement() -> None:
    """Nagle's algorithm must be off on every event loop: it costs 40 ms a response."""
    async with running_emulator() as emulator, httpx.AsyncClient() as http:
        took_s = []
        for _ in range(15):
            started = time.perf_counter()
            await http.get(f"{emulator.base_url}/orders/none")
            took_s.append(time.perf_counter() - started)
    assert statistics.median(took_s) < 0.035


async def test_a_delayed_call_does_not_delay_the_shutdown() -> None:
    """Stopping ends the delay."""
    started = time.monotonic()
    async with running_emulator() as emulator, httpx.AsyncClient() as http:
        emulator.faults.add(cfflow.emulator.Fault(call="any", kind="delay_before", delay_s=60))
        headers = {"x-api-version": "2025-01-01"}
        with pytest.raises(httpx.ReadTimeout):
            await http.post(
                f"{emulator.base_url}/orders/sessions", headers=headers, json={}, timeout=0.1
            )
    assert time.monotonic() - started < 5


def test_without_its_packages_the_import_names_the_extra() -> None:
    """The message has the command that installs it."""
    script = "import sys; sys.modules['starlette'] = None; import cfflow.emulator"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert b"ImportError" in done.stderr and b"pip install 'cfflow[emulator]'" in done.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_the_emulator_imports_nothing_of_cfflow(path: Path) -> None:
    """If it shared cfflow's code, it would share its bugs."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert not name.startswith("cfflow") or name.startswith("cfflow.emulator"), name


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not _runs(pid):
            return
        time.sleep(0.05)
    pytest.fail("the emulator outlived its parent")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # In a container no parent may collect the process, but a zombie has ended too.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
