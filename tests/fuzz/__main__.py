"""Throw spoiled inputs at everything that reads: `python -m tests.fuzz --inputs 1000000`.

The inputs are shared out among the targets by weight; `--target` names one. A finding is
told with the command that replays it: `--target T --seed N` draws the same input again,
after those that share its state. The exit status is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Final

from tests.fuzz.runner import Report, Target, replay_command, rng_of, run_seeds
from tests.fuzz.targets import TARGETS, run_share

#: So many findings of a target are told; one fault is often met a thousand times.
_TOLD_MAX: Final = 10

_PROGRESS: Final = 100_000


def main() -> int:
    """Run what the command line names and return the exit status."""
    asked = _arguments()
    chosen = [TARGETS[name] for name in ([asked.target] if asked.target else TARGETS)]
    if asked.seed is not None:
        return _replay(chosen[0], asked.seed)
    began_s = time.monotonic()
    totals = {target.name: Report(target.name) for target in chosen}
    try:
        for report in _reports(list(_shares(chosen, asked.first, asked.inputs)), asked.workers):
            totals[report.target].add(report)
            _tell_progress(sum(total.tried for total in totals.values()), report.tried)
    except BrokenProcessPool:
        _say("FAILED: a process died, its stack is above; the totals are of what was done before")
        return 1
    finally:
        _tell(totals.values(), time.monotonic() - began_s)
    return int(any(report.findings for report in totals.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="how many, of all targets")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--seed", type=int, help="replay one input of --target")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args()
    if asked.seed is not None and asked.target is None:
        parser.error("--seed needs --target")
    return asked


def _shares(chosen: list[Target], first: int, inputs: int) -> Iterator[tuple[str, range]]:
    """Yield (target, seeds) until all inputs are given out, each chunk for one state."""
    whole = sum(target.weight for target in chosen)
    for target in chosen:
        last = first + -(-inputs * target.weight // whole)
        for start in range(first, last, target.chunk):
            yield target.name, range(start, min(start + target.chunk, last))


def _reports(shares: list[tuple[str, range]], workers: int) -> Iterator[Report]:
    """Yield the reports in any order."""
    if workers == 1:
        yield from map(run_share, shares)
        return
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawned) as pool:
        waiting = {pool.submit(run_share, share): share for share in shares}
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield done.result()
                del waiting[done]
        except BrokenProcessPool:
            name, seeds = next(share for done, share in waiting.items() if done.done())
            _say(f"no end of --target {name} --first {seeds.start} --inputs {len(seeds)}")
            raise


def _replay(target: Target, seed: int) -> int:
    """Show one input and what came of it, after the inputs that share its state."""
    report = run_seeds(target, range(seed - seed % target.chunk, seed + 1))
    probe = target.begin()
    _say(f"input: {probe.draw(rng_of(target, seed))!r}"[:4000])
    probe.close()
    found = [finding for finding in report.findings if finding.seed == seed]
    for finding in found:
        _say(f"FAILED: {finding.what}")
    if not found:
        _say("nothing found")
    return int(bool(found))


def _tell_progress(tried: int, now: int) -> None:
    """Say every hundred thousand inputs that there is no end yet."""
    if tried // _PROGRESS > (tried - now) // _PROGRESS:
        _say(f"{tried} inputs tried")


def _tell(reports: Iterable[Report], took_s: float) -> None:
    tried = found = 0
    for report in reports:
        tried, found = tried + report.tried, found + len(report.findings)
        _say(
            f"{report.target:14} {report.tried:8} inputs: {report.good} good,"
            f" {report.refused} refused; {report.took_s:.0f} s, slowest"
            f" {report.slowest_s * 1000:.0f} ms (seed {report.slowest_seed}),"
            f" peak {report.peak_b >> 20} MiB"
        )
        for finding in report.findings[:_TOLD_MAX]:
            _say(f"  FAILED: {finding.what}\n    {replay_command(finding)}")
    _say(f"{tried} inputs in {took_s:.0f} s: {found} findings")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
