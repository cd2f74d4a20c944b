"""Stage ``evaluate``: the policy on held-out prompts with the reference's noise, compared, and put before the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from avpref.datasets import evaluation, gate, tables
from avpref.datasets.rows import EvaluationRow, Kind, Side
from avpref.domain import PUBLIC_NAME, Candidate, Dimension, Metric, Prompt, ScoreStatus, Split
from avpref.flows import reporting
from avpref.flows.candidates import make_candidates, read_candidates
from avpref.flows.dpo import policy_network, training_summary
from avpref.flows.pair import read_norm
from avpref.flows.prompts import read_prompts
from avpref.flows.run_folder import RunFolder, open_root
from avpref.flows.score import sealed_candidates
from avpref.flows.score_files import distinct
from avpref.flows.score_stage import score_candidates
from avpref.flows.scorers import metrics_of, sources
from avpref.identity import digest

STAGE = "evaluate"
VERDICT_FILE = "evaluation.json"


@dataclass(frozen=True)
class SideClips:
    """One side's held-out candidates and their scores, a frame with the columns of the score table."""

    candidates: list[Candidate]
    scores: pd.DataFrame


@reporting.stage("evaluate")
def evaluate(run_dir: str) -> int:
    """Compare policy and reference of the run in ``run_dir`` and decide; returns the number of held-out clips compared."""
    folder = open_root(Path(run_dir))
    held_out = [prompt for prompt in read_prompts(folder) if prompt.split == Split.HELD_OUT]
    sides = {Side.REFERENCE: _reference(folder, held_out), Side.POLICY: _policy(folder, held_out)}
    metrics, norm = metrics_of(folder.settings.scoring), read_norm(folder)
    frames = {side: _wide(clips, held_out, metrics) for side, clips in sides.items()}
    scales = {found.metric: (found.mean, found.std) for found in norm.metrics}
    rewards = evaluation.rewards(frames, metrics, scales)
    settings = folder.settings.evaluation
    bootstrap = evaluation.BootstrapSettings(settings.bootstrap_samples, settings.confidence, folder.settings.run.seed)
    comparisons = evaluation.compare(rewards, bootstrap)
    displacement = vars(training_summary(folder).displacement)
    random = [source.name for source in sources(folder.settings.scoring) if not source.terms.is_meaningful]
    verdict = gate.decide(comparisons, displacement, settings.gate, random)
    _write(folder, sides, rewards, comparisons, verdict, norm.norm_id)
    return len(held_out)


def _reference(folder: RunFolder, prompts: Sequence[Prompt]) -> SideClips:
    """The reference's clips were made and scored with the candidates."""
    wanted = {prompt.prompt_id for prompt in prompts}
    candidates = [candidate for candidate in sealed_candidates(folder) if candidate.prompt_id in wanted]
    scores = folder.read(tables.SCORES).to_pandas()
    return SideClips(candidates, scores[scores.candidate_id.isin({candidate.candidate_id for candidate in candidates})])


def _policy(folder: RunFolder, prompts: list[Prompt]) -> SideClips:
    units = make_candidates(folder, STAGE, prompts, policy_network(folder))
    candidates = read_candidates(folder, units)
    scored = score_candidates(folder, "evaluate_score", candidates, prompts)
    rows, quarantined = folder.units(tables.SCORES).read(scored)
    lost = folder.units(tables.CANDIDATES).read(units)[1] + distinct(quarantined)
    folder.write_json("quarantine-evaluate.json", [vars(row) for row in lost])
    return SideClips(candidates, rows.to_pandas())


def _wide(side: SideClips, prompts: Sequence[Prompt], metrics: Sequence[Metric]) -> pd.DataFrame:
    """Prompt × metric of valid raw values, NaN where there is none, in the order of ``prompts``."""
    prompt_of = {candidate.candidate_id: candidate.prompt_id for candidate in side.candidates}
    valid = side.scores[side.scores.status == ScoreStatus.OK]
    table = valid.assign(prompt_id=valid.candidate_id.map(prompt_of)).pivot(
        index="prompt_id", columns="metric", values="value"
    )
    return table.reindex(
        index=[prompt.prompt_id for prompt in prompts], columns=[metric.name for metric in metrics]
    ).astype(float)


def _write(
    folder: RunFolder,
    sides: dict[Side, SideClips],
    rewards: dict[Side, pd.DataFrame],
    comparisons: dict[Dimension, evaluation.Comparison],
    verdict: gate.Verdict,
    norm_id: str,
) -> None:
    rows = list(_rows(sides, rewards, norm_id))
    inputs = digest("evaluation", [[row.candidate_id, row.name, row.value] for row in rows])
    rows = [EvaluationRow(**{**vars(row), "evaluation_id": "e" + inputs}) for row in rows]
    folder.seal(tables.EVALUATIONS, inputs, tables.to_arrow(tables.EVALUATIONS, rows, inputs))
    decisions = tables.to_arrow(tables.GATE_DECISIONS, gate.rows(verdict, inputs), inputs)
    folder.seal(tables.GATE_DECISIONS, digest(inputs, verdict.reasons), decisions)
    compared = {PUBLIC_NAME[dimension]: vars(found) for dimension, found in comparisons.items()}
    rules = [vars(rule) for rule in verdict.rules]
    folder.write_json(
        VERDICT_FILE,
        {"evaluation": compared, "gate": {"verdict": verdict.verdict, "reasons": verdict.reasons, "rules": rules}},
    )


def _rows(sides: dict[Side, SideClips], rewards: dict[Side, pd.DataFrame], norm_id: str) -> Iterator[EvaluationRow]:
    for side, clips in sides.items():
        by_id = {candidate.candidate_id: candidate for candidate in clips.candidates}
        for row in clips.scores.itertuples():
            value = row.value if row.status == ScoreStatus.OK else None
            yield _row(by_id[row.candidate_id], side, Kind.SCORE, (row.metric, value, row.status, row.reason), norm_id)
        for candidate in clips.candidates:
            for dimension in Dimension:
                value = float(rewards[side].at[candidate.prompt_id, dimension])
                state = (value, ScoreStatus.OK, "") if value == value else (None, ScoreStatus.SKIPPED, "no valid score")
                yield _row(candidate, side, Kind.REWARD, (str(dimension), *state), norm_id)


def _row(
    candidate: Candidate, side: Side, kind: Kind, number: tuple[str, float | None, str, str], norm_id: str
) -> EvaluationRow:
    name, value, status, reason = number
    return EvaluationRow(
        evaluation_id="",
        prompt_id=candidate.prompt_id,
        index=candidate.index,
        side=side,
        candidate_id=candidate.candidate_id,
        seed=candidate.seed,
        kind=kind,
        name=name,
        value=value,
        status=ScoreStatus(status),
        reason=reason,
        norm_id=norm_id,
    )
