"""A short run of the fuzzer over everything that reads, and proof that the fuzzer sees."""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cfflow.errors import CfflowError
from tests.fuzz.mutate import spoil_tree, tree_of
from tests.fuzz.runner import Report, Target, peak_b, replay_command, rng_of, run_seeds
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]

#: So many inputs of each target in the short run; `make fuzz` has the long one.
SHORT = {
    "notifications": 700,
    "answers": 700,
    "steps": 150,
    "stored": 2_000,
    "payments": 300,
    "feed": 300,
    "flows": 500,
    "catalog": 50,
    "bank": 800,
    "emulator": 400,
    "texts": 500,
}

# They share one corpus, which takes a second to make.


class Planted:
    """Code with a fault that only few inputs meet."""

    def __init__(self, fault: Callable[[bytes], None]) -> None:
        self._fault = fault
        self._tree = tree_of('{"amount": 1.00, "status": "SUCCESS", "parts": [1, 2]}')

    def draw(self, rng: Random) -> bytes:
        """Return a spoiled answer."""
        return spoil_tree(self._tree, rng)

    def attempt(self, given: bytes) -> None:
        """Fail where the fault is met."""
        if b"null" in given:
            self._fault(given)

    def close(self) -> None:
        """Nothing is open."""


def planted(fault: Callable[[bytes], None], inputs: int = 2_000) -> Report:
    """Return what the fuzzer says of code with this fault."""
    target = Target("planted", lambda: Planted(fault), (CfflowError,), secrets=("4111-secret",))
    return run_seeds(target, range(inputs))


@cache
def short_run(name: str) -> Report:
    """Return what came of the short run of a target."""
    return run_seeds(TARGETS[name], range(SHORT[name]))


@pytest.mark.parametrize("name", TARGETS)
def test_no_spoiled_input_does_what_no_input_may(name: str) -> None:
    """Errors of the tree only, in time, in little memory, no secret told, no state touched."""
    findings = short_run(name).findings
    assert [f"{replay_command(finding)}: {finding.what}" for finding in findings] == []


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"texts", "payments"}))
def test_some_spoiled_inputs_are_still_good(name: str) -> None:
    """Where everything is refused at the door, nothing behind it is tried."""
    report = short_run(name)
    assert report.good > 0
    assert report.good + report.refused == SHORT[name]


def test_an_error_from_outside_the_tree_is_found() -> None:
    """The finding names its kind and the command that replays it."""

    def fault(given: bytes) -> None:
        raise KeyError("amount")

    report = planted(fault)
    assert report.findings
    assert all(finding.what.startswith("KeyError: ") for finding in report.findings)
    first = report.findings[0]
    assert replay_command(first) == f"python -m tests.fuzz --target planted --seed {first.seed}"


def test_a_finding_is_met_again_by_its_seed() -> None:
    """One seed alone draws the same input again."""

    def fault(given: bytes) -> None:
        raise KeyError(given)

    first = planted(fault).findings[0]
    target = Target("planted", lambda: Planted(fault), (CfflowError,))
    assert run_seeds(target, range(first.seed, first.seed + 1)).findings == [first]


def test_a_secret_in_an_error_of_the_tree_is_found() -> None:
    """Also in an error that it was raised from."""

    def fault(given: bytes) -> None:
        try:
            raise ValueError("4111-secret")
        except ValueError as inner:
            raise CfflowError("refused") from inner

    assert "tells a secret" in planted(fault).findings[0].what


def test_a_secret_in_a_hidden_error_is_none_of_anybodys() -> None:
    """`from None` keeps the inner error out of every traceback."""

    def fault(given: bytes) -> None:
        try:
            raise ValueError("4111-secret")
        except ValueError:
            raise CfflowError("refused") from None

    assert planted(fault).findings == []


def test_an_input_without_an_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's time is limited, whatever the code does to errors."""
    monkeypatch.setattr("tests.fuzz.runner.TIME_MAX_S", 0.05)

    def fault(given: bytes) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001  what hangs catches everything
                given += b"x"

    assert "took more than" in planted(fault, 400).findings[0].what


def test_an_input_that_takes_memory_is_found() -> None:
    """A few bytes must not become a hundred million."""
    # More than this process has ever had, whatever ran in it before.
    size_b = peak_b() + (128 << 20)

    def fault(given: bytes) -> None:
        if bytearray(os.urandom(1)) * size_b == b"":
            raise KeyError

    assert "MiB of memory" in planted(fault, 400).findings[0].what


@pytest.mark.parametrize("name", ["notifications", "steps", "flows", "feed", "emulator"])
def test_what_was_tried_leaves_nothing_behind(name: str) -> None:
    """The same inputs again take no more memory than they took before."""
    target, seeds = TARGETS[name], range(20)
    tracemalloc.start(1)
    try:
        run_seeds(target, seeds)
        gc.collect()
        before_b, _ = tracemalloc.get_traced_memory()
        run_seeds(target, seeds)
        gc.collect()
        after_b, peak_b = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after_b - before_b < 100_000
    assert peak_b < 32 << 20


def digest() -> str:
    """Return a digest of the first inputs of every target."""
    drawn = []
    for target in TARGETS.values():
        probe = target.begin()
        drawn += [repr(probe.draw(rng_of(target, seed))) for seed in range(20)]
        probe.close()
    return hashlib.sha256("\n".join(drawn).encode("utf-8", "surrogatepass")).hexdigest()


def test_a_seed_draws_the_same_input_in_every_process() -> None:
    """What one machine found, another one replays."""
    code = "from tests.fuzz.test_fuzz import digest; print(digest())"
    told: Any = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == digest()
