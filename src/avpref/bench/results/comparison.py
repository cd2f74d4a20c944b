"""Several benchmarks side by side: every column of each, and the difference of each to the first on the prompts that both have.

Differences are paired: the same prompts are drawn for both models, and of the reference the clips of those prompts. An interval that
lies on one side of zero is a difference beyond the chance of these prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from avpref.bench.measures.column_values import ColumnRows, Distance, sample_values
from avpref.bench.measures.feature_rows import FeatureRows
from avpref.bench.measures.intervals import (
    BootstrapPlan,
    Interval,
    Weights,
    drawn_weights,
    mean_interval,
    spread_interval,
)
from avpref.bench.preset_files import Column
from avpref.bench.results.loaded_results import LoadedResult
from avpref.errors import ConfigError, InputError


@dataclass(frozen=True)
class Difference:
    """A column of a model minus that of the first, on ``num_pairs`` prompts; None with a reason.

    ``verdict``: better, worse, or undecided where the interval contains zero.
    """

    column: str
    model: str
    value: float | None
    interval: Interval | None
    num_pairs: int
    verdict: str = ""
    win_rate: float | None = None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        bounds = (
            {"low": None, "high": None}
            if self.interval is None
            else {"low": self.interval.low, "high": self.interval.high}
        )
        return {**{name: value for name, value in asdict(self).items() if name != "interval"}, **bounds}


def compare_results(results: Sequence[LoadedResult], plan: BootstrapPlan) -> dict[str, Any]:
    """The table and the differences to the first result. Raises ConfigError for fewer than two results."""
    if len(results) < 2:
        raise ConfigError(
            "one benchmark", "two or more, the first to compare the others with", "avpref bench compare A B"
        )
    first = results[0]
    names = [name for name in first.columns if any(name in other.columns for other in results[1:])]
    table = [_table_row(name, results) for name in names]
    differences = [
        _difference(first, other, first.columns[name], plan).document()
        for other in results[1:]
        for name in names
        if name in other.columns
    ]
    return {
        "models": [{"name": result.name, "folder": str(result.folder)} for result in results],
        "columns": table,
        "differences": differences,
        "warnings": _warnings(results),
        "intervals": asdict(plan),
    }


def _table_row(name: str, results: Sequence[LoadedResult]) -> dict[str, Any]:
    values = [result.document["columns"].get(name, {}) for result in results]
    keys = ("value", "low", "high", "num_clips", "reason")
    own = {result.name: {key: value.get(key) for key in keys} for result, value in zip(results, values, strict=True)}
    return {"column": name, "higher_is_better": values[0].get("higher_is_better"), "models": own}


def _difference(first: LoadedResult, other: LoadedResult, column: Column, plan: BootstrapPlan) -> Difference:
    problem = _incomparable(first, other, column)
    if problem:
        return Difference(column.name, other.name, None, None, 0, reason=problem)
    keys = _shared_keys(first, other)
    try:
        rows = first.rows(column), other.rows(column)
        if column.kind in ("mean", "divergence"):
            difference = _paired_means(column, rows, keys, other.name, plan)
        elif column.kind in ("frechet", "kernel"):
            difference = _paired_distances(column, rows, keys, other.name, plan)
        else:
            return Difference(
                column.name, other.name, None, None, 0, reason="no paired difference of this kind of column"
            )
    except InputError as error:
        return Difference(column.name, other.name, None, None, 0, reason=error.found)
    return _judged(difference, bool(first.document["columns"][column.name]["higher_is_better"]))


def _incomparable(first: LoadedResult, other: LoadedResult, column: Column) -> str:
    """Why two results have no difference in a column; empty where they have one."""
    if other.columns[column.name] != column:
        return "computed by another rule"
    if first.part_of(column).fingerprint != other.part_of(other.columns[column.name]).fingerprint:
        return f"{first.part_of(column).name} has other weights or settings"
    if column.is_distance and first.reference_identity != other.reference_identity:
        return "compared with another reference"
    return ""


def _shared_keys(first: LoadedResult, other: LoadedResult) -> list[str]:
    """Samples that both have, for the same prompt."""
    texts = {sample.key: (sample.identity.text, sample.identity.sound_text) for sample in other.samples}
    return [s.key for s in first.samples if texts.get(s.key) == (s.identity.text, s.identity.sound_text)]


def _paired_means(
    column: Column, rows: tuple[ColumnRows, ColumnRows], keys: Sequence[str], model: str, plan: BootstrapPlan
) -> Difference:
    one, two = (sample_values(column, own) for own in rows)
    shared = [key for key in keys if key in one and key in two]
    if not shared:
        return Difference(column.name, model, None, None, 0, reason="no prompt has a value of both")
    deltas = np.array([two[key] - one[key] for key in shared])
    wins = float(np.mean((deltas > 0) + 0.5 * (deltas == 0)))
    interval = mean_interval(deltas, plan, "difference", column.name, model)
    return Difference(column.name, model, float(deltas.mean()), interval, len(shared), win_rate=wins)


def _paired_distances(
    column: Column, rows: tuple[ColumnRows, ColumnRows], keys: Sequence[str], model: str, plan: BootstrapPlan
) -> Difference:
    one, two = (own.generated.of(keys) for own in rows)
    shared = [key for key in one.keys if key in set(two.keys)]
    reference = rows[0].reference
    if len(shared) < 2 or reference is None or not reference.num_clips:
        reason = "no reference" if reference is None else f"{len(shared)} prompts have a value of both"
        return Difference(column.name, model, None, None, len(shared), reason=reason)
    one, two = one.of(shared), two.of(shared)
    distances = Distance(column, one, reference), Distance(column, two, reference)
    value = distances[1].exact() - distances[0].exact()

    def draw(random: np.random.Generator) -> float:
        weights = drawn_weights(random, len(shared))
        of_reference = _reference_weights(random, weights, shared, reference)
        return distances[1](weights, of_reference) - distances[0](weights, of_reference)

    samples = plan.samples_of_distance(max(len(one.values), len(reference.values)), one.values.shape[1])
    interval = spread_interval(value, draw, max(2, samples // 2), plan, "difference", column.name, model)
    return Difference(column.name, model, value, interval, len(shared))


def _reference_weights(
    random: np.random.Generator, weights: Weights, shared: Sequence[str], reference: FeatureRows
) -> Weights:
    """Those of the prompts where the reference has a clip for each of them, else a draw of its own."""
    if set(reference.keys) == set(shared):
        of_key = dict(zip(shared, weights, strict=True))
        return np.array([of_key[key] for key in reference.keys], np.int64)
    return drawn_weights(random, reference.num_clips)


def _judged(difference: Difference, higher_is_better: bool) -> Difference:
    interval = difference.interval
    if interval is None:
        return difference
    if interval.low <= 0 <= interval.high:
        return replace(difference, verdict="undecided")
    return replace(difference, verdict="better" if (interval.low > 0) == higher_is_better else "worse")


def _warnings(results: Sequence[LoadedResult]) -> list[str]:
    first, warnings = results[0], []
    for other in results[1:]:
        shared = len(_shared_keys(first, other))
        if shared < max(len(first.samples), len(other.samples)):
            sizes = f"{len(first.samples)} and {len(other.samples)}"
            warnings.append(
                f"{first.name} and {other.name} share {shared} prompts of {sizes}: differences are of those alone"
            )
    if not all(result.document["is_meaningful"] for result in results):
        warnings.append("random weights: no number here says anything about quality")
    return warnings
