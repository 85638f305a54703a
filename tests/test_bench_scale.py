"""The scale run: its rows, the verdicts on growth, and the plot."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.plot import svg_of
from bench.scale import Cost, growth_of

ROOT = Path(__file__).parent.parent
SIZES = (1_000, 10_000, 100_000, 1_000_000)


@pytest.mark.parametrize(
    ("last_ms", "shape"), [(0.5, "flat"), (1.25, "flat"), (2.0, "logarithmic"), (2.01, "faster")]
)
def test_growth_is_judged_by_its_numbers(last_ms: float, shape: str) -> None:
    """From 1,000 to 1,000,000 orders a logarithm doubles; more than that is too much."""
    growth = growth_of(SIZES, [Cost(1.0, 9.0), Cost(9.0, 9.0), Cost(9.0, 9.0), Cost(last_ms, 1.0)])
    assert growth.shape == shape
    assert growth.factor == last_ms
    assert growth.logarithm == pytest.approx(2.0)


def points(line: ET.Element) -> Sequence[tuple[float, float]]:
    """Return where a line of the plot leads."""
    pairs = re.findall(r"([\d.]+) ([\d.]+)", line.attrib["d"])
    return [(float(x), float(y)) for x, y in pairs]


def test_the_plot_has_a_line_and_a_name_for_each_call() -> None:
    """Both axes are logarithmic: ten times as many orders, or ms, are as far apart everywhere."""
    svg = svg_of("Cost <of> a call", SIZES, {"start": [1, 1, 1, 1], "a & b": [0.5, 1, 2, 4]})
    root = ET.fromstring(svg)  # noqa: S314  made above
    lines = [each for each in root.iter() if each.get("class") == "line"]
    flat, rising = points(lines[0]), points(lines[1])
    assert len({y for _, y in flat}) == 1
    steps_x = [b[0] - a[0] for a, b in itertools.pairwise(flat)]
    steps_y = [a[1] - b[1] for a, b in itertools.pairwise(rising)]
    assert max(steps_x) - min(steps_x) < 0.3
    assert max(steps_y) - min(steps_y) < 0.3
    assert min(steps_y) > 0
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert {"start", "a & b", "Cost <of> a call", "1,000,000"} <= set(texts)
    assert "prefers-color-scheme: dark" in svg


def test_the_names_of_lines_at_one_place_stand_below_each_other() -> None:
    """Names on top of each other could not be read; none leaves the picture."""
    names = [f"call {number}" for number in range(7)]
    root = ET.fromstring(svg_of("t", (1, 10), {key: [1.0, 1.0] for key in names}))  # noqa: S314  made here
    at = {each.text: float(each.attrib["y"]) for each in root.iter() if each.tag.endswith("text")}
    found = sorted(at[name] for name in names)
    assert min(b - a for a, b in itertools.pairwise(found)) >= 14
    assert found[0] > 0 and found[-1] < 400


@pytest.mark.parametrize(("sizes", "costs"), [((1,), [1.0]), ((1, 2), [1.0, 0.0])])
def test_a_plot_without_a_logarithm_is_refused(sizes: Sequence[int], costs: list[float]) -> None:
    """Zero has none, and one size is no line."""
    with pytest.raises(ValueError, match="a plot needs"):
        svg_of("t", sizes, {"a": costs})


def test_the_scale_run_prints_a_row_and_an_aim_for_each_call(tmp_path: Path) -> None:
    """At sizes that are too small to judge."""
    plot = tmp_path / "plot.svg"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.scale",
            "--sizes",
            "1000",
            "1100",
            "--times",
            "3",
            "--svg",
            str(plot),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^  (.{20})(?: +[\d.]+){5}  (?:flat|logarithmic|faster)$", done.stdout, re.MULTILINE
    )
    wanted = ["start", "pay", "lease of 64", "find, 100 of them", "purge, one order"]
    assert [row.strip() for row in rows] == [*wanted, "feed, one event"]
    assert len(re.findall(r"^  (?:met   |missed)  .*growth", done.stdout, re.MULTILINE)) == 6
    assert "<svg" in plot.read_text()
