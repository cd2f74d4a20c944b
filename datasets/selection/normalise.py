"""Statistics of a population of scores, frozen so that new batches are put on the same scale.

A :class:`Norm` is named by the hash of its content. Where all values of a metric are equal its std is exactly 0, and the
metric then contributes 0 for everyone; :meth:`Norm.constant` names such metrics, and a selection repeats them as warnings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import local

import numpy as np
import pyarrow as pa

from avpref.datasets.population import Floats, has_missing, mean_and_std, quantiles
from avpref.datasets.reused_memory import reused_memory
from avpref.datasets.selection.score_matrix import ScoreMatrix
from avpref.datasets.tables import NORMS, to_arrow
from avpref.errors import TableError
from avpref.identity import digest

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class MetricNorm:
    """One metric's statistics in its own unit: ``count`` values, mean, std (n − 1), quantiles by linear interpolation."""

    metric: str
    count: int
    mean: float
    std: float
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float


@dataclass(frozen=True)
class NormRow:
    """A row of the table ``norms``."""

    norm_id: str
    metric: str
    population: str
    count: int
    mean: float
    std: float
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float


@dataclass(frozen=True)
class Norm:
    """Statistics per metric of ``population`` (a name for people). Metrics without any value are absent."""

    population: str
    metrics: tuple[MetricNorm, ...]

    @property
    def norm_id(self) -> str:
        """Identity: a hash of the population's name and of every number."""
        return "n" + digest("norm", self.population, [list(vars(metric).values()) for metric in self.metrics])

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the metrics without variance."""
        return tuple(metric.metric for metric in self.metrics if metric.std == 0)

    def find(self, metric: str) -> MetricNorm | None:
        """The statistics of one metric, None where the population had no value of it."""
        return next((known for known in self.metrics if known.metric == metric), None)

    def to_arrow(self) -> pa.Table:
        """The norm as rows of table ``norms``."""
        rows = [NormRow(norm_id=self.norm_id, population=self.population, **vars(metric)) for metric in self.metrics]
        return to_arrow(NORMS, rows, fingerprint=self.norm_id)


@reused_memory()
def measure(matrix: ScoreMatrix, population: str) -> Norm:
    """Statistics of every metric of ``matrix`` over its usable scores.

    The published ranking's normalisation: whole table, ground truth and generated together, std with n − 1. Values are
    summed in the order of the candidate index, so neither row order nor threads change a bit. Raises TableError where a statistic
    overflows.
    """
    usable = _all if matrix.is_complete.all() else _usable
    with ThreadPoolExecutor(matrix.threads) as pool:
        ranked = pool.map(partial(_quantiles, local(), usable), matrix.values)
        moments = pool.map(partial(_moments, usable), (metric.name for metric in matrix.metrics), matrix.values)
        rows = list(zip(matrix.metrics, moments, ranked, strict=True))
    return Norm(population, tuple(MetricNorm(metric.name, *known, *ranks) for metric, known, ranks in rows if known))


def _all(scores: Floats) -> Floats:
    return scores


def _usable(scores: Floats) -> Floats:
    """The scores without NaN; a view where there is none."""
    return scores[~np.isnan(scores)] if has_missing(scores) else scores


def _quantiles(scratch: local, usable: Callable[[Floats], Floats], scores: Floats) -> tuple[float, ...]:
    """The quantiles, with an array that a thread keeps for all of its metrics; none without a usable score."""
    values = usable(scores)
    if len(getattr(scratch, "values", ())) < len(values):
        scratch.values = np.empty(len(values))
    return quantiles(values, QUANTILES, scratch.values) if len(values) else ()


def _moments(usable: Callable[[Floats], Floats], name: str, scores: Floats) -> tuple[int, float, float] | None:
    """Number of usable scores, mean and standard deviation; None without a usable score."""
    values = usable(scores)
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    mean, std = (low, 0.0) if low == high else mean_and_std(values)
    if not (math.isfinite(mean) and math.isfinite(std)):
        found = f"values of metric '{name}' from {low} to {high}"
        raise TableError(found, "values whose mean and variance are finite", "quarantine the outliers and score again")
    return len(values), mean, std


def from_arrow(arrow: pa.Table, norm_id: str) -> Norm:
    """The norm of that id out of a table ``norms``. Raises TableError where it is absent or its numbers were changed."""
    rows = [NormRow(**row) for row in arrow.to_pylist() if row["norm_id"] == norm_id]
    if not rows:
        known = ", ".join(sorted(set(arrow["norm_id"].to_pylist()))) or "none"
        raise TableError(f"no norm {norm_id}", f"one of: {known}", "set pairs.norm to a saved norm, or leave it empty")
    norm = Norm(rows[0].population, tuple(_statistics(row) for row in rows))
    if norm.norm_id != norm_id:
        found = f"norm {norm_id} whose numbers hash to {norm.norm_id}"
        raise TableError(found, "numbers as they were measured", "measure the norm again: avpref pairs select")
    return norm


def _statistics(row: NormRow) -> MetricNorm:
    quantiles = (row.q05, row.q25, row.q50, row.q75, row.q95)
    return MetricNorm(row.metric, row.count, row.mean, row.std, *quantiles)
