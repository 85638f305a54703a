"""Run the simulation: `python -m tests.sim --seeds 10000`, or `--seed 123` for its story.

A failing seed is printed with the command that replays it and its story. The exit status is
1 if any seed failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from tests.sim.world import Result, simulate

#: Stories of so many failing seeds are printed; of the others, only what went wrong.
_STORIES_MAX = 3

#: So many seeds go to a process at once.
_CHUNK = 25


def main() -> int:
    """Run the seeds that the command line names and return the exit status."""
    asked = _arguments()
    if asked.seed is not None:
        result = simulate(asked.seed, keep_story=True)
        _print("\n".join(result.story))
        _print(_verdict(result))
        return int(result.failed)
    seeds = range(asked.first, asked.first + asked.seeds)
    began_s = time.monotonic()
    failed = done = steps = 0
    for result in _results(seeds, asked.workers):
        done, steps = done + 1, steps + result.steps
        if result.failed:
            failed += 1
            _print_failure(result, story=failed <= _STORIES_MAX)
        if done % 1000 == 0 or done == len(seeds):
            took_s = time.monotonic() - began_s
            speed = f"{took_s:.0f} s, {done / took_s:.0f} a second"
            _print(f"{done} seeds in {speed}, {steps} callbacks: {failed} failed")
    return int(failed > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed and print its story")
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


def _results(seeds: range, workers: int) -> Iterator[Result]:
    """Yield the results in any order."""
    if workers == 1:
        yield from map(simulate, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(simulate, seeds, chunksize=_CHUNK)


def _print_failure(result: Result, *, story: bool) -> None:
    _print(_verdict(result))
    if story:
        _print("\n".join(result.story))
        _print(_verdict(result))


def _verdict(result: Result) -> str:
    if not result.failed:
        return f"seed {result.seed}: {result.steps} steps, nothing found"
    lines = [f"seed {result.seed} FAILED; replay it with: python -m tests.sim --seed {result.seed}"]
    return "\n".join([*lines, *(f"  {what}" for what in result.trouble)])


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
