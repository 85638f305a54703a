"""The demo's scenes, played with a real store and the emulator over real HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

import cfflow
from cfflow import Orchestrator, Payment
from cfflow.demo.stage import Ledger, Timeline, customer, test_card
from cfflow.errors import CfflowError, ConfigError

#: An inquiry about the crashed capture has to wait for its time limit, so the demo's is short.
_FLOW: Final = """\
name = "demo_hotel"
summary = "The preauth flow with a short time limit, so that the demo is short."
capture = "manual"
methods = ["card"]

[pay]
timeout_s = 2
"""

_HANG_S: Final = 30


def play(console: Console) -> int:
    """Play all scenes and return the exit status: 0 when the bank's ledger is as it should be."""
    try:
        from cfflow.emulator import EmulatorProcess
    except ImportError as missing:
        raise ConfigError(str(missing)) from None
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cfflow-demo-") as folder, EmulatorProcess() as bank:
        settings = {
            "CFFLOW_REDIS_URL": f"embedded:{folder}/store",
            "CASHFREE_ENVIRONMENT": bank.base_url,
            "CASHFREE_CLIENT_ID": bank.client_id,
            "CASHFREE_CLIENT_SECRET": bank.client_secret,
        }
        flows = Path(folder) / "demo_hotel.toml"
        flows.write_text(_FLOW)
        console.print(f"[bold]A local Cashfree[/] on {bank.base_url}, [bold]an embedded Valkey[/],")
        console.print("and real HTTP between them. No card, no bank and no network is real.\n")
        asyncio.run(_Demo(console, settings, flows, bank.admin_url).run())
        verdict = _audit(console, Ledger(bank.admin_url))
    console.print(f"\nDone in {time.perf_counter() - began:.1f} s.")
    return 0 if verdict else 1


class _Demo:
    def __init__(
        self, console: Console, settings: dict[str, str], flows: Path, admin_url: str
    ) -> None:
        self._console = console
        self._settings = settings
        self._flows = flows
        self._admin_url = admin_url
        self._timeline = Timeline(console)

    async def run(self) -> None:
        """Play the scenes one after the other."""
        async with cfflow.connect(
            redis_url=self._settings["CFFLOW_REDIS_URL"],
            client_id=self._settings["CASHFREE_CLIENT_ID"],
            client_secret=self._settings["CASHFREE_CLIENT_SECRET"],
            environment=self._settings["CASHFREE_ENVIRONMENT"],
            flows=[self._flows],
            log=self._timeline,
        ) as orchestrator:
            await self._sale(orchestrator)
            await self._hotel(orchestrator)
            await self._cancelled(orchestrator)
            await self._crash(orchestrator)

    def _scene(self, number: int, title: str) -> None:
        self._console.print(f"[bold]{number}. {title}[/]")
        self._timeline.begin()

    async def _paid(
        self, orchestrator: Orchestrator, flow: str, order_id: str, amount: str, *otps: str
    ) -> Payment:
        """Create an order, pay it with the test card, submit these OTPs."""
        tags: dict[str, Any] = {} if flow == "native_otp" else {"cfflow_preauth": "true"}
        order = await orchestrator.gateway.create_order(
            amount, customer, order_id=order_id, order_tags=tags or None
        )
        payment = await orchestrator.start(flow, order_id=order_id, amount=amount)
        self._timeline.line("created", "start", f"order {order_id}, {amount} INR, flow {flow}")
        payment = await orchestrator.pay(payment, order.payment_session_id, test_card())
        for otp in otps:
            payment = await orchestrator.submit_otp(payment, otp)
        return payment

    async def _sale(self, orchestrator: Orchestrator) -> None:
        self._scene(1, "A sale. The customer types the bank's OTP on your page, wrong at first.")
        payment = await self._paid(
            orchestrator, "native_otp", "order_tea", "170.00", "999999", "111000"
        )
        self._end(payment, f"{payment.captured_amount}, after two submissions")

    async def _hotel(self, orchestrator: Orchestrator) -> None:
        self._scene(2, "A hotel. 5,000.00 is held at check-in, 4,200.50 is taken at check-out.")
        payment = await self._paid(orchestrator, "preauth", "order_hotel", "5000.00", "111000")
        payment = await orchestrator.capture(payment, "4200.50")
        self._end(payment, f"{payment.captured_amount} of {payment.amount}, the rest is released")

    async def _cancelled(self, orchestrator: Orchestrator) -> None:
        self._scene(3, "A rental that is called off. The hold is voided, no money is taken.")
        payment = await self._paid(orchestrator, "preauth", "order_car", "900.00", "111000")
        payment = await orchestrator.void(payment)
        self._end(payment, "the hold is released")

    async def _crash(self, orchestrator: Orchestrator) -> None:
        self._scene(
            4, "A crash. A process captures 640.00 and is killed before the response comes."
        )
        payment = await self._paid(orchestrator, "demo_hotel", "order_crash", "640.00", "111000")
        await self._kill_in_capture(payment)
        self._remark("killed with SIGKILL: the bank took the money, and no process has the result")
        again = await self._child("recover", str(self._flows))
        if await again.wait():
            raise CfflowError("the process that should have recovered the payment failed")
        found = await orchestrator.get(payment)
        self._end(found, f"{found.captured_amount}, by an inquiry; nothing was captured twice")

    async def _kill_in_capture(self, payment: Payment) -> None:
        """Let the bank act at once and respond late; kill the process that waits for it."""
        fault = {"call": "authorize", "kind": "delay_after", "delay_s": _HANG_S}
        async with httpx.AsyncClient(trust_env=False) as admin:
            response = await admin.post(f"{self._admin_url}/faults", json=fault)
        response.raise_for_status()
        child = await self._child("capture", payment.id, "640.00", str(self._flows))
        ledger = Ledger(self._admin_url)
        while not ledger.count("captured", payment.order_id):
            if child.returncode is not None:
                raise CfflowError("the process that should have captured ended by itself")
            await asyncio.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()

    async def _child(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cfflow.demo.crash",
            *arguments,
            env={**os.environ, **self._settings},
            stdin=subprocess.DEVNULL,
        )

    def _remark(self, text: str) -> None:
        self._timeline.line("", "", text)

    def _end(self, payment: Payment, text: str) -> None:
        line = f"  [bold]{payment.id}[/] is {payment.state}: {text}.\n"
        self._console.print(line, soft_wrap=True)


def _audit(console: Console, ledger: Ledger) -> bool:
    """Print the bank's ledger and return whether each order has the effects that it should have."""
    console.print("[bold]The bank's own ledger[/]")
    console.print(ledger.table())
    wanted = {"order_tea": 1, "order_hotel": 1, "order_car": 0, "order_crash": 1}
    captures = {order: ledger.count("captured", order) for order in wanted}
    voids = ledger.count("voided", "order_car")
    agrees = captures == wanted and voids == 1
    counted = ", ".join(f"{order} {count}" for order, count in captures.items())
    console.print(f"\nCaptures by order: {counted}; voids: {voids}.", soft_wrap=True)
    colour, text = ("green", "as asked for") if agrees else ("red", "NOT as asked for")
    console.print(f"[bold {colour}]The bank's ledger is {text}: nothing twice, nothing lost.[/]")
    return agrees
