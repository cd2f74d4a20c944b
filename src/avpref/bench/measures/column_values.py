"""The value of a column, its interval, the clips behind it and the warnings that belong to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avpref.bench.measures.feature_rows import FeatureRows
from avpref.bench.measures.intervals import (
    BootstrapPlan,
    Interval,
    Weights,
    drawn_weights,
    half_weights,
    mean_interval,
    size_effect,
    spread_interval,
)
from avpref.bench.measures.resampled_distances import ResampledFrechet, ResampledKernel
from avpref.bench.preset_files import Column
from avpref.datasets.distances.class_probabilities import divergence, inception_score
from avpref.datasets.distances.frechet import frechet_distance, moments
from avpref.datasets.distances.kernel_distance import kernel_distance
from avpref.errors import InputError

NO_REFERENCE = "no reference: give --reference"
FEWEST_CLIPS = 2
MOST_KERNEL_CLIPS = 2000
BIAS_SHARE = 0.1
"""Share of a distance from which its bias is worth a warning."""


@dataclass(frozen=True)
class ColumnValue:
    """A column: value, or None with the ``reason``.

    Attributes:
        name: the column.
        value: the number.
        reason: why there is no number; empty where there is one.
        num_clips: generated clips behind the number.
        num_reference: reference clips behind it, 0 for columns without a reference.
        num_lost: generated clips that have no value in this column.
        interval: bootstrap interval, None where there is none.
        size_bias: how much larger the distance of random halves is, about the bias of the value; None for other columns.
        warnings: remarks for readers.
    """

    name: str
    value: float | None
    reason: str = ""
    num_clips: int = 0
    num_reference: int = 0
    num_lost: int = 0
    interval: Interval | None = None
    size_bias: float | None = None
    warnings: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        interval = self.interval
        return {
            "value": self.value,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "bootstrap_samples": interval.samples if interval else 0,
            "num_clips": self.num_clips,
            "num_reference": self.num_reference,
            "num_lost": self.num_lost,
            "size_bias": self.size_bias,
            "reason": self.reason,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class ColumnRows:
    """The rows that a column needs: of the generated clips and, for distances, of the reference."""

    generated: FeatureRows
    reference: FeatureRows | None = None
    takes_smaller: bool = False

    def pair(self) -> tuple[FeatureRows, FeatureRows]:
        """Both sets, as the rule about sets of different sizes leaves them."""
        assert self.reference is not None
        if not self.takes_smaller:
            return self.generated, self.reference
        size = min(self.generated.num_clips, self.reference.num_clips)
        return self.generated.first(size), self.reference.first(size)


def column_value(column: Column, rows: ColumnRows, plan: BootstrapPlan) -> ColumnValue:
    """The value of ``column``. A number that cannot be computed is None with a reason, never a plausible number."""
    lost = len(rows.generated.lost)
    empty = ColumnValue(column.name, None, num_lost=lost, warnings=tuple(_set_warnings(rows)))
    if column.is_distance and rows.reference is None:
        return replace(empty, reason=NO_REFERENCE)
    if not rows.generated.num_clips:
        return replace(empty, reason=_nothing("generated", rows.generated))
    if rows.reference is not None and column.is_distance and not rows.reference.num_clips:
        return replace(empty, reason=_nothing("reference", rows.reference))
    try:
        match column.kind:
            case "mean":
                return _mean(column, rows.generated.values[:, 0].astype(np.float64), empty, plan)
            case "frechet" | "kernel":
                return _distance(column, rows, empty, plan)
            case "divergence":
                return _divergence(column, rows, empty, plan)
            case "inception_mean" | "inception_std":
                return _inception(column, rows.generated, empty, plan)
    except InputError as error:
        return replace(empty, reason=error.found)


def sample_values(column: Column, rows: ColumnRows) -> dict[str, float]:
    """The value of each clip of a column that is a mean over clips; empty for others."""
    if not rows.generated.num_clips:
        return {}
    if column.kind == "mean":
        return dict(zip(rows.generated.keys, rows.generated.values[:, 0].astype(float).tolist(), strict=True))
    if column.kind == "divergence" and rows.reference is not None:
        generated, reference = _matched(rows)
        return dict(zip(generated.keys, clip_divergences(column, generated, reference).tolist(), strict=True))
    return {}


def clip_divergences(column: Column, generated: FeatureRows, reference: FeatureRows) -> NDArray[np.float64]:
    """The divergence [N] of each generated clip from the reference clip of its key."""
    rule: Any = column.rule
    activation: Any = column.activation
    pairs = zip(generated.values, reference.values, strict=True)
    return np.array([divergence(own[None], other[None], rule, activation) for own, other in pairs])


@dataclass(frozen=True, eq=False)
class Distance:
    """A distance of two sets as a function of the weights of their clips."""

    column: Column
    generated: FeatureRows
    reference: FeatureRows

    @cached_property
    def _resampled(self) -> Callable[[Weights, Weights], float]:
        if self.column.kind == "frechet":
            return ResampledFrechet(self.generated, self.reference)
        return ResampledKernel(self.generated, self.reference, centred=self.column.centring == "centred")

    def exact(self) -> float:
        """The distance of the sets themselves. Raises InputError where a set is too small."""
        generated, reference, scale = self.generated.values, self.reference.values, float(self.column.scale)
        if self.column.kind == "frechet":
            return scale * frechet_distance(moments(generated), moments(reference))
        return scale * kernel_distance(generated, reference, centred=self.column.centring == "centred")

    def __call__(self, generated: Weights, reference: Weights) -> float:
        """The distance of resampled sets, NaN where one is too small."""
        return float(self.column.scale) * self._resampled(generated, reference)

    def drawn(self, random: np.random.Generator) -> float:
        """The distance of sets whose clips are drawn again."""
        return self(drawn_weights(random, self.generated.num_clips), drawn_weights(random, self.reference.num_clips))

    def halved(self, random: np.random.Generator) -> float:
        """The distance of random halves."""
        return self(half_weights(random, self.generated.num_clips), half_weights(random, self.reference.num_clips))

    def part(self, random: np.random.Generator) -> tuple[Distance, float]:
        """The distance of at most :data:`MOST_KERNEL_CLIPS` clips of each set, and the factor from its spread to that of whole sets.

        Kernels of all pairs of larger sets do not fit into memory several times.
        """
        largest = max(self.generated.num_clips, self.reference.num_clips)
        if self.column.kind == "frechet" or largest <= MOST_KERNEL_CLIPS:
            return self, 1.0
        parts = [_some(rows, random) for rows in (self.generated, self.reference)]
        return Distance(self.column, *parts), math.sqrt(MOST_KERNEL_CLIPS / largest)


def _some(rows: FeatureRows, random: np.random.Generator) -> FeatureRows:
    chosen = sorted(random.permutation(rows.num_clips)[:MOST_KERNEL_CLIPS].tolist())
    return rows.of([rows.keys[index] for index in chosen])


def _mean(column: Column, values: NDArray[np.float64], empty: ColumnValue, plan: BootstrapPlan) -> ColumnValue:
    interval = mean_interval(values, plan, column.name)
    warnings = [*empty.warnings, *(["one clip: no interval"] if len(values) == 1 else [])]
    return replace(
        empty, value=float(values.mean()), num_clips=len(values), interval=interval, warnings=tuple(warnings)
    )


def _distance(column: Column, rows: ColumnRows, empty: ColumnValue, plan: BootstrapPlan) -> ColumnValue:
    generated, reference = rows.pair()
    if min(generated.num_clips, reference.num_clips) < FEWEST_CLIPS:
        found = f"{generated.num_clips} generated and {reference.num_clips} reference clips"
        return replace(empty, reason=f"{found}: a distance needs {FEWEST_CLIPS} of each")
    distance = Distance(column, generated, reference)
    value = distance.exact()
    num_rows, dims = min(len(generated.values), len(reference.values)), generated.values.shape[1]
    samples = plan.samples_of_distance(max(len(generated.values), len(reference.values)), dims)
    part, factor = distance.part(plan.generator("part", column.name))
    interval = spread_interval(value, part.drawn, samples, plan, column.name)
    if interval is not None and factor != 1.0:
        interval = interval.narrowed(value, factor)
    bias = size_effect(value, distance.halved, plan, column.name) if column.kind == "frechet" else None
    warnings = list(empty.warnings)
    if column.kind == "frechet" and num_rows <= dims:
        warnings.append(
            f"{num_rows} rows for features of {dims} values: the covariance has no full rank, and the distance depends on the size"
        )
    if bias is not None and bias > BIAS_SHARE * abs(value):
        warnings.append(
            f"about {bias:.4g} of it is bias of the sample's size: compare only with sets of {num_rows} rows"
        )
    return replace(
        empty,
        value=value,
        num_clips=generated.num_clips,
        num_reference=reference.num_clips,
        interval=interval,
        size_bias=bias,
        warnings=tuple(warnings),
    )


def _divergence(column: Column, rows: ColumnRows, empty: ColumnValue, plan: BootstrapPlan) -> ColumnValue:
    generated, reference = _matched(rows)
    if not generated.num_clips:
        return replace(empty, reason="no generated clip has the name of a reference clip")
    valued = _mean(column, clip_divergences(column, generated, reference), empty, plan)
    unmatched = rows.generated.num_clips - generated.num_clips
    warnings = [f"{unmatched} generated clips have no reference clip of their name"] if unmatched else []
    return replace(valued, num_reference=reference.num_clips, warnings=(*valued.warnings, *warnings))


def _matched(rows: ColumnRows) -> tuple[FeatureRows, FeatureRows]:
    """The clips that both sets have, in the order of the generated ones."""
    assert rows.reference is not None
    shared = set(rows.generated.keys) & set(rows.reference.keys)
    keys = [key for key in rows.generated.keys if key in shared]
    return rows.generated.of(keys), rows.reference.of(keys)


def _inception(column: Column, rows: FeatureRows, empty: ColumnValue, plan: BootstrapPlan) -> ColumnValue:
    is_mean = column.kind == "inception_mean"
    score = inception_score(rows.values)
    value = score.mean if is_mean else score.std

    def draw(random: np.random.Generator) -> float:
        indices = random.integers(0, len(rows.values), len(rows.values))
        return inception_score(rows.values[indices]).mean

    samples = plan.samples_of_distance(len(rows.values), rows.values.shape[1])
    interval = spread_interval(value, draw, samples, plan, column.name) if is_mean else None
    return replace(empty, value=value, num_clips=rows.num_clips, interval=interval)


def _set_warnings(rows: ColumnRows) -> list[str]:
    warnings = [f"generated: {text}" for text in _counted(rows.generated.lost)]
    warnings += [f"generated: {text}" for text in _counted(rows.generated.remarks, "used")]
    if rows.reference is not None:
        warnings += [f"reference: {text}" for text in _counted(rows.reference.lost)]
        warnings += [f"reference: {text}" for text in _counted(rows.reference.remarks, "used")]
        sizes = rows.generated.num_clips, rows.reference.num_clips
        if sizes[0] != sizes[1] and min(sizes):
            rule = f"the first {min(sizes)} of both are compared" if rows.takes_smaller else "all are compared"
            warnings.append(f"sets of different sizes, {sizes[0]} generated and {sizes[1]} reference clips: {rule}")
    return warnings


def _counted(entries: Sequence[tuple[str, str]], verb: str = "left out") -> list[str]:
    """How many clips share a reason; numbers in reasons of a kind may differ between clips."""
    counts = Counter(reason.partition(",")[0] if verb == "used" else reason for _, reason in entries)
    return [f"{count} {'clip' if count == 1 else 'clips'} {verb}: {reason}" for reason, count in counts.most_common(3)]


def _nothing(name: str, rows: FeatureRows) -> str:
    reasons = Counter(reason for _, reason in rows.lost).most_common(1)
    return f"no {name} clip has a value{f': {reasons[0][0]}' if reasons else ''}"


def is_better(column_higher: bool, difference: float) -> bool:
    """Whether a difference is an improvement in a column where higher (or lower) is better."""
    return math.isfinite(difference) and (difference > 0) == column_higher
