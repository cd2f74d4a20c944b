"""The plot of a comparison: relative differences to the first model with their intervals, improvements to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from avpref.reports.plots import ALARM, BASELINE, Panel, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def comparison_panels(document: Mapping[str, Any]) -> list[Panel]:
    """A panel per model after the first."""
    return [_panel(document, model["name"]) for model in document["models"][1:]]


def _panel(document: Mapping[str, Any], model: str) -> Panel:
    first = document["models"][0]["name"]
    rows = [row for row in _relative(document, model, first)]
    listed = "; ".join(f"{name} {centre:+.1f} % ({low:+.1f} to {high:+.1f})" for name, centre, low, high in rows)
    alt_text = f"Improvement of {model} over {first}: {listed or 'no difference can be drawn'}"
    return Panel(f"{model} against {first}", alt_text, partial(_draw, rows=rows))


Row = tuple[str, float, float, float]


def _relative(document: Mapping[str, Any], model: str, first: str) -> list[Row]:
    """Column, difference and bounds in percent of the first model's value; positive is better."""
    columns = {row["column"]: row for row in document["columns"]}
    rows: list[Row] = []
    for entry in document["differences"]:
        base = columns[entry["column"]]["models"][first]["value"]
        if entry["model"] != model or entry["value"] is None or entry["low"] is None or not base:
            continue
        sign = 100 / abs(base) * (1 if columns[entry["column"]]["higher_is_better"] else -1)
        low, high = sorted((sign * entry["low"], sign * entry["high"]))
        rows.append((entry["column"], sign * entry["value"], low, high))
    return rows


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    axes.axvline(0, color=BASELINE, linewidth=1)
    for position, (_, centre, low, high) in enumerate(rows):
        colour = ALARM if high < 0 else colour_of("av") if low > 0 else BASELINE
        axes.plot([low, high], [position, position], color=colour, linewidth=3)
        axes.plot([centre], [position], "o", color=colour)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("improvement in % of the first model's value")
