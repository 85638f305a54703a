"""A local Cashfree for development, tests and benchmarks: no network, no account, no money.

`running_emulator()` serves it on the running event loop, `EmulatorProcess` in its own
process, `serve()` in this process until it is stopped; `create_app()` returns the ASGI app.
It imports nothing of cfflow, and cfflow's core nothing of it: they use HTTP only.
"""

from __future__ import annotations

import sys

try:
    import starlette  # noqa: F401  to test that it is installed
    import uvicorn  # noqa: F401  to test that it is installed
except ImportError as missing:
    needs = (
        "the local gateway needs packages that are not installed: pip install 'cfflow[emulator]'"
    )
    if sys.argv[:1] == ["-m"] and "cfflow.emulator" in sys.orig_argv:
        # Python imports this package before it runs `python -m cfflow.emulator`.
        sys.exit(needs)
    raise ImportError(needs, name=missing.name) from missing

from cfflow.emulator.app import EmulatorApp, create_app
from cfflow.emulator.asgi import ConnectionDropped
from cfflow.emulator.bank import Bank
from cfflow.emulator.clock import Clock
from cfflow.emulator.faults import Chaos, Fault, Faults
from cfflow.emulator.limits import Limits, RateLimits
from cfflow.emulator.process import EmulatorProcess
from cfflow.emulator.records import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    PREAUTH_CLIENT_ID,
    PREAUTH_CLIENT_SECRET,
    Account,
    Attempt,
    BankOptions,
    LedgerEntry,
    Order,
)
from cfflow.emulator.refusals import Refused
from cfflow.emulator.server import RunningEmulator, running_emulator, serve
from cfflow.emulator.webhook_outbox import Delivery, DeliveryAttempt, WebhookSettings
from cfflow.emulator.webhooks import Webhooks

__all__ = [
    "DEFAULT_CLIENT_ID",
    "DEFAULT_CLIENT_SECRET",
    "PREAUTH_CLIENT_ID",
    "PREAUTH_CLIENT_SECRET",
    "Account",
    "Attempt",
    "Bank",
    "BankOptions",
    "Chaos",
    "Clock",
    "ConnectionDropped",
    "Delivery",
    "DeliveryAttempt",
    "EmulatorApp",
    "EmulatorProcess",
    "Fault",
    "Faults",
    "LedgerEntry",
    "Limits",
    "Order",
    "RateLimits",
    "Refused",
    "RunningEmulator",
    "WebhookSettings",
    "Webhooks",
    "create_app",
    "running_emulator",
    "serve",
]
