"""A few hundred simulated worlds; `make sim` runs ten thousand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sim.world import simulate

_SEEDS = 304
_PARTS = 8


@pytest.mark.parametrize("part", range(_PARTS))
def test_nothing_is_lost_or_done_twice_in_any_world(part: int) -> None:
    """Whatever the network, the store and the processes do: design.md#invariants hold."""
    for seed in range(part, _SEEDS, _PARTS):
        result = simulate(seed)
        if result.failed:
            told = "\n".join((*result.trouble, *result.story))
            pytest.fail(f"replay: python -m tests.sim --seed {seed}\n{told}", pytrace=False)


def test_a_seed_tells_the_same_story_every_time() -> None:
    """What failed once fails again, to the last line."""
    stories = [simulate(88, keep_story=True).story for _ in range(2)]
    assert len(stories[0]) > 100
    assert stories[0] == stories[1]


@pytest.mark.parametrize("hashing", ["1", "2"])
def test_a_seed_tells_the_same_story_in_every_process(hashing: str) -> None:
    """Neither the order of sets nor where things lie in memory plays a part."""
    command = [sys.executable, "-m", "tests.sim", "--seed", "88"]
    told = subprocess.run(
        command, env={"PYTHONHASHSEED": hashing}, capture_output=True, text=True, check=True
    )
    assert tuple(told.stdout.splitlines()[:-1]) == simulate(88, keep_story=True).story
