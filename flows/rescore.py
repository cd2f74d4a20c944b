"""Committed clips scored again, elsewhere, and compared with the scores that the run has sealed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from avpref.datasets import tables
from avpref.datasets.rows import EvaluationKind
from avpref.domain import Candidate, Prompt
from avpref.flows.run import Run
from avpref.flows.stages.score import score_candidates
from avpref.flows.workers.scorers import sources

STAGE = "reproduce_score"
NETWORK_TOLERANCE = 1e-3
"""Relative, where networks score: clips come in other batches here, and a batch is added up as a whole."""

Answer = tuple[float | None, str]
"""A raw score and its status."""
Key = tuple[str, str]
"""A candidate's id and a metric."""


@dataclass(frozen=True)
class ScoreDifference:
    """A raw score that came out otherwise. ``clip``: ``committed``, or ``made again`` where that clip's bytes differ."""

    candidate_id: str
    metric: str
    clip: str
    recorded: float | None
    now: float | None
    reason: str


@dataclass(frozen=True)
class Rescored:
    """How many scores were compared, and those that differ."""

    compared: int
    differences: tuple[ScoreDifference, ...]


def rescore(
    run: Run,
    kept_bench: Run,
    made_bench: Run,
    kept: Sequence[Candidate],
    made: Sequence[Candidate],
    prompts: list[Prompt],
) -> Rescored:
    """Score the committed clips ``kept`` again in ``kept_bench``, and clips ``made`` otherwise in ``made_bench``."""
    recorded = _recorded(run, {each.candidate_id for each in kept})
    scored = [each for each in kept if any(name == each.candidate_id for name, _ in recorded)]
    for each in scored:
        with suppress(FileNotFoundError):  # then it has no score
            kept_bench.files.commit_once(each.path, run.media.read(each.path))
    again = _scores(kept_bench, scored, prompts)
    differences = [*_differences(run, recorded, again, "committed")]
    otherwise = _scores(
        made_bench, [each for each in made if each.candidate_id in {c.candidate_id for c in scored}], prompts
    )
    of_those = {key: answer for key, answer in recorded.items() if key in otherwise}
    differences += _differences(run, of_those, otherwise, "made again")
    return Rescored(len(recorded), tuple(differences))


def _recorded(run: Run, names: set[str]) -> dict[Key, Answer]:
    """Sealed scores of these candidates: those of the score table, and of the policy's clips those of the evaluation."""
    found: dict[Key, Answer] = {}
    if run.tables.has(tables.EVALUATIONS):
        for row in run.tables.read(tables.EVALUATIONS).to_pylist():
            if row["candidate_id"] in names and row["kind"] == str(EvaluationKind.SCORE):
                found[row["candidate_id"], row["name"]] = row["value"], row["status"]
    if run.tables.has(tables.SCORES):
        scores = run.tables.read(tables.SCORES).select(["candidate_id", "metric", "value", "status"])
        for name, metric, value, status in zip(*scores.to_pydict().values(), strict=True):
            if name in names:
                found[name, metric] = value, status
    return found


def _scores(bench: Run, candidates: Sequence[Candidate], prompts: list[Prompt]) -> dict[Key, Answer]:
    if not candidates:
        return {}
    scored = score_candidates(bench, STAGE, list(candidates), prompts)
    rows = bench.units(tables.SCORES).read(scored.units)[0].to_pylist()
    return {(row["candidate_id"], row["metric"]): (row["value"], row["status"]) for row in rows}


def _differences(
    run: Run, recorded: Mapping[Key, Answer], again: Mapping[Key, Answer], clip: str
) -> Iterator[ScoreDifference]:
    has_networks = any(source.is_network for source in sources(run.settings.scoring))
    tolerance = (run.settings.scoring.canary_tolerance or NETWORK_TOLERANCE) if has_networks else 0.0
    for (name, metric), (value, status) in recorded.items():
        now, status_now = again.get((name, metric), (None, "no score"))
        if status != status_now:
            yield ScoreDifference(name, metric, clip, value, now, f"{status} then, {status_now} now")
        elif value is not None and now is not None and abs(now - value) > tolerance * max(1.0, abs(value)):
            yield ScoreDifference(name, metric, clip, value, now, f"off by {now - value:+.3g}")
