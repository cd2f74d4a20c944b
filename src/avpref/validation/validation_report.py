"""What a validation says: a document for machines, tables for people (as Table A5 of the JavisBench paper has them), and panels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from avpref import __version__
from avpref.domain import PUBLIC_NAME, Dimension
from avpref.reports.plots import COLOUR, INK, Panel
from avpref.rewards.negatives.corruptions import SEED_KINDS, NegativeKind
from avpref.rewards.protocol import Scorer
from avpref.validation.discrimination import Discrimination, Estimate
from avpref.validation.validate import MetricValidation, ScoredWindows, ValidationRow, ValidationSettings
from avpref.validation.windows import ValidationWindows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRICT, TOLERANT = "accuracy (s+ > s-)", "accuracy (s+ >= s-)"
COLUMNS = ("metric", "of", "AUROC", STRICT, TOLERANT, "monotonicity", "pairs", "without")
CHANCE = {"metric": "random guess", "AUROC": "0.500", STRICT: "0.500", TOLERANT: "0.500", "monotonicity": "0.000"}
BY_KIND = "by kind of negative: AUROC, accuracy (s+ > s-), accuracy (s+ >= s-)"
FEW_RECORDINGS = 10
"""With fewer independent recordings a bootstrap's interval is too narrow."""
SHORT_NAME = {
    NegativeKind.VIDEO_SPATIAL: "v space",
    NegativeKind.VIDEO_TEMPORAL: "v time",
    NegativeKind.AUDIO_SPATIAL: "a space",
    NegativeKind.AUDIO_TEMPORAL: "a time",
    NegativeKind.SWAPPED_AUDIO: "swapped",
}
LOOKS = ("o-", "s--", "^-.", "D:", "v-", "P--", "X-.", "*:")
COLUMN_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}


def labels(found: Sequence[MetricValidation]) -> list[str]:
    """A name for each metric: its own, with the scorer's where several scorers give it."""
    counts = Counter(one.metric.name for one in found)
    return [f"{one.metric.name} ({one.scorer})" if counts[one.metric.name] > 1 else one.metric.name for one in found]


def document(
    clips: ValidationWindows,
    scorers: Sequence[Scorer],
    scored: ScoredWindows,
    found: Sequence[MetricValidation],
    settings: ValidationSettings,
) -> dict[str, Any]:
    """Everything but the rows, ready for JSON."""
    return {
        "product_version": __version__,
        "settings": {**asdict(settings), "confidence": settings.bootstrap.confidence},
        "recordings": len({window.recording for window in clips.windows}),
        "windows": len({row.clip for row in scored.rows}),
        "unusable": [asdict(one) for one in (*clips.unusable, *scored.unusable)],
        "scorers": [
            {
                "scorer": type(scorer).__name__,
                "fingerprint": scorer.fingerprint,
                "metrics": [metric.name for metric in scorer.metrics],
                **asdict(scorer.terms),
            }
            for scorer in scorers
        ],
        "metrics": [_metric_document(one) for one in found],
        "absent": [
            {"kind": kind, "op": op, "reason": reason, "count": count}
            for (kind, op, reason), count in sorted(
                Counter((row.kind, row.op, row.reason) for row in scored.absent).items()
            )
        ],
    }


def rows_table(scored: ScoredWindows) -> pa.Table:
    """Every number with what was done to its clip, one row per clip and metric."""
    schema = pa.schema([(field.name, COLUMN_TYPES[str(field.type)]) for field in fields(ValidationRow)])
    return pa.Table.from_pylist([vars(row) for row in scored.rows], schema)


def overall_rows(found: Sequence[MetricValidation]) -> list[dict[str, Any]]:
    """One line per metric: :data:`COLUMNS`, intervals in brackets; the first line is what guessing gives."""
    rows: list[dict[str, Any]] = [dict(CHANCE)]
    for name, one in zip(labels(found), found, strict=True):
        rows.append(
            {
                "metric": name,
                "of": PUBLIC_NAME[one.metric.dimension],
                "AUROC": _cell(one.overall.auroc),
                STRICT: _cell(one.overall.accuracy_strict),
                TOLERANT: _cell(one.overall.accuracy_tolerant),
                "monotonicity": _cell(one.monotonicity.estimate),
                "pairs": one.overall.num_pairs,
                "without": sum(one.without.values()),
            }
        )
    return rows


def kind_rows(found: Sequence[MetricValidation]) -> list[dict[str, Any]]:
    """One line per metric: for each kind of negative the three numbers."""
    return [
        {"metric": name, **{kind.value: _three(one.kinds[kind]) for kind in SEED_KINDS}}
        for name, one in zip(labels(found), found, strict=True)
    ]


def remarks(clips: ValidationWindows, scored: ScoredWindows, found: Sequence[MetricValidation]) -> list[str]:
    """What a reader must know to read the tables rightly, one line each."""
    recordings = len({window.recording for window in clips.windows})
    lines = [
        "intervals: 95 %, bootstrap over recordings; monotonicity: rank correlation of score and smaller delay, 1 is right",
        "a metric of one track cannot see what was done to the other: such pairs are ties",
    ]
    if recordings == 1:
        lines.append(f"1 recording: there are no intervals; give {FEW_RECORDINGS} or more")
    elif recordings < FEW_RECORDINGS:
        lines.append(f"{recordings} recordings: the intervals are too narrow; give {FEW_RECORDINGS} or more")
    nothing = sorted({one.scorer for one in found if not one.terms.is_meaningful})
    lines += [f"{name} has random weights: its numbers mean nothing" for name in nothing]
    for name, one in zip(labels(found), found, strict=True):
        reasons = Counter[str]()
        for (_, reason), count in one.without.items():
            reasons[reason] += count
        lines += [f"{name}: {count} clips without a number: {reason}" for reason, count in reasons.most_common()]
    absent = Counter((row.kind, row.reason) for row in scored.absent)
    lines += [f"{kind}: {count} negatives not made: {reason}" for (kind, reason), count in sorted(absent.items())]
    lines += [f"{one.file}: not used: {one.reason}" for one in (*clips.unusable, *scored.unusable)]
    return lines


def panels(found: Sequence[MetricValidation]) -> list[Panel]:
    """AUROC and accuracy of all metrics, both by kind, AUROC by delay, and monotonicity."""
    names, dimensions = labels(found), [one.metric.dimension for one in found]
    auroc = [one.overall.auroc for one in found]
    strict = [one.overall.accuracy_strict for one in found]
    tolerant = [one.overall.accuracy_tolerant for one in found]
    order = [one.monotonicity.estimate for one in found]
    auroc_by_kind = [[_value(one.kinds[kind].auroc) for kind in SEED_KINDS] for one in found]
    strict_by_kind = [[_value(one.kinds[kind].accuracy_strict) for kind in SEED_KINDS] for one in found]
    dots = partial(_dots, names=names, dimensions=dimensions)
    return [
        _panel("AUROC, all negatives", names, auroc, partial(dots, series=[auroc], chance=0.5, label="AUROC, 95 %")),
        _panel(
            "Pair accuracy, all negatives",
            names,
            strict,
            partial(dots, series=[strict, tolerant], chance=0.5, label="accuracy, 95 %; hollow: ties count as right"),
        ),
        Panel("AUROC by kind", _grid_words(names, auroc_by_kind), partial(_grid, names=names, values=auroc_by_kind)),
        Panel(
            "Pair accuracy by kind (ties are wrong)",
            _grid_words(names, strict_by_kind),
            partial(_grid, names=names, values=strict_by_kind),
        ),
        _steps_panel(names, found),
        _panel(
            "Monotonicity over delays",
            names,
            order,
            partial(dots, series=[order], chance=0.0, label="rank correlation, 95 %; 1 is right", low=-1.0),
        ),
    ]


def _metric_document(one: MetricValidation) -> dict[str, Any]:
    return {
        "scorer": one.scorer,
        "metric": one.metric.name,
        "dimension": PUBLIC_NAME[one.metric.dimension],
        "unit": one.metric.unit,
        "higher_is_better": one.metric.higher_is_better,
        "is_meaningful": one.terms.is_meaningful,
        "overall": asdict(one.overall),
        "kinds": {kind.value: asdict(each) for kind, each in one.kinds.items()},
        "monotonicity": asdict(one.monotonicity),
        "directions": {name: asdict(each) for name, each in one.directions.items()},
        "delays": [{"step_s": step.step_s, **asdict(step.found)} for step in one.steps],
        "without_number": [
            {"kind": kind, "reason": reason, "count": count} for (kind, reason), count in sorted(one.without.items())
        ],
    }


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    bounds = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.3f}{bounds}"


def _three(found: Discrimination) -> str:
    values = (found.auroc, found.accuracy_strict, found.accuracy_tolerant)
    return " ".join("-" if each is None else f"{each.value:.2f}" for each in values)


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value


def _panel(title: str, names: Sequence[str], estimates: Sequence[Estimate | None], draw: Any) -> Panel:
    said = "; ".join(f"{name} {_cell(estimate)}" for name, estimate in zip(names, estimates, strict=True))
    return Panel(title, f"{title}: {said}", draw)


def _grid_words(names: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    kinds = ", ".join(kind.value for kind in SEED_KINDS)
    said = "; ".join(
        f"{name} {' '.join(f'{each:.2f}' for each in row)}" for name, row in zip(names, values, strict=True)
    )
    return f"For {kinds}: {said}"


def _dots(
    axes: Axes,
    names: Sequence[str],
    dimensions: Sequence[Dimension],
    series: Sequence[Sequence[Estimate | None]],
    chance: float,
    label: str,
    low: float = 0.0,
) -> None:
    """A row per metric, its name on the left within the axes, one mark per series: filled, then hollow."""
    for number, estimates in enumerate(series):
        for row, (estimate, dimension) in enumerate(zip(estimates, dimensions, strict=True)):
            if estimate is None:
                continue
            colour, place = COLOUR[dimension], row + 0.3 * number
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high or 0.0], [place, place], color=colour, linewidth=1.2)
            face = colour if not number else "white"
            axes.plot([estimate.value], [place], "o", color=colour, markerfacecolor=face, markersize=4.5)
    span = 1.0 - low
    for row, name in enumerate(names):
        axes.text(low - 0.62 * span, row, name, va="center", fontsize=_font(len(names)))
    axes.axvline(chance, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xlim(low - 0.64 * span, 1.0 + 0.03 * span)
    axes.set_xticks(np.linspace(low, 1.0, 5))
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.3, -0.7)
    axes.set_xlabel(label)


def _grid(axes: Axes, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """A cell per metric and kind with its number; lighter is lower."""
    for row, (name, cells) in enumerate(zip(names, values, strict=True)):
        axes.text(-3.4, row, name, va="center", fontsize=_font(len(names)))
        for column, value in enumerate(cells):
            words = "–" if np.isnan(value) else f"{value:.2f}"
            axes.text(column, row, words, ha="center", va="center", fontsize=_font(len(names)))
    axes.imshow(np.ma.masked_invalid(np.array(values)), cmap="Blues", vmin=0.0, vmax=1.6, aspect="auto")
    axes.set_xlim(-3.5, len(SEED_KINDS) - 0.5)
    axes.set_xticks(range(len(SEED_KINDS)), [SHORT_NAME[kind] for kind in SEED_KINDS], fontsize=7)
    axes.set_yticks([])
    axes.grid(visible=False)


def _font(num_rows: int) -> float:
    """Smaller where many rows share a panel."""
    return max(4.0, min(7.5, 72.0 / max(num_rows, 1)))


def _steps_panel(names: Sequence[str], found: Sequence[MetricValidation]) -> Panel:
    curves = {name: one for name, one in zip(names, found, strict=True) if one.metric.dimension is Dimension.AV}
    said = "; ".join(
        f"{name} " + ", ".join(f"{_value(step.found.auroc):.2f} at {step.step_s:g} s" for step in one.steps)
        for name, one in curves.items()
    )
    return Panel("AUROC by delay", f"AUROC by delay: {said}", partial(_steps, curves=curves))


def _steps(axes: Axes, curves: Mapping[str, MetricValidation]) -> None:
    for number, (name, one) in enumerate(curves.items()):
        steps_s = [step.step_s for step in one.steps]
        values = [_value(step.found.auroc) for step in one.steps]
        axes.plot(steps_s, values, LOOKS[number % len(LOOKS)], markersize=3.5, linewidth=1.3, label=name)
    axes.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    if any(one.steps for one in curves.values()):
        axes.set_xscale("log")
        axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1.0, 2.0], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
        axes.minorticks_off()
        axes.legend(loc="best", fontsize=6.5)
    axes.set_xlabel("delay, late and early (s)")
    axes.set_ylabel("AUROC")
