"""Differences of both sides in a benchmark of the held-out clips, as inputs of a decision, and the gate's rules on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from avpref.config.gate_settings import BenchRule, GateSettings
from avpref.datasets.evidence.gate import RuleOutcome

BENCH = "bench"


@dataclass(frozen=True)
class BenchDelta:
    """A column of the benchmark: both sides, and policy minus reference with its interval on ``num_pairs`` prompts.

    Numbers are None with the ``reason``.
    """

    column: str
    higher_is_better: bool
    reference: float | None
    policy: float | None
    difference: float | None
    low: float | None
    high: float | None
    num_pairs: int
    reason: str = ""

    @property
    def least_gain(self) -> float | None:
        """The lower end of the interval of the improvement, positive where the policy is better."""
        if self.low is None or self.high is None:
            return None
        return self.low if self.higher_is_better else -self.high

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; :func:`bench_delta` reads them back."""
        return asdict(self)


def bench_delta(document: Mapping[str, Any]) -> BenchDelta:
    """The delta in a document. Raises TypeError for another."""
    return BenchDelta(**document)


def bench_outcomes(deltas: Sequence[BenchDelta], settings: GateSettings) -> list[RuleOutcome]:
    """An outcome per rule on a column; a column without an interval fails with its reason."""
    by_column = {delta.column: delta for delta in deltas}
    rules = [rule for rule in settings.rules if isinstance(rule, BenchRule)]
    return [_outcome(rule, by_column.get(rule.column)) for rule in rules]


def _outcome(rule: BenchRule, delta: BenchDelta | None) -> RuleOutcome:
    gain = None if delta is None else delta.least_gain
    if gain is None:
        reason = "was not computed" if delta is None else f"has no interval: {delta.reason or 'too few prompts'}"
        return RuleOutcome(BENCH, rule.column, 0.0, rule.min_gain, False, f"benchmark column {rule.column} {reason}")
    passed = gain >= rule.min_gain
    relation = ">=" if passed else "<"
    detail = f"benchmark column {rule.column}: lower end of the improvement {gain:+.4g} {relation} {rule.min_gain:+.4g}"
    return RuleOutcome(BENCH, rule.column, gain, rule.min_gain, passed, detail)
