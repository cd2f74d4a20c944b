"""Held-out comparison of single metrics: those that selected pairs, and those of judges, which took no part in the selection.

A policy can learn what its rewards measure instead of what they stand for. The rewards then rise whatever happens to the clips,
and only a scorer that no pair was selected with shows it. The judges' rules refuse a policy that a judge shows to be worse; where
a selector rose at the same time, the decision names it as suspected reward hacking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from avpref.config.gate_settings import GateSettings, JudgeRule
from avpref.datasets.evidence.evaluation import DimensionComparison, PairedDeltas
from avpref.datasets.evidence.gate import RuleOutcome, min_pairs
from avpref.datasets.rows import EvaluationSide

NAME_SEPARATOR = "/"
JUDGE, JUDGE_PAIRS, HACKING = "judge", "judge_pairs", "reward_hacking"
"""Names of the judges' rules in tables and documents."""

Interval = Callable[[str, PairedDeltas], DimensionComparison]
"""Makes the comparison of a named number from its paired differences."""


class Role(StrEnum):
    """Whether pairs were selected with a metric."""

    SELECTOR = "selector"
    JUDGE = "judge"


@dataclass(frozen=True)
class JudgeMetric:
    """A metric of a judge. ``name`` is ``SCORER/METRIC``, so that it differs from a selector's metric of the same name.

    ``fingerprint`` is that of the scorer.
    """

    name: str
    dimension: str
    higher_is_better: bool
    fingerprint: str


def judge_metric_name(scorer: str, metric: str) -> str:
    """The name of a judge's metric in tables, rules and reports."""
    return f"{scorer}{NAME_SEPARATOR}{metric}"


@dataclass(frozen=True)
class MetricComparison:
    """Policy against reference in one metric. Changes are positive where the policy is better, whatever the metric's direction.

    ``num_pairs`` prompts could be compared; ``comparison`` is None where they are fewer than two.
    """

    name: str
    role: Role
    dimension: str
    num_pairs: int
    comparison: DimensionComparison | None

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; :func:`metric_comparison` reads them back. The numbers are None without a comparison."""
        numbers = (
            dict.fromkeys(DimensionComparison.__dataclass_fields__)
            if self.comparison is None
            else vars(self.comparison)
        )
        return {
            "name": self.name,
            "role": str(self.role),
            "dimension": self.dimension,
            **numbers,
            "num_pairs": self.num_pairs,
        }


def metric_comparison(document: Mapping[str, Any]) -> MetricComparison:
    """The comparison in a document of :meth:`MetricComparison.document`. Raises KeyError, TypeError or ValueError for another."""
    numbers = {name: document[name] for name in DimensionComparison.__dataclass_fields__}
    comparison = None if numbers["delta_sd"] is None else DimensionComparison(**numbers)
    return MetricComparison(
        document["name"], Role(document["role"]), document["dimension"], document["num_pairs"], comparison
    )


def paired_scores(reference: np.ndarray, policy: np.ndarray, higher_is_better: bool) -> PairedDeltas:
    """Differences of one metric on the prompts where either side has a score, positive where the policy is better.

    ``reference`` and ``policy``: raw values [prompts] on equal prompts, NaN where a clip has no score. A clip without a score counts
    as the worst of both sides, so that a policy gains nothing by clips that cannot be scored; where the reference has no score at
    all, the policy's count for nothing and there is no pair. The unit is the reference's standard deviation, that of both sides
    where the reference does not vary, and 0 (all differences are 0) where neither does.
    """
    sides = np.stack([reference, policy]) * (1.0 if higher_is_better else -1.0)
    if np.isnan(sides[0]).all():
        return PairedDeltas(np.zeros(0), 0.0)
    sides = sides[:, ~np.isnan(sides).all(axis=0)]
    sides = np.where(np.isnan(sides), np.nanmin(sides), sides)
    if sides.shape[1] < 2:
        return PairedDeltas(np.zeros(sides.shape[1]), 0.0)
    scale = float(np.std(sides[0], ddof=1)) or float(np.std(sides, ddof=1))
    difference = sides[1] - sides[0]
    return PairedDeltas(difference / scale if scale else difference, scale)


def compare_metric(
    scores: Mapping[EvaluationSide, pd.DataFrame], metric: JudgeMetric, role: Role, interval: Interval
) -> MetricComparison:
    """Compare both sides in ``metric``; ``scores[side]`` is prompt × metric, with a column of its name."""
    reference, policy = (
        scores[side][metric.name].to_numpy(float) for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)
    )
    pairs = paired_scores(reference, policy, metric.higher_is_better)
    num_pairs = len(pairs.deltas)
    comparison = interval(metric.name, pairs) if num_pairs >= 2 else None
    return MetricComparison(metric.name, role, metric.dimension, num_pairs, comparison)


def margin_of(metric: str, settings: GateSettings) -> float:
    """The fall in standard deviations that the gate accepts of a judge's metric: of its own rule, else of the rule for all metrics."""
    rules = [rule for rule in settings.rules if isinstance(rule, JudgeRule)]
    for rule in rules:
        if rule.metric == metric:
            return rule.margin_sd
    for rule in rules:
        if not rule.metric:
            return rule.margin_sd
    return settings.judge_margin_sd


def outcomes(
    metrics: Sequence[MetricComparison], rises: Mapping[str, DimensionComparison], settings: GateSettings
) -> list[RuleOutcome]:
    """The judges' rules: no metric of a judge fell by more than its margin, and each compared enough clips to show a fall.

    One more rule refuses where a judge fell while one of ``rises`` (the comparisons of what selected the pairs, by name) improved.
    """
    judged = [metric for metric in metrics if metric.role is Role.JUDGE]
    rules = [outcome for metric in judged for outcome in _judge_outcomes(metric, margin_of(metric.name, settings))]
    fallen = [metric for metric in judged if _is_fallen(metric, settings)]
    return [*rules, *_hacking(fallen, rises)]


def has_fallen(metrics: Sequence[MetricComparison], settings: GateSettings) -> bool:
    """Whether some judge shows a fall, so that more prompts cannot help."""
    return any(metric.role is Role.JUDGE and _is_fallen(metric, settings) for metric in metrics)


def _is_fallen(metric: MetricComparison, settings: GateSettings) -> bool:
    comparison = metric.comparison
    if comparison is None or comparison.num_pairs < min_pairs(comparison.level):
        return False
    return comparison.ci_high < -margin_of(metric.name, settings)


def _judge_outcomes(metric: MetricComparison, margin_sd: float) -> Iterator[RuleOutcome]:
    comparison, bound = metric.comparison, -margin_sd
    needed = 2 if comparison is None else min_pairs(comparison.level)
    if comparison is not None:
        passed = comparison.ci_high >= bound
        interval = f"{comparison.ci_low:+.3f} to {comparison.ci_high:+.3f} sd"
        verb = "does not lie" if passed else "lies"
        detail = f"judge {metric.name}: interval {interval} {verb} entirely below {bound:+.3f} sd"
        yield RuleOutcome(JUDGE, metric.name, comparison.ci_high, bound, passed, detail)
    if metric.num_pairs < needed:
        detail = (
            f"judge {metric.name} compared {metric.num_pairs} prompts and needs {needed} to show a fall: raise"
            " prompts.num_evaluation_clips, or leave the metric out of evaluation.judge_metrics"
        )
        yield RuleOutcome(JUDGE_PAIRS, metric.name, float(metric.num_pairs), float(needed), False, detail)


def _hacking(fallen: Sequence[MetricComparison], rises: Mapping[str, DimensionComparison]) -> Iterator[RuleOutcome]:
    risen = {name: comparison for name, comparison in rises.items() if comparison.ci_low > 0}
    if not fallen or not risen:
        return
    up = ", ".join(f"{name} {change.delta_sd:+.2f} sd" for name, change in risen.items())
    down = ", ".join(
        f"{metric.name} {metric.comparison.delta_sd:+.2f} sd" for metric in fallen if metric.comparison is not None
    )
    detail = f"suspected reward hacking: what selected the pairs rose ({up}) while judges fell ({down})"
    yield RuleOutcome(HACKING, "", float(len(fallen)), 0.0, False, detail)
