"""Curves as inline SVG: no script, no network, and the page's own colours in light and in dark.

y is drawn as log10 y when all values are positive and the largest is over DECADES powers of ten above the smallest
bold     the running median of a window of 1/40 of the curve       faint     every logged value
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence

Point = tuple[float, float]
WIDTH, HEIGHT = 560, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 30
DECADES = 1.5
POINTS = 600  # of a curve in the page; of more, every k-th is drawn
HUES = 6  # classes c0 … c5 of the style sheet


def chart(curves: Mapping[str, Sequence[Point]], label: str, marks: Mapping[float, str] | None = None) -> str:
    """One figure of several curves (name → points); `marks` are vertical lines with a word each. "" without points."""
    curves = {name: list(points) for name, points in curves.items() if points}
    if not curves:
        return ""
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    log = min(ys) > 0 and math.log10(max(ys) / min(ys)) > DECADES
    height = (lambda y: math.log10(y)) if log else (lambda y: y)
    low, high = _room(height(min(ys)), height(max(ys)))
    first, last = min(xs), max(xs)
    across = lambda x: LEFT + (x - first) / max(last - first, 1e-12) * (WIDTH - LEFT - RIGHT)
    up = lambda y: HEIGHT - BOTTOM - (height(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">']
    for value, word in _decades(low, high) if log else [(v, number(v)) for v in ticks(low, high, 4)]:
        y = up(value)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{word}</text>')
    for value in ticks(first, last, 5):
        parts.append(f'<text x="{across(value):.1f}" y="{HEIGHT - 9}" text-anchor="middle">{number(value)}</text>')
    for value, word in (marks or {}).items():
        if first <= value <= last:
            parts.append(f'<path class="mark" d="M{across(value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(f'<text x="{across(value) + 4:.1f}" y="{TOP + 10}">{html.escape(word)}</text>')
    for place, points in enumerate(curves.values()):
        raw = points[:: max(1, len(points) // POINTS)]
        hue = f"c{place % HUES}"
        if len(raw) > 20:
            parts.append(f'<path class="raw {hue}" d="{_path(raw, across, up)}"/>')
        parts.append(f'<path class="line {hue}" d="{_path(smooth(raw), across, up)}"/>')
    parts.append("</svg>")
    return "".join(parts) + _legend(curves)


def _legend(curves: Mapping[str, Sequence[Point]]) -> str:
    items = [
        f'<li><i class="c{place % HUES}"></i>{html.escape(name)} <b>{number(points[-1][1])}</b></li>'
        for place, (name, points) in enumerate(curves.items())
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _path(points: Sequence[Point], across, up) -> str:
    return "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in points)


def smooth(points: Sequence[Point]) -> list[Point]:
    """The median of the neighbours within 1/40 of the curve; a curve of up to 20 points is left as it is."""
    reach = len(points) // 80 if len(points) > 20 else 0
    return [
        (x, statistics.median(p[1] for p in points[max(0, i - reach) : i + reach + 1]))
        for i, (x, _) in enumerate(points)
    ]


def _room(low: float, high: float) -> tuple[float, float]:
    """A little air above and below; a flat curve gets some too."""
    air = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - air, high + air


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers, a step of 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    powers = range(math.ceil(low), math.floor(high) + 1)
    thin = max(1, len(powers) // 5)
    return [(10.0**k, number(10.0**k)) for k in powers if k % thin == 0]


def number(value: float) -> str:
    """Short and without false digits: 12k, 0.003, 1.2e-5."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.0e}".replace("e-0", "e-")
