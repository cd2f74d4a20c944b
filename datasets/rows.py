"""Row dataclasses of the tables whose rows are not domain objects, one per table.

Prompts and candidates are rows themselves (:mod:`avpref.domain`). Columns and their order are those of
:mod:`avpref.datasets.tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from avpref.domain import OWN_TERMS, Score, ScoreStatus, Terms


class EvaluationSide(StrEnum):
    """The network that generated an evaluation clip."""

    REFERENCE = "reference"
    POLICY = "policy"


class EvaluationKind(StrEnum):
    """Kind of number in an evaluation row: a metric's raw score, a judge's raw score, or a dimension's reward under ``norm_id``."""

    SCORE = "score"
    JUDGE = "judge"
    REWARD = "reward"


@dataclass(frozen=True)
class ScoreRow:
    """One score with its scorer and its cost: wall milliseconds and GPU seconds of this number."""

    candidate_id: str
    metric: str
    value: float | None
    status: ScoreStatus
    reason: str
    scorer: str
    fingerprint: str
    elapsed_ms: float
    gpu_s: float
    licence: str
    commercial_use: bool
    is_meaningful: bool


@dataclass(frozen=True)
class QuarantineRow:
    """A candidate that a stage could not process after ``attempts`` attempts."""

    candidate_id: str
    stage: str
    error: str
    message: str
    attempts: int


@dataclass(frozen=True)
class EvaluationRow:
    """One number of one held-out clip. ``(evaluation_id, prompt_id, index)`` occurs once per side and name, on one seed.

    Joining the two sides on prompt, index, kind and name gives the paired differences that the bootstrap resamples.
    ``name`` is a metric where ``kind`` is ``score``, ``SCORER/METRIC`` where it is ``judge``, and a dimension where it is ``reward``.
    """

    evaluation_id: str
    prompt_id: str
    index: int
    side: EvaluationSide
    candidate_id: str
    seed: int
    kind: EvaluationKind
    name: str
    value: float | None
    status: ScoreStatus
    reason: str
    norm_id: str


@dataclass(frozen=True)
class GateRow:
    """One rule of a gate decision: measured value, bound, whether it passed. ``verdict`` is that of the decision."""

    gate_id: str
    rule: str
    dimension: str
    value: float
    bound: float
    passed: bool
    verdict: str
    inputs_hash: str
    detail: str


def score_row(
    score: Score, scorer: str, fingerprint: str, elapsed_ms: float, gpu_s: float = 0.0, terms: Terms = OWN_TERMS
) -> ScoreRow:
    """A score as a table row, with its scorer, cost and licence terms."""
    return ScoreRow(
        score.candidate_id,
        score.metric,
        score.value,
        score.status,
        score.reason,
        scorer,
        fingerprint,
        elapsed_ms,
        gpu_s,
        terms.licence,
        terms.commercial_use,
        terms.is_meaningful,
    )
