"""The data of a report: what ``report.html`` and the plots of a run are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from avpref.config.schema import Settings
from avpref.datasets.evidence.evaluation import DimensionComparison
from avpref.datasets.evidence.gate import PROMOTE, RuleOutcome
from avpref.datasets.evidence.judging import HACKING, MetricComparison
from avpref.datasets.evidence.shortcuts import AuditRow
from avpref.datasets.rounds.round_row import RoundRow
from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.vote_results import StudyResult
from avpref.domain import Candidate, Metric, Terms, dimensions_of
from avpref.storage.files import Files


@dataclass(frozen=True)
class StageTime:
    """One stage of one execution: wall time, rows of its result, and items made, already present and reused."""

    name: str
    seconds: float
    rows: int
    made: int = 0
    present: int = 0
    reused: int = 0


@dataclass(frozen=True)
class RewardModel:
    """A reward model that scored the run, and the terms of its weights."""

    name: str
    terms: Terms


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Reference and policy on the same held-out prompts and noise.

    ``clips``: candidate ids, index ``prompt_id``, columns :class:`Side`. ``rewards`` and ``scores``: values, index
    ``prompt_id``, columns (side, dimension) and (side, metric); NaN where a clip has no valid number.
    """

    clips: pd.DataFrame
    rewards: pd.DataFrame
    scores: pd.DataFrame

    @property
    def gain(self) -> pd.Series:
        """Sum over the dimensions of policy − reference, best first; prompts without a reward of some dimension are left out."""
        deltas = self.rewards[EvaluationSide.POLICY] - self.rewards[EvaluationSide.REFERENCE]
        total = deltas.sum(axis=1, skipna=False).dropna().rename("gain").reset_index()
        return total.sort_values(["gain", "prompt_id"], ascending=[False, True]).set_index("prompt_id")["gain"]


@dataclass(frozen=True, eq=False)
class Curves:
    """Metric rows of the two trainings, one row per optimiser step, in order; ``sft`` is empty for given weights."""

    sft: pd.DataFrame
    dpo: pd.DataFrame


@dataclass(frozen=True)
class PreviewPair:
    """Previews of one prompt: mp4 files of the first and the last preview of the training, with the steps after which they were made."""

    prompt_id: str
    first_step: int
    last_step: int
    first: bytes
    last: bytes


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the report shows.

    Frames have the columns of their tables; ``rewards`` adds ``origin``. ``media`` holds the clips under the paths of
    ``candidates``. ``metric_changes`` compares single metrics, those that selected pairs and those of judges; ``prompt_blind`` says
    what the rewards do not compare with the prompt. ``rounds`` are the rounds up to this run, none in the first;
    ``studies`` the results of people's votes.
    """

    run_id: str
    settings: Settings
    media: Files
    metrics: tuple[Metric, ...]
    reward_models: tuple[RewardModel, ...]
    base_terms: Terms
    verdict: str
    rules: tuple[RuleOutcome, ...]
    comparisons: Mapping[str, DimensionComparison]
    held_out: HeldOut
    texts: Mapping[str, str]
    num_train_prompts: int
    candidates: Mapping[str, Candidate]
    rewards: pd.DataFrame
    pairs: pd.DataFrame
    skipped: pd.DataFrame
    excluded: pd.DataFrame
    quarantine: pd.DataFrame
    audit: tuple[AuditRow, ...]
    curves: Curves
    stages: tuple[StageTime, ...]
    origin: tuple[tuple[str, str], ...]
    metric_changes: tuple[MetricComparison, ...] = ()
    prompt_blind: tuple[str, ...] = ()
    previews: tuple[PreviewPair, ...] = ()
    studies: tuple[StudyResult, ...] = ()
    rounds: tuple[RoundRow, ...] = ()

    @property
    def suspicion(self) -> str:
        """The sentence that names suspected reward hacking; empty where there is none."""
        return next((rule.detail for rule in self.rules if rule.rule == HACKING), "")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that the metrics measure."""
        return dimensions_of(self.metrics)

    @property
    def is_promoted(self) -> bool:
        """Whether every rule of the gate passed."""
        return self.verdict == PROMOTE
