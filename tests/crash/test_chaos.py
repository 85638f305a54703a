"""A short run of the chaos; `make chaos` runs for a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.crash.chaos import Verdict

_SECONDS: Final = "12"
_SEED: Final = "15"


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    """The auditor's verdict on a run in processes of its own."""
    command = [sys.executable, "-m", "tests.crash.chaos", "--json"]
    done = subprocess.run(
        [*command, "--seconds", _SECONDS, "--seed", _SEED],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    return msgspec.json.decode(done.stdout, type=Verdict)


def test_nothing_is_taken_twice_and_nothing_is_lost(verdict: Verdict) -> None:
    """Every payment is final, waits for a customer, or has a review, in spite of the kills."""
    assert verdict.findings == []


def test_every_kind_of_process_was_killed_and_money_moved(verdict: Verdict) -> None:
    """The run had enough kills, faults and money, so that the audit means something."""
    assert min(verdict.killed.get(kind, 0) for kind in ("driver", "worker", "redis")) >= 2
    assert min(verdict.effects.get(effect, 0) for effect in ("captured", "voided")) >= 5
    assert verdict.faults >= 20
