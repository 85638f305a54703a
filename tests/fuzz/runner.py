"""Runs a target over seeds: every input is drawn from its seed, tried within limits and judged.

A finding is one of four things: an error of a kind that the target does not permit, a
secret of the input in an error's text, an input that takes too long, or one that takes
too much memory. A target says further ones by raising `Broken`.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any, Final, Protocol

__all__ = ["Broken", "Finding", "Probe", "Report", "Target", "replay_command", "run_seeds"]

#: So much of the processor one input may use, in seconds; a busy machine does not count.
TIME_MAX_S: Final = 2.0

#: So much one input may add to the most memory that this process ever had.
MEMORY_MAX_B: Final = 96 << 20

_SHOWN_MAX: Final = 400
_MAXRSS_UNIT_B: Final = 1 if sys.platform == "darwin" else 1024


class Broken(Exception):
    """A promise that an input has broken, in words."""


class TooSlow(BaseException):
    """An input used up its time. No handler of the code under test catches this."""


class Probe(Protocol):
    """What inputs are tried on: its state lives as long as one chunk of seeds."""

    def draw(self, rng: Random) -> Any:
        """Return an input."""
        ...

    def attempt(self, given: Any) -> None:
        """Try an input; whatever the code under test raises comes out."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(frozen=True)
class Target:
    """One thing to throw inputs at.

    `permitted` may be raised, and tells no `secrets`. `weight`: its share of a long run.
    `chunk`: so many seeds share one state, which begins anew with each chunk.
    """

    name: str
    begin: Callable[[], Probe]
    permitted: tuple[type[Exception], ...]
    secrets: tuple[str, ...] = ()
    weight: int = 1
    chunk: int = 500


@dataclass(frozen=True)
class Finding:
    """What one input did that no input may do."""

    target: str
    seed: int
    what: str


@dataclass
class Report:
    """What came of some inputs of one target."""

    target: str
    tried: int = 0
    good: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest_seed: int = -1
    took_s: float = 0.0
    peak_b: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Count another report of the same target in."""
        self.tried += other.tried
        self.good += other.good
        self.refused += other.refused
        self.took_s += other.took_s
        self.peak_b = max(self.peak_b, other.peak_b)
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest_seed = other.slowest_s, other.slowest_seed
        self.findings.extend(other.findings)


def replay_command(finding: Finding) -> str:
    """Return the command that shows a finding again."""
    return f"python -m tests.fuzz --target {finding.target} --seed {finding.seed}"


def rng_of(target: Target, seed: int) -> Random:
    """Return the randomness of one input: the same on every machine, in every process."""
    return Random(f"{target.name}:{seed}")


def run_seeds(target: Target, seeds: range) -> Report:
    """Try the inputs of these seeds, each chunk of them on a state of its own."""
    report, began_s = Report(target.name), time.process_time()
    probe, chunk = target.begin(), seeds.start // target.chunk
    try:
        with _limited_time():
            for seed in seeds:
                if seed // target.chunk != chunk:
                    probe.close()
                    probe, chunk = target.begin(), seed // target.chunk
                if not _try(target, probe, seed, report):
                    # Cut off in the middle, its state means nothing any more.
                    probe = target.begin()
    finally:
        probe.close()
    report.took_s, report.peak_b = time.process_time() - began_s, peak_b()
    return report


def _try(target: Target, probe: Probe, seed: int, report: Report) -> bool:
    """Try one input; False when the probe cannot be used again."""
    given = probe.draw(rng_of(target, seed))
    before_b, began_s = peak_b(), time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, TIME_MAX_S)
    what, cut_off = "", False
    try:
        probe.attempt(given)
        report.good += 1
    except TooSlow as slow:
        what, cut_off = f"took more than {TIME_MAX_S:g} s of the processor, {_place(slow)}", True
    except Exception as error:  # noqa: BLE001  any that is not permitted is a finding
        report.refused += 1
        what = _judged(target, error)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    took_s, grown_b = time.process_time() - began_s, peak_b() - before_b
    report.tried += 1
    if took_s > report.slowest_s:
        report.slowest_s, report.slowest_seed = took_s, seed
    if grown_b > MEMORY_MAX_B:
        what = what or f"took {grown_b >> 20} MiB of memory"
    if what:
        report.findings.append(Finding(target.name, seed, what))
    return not cut_off


def _judged(target: Target, error: Exception) -> str:
    """Return what is wrong with an error, "" if nothing is."""
    if isinstance(error, Broken):
        return str(error)[:_SHOWN_MAX]
    told = "\n".join(texts_of(error))
    leaked = [secret for secret in target.secrets if secret in told]
    if leaked:
        return f"{type(error).__name__} tells a secret of its input, {_place(error)}"
    if isinstance(error, target.permitted):
        return ""
    return f"{type(error).__name__}: {str(error)[:_SHOWN_MAX]!r}, {_place(error)}"


def texts_of(error: BaseException) -> Iterator[str]:
    """Yield what an error and the errors shown with it say."""
    seen: BaseException | None = error
    while seen is not None:
        yield str(seen)
        yield repr(seen)
        hidden = seen.__cause__ is None and seen.__suppress_context__
        seen = None if hidden else seen.__cause__ or seen.__context__


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "nowhere"
    last = frames[-1]
    ours = next((f for f in reversed(frames) if "/cfflow/" in f.filename), last)
    names = dict.fromkeys((f"{ours.filename}:{ours.lineno}", f"{last.filename}:{last.lineno}"))
    return f"at {' through '.join(names)}"


def peak_b() -> int:
    """Return the most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT_B


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """Let the timer of the processor's time raise `TooSlow` in the code that runs."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
