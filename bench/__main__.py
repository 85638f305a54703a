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

from bench import decode, memory, notices, reconcile, sale
from bench.places import loop_factory
from bench.report import Measured, print_report

__all__ = ["main"]


class Plan(NamedTuple):
    """How much to measure of each."""

    sales: sale.Size
    decode_rounds: int
    decode_answers: int
    payments: int
    payments_seconds_max: float
    interrupted: int
    sleeping: int
    notifications: int
    asked: int


FULL: Final = Plan(
    sale.Size({1: 100, 16: 400, 64: 400}, rounds=7, seconds_max=85),
    decode_rounds=9,
    decode_answers=100,
    payments=50_000,
    payments_seconds_max=110,
    interrupted=10_000,
    sleeping=1_000_000,
    notifications=10_000,
    asked=60,
)

#: Enough to see that everything runs, too little to quote.
QUICK: Final = Plan(
    sale.Size({1: 3, 16: 16, 64: 64}, rounds=1, seconds_max=1, run_seconds_max=0.5),
    decode_rounds=3,
    decode_answers=10,
    payments=256,
    payments_seconds_max=2,
    interrupted=100,
    sleeping=1_000,
    notifications=100,
    asked=2,
)


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--quick", action="store_true", help="a few seconds, not to be quoted")
    plan = QUICK if parser.parse_args().quick else FULL
    began_s = time.perf_counter()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        _print("the native OTP sale")
        sold = runner.run(sale.measure(plan.sales))
        _print("decoding")
        decoded = decode.measure(plan.decode_rounds, plan.decode_answers)
        _print(f"the memory of {plan.payments:,} payments")
        taken = runner.run(memory.measure(plan.payments, plan.payments_seconds_max))
        _print(f"the recovery of {plan.interrupted:,} interrupted payments")
        found = runner.run(reconcile.measure_reconciling(plan.interrupted))
        _print(f"leases among {plan.sleeping:,} sleeping payments")
        leases = runner.run(reconcile.measure_leases(plan.sleeping))
        _print(f"{plan.notifications:,} notifications")
        notified = runner.run(notices.measure(plan.notifications, plan.asked))
    measured = Measured(sold, decoded, taken, found, leases, notified)
    print_report(measured, took_s=time.perf_counter() - began_s)


def _print(what: str) -> None:
    """Say on standard error what takes so long; the table alone goes to standard output."""
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
