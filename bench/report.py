"""Prints what was measured, and each aim with `met` or `missed` beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.blocking import Blocking
from bench.decode import Decoded
from bench.memory import Memory
from bench.notices import Notified
from bench.places import machine
from bench.reconcile import Leases, Reconciled
from bench.sale import BEST, CONTENDERS, ENGINE, STOCK, Result

__all__ = ["Aim", "Measured", "aims_of", "print_report"]

_WHAT: Final = {
    ENGINE: "with all of its safety, and its log",
    BEST: "by hand on aiohttp and one shared Redis connection: no machine, no safety, no log",
    STOCK: "the same by hand on stock httpx.AsyncClient and redis-py",
}


class Measured(NamedTuple):
    """Everything that one run has measured."""

    on_stub: Result
    on_emulator: Result
    decoded: Decoded
    memory: Memory
    reconciled: Reconciled
    leases: Leases
    notified: Notified
    blocking: Blocking


class Aim(NamedTuple):
    """One aim of the project: `reached` must be `limit` or better."""

    text: str
    reached: float
    limit: float
    is_at_least: bool = False
    #: How the two numbers are printed.
    form: str = ",.2f"

    @property
    def is_met(self) -> bool:
        """Whether what was reached is enough."""
        return self.reached >= self.limit if self.is_at_least else self.reached <= self.limit

    def __str__(self) -> str:
        word = "at least" if self.is_at_least else "at most"
        text = f"{self.text}: {word} {self.limit:{self.form}}"
        verdict = "met" if self.is_met else "missed"
        return f"  {verdict:<8}{text:<66}{self.reached:>12{self.form}}"


def print_report(measured: Measured, *, took_s: float) -> None:
    """Print everything as plain text."""
    print(f"cfflow benchmark: python -m bench, {took_s:.0f} s, over loopback")
    print(f"{machine()}, {measured.on_stub.server}\n")
    print("native OTP sale, the gateway a stub that costs next to nothing: 3 HTTP calls, 5 commits")
    _print_sale(measured.on_stub)
    for name in CONTENDERS:
        print(f"  {name}: {_WHAT[name]}")
    print("\nthe same sale, the gateway the emulator")
    _print_sale(measured.on_emulator)
    print()
    _print_decode(measured.decoded)
    _print_memory(measured.memory)
    _print_recovery(measured.reconciled, measured.leases)
    _print_notified(measured.notified)
    _print_blocking(measured.blocking)
    print("aims")
    for aim in aims_of(measured):
        print(aim)


def _print_sale(sold: Result) -> None:
    print(f"medians of {sold.rounds} rounds, ratios within a round")
    print(f"{'at once':>9}  {'':<12}{'payments/s':>11}{'x best':>8}{'x stock':>9}", end="")
    print(f"{'CPU us each':>13}{'x best':>8}{'p99 ms':>9}{'x best':>8}")
    for (at_once, name), speed in sold.speeds.items():
        best, stock = sold.of_best[at_once, name], sold.of_stock[at_once, name]
        print(f"{at_once:>9}  {name:<12}{speed.payments_per_s:>11,.0f}", end="")
        print(f"{best.payments_per_s:>8.2f}{stock.payments_per_s:>9.2f}", end="")
        print(f"{speed.cpu_us:>13,.0f}{best.cpu_us:>8.2f}{speed.p99_ms:>9.1f}{best.p99_ms:>8.2f}")


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
    print(
        f"recovery of {found.payments:,} payments whose process died, one worker, no rate budget,"
    )
    print(f"the fastest of {found.runs}")
    cpu_us = found.cpu_s / found.payments * 1_000_000
    for what, value in (
        ("payments a second of one core", f"{found.per_s:,.0f}"),
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


def _print_blocking(blocking: Blocking) -> None:
    print("one call of cfflow.sync on a store in memory, ms at p50")
    for what, took_ms in (
        ("the async call", blocking.async_ms),
        ("the blocking call", blocking.blocking_ms),
        ("its overhead", blocking.overhead_ms),
    ):
        print(f"  {what:<74}{took_ms:>9.3f}")
    print()


def aims_of(measured: Measured) -> Iterator[Aim]:
    """Yield each aim with what was reached."""
    yield from _sale_aims(measured.on_stub)
    times = measured.decoded.times_observe
    yield Aim("decode to what the core reads, times as fast as the SDK", times, 40, True, ",.0f")
    size_b = measured.memory.in_flight_b
    yield Aim("an order with its indexes, bytes", size_b, 710, form=",.0f")
    yield from _recovery_aims(measured.reconciled, measured.leases)
    p99_ms, asked_ms = measured.notified.p99_ms, measured.notified.asked_max_ms
    yield Aim("notification: acknowledged, ms at p99", p99_ms, 5)
    yield Aim("notification: asked about, ms at the latest", asked_ms, 500, form=",.0f")
    overhead_ms = measured.blocking.overhead_ms
    yield Aim("a call of cfflow.sync: its overhead, ms", overhead_ms, 0.15, form=",.3f")


def _sale_aims(sold: Result) -> Iterator[Aim]:
    for at_once in (16, 64):
        ratio = sold.of_best[at_once, ENGINE].payments_per_s
        yield Aim(f"sale, {at_once} at once: payments/s of the best floor's", ratio, 0.5, True)
    for at_once in (16, 64):
        ratio = sold.of_best[at_once, ENGINE].cpu_us
        yield Aim(f"sale, {at_once} at once: CPU, times the best floor's", ratio, 2)
    ratio = sold.of_best[64, ENGINE].p99_ms
    yield Aim("sale, 64 at once: p99, times the best floor's", ratio, 2.5)
    ratio = sold.of_stock[64, ENGINE].payments_per_s
    yield Aim("sale, 64 at once: payments/s, times stock's", ratio, 15, True)


def _recovery_aims(found: Reconciled, leases: Leases) -> Iterator[Aim]:
    yield Aim("recovery: inquiries a payment", found.inquiries / found.payments, 1)
    yield Aim("recovery: payments a second of one core", found.per_s, 2_500, True, ",.0f")
    yield Aim(f"lease among {leases.sleeping:,} that sleep, ms at p99", leases.p99_ms, 3)
    yield Aim(f"memory of {leases.sleeping:,} payments, GB", leases.used_b / 1e9, 1)
