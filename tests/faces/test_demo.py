"""`cfflow demo`, once, with nothing around it: what a newcomer runs first."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.faces.faces_kit import CFFLOW

pytestmark = pytest.mark.timeout(240)

#: What the demo promises to take at most.
LIMIT_S = 60
STATES = ["captured", "captured", "voided", "captured"]


class Played:
    """One run of the demo: what it printed, how long it took, what it left."""

    def __init__(self, home: Path) -> None:
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        environment = {
            "HOME": str(home),
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.temporary),
        }
        began = time.monotonic()
        self.done = subprocess.run(
            [str(CFFLOW), "demo"],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * LIMIT_S,
            check=False,
        )
        self.took_s = time.monotonic() - began

    def processes(self) -> list[str]:
        """Return the processes that still run in the demo's folder or name it."""
        folder = str(self.temporary)
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                place = str((entry / "cwd").readlink())
                settings = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue  # It ended while we looked.
            if folder in command or folder in place or f"TMPDIR={folder}" in settings:
                found.append(command)
        return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo, played to its end."""
    return Played(tmp_path_factory.mktemp("home"))


def test_it_succeeds_without_a_complaint(demo: Played) -> None:
    """Exit status 0, nothing on standard error, no setting needed."""
    assert demo.done.returncode == 0, demo.done.stderr
    assert demo.done.stderr == ""


def test_it_is_short(demo: Played) -> None:
    """Less than a minute, and it prints how long."""
    assert demo.took_s < LIMIT_S
    assert re.search(r"^Done in \d+\.\d s\.$", demo.done.stdout, re.MULTILINE)


def test_every_scene_ends_as_it_should(demo: Played) -> None:
    """A sale, a part of a hold, a void, and a capture that crashed and came back."""
    ends = re.findall(r"^  order_\w+\.1 is (\w+): ", demo.done.stdout, re.MULTILINE)
    assert ends == STATES


def test_the_process_was_really_killed(demo: Played) -> None:
    """The crash scene kills one process, and another one finds the payment."""
    assert "killed with SIGKILL" in demo.done.stdout
    assert "a new process finds <Payment 'order_crash.1'" in demo.done.stdout


def test_the_bank_s_ledger_has_one_capture_of_the_crashed_order(demo: Played) -> None:
    """Counted in the emulator, which shares no code with cfflow: nothing twice, nothing lost."""
    ledger = demo.done.stdout.partition("The bank's own ledger")[2]
    effects = re.findall(r"^(order_\w+) +\d+ +(\w+) +([\d.]+)$", ledger, re.MULTILINE)
    taken = [(order, amount) for order, effect, amount in effects if effect == "captured"]
    assert sorted(taken) == [
        ("order_crash", "640.00"),
        ("order_hotel", "4200.50"),
        ("order_tea", "170.00"),
    ]
    assert [order for order, effect, _ in effects if effect == "voided"] == ["order_car"]
    assert "The bank's ledger is as asked for" in ledger


def test_it_leaves_nothing_behind(demo: Played) -> None:
    """No server, no emulator, no child, no file."""
    deadline = time.monotonic() + 5
    while demo.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert demo.processes() == []
    assert list(demo.temporary.iterdir()) == []
