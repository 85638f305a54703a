"""Spoiled inputs for everything that reads what others wrote, and proof that the judge sees.

`make fuzz` tries a hundred times as many, other ones in every run.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cfflow.errors import CfflowError
from tests.fuzz.judge import Broken, Target, judge, peak_b
from tests.fuzz.targets import TARGETS

#: Every text is refused by one of its readers at least.
_NEVER_GOOD: Final = {"texts"}

_IS_LONG: Final = settings.get_current_profile_name() == "fuzz"
_PROFILE: Final = settings.get_profile("fuzz" if _IS_LONG else "fuzz_short")
_SHORT: Final = settings.get_profile("fuzz_short").max_examples


def tried(target: Target, *phases: Phase, inputs: int = 0) -> Counter[bool]:
    """Try a target's inputs and count the good (True) and the refused ones."""
    count = Counter[bool]()

    @settings(
        _PROFILE,
        max_examples=inputs or target.inputs * _PROFILE.max_examples // _SHORT,
        phases=phases or tuple(Phase),
        report_multiple_bugs=False,
    )
    @given(given=target.strategy)
    def try_one(given: object) -> None:
        count[judge(target, given)] += 1

    try_one()
    return count


@pytest.mark.timeout(0 if _IS_LONG else 120)
@pytest.mark.parametrize("name", TARGETS)
def test_no_spoiled_input_does_what_no_input_may(name: str) -> None:
    """Errors of the tree only, in time, in little memory; no secret shown, no state changed."""
    count = tried(TARGETS[name])
    # Some inputs are still good: where all are refused at the door, nothing behind it is tried.
    assert count.total() >= min(50, TARGETS[name].inputs)
    assert (count[True] > 0) is (name not in _NEVER_GOOD)


class Planted:
    """Code with a fault that only some inputs meet."""

    def __init__(self, fault: Callable[[bytes], None]) -> None:
        self._fault = fault

    def attempt(self, given: bytes) -> None:
        """Fail where the fault is met."""
        if b"null" in given:
            self._fault(given)

    def close(self) -> None:
        """Nothing is open."""


def judged(fault: Callable[[bytes], None]) -> bool:
    """Return what the judge makes of code with this fault and an input that meets it."""
    target = Target(lambda: Planted(fault), st.nothing(), (CfflowError,), ("4111-secret",))
    return judge(target, b"null")


def test_an_input_that_fails_is_shrunk_to_what_makes_it_fail() -> None:
    """Hypothesis shows the smallest input that does it."""
    met: list[bytes] = []

    def fault(given: bytes) -> None:
        met.append(given)
        raise KeyError("amount")

    inputs = st.lists(st.sampled_from([b"null", b"1", b"{}"])).map(b",".join)
    target = Target(lambda: Planted(fault), inputs, (CfflowError,))
    with pytest.raises(Broken, match="KeyError"):
        tried(target, Phase.generate, Phase.shrink)
    assert met[-1] == b"null"


def test_a_secret_in_an_error_of_the_tree_is_found() -> None:
    """Also in an error that it was raised from."""

    def fault(given: bytes) -> None:
        try:
            raise ValueError("4111-secret")
        except ValueError as inner:
            raise CfflowError("refused") from inner

    with pytest.raises(Broken, match="shows a secret"):
        judged(fault)


def test_a_secret_in_an_error_that_no_traceback_shows_is_permitted() -> None:
    """`from None` keeps the inner error out of every traceback."""

    def fault(given: bytes) -> None:
        try:
            raise ValueError("4111-secret")
        except ValueError:
            raise CfflowError("refused") from None

    assert judged(fault) is False


def test_an_input_without_an_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's time is limited, whatever the code does to errors."""
    monkeypatch.setattr("tests.fuzz.judge.TIME_MAX_S", 0.05)

    def fault(given: bytes) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001  what hangs catches everything
                given += b"x"

    with pytest.raises(Broken, match="took more than"):
        judged(fault)


def test_an_input_that_takes_memory_is_found() -> None:
    """A few bytes must not become a hundred million."""
    # More than this process has ever had, whatever ran in it before.
    size_b = peak_b() + (128 << 20)

    def fault(given: bytes) -> None:
        if bytearray(os.urandom(1)) * size_b == b"":
            raise KeyError

    with pytest.raises(Broken, match="MiB of memory"):
        judged(fault)


@pytest.mark.parametrize("name", ["notifications", "steps", "flows", "feed", "emulator"])
def test_what_was_tried_leaves_nothing_behind(name: str) -> None:
    """The same inputs again take no more memory than they took before."""
    inputs: list[object] = []
    target = TARGETS[name]

    @settings(_PROFILE, max_examples=20, phases=[Phase.generate])
    @given(given=target.strategy)
    def draw(given: object) -> None:
        inputs.append(given)

    def try_all() -> int:
        for drawn in inputs:
            judge(target, drawn)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    draw()
    assert len(inputs) >= 20
    tracemalloc.start(1)
    try:
        before_b, after_b = try_all(), try_all()
        _, most_b = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after_b - before_b < 100_000
    assert most_b < 32 << 20
