"""Scores the committed clips of a run again in temporary runs and compares them with the sealed scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from avpref.datasets import tables
from avpref.datasets.evidence.judging import NAME_SEPARATOR
from avpref.datasets.rows import EvaluationKind
from avpref.domain import Candidate, Prompt
from avpref.flows.run import Run
from avpref.flows.stages.judge import judge_clips
from avpref.flows.stages.score import score_candidates
from avpref.flows.workers.judges import all_scorers

STAGE = "reproduce_score"
RAW_KINDS = frozenset({str(EvaluationKind.SCORE), str(EvaluationKind.JUDGE)})
NETWORK_TOLERANCE = 1e-3
"""Relative tolerance for scores of networks: clips are scored in other batches here, and results depend on the batch."""

ScoreKey = tuple[str, str]
"""A candidate's id and a metric."""
RawScore = tuple[float | None, str]
"""A raw value and its status."""


@dataclass(frozen=True)
class ScoreDifference:
    """A raw score that differs. ``clip``: ``committed``, or ``made again`` where the clip made again has other bytes."""

    candidate_id: str
    metric: str
    clip: str
    recorded: float | None
    now: float | None
    reason: str


@dataclass(frozen=True)
class Rescored:
    """The number of scores compared, and those that differ."""

    compared: int
    differences: tuple[ScoreDifference, ...]


@dataclass(frozen=True)
class Sandboxes:
    """Temporary runs: one to score copies of the committed clips in, and the one that holds the clips made again."""

    committed: Run
    made_again: Run


def rescore(
    run: Run, sandboxes: Sandboxes, committed: Sequence[Candidate], made: Sequence[Candidate], prompts: list[Prompt]
) -> Rescored:
    """Score the clips ``committed`` again, and the clips ``made`` again with other bytes, and compare both with the run.

    A candidate without sealed scores is left out. Raises the errors of scoring.
    """
    recorded = _recorded(run, {candidate.candidate_id for candidate in committed})
    scored_ids = {candidate_id for candidate_id, _ in recorded}
    scored = [candidate for candidate in committed if candidate.candidate_id in scored_ids]
    for candidate in scored:
        with suppress(FileNotFoundError):  # a missing clip is quarantined and has no score
            sandboxes.committed.files.commit_once(candidate.path, run.media.read(candidate.path))
    judged_ids = {candidate_id for candidate_id, metric in recorded if NAME_SEPARATOR in metric}
    now = _scores(sandboxes.committed, scored, prompts, judged_ids)
    differences = [*_differences(run, recorded, now, "committed")]
    made_scored = [candidate for candidate in made if candidate.candidate_id in scored_ids]
    now_of_made = _scores(sandboxes.made_again, made_scored, prompts, judged_ids)
    recorded_of_made = {key: score for key, score in recorded.items() if key in now_of_made}
    differences += _differences(run, recorded_of_made, now_of_made, "made again")
    return Rescored(len(recorded), tuple(differences))


def _recorded(run: Run, candidate_ids: set[str]) -> dict[ScoreKey, RawScore]:
    """The sealed scores of these candidates: from the score table, and from the evaluation those of policy's clips and of judges."""
    recorded: dict[ScoreKey, RawScore] = {}
    if run.tables.has(tables.EVALUATIONS):
        for row in run.tables.read(tables.EVALUATIONS).to_pylist():
            if row["candidate_id"] in candidate_ids and row["kind"] in RAW_KINDS:
                recorded[row["candidate_id"], row["name"]] = row["value"], row["status"]
    if run.tables.has(tables.SCORES):
        scores = run.tables.read(tables.SCORES).select(["candidate_id", "metric", "value", "status"])
        for candidate_id, metric, value, status in zip(*scores.to_pydict().values(), strict=True):
            if candidate_id in candidate_ids:
                recorded[candidate_id, metric] = value, status
    return recorded


def _scores(
    sandbox: Run, candidates: Sequence[Candidate], prompts: list[Prompt], judged_ids: set[str]
) -> dict[ScoreKey, RawScore]:
    """Scores of the clips in ``sandbox``, and judges' scores of those in ``judged_ids``."""
    if not candidates:
        return {}
    scored = score_candidates(sandbox, STAGE, list(candidates), prompts)
    rows = sandbox.units(tables.SCORES).read(scored.units)[0].to_pylist()
    judged = judge_clips(sandbox, [clip for clip in candidates if clip.candidate_id in judged_ids], prompts)
    rows += judged.rows()
    return {(row["candidate_id"], row["metric"]): (row["value"], row["status"]) for row in rows}


def _differences(
    run: Run, recorded: Mapping[ScoreKey, RawScore], now: Mapping[ScoreKey, RawScore], clip: str
) -> Iterator[ScoreDifference]:
    """The scores whose status or value differs, beyond the tolerance where networks score."""
    has_networks = any(source.is_network for source in all_scorers(run.settings))
    tolerance = (run.settings.scoring.canary_tolerance or NETWORK_TOLERANCE) if has_networks else 0.0
    for (candidate_id, metric), (value, status) in recorded.items():
        value_now, status_now = now.get((candidate_id, metric), (None, "no score"))
        if status != status_now:
            reason = f"{status} then, {status_now} now"
            yield ScoreDifference(candidate_id, metric, clip, value, value_now, reason)
        elif value is not None and value_now is not None and abs(value_now - value) > tolerance * max(1.0, abs(value)):
            yield ScoreDifference(candidate_id, metric, clip, value, value_now, f"off by {value_now - value:+.3g}")
