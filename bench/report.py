"""Prints what was measured, and each aim with PASS or MISS beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.decode import Decoded
from bench.memory import Memory
from bench.notices import Notified
from bench.places import machine
from bench.reconcile import Leases, Reconciled
from bench.sale import BARE, CONTENDERS, ENGINE, FLOOR, STOCK, Result

__all__ = ["Measured", "print_report"]

_OF_FLOOR_MIN: Final = 0.80
_OF_STOCK_MIN: Final = 1.5
_OF_SDK_MIN: Final = 100
_BYTES_MAX: Final = 650
_RECONCILED_MIN: Final = 1_000
_LEASE_MS_MAX: Final = 5.0
_STORE_B_MAX: Final = 1_000_000_000
_ACKNOWLEDGED_MS_MAX: Final = 5.0
_ASKED_MS_MAX: Final = 500.0

_WHAT: Final = {
    ENGINE: "the engine with all of its safety, and its log",
    FLOOR: "by hand on the same transport: no machine, no safety, no log",
    BARE: "the same, straight on the transport and on cfflow's link to Redis",
    STOCK: "the same by hand on stock httpx.AsyncClient and redis-py",
}


class Measured(NamedTuple):
    """Everything that one run has measured."""

    sold: Result
    decoded: Decoded
    memory: Memory
    reconciled: Reconciled
    leases: Leases
    notified: Notified


class Aim(NamedTuple):
    """One aim of the project: what was reached, and whether that is enough."""

    text: str
    reached: str
    met: bool


def print_report(measured: Measured, *, took_s: float) -> None:
    """Print everything as plain text."""
    print(f"cfflow benchmark: python -m bench, {took_s:.0f} s, over loopback")
    print(f"{machine()}, {measured.sold.server}\n")
    _print_sale(measured.sold)
    _print_decode(measured.decoded)
    _print_memory(measured.memory)
    _print_recovery(measured.reconciled, measured.leases)
    _print_notified(measured.notified)
    print("aims")
    for aim in (
        *_aims(*measured[:3]),
        *_recovery_aims(measured.reconciled, measured.leases),
        *_notified_aims(measured.notified),
    ):
        print(f"  {'PASS' if aim.met else 'MISS'}  {aim.text:<58}{aim.reached:>12}")


def _print_sale(sold: Result) -> None:
    print("native OTP sale: 3 HTTP calls, 5 commits;", end=" ")
    print(f"medians of {sold.rounds} rounds, ratios within a round")
    print(f"{'at once':>9}  {'':<12}{'payments/s':>11}{'x floor':>9}{'x stock':>9}", end="")
    print(f"{'CPU us each':>13}{'x floor':>9}")
    for (at_once, name), speed in sold.speeds.items():
        of_floor, of_stock = sold.of_floor[at_once, name], sold.of_stock[at_once, name]
        print(f"{at_once:>9}  {name:<12}{speed.payments_per_s:>11,.0f}", end="")
        print(f"{of_floor.payments_per_s:>9.2f}{of_stock.payments_per_s:>9.2f}", end="")
        print(f"{speed.cpu_us:>13,.0f}{of_floor.cpu_us:>9.2f}")
    for name in CONTENDERS:
        print(f"  {name}: {_WHAT[name]}")
    print()


def _print_decode(decoded: Decoded) -> None:
    print("one fetch answer, CPU us")
    sdk = "official SDK, PaymentEntity.from_json: pydantic models, amounts as floats"
    for what, us, times in (
        ("cfflow, bytes to typed entity, exact amounts", decoded.decode_us, decoded.times_decode),
        ("cfflow, bytes to what the core reads", decoded.observe_us, decoded.times_observe),
        (sdk, decoded.sdk_us, 1.0),
    ):
        print(f"  {what:<74}{us:>9.1f}{times:>7.0f} x")
    print()


def _print_memory(memory: Memory) -> None:
    of = f"{memory.payments:,} orders with one payment of six transitions"
    print(f"bytes per order in the server, {of}")
    for what, size_b in (
        (f"record ({memory.blob_b:.0f} B of it), key, state index", memory.kept_b),
        ("wake index, while in flight", memory.wake_b),
        ("together", memory.in_flight_b),
        ("not counted: event feed, bounded per partition (MEMORY USAGE)", memory.feed_b),
    ):
        print(f"  {what:<74}{size_b:>9.0f}")
    print()


def _print_recovery(found: Reconciled, leases: Leases) -> None:
    print(f"recovery of {found.payments:,} payments whose process died, one worker, no rate budget")
    cpu_us = found.cpu_s / found.payments * 1_000_000
    for what, value in (
        ("payments a second", f"{found.per_s:,.0f}"),
        ("CPU us each, the worker's process", f"{cpu_us:,.0f}"),
        ("inquiries at the gateway", f"{found.inquiries:,}"),
        (f"a lease while {leases.sleeping:,} sleep, ms at p50", f"{leases.p50_ms:.2f}"),
        ("the same at p99", f"{leases.p99_ms:.2f}"),
        ("memory of the server then, MB", f"{leases.used_b / 1e6:,.0f}"),
    ):
        print(f"  {what:<74}{value:>9}")
    print()


def _print_notified(notified: Notified) -> None:
    print(f"{notified.notifications:,} notifications of 2.2 kB, one after another, ms")
    for what, value in (
        ("acknowledged, at p50", f"{notified.p50_ms:.2f}"),
        ("the same at p99", f"{notified.p99_ms:.2f}"),
        ("asked about by a worker that slept, at p50", f"{notified.asked_p50_ms:.0f}"),
        ("the same at the latest", f"{notified.asked_max_ms:.0f}"),
    ):
        print(f"  {what:<74}{value:>9}")
    print()


def _notified_aims(notified: Notified) -> Iterator[Aim]:
    text = f"notification: acknowledged in under {_ACKNOWLEDGED_MS_MAX:g} ms at p99"
    yield Aim(text, f"{notified.p99_ms:.2f}", notified.p99_ms < _ACKNOWLEDGED_MS_MAX)
    text = f"notification: asked about within {_ASKED_MS_MAX:g} ms"
    yield Aim(text, f"{notified.asked_max_ms:.0f}", notified.asked_max_ms <= _ASKED_MS_MAX)


def _recovery_aims(found: Reconciled, leases: Leases) -> Iterator[Aim]:
    once = found.inquiries == found.payments
    yield Aim("recovery: one inquiry a payment", f"{found.inquiries / found.payments:.2f}", once)
    text = f"recovery: at least {_RECONCILED_MIN:,} payments a second"
    yield Aim(text, f"{found.per_s:,.0f}", found.per_s >= _RECONCILED_MIN)
    text = f"lease among {leases.sleeping:,}: at most {_LEASE_MS_MAX:g} ms at p99"
    yield Aim(text, f"{leases.p99_ms:.2f}", leases.p99_ms <= _LEASE_MS_MAX)
    text = f"memory of {leases.sleeping:,} payments: under {_STORE_B_MAX / 1e9:g} GB"
    yield Aim(text, f"{leases.used_b / 1e9:.2f}", leases.used_b < _STORE_B_MAX)


def _aims(sold: Result, decoded: Decoded, memory: Memory) -> Iterator[Aim]:
    for at_once in (16, 64):
        ratio = sold.of_floor[at_once, ENGINE].payments_per_s
        text = f"{at_once} at once: at least {_OF_FLOOR_MIN:.2f} of the floor"
        yield Aim(text, f"{ratio:.2f}", ratio >= _OF_FLOOR_MIN)
    ratio = sold.of_stock[64, ENGINE].payments_per_s
    text = f"64 at once: at least {_OF_STOCK_MIN} times the stock floor"
    yield Aim(text, f"{ratio:.2f}", ratio >= _OF_STOCK_MIN)
    times = decoded.times_decode
    text = f"decode: at least {_OF_SDK_MIN} times as fast as the SDK"
    yield Aim(text, f"{times:.0f}", times >= _OF_SDK_MIN)
    size_b = memory.in_flight_b
    text = f"at most {_BYTES_MAX} B an order with its indexes"
    yield Aim(text, f"{size_b:.0f}", size_b <= _BYTES_MAX)
