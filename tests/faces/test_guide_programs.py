"""The programs of the guides run as they stand, and print what their pages say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfflow.emulator import EmulatorProcess
from tests.faces.pages_kit import page, play, prints, programs

pytestmark = pytest.mark.timeout(180)

#: How many programs each guide has: one that is not found would not run.
GUIDES = {"hotel": 1, "rental": 1, "checkout-page": 4, "paying-again": 1, "events": 1}
PROGRAMS = [
    pytest.param(program, shown, id=f"{name}-{number}")
    for name in GUIDES
    for number, (program, shown) in enumerate(programs(page(name)))
]


@pytest.mark.parametrize(("program", "shown"), PROGRAMS)
def test_a_program_prints_what_its_page_shows(
    program: str, shown: str, bank: EmulatorProcess, tmp_path: Path
) -> None:
    """Against a real emulator and a private Valkey, as a reader runs it."""
    output = play(program, tmp_path, bank)
    assert shown
    assert prints(shown, output), output


@pytest.mark.parametrize("name", GUIDES)
def test_every_program_of_a_guide_is_found(name: str) -> None:
    """A block that lost its imports would be a piece, and not run."""
    assert len([*programs(page(name))]) == GUIDES[name]


def test_three_dots_stand_for_text_within_a_line() -> None:
    """And for nothing else: a page that shows another output fails."""
    assert prints("a ... c\nb\n", "a x.y c\nb\n")
    assert not prints("a ... c\nb\n", "a x\ny c\nb\n")
    assert not prints("b\n", "a\n")
