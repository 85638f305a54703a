"""python -m bench: measure, print the table, say which aims are met.

A missed aim is a result, not an error: the exit status is 0 whenever everything was
measured. Counts and times are bounded, so that it ends within ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Final, NamedTuple

from bench import blocking, decode, memory, notices, reconcile, sale
from bench.places import emulator_gateway, loop_factory, pin_here, stub_gateway
from bench.report import Measured, print_report

__all__ = ["main"]


class Plan(NamedTuple):
    """How much to measure of each."""

    on_stub: sale.Size
    on_emulator: sale.Size
    decode_rounds: int
    decode_answers: int
    payments: int
    payments_seconds_max: float
    interrupted: int
    recoveries: int
    sleeping: int
    notifications: int
    asked: int
    blocking_calls: int


FULL: Final = Plan(
    sale.Size({1: 1_000, 16: 4_000, 64: 4_000}, rounds=7, seconds_max=130, run_seconds_max=2),
    sale.Size({1: 100, 16: 400, 64: 400}, rounds=2, seconds_max=50, run_seconds_max=2),
    decode_rounds=9,
    decode_answers=100,
    payments=50_000,
    payments_seconds_max=110,
    interrupted=10_000,
    recoveries=3,
    sleeping=1_000_000,
    notifications=10_000,
    asked=60,
    blocking_calls=5_000,
)

#: Enough to see that everything runs, too little to quote.
QUICK: Final = Plan(
    sale.Size({1: 2, 16: 4, 64: 8}, rounds=1, seconds_max=1, run_seconds_max=0.1),
    sale.Size({1: 2, 16: 4, 64: 8}, rounds=1, seconds_max=1, run_seconds_max=0.1),
    decode_rounds=3,
    decode_answers=10,
    payments=256,
    payments_seconds_max=2,
    interrupted=100,
    recoveries=1,
    sleeping=1_000,
    notifications=100,
    asked=1,
    blocking_calls=100,
)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true", help="a few seconds, not to be quoted")
    plan = QUICK if parser.parse_args().quick else FULL
    began_s = time.perf_counter()
    pin_here()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        on_emulator, notified = runner.run(_measure_with_emulator(plan))
        on_stub, found = runner.run(_measure_with_stub(plan))
        _print("decoding")
        decoded = decode.measure(plan.decode_rounds, plan.decode_answers)
        _print(f"the memory of {plan.payments:,} payments")
        taken = runner.run(memory.measure(plan.payments, plan.payments_seconds_max))
        _print(f"leases among {plan.sleeping:,} sleeping payments")
        leases = runner.run(reconcile.measure_leases(plan.sleeping))
    _print("the blocking face")
    blocked = blocking.measure(plan.blocking_calls)
    measured = Measured(on_stub, on_emulator, decoded, taken, found, leases, notified, blocked)
    print_report(measured, took_s=time.perf_counter() - began_s)


async def _measure_with_stub(plan: Plan) -> tuple[sale.Result, reconcile.Reconciled]:
    async with stub_gateway() as stub:
        _print("the native OTP sale on the stub")
        sold = await sale.measure(plan.on_stub, stub)
        _print(f"the recovery of {plan.interrupted:,} interrupted payments")
        found = await reconcile.measure_reconciling(plan.interrupted, plan.recoveries, stub)
        return sold, found


async def _measure_with_emulator(plan: Plan) -> tuple[sale.Result, notices.Notified]:
    async with emulator_gateway() as emulator:
        _print("the native OTP sale on the emulator")
        sold = await sale.measure(plan.on_emulator, emulator)
        _print(f"{plan.notifications:,} notifications")
        return sold, await notices.measure(plan.notifications, plan.asked, emulator)


def _print(what: str) -> None:
    """Say on standard error what takes so long; the table alone goes to standard output."""
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
