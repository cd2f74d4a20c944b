"""A gate decision and all its inputs, so that it can be repeated with the same result.

The inputs refer to the scores by the version of the sealed evaluations table and contain everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pandas as pd

from avpref.config.gate_settings import BootstrapProcedure, EvaluationSettings, SequentialProcedure
from avpref.datasets.evidence import evaluation, gate, judging, people, sequential
from avpref.datasets.evidence.bench_deltas import BenchDelta, bench_delta, bench_outcomes
from avpref.datasets.evidence.evaluation import BootstrapSettings, DimensionComparison, PairedDeltas
from avpref.datasets.evidence.judging import JudgeMetric, MetricComparison, Role
from avpref.datasets.evidence.people import VoteEvidence
from avpref.datasets.evidence.sequential import Look
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationKind, EvaluationSide
from avpref.domain import ScoreStatus, public_name
from avpref.errors import InputError, TableError
from avpref.identity import digest

Scores = Mapping[EvaluationSide, pd.DataFrame]


@dataclass(frozen=True)
class DecisionInputs:
    """All inputs of a decision. ``prompts``: the held-out prompts seen so far, in the order in which pairs are resampled.

    ``num_held_out``: number of all held-out prompts. ``evaluations``: version of the sealed table with their scores.
    """

    run_id: str
    product_version: str
    settings: EvaluationSettings
    bootstrap_seed: int
    norm_id: str
    metrics: tuple[MetricScale, ...]
    prompts: tuple[str, ...]
    num_held_out: int
    displacement: Mapping[str, float | None]
    meaningless: tuple[str, ...]
    policy_hash: str
    adapter_hash: str
    reference_hash: str
    evaluations: str = ""
    judges: tuple[JudgeMetric, ...] = ()
    votes: VoteEvidence | None = None
    bench: tuple[BenchDelta, ...] = ()

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; :func:`inputs_of` reads them back. Without judges, votes or a benchmark it has no such key."""
        plain = asdict(self) | {
            "settings": _plain_settings(self.settings),
            "judges": [asdict(judge) for judge in self.judges],
            "bench": [delta.document() for delta in self.bench],
        }
        if not self.settings.judges:
            del plain["judges"]
        if not self.settings.bench.preset:
            del plain["bench"]
        if self.votes is None:
            del plain["votes"]
        return plain | {"metrics": [_plain(metric) for metric in self.metrics], "prompts": list(self.prompts)}

    @property
    def score_names(self) -> tuple[str, ...]:
        """Columns of the scores that :func:`take` needs: the metrics that enter rewards, then those of judges."""
        return (*(metric.name for metric in self.metrics), *(judge.name for judge in self.judges))

    @property
    def hash(self) -> str:
        """Hash of all inputs."""
        return digest("decision", self.document())


def _plain(metric: MetricScale) -> dict[str, Any]:
    """Plain values; without a weight of 1, so that documents and hashes of decisions before weights are what they were."""
    values = asdict(metric)
    return {name: value for name, value in values.items() if name != "weight" or value != 1}


@dataclass(frozen=True)
class Decision:
    """The verdict with its comparisons; ``is_final`` is false where more prompts could change it.

    ``metrics`` are the comparisons of single metrics: those that enter rewards, then those of judges.
    """

    inputs: DecisionInputs
    comparisons: Mapping[str, DimensionComparison]
    verdict: gate.Verdict
    is_final: bool
    metrics: tuple[MetricComparison, ...] = ()

    @property
    def decision_id(self) -> str:
        """Identity; the ``gate_id`` of its rows."""
        return gate.decision_id(self.verdict, self.inputs.hash)

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "decision_id": self.decision_id,
            "verdict": self.verdict.verdict,
            "reasons": self.verdict.reasons,
            "rules": [vars(rule) for rule in self.verdict.rules],
            "evaluation": {
                public_name(dimension): vars(comparison) for dimension, comparison in self.comparisons.items()
            },
            "metrics": [metric.document() for metric in self.metrics],
            "inputs": self.inputs.document(),
        }


def take(inputs: DecisionInputs, scores: Scores) -> Decision:
    """Decide. ``scores[side]``: ``inputs.prompts`` × ``inputs.score_names``, raw values, NaN where there is none.

    Raises InputError where too few pairs can be compared, or where a displacement measured in training is not finite.
    """
    broken = [name for name, value in inputs.displacement.items() if value is not None and not math.isfinite(value)]
    if broken:
        raise InputError(
            f"displacement of {broken[0]} is {inputs.displacement[broken[0]]}", "a number", "lower dpo.optimiser.lr"
        )
    comparisons = _compare(inputs, rewards_of(inputs, scores))
    metrics = _compare_metrics(inputs, scores)
    rules = inputs.settings.gate
    shares = evaluation.unscorable(scores, inputs.metrics)
    rises = {public_name(dimension): comparison for dimension, comparison in comparisons.items()}
    verdict = gate.decide(comparisons, inputs.displacement, rules, inputs.meaningless, shares)
    verdict = verdict.with_rules(judging.outcomes(metrics, rises, rules))
    verdict = verdict.with_rules(bench_outcomes(inputs.bench, rules))
    verdict = verdict.with_rules(people.outcomes(inputs.votes, rules))
    is_last = len(inputs.prompts) == inputs.num_held_out
    is_hopeless = gate.is_hopeless(comparisons, rules) or judging.has_fallen(metrics, rules)
    return Decision(inputs, comparisons, verdict, is_last or verdict.is_promoted or is_hopeless, metrics)


def rewards_of(inputs: DecisionInputs, scores: Scores) -> dict[EvaluationSide, pd.DataFrame]:
    """Rewards prompt × dimension of both sides; see :func:`avpref.datasets.evidence.evaluation.rewards_of_sides`."""
    return evaluation.rewards_of_sides(scores, inputs.metrics)


def _compare(inputs: DecisionInputs, rewards: Mapping[EvaluationSide, pd.DataFrame]) -> dict[str, DimensionComparison]:
    procedure = _procedure(inputs)
    match procedure:
        case BootstrapSettings():
            return evaluation.compare(rewards, procedure)
        case Look():
            return sequential.compare_at(rewards, procedure)


def _compare_metrics(inputs: DecisionInputs, scores: Scores) -> tuple[MetricComparison, ...]:
    """Single metrics: those that enter rewards, then those of judges."""
    procedure = _procedure(inputs)
    selectors = [JudgeMetric(m.name, str(m.dimension), m.higher_is_better, "") for m in inputs.metrics]
    listed = [(metric, Role.SELECTOR) for metric in selectors] + [(judge, Role.JUDGE) for judge in inputs.judges]
    return tuple(judging.compare_metric(scores, metric, role, partial(_interval, procedure)) for metric, role in listed)


def _procedure(inputs: DecisionInputs) -> BootstrapSettings | Look:
    """The procedure of the settings, for the prompts seen so far."""
    settings = inputs.settings
    match settings.procedure:
        case BootstrapProcedure():
            return BootstrapSettings(settings.bootstrap_samples, settings.confidence, inputs.bootstrap_seed)
        case SequentialProcedure(look_prompts=size):
            planned = sequential.plan(inputs.num_held_out, size, settings.confidence)
            return next(look for look in planned if look.num_prompts == len(inputs.prompts))


def _interval(procedure: BootstrapSettings | Look, name: str, pairs: PairedDeltas) -> DimensionComparison:
    match procedure:
        case BootstrapSettings():
            return evaluation.resampled(name, pairs, procedure)
        case Look():
            return sequential.student(pairs, procedure)


def _plain_settings(settings: EvaluationSettings) -> dict[str, Any]:
    """The settings as plain values; without judges or a benchmark, their keys are left out, as decisions before them have none."""
    plain = settings.model_dump(mode="json")
    if not settings.judges:
        del plain["judges"], plain["judge_metrics"], plain["gate"]["judge_margin_sd"]
    if not settings.bench.preset:
        del plain["bench"]
    return plain


def scores_of(rows: pd.DataFrame, prompts: Sequence[str], metrics: Sequence[str]) -> Scores:
    """Raw scores per side from rows of the evaluations table, as :func:`take` takes them; ``metrics``: columns, judges' too."""
    raw = [str(EvaluationKind.SCORE), str(EvaluationKind.JUDGE)]
    valid = rows[rows.kind.isin(raw) & (rows.status == str(ScoreStatus.OK))]
    return {
        side: valid[valid.side == str(side)]
        .pivot(index="prompt_id", columns="name", values="value")
        .reindex(index=list(prompts), columns=list(metrics))
        .astype(float)
        for side in EvaluationSide
    }


def inputs_of(document: Mapping[str, Any]) -> DecisionInputs:
    """The inputs in a decision's document. Raises TableError for one that this product did not write."""
    try:
        plain = dict(document["inputs"])
        metrics = [MetricScale(**metric) for metric in plain["metrics"]]
        return DecisionInputs(
            **plain
            | {
                "settings": EvaluationSettings.model_validate(plain["settings"]),
                "metrics": tuple(metrics),
                "prompts": tuple(plain["prompts"]),
                "meaningless": tuple(plain["meaningless"]),
                "judges": tuple(JudgeMetric(**judge) for judge in plain.get("judges", ())),
                "bench": tuple(bench_delta(delta) for delta in plain.get("bench", ())),
                "votes": VoteEvidence.from_document(plain["votes"]) if "votes" in plain else None,
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"a decision that cannot be read: {error}", "one that this product wrote") from error
