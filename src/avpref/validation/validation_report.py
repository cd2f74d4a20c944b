"""Results of a validation: a JSON document, tables of text (with the columns of Table A5 of the JavisBench paper), and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from avpref import __version__
from avpref.domain import PICTURE_AND_SOUND, public_name
from avpref.reports.plots import INK, Panel, colour_of
from avpref.rewards.negatives.corruptions import SEED_KINDS, NegativeKind
from avpref.rewards.protocol import Scorer
from avpref.validation.discrimination import Discrimination, Estimate, Monotonicity
from avpref.validation.validate import MetricValidation, ScoredWindows, ValidationRow, ValidationSettings
from avpref.validation.windows import ValidationWindows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRICT, TOLERANT = "accuracy (s+ > s-)", "accuracy (s+ >= s-)"
COLUMNS = ("metric", "of", "AUROC", STRICT, TOLERANT, "monotonicity", "pairs", "without")
GUESSING_ROW = {"metric": "random guess", "AUROC": "0.500", STRICT: "0.500", TOLERANT: "0.500", "monotonicity": "0.000"}
BY_KIND = "by kind of negative: AUROC, accuracy (s+ > s-), accuracy (s+ >= s-)"
FEW_RECORDINGS = 10
"""With fewer independent recordings the bootstrap's intervals are too narrow."""
SHORT_NAME = {
    NegativeKind.VIDEO_SPATIAL: "v space",
    NegativeKind.VIDEO_TEMPORAL: "v time",
    NegativeKind.AUDIO_SPATIAL: "a space",
    NegativeKind.AUDIO_TEMPORAL: "a time",
    NegativeKind.SWAPPED_AUDIO: "swapped",
}
LINE_STYLES = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")
COLUMN_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}


def labels(validations: Sequence[MetricValidation]) -> list[str]:
    """A name for each metric: its own, with the scorer's name if several scorers have it."""
    names = [validation.metric.name for validation in validations]
    counts = Counter(names)
    scorers = [validation.scorer for validation in validations]
    return [f"{name} ({scorer})" if counts[name] > 1 else name for name, scorer in zip(names, scorers, strict=True)]


def document(
    clips: ValidationWindows,
    scorers: Sequence[Scorer],
    scored: ScoredWindows,
    validations: Sequence[MetricValidation],
    settings: ValidationSettings,
) -> dict[str, Any]:
    """All results except the rows, ready for JSON."""
    return {
        "product_version": __version__,
        "settings": {**asdict(settings), "confidence": settings.bootstrap.confidence},
        "recordings": len({window.recording for window in clips.windows}),
        "windows": len({row.clip for row in scored.rows}),
        "unusable": [asdict(file) for file in (*clips.unusable, *scored.unusable)],
        "left_aside": [asdict(file) for file in clips.left_aside],
        "scorers": [
            {
                "scorer": type(scorer).__name__,
                "fingerprint": scorer.fingerprint,
                "metrics": [metric.name for metric in scorer.metrics],
                **asdict(scorer.terms),
            }
            for scorer in scorers
        ],
        "metrics": [_metric_document(validation) for validation in validations],
        "absent": [
            {"kind": kind, "op": op, "reason": reason, "count": count}
            for (kind, op, reason), count in sorted(
                Counter((row.kind, row.op, row.reason) for row in scored.absent).items()
            )
        ],
    }


def rows_table(scored: ScoredWindows) -> pa.Table:
    """The rows of ``scored`` as a table: one row per clip and metric, with the corruption of the clip."""
    schema = pa.schema([(field.name, COLUMN_TYPES[str(field.type)]) for field in fields(ValidationRow)])
    return pa.Table.from_pylist([vars(row) for row in scored.rows], schema)


def overall_rows(validations: Sequence[MetricValidation]) -> list[dict[str, Any]]:
    """One row per metric with :data:`COLUMNS`, intervals in brackets; the first row has the numbers of a random guess."""
    rows: list[dict[str, Any]] = [dict(GUESSING_ROW)]
    for name, validation in zip(labels(validations), validations, strict=True):
        rows.append(
            {
                "metric": name,
                "of": public_name(validation.metric.dimension),
                "AUROC": _cell(validation.overall.auroc),
                STRICT: _cell(validation.overall.accuracy_strict),
                TOLERANT: _cell(validation.overall.accuracy_tolerant),
                "monotonicity": _cell(validation.monotonicity.estimate),
                "pairs": validation.overall.num_pairs,
                "without": sum(validation.without_number.values()),
            }
        )
    return rows


def kind_rows(validations: Sequence[MetricValidation]) -> list[dict[str, Any]]:
    """One row per metric, with the three numbers for each kind of negative."""
    return [
        {"metric": name, **{kind.value: _three_numbers(validation.kinds[kind]) for kind in SEED_KINDS}}
        for name, validation in zip(labels(validations), validations, strict=True)
    ]


def remarks(clips: ValidationWindows, scored: ScoredWindows, validations: Sequence[MetricValidation]) -> list[str]:
    """Notes on the tables, one line each: intervals, ties, random weights, clips without a number and missing negatives."""
    recordings = len({window.recording for window in clips.windows})
    lines = [
        "intervals: 95 %, bootstrap over recordings; monotonicity: rank correlation of score and smaller delay, 1 is right",
        "a metric of one track does not depend on the other track: such pairs are ties",
    ]
    if recordings == 1:
        lines.append(f"1 recording: there are no intervals; give {FEW_RECORDINGS} or more")
    elif recordings < FEW_RECORDINGS:
        lines.append(f"{recordings} recordings: the intervals are too narrow; give {FEW_RECORDINGS} or more")
    meaningless = sorted({validation.scorer for validation in validations if not validation.terms.is_meaningful})
    lines += [f"{name} has random weights: its numbers are meaningless" for name in meaningless]
    for name, validation in zip(labels(validations), validations, strict=True):
        reasons = Counter[str]()
        for (_, reason), count in validation.without_number.items():
            reasons[reason] += count
        lines += [f"{name}: {count} clips without a number: {reason}" for reason, count in reasons.most_common()]
    absent = Counter((row.kind, row.reason) for row in scored.absent)
    lines += [f"{kind}: {count} negatives not made: {reason}" for (kind, reason), count in sorted(absent.items())]
    lines += [f"{file.file}: not used: {file.reason}" for file in (*clips.unusable, *scored.unusable)]
    lines += [f"{file.file}: left aside: {file.reason}" for file in clips.left_aside]
    return lines


def panels(validations: Sequence[MetricValidation]) -> list[Panel]:
    """Plots of AUROC and accuracy of all metrics, of both by kind, of AUROC by delay, and of monotonicity."""
    names, dimensions = labels(validations), [validation.metric.dimension for validation in validations]
    auroc = [validation.overall.auroc for validation in validations]
    strict = [validation.overall.accuracy_strict for validation in validations]
    tolerant = [validation.overall.accuracy_tolerant for validation in validations]
    order = [validation.monotonicity.estimate for validation in validations]
    auroc_by_kind = [[_value(validation.kinds[kind].auroc) for kind in SEED_KINDS] for validation in validations]
    strict_by_kind = [
        [_value(validation.kinds[kind].accuracy_strict) for kind in SEED_KINDS] for validation in validations
    ]
    dots = partial(_dots, names=names, dimensions=dimensions)
    return [
        _panel("AUROC, all negatives", names, auroc, partial(dots, series=[auroc], chance=0.5, label="AUROC, 95 %")),
        _panel(
            "Pair accuracy, all negatives",
            names,
            strict,
            partial(dots, series=[strict, tolerant], chance=0.5, label="accuracy, 95 %; hollow: ties count as right"),
        ),
        Panel("AUROC by kind", _grid_text(names, auroc_by_kind), partial(_grid, names=names, values=auroc_by_kind)),
        Panel(
            "Pair accuracy by kind (ties are wrong)",
            _grid_text(names, strict_by_kind),
            partial(_grid, names=names, values=strict_by_kind),
        ),
        _delays_panel(names, validations),
        _panel(
            "Monotonicity over delays",
            names,
            order,
            partial(dots, series=[order], chance=0.0, label="rank correlation, 95 %; 1 is right", low=-1.0),
        ),
    ]


def _metric_document(validation: MetricValidation) -> dict[str, Any]:
    return {
        "scorer": validation.scorer,
        "metric": validation.metric.name,
        "dimension": public_name(validation.metric.dimension),
        "unit": validation.metric.unit,
        "higher_is_better": validation.metric.higher_is_better,
        "is_meaningful": validation.terms.is_meaningful,
        "overall": asdict(validation.overall),
        "kinds": {kind.value: asdict(discrimination) for kind, discrimination in validation.kinds.items()},
        "monotonicity": _monotonicity_document(validation.monotonicity),
        "directions": {name: _monotonicity_document(order) for name, order in validation.directions.items()},
        "delays": [{"step_s": step.step_s, **asdict(step.discrimination)} for step in validation.steps],
        "without_number": [
            {"kind": kind, "reason": reason, "count": count}
            for (kind, reason), count in sorted(validation.without_number.items())
        ],
    }


def _monotonicity_document(monotonicity: Monotonicity) -> dict[str, Any]:
    """The fields by name; version 1 of the document has ``num_series`` under the name ``num_ladders``."""
    return {
        "estimate": None if monotonicity.estimate is None else asdict(monotonicity.estimate),
        "num_ladders": monotonicity.num_series,
        "num_constant": monotonicity.num_constant,
        "num_without": monotonicity.num_without,
    }


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    bounds = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.3f}{bounds}"


def _three_numbers(result: Discrimination) -> str:
    estimates = (result.auroc, result.accuracy_strict, result.accuracy_tolerant)
    return " ".join("-" if estimate is None else f"{estimate.value:.2f}" for estimate in estimates)


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value


def _panel(title: str, names: Sequence[str], estimates: Sequence[Estimate | None], draw: Any) -> Panel:
    values = "; ".join(f"{name} {_cell(estimate)}" for name, estimate in zip(names, estimates, strict=True))
    return Panel(title, f"{title}: {values}", draw)


def _grid_text(names: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    kinds = ", ".join(kind.value for kind in SEED_KINDS)
    rows = "; ".join(
        f"{name} {' '.join(f'{value:.2f}' for value in row)}" for name, row in zip(names, values, strict=True)
    )
    return f"For {kinds}: {rows}"


def _dots(
    axes: Axes,
    names: Sequence[str],
    dimensions: Sequence[str],
    series: Sequence[Sequence[Estimate | None]],
    chance: float,
    label: str,
    low: float = 0.0,
) -> None:
    """One row per metric with its name at the left inside the axes, and a mark per series: filled, then hollow."""
    for number, estimates in enumerate(series):
        for row, (estimate, dimension) in enumerate(zip(estimates, dimensions, strict=True)):
            if estimate is None:
                continue
            colour, y = colour_of(dimension), row + 0.3 * number
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high or 0.0], [y, y], color=colour, linewidth=1.2)
            face = colour if not number else "white"
            axes.plot([estimate.value], [y], "o", color=colour, markerfacecolor=face, markersize=4.5)
    span = 1.0 - low
    for row, name in enumerate(names):
        axes.text(low - 0.62 * span, row, name, va="center", fontsize=_font_size(len(names)))
    axes.axvline(chance, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xlim(low - 0.64 * span, 1.0 + 0.03 * span)
    axes.set_xticks(np.linspace(low, 1.0, 5))
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.3, -0.7)
    axes.set_xlabel(label)


def _grid(axes: Axes, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """One cell per metric and kind with its number; a lower number is lighter."""
    for row, (name, cells) in enumerate(zip(names, values, strict=True)):
        axes.text(-3.4, row, name, va="center", fontsize=_font_size(len(names)))
        for column, value in enumerate(cells):
            label = "–" if np.isnan(value) else f"{value:.2f}"
            axes.text(column, row, label, ha="center", va="center", fontsize=_font_size(len(names)))
    axes.imshow(np.ma.masked_invalid(np.array(values)), cmap="Blues", vmin=0.0, vmax=1.6, aspect="auto")
    axes.set_xlim(-3.5, len(SEED_KINDS) - 0.5)
    axes.set_xticks(range(len(SEED_KINDS)), [SHORT_NAME[kind] for kind in SEED_KINDS], fontsize=7)
    axes.set_yticks([])
    axes.grid(visible=False)


def _font_size(num_rows: int) -> float:
    """Font size in points for a plot of ``num_rows`` rows; smaller if there are many."""
    return max(4.0, min(7.5, 72.0 / max(num_rows, 1)))


def _delays_panel(names: Sequence[str], validations: Sequence[MetricValidation]) -> Panel:
    curves = {
        name: validation
        for name, validation in zip(names, validations, strict=True)
        if validation.metric.inputs >= PICTURE_AND_SOUND
    }
    values = "; ".join(
        f"{name} "
        + ", ".join(f"{_value(step.discrimination.auroc):.2f} at {step.step_s:g} s" for step in validation.steps)
        for name, validation in curves.items()
    )
    return Panel("AUROC by delay", f"AUROC by delay: {values}", partial(_delays, curves=curves))


def _delays(axes: Axes, curves: Mapping[str, MetricValidation]) -> None:
    for number, (name, validation) in enumerate(curves.items()):
        steps_s = [step.step_s for step in validation.steps]
        values = [_value(step.discrimination.auroc) for step in validation.steps]
        axes.plot(steps_s, values, LINE_STYLES[number % len(LINE_STYLES)], markersize=3.5, linewidth=1.3, label=name)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    if any(validation.steps for validation in curves.values()):
        axes.set_xscale("log")
        axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1.0, 2.0], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
        axes.minorticks_off()
        axes.legend(loc="best", fontsize=6.5)
    axes.set_xlabel("delay, late and early (s)")
    axes.set_ylabel("AUROC")
