"""Tries one input within limits, and fails if it does what no input may.

An input must not raise an error of a kind that its target does not permit, show a secret in
an error's text, take too long, or take too much memory. A probe states what else must hold
by raising `Broken`. Hypothesis draws the inputs, and shrinks and keeps those that fail.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, Protocol

from hypothesis.strategies import SearchStrategy

__all__ = ["Broken", "Probe", "Target", "judge", "peak_b", "texts_of"]

#: The processor time that one input may take. A busy machine does not count.
TIME_MAX_S: Final = 2.0

#: By so much one input may raise the most memory that this process ever had.
MEMORY_MAX_B: Final = 96 << 20

_MAXRSS_UNIT_B: Final = 1 if sys.platform == "darwin" else 1024


class Broken(AssertionError):
    """What an input did that no input may do."""


class TooSlow(BaseException):
    """An input used up its time. No handler of the code under test catches this."""


class Probe(Protocol):
    """The code under test, in a state that lives for one input."""

    def attempt(self, given: Any) -> None:
        """Try an input. Whatever the code under test raises comes out."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


@dataclass(frozen=True)
class Target:
    """One thing to try inputs on.

    `permitted`: the errors that an input may raise, and that show none of the `secrets`.
    `inputs`: how many the short run of `make test` tries. `make fuzz` tries a multiple.
    """

    begin: Callable[[], Probe]
    strategy: SearchStrategy[Any]
    permitted: tuple[type[Exception], ...]
    secrets: tuple[str, ...] = ()
    inputs: int = 100


def judge(target: Target, given: Any) -> bool:
    """Try an input on a fresh probe. Return whether it was good, False where it was refused.

    Raises `Broken` for what no input may do.
    """
    with closing(target.begin()) as probe:
        before_b, good = peak_b(), False
        try:
            with _limited_time():
                probe.attempt(given)
            good = True
        except TooSlow:
            raise Broken(f"took more than {TIME_MAX_S:g} s of the processor") from None
        except Broken:
            raise
        except Exception as error:
            if problem := _problem(target, error):
                raise Broken(problem) from error
        if (grown_b := peak_b() - before_b) > MEMORY_MAX_B:
            raise Broken(f"took {grown_b >> 20} MiB of memory")
    return good


def _problem(target: Target, error: Exception) -> str:
    """Return what is wrong with an error, "" if nothing is."""
    texts = "\n".join(texts_of(error))
    if any(secret in texts for secret in target.secrets):
        return f"{type(error).__name__} shows a secret of its input"
    if isinstance(error, target.permitted):
        return ""
    return f"{type(error).__name__}: {str(error)[:400]!r}"


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield the texts of an error and of the errors that a traceback shows with it."""
    seen: BaseException | None = error
    while seen is not None:
        yield str(seen)
        yield repr(seen)
        hidden = seen.__cause__ is None and seen.__suppress_context__
        seen = None if hidden else seen.__cause__ or seen.__context__


def peak_b() -> int:
    """Return the most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT_B


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Raise `TooSlow` in the code that runs once its processor time is used up."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, TIME_MAX_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
