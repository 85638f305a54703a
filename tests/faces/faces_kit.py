"""What the tests of the faces share: running `cfflow` as people do, and a store to look at."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import cfflow
from cfflow import Card, Orchestrator, Payment
from cfflow.cli import app as cli
from cfflow.emulator import EmulatorProcess
from cfflow.logs import Log, silent_log
from cfflow.store.embedded import EmbeddedServer

ROOT: Final = Path(__file__).parents[2]
CFFLOW: Final = Path(sys.executable).parent / "cfflow"
CUSTOMER: Final = {"customer_id": "asha", "customer_phone": "9898989898"}
LIMIT_S: Final = 60
#: Variables that could name a real gateway or store, or change how Python prints.
OURS: Final = ("CASHFREE_", "CFFLOW_", "PYTHONUNBUFFERED")


class Till:
    """An embedded store and the settings that open it, with the gateway's beside them."""

    def __init__(self, bank: EmulatorProcess, folder: Path) -> None:
        self.bank = bank
        self.folder = folder
        self.settings = {
            "CFFLOW_REDIS_URL": f"embedded:{folder / 'store'}",
            "CASHFREE_ENVIRONMENT": bank.base_url,
            "CASHFREE_CLIENT_ID": bank.client_id,
            "CASHFREE_CLIENT_SECRET": bank.client_secret,
        }

    def connect(self, log: Log | None = None) -> Orchestrator:
        """Return an orchestrator on this store and gateway."""
        return cfflow.connect(
            redis_url=self.settings["CFFLOW_REDIS_URL"],
            environment=self.bank.base_url,
            client_id=self.bank.client_id,
            client_secret=self.bank.client_secret,
            log=log or silent_log(),
        )

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `cfflow` on this store, in this process."""
        return run(*arguments, **(self.settings | settings))

    def spawn(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `cfflow` on this store, in a process of its own."""
        return spawn(*arguments, **(self.settings | settings))

    def json(self, *arguments: str) -> Any:
        """Return what `cfflow … --json` prints; it must succeed."""
        done = self.spawn(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment, with these settings of cfflow and no others."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(OURS)}
    return kept | settings


def spawn(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `cfflow` in a process of its own, as a shell does, and return its result."""
    return subprocess.run(
        [str(CFFLOW), *arguments],
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `cfflow` in this process, which saves its start, and return its result.

    An error that the command line does not translate is raised here, and fails the test.
    """
    output, errors = io.StringIO(), io.StringIO()
    status: int | str | None = 0
    with (
        mock.patch.dict(os.environ, environment(**settings), clear=True),
        mock.patch.object(sys, "argv", ["cfflow", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.run()
        except SystemExit as end:
            status = end.code
    code = status if isinstance(status, int) else 0
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def card(number: str = "4111111111111111") -> Card:
    """Return a test card."""
    return Card(
        card_number=number,
        card_holder_name="Asha Rao",
        card_expiry_mm="12",
        card_expiry_yy="31",
        card_cvv="123",
    )


async def to_otp(cashier: Orchestrator, order_id: str, flow: str, amount: str) -> Payment:
    """Return a payment whose customer is asked for the OTP."""
    tags = {"cfflow_preauth": "true"} if flow == "preauth" else None
    order = await cashier.gateway.create_order(amount, CUSTOMER, order_id=order_id, order_tags=tags)
    payment = await cashier.start(flow, order_id=order_id, amount=amount)
    return await cashier.pay(payment, order.payment_session_id, card())


@contextlib.contextmanager
def filled_till(
    bank: EmulatorProcess, folder: Path, fill_in: Callable[[Till], Coroutine[Any, Any, None]]
) -> Iterator[Till]:
    """Yield a till whose embedded store has what `fill_in` puts into it.

    Its server stays up between the commands, which join it: starting it each time takes longer.
    """
    opened = Till(bank, folder)
    server = EmbeddedServer(opened.folder / "store")
    with asyncio.Runner() as runner:
        runner.run(server.start())
        runner.run(fill_in(opened))
        yield opened
        runner.run(server.stop())


async def fill(till: Till) -> None:
    """Make the payments that the tests look at."""
    async with till.connect() as cashier:
        await cashier.start("upi", order_id="new", amount="1.00", metadata={"table": 7})
        payment = await to_otp(cashier, "tea", "native_otp", "170.00")
        payment = await cashier.submit_otp(payment, "999999")
        await cashier.submit_otp(payment, "111000")
        await to_otp(cashier, "waits", "native_otp", "20.00")
        for order_id in ("held", "room", "car"):
            payment = await to_otp(cashier, order_id, "preauth", "500.00")
            payment = await cashier.submit_otp(payment, "111000")
            if order_id == "room":
                await cashier.capture(payment, "420.50")
            if order_id == "car":
                await cashier.void(payment)
        payment = await to_otp(cashier, "broken", "native_otp", "30.00")
        assert payment.cf_payment_id is not None
        await cashier.gateway.simulate(payment.cf_payment_id, "FAILED")
        await cashier.refresh(payment)
