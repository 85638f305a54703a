"""A few hundred simulated worlds; `make sim` runs ten thousand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.core import schedule_model
from tests.reached import Reached
from tests.sim import books, rules
from tests.sim.world import simulate

_SEEDS = 304
#: The work is many worlds, so a busy machine needs longer than one test usually may take.
pytestmark = pytest.mark.timeout(400)
_PARTS = 8

#: Together these worlds reach every branch of the rules. Where one does so no more, others may.
_REACHING = (43, 180, 1, 117, 2, 16, 18, 60, 119, 164, 215)
_REACH_SEEDS = 400


@pytest.mark.parametrize("part", range(_PARTS))
def test_nothing_is_lost_or_done_twice_in_any_world(part: int) -> None:
    """design.md#invariants hold with every fault of network, store and processes."""
    for seed in range(part, _SEEDS, _PARTS):
        result = simulate(seed)
        if result.failed:
            printed = "\n".join((*result.trouble, *result.story))
            pytest.fail(f"replay: python -m tests.sim --seed {seed}\n{printed}", pytrace=False)


def test_every_branch_of_the_rules_is_reached() -> None:
    """A check that no world reaches holds nothing; only its complaints may stay unreached."""
    reached = Reached(books, rules, schedule_model)
    with reached.watching():
        # A pay that follows one which the store has lost is rare.
        result = simulate(49, rough=True, faults=("busy", "lost_before"), several=False)
    assert not result.failed, result.trouble
    for seed in (*_REACHING, *range(_REACH_SEEDS)):
        with reached.watching():
            result = simulate(seed, rough=seed % 2 == 0)
        assert not result.failed, result.trouble
        if not reached.missing:
            return
    assert reached.missing == []


def test_a_seed_gives_the_same_story_every_time() -> None:
    """What failed once fails again, to the last line."""
    stories = [simulate(88, keep_story=True).story for _ in range(2)]
    assert len(stories[0]) > 100
    assert stories[0] == stories[1]


@pytest.mark.parametrize("hashing", ["1", "2"])
def test_a_seed_gives_the_same_story_in_every_process(hashing: str) -> None:
    """The story depends neither on the order of sets nor on memory addresses."""
    command = [sys.executable, "-m", "tests.sim", "--seed", "88"]
    printed = subprocess.run(
        command, env={"PYTHONHASHSEED": hashing}, capture_output=True, text=True, check=True
    )
    assert tuple(printed.stdout.splitlines()[:-1]) == simulate(88, keep_story=True).story
