"""The simulation finds bugs: each deliberate bug fails the seed that is recorded for it."""

from __future__ import annotations

from itertools import chain

import pytest

from tests.sim.mutations import MUTATIONS, Mutation
from tests.sim.world import simulate

#: If the recorded seed does not find a bug any more, so many others are tried.
_SEEDS = 1000
#: The search may take many worlds.
pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_deliberate_bug_is_found(mutation: Mutation) -> None:
    """Some seed fails with the bug and passes without it."""
    seeds = chain([MUTATIONS[mutation].seed], range(_SEEDS))
    assert any(_finds(seed, mutation) for seed in seeds)


def _finds(seed: int, mutation: Mutation) -> bool:
    where = MUTATIONS[mutation]
    with mutation():
        found = simulate(seed, rough=True, faults=where.faults, several=where.several).failed
    return (
        found and not simulate(seed, rough=True, faults=where.faults, several=where.several).failed
    )
