"""The simulation finds bugs: each deliberate bug fails one of the first thousand seeds."""

from __future__ import annotations

import pytest

from tests.sim.mutations import MUTATIONS, Mutation
from tests.sim.world import simulate

_SEEDS = 1000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_deliberate_bug_is_found(mutation: Mutation) -> None:
    """Some seed fails with the bug and passes without it."""
    assert any(_finds(seed, mutation) for seed in range(_SEEDS))


def _finds(seed: int, mutation: Mutation) -> bool:
    faults = MUTATIONS[mutation]
    with mutation():
        found = simulate(seed, rough=True, faults=faults).failed
    return found and not simulate(seed, rough=True, faults=faults).failed
