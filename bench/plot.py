"""A plot of costs by size as SVG: log-log axes, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

__all__ = ["svg_of"]

_WIDTH: Final = 720
_HEIGHT: Final = 400
#: The edges of the plot itself; names of lines stand to the right of it.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 560, 44, 352
_LABEL_PX: Final = 16
#: Of middle brightness, so that they stand out against white and against black.
_COLORS: Final = ("#3b82f6", "#d97706", "#16a34a", "#e5484d", "#8b5cf6", "#0d9488", "#c026d3")
_DASHES: Final = ("none", "7 3", "2 3")
_STEPS: Final = (1, 2, 5)

_STYLE: Final = """\
<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.line { fill: none; stroke-width: 2 }
.link { stroke-width: 1 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #3d444d } }
</style>"""


class _Axis:
    """Places values on a line of pixels by their logarithm."""

    def __init__(self, low: float, high: float, first_px: float, last_px: float) -> None:
        self._low: Final = math.log10(low)
        self._px: Final = (last_px - first_px) / (math.log10(high) - self._low)
        self._first_px: Final = first_px

    def __call__(self, value: float) -> float:
        return round(self._first_px + (math.log10(value) - self._low) * self._px, 1)


def svg_of(title: str, sizes: Sequence[int], costs_ms: Mapping[str, Sequence[float]]) -> str:
    """Return the picture of lines by name; each has a cost in ms, above 0, for each size."""
    every = [cost for line in costs_ms.values() for cost in line]
    if len(sizes) < 2 or not every or min(every) <= 0:
        raise ValueError("a plot needs two sizes, and costs above 0")
    ticks = [*_ticks(min(every), max(every))]
    x = _Axis(sizes[0], sizes[-1], _LEFT, _RIGHT)
    y = _Axis(ticks[0], ticks[-1], _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        _STYLE,
        f'<text x="{_LEFT}" y="22">{escape(title)}</text>',
        *_grid(sizes, ticks, x, y),
        *_lines(sizes, costs_ms, x, y),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _ticks(low: float, high: float) -> Iterator[float]:
    """Yield 1, 2 and 5 times the powers of ten, from the last one below to the first one above."""
    steps = [
        step * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in _STEPS
    ]
    first = max(tick for tick in steps if tick <= low)
    last = min(tick for tick in steps if tick > high)
    yield from (tick for tick in steps if first <= tick <= last)


def _grid(sizes: Sequence[int], ticks: Sequence[float], x: _Axis, y: _Axis) -> Iterator[str]:
    for size in sizes:
        yield f'<path class="grid" d="M{x(size)} {_TOP}V{_BOTTOM}"/>'
        yield f'<text x="{x(size)}" y="{_BOTTOM + 20}" text-anchor="middle">{size:,}</text>'
    for tick in ticks:
        yield f'<path class="grid" d="M{_LEFT} {y(tick)}H{_RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
    middle = (_LEFT + _RIGHT) // 2
    yield f'<text x="{middle}" y="{_BOTTOM + 40}" text-anchor="middle">stored orders</text>'


def _lines(
    sizes: Sequence[int], costs_ms: Mapping[str, Sequence[float]], x: _Axis, y: _Axis
) -> Iterator[str]:
    """Yield each line with its dots and its name, the names below one another."""
    label_y = _spread({name: y(line[-1]) for name, line in costs_ms.items()})
    for number, (name, line) in enumerate(costs_ms.items()):
        color = _COLORS[number % len(_COLORS)]
        dash = _DASHES[number % len(_DASHES)]
        points = [(x(size), y(cost)) for size, cost in zip(sizes, line, strict=True)]
        path = "L".join(f"{at_x} {at_y}" for at_x, at_y in points)
        yield f'<path class="line" stroke="{color}" stroke-dasharray="{dash}" d="M{path}"/>'
        for at_x, at_y in points:
            yield f'<circle cx="{at_x}" cy="{at_y}" r="3.5" fill="{color}"/>'
        ends = f"M{_RIGHT + 6} {points[-1][1]}L{_RIGHT + 20} {label_y[name]}"
        yield f'<path class="link" stroke="{color}" d="{ends}"/>'
        yield f'<text x="{_RIGHT + 24}" y="{label_y[name] + 4}">{escape(name)}</text>'


def _spread(wanted: Mapping[str, float]) -> dict[str, float]:
    """Return where each name stands: at its line, or as far below as the names above need."""
    placed: dict[str, float] = {}
    free = float(_TOP)
    for name, at_y in sorted(wanted.items(), key=lambda item: item[1]):
        placed[name] = max(at_y, free)
        free = placed[name] + _LABEL_PX
    # Too many at the bottom push the last ones out: then all of them move up.
    over = max(0.0, free - _LABEL_PX - (_HEIGHT - 8))
    return {name: round(at_y - over, 1) for name, at_y in placed.items()}
