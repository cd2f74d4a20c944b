"""Small drawings as SVG without scripts or styles of their own; classes take their colours from the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike

WIDTH, HEIGHT = 240, 64
NUM_BINS = 32
MAX_POINTS = 300


def histogram(values: ArrayLike, marks: Sequence[tuple[str, float]] = (), label: str = "") -> Markup:
    """Counts of ``values`` in 32 equal bins, with a vertical line at each of ``marks`` (class, value). Values are finite."""
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        return Markup("")
    edges = [value for _, value in marks]
    low, high = min([float(numbers.min()), *edges]), max([float(numbers.max()), *edges])
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(numbers, NUM_BINS, (low, high))
    step, top = WIDTH / NUM_BINS, max(1, int(counts.max()))
    bars = "".join(
        f'<rect class="bar" x="{index * step:.1f}" y="{HEIGHT - 14 - 44 * count / top:.1f}" width="{step - 1:.1f}"'
        f' height="{44 * count / top:.1f}"/>'
        for index, count in enumerate(counts.tolist())
        if count
    )
    lines = "".join(
        f'<line class="mark {escape(name)}" x1="{_place(value, low, high):.1f}" x2="{_place(value, low, high):.1f}"'
        f' y1="2" y2="{HEIGHT - 12}"/>'
        for name, value in marks
    )
    ends = (
        f'<text class="end" x="0" y="{HEIGHT - 2}">{low:.3g}</text>'
        f'<text class="end right" x="{WIDTH}" y="{HEIGHT - 2}" text-anchor="end">{high:.3g}</text>'
    )
    return _svg(bars + lines + ends, label, WIDTH, HEIGHT)


def line_chart(series: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Curves over their positions, one per (class, values); at most 300 points of each, the means of equal parts."""
    width, height = 480, 140
    drawn = [(name, _thinned(values)) for name, values in series if len(values)]
    finite = np.concatenate([line[np.isfinite(line)] for _, line in drawn]) if drawn else np.zeros(0)
    if not len(finite):
        return Markup("")
    low, high = float(finite.min()), float(finite.max())
    span = high - low or 1.0
    lines = []
    for name, line in drawn:
        places = np.linspace(40, width - 4, max(2, len(line)))
        points = " ".join(
            f"{x:.1f},{height - 14 - (y - low) / span * (height - 24):.1f}"
            for x, y in zip(places, line, strict=False)
            if np.isfinite(y)
        )
        lines.append(f'<polyline class="curve {escape(name)}" points="{points}"/>')
    ends = (
        f'<text class="end" x="0" y="12">{high:.3g}</text><text class="end" x="0" y="{height - 12}">{low:.3g}</text>'
        f'<text class="end" x="40" y="{height - 1}">first step</text>'
        f'<text class="end" x="{width - 4}" y="{height - 1}" text-anchor="end">last step</text>'
    )
    return _svg("".join(lines) + ends, label, width, height)


def _thinned(values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    if len(numbers) <= MAX_POINTS:
        return numbers
    return np.array([part.mean() for part in np.array_split(numbers, MAX_POINTS)])


def _place(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) * WIDTH


def _svg(content: str, label: str, width: int, height: int) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{content}</svg>'
    )
