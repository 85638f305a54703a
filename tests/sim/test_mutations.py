"""The simulation finds bugs: each deliberate one is found by one of the first thousand seeds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.sim.mutations import MUTATIONS
from tests.sim.world import simulate

_SEEDS = 1000


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_deliberate_bug_is_found(mutation: Callable[[], AbstractContextManager[None]]) -> None:
    """A rule that no seed can break would be no rule."""
    with mutation():
        assert any(simulate(seed).failed for seed in range(_SEEDS))
