"""Stage ``evaluate``: samples the policy on held-out prompts with the reference's noise, compares both, and takes the gate's decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from avpref import __version__
from avpref.config.gate_settings import BootstrapProcedure, SequentialProcedure
from avpref.console import say
from avpref.datasets import tables
from avpref.datasets.evidence import sequential as looks
from avpref.datasets.evidence.decision import Decision, DecisionInputs, rewards_of, take
from avpref.datasets.evidence.people import VoteEvidence, requires_votes
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationKind, EvaluationRow, EvaluationSide, QuarantineRow
from avpref.datasets.table_terms import with_base_terms
from avpref.domain import Candidate, Prompt, ScoreStatus, Split
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.flows.bench.bench_sides import bench_sides
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.adapter_lineage import adapter_files, lineage
from avpref.flows.stages.generate import candidates_of, make_candidates
from avpref.flows.stages.judge import Judgement, judge_clips
from avpref.flows.stages.score import score_candidates
from avpref.flows.workers.generator import stated_terms
from avpref.flows.workers.judges import all_scorers, judge_metrics
from avpref.flows.workers.scorers import metrics_of
from avpref.identity import derive_seed, digest
from avpref.registry import decisions
from avpref.registry.vote_evidence import evidence_for
from avpref.storage.documents import quarantine_file
from avpref.storage.score_files import distinct
from avpref.storage.table_readers import read_candidates

STAGE = "evaluate"
NO_SCORES = pd.DataFrame()


@dataclass(frozen=True)
class SideClips:
    """One side's held-out candidates, their scores, and those of judges: frames with the columns of the score table."""

    candidates: list[Candidate]
    scores: pd.DataFrame
    judged: pd.DataFrame = field(default_factory=pd.DataFrame)

    def joined(self, other: SideClips) -> SideClips:
        """The clips of both, as one."""
        scores, judged = _stacked(self.scores, other.scores), _stacked(self.judged, other.judged)
        return SideClips(self.candidates + other.candidates, scores, judged)

    def judged_by(self, judgement: Judgement) -> SideClips:
        """The clips with the judges' scores of them."""
        own = {candidate.candidate_id for candidate in self.candidates}
        return replace(self, judged=judgement.scores[judgement.scores.candidate_id.isin(own)])


def _stacked(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The rows of both; an empty frame is left out, because its columns have no types."""
    frames = [frame for frame in (first, second) if len(frame)]
    return pd.concat(frames) if frames else second


@reporting.stage("evaluate")
def evaluate(run: Run) -> StageCounts:
    """Compare policy and reference of the run and decide; the rows are the held-out prompts compared.

    A sequential procedure stops at the first look that decides; the clips of later looks are not made. Raises CircuitOpen where too
    many clips are quarantined.
    """
    parts = held_out_parts(run)
    sides = {side: SideClips([], NO_SCORES) for side in EvaluationSide}
    prompts: list[Prompt] = []
    quarantined: list[QuarantineRow] = []
    counts: list[ItemCounts] = []
    for part in parts:
        policy, part_quarantined, part_counts = _policy(run, part)
        reference = _reference(run, part)
        judgement = judge_clips(run, reference.candidates + policy.candidates, part)
        counts += part_counts + judgement.counts
        sides = {
            EvaluationSide.REFERENCE: sides[EvaluationSide.REFERENCE].joined(reference.judged_by(judgement)),
            EvaluationSide.POLICY: sides[EvaluationSide.POLICY].joined(policy.judged_by(judgement)),
        }
        prompts, quarantined = prompts + part, quarantined + part_quarantined + judgement.quarantined
        deltas = bench_sides(run, prompts, {side: clips.candidates for side, clips in sides.items()})
        inputs = _inputs(run, prompts, sum(map(len, parts)), sides[EvaluationSide.POLICY])
        inputs = replace(inputs, bench=deltas)
        decision = take(inputs, {side: _wide(clips, inputs) for side, clips in sides.items()})
        say(f"{len(prompts)} of {inputs.num_held_out} held-out prompts compared: {decision.verdict.verdict}")
        if decision.is_final:
            break
    run.documents.write_quarantine(quarantine_file(STAGE), quarantined)
    _write(run, sides, decision)
    return StageCounts(len(prompts), tuple(counts))


def held_out_parts(run: Run) -> list[list[Prompt]]:
    """The held-out prompts, split into the part that each look adds: one part, or several in an order hashed with the run's seed.

    The hashed order makes the prompts of an early look a random sample of all held-out prompts.
    """
    settings = run.settings
    held_out = run.prompts_of(Split.HELD_OUT)
    match settings.evaluation.procedure:
        case BootstrapProcedure():
            return [held_out]
        case SequentialProcedure(look_prompts=size):
            ordered = sorted(held_out, key=lambda prompt: derive_seed("look", settings.run.seed, prompt.prompt_id))
            planned = looks.plan(len(ordered), size, settings.evaluation.confidence)
            ends = [0, *(look.num_prompts for look in planned)]
            return [ordered[start:end] for start, end in pairwise(ends)]


def _votes(run: Run, policy: SideClips) -> VoteEvidence | None:
    """People's votes on the policy's clips, where a rule of the gate asks for them."""
    if not requires_votes(run.settings.evaluation.gate):
        return None
    return evidence_for(run, {candidate.candidate_id for candidate in policy.candidates})


def _inputs(run: Run, prompts: list[Prompt], num_held_out: int, policy_clips: SideClips) -> DecisionInputs:
    norm, policy = run.norm, run.policy
    scale = {metric_norm.metric: metric_norm for metric_norm in norm.metrics}
    return DecisionInputs(
        run_id=run.run_id,
        product_version=__version__,
        settings=run.settings.evaluation,
        bootstrap_seed=run.settings.run.seed,
        norm_id=norm.norm_id,
        metrics=tuple(
            MetricScale(
                metric.name,
                metric.dimension,
                metric.higher_is_better,
                scale[metric.name].mean,
                scale[metric.name].std,
                metric.weight,
            )
            for metric in metrics_of(run.settings.scoring, run.settings.executor)
        ),
        prompts=tuple(prompt.prompt_id for prompt in prompts),
        num_held_out=num_held_out,
        displacement=vars(run.training_summary.displacement),
        meaningless=tuple(source.name for source in all_scorers(run.settings) if not source.terms.is_meaningful),
        policy_hash=policy.hash,
        adapter_hash=policy.adapter_hash,
        reference_hash=run.sft.hash,
        judges=tuple(judge_metrics(run.settings)),
        votes=_votes(run, policy_clips),
    )


def _reference(run: Run, prompts: list[Prompt]) -> SideClips:
    """The reference's side, read from the tables: stages ``generate`` and ``score`` made its clips and scores."""
    prompt_ids = {prompt.prompt_id for prompt in prompts}
    candidates = [candidate for candidate in read_candidates(run.tables) if candidate.prompt_id in prompt_ids]
    ids = pa.array([candidate.candidate_id for candidate in candidates], pa.string())
    scores = [rows.filter(pc.is_in(rows["candidate_id"], ids)) for rows in run.tables.batches(tables.SCORES)]
    return SideClips(candidates, pa.concat_tables(scores).to_pandas())


def _policy(run: Run, prompts: list[Prompt]) -> tuple[SideClips, list[QuarantineRow], list[ItemCounts]]:
    """The policy's side, made and scored now; the rows it quarantined; the counts of its passes."""
    made = make_candidates(run, STAGE, prompts, run.policy)
    candidates = candidates_of(run, made.units)
    scored = score_candidates(run, "evaluate_score", candidates, prompts)
    rows, not_scored = run.units(tables.SCORES).read(scored.units)
    quarantined = run.units(tables.CANDIDATES).read(made.units)[1] + distinct(not_scored)
    return SideClips(candidates, rows.to_pandas()), quarantined, [*made.counts, *scored.counts]


def _wide(side: SideClips, inputs: DecisionInputs) -> pd.DataFrame:
    """Valid raw values as a frame of prompts × metrics (judges' too), NaN where there is none, in the order of ``inputs``."""
    prompt_of = {candidate.candidate_id: candidate.prompt_id for candidate in side.candidates}
    scores = _stacked(side.judged, side.scores)
    valid = scores[scores.status == ScoreStatus.OK]
    table = valid.assign(prompt_id=valid.candidate_id.map(prompt_of)).pivot(
        index="prompt_id", columns="metric", values="value"
    )
    return table.reindex(index=list(inputs.prompts), columns=list(inputs.score_names)).astype(float)


def _write(run: Run, sides: dict[EvaluationSide, SideClips], decision: Decision) -> None:
    inputs = decision.inputs
    rewards = rewards_of(inputs, {side: _wide(clips, inputs) for side, clips in sides.items()})
    rows = list(_rows(sides, rewards, inputs.norm_id))
    content = digest("evaluation", [[row.candidate_id, row.name, row.value] for row in rows])
    rows = [replace(row, evaluation_id="e" + content) for row in rows]
    table = with_base_terms(tables.to_arrow(tables.EVALUATIONS, rows, content), stated_terms(run.settings))
    sealed = run.tables.seal(tables.EVALUATIONS, content, table)
    decision = replace(decision, inputs=replace(inputs, evaluations=sealed.version))
    decisions.seal_decision(run, decision)
    decisions.record_decision(run, decision, lineage(run), adapter_files(run))
    decisions.write_verdict(run, decision)


def _rows(
    sides: dict[EvaluationSide, SideClips], rewards: Mapping[EvaluationSide, pd.DataFrame], norm_id: str
) -> Iterator[EvaluationRow]:
    for side, clips in sides.items():
        by_id = {candidate.candidate_id: candidate for candidate in clips.candidates}
        for kind, scores in ((EvaluationKind.SCORE, clips.scores), (EvaluationKind.JUDGE, clips.judged)):
            for row in scores.itertuples():
                value = row.value if row.status == ScoreStatus.OK else None
                number = (row.metric, value, row.status, row.reason)
                yield _row(by_id[row.candidate_id], side, kind, number, norm_id)
        for candidate in clips.candidates:
            for dimension in rewards[side].columns:
                value = float(rewards[side].at[candidate.prompt_id, dimension])
                state = (value, ScoreStatus.OK, "") if value == value else (None, ScoreStatus.SKIPPED, "no valid score")
                yield _row(candidate, side, EvaluationKind.REWARD, (str(dimension), *state), norm_id)


def _row(
    candidate: Candidate,
    side: EvaluationSide,
    kind: EvaluationKind,
    number: tuple[str, float | None, str, str],
    norm_id: str,
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
