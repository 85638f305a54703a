"""The aims of the benchmark are computed from what was measured."""

from __future__ import annotations

import pytest

from bench.blocking import Blocking
from bench.decode import Decoded
from bench.memory import Memory
from bench.notices import Notified
from bench.reconcile import Leases, Reconciled
from bench.report import Aim, Measured, aims_of
from bench.sale import BEST, CONTENDERS, STOCK, Result, Speed

SPEEDS = {(n, name): Speed(100.0, 1_000.0, 10.0) for n in (1, 16, 64) for name in CONTENDERS}


def sold(of_best: Speed, of_stock: Speed) -> Result:
    """Return the result of a sale in which cfflow is so many times as fast as each floor."""
    even = Speed(1.0, 1.0, 1.0)
    bests = {key: even if key[1] == BEST else of_best for key in SPEEDS}
    stocks = {key: even if key[1] == STOCK else of_stock for key in SPEEDS}
    return Result(SPEEDS, bests, stocks, rounds=1, server="Valkey")


#: Just enough for each aim.
ENOUGH = Measured(
    on_stub=sold(Speed(0.5, 2.0, 2.5), Speed(15.0, 0.1, 0.1)),
    on_emulator=sold(Speed(0.1, 9.0, 9.0), Speed(1.0, 1.0, 1.0)),
    decoded=Decoded(decode_us=5.0, observe_us=10.0, sdk_us=400.0),
    memory=Memory(payments=10, kept_b=600.0, wake_b=50.0, feed_b=400.0, blob_b=300.0),
    reconciled=Reconciled(payments=5_000, took_s=2.0, cpu_s=1.0, inquiries=5_000),
    leases=Leases(sleeping=1_000_000, p50_ms=1.0, p99_ms=3.0, used_b=1_000_000_000),
    notified=Notified(10, p50_ms=1.0, p99_ms=5.0, asked_p50_ms=100.0, asked_max_ms=500.0),
    blocking=Blocking(async_ms=0.0, blocking_ms=0.15),
)

#: Each too little for some aims, and how many.
TOO_LITTLE = {
    "payments/s of the best floor's": (
        ENOUGH._replace(on_stub=sold(Speed(0.49, 2.0, 2.5), Speed(15.0, 0.1, 0.1))),
        2,
    ),
    "CPU": (ENOUGH._replace(on_stub=sold(Speed(0.5, 2.01, 2.5), Speed(15.0, 0.1, 0.1))), 2),
    "p99, times": (ENOUGH._replace(on_stub=sold(Speed(0.5, 2.0, 2.51), Speed(15.0, 1, 1))), 1),
    "times stock's": (ENOUGH._replace(on_stub=sold(Speed(0.5, 2.0, 2.5), Speed(14.9, 1, 1))), 1),
    "what the core reads": (ENOUGH._replace(decoded=Decoded(1.0, 10.1, 400.0)), 1),
    "with its indexes": (ENOUGH._replace(memory=Memory(1, 661.0, 50.0, 0.0, 0.0)), 1),
    "inquiries a payment": (ENOUGH._replace(reconciled=Reconciled(5_000, 2.0, 1.0, 5_001)), 1),
    "of one core": (ENOUGH._replace(reconciled=Reconciled(5_000, 2.1, 1.0, 5_000)), 1),
    "lease among": (ENOUGH._replace(leases=Leases(1_000_000, 1.0, 3.01, 1)), 1),
    "memory of": (ENOUGH._replace(leases=Leases(1_000_000, 1.0, 3.0, 1_000_000_001)), 1),
    "acknowledged": (ENOUGH._replace(notified=Notified(10, 1.0, 5.01, 100.0, 500.0)), 1),
    "asked about": (ENOUGH._replace(notified=Notified(10, 1.0, 5.0, 100.0, 501.0)), 1),
    "cfflow.sync": (ENOUGH._replace(blocking=Blocking(0.0, 0.151)), 1),
}


def test_what_is_just_enough_meets_every_aim() -> None:
    """The limit itself is enough, and the sale on the emulator has no aim."""
    aims = [*aims_of(ENOUGH)]
    assert len(aims) == sum(count for _, count in TOO_LITTLE.values())
    assert [aim.text for aim in aims if not aim.is_met] == []


@pytest.mark.parametrize("part", [*TOO_LITTLE])
def test_what_is_too_little_misses_its_aim_and_no_other(part: str) -> None:
    """Each figure decides its own aim."""
    measured, count = TOO_LITTLE[part]
    missed = [aim.text for aim in aims_of(measured) if not aim.is_met]
    assert len(missed) == count
    assert all(part in text for text in missed)


def test_an_aim_prints_its_verdict_its_limit_and_what_was_reached() -> None:
    """`met` or `missed`, so that a miss is written down as one."""
    met, missed = Aim("speed", 2.0, 1.5, is_at_least=True), Aim("cost", 2.0, 1.5)
    assert str(met).split() == ["met", "speed:", "at", "least", "1.50", "2.00"]
    assert str(missed).split() == ["missed", "cost:", "at", "most", "1.50", "2.00"]
