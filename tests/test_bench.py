"""The benchmark runs, and prints every row that its readers look for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN_S_MAX = 110

SALE = re.compile(
    r"^ +(?P<at_once>1|16|64)  (?P<name>cfflow|best floor|stock) +(?P<per_s>[\d,]+)"
    r" +(?P<of_best>[\d.]+) +(?P<of_stock>[\d.]+) +(?P<cpu_us>[\d,]+) +(?P<cpu_of_best>[\d.]+)"
    r" +(?P<p99_ms>[\d.]+) +(?P<p99_of_best>[\d.]+)$",
    re.MULTILINE,
)
DECODED = re.compile(
    r"^  (?P<name>cfflow|official SDK),.* (?P<us>[\d.]+) +(?P<times>\d+) x$", re.MULTILINE
)
TOGETHER = re.compile(r"^  together +(?P<size_b>\d+)$", re.MULTILINE)
AIM = re.compile(r"^  (?:met   |missed)  ", re.MULTILINE)


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_quick_benchmark_prints_every_row_with_sane_numbers() -> None:
    """Speeds are positive, a floor is 1.00 of itself, a payment takes some hundred bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [*SALE.finditer(done.stdout)]
    assert len(rows) == 2 * 3 * 3, done.stdout
    for row in rows:
        assert all(number(row[name]) > 0 for name in ("per_s", "cpu_us", "p99_ms"))
        if row["name"] == "best floor":
            assert {row["of_best"], row["cpu_of_best"], row["p99_of_best"]} == {"1.00"}
        if row["name"] == "stock":
            assert row["of_stock"] == "1.00"
    decoded = [(row["name"], number(row["times"])) for row in DECODED.finditer(done.stdout)]
    assert [name for name, _ in decoded] == ["cfflow", "cfflow", "official SDK"]
    assert all(times >= 1 for _, times in decoded)
    together = TOGETHER.search(done.stdout)
    assert together is not None and 200 < number(together["size_b"]) < 5_000
    assert re.search(r"^  inquiries at the gateway +100$", done.stdout, re.MULTILINE)
    assert len(AIM.findall(done.stdout)) == 15


def test_the_benchmark_of_find_prints_a_row_for_each_question() -> None:
    """Each finds what it must in the calls that it must take."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.find", "--orders", "300"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^  .{32} +(\d+) +[\d.]+ +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    assert rows == ["1"] * 6
