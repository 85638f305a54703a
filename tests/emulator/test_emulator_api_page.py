"""The page about the emulator's own API: it is complete and correct, and its examples work."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

import cfflow.emulator
from cfflow.emulator import EmulatorProcess, WebhookSettings, admin, pages
from cfflow.emulator.admin_orders import ACTS
from cfflow.emulator.faults import KINDS, Call
from cfflow.emulator.records import Effect
from cfflow.emulator.webhook_requests import ALTERATIONS
from tests.ports.servers import missing

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "emulator-api.md"
HEADING = re.compile(r"^### `((?:GET|POST|PUT|DELETE)[^`]*?) (/_emulator[^`]*)`$", re.MULTILINE)


def test_the_manual_has_every_route() -> None:
    """The page has every route with its methods, and no others."""
    shown = {
        (path, name)
        for names, path in HEADING.findall(PAGE.read_text())
        for name in names.split(", ")
    }
    served = {
        (route.path, name)
        for route in [*admin.routes(), *pages.routes()]
        for name in (route.methods or set()) - {"HEAD"}
        if route.path.startswith("/_emulator")
    }
    assert shown == served


@pytest.mark.parametrize(
    "names",
    [
        KINDS,
        get_args(Call),
        ALTERATIONS,
        tuple(ACTS),
        get_args(Effect),
        WebhookSettings.__struct_fields__,
    ],
    ids=["faults", "calls", "alterations", "acts", "effects", "settings"],
)
def test_the_manual_has_every_name(names: tuple[str, ...]) -> None:
    """The page explains every kind of fault, alteration, act, effect and setting."""
    page = PAGE.read_text()
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_manual_has_every_python_name() -> None:
    """The page has every name that `cfflow.emulator` exports."""
    page = PAGE.read_text()
    missing = [name for name in cfflow.emulator.__all__ if not re.search(rf"`{name}\b", page)]
    assert missing == []


def test_the_manual_s_examples_work() -> None:
    """The commands of the page run in order against one emulator."""
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL))
    bash = shutil.which("bash")
    assert bash is not None
    if shutil.which("curl") is None:
        missing("curl is not installed")
    with EmulatorProcess() as emulator:
        script = script.replace("http://127.0.0.1:8040/_emulator", emulator.admin_url)
        done = subprocess.run(
            [bash, "-c", f"set -euo pipefail\n{script}"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert '"status":"ok"' in done.stdout
