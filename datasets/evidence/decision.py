"""A decision and everything that it was taken from, so that it can be taken again and give the same numbers.

The inputs name the scores that they speak of by the version of the sealed evaluations table; all else is in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from avpref.config.gate_settings import BootstrapProcedure, EvaluationSettings, SequentialProcedure
from avpref.datasets.evidence import evaluation, gate
from avpref.datasets.evidence import sequential as looks
from avpref.datasets.evidence.evaluation import Comparison
from avpref.datasets.rows import Kind, Side
from avpref.domain import PUBLIC_NAME, Dimension, Metric, ScoreStatus
from avpref.errors import InputError, TableError
from avpref.identity import digest

Scores = Mapping[Side, pd.DataFrame]


@dataclass(frozen=True)
class MetricScale:
    """A metric that enters rewards, with mean and standard deviation of the frozen norm."""

    name: str
    dimension: Dimension
    higher_is_better: bool
    mean: float
    std: float


@dataclass(frozen=True)
class Inputs:
    """What a decision depends on. ``prompts``: those that were looked at, in the order in which pairs are resampled.

    ``num_held_out`` is how many there are to look at; ``evaluations`` the version of the table with their scores.
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

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; :func:`inputs_of` reads them back."""
        plain = asdict(self) | {"settings": self.settings.model_dump(mode="json")}
        return plain | {"metrics": [asdict(metric) for metric in self.metrics], "prompts": list(self.prompts)}

    @property
    def hash(self) -> str:
        """Hash of all of it."""
        return digest("decision", self.document())


@dataclass(frozen=True)
class Decision:
    """The verdict with the comparisons that it is about, and whether looking at more prompts could change it."""

    inputs: Inputs
    comparisons: Mapping[Dimension, Comparison]
    verdict: gate.Verdict
    is_final: bool

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
            "evaluation": {PUBLIC_NAME[dimension]: vars(found) for dimension, found in self.comparisons.items()},
            "inputs": self.inputs.document(),
        }


def take(inputs: Inputs, scores: Scores) -> Decision:
    """Decide. ``scores[side]``: ``inputs.prompts`` × metric raw values, NaN where there is none.

    Raises InputError where too little can be compared, or where training measured something that is no number.
    """
    broken = [name for name, value in inputs.displacement.items() if value is not None and not math.isfinite(value)]
    if broken:
        raise InputError(
            f"displacement of {broken[0]} is {inputs.displacement[broken[0]]}", "a number", "lower dpo.optimiser.lr"
        )
    comparisons = _compare(inputs, rewards_of(inputs, scores))
    rules = inputs.settings.gate
    shares = evaluation.unscorable(scores, _metrics(inputs))
    verdict = gate.decide(comparisons, inputs.displacement, rules, inputs.meaningless, shares)
    is_last = len(inputs.prompts) == inputs.num_held_out
    is_final = is_last or verdict.is_promoted or gate.is_hopeless(comparisons, rules)
    return Decision(inputs, comparisons, verdict, is_final)


def rewards_of(inputs: Inputs, scores: Scores) -> dict[Side, pd.DataFrame]:
    """Rewards prompt × dimension of both sides; see :func:`avpref.datasets.evidence.evaluation.rewards`."""
    return evaluation.rewards(scores, _metrics(inputs), {each.name: (each.mean, each.std) for each in inputs.metrics})


def _metrics(inputs: Inputs) -> list[Metric]:
    return [Metric(each.name, "", each.higher_is_better, each.dimension) for each in inputs.metrics]


def _compare(inputs: Inputs, rewards: Mapping[Side, pd.DataFrame]) -> dict[Dimension, Comparison]:
    settings = inputs.settings
    match settings.procedure:
        case BootstrapProcedure():
            bootstrap = evaluation.BootstrapSettings(
                settings.bootstrap_samples, settings.confidence, inputs.bootstrap_seed
            )
            return evaluation.compare(rewards, bootstrap)
        case SequentialProcedure(look_prompts=size):
            planned = looks.plan(inputs.num_held_out, size, settings.confidence)
            look = next(look for look in planned if look.num_prompts == len(inputs.prompts))
            return looks.compare_at(rewards, look)


def scores_of(rows: pd.DataFrame, prompts: Sequence[str], metrics: Sequence[str]) -> Scores:
    """Raw scores per side from rows of the evaluations table, as :func:`take` wants them."""
    valid = rows[(rows.kind == str(Kind.SCORE)) & (rows.status == str(ScoreStatus.OK))]
    return {
        side: valid[valid.side == str(side)]
        .pivot(index="prompt_id", columns="name", values="value")
        .reindex(index=list(prompts), columns=list(metrics))
        .astype(float)
        for side in Side
    }


def inputs_of(document: Mapping[str, Any]) -> Inputs:
    """The inputs in a decision's document. Raises TableError for one that this product did not write."""
    try:
        plain = dict(document["inputs"])
        metrics = [MetricScale(**{**each, "dimension": Dimension(each["dimension"])}) for each in plain["metrics"]]
        return Inputs(
            **plain
            | {
                "settings": EvaluationSettings.model_validate(plain["settings"]),
                "metrics": tuple(metrics),
                "prompts": tuple(plain["prompts"]),
                "meaningless": tuple(plain["meaningless"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"a decision that cannot be read: {error}", "one that this product wrote") from error
