"""The emulator's guide is correct: its commands run, and its tables are complete."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Any, get_args

import pytest

from cfflow import Orchestrator
from cfflow.emulator import BankOptions, EmulatorProcess
from cfflow.emulator.cards import TEST_CARDS
from cfflow.emulator.faults import KINDS
from cfflow.emulator.methods import BANKS, UPI_SCRIPTS, UPI_UNKNOWN
from cfflow.emulator.records import DEFAULT_ACCOUNTS, Effect
from cfflow.emulator.versions import VERSIONS
from cfflow.testing import LocalCashfree
from tests.faces.faces_kit import ROOT, run
from tests.ports.servers import missing

GUIDE = (ROOT / "docs" / "guides" / "emulator.md").read_text()
ORIGIN = "http://127.0.0.1:8040"
NOBODY = "http://127.0.0.1:9/webhook"


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    """A local gateway in its own process; no receiver listens to its webhooks."""
    with EmulatorProcess(webhook_url=NOBODY) as process:
        yield process


def blocks(language: str) -> list[str]:
    """Return the guide's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def origin(emulator: EmulatorProcess) -> str:
    """Return the origin of this emulator, which stands for the guide's port 8040."""
    return emulator.base_url.removesuffix("/pg")


@pytest.fixture(scope="module")
def printed(emulator: EmulatorProcess) -> str:
    """Run the guide's shell commands in order and return their output."""
    if shutil.which("curl") is None:
        missing("curl is not installed")
    script = "set -euo pipefail\n" + "\n".join(blocks("sh"))
    done = subprocess.run(
        ["/bin/bash", "-c", script.replace(ORIGIN, origin(emulator))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_s_shell_commands_work(printed: str) -> None:
    """They make a sale, use a page, a mandate, a fault, the clock and the ledger."""
    wanted = [
        '"payment_status":"SUCCESS"',
        "303\n",
        '"order_status":"PAID"',
        '"captured_amount":4000.00',
        '"kind":"lost_after"',
        '"faults":[]',
        '"offset_s":604800',
        '"effect":"captured"',
    ]
    assert [word for word in wanted if word not in printed] == [], printed


def test_the_guide_s_cfflow_commands_work(emulator: EmulatorProcess, printed: str) -> None:
    """Every `cfflow emulator` line for a running emulator works after a sale."""
    lines = re.findall(r"^\$ cfflow (emulator \w.*)$", "\n".join(blocks("console")), re.MULTILINE)
    refused = {}
    for line in lines:
        done = run(*shlex.split(line, comments=True), CFFLOW_EMULATOR_URL=origin(emulator))
        if done.returncode:
            refused[line] = done.stdout + done.stderr
    assert len(lines) == 8
    assert refused == {}


def test_the_guide_s_python_connects_the_sdk(emulator: EmulatorProcess) -> None:
    """After these lines the official SDK creates an order at the emulator."""
    program, _ = blocks("python")
    order = """
from cashfree_pg.api_client import CreateOrderRequest, CustomerDetails
customer = CustomerDetails(customer_id="asha", customer_phone="9898989898")
request = CreateOrderRequest(order_amount=99.0, order_currency="INR", customer_details=customer)
print(cashfree.PGCreateOrder(request).data.order_status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ORIGIN, origin(emulator)) + order],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "ACTIVE\n", done.stderr


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(TEST_CARDS, id="cards"),
        pytest.param({*UPI_SCRIPTS, UPI_UNKNOWN}, id="upi-ids"),
        pytest.param({str(code) for code in BANKS}, id="banks"),
        pytest.param(KINDS, id="faults"),
        pytest.param(get_args(Effect), id="effects"),
        pytest.param(BankOptions.__struct_fields__, id="options"),
        pytest.param(VERSIONS, id="versions"),
        pytest.param({account.client_id for account in DEFAULT_ACCOUNTS}, id="accounts"),
        pytest.param({account.client_secret for account in DEFAULT_ACCOUNTS}, id="secrets"),
    ],
)
def test_the_guide_has_every_name(names: Collection[str]) -> None:
    """It has every test card, id, fault, option and version."""
    assert [name for name in names if f"`{name}`" not in GUIDE] == []


def test_the_guide_has_no_removed_name() -> None:
    """It has no UPI id and no card that the code lacks."""
    shown = set(re.findall(r"`(\w+@gocash)`", GUIDE)) | set(re.findall(r"`(\d{16})`", GUIDE))
    assert shown == {*UPI_SCRIPTS, UPI_UNKNOWN, *TEST_CARDS}


async def test_the_guide_s_test_moves_both_clocks(
    cashfree: LocalCashfree, orchestrator: Orchestrator
) -> None:
    """The hold is voided by the worker; with the gateway's clock alone the bank released it."""
    _, example = blocks("python")
    scope: dict[str, Any] = {}
    exec(example, scope)  # noqa: S102  our own page
    await scope["test_a_hold_is_voided_before_it_lapses"](cashfree, orchestrator)
    (entry,) = [each for each in cashfree.ledger if each.effect in {"voided", "released"}]
    assert entry.effect == "voided"
