"""Stage ``evaluate``: the policy on held-out prompts with the reference's noise, compared, and put before the gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from avpref.datasets.reward_formula import MetricScale
from avpref.datasets.rows import EvaluationKind, EvaluationRow, EvaluationSide, QuarantineRow
from avpref.domain import Candidate, Dimension, Prompt, ScoreStatus, Split
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.adapter_lineage import adapter_files, lineage
from avpref.flows.stages.generate import candidates_of, make_candidates
from avpref.flows.stages.score import score_candidates
from avpref.flows.workers.scorers import metrics_of, sources
from avpref.identity import derive_seed, digest
from avpref.registry import decisions
from avpref.storage.documents import VERDICT_FILE
from avpref.storage.score_files import distinct
from avpref.storage.table_readers import read_candidates

STAGE = "evaluate"
QUARANTINE_FILE = "quarantine-evaluate.json"
NO_SCORES = pd.DataFrame()


@dataclass(frozen=True)
class SideClips:
    """One side's held-out candidates and their scores, a frame with the columns of the score table."""

    candidates: list[Candidate]
    scores: pd.DataFrame

    def joined(self, other: SideClips) -> SideClips:
        """The clips of both."""
        frames = [frame for frame in (self.scores, other.scores) if len(frame)]
        return SideClips(self.candidates + other.candidates, pd.concat(frames) if frames else other.scores)


@reporting.stage("evaluate")
def evaluate(run: Run) -> StageCounts:
    """Compare policy and reference of the run and decide; the rows are the held-out prompts compared.

    A sequential procedure stops at the first look that decides; what it did not look at is not made.
    """
    parts = held_out_parts(run)
    sides = {side: SideClips([], NO_SCORES) for side in EvaluationSide}
    prompts: list[Prompt] = []
    lost: list[QuarantineRow] = []
    counts: list[ItemCounts] = []
    for part in parts:
        policy, given_up, made = _policy(run, part)
        counts += made
        sides = {
            EvaluationSide.REFERENCE: sides[EvaluationSide.REFERENCE].joined(_reference(run, part)),
            EvaluationSide.POLICY: sides[EvaluationSide.POLICY].joined(policy),
        }
        prompts, lost = prompts + part, lost + given_up
        inputs = _inputs(run, prompts, sum(map(len, parts)))
        decision = take(inputs, {side: _wide(clips, inputs) for side, clips in sides.items()})
        say(f"{len(prompts)} of {inputs.num_held_out} held-out prompts compared: {decision.verdict.verdict}")
        if decision.is_final:
            break
    run.documents.write(QUARANTINE_FILE, [vars(row) for row in lost])
    _write(run, sides, decision)
    return StageCounts(len(prompts), tuple(counts))


def held_out_parts(run: Run) -> list[list[Prompt]]:
    """Held-out prompts in the portions in which they are looked at: all at once, or a look's worth in a hashed order.

    The order is drawn from the run's seed, so that an early look is no worse a sample of the prompts than the whole.
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


def _inputs(run: Run, prompts: list[Prompt], num_held_out: int) -> DecisionInputs:
    norm, policy = run.norm, run.policy
    scale = {found.metric: found for found in norm.metrics}
    return DecisionInputs(
        run_id=run.run_id,
        product_version=__version__,
        settings=run.settings.evaluation,
        bootstrap_seed=run.settings.run.seed,
        norm_id=norm.norm_id,
        metrics=tuple(
            MetricScale(m.name, m.dimension, m.higher_is_better, scale[m.name].mean, scale[m.name].std)
            for m in metrics_of(run.settings.scoring)
        ),
        prompts=tuple(prompt.prompt_id for prompt in prompts),
        num_held_out=num_held_out,
        displacement=vars(run.training_summary.displacement),
        meaningless=tuple(found.name for found in sources(run.settings.scoring) if not found.terms.is_meaningful),
        policy_hash=policy.hash,
        adapter_hash=policy.adapter_hash,
        reference_hash=run.sft.hash,
    )


def _reference(run: Run, prompts: list[Prompt]) -> SideClips:
    """The reference's clips were made and scored with the candidates."""
    wanted = {prompt.prompt_id for prompt in prompts}
    candidates = [candidate for candidate in read_candidates(run.tables) if candidate.prompt_id in wanted]
    ids = pa.array([candidate.candidate_id for candidate in candidates], pa.string())
    scores = [rows.filter(pc.is_in(rows["candidate_id"], ids)) for rows in run.tables.batches(tables.SCORES)]
    return SideClips(candidates, pa.concat_tables(scores).to_pandas())


def _policy(run: Run, prompts: list[Prompt]) -> tuple[SideClips, list[QuarantineRow], list[ItemCounts]]:
    units, made = make_candidates(run, STAGE, prompts, run.policy)
    candidates = candidates_of(run, units)
    scored = score_candidates(run, "evaluate_score", candidates, prompts)
    rows, quarantined = run.units(tables.SCORES).read(scored.units)
    lost = run.units(tables.CANDIDATES).read(units)[1] + distinct(quarantined)
    return SideClips(candidates, rows.to_pandas()), lost, [made, *scored.counts]


def _wide(side: SideClips, inputs: DecisionInputs) -> pd.DataFrame:
    """Prompt × metric of valid raw values, NaN where there is none, in the order of the inputs' prompts."""
    prompt_of = {candidate.candidate_id: candidate.prompt_id for candidate in side.candidates}
    valid = side.scores[side.scores.status == ScoreStatus.OK]
    table = valid.assign(prompt_id=valid.candidate_id.map(prompt_of)).pivot(
        index="prompt_id", columns="metric", values="value"
    )
    return table.reindex(index=list(inputs.prompts), columns=[metric.name for metric in inputs.metrics]).astype(float)


def _write(run: Run, sides: dict[EvaluationSide, SideClips], decision: Decision) -> None:
    inputs = decision.inputs
    rewards = rewards_of(inputs, {side: _wide(clips, inputs) for side, clips in sides.items()})
    rows = list(_rows(sides, rewards, inputs.norm_id))
    content = digest("evaluation", [[row.candidate_id, row.name, row.value] for row in rows])
    rows = [replace(row, evaluation_id="e" + content) for row in rows]
    sealed = run.tables.seal(tables.EVALUATIONS, content, tables.to_arrow(tables.EVALUATIONS, rows, content))
    decision = replace(decision, inputs=replace(inputs, evaluations=sealed.version))
    decisions.seal_decision(run, decision)
    decisions.record_decision(run, decision, lineage(run), adapter_files(run))
    document = decision.document()
    gated = {key: document[key] for key in ("verdict", "reasons", "rules", "decision_id")}
    run.documents.write(VERDICT_FILE, {"evaluation": document["evaluation"], "gate": gated})


def _rows(
    sides: dict[EvaluationSide, SideClips], rewards: Mapping[EvaluationSide, pd.DataFrame], norm_id: str
) -> Iterator[EvaluationRow]:
    for side, clips in sides.items():
        by_id = {candidate.candidate_id: candidate for candidate in clips.candidates}
        for row in clips.scores.itertuples():
            value = row.value if row.status == ScoreStatus.OK else None
            yield _row(
                by_id[row.candidate_id],
                side,
                EvaluationKind.SCORE,
                (row.metric, value, row.status, row.reason),
                norm_id,
            )
        for candidate in clips.candidates:
            for dimension in Dimension:
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
