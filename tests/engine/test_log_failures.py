"""A log that cannot be written ends no payment, whatever the logger."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cfflow
from cfflow import ConfigError, State
from cfflow.logs import GuardedLog, guarded
from tests.engine.shop import OTP, open_shop

#: A sale, an order and a run of the worker in a process of its own, with its standard error.
SALE = """
import asyncio, sys
import cfflow
from cfflow.emulator import running_emulator
from cfflow.testing import MemoryStore

async def main():
    async with running_emulator() as bank:
        settings = dict(
            store=MemoryStore(), client_id=bank.client_id, client_secret=bank.client_secret,
            environment=bank.base_url,
        )
        async with cfflow.connect(**settings) as cashier:
            customer = {"customer_id": "c_1", "customer_phone": "9898989898"}
            order = await cashier.gateway.create_order("170.00", customer, order_id="order_1")
            payment = await cashier.start("native_otp", order_id="order_1")
            card = cfflow.Card(
                card_number="4111111111111111", card_expiry_mm="12", card_expiry_yy="31",
                card_cvv="123",
            )
            payment = await cashier.pay(payment, order.payment_session_id, card)
            payment = await cashier.submit_otp(payment, "111000")
            await cfflow.Worker(cashier).run_once()
            print(payment.state.value, cashier.log.lost > 0)

asyncio.run(main())
"""


@pytest.mark.parametrize("standard_error", ["closed", "full", "without a reader"])
def test_a_sale_ends_well_where_standard_error_cannot_be_written(
    standard_error: str, tmp_path: Path
) -> None:
    """The call was sent: its outcome must be stored and returned, with a log or without."""
    script = tmp_path / "sale.py"
    script.write_text(SALE)
    command = {
        "closed": f"{sys.executable} {script} 2>&-",
        "full": f"{sys.executable} {script} 2>/dev/full",
        "without a reader": f"{sys.executable} {script} 2> >(exec true)",
    }[standard_error]
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, check=False)
    # A process that was started without one has no log at all, so none is lost.
    lost = standard_error != "closed"
    assert done.stdout.decode().split() == ["captured", str(lost)]


class Broken:
    """A logger that fails in every way, until it is mended."""

    def __init__(self) -> None:
        self.errors: list[Exception] = [OSError(28, "no space"), TypeError("what"), RuntimeError()]
        self.written: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Fail, or write."""
        if self.errors:
            raise self.errors.pop(0)
        self.written.append((event, fields))

    warning = info


async def test_what_was_lost_is_counted_and_said_once() -> None:
    """The first event that can be written comes after the number of those that could not."""
    log = Broken()
    guard = guarded(log)
    for number in range(5):
        guard.info("payment.transition", number=number)
    assert guard.lost == 3
    assert log.written == [
        ("log.lost", {"events": 3}),
        ("payment.transition", {"number": 3}),
        ("payment.transition", {"number": 4}),
    ]


async def test_a_logger_of_the_standard_library_works(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each event, with its fields as JSON; its own level decides."""
    logger = logging.getLogger("tests.shop")
    with caplog.at_level(logging.INFO, "tests.shop"):
        async with open_shop(log=logger) as shop:
            payment, _ = await shop.at_otp()
            assert (await shop.cashier.submit_otp(payment, OTP)).state is State.CAPTURED
    lines = [r.getMessage() for r in caplog.records if r.name == "tests.shop"]
    transitions = [line for line in lines if line.startswith("payment.transition ")]
    fields = json.loads(transitions[-1].partition(" ")[2])
    assert (fields["payment_id"], fields["to_state"]) == (payment.id, "captured")


@pytest.mark.parametrize("log", ["stderr", 7, object(), sys.stderr, print])
def test_what_is_no_logger_is_refused(log: Any) -> None:
    """Where it is given, and not at the first event."""
    with pytest.raises(ConfigError, match="log must be a logger"):
        cfflow.connect(
            redis_url="redis://127.0.0.1:1",
            client_id="id",
            client_secret="a-secret-of-the-tests",
            environment="sandbox",
            log=log,
        )


def test_a_guarded_log_is_guarded_once() -> None:
    """The gateway's client, the engine and the worker share one."""
    guard = guarded(Broken())
    assert isinstance(guard, GuardedLog)
    assert guarded(guard) is guard


@pytest.mark.parametrize("acts", ["\x1b[2J", "\x7f", "\x9b", "\u202e", "\u200b", "\n"])
def test_nothing_in_a_line_acts_on_a_terminal(
    acts: str, capfdbinary: pytest.CaptureFixture[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """What the gateway wrote is escaped, and a program reads the same value."""
    text = f"a{acts}b"
    guarded(None).info("worker.failed", reason=text)
    line = capfdbinary.readouterr().err.decode()
    with caplog.at_level(logging.INFO):
        guarded(logging.getLogger("tests.shop")).info("worker.failed", reason=text)
    kept = caplog.records[-1].getMessage().partition(" ")[2]
    for shown in (line.rstrip("\n"), kept):
        assert json.loads(shown)["reason"] == text
        assert shown.isprintable()
