"""Figures of a run: held-out deltas, reward distributions, margins, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from avpref.datasets.evidence.evaluation import DimensionComparison
from avpref.datasets.rows import EvaluationSide
from avpref.domain import Origin, public_name
from avpref.reports.formatting import signed
from avpref.reports.plots import ALARM, BASELINE, COLOUR, INK, Panel, Plot, colour_of
from avpref.reports.report_data import ReportData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_BINS, NUM_BINS = 6, 24
SMOOTHED_PARTS = 25
"""Running means use a window of the training's steps divided by this number."""
LINE = {"video": COLOUR["video"], "audio": COLOUR["audio"], "both": BASELINE}
DASHES = {"video": "-", "audio": (0, (4, 1.5)), "both": "-"}
ORDINARY = (0.05, 1e4)
"""Range of values with short tick labels; values outside it are written in powers of a thousand."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NORMALISED, RAW = "sd of the scored candidates", "scorers' own units"
"""Units of rewards, with and without normalisation."""


@dataclass(frozen=True, eq=False)
class NamedValues:
    """Finite numbers [N] of one group, and the group's name."""

    name: str
    values: np.ndarray

    @property
    def alt_text(self) -> str:
        """Name, mean and count."""
        return f"{self.label}, n = {len(self.values)}"

    @property
    def label(self) -> str:
        """Name and mean."""
        return f"{self.name}, mean {signed(self.values.mean())}" if len(self.values) else f"{self.name}, none"


def dimension_name(dimension: str) -> str:
    """Name of a dimension for readers; sync is the agreement of sound and picture."""
    return public_name(dimension).replace("_", " ").capitalize()


def evaluation_panels(data: ReportData) -> list[Panel]:
    """Deltas with intervals, and win rates."""
    share = f"{100 * data.settings.evaluation.confidence:g} %"
    comparisons = {dimension_name(dimension): comparison for dimension, comparison in data.comparisons.items()}
    deltas = [f"{name} {signed(change.delta_sd)} {interval(change)}" for name, change in comparisons.items()]
    wins = [f"{name} {100 * change.win_rate:.1f} %" for name, change in comparisons.items()]
    unit = "in standard deviations of the reference"
    return [
        Panel(
            "Policy against reference",
            f"Held-out change with {share} interval {unit}: " + "; ".join(deltas),
            partial(_forest, comparisons=data.comparisons, label=f"change, {share} interval (sd of the reference)"),
        ),
        Panel(
            "Win rate",
            "Share of held-out prompts on which the policy's clip is better: " + "; ".join(wins),
            partial(_wins, comparisons=data.comparisons),
        ),
    ]


def held_out_panels(data: ReportData) -> list[Panel]:
    """Rewards of the reference and of the policy, per dimension."""
    rewards = data.held_out.rewards
    return [
        distribution(
            f"{dimension_name(dimension)} on held-out prompts",
            NamedValues("reference", _finite(rewards[EvaluationSide.REFERENCE, dimension])),
            NamedValues("policy", _finite(rewards[EvaluationSide.POLICY, dimension])),
            dimension,
            NORMALISED,
        )
        for dimension in data.dimensions
    ]


def origin_panels(rewards: pd.DataFrame, unit: str) -> list[Panel]:
    """Rewards of training candidates by origin; ``rewards`` has a column per dimension and ``origin``."""
    values = {origin: rewards[rewards.origin == origin] for origin in Origin}
    first = Origin.IMPORTED if len(values[Origin.IMPORTED]) else Origin.GENERATED
    return [
        distribution(
            f"{dimension_name(dimension)} of training candidates",
            NamedValues(str(first), _finite(values[first][dimension])),
            NamedValues("ground truth", _finite(values[Origin.GROUND_TRUTH][dimension])),
            dimension,
            unit,
        )
        for dimension in rewards.select_dtypes("number").columns
    ]


def margin_panels(pairs: pd.DataFrame, unit: str) -> list[Panel]:
    """Margins of the pairs per dimension; ``pairs`` has the columns of the pair table."""
    panels = []
    for dimension in _margin_dimensions(pairs):
        margins = NamedValues("pairs", _finite(pairs[f"margin_{dimension}"]))
        title = f"{dimension_name(dimension)} margin"
        draw = partial(_margins, values=margins.values, dimension=dimension, unit=unit)
        panels.append(Panel(title, f"{title}, chosen − rejected: {margins.alt_text}", draw))
    return panels


def _margin_dimensions(pairs: pd.DataFrame) -> list[str]:
    """The dimensions that a frame with the columns of the pair table has a margin of."""
    names = [name.removeprefix("margin_") for name in pairs.columns if name.startswith("margin_")]
    return [name for name in names if name != "total"]


def training_panels(data: ReportData) -> list[Panel]:
    """Losses, implicit accuracy, displacement, drift and gradient norm; a value that was not measured has no panel."""
    sft, dpo, alarm = data.curves.sft, data.curves.dpo, data.settings.dpo.displacement_alarm
    both = partial(_per_modality, dpo)
    alarmed = [UNCHANGED, Level(alarm, f"alarm {alarm:g}", ALARM)]
    curves: list[tuple[str, pd.DataFrame, Mapping[str, str], str, Sequence[Level]]] = [
        ("SFT loss", sft, _per_modality(sft, "flow"), "mean squared velocity error", ()),
        ("AV-DPO loss", dpo, both("preference") or {"preference": "both"}, "preference loss", ()),
        ("Implicit accuracy", dpo, both("implicit_accuracy"), "share of pairs", [CHANCE]),
        ("Displacement of chosen clips", dpo, both("displacement"), "error above reference", alarmed),
        ("Drift from the reference", dpo, both("drift"), "mean squared difference", ()),
        ("Gradient norm (AV-DPO)", dpo, {"grad_norm": "both"}, "norm before clipping", ()),
    ]
    return [_curves(*curve) for curve in curves if curve[2]]


def distribution(title: str, baseline: NamedValues, compared: NamedValues, dimension: str, unit: str) -> Panel:
    """Two histograms on one scale: the baseline as a grey area, the other as a line in the dimension's colour."""
    alt_text = f"{title}: {baseline.alt_text}; {compared.alt_text}"
    return Panel(title, alt_text, partial(_two, baseline=baseline, compared=compared, dimension=dimension, unit=unit))


def interval(change: DimensionComparison) -> str:
    """The interval of a delta as text."""
    return f"[{signed(change.ci_low)}, {signed(change.ci_high)}]"


def _finite(values: pd.Series) -> np.ndarray:
    return values.dropna().to_numpy(dtype=float)


def _per_modality(rows: pd.DataFrame, name: str) -> dict[str, str]:
    return {f"{name}_{modality}": modality for modality in ("video", "audio") if f"{name}_{modality}" in rows}


def _forest(axes: Axes, comparisons: Mapping[str, DimensionComparison], label: str) -> None:
    heights = range(len(comparisons), 0, -1)
    for height, (dimension, change) in zip(heights, comparisons.items(), strict=True):
        colour = colour_of(dimension)
        axes.plot([change.ci_low, change.ci_high], [height, height], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([change.delta_sd], [height], "o", color=colour, markersize=8)
        text = f"{signed(change.delta_sd)}  {interval(change)}"
        axes.annotate(text, (change.delta_sd, height), (0, 9), textcoords="offset points", ha="center", fontsize=8)
    axes.axvline(0, color=INK, linewidth=1, alpha=0.5, zorder=1)
    axes.set_yticks(list(heights), [dimension_name(dimension) for dimension in comparisons])
    axes.set_ylim(0.5, len(comparisons) + 0.6)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)


def _wins(axes: Axes, comparisons: Mapping[str, DimensionComparison]) -> None:
    dimensions = list(comparisons)[::-1]
    names, colours = (
        [dimension_name(dimension) for dimension in dimensions],
        [colour_of(dimension) for dimension in dimensions],
    )
    bars = axes.barh(
        names, [100 * comparisons[dimension].win_rate for dimension in dimensions], color=colours, height=0.5
    )
    axes.bar_label(bars, fmt="%.1f %%", padding=4, fontsize=8)
    axes.axvline(50, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xlim(0, 114)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("prompts on which the policy wins (%), ties half")


def _two(axes: Axes, baseline: NamedValues, compared: NamedValues, dimension: str, unit: str) -> None:
    both = np.concatenate([baseline.values, compared.values])
    edges = _edges(both, min(len(group.values) or len(both) for group in (baseline, compared)))
    _shares(axes, baseline, edges, color=BASELINE, histtype="stepfilled", alpha=0.55)
    _shares(axes, compared, edges, color=colour_of(dimension), histtype="step", linewidth=1.8)
    if len(both):
        _legend(axes)
    axes.set_xlabel(f"reward ({unit})")
    axes.set_ylabel("clips (%)")


def _shares(axes: Axes, group: NamedValues, edges: list[float], **line_style: Any) -> None:
    """A histogram whose bars add up to 100; nothing for an empty group."""
    if len(group.values):
        weights = np.full(len(group.values), 100 / len(group.values))
        axes.hist(group.values, edges, weights=weights, label=group.label, **line_style)


def _margins(axes: Axes, values: np.ndarray, dimension: str, unit: str) -> None:
    if len(values):
        axes.hist(values, _edges(values, len(values)), color=colour_of(dimension), alpha=0.85)
        middle = float(np.median(values))
        axes.axvline(middle, color=INK, linewidth=1, linestyle=(0, (4, 2)), label=f"median {middle:.2f}")
        _legend(axes)
    axes.set_xlabel(f"chosen − rejected ({unit})")
    axes.set_ylabel("pairs")


def _edges(values: np.ndarray, smallest: int) -> list[float]:
    """Edges of bins over ``values``; ``smallest`` is the size of the smallest group."""
    if not len(values):
        return [0.0, 1.0]
    return np.histogram_bin_edges(values, min(NUM_BINS, max(MIN_BINS, smallest // 4))).tolist()


def _legend(axes: Axes) -> None:
    """A legend above the axes, where it covers no data."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderaxespad=0, handlelength=1.6, columnspacing=1
    )


@dataclass(frozen=True)
class Level:
    """A horizontal line that curves are compared with."""

    at: float
    name: str = ""
    colour: str = INK


CHANCE = Level(0.5)
UNCHANGED = Level(0.0)


def _curves(title: str, rows: pd.DataFrame, columns: Mapping[str, str], unit: str, levels: Sequence[Level]) -> Panel:
    last = [f"{name.replace('_', ' ')} {rows[name].iloc[-1]:.3g}" for name in columns if len(rows)]
    alt_text = f"{title} over {len(rows)} steps, at the end: " + "; ".join(last)
    return Panel(title, alt_text, partial(_lines, rows=rows, columns=columns, unit=unit, levels=levels))


def _lines(axes: Axes, rows: pd.DataFrame, columns: Mapping[str, str], unit: str, levels: Sequence[Level]) -> None:
    window = max(1, len(rows) // SMOOTHED_PARTS)
    power = _power([*rows[list(columns)].abs().max(), *(abs(level.at) for level in levels)])
    for name, line in columns.items():
        values = rows[name] / 10.0**power
        if window > 1:
            axes.plot(rows["step"], values, color=LINE[line], alpha=0.25, linewidth=0.8)
        smooth = values.rolling(window, min_periods=1, center=True).mean()
        label = line if name.endswith(line) else None
        axes.plot(rows["step"], smooth, color=LINE[line], linestyle=DASHES[line], label=label)
    for level in levels:
        dashes = (0, (4, 2)) if level.at else "-"
        axes.axhline(
            level.at / 10.0**power, color=level.colour, linewidth=1, linestyle=dashes, label=level.name or None
        )
    if axes.get_legend_handles_labels()[1]:
        _legend(axes)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(f"{unit} (10{str(power).translate(RAISED)})" if power else unit)
    axes.locator_params(nbins=6)
    axes.locator_params(axis="x", integer=True)


def _power(sizes: Sequence[float]) -> int:
    """The power of a thousand that makes tiny or huge values readable; 0 for ordinary ones."""
    largest = max(sizes)
    return (
        3 * int(np.floor(np.log10(largest) / 3)) if 0 < largest < ORDINARY[0] or ORDINARY[1] <= largest < np.inf else 0
    )


def figures(data: ReportData) -> dict[str, Plot]:
    """The plots of a run by name; the name is that of the PNG file."""
    unit = NORMALISED if data.settings.pairs.normalise else RAW
    return {
        "evaluation": Plot(evaluation_panels(data), 2),
        "rewards": Plot([*held_out_panels(data), *origin_panels(data.rewards, unit)], len(data.dimensions)),
        "margins": Plot(margin_panels(data.pairs, unit), len(data.dimensions)),
        "training": Plot(training_panels(data), 3),
    }
